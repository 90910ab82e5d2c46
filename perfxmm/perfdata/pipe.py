"""What a pipe-mode recording carries as records where a file has sections.

HEADER_ATTR holds an attr and its ids, HEADER_FEATURE one feature, EVENT_UPDATE a name,
HEADER_BUILD_ID one entry of the build id feature, each whenever the writer knew it.
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
from perfxmm.perfdata.header import AttrEntry

_MOST_EVENTS = 1 << 16
_EVENT_UPDATE_NAME = 2  # PERF_EVENT_UPDATE__NAME
_WANTED = (
    RecordType.HEADER_ATTR, RecordType.HEADER_FEATURE, RecordType.HEADER_BUILD_ID,
    RecordType.EVENT_UPDATE, RecordType.COMPRESSED, RecordType.COMPRESSED2,
)  # fmt: skip


@dataclass(slots=True)
class PipeHead:
    """Collected from all of a stream. names: by event id. build_ids: entries, concatenated.

    of_features: bit -> (offset, bytes); the last one of a bit counts. compressed: how many
    records hold compressed ones.
    """

    entries: list[AttrEntry] = field(default_factory=list)
    feature_bodies: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    build_ids: bytearray = field(default_factory=bytearray)
    compressed: int = 0


def collect(blocks: Iterable[RecordBlock], report: Callable[[Damage], None]) -> PipeHead:
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
        if not ATTR_SIZE_VER0 <= size <= len(body) or len(head.entries) >= _MOST_EVENTS:
            raise ValueError
        ids = body[size : size + (len(body) - size) // 8 * 8]
        head.entries.append(
            AttrEntry(body[:size], offset + 8, struct.unpack(f"<{len(ids) // 8}Q", ids))
        )
    elif kind == RecordType.HEADER_FEATURE:
        (bit,) = struct.unpack_from("<Q", body)
        head.feature_bodies[bit] = (offset + 16, body[8:])
    elif kind == RecordType.HEADER_BUILD_ID:
        head.build_ids += record
    elif kind == RecordType.EVENT_UPDATE:
        what, identifier = struct.unpack_from("<QQ", body)
        if what == _EVENT_UPDATE_NAME:
            raw = body[16:].split(b"\0", 1)[0]
            head.names[identifier] = raw.decode("utf-8", "surrogateescape")
