"""The lane counts that --redact values leaves, out of the RAW field."""

from __future__ import annotations

import struct

import numpy as np
from support import sample_writer as sw

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.perfdata import stopinfo
from perfxmm.snapshots.decode import Decoder

ATTR = EventAttr(sample_type=int(SampleType.IDENTIFIER | SampleType.IP | SampleType.RAW))
COUNTS = (1, 2, 3, 4, 5, 6, 7, 0xFFFF, 256, 8, 32)
NOTHING = 2**64 - 1


def counted(*, magic: int = stopinfo.STATISTICS_MAGIC, counts: tuple[int, ...] = COUNTS) -> bytes:
    return struct.pack(stopinfo.STATISTICS_FORMAT, magic, 0xE7, 1, 3, *counts)


def decode(*payloads: bytes, stop_info: bool = True):
    records = [sw.sample_record(ATTR, sw.SampleValues(raw=raw)) for raw in payloads]
    return Decoder([sw.event_of(ATTR)], stop_info=stop_info).decode(sw.block_of(records))


def test_sizes_are_what_they_are_said_to_be() -> None:
    assert struct.calcsize(stopinfo.STATISTICS_FORMAT) == stopinfo.STATISTICS_BYTES
    assert (4 + stopinfo.STATISTICS_BYTES) % 8 == 0
    assert len(stopinfo.STATISTICS) == len(COUNTS)


def test_both_payloads_side_by_side() -> None:
    batch = decode(counted(), sw.stop_payload(7, flags=5), counted(counts=(0,) * 11))
    flags = stopinfo.StopFlag
    assert batch.stop_flags.tolist() == [
        flags.PRESENT | flags.INTERRUPT | flags.ASYNC, flags.PRESENT | flags.ASYNC,
        flags.PRESENT | flags.INTERRUPT | flags.ASYNC,
    ]  # fmt: skip
    stats = batch.extra["stats"]
    assert stats.dtype == np.uint64
    assert stats.tolist() == [list(COUNTS), [NOTHING] * 11, [0] * 11]


def test_nothing_is_made_up() -> None:
    for batch in (
        decode(sw.stop_payload(7)), decode(counted(), stop_info=False),
        decode(counted(magic=stopinfo.MAGIC)), decode(counted()[:-8]), decode(b""),
    ):  # fmt: skip
        assert "stats" not in batch.extra
