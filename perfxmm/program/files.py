"""Opens files that a recording names, which may be anything, and may be somebody else's."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Opened(NamedTuple):
    """A regular file, mapped read-only. data: empty where the file is."""

    data: memoryview
    status: os.stat_result


def open_regular(path: Path, *, follow: bool = True) -> Opened:
    """Maps a file. Raises OSError for what is no regular file or cannot be read.

    follow: False refuses a symbolic link.
    """
    # To open a device can do things (a watchdog starts), and a FIFO would hang; O_NONBLOCK for
    # one that appears in between.
    try:
        status = path.stat(follow_symlinks=follow)
    except ValueError as error:  # a zero byte
        raise OSError("not a path") from error
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size == 0:
            return Opened(memoryview(b""), status)
        return Opened(memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)), status)
    finally:
        os.close(descriptor)


def why_not(error: OSError) -> str:
    """An OSError in words, without the path."""
    return error.strerror or str(error)


def owner_of_process(pid: int) -> int | None:
    """User id of a process that is alive, None where there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None


def started_ns(pid: int) -> int | None:
    """When a living process began, in nanoseconds since 1970 (to a tick of 10 ms).

    proc(5): field 22 of /proc/PID/stat, in ticks since boot; the second field may hold blanks.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        ticks = int(text.rpartition(")")[2].split()[19])
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                boot_s = int(line.split()[1])
                return (boot_s + ticks // os.sysconf("SC_CLK_TCK")) * 1_000_000_000
    except (OSError, ValueError, IndexError):
        pass
    return None
