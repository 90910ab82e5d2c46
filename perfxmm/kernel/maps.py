"""CPU lists, threads of processes, processes of users."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from pathlib import Path

from perfxmm.errors import TargetError, UsageError

SYSFS = Path("/sys")
PROC = Path("/proc")
# Far above every kernel's NR_CPUS: a list that names more is a typing error, not a machine.
MOST_CPUS = 1 << 16


def parse_cpu_list(text: str, *, where: str = "CPU list") -> tuple[int, ...]:
    """CPUs of a list as the kernel writes them ("0-3,7", also "0-6:2/4"), ascending, no repeats.

    An empty list is an empty tuple. `where` names the place in the UsageError of a bad list.
    """
    cpus: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.strip().split(","))):
        cpus.update(_cpu_range(part, text, where))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list of `cpus`: "0-3,7"."""
    parts: list[str] = []
    ordered = sorted(set(cpus))
    start = 0
    for index, cpu in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != cpu + 1:
            first = ordered[start]
            parts.append(str(first) if first == cpu else f"{first}-{cpu}")
            start = index + 1
    return ",".join(parts)


def online_cpus(sysfs: Path = SYSFS) -> tuple[int, ...]:
    """CPUs that run now. Raises OSError where sysfs is not there."""
    path = sysfs / "devices/system/cpu/online"
    return parse_cpu_list(path.read_text(), where=str(path))


def check_cpus(cpus: Iterable[int], sysfs: Path = SYSFS) -> tuple[int, ...]:
    """`cpus`, all of which run now; UsageError names those that do not."""
    online = online_cpus(sysfs)
    wanted = tuple(cpus)
    missing = sorted(set(wanted) - set(online))
    if missing:
        raise UsageError(
            f"no such CPU here: {format_cpu_list(missing)}",
            next_step=f"CPUs that are online: {format_cpu_list(online)}",
        )
    return wanted


def threads_of(pid: int, proc: Path = PROC) -> tuple[int, ...]:
    """Thread ids of process `pid`, ascending. TargetError where there is no such process."""
    try:
        names = [entry.name for entry in (proc / str(pid) / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        names = []
    threads = tuple(sorted(int(name) for name in names if name.isdigit()))
    if not threads:
        raise TargetError(
            f"there is no process {pid}", next_step="it may have ended; see `ps -e` for those there"
        )
    return threads


def user_id(user: str) -> int:
    """The user id of a name or a number. UsageError where there is no such user."""
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(
            f"there is no user {user!r}", next_step="give a login name or a numeric user id"
        ) from None


def processes_of(uid: int, proc: Path = PROC) -> tuple[int, ...]:
    """Processes whose effective user is `uid`, ascending. Those that end meanwhile are left out."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in status.splitlines():
            # Uid: real effective saved filesystem (proc_pid_status(5))
            if line.startswith("Uid:"):
                if int(line.split()[2]) == uid:
                    found.append(int(entry.name))
                break
    return tuple(sorted(found))


def _cpu_range(part: str, text: str, where: str) -> list[int]:
    span, _, stride = part.partition(":")
    first_text, dash, last_text = span.partition("-")
    try:
        first = _number(first_text)
        last = _number(last_text) if dash else first
        used, group = 1, 1
        if stride:
            used_text, _, group_text = stride.partition("/")
            used, group = _number(used_text), _number(group_text)
        if last < first or last >= MOST_CPUS or not 1 <= used <= group:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{part!r} is not a CPU or a range of CPUs", where=f"{where}: {text.strip()!r}",
            next_step="write CPUs as 0-3,7",
        ) from None  # fmt: skip
    return [cpu for cpu in range(first, last + 1) if (cpu - first) % group < used]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)
