"""What /proc says of processes and threads. Everything here may vanish while it is read."""

from __future__ import annotations

import os
from pathlib import Path

SIGTRAP_BIT = 1 << 4  # signal 5 in the masks of /proc/PID/status


def threads_of(pid: int) -> tuple[int, ...]:
    """Thread ids of `pid`; empty where it is gone."""
    try:
        return tuple(sorted(int(name) for name in os.listdir(f"/proc/{pid}/task")))  # noqa: PTH208
    except (FileNotFoundError, ProcessLookupError):
        return ()


def status_of(tid: int) -> dict[str, str]:
    """/proc/TID/status by field name; empty where the thread is gone."""
    try:
        text = Path(f"/proc/{tid}/status").read_text("utf-8", "replace")
    except OSError:
        return {}
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def process_of(tid: int) -> int:
    """The thread's process id; `tid` itself where it is gone."""
    return int(status_of(tid).get("Tgid", tid))


def blocks_sigtrap(tid: int) -> bool:
    return bool(int(status_of(tid).get("SigBlk", "0"), 16) & SIGTRAP_BIT)


def raw_command_of(pid: int) -> bytes:
    """comm as the kernel has it; b"" where the process is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
    except OSError:
        return b""


def parent_of(pid: int) -> int:
    return int(status_of(pid).get("PPid", 0))


def open_state(tid: int) -> int:
    """A descriptor for `is_running`; -1 where the thread is gone."""
    try:
        return os.open(f"/proc/{tid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def is_running(fd: int) -> bool:
    """Whether the thread runs or waits for a CPU (state R). False where it is gone."""
    try:
        line = os.pread(fd, 128, 0)
    except OSError:
        return False
    at = line.rfind(b") ")
    return line[at + 2 : at + 3] == b"R"


def has_foreign_privileges(pid: int) -> bool:
    """Whether the program file has a set-user-id or set-group-id bit."""
    try:
        return bool(os.stat(f"/proc/{pid}/exe").st_mode & 0o6000)  # noqa: PTH116
    except OSError:
        return False


def cpu_time_ns(tid: int) -> int:
    """CPU time of the thread, 0 where it is gone or the kernel does not say."""
    try:
        return int(Path(f"/proc/{tid}/schedstat").read_bytes().split()[0])
    except (OSError, IndexError):
        return 0
