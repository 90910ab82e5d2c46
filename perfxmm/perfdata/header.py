"""The head of a perf.data file: which kind it is, where its sections lie, which attrs it has."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from perfxmm.errors import DamagedInput
from perfxmm.kernel import attr as attr_codec
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.format import (
    FILE_HEADER,
    FILE_HEADER_BYTES,
    MAGIC,
    MAGIC_OLD,
    MAGIC_SWAPPED,
    PIPE_HEADER_BYTES,
    SECTION,
    Feature,
)
from perfxmm.perfdata.metadata import GAP_MAGIC, Metadata

# First bytes -> what such a file is, and what to do about it.
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "unpack it first: gunzip, or zcat FILE | perfxmm VERB -i -"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it first: unzstd, or zstdcat FILE | perfxmm VERB -i -"),
    (b"\xfd7zXZ\0", "xz", "unpack it first: unxz, or xzcat FILE | perfxmm VERB -i -"),
    (b"BZh", "bzip2", "unpack it first: bunzip2, or bzcat FILE | perfxmm VERB -i -"),
    (b"PK\x03\x04", "zip archive", "unpack it first"),
    (b"\x7fELF", "ELF program or library", "name the recording, not the program"),
    (b"{", "JSON text", "name the recording that it was made from"),
    (b"# ", "text, perhaps perf's printout", "name the recording that it was made from"),
)
# Bounds on what a damaged or hostile header can make us read into memory.
_MOST_EVENTS = 1 << 16
_MOST_ENTRY_BYTES = 1 << 16
_MOST_FEATURE_BYTES = 64 << 20
_MOST_IDS = 1 << 20
_MOST_METADATA_BYTES = 64 << 20


class Bytes(Protocol):
    """What is read here: a memory map, or bytes."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice) -> bytes: ...


@dataclass(frozen=True, slots=True)
class AttrEntry:
    """One attr as it stands in the file, not yet decoded. offset: byte in the file."""

    data: bytes
    offset: int
    ids: tuple[int, ...]


@dataclass(slots=True)
class FileHead:
    """Where things are. data_end is what can be read, data_size what the header says.

    finished: the header was completed. feature_bodies: bit -> (offset, bytes).
    compressed: some records hold others, as far as the features say.
    """

    pipe: bool
    data_start: int
    data_end: int
    finished: bool = True
    compressed: bool = False
    entries: list[AttrEntry] = field(default_factory=list)
    feature_bodies: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    gap_metadata: Metadata | None = None


def check_magic(head: bytes, file: str) -> None:
    """Raises DamagedInput with a hint where the first bytes are not those of a perf.data file."""
    if not head:
        raise DamagedInput("the file is empty", file=file, next_step="nothing was recorded in it")
    if head.startswith(MAGIC):
        return
    if head.startswith(MAGIC_SWAPPED):
        raise DamagedInput(
            "the recording was made on a big-endian machine", file=file, offset=0, field="magic",
            why="such recordings are not read",
        )
    if head.startswith(MAGIC_OLD):
        raise DamagedInput(
            "the recording is in the first perf.data format", file=file, offset=0, field="magic",
            why="only PERFILE2, written since Linux 2.6.37, is read",
        )
    for magic, kind, hint in FOREIGN:
        if head.startswith(magic):
            raise DamagedInput(
                "this is not a perf.data file", file=file, why=f"it is a {kind}", next_step=hint
            )
    if MAGIC.startswith(head):
        raise DamagedInput(
            "the file ends inside its header", file=file, offset=0, field="magic",
            wanted_bytes=len(MAGIC), available_bytes=len(head),
        )
    raise DamagedInput(
        "this is not a perf.data file", file=file, offset=0, field="magic",
        why="it does not begin with PERFILE2",
    )


def read_head(data: Bytes, file: str, report: Callable[[Damage], None]) -> FileHead:
    """The head of a file or spooled pipe.

    Raises DamagedInput where nothing could be decoded with what there is; `report` gets
    everything less than that.
    """
    check_magic(data[0 : len(MAGIC)], file)
    size = len(data)
    if size < PIPE_HEADER_BYTES:
        raise _cut("header", file, 0, PIPE_HEADER_BYTES, size)
    header_bytes = struct.unpack_from("<Q", data[8:16])[0]
    if header_bytes == PIPE_HEADER_BYTES:
        return FileHead(True, PIPE_HEADER_BYTES, size)
    if size < FILE_HEADER_BYTES:
        raise _cut("header", file, 0, FILE_HEADER_BYTES, size)
    (
        _, _, entry_bytes, attrs_at, attrs_bytes, data_at, data_bytes, _, _, raw_bits,
    ) = FILE_HEADER.unpack(data[0:FILE_HEADER_BYTES])  # fmt: skip
    bits = int.from_bytes(raw_bits, "little")
    entries = _entries(data, file, entry_bytes, attrs_at, attrs_bytes, report)
    if data_at > size or data_at < FILE_HEADER_BYTES:
        raise DamagedInput(
            "the data section lies outside the file", file=file, offset=32,
            field="header.data.offset", wanted_bytes=data_at, available_bytes=size,
        )
    head = FileHead(False, data_at, min(data_at + data_bytes, size), entries=entries)
    if data_bytes == 0 and not bits:
        # Where the recorder did not live to finish the header, the data go to the file's end.
        head.finished = False
        head.data_end = size
    elif data_at + data_bytes > size:
        head.finished = False
        report(Damage(
            size, f"the file ends {data_at + data_bytes - size} bytes before its data section does"
        ))  # fmt: skip
    else:
        _feature_sections(data, bits, data_at + data_bytes, head, report)
    head.gap_metadata = _gap(data, attrs_at + attrs_bytes, data_at, report)
    return head


def _entries(
    data: Bytes, file: str, entry_bytes: int, at: int, total: int, report: Callable[[Damage], None]
) -> list[AttrEntry]:
    if not attr_codec.ATTR_SIZE_VER0 + SECTION.size <= entry_bytes <= _MOST_ENTRY_BYTES:
        raise DamagedInput(
            "the header gives an impossible size for attr entries", file=file, offset=16,
            field="header.attr_size", wanted_bytes=attr_codec.ATTR_SIZE_VER0 + SECTION.size,
            available_bytes=entry_bytes,
        )
    if at + total > len(data):
        raise _cut("attrs section", file, at, total, max(0, len(data) - at))
    count = total // entry_bytes
    if not count or count > _MOST_EVENTS:
        raise DamagedInput(
            f"the file has {count} events", file=file, offset=24, field="header.attrs.size",
            why="a recording has at least one, and not that many",
        )
    entries = []
    for index in range(count):
        begin = at + index * entry_bytes
        raw = data[begin : begin + entry_bytes]
        ids = _ids(data, raw, begin, report)
        entries.append(AttrEntry(raw[: entry_bytes - SECTION.size], begin, ids))
    return entries


def _ids(
    data: Bytes, entry: bytes, begin: int, report: Callable[[Damage], None]
) -> tuple[int, ...]:
    # perf writes its whole structure and then the section; a writer with a longer attr than its
    # attr.size says could put it right behind attr.size bytes. Take the place that makes sense.
    said = struct.unpack_from("<I", entry, 4)[0] or attr_codec.ATTR_SIZE_VER0
    places = [len(entry) - SECTION.size]
    if attr_codec.ATTR_SIZE_VER0 <= said < places[0]:
        places.append(said)
    for place in places:
        at, size = SECTION.unpack_from(entry, place)
        if at + size <= len(data) and size % 8 == 0 and size // 8 <= _MOST_IDS:
            return struct.unpack(f"<{size // 8}Q", data[at : at + size])
    report(Damage(begin + places[0], "the ids of an event lie outside the file"))
    return ()


def _feature_sections(
    data: Bytes, bits: int, at: int, head: FileHead, report: Callable[[Damage], None]
) -> None:
    numbers = [bit for bit in range(bits.bit_length()) if bits >> bit & 1]
    for index, bit in enumerate(numbers):
        place = at + index * SECTION.size
        raw = data[place : place + SECTION.size]
        if len(raw) < SECTION.size:
            head.finished = False
            report(Damage(place, f"the table of features is cut short at bit {bit}"))
            return
        offset, size = SECTION.unpack(raw)
        if offset + size > len(data) or size > _MOST_FEATURE_BYTES:
            head.finished = False
            report(Damage(place, f"feature {bit} of {size} bytes lies outside the file"))
            continue
        head.feature_bodies[bit] = (offset, data[offset : offset + size])
    head.compressed = Feature.COMPRESSED in head.feature_bodies


def _gap(data: Bytes, at: int, end: int, report: Callable[[Damage], None]) -> Metadata | None:
    """Our own metadata between the attrs and the data; None where another tool wrote the file."""
    front = data[at : at + 16]
    if at + 16 > end or not front.startswith(GAP_MAGIC):
        return None
    length = struct.unpack_from("<Q", front, 8)[0]
    if length > min(end - at - 16, _MOST_METADATA_BYTES):
        report(Damage(at, "perfxmm's metadata is cut short"))
        return None
    return parse_metadata(data[at + 16 : at + 16 + length], at, report)


def parse_metadata(raw: bytes, at: int, report: Callable[[Damage], None]) -> Metadata | None:
    """Metadata from its JSON; None, and a report, where it is not that."""
    try:
        return Metadata.from_json(raw)
    except (ValueError, TypeError, RecursionError) as error:
        report(Damage(at, f"perfxmm's metadata cannot be read: {error}"))
        return None


def _cut(part: str, file: str, offset: int, wanted: int, available: int) -> DamagedInput:
    return DamagedInput(
        "the file is cut off before its first record", file=file, offset=offset, field=part,
        wanted_bytes=wanted, available_bytes=available,
    )
