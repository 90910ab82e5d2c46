"""Creating the file of a recording, and what to say where that or writing fails.

Register contents are secrets: mode 0600 whatever the umask, no symbolic link is followed, and an
old file is replaced by a new one instead of being written into.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from perfxmm.errors import OutputError


def is_stream(path: str) -> bool:
    """A device or FIFO that is already there, not through a symbolic link."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def create_output(path: str, *, force: bool) -> tuple[int, str]:
    """(descriptor, temporary name to be renamed to `path`, or "").

    With force a new file takes the old one's name: nobody who had the old file open, or linked to
    it elsewhere, sees register contents.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    name = path
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        there = None
    except (OSError, ValueError) as error:
        raise output_error(path, error) from error
    if there is not None:
        if not stat.S_ISREG(there.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(there.st_mode) else "not a regular file"
            raise OutputError(
                "the recording is not written", where=path, why=f"it is {kind}",
                next_step="name another file with -o; links are not followed because a recording "
                "holds register contents",
            )
        if not force:
            raise output_error(path, FileExistsError(errno.EEXIST, "File exists"))
        name = f"{path}.{os.getpid()}.{time.monotonic_ns():x}.tmp"
    try:
        fd = os.open(name, flags, 0o600)
        os.fchmod(fd, 0o600)
    except OSError as error:
        raise output_error(path, error) from error
    return fd, name if name != path else ""


_REMEDIES = {
    errno.EEXIST: "use --force to replace it, or name another file with -o",
    errno.EACCES: "name a file in a directory that you may write to with -o",
    errno.EROFS: "name a file on a file system that is not mounted read-only with -o",
    errno.ENOENT: "the directory does not exist: create it, or name another file with -o",
    errno.ENOSPC: "free some room, limit the recording with --max-size, or use another disk",
    errno.EDQUOT: "your quota is used up: free some room or use another disk",
    errno.EFBIG: "the file size limit is reached: see ulimit -f, or limit it with --max-size",
    errno.EPIPE: "the reader of the pipe has gone",
}


def output_error(path: str, error: OSError | ValueError) -> OutputError:
    if isinstance(error, ValueError):  # a NUL byte in the path
        return OutputError("the recording cannot be written", where=repr(path), why=str(error))
    number = error.errno or 0
    if number == errno.EEXIST:
        what, why = "the recording is already there", ""
    else:
        what, why = "the recording cannot be written", os.strerror(number)
    return OutputError(
        what, where="stdout" if path == "-" else path, why=why,
        next_step=_REMEDIES.get(number, ""),
    )
