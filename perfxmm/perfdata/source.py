"""Where a recording's bytes come from: a file, or a stream put into an unnamed temporary file.

Everything behind this module sees one memory map. A stream is copied to disk because its
metadata may come last and because time order needs to look back; RAM use stays at one chunk.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perfxmm.errors import DamagedInput, PerfxmmError, PermissionDenied, UsageError
from perfxmm.perfdata.blocks import U8
from perfxmm.perfdata.format import MAGIC
from perfxmm.perfdata.magic import check_magic

_CHUNK_BYTES = 1 << 20
_PAGE = mmap.PAGESIZE
# A fault maps neighbouring pages too, no further than one page table reaches (do_fault_around and
# large folios, mm/memory.c, Linux 7.3): 2 MiB on x86-64.
_FAULT_AROUND_BYTES = 2 << 20


class Mapped:
    """A file's bytes, read-only. `view` is uint8 [size]; `release` gives pages back.

    The map keeps the size that the file had when it was opened. To touch what a file has lost
    since then kills the process (SIGBUS): ask `size_now` before.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_SEQUENTIAL)
        self.view: U8 = np.frombuffer(self._map, dtype=np.uint8)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, where: slice) -> bytes:
        return bytes(self._map[where])

    @property
    def size_now(self) -> int:
        """Bytes of the file at this moment."""
        return self._map.size()

    def release(self, begin: int, end: int) -> None:
        """Takes the pages of [begin, end) out of this process; reading brings them back."""
        # What was given back before may have come back with a fault behind it.
        begin = max(0, begin // _PAGE * _PAGE - _FAULT_AROUND_BYTES)
        end = min(-(-end // _PAGE) * _PAGE, self.size)
        if end > begin:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def open_input(source: str | os.PathLike[str] | BinaryIO) -> tuple[Mapped | bytes, str]:
    """(bytes, name for messages). Empty input gives b"". Of a directory its file `data`.

    Raises UsageError where there is no such file, PermissionDenied, DamagedInput for a directory
    that has none and for a stream that does not begin as a recording does.
    """
    if not isinstance(source, str | os.PathLike):
        name = getattr(source, "name", "input")
        return _from_stream(source, str(name)), str(name)
    path = os.fspath(source)
    if path == "-":
        return _from_stream(sys.stdin.buffer, "stdin"), "stdin"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _open_error(path, error) from error
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            inside = Path(os.fsdecode(path)) / "data"
            if not inside.is_file():
                raise DamagedInput(
                    "the recording is a directory", file=path,
                    why="one made with perf record --threads or --kcore has a file named data",
                )
            return open_input(inside)
        if stat.S_ISREG(mode):
            return map_file(fd), path
        with os.fdopen(os.dup(fd), "rb", buffering=0) as stream:
            return _spool(stream, path), path
    finally:
        os.close(fd)


def _from_stream(stream: BinaryIO, name: str) -> Mapped | bytes:
    try:
        fd = stream.fileno()
    except (OSError, io.UnsupportedOperation, AttributeError):
        return _spool(stream, name)
    # A file on stdin, read from its beginning, needs no copy.
    if stat.S_ISREG(os.fstat(fd).st_mode) and stream.tell() == 0:
        return map_file(fd)
    return _spool(stream, name)


def _spool(stream: BinaryIO | io.RawIOBase, name: str) -> Mapped | bytes:
    # Before anything is copied: a stream of something else may have no end.
    head = b""
    while len(head) < len(MAGIC) and (chunk := stream.read(_CHUNK_BYTES)):
        head += chunk
    if not head:
        return b""
    check_magic(head[: len(MAGIC)], name)
    with tempfile.TemporaryFile(prefix="perfxmm-") as spool:  # unnamed and 0600
        try:
            spool.write(head)
            while chunk := stream.read(_CHUNK_BYTES):
                spool.write(chunk)
            spool.flush()
        except OSError as error:
            raise spool_error(error) from error
        return map_file(spool.fileno())


def spool_error(error: OSError) -> PerfxmmError:
    """What to raise where a temporary copy of a recording could not be made."""
    return PerfxmmError(
        "the recording could not be unpacked", where=tempfile.gettempdir(),
        why=os.strerror(error.errno or 0), next_step="point TMPDIR to a directory with more room",
    )


def map_file(fd: int) -> Mapped | bytes:
    """A regular file's bytes; b"" where it is empty."""
    size = os.fstat(fd).st_size
    return Mapped(fd, size) if size else b""


def _open_error(path: str, error: OSError | ValueError) -> PerfxmmError:
    if isinstance(error, ValueError):  # a NUL byte in the path
        return UsageError("the recording cannot be opened", where=repr(path), why=str(error))
    number = error.errno or 0
    if number in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            "the recording cannot be read", call="open", errno=number, where=path,
            next_step="recordings are private to who made them (mode 0600): ask the owner, or "
            "read it as that user",
        )
    return UsageError(
        "the recording cannot be opened", where=path, why=os.strerror(number),
        next_step="check the path" if number == errno.ENOENT else "",
    )
