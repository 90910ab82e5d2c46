"""Recordings made to use up memory, disk or time: what they cost is bounded, and told."""

from __future__ import annotations

import io
import struct
import tracemalloc

import pytest
from backports import zstd
from support import fuzz_seeds as seeds
from support import perfdata_writer as pw
from support.fuzz_targets import EVERY_COLUMN, read_records, read_snapshots

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import M, SimdRequest
from perfxmm.perfdata import expand
from perfxmm.perfdata.metadata import FEATURE_BIT
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

MIB = 1 << 20


def packed_file(*records: bytes) -> bytes:
    return pw.PerfFile(records=list(records), features={27: bytes(20)}).build()


def test_a_bomb_is_stopped_at_its_ratio_and_what_was_before_it_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expand, "ANY_RATIO_BYTES", MIB)
    sound = [pw.comm(1), *[pw.sample(time) for time in range(2, 12)]]
    first = seeds.compressed(b"".join(sound))
    # 1 KiB records of an unknown type: what comes out would be sound.
    bomb = seeds.compressed(pw.record(99, bytes(1016)) * (1 << 17))
    assert len(bomb) < 20_000
    data = packed_file(first, bomb, pw.sample(99))
    reader = Reader(io.BytesIO(data))
    (damage,) = reader.damage
    assert damage.offset == data.index(bomb)
    assert "more than 1000 times as many" in damage.what
    found = read_records(data)
    assert found.samples == 11
    assert found.records < 3 * expand._PIECE_BYTES // 1024
    assert not reader.complete


def test_what_is_small_may_have_any_ratio() -> None:
    data = packed_file(seeds.compressed(pw.record(99) * (2 * MIB)))
    assert len(data) < 5_000
    reader = Reader(io.BytesIO(data))
    assert reader.damage == []
    assert sum(len(block) for block in reader.blocks()) == 2 * MIB


def test_there_is_an_absolute_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand, "MOST_UNPACKED_BYTES", 1000)
    data = packed_file(seeds.compressed(b"".join(seeds.plain_records(100))))
    reader = Reader(io.BytesIO(data))
    (damage,) = reader.damage
    assert "unpack to more than" in damage.what


def test_compressed_records_inside_compressed_ones_are_not_unpacked() -> None:
    inner = seeds.compressed(pw.sample(5))
    for _ in range(50):
        inner = seeds.compressed(inner + pw.sample(6))
    reader = Reader(io.BytesIO(packed_file(inner)))
    types = [int(t) for block in reader.blocks() for t in block.types]
    assert types == [pw.COMPRESSED, pw.SAMPLE]


def test_a_frame_with_a_huge_window_is_named_and_nothing_is_allocated() -> None:
    frame = bytearray(zstd.compress(b"".join(seeds.plain_records(200))))
    # Frame header: no single segment, no content size; the window's exponent is 31 - 10.
    frame[4], frame[5] = 0, 21 << 3
    data = packed_file(pw.sample(1), pw.record(pw.COMPRESSED, bytes(frame)), pw.sample(2))
    reader = Reader(io.BytesIO(data))
    (damage,) = reader.damage
    assert damage.offset == data.index(bytes(frame)) - 8
    assert "too much memory" in damage.what
    assert read_records(data).samples == 2


def peak_bytes(data: bytes) -> dict[str, int]:
    """Peak of what was allocated by Python and numpy in each step."""
    peaks = {}
    tracemalloc.start()
    try:
        reader = Reader(io.BytesIO(data))
        peaks["open"] = tracemalloc.get_traced_memory()[1]
        decoder = Decoder(reader.events)
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        for block in reader.blocks():
            decoder.decode(block, columns=EVERY_COLUMN)
        peaks["decode"] = tracemalloc.get_traced_memory()[1] - base
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        for _ in reader.ordered_blocks():
            pass
        peaks["order"] = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    return peaks


def test_an_attr_that_asks_for_impossible_registers_does_not_widen_columns() -> None:
    absurd = SimdRequest(enabled=1, vec_qwords=0xFFFF, vec_intr=(1 << 64) - 1,
                         pred_qwords=0xFFFF, pred_intr=0xFFFFFFFF)  # fmt: skip
    attr = EventAttr(
        sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.REGS_INTR),
        sample_period=1, flags=int(AttrFlag.SAMPLE_ID_ALL), dialect=M, simd=absurd,
    )  # fmt: skip
    body = struct.pack("<QIIQQ", 1, 1, 1, 1, 0)  # abi 0: no registers
    data = pw.PerfFile(
        attrs=[(attr_codec.encode(attr), (7,))], records=[pw.record(pw.SAMPLE, body)] * 2000
    ).build()  # fmt: skip
    assert read_records(data).samples == 2000
    # 32 registers of 8 qwords and what else a sample has, not 64 of 65,535.
    assert peak_bytes(data)["decode"] < 2000 * 32 * 64 * 3 + 32 * MIB


@pytest.mark.parametrize("count", [1 << 16, 1 << 20, (1 << 32) - 1])
def test_counts_in_features_are_not_believed(count: int) -> None:
    strings = struct.pack("<I", count) + pw.string("a")
    events = struct.pack("<II", count, 104) + pw.attr()
    data = pw.PerfFile(
        records=[pw.sample(1)], features={11: strings, 12: events, 13: strings, 14: strings,
                                          16: strings, 17: strings, 20: strings, 22: strings},
    ).build()  # fmt: skip
    found = read_records(data)
    assert found.samples == 1
    assert {"cmdline", "event_desc"} <= {d.what.split()[1] for d in found.damage}
    assert peak_bytes(data)["open"] < 8 * MIB


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000, b'{"schema":' * 100_000, b"1" * 100_000, b'{"schema":"perfxmm.' + b"1" * 9,
        b'{"schema":"perfxmm.recording/1","xcr0":' + b"9" * 5000 + b"}",
        b'{"schema":"perfxmm.recording/1","classes":[' + b"[" * 99_999,
        b'{"schema":"perfxmm.recording/1","xstate_layout":{"' + b"9" * 5000 + b'":[1,2]}}',
        b'{"schema":"perfxmm.recording/1","probes":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
    ],
)  # fmt: skip
def test_absurd_metadata_is_damage(text: bytes) -> None:
    data = pw.PerfFile(records=[pw.sample(1)], features={FEATURE_BIT: text}).build()
    found = read_snapshots(data)
    assert found.samples == 1
    assert found.error is None


def test_long_and_wild_names_are_escaped_and_bounded() -> None:
    path = bytes(range(1, 256)) * 255
    wild = b"\x1b]0;owned\x07\x9b31m\r\n" * 1000
    mmap2 = struct.pack("<IIQQQIIQQII", 1, 1, 0x1000, 0x1000, 0, 8, 1, 77, 0, 5, 2)
    trailer = struct.pack("<IIQ", 1, 1, 1)
    records = [
        pw.record(pw.MMAP2, mmap2 + path[: 65_535 - 8 - len(mmap2) - 24] + bytes(8) + trailer),
        pw.comm(1, wild[:16_000] + bytes(8)),
    ]
    records = [r[: len(r) // 8 * 8] for r in records]
    records = [r[:6] + struct.pack("<H", len(r)) + r[8:] for r in records]
    update = struct.pack("<II", 1, 104) + pw.attr() + struct.pack("<I", 1)
    name = struct.pack("<I", 1 << 16) + b"e\x1b" * (1 << 15)
    data = pw.PerfFile(
        records=[*records, *[pw.sample(time, ip=0x1010) for time in range(2, 30)]],
        features={12: update + name + struct.pack("<Q", 7)},
    ).build()  # fmt: skip
    found = read_snapshots(data)  # asserts that no control character comes out
    assert found.samples == 28
