"""Build ids: what ties an address in a recording to one file and no other.

A build id is the descriptor of the ELF note NT_GNU_BUILD_ID (type 3, name "GNU", <elf.h> of
glibc 2.36): 20 bytes from GNU ld, 8 or 16 from other linkers.
"""

from __future__ import annotations

import struct
from pathlib import Path

NT_GNU_BUILD_ID = 3
_OWNER = b"GNU\0"


def from_notes(notes: bytes | memoryview, *, big_endian: bool = False) -> bytes | None:
    """The build id in a run of ELF notes, None where there is none or the notes are damaged.

    notes: the bytes of a PT_NOTE segment, an SHT_NOTE section, or /sys/kernel/notes.
    """
    header = struct.Struct(">III" if big_endian else "<III")
    position = 0
    while position + header.size <= len(notes):
        name_bytes, descriptor_bytes, kind = header.unpack_from(notes, position)
        name_at = position + header.size
        # Both parts are padded to 4 bytes, also in 64-bit files.
        descriptor_at = name_at + ((name_bytes + 3) & ~3)
        end = descriptor_at + descriptor_bytes
        if end > len(notes):
            return None
        if kind == NT_GNU_BUILD_ID and bytes(notes[name_at : name_at + name_bytes]) == _OWNER:
            return bytes(notes[descriptor_at:end]) or None
        position = descriptor_at + ((descriptor_bytes + 3) & ~3)
    return None


def of_running_kernel(root: Path = Path("/")) -> bytes | None:
    """Build id of the kernel under `root`/sys, None where it cannot be read."""
    try:
        return from_notes((root / "sys/kernel/notes").read_bytes())
    except OSError:
        return None


def same(recorded: bytes, found: bytes | None) -> bool:
    """Do both name the same file? Recordings pad shorter build ids to 20 bytes with zeros."""
    if not found:
        return False
    return recorded == found or (
        recorded[: len(found)] == found and not any(recorded[len(found) :])
    )


def archive_paths(directory: Path, build_id: bytes) -> tuple[Path, ...]:
    """Where a file of this build id lies in an archive that is laid out like perf's cache.

    perf-buildid-cache(1) of Linux 6.1 keeps `.build-id/ab/cdef.../elf`; older releases made
    `.build-id/ab/cdef...` a link to the file itself.
    """
    name = build_id.hex()
    entry = directory / ".build-id" / name[:2] / name[2:]
    return (entry / "elf", entry / "vdso", entry)
