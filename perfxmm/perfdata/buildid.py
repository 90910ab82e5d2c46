"""Build ids of ELF files, from the GNU build id note.

Layout: System V ABI, chapters "ELF Header", "Program Header" and "Note Section"; the note itself
is NT_GNU_BUILD_ID of <elf.h>, glibc 2.36.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

NT_GNU_BUILD_ID = 3
_PT_NOTE = 4
_MOST_HEADERS = 4096
_MOST_NOTE_BYTES = 1 << 20

# read(offset, size) -> bytes, shorter at the end.
Read = Callable[[int, int], bytes]


def build_id_from_notes(notes: bytes, align: int = 4, *, big_endian: bool = False) -> bytes | None:
    """The build id in a run of notes (a PT_NOTE segment, /sys/kernel/notes); None without one."""
    order = ">" if big_endian else "<"
    at = 0
    while at + 12 <= len(notes):
        name_size, desc_size, kind = struct.unpack_from(order + "III", notes, at)
        name_at = at + 12
        desc_at = at + _up(12 + name_size, align)
        at += _up(desc_at - at + desc_size, align)
        if desc_at + desc_size > len(notes):
            return None
        if kind == NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[desc_at : desc_at + desc_size] or None
    return None


def elf_build_id(read: Read) -> bytes | None:
    """The build id of the ELF image that `read` reads; None where it has none or is no ELF."""
    ident = read(0, 64)
    if len(ident) < 52 or not ident.startswith(b"\x7fELF"):
        return None
    wide, big = ident[4] == 2, ident[5] == 2
    order = ">" if big else "<"
    try:
        if wide:
            table, entry, count = struct.unpack_from(order + "Q14xHH", ident, 32)
        else:
            table, entry, count = struct.unpack_from(order + "I10xHH", ident, 28)
        if entry < (56 if wide else 32) or count > _MOST_HEADERS:
            return None
        headers = read(table, entry * count)
        for begin in range(0, len(headers) - entry + 1, entry):
            if struct.unpack_from(order + "I", headers, begin)[0] != _PT_NOTE:
                continue
            if wide:
                offset, size, align = struct.unpack_from(order + "8xQ16xQ8xQ", headers, begin)
            else:
                offset, size, align = struct.unpack_from(order + "4xI8xI8xI", headers, begin)
            notes = read(offset, min(size, _MOST_NOTE_BYTES))
            found = build_id_from_notes(notes, 8 if align == 8 else 4, big_endian=big)
            if found:
                return found
    except struct.error:
        return None
    return None


def file_build_id(fd: int) -> bytes | None:
    """The build id of an open file."""
    return elf_build_id(lambda offset, size: os.pread(fd, size, offset))


def kernel_build_id(path: str = "/sys/kernel/notes") -> bytes | None:
    """The running kernel's build id; None where it cannot be read."""
    try:
        with open(path, "rb") as notes:
            return build_id_from_notes(notes.read(_MOST_NOTE_BYTES))
    except OSError:
        return None


class BuildIdCache:
    """Build ids of files, each read once as long as it stays the same file."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], bytes | None] = {}

    def of(self, path: str, *, ino: int = 0) -> bytes | None:
        """The build id of the file at `path`; None where it cannot be told.

        ino: what inode it has to be, 0 for any. A file that was replaced since it was mapped is
        another program.
        """
        try:
            # NONBLOCK: a mapped device or FIFO must not make us wait.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(fd)
            if ino and status.st_ino != ino:
                return None
            key = (status.st_dev, status.st_ino, status.st_mtime_ns)
            if key not in self._known:
                self._known[key] = file_build_id(fd)
            return self._known[key]
        except OSError:
            return None
        finally:
            os.close(fd)


def _up(value: int, align: int) -> int:
    return -(-value // align) * align
