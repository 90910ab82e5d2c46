"""The head of a perf.data file: which kind it is, where its sections lie, which attrs it has."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from perfxmm.errors import DamagedInput
from perfxmm.kernel import attr as attr_codec
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.format import (
    EVENT_TYPE_NAME_BYTES,
    FILE_HEADER_BYTES,
    MAGIC,
    MAGIC_OLD,
    PIPE_HEADER_BYTES,
    SECTION,
    SHORT_HEADER_BYTES,
    Feature,
)
from perfxmm.perfdata.magic import check_magic
from perfxmm.perfdata.metadata import GAP_MAGIC, Metadata
from perfxmm.perfdata.swap import swap_attr

# Bounds on what a damaged or hostile header can make us read into memory.
MOST_EVENTS = 1 << 14
_MOST_NAMES = 1 << 16
_MOST_ENTRY_BYTES = 1 << 16
_MOST_FEATURE_BYTES = 16 << 20  # of all of them
_MOST_IDS = 1 << 20  # of all events
_MOST_METADATA_BYTES = 4 << 20
# Of features that are mostly payload only the beginning is kept.
_KEPT_BYTES: dict[int, int] = {
    Feature.TRACING_DATA: 4096, Feature.AUXTRACE: 1 << 20, Feature.BPF_BTF: 4 << 20,
}

ByteOrder = Literal["little", "big"]


class Bytes(Protocol):
    """What is read here: a memory map, or bytes."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice) -> bytes: ...


@dataclass(frozen=True, slots=True)
class AttrEntry:
    """One attr, not yet decoded, its numbers little-endian. offset: byte in the file."""

    data: bytes
    offset: int
    ids: tuple[int, ...]


@dataclass(slots=True)
class FileHead:
    """What the head says, and where things are.

    magic: "PERFILE2", or "PERFFILE" of perf before Linux 3.4. attrs, data, event_types: (offset,
    bytes) as the header says, whether they can be or not. data_start, data_end: what can be read
    of the data. finished: the header was completed. compressed: some records hold others, as far
    as the features say. feature_bodies: bit -> (offset, bytes) in the recording's byte order;
    feature_bytes: bit -> how many there are, which may be more than were kept. failure: why no
    event can be read from it, None where one can, or where events are among the records.
    misplaced: that there can be no data where the header puts them; data_start is where perf would
    have put them.
    """

    pipe: bool
    data_start: int
    data_end: int
    magic: str = MAGIC.decode()
    byte_order: ByteOrder = "little"
    header_bytes: int = FILE_HEADER_BYTES
    attr_entry_bytes: int = 0
    attrs: tuple[int, int] = (0, 0)
    data: tuple[int, int] = (0, 0)
    event_types: tuple[int, int] = (0, 0)
    finished: bool = True
    compressed: bool = False
    entries: list[AttrEntry] = field(default_factory=list)
    feature_bodies: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    feature_bytes: dict[int, int] = field(default_factory=dict)
    tracepoint_names: dict[int, str] = field(default_factory=dict)
    gap_metadata: Metadata | None = None
    failure: DamagedInput | None = None
    misplaced: DamagedInput | None = None

    @property
    def order(self) -> str:
        """The byte order as `struct` has it."""
        return "<" if self.byte_order == "little" else ">"


def read_head(data: Bytes, file: str, report: Callable[[Damage], None]) -> FileHead:
    """The head of a file or spooled pipe, as far as it can be read.

    `report` gets what is wrong with it, but for `FileHead.failure`. Raises DamagedInput for what
    is no perf.data file.
    """
    check_magic(data[0 : len(MAGIC)], file)
    size = len(data)
    magic = data[0 : len(MAGIC)]
    name = (MAGIC_OLD if magic == MAGIC_OLD else MAGIC).decode()
    order = _byte_order(magic, data[8:24])
    if size < PIPE_HEADER_BYTES:
        return _cut_head(data, name, order, _cut("header", file, 0, PIPE_HEADER_BYTES, size))
    header_bytes = int.from_bytes(data[8:16], order)
    if header_bytes == PIPE_HEADER_BYTES:
        return FileHead(True, PIPE_HEADER_BYTES, size, name, order, header_bytes)
    wanted = SHORT_HEADER_BYTES if header_bytes == SHORT_HEADER_BYTES else FILE_HEADER_BYTES
    if size < wanted:
        return _cut_head(data, name, order, _cut("header", file, 0, wanted, size))
    if header_bytes not in (SHORT_HEADER_BYTES, FILE_HEADER_BYTES):
        report(Damage(8, f"the header says that it has {header_bytes} bytes, not {wanted}"))
    sign = "<" if order == "little" else ">"
    entry_bytes, *places = struct.unpack(f"{sign}7Q", data[16:SHORT_HEADER_BYTES])
    attrs, (data_at, data_bytes), types = zip(places[::2], places[1::2], strict=True)
    lost = data_at > size or data_at < wanted
    if lost:
        data_at = _behind_attrs(attrs, wanted, size)
        data_bytes = size - data_at
    head = FileHead(
        False, data_at, min(data_at + data_bytes, size), name, order, header_bytes, entry_bytes,
        attrs, (places[2], places[3]), types,
    )  # fmt: skip
    bits = _feature_bits(data[SHORT_HEADER_BYTES:wanted], order)
    if attrs[1]:
        try:
            head.entries = _entries(data, file, head, report)
        except DamagedInput as error:
            head.failure = error
    _tracepoint_names(data, head, report)
    if lost:
        head.finished = False
        head.misplaced = DamagedInput(
            "the data section lies outside the file", file=file, offset=40,
            field="header.data.offset", wanted_bytes=places[2], available_bytes=size,
        )
        return head
    _overlaps(head, wanted, report)
    table_at = data_at + data_bytes
    if data_bytes == 0 and not _is_table(data, head, bits, table_at):
        # Where the recorder did not live to finish the header, the data go to the file's end.
        head.finished = False
        head.data_end = size
    elif table_at > size:
        head.finished = False
        report(Damage(size, f"the file ends {table_at - size} bytes before its data section does"))
    else:
        _feature_sections(data, bits, table_at, head, report)
    head.gap_metadata = _gap(data, sum(attrs), data_at, report)
    return head


def _cut_head(data: Bytes, name: str, order: ByteOrder, failure: DamagedInput) -> FileHead:
    """What there is of a header that the file ends in: the numbers that are whole."""
    size = len(data)
    raw = data[8 : min(size, SHORT_HEADER_BYTES) // 8 * 8]
    numbers = [int.from_bytes(raw[at : at + 8], order) for at in range(0, len(raw), 8)]
    numbers += [0] * (8 - len(numbers))
    return FileHead(
        False, size, size, name, order, numbers[0], numbers[1], (numbers[2], numbers[3]),
        (numbers[4], numbers[5]), (numbers[6], numbers[7]), finished=False, failure=failure,
    )  # fmt: skip


def _behind_attrs(attrs: tuple[int, int], header_bytes: int, size: int) -> int:
    """Where perf puts the data: behind the attrs, or the header where those are nowhere."""
    after = sum(attrs)
    return after if header_bytes <= after <= size else header_bytes


def _byte_order(magic: bytes, behind: bytes) -> ByteOrder:
    """behind: header size and attr entry size.

    The first magic is no number and reads the same in both orders: there the pipe's header size,
    or the size of an attr entry, can only be sensible in one of them.
    """
    if magic != MAGIC_OLD:
        return "little" if magic == MAGIC else "big"
    if int.from_bytes(behind[:8], "big") == PIPE_HEADER_BYTES:
        return "big"
    little, big = int.from_bytes(behind[8:16], "little"), int.from_bytes(behind[8:16], "big")
    return "big" if big <= _MOST_ENTRY_BYTES < little else "little"


def _feature_bits(raw: bytes, order: ByteOrder) -> int:
    """The bitmap as a number. An array of unsigned long: big-endian ones have two forms.

    perf takes them to be 8 bytes wide where that puts the bit of HOSTNAME, which it always sets,
    into its place, then 4. Files from before that bit have no other feature than the first two.
    """
    if order == "little":
        return int.from_bytes(raw, "little")
    found = [
        int.from_bytes(b"".join(raw[at : at + w][::-1] for at in range(0, len(raw), w)), "little")
        for w in (8, 4)
    ]
    for bits in found:
        if bits >> Feature.HOSTNAME & 1:
            return bits
    return next((bits for bits in found if bits < 1 << Feature.HOSTNAME), 0)


def _entries(
    data: Bytes, file: str, head: FileHead, report: Callable[[Damage], None]
) -> list[AttrEntry]:
    entry_bytes, (at, total) = head.attr_entry_bytes, head.attrs
    if not attr_codec.ATTR_SIZE_VER0 + SECTION.size <= entry_bytes <= _MOST_ENTRY_BYTES:
        raise DamagedInput(
            "the header gives an impossible size for attr entries", file=file, offset=16,
            field="header.attr_size", wanted_bytes=attr_codec.ATTR_SIZE_VER0 + SECTION.size,
            available_bytes=entry_bytes,
        )
    if at > len(data):
        raise DamagedInput(
            "the attrs section lies outside the file", file=file, offset=24,
            field="header.attrs.offset", wanted_bytes=at, available_bytes=len(data),
        )
    if at + total > len(data):
        raise _cut("attrs section", file, at, total, max(0, len(data) - at))
    count = total // entry_bytes
    if not count or count > MOST_EVENTS:
        raise DamagedInput(
            f"the file has {count} events", file=file, offset=32, field="header.attrs.size",
            why="a recording has at least one, and not that many",
        )
    entries, room = [], _MOST_IDS
    for index in range(count):
        begin = at + index * entry_bytes
        raw = data[begin : begin + entry_bytes]
        ids = _ids(data, raw, begin, room, head.order, report)
        room -= len(ids)
        attr = raw[: entry_bytes - SECTION.size]
        if head.byte_order == "big":
            attr = swap_attr(attr)
        entries.append(AttrEntry(attr, begin, ids))
    return entries


def _ids(
    data: Bytes, entry: bytes, begin: int, most: int, order: str, report: Callable[[Damage], None]
) -> tuple[int, ...]:
    # perf writes its whole structure and then the section; a writer with a longer attr than its
    # attr.size says could put it right behind attr.size bytes. Take the place that makes sense.
    said = struct.unpack_from(f"{order}I", entry, 4)[0] or attr_codec.ATTR_SIZE_VER0
    places = [len(entry) - SECTION.size]
    if attr_codec.ATTR_SIZE_VER0 <= said < places[0]:
        places.append(said)
    for place in places:
        at, size = struct.unpack_from(f"{order}QQ", entry, place)
        if at + size <= len(data) and size % 8 == 0 and size // 8 <= most:
            return struct.unpack(f"{order}{size // 8}Q", data[at : at + size])
    report(Damage(begin + places[0], "the ids of an event lie outside the file, or are too many"))
    return ()


def _overlaps(head: FileHead, header_bytes: int, report: Callable[[Damage], None]) -> None:
    """Tells of sections that cannot both be where the header puts them."""
    (attrs_at, attrs_bytes), (data_at, data_bytes) = head.attrs, head.data
    if attrs_bytes and attrs_at < header_bytes:
        report(Damage(24, "the attrs section overlaps the header"))
    if attrs_at < data_at + data_bytes and data_at < attrs_at + attrs_bytes:
        report(Damage(24, "the attrs section overlaps the data section"))


def _tracepoint_names(data: Bytes, head: FileHead, report: Callable[[Damage], None]) -> None:
    """Names that perf before Linux 3.4 kept by tracepoint number (struct perf_trace_event_type)."""
    at, total = head.event_types
    entry = 8 + EVENT_TYPE_NAME_BYTES
    if not total:
        return
    if at + total > len(data) or total > _MOST_NAMES * entry:
        report(Damage(56, "the event types section lies outside the file"))
        return
    for place in range(at, at + total - entry + 1, entry):
        raw = data[place : place + entry]
        (number,) = struct.unpack_from(f"{head.order}Q", raw)
        name = raw[8:].split(b"\0", 1)[0]
        head.tracepoint_names[number] = name.decode("utf-8", "surrogateescape")


def _is_table(data: Bytes, head: FileHead, bits: int, at: int) -> bool:
    """Whether sections of the features stand at `at`. False where there are no features.

    A recorder that was killed may have written the bitmap, but not the table: its data stand
    there.
    """
    raw = data[at : at + SECTION.size * bits.bit_count()]
    if not bits or len(raw) < SECTION.size * bits.bit_count():
        return False
    return all(
        place >= at + len(raw) and place + size <= len(data)
        for place, size in struct.iter_unpack(f"{head.order}QQ", raw)
    )


def _feature_sections(
    data: Bytes, bits: int, at: int, head: FileHead, report: Callable[[Damage], None]
) -> None:
    numbers = [bit for bit in range(bits.bit_length()) if bits >> bit & 1]
    room = _MOST_FEATURE_BYTES
    for index, bit in enumerate(numbers):
        place = at + index * SECTION.size
        raw = data[place : place + SECTION.size]
        if len(raw) < SECTION.size:
            head.finished = False
            report(Damage(place, f"the table of features is cut short at bit {bit}"))
            return
        offset, size = struct.unpack(f"{head.order}QQ", raw)
        if offset + size > len(data):
            head.finished = False
            report(Damage(place, f"feature {bit} of {size} bytes lies outside the file"))
            continue
        kept = min(size, _KEPT_BYTES.get(bit, size))
        if kept > room:
            report(Damage(place, f"feature {bit} of {size} bytes is too large to be read"))
            continue
        room -= kept
        head.feature_bytes[bit] = size
        head.feature_bodies[bit] = (offset, data[offset : offset + kept])
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
        if len(raw) > _MOST_METADATA_BYTES:
            raise ValueError(f"it has {len(raw)} bytes")
        return Metadata.from_json(raw)
    except (ValueError, TypeError, RecursionError) as error:
        report(Damage(at, f"perfxmm's metadata cannot be read: {error}"))
        return None


def _cut(part: str, file: str, offset: int, wanted: int, available: int) -> DamagedInput:
    return DamagedInput(
        "the file is cut off before its first record", file=file, offset=offset, field=part,
        wanted_bytes=wanted, available_bytes=available,
    )
