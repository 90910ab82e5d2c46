"""Names and formats of tracepoints out of the saved tracing data: TRACING_DATA, feature or record.

perf stores there what tracefs said when the recording was made: files of its own, and the `format`
file of each event that was recorded, by system.

Layout, as tools/perf/util/trace-event-info.c writes it (Linux 6.1): magic, version as a string,
a byte for the byte order, a byte for the size of a long, u32 page size; two named files; a u32
count of formats without a system; a u32 count of systems, each with its name, a u32 count and so
many formats. A named file is a string, u64 size and the bytes; a format is u64 size and the bytes.
What follows (kallsyms, printk formats, command names) is not looked at.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence

from perfxmm.kernel.traceformat import MOST_FORMAT_BYTES, TraceFormat, parse_format
from perfxmm.perfdata.header import Bytes

MAGIC = b"\x17\x08\x44tracing"
_MOST_NAME_BYTES = 256
_MOST_SYSTEMS = 1 << 12
_MOST_FORMATS = 1 << 16  # of all systems
_OWN_FILES = (b"header_page", b"header_event")
# Both stand in the first lines of a format file (kernel/trace/trace_events.c, Linux 6.1).
_HEAD_BYTES = 512
_NAME = re.compile(rb"^name: (\S+)$", re.M)
_NUMBER = re.compile(rb"^ID: (\d{1,10})$", re.M)


def tracepoint_names(data: Bytes, begin: int, end: int) -> dict[int, str]:
    """Tracepoint number (attr.config) -> "system:name", from the tracing data in data[begin:end].

    Raises TracingError where they are not what they should be.
    """
    names: dict[int, str] = {}
    cursor = _Cursor(data, begin, end)
    try:
        for system, place, size in _formats(cursor):
            head = data[place : place + min(size, _HEAD_BYTES)]
            name, number = _NAME.search(head), _NUMBER.search(head)
            if name is not None and number is not None:
                text = b"%s:%s" % (system, name[1])
                names.setdefault(int(number[1]), text.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise TracingError(str(error), cursor.at, names) from None
    return names


def tracepoint_formats(data: Bytes, begin: int, end: int, system: str) -> dict[int, TraceFormat]:
    """Tracepoint number -> its format, of one system's tracepoints; of a number the first.

    Raises TracingError where the tracing data, or a format of that system, cannot be followed.
    """
    formats: dict[int, TraceFormat] = {}
    cursor = _Cursor(data, begin, end)
    try:
        for found, place, size in _formats(cursor):
            if found.decode("utf-8", "surrogateescape") == system:
                text = data[place : place + min(size, MOST_FORMAT_BYTES)]
                parsed = parse_format(text, system)
                formats.setdefault(parsed.number, parsed)
    except ValueError as error:
        raise TracingError(str(error), cursor.at, {}) from None
    return formats


def encode_tracing_data(
    header_page: bytes, header_event: bytes, formats: Mapping[str, Sequence[bytes]],
    *, page_bytes: int = 4096,
) -> bytes:
    """Tracing data with the files of the same names in tracefs, and format files by system.

    Without kallsyms, printk formats and command names: nothing here prints with them.
    """
    out = [MAGIC, b"0.6\0", bytes([0, 8]), struct.pack("<I", page_bytes)]
    for name, text in zip(_OWN_FILES, (header_page, header_event), strict=True):
        out += [name, b"\0", struct.pack("<Q", len(text)), text]
    out.append(struct.pack("<II", 0, len(formats)))
    for system, texts in formats.items():
        out += [system.encode(), b"\0", struct.pack("<I", len(texts))]
        for text in texts:
            out += [struct.pack("<Q", len(text)), text]
    out.append(struct.pack("<IIQ", 0, 0, 0))
    return b"".join(out)


class TracingError(ValueError):
    """Tracing data that cannot be followed any further. offset: where in `data`; so_far: the
    names before that place."""

    def __init__(self, what: str, offset: int, so_far: dict[int, str]) -> None:
        super().__init__(what)
        self.offset = offset
        self.so_far = so_far


class _Cursor:
    """Where reading has come to. order: "little" or "big", as the data themselves say."""

    def __init__(self, data: Bytes, begin: int, end: int) -> None:
        self._data = data
        self.at = begin
        self._end = min(end, len(data))
        self.order = "little"

    def take(self, count: int) -> bytes:
        if count > self._end - self.at:
            raise ValueError("the tracing data are cut short")
        self.at += count
        return self._data[self.at - count : self.at]

    def skip(self, count: int) -> None:
        if count > self._end - self.at:
            raise ValueError("the tracing data are cut short")
        self.at += count

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big" if self.order == "big" else "little")

    def string(self) -> bytes:
        raw = self._data[self.at : min(self.at + _MOST_NAME_BYTES, self._end)]
        length = raw.find(b"\0")
        if length < 0:
            raise ValueError("a string in the tracing data has no end")
        self.at += length + 1
        return raw[:length]


def _formats(cursor: _Cursor) -> Iterator[tuple[bytes, int, int]]:
    """(system, place and size of the format file) of every event."""
    if cursor.take(len(MAGIC)) != MAGIC:
        raise ValueError("the tracing data do not begin with their magic number")
    cursor.string()  # the version; what is read here is alike in all of them
    cursor.order = "big" if cursor.number(1) else "little"
    cursor.skip(1 + 4)
    for name in _OWN_FILES:
        if cursor.string() != name:
            raise ValueError(f"the tracing data have no {name.decode()}")
        cursor.skip(cursor.number(8))
    left = _MOST_FORMATS
    for _ in range(_bounded(cursor.number(4), left)):
        cursor.skip(cursor.number(8))
    for _ in range(_bounded(cursor.number(4), _MOST_SYSTEMS)):
        system = cursor.string()
        count = _bounded(cursor.number(4), left)
        left -= count
        for _ in range(count):
            size = cursor.number(8)
            place = cursor.at
            cursor.skip(size)
            yield system, place, size


def _bounded(count: int, most: int) -> int:
    if count > most:
        raise ValueError(f"the tracing data claim {count} entries")
    return count
