"""Formats of tracepoints: where each field lies in the raw data of a sample.

The kernel prints them in `events/SYSTEM/NAME/format` of tracefs, and a recording keeps the text.
Offsets differ from kernel to kernel and build to build, so they are read, never assumed.
Source: f_show in kernel/trace/trace_events.c and Documentation/trace/events.rst, Linux 7.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_FORMAT_BYTES = 1 << 16
_MOST_FIELDS = 256
_NAME = re.compile(rb"^name:[ \t]*(\S+)[ \t]*$", re.M)
_NUMBER = re.compile(rb"^ID:[ \t]*(\d{1,10})[ \t]*$", re.M)
# "	field:__data_loc u8[] xsave;	offset:64;	size:4;	signed:0;"; `signed` since 2.6.33.
_FIELD = re.compile(
    rb"^\s*field:(?P<what>[^;\n]+);\s*offset:(?P<offset>\d{1,7});\s*size:(?P<size>\d{1,7});"
    rb"(?:\s*signed:(?P<signed>[01]);)?",
    re.M,
)
# The name is the last word; an array's length may stand behind it.
_DECLARATION = re.compile(rb"^(?P<type>.*?)\s*\b(?P<name>\w+)\s*(?P<array>\[[^\]]*\])?$", re.S)
_NUMBER_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class TraceField:
    """One field. type: as the kernel prints it, an array's brackets included.

    offset, size_bytes: in the raw data. signed: False where the kernel does not say.
    location: "data" (__data_loc) or "rel" (__rel_loc) where the field is the u32 that says where
    the contents lie: length in the upper, place in the lower 16 bits, counted from the record's
    beginning or from the field's end; "" for a field that is its own contents.
    """

    name: str
    type: str
    offset: int
    size_bytes: int
    signed: bool = False
    location: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it is one integer, so that its bytes are its value."""
        return not self.location and "[" not in self.type and self.size_bytes in _NUMBER_SIZES

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """number: the tracepoint's, as in attr.config and in the raw data's common_type."""

    system: str
    name: str
    number: int
    fields: dict[str, TraceField]

    def lacking(self, names: Iterable[str]) -> tuple[str, ...]:
        """Which of `names` are no field of this format."""
        return tuple(name for name in names if name not in self.fields)


def parse_format(text: bytes, system: str) -> TraceFormat:
    """A format file. Raises ValueError where it has no name, number or fields, or says a field
    twice: what remains could only be guessed at."""
    text = text[:MOST_FORMAT_BYTES]
    name, number = _NAME.search(text), _NUMBER.search(text)
    if name is None or number is None:
        raise ValueError("a tracepoint's format has no name or no number")
    fields: dict[str, TraceField] = {}
    for found in _FIELD.finditer(text.partition(b"\nprint fmt:")[0]):
        field = _field(found)
        if field.name in fields:
            raise ValueError(f"a tracepoint's format has two fields {field.name}")
        if len(fields) >= _MOST_FIELDS:
            raise ValueError(f"a tracepoint's format has more than {_MOST_FIELDS} fields")
        fields[field.name] = field
    if not fields:
        raise ValueError("a tracepoint's format has no fields")
    return TraceFormat(system, name[1].decode("utf-8", "surrogateescape"), int(number[1]), fields)


def _field(found: re.Match[bytes]) -> TraceField:
    said = _DECLARATION.match(found["what"].strip())
    if said is None:
        raise ValueError("a tracepoint's format has a field without a name")
    kind = said["type"].decode("utf-8", "replace").strip()
    location = ""
    for prefix, where in (("__data_loc ", "data"), ("__rel_loc ", "rel")):
        if kind.startswith(prefix):
            location, kind = where, kind.removeprefix(prefix).strip()
    if said["array"] is not None:
        kind += said["array"].decode("utf-8", "replace")
    return TraceField(
        said["name"].decode("ascii", "replace"), kind, int(found["offset"]), int(found["size"]),
        found["signed"] == b"1", location,
    )  # fmt: skip
