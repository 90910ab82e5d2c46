"""Whether bytes are the beginning of a recording, and what they are where not."""

from __future__ import annotations

from perfxmm.errors import DamagedInput
from perfxmm.perfdata.format import MAGIC, MAGIC_OLD, MAGIC_SWAPPED

# First bytes -> what such a file is, and what to do about it.
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file", "unpack it first: gunzip, or zcat FILE | perfxmm VERB -i -"),
    (b"\x28\xb5\x2f\xfd", "a zstd file",
     "unpack it first: unzstd, or zstdcat FILE | perfxmm VERB -i -"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first: unxz, or xzcat FILE | perfxmm VERB -i -"),
    (b"\x04\x22\x4d\x18", "an lz4 file",
     "unpack it first: unlz4, or lz4cat FILE | perfxmm VERB -i -"),
    (b"BZh", "a bzip2 file", "unpack it first: bunzip2, or bzcat FILE | perfxmm VERB -i -"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x7fELF", "a program, library or core dump (ELF)", "name the recording, not the program"),
    (b"DTiJ", "a jitdump", "name the recording; it finds the jitdump by its path"),
    (b"JiTD", "a jitdump", "name the recording; it finds the jitdump by its path"),
    (b"\x17\x08Dtraci", "a trace of trace-cmd", "name a recording of perf record"),
    (b"{", "JSON", "name the recording that it was made from"),
    (b"# ", "text, perhaps perf's printout", "name the recording that it was made from"),
)


def check_magic(head: bytes, file: str) -> None:
    """Raises DamagedInput with a hint where the first bytes are not those of a perf.data file."""
    if not head:
        raise DamagedInput("the file is empty", file=file, next_step="nothing was recorded in it")
    if head.startswith((MAGIC, MAGIC_SWAPPED, MAGIC_OLD)):
        return
    for magic, kind, hint in FOREIGN:
        if head.startswith(magic):
            raise DamagedInput(
                "this is not a perf.data file", file=file, why=f"it is {kind}", next_step=hint
            )
    if any(magic.startswith(head) for magic in (MAGIC, MAGIC_SWAPPED, MAGIC_OLD)):
        raise DamagedInput(
            "the file ends inside its header", file=file, offset=0, field="magic",
            wanted_bytes=len(MAGIC), available_bytes=len(head),
        )
    text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    raise DamagedInput(
        "this is not a perf.data file", file=file, offset=0, field="magic",
        why=f"it does not begin with PERFILE2{', it looks like text' if text else ''}",
        next_step="name the recording that it was made from" if text else "",
    )
