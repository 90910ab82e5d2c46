"""What this process may do here: the sysctls, capabilities, limits and walls that decide it.

Everything is read below `root`, so that tests can describe a machine as a tree of files. A file
that is missing or unreadable leaves its value None: not known, never a default.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# include/uapi/linux/capability.h, Linux 7.3.
CAPABILITY_BITS = {
    "CAP_DAC_READ_SEARCH": 2, "CAP_IPC_LOCK": 14, "CAP_SYS_MODULE": 16, "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38,
}  # fmt: skip
SECCOMP_NAMES = {0: "off", 1: "strict", 2: "filter"}
_CGROUP_HINTS = ("docker", "kubepods", "containerd", "libpod", "lxc", "crio")
# The whole uid range mapped onto itself: not in a user namespace of one's own.
_INITIAL_UID_MAP = ["0", "0", "4294967295"]
Limits = Callable[[int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides whether the kernel says yes. None: not known.

    capabilities: those of CAPABILITY_BITS that are effective. lockdown: "", "none", "integrity"
    or "confidentiality" ("" where the kernel has no lockdown). containers: what hints at one.
    nofile, memlock: (soft, hard) limits, memlock in bytes, -1 for none. seccomp: SECCOMP_NAMES.
    user_namespace: capabilities count only inside a namespace of this process's own.
    """

    uid: int
    capabilities: frozenset[str] | None = None
    perf_event_paranoid: int | None = None
    perf_event_mlock_kb: int | None = None
    perf_event_max_sample_rate: int | None = None
    ptrace_scope: int | None = None
    lockdown: str = ""
    nofile: tuple[int, int] = (-1, -1)
    memlock: tuple[int, int] = (-1, -1)
    seccomp: int | None = None
    no_new_privs: bool | None = None
    user_namespace: bool | None = None
    containers: tuple[str, ...] = ()

    def has(self, capability: str) -> bool:
        return self.capabilities is not None and capability in self.capabilities

    @property
    def perfmon_capable(self) -> bool:
        """perfmon_capable() of include/linux/capability.h: either capability will do."""
        return self.has("CAP_PERFMON") or self.has("CAP_SYS_ADMIN")

    @property
    def in_container(self) -> bool:
        return bool(self.containers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `doctor --json`."""
        plain = asdict(self)
        plain["capabilities"] = (
            None if self.capabilities is None else sorted(self.capabilities)
        )
        plain["containers"] = list(self.containers)
        plain["nofile"] = list(self.nofile)
        plain["memlock"] = list(self.memlock)
        plain["seccomp"] = None if self.seccomp is None else SECCOMP_NAMES.get(self.seccomp)
        return plain


def survey(
    root: str | Path = "/", *, uid: int | None = None, limits: Limits = resource.getrlimit
) -> Situation:
    """Reads the situation of this process below `root`."""
    base = Path(root)
    status = _status(base / "proc/self/status")
    effective = status.get("CapEff")
    capabilities = None
    if effective is not None:
        bits = int(effective, 16)
        capabilities = frozenset(
            name for name, bit in CAPABILITY_BITS.items() if bits >> bit & 1
        )
    uid_map = _read(base / "proc/self/uid_map").split()
    return Situation(
        uid=os.geteuid() if uid is None else uid,
        capabilities=capabilities,
        perf_event_paranoid=_number(base / "proc/sys/kernel/perf_event_paranoid"),
        perf_event_mlock_kb=_number(base / "proc/sys/kernel/perf_event_mlock_kb"),
        perf_event_max_sample_rate=_number(base / "proc/sys/kernel/perf_event_max_sample_rate"),
        ptrace_scope=_number(base / "proc/sys/kernel/yama/ptrace_scope"),
        lockdown=_chosen(_read(base / "sys/kernel/security/lockdown")),
        nofile=limits(resource.RLIMIT_NOFILE),
        memlock=limits(resource.RLIMIT_MEMLOCK),
        seccomp=_int(status.get("Seccomp")),
        no_new_privs=None if "NoNewPrivs" not in status else status["NoNewPrivs"] == "1",
        user_namespace=uid_map != _INITIAL_UID_MAP if uid_map else None,
        containers=_containers(base),
    )


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What /proc says of another task. None: not known (it may be gone)."""

    exists: bool
    uid: int | None = None
    tracer_pid: int | None = None
    state: str = ""


def task_facts(pid: int, root: str | Path = "/") -> TaskFacts:
    status = _status(Path(root) / f"proc/{pid}/status")
    if not status:
        return TaskFacts(exists=False)
    return TaskFacts(
        exists=True,
        uid=_int(next(iter(status.get("Uid", "").split()), None)),
        tracer_pid=_int(status.get("TracerPid")),
        state=status.get("State", "")[:1],
    )


def _containers(base: Path) -> tuple[str, ...]:
    hints = [f"/{name}" for name in (".dockerenv", "run/.containerenv") if (base / name).exists()]
    kind = _read(base / "run/systemd/container").strip()
    if kind:
        hints.append(f"systemd: {kind[:32]}")
    cgroup = _read(base / "proc/self/cgroup")
    hints += [f"cgroup: {word}" for word in _CGROUP_HINTS if word in cgroup]
    return tuple(hints)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _int(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _number(path: Path) -> int | None:
    return _int(_read(path).strip() or None)


def _status(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path).splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _chosen(text: str) -> str:
    """The word in brackets of "none [integrity] confidentiality"."""
    return text.partition("[")[2].partition("]")[0]
