"""What a pipe-mode recording carries as records where a file has sections.

HEADER_ATTR holds an attr and its ids, HEADER_FEATURE one feature, EVENT_UPDATE a name,
HEADER_EVENT_TYPE one of a tracepoint in old streams, HEADER_BUILD_ID one entry of the build id
feature, each whenever the writer knew it. ID_INDEX says on which CPU and thread an id counts; it
names no id that HEADER_ATTR does not.
Shapes: tools/lib/perf/include/perf/event.h, Linux 7.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from perfxmm.kernel.attr import ATTR_SIZE_VER0
from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import Damage, RecordBlock
from perfxmm.perfdata.format import FEATURE_BITS
from perfxmm.perfdata.header import MOST_EVENTS, AttrEntry

# Bounds on what a damaged or hostile stream can make us remember.
_MOST_NAMES = 1 << 16
_MOST_ATTR_BYTES = 8 << 20  # of all events, ids included
_MOST_BUILD_ID_BYTES = 16 << 20
_EVENT_UPDATE_NAME = 2  # PERF_EVENT_UPDATE__NAME
_WANTED = (
    RecordType.HEADER_ATTR, RecordType.HEADER_EVENT_TYPE, RecordType.HEADER_FEATURE,
    RecordType.HEADER_BUILD_ID, RecordType.HEADER_TRACING_DATA, RecordType.EVENT_UPDATE,
    RecordType.COMPRESSED, RecordType.COMPRESSED2,
)  # fmt: skip


@dataclass(slots=True)
class PipeHead:
    """Collected from all of a stream. names: by event id. build_ids: entries, concatenated.

    feature_bodies: bit -> (offset, bytes); the last one of a bit counts. tracepoint_names: by
    tracepoint number, from perf before Linux 3.4. tracing: where the tracing data are, begin and
    end. compressed: how many records hold compressed ones.
    """

    entries: list[AttrEntry] = field(default_factory=list)
    feature_bodies: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    tracepoint_names: dict[int, str] = field(default_factory=dict)
    build_ids: bytearray = field(default_factory=bytearray)
    tracing: tuple[int, int] | None = None
    compressed: int = 0
    attr_bytes: int = 0


def collect(blocks: Iterable[RecordBlock], report: Callable[[Damage], None]) -> PipeHead:
    """What the records of `blocks` say, numbers in them little-endian."""
    head = PipeHead()
    for block in blocks:
        for row in np.flatnonzero(np.isin(block.types, _WANTED)):
            kind = int(block.types[row])
            if kind in (RecordType.COMPRESSED, RecordType.COMPRESSED2):
                head.compressed += 1
                continue
            offset = block.file_base + int(block.offsets[row])
            try:
                _take(head, kind, block.record(int(row)), offset)
            except (struct.error, ValueError):
                size, name = int(block.sizes[row]), RecordType(kind).name
                report(Damage(offset, f"a {name} record of {size} bytes makes no sense"))
    return head


def _take(head: PipeHead, kind: int, record: bytes, offset: int) -> None:
    body = record[8:]
    if kind == RecordType.HEADER_ATTR:
        size = struct.unpack_from("<I", body, 4)[0] or ATTR_SIZE_VER0
        head.attr_bytes += len(body)
        if (
            not ATTR_SIZE_VER0 <= size <= len(body) or len(head.entries) >= MOST_EVENTS
            or head.attr_bytes > _MOST_ATTR_BYTES
        ):
            raise ValueError
        ids = body[size : size + (len(body) - size) // 8 * 8]
        head.entries.append(
            AttrEntry(body[:size], offset + 8, struct.unpack(f"<{len(ids) // 8}Q", ids))
        )
    elif kind == RecordType.HEADER_FEATURE:
        (bit,) = struct.unpack_from("<Q", body)
        if bit >= FEATURE_BITS:
            raise ValueError
        head.feature_bodies[bit] = (offset + 16, body[8:])
    elif kind == RecordType.HEADER_BUILD_ID:
        if len(head.build_ids) + len(record) > _MOST_BUILD_ID_BYTES:
            raise ValueError
        head.build_ids += record
    elif kind == RecordType.HEADER_EVENT_TYPE:
        _name(head.tracepoint_names, struct.unpack_from("<Q", body)[0], body[8:])
    elif kind == RecordType.HEADER_TRACING_DATA:
        begin = offset + len(record)
        head.tracing = begin, begin + struct.unpack_from("<I", body)[0]
    elif kind == RecordType.EVENT_UPDATE:
        what, identifier = struct.unpack_from("<QQ", body)
        if what == _EVENT_UPDATE_NAME:
            _name(head.names, identifier, body[16:])


def _name(names: dict[int, str], number: int, raw: bytes) -> None:
    if len(names) >= _MOST_NAMES and number not in names:
        raise ValueError
    names[number] = raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
