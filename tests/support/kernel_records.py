"""Records as a kernel wrote them into its rings, taken out of recordings beside the checkout."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.ring import walk

FIRST_TOOL_RECORD = 64


@dataclass(frozen=True)
class Made:
    """One event's attr and id, and the kernel-made records of the file (no tool records)."""

    attr: EventAttr
    identifier: int
    records: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        return b"".join(self.records)

    @property
    def samples(self) -> tuple[bytes, ...]:
        return tuple(one for one in self.records if kind_of(one) == 9)


def kind_of(record: bytes) -> int:
    return int(struct.unpack_from("<I", record)[0])


def misc_of(record: bytes) -> int:
    return int(struct.unpack_from("<H", record, 4)[0])


def data_section(raw: bytes) -> bytes:
    offset, size = struct.unpack_from("<QQ", raw, 40)
    return raw[offset : offset + size]


def kernel_records(path: Path) -> Made:
    raw = path.read_bytes()
    entry, table = struct.unpack_from("<QQ", raw, 16)
    attr = attrs.decode(raw[table : table + entry - 16])
    ids_at, ids_size = struct.unpack_from("<QQ", raw, table + entry - 16)
    identifier = struct.unpack_from("<Q", raw, ids_at)[0] if ids_size else 0
    data = data_section(raw)
    records = tuple(
        one for offset, size in walk(data)
        for one in (data[offset : offset + size],)
        if kind_of(one) < FIRST_TOOL_RECORD
    )  # fmt: skip
    return Made(attr, identifier, records)
