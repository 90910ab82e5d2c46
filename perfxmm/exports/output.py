"""Where exports go: standard output, or a file that only its owner can read."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from perfxmm.errors import OutputError


@contextmanager
def open_output(path: str, *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write to; "-" is standard output.

    A new file has mode 0600, and the last part of the path is never followed as a symbolic link.
    A file that is there is refused unless `force`; devices and pipes are written to as they are.
    Raises OutputError, also for what goes wrong while writing (a full disk); what was written
    until then stays.
    """
    if path == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    file = os.fdopen(_open(path, force), "wb")
    try:
        yield file
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:  # some other file's trouble
            raise
        raise OutputError(
            "the export could not be written", where=path, why=error.strerror or str(error),
            next_step="What was written so far is in the file.",
        ) from None
    finally:
        # Closing tries once more to write what did not fit.
        with suppress(OSError):
            file.close()


def _open(path: str, force: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if not _is_stream(path):
            flags |= 0 if force else os.O_EXCL
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise OutputError(
            "the output cannot be opened", where=path, why=_why(error),
            next_step="--force overwrites it" if error.errno == errno.EEXIST else "",
        ) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        # Secrets may come: narrow an old file's mode before the first byte is in it.
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
    return descriptor


def _is_stream(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed"
    return error.strerror or str(error)
