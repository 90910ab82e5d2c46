"""Time order against a plain model of what perf promises."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.kernel import attr as attr_codec
from perfxmm.perfdata.order import Clock, Orderer, TimePlace, time_place
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.scanner import scan

ROUND = w.record(w.FINISHED_ROUND)


def ordered(data: bytes, **limits: int) -> list[bytes]:
    source = Reader(io.BytesIO(data))
    return [b.record(i) for b in source.ordered_blocks(**limits) for i in range(len(b))]


def sample(number: int, time: int) -> bytes:
    """number makes each record tell apart; sizes vary with it."""
    return w.sample(time, ip=number, extra=bytes(8 * (number % 3)))


def model(rounds: list[list[int]]) -> list[tuple[int, int]]:
    """(number, time) in perf's order: at a round's end everything up to the newest of before."""
    out: list[tuple[int, int]] = []
    waiting: list[tuple[int, int]] = []
    number = limit = newest = 0
    for index, times in enumerate(rounds):
        untimed = [(number + i, t) for i, t in enumerate(times) if t == 0]
        out += untimed
        waiting += [(number + i, t) for i, t in enumerate(times) if t != 0]
        number += len(times)
        newest = max([newest, *times])
        if index < len(rounds) - 1:
            waiting.sort(key=lambda pair: pair[1])
            out += [p for p in waiting if p[1] <= limit]
            waiting = [p for p in waiting if p[1] > limit]
            limit = newest
    waiting.sort(key=lambda pair: pair[1])
    return out + waiting


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=25), min_size=1, max_size=6),
    st.sampled_from([1, 3, 65_536]),
)
def test_rounds_hold_perfs_contract(rounds: list[list[int]], block_records: int) -> None:
    records, number = [], 0
    for index, times in enumerate(rounds):
        for time in times:
            records.append(sample(number, time))
            number += 1
        if index < len(rounds) - 1:
            records.append(ROUND)
    got = [
        struct.unpack_from("<Q8xQ", r, 8)
        for r in ordered(PerfFile(records=records).build(), block_records=block_records)
    ]
    assert got == model(rounds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 70))
def test_without_rounds_order_holds_within_the_window(times: list[int], window: int) -> None:
    data = PerfFile(records=[sample(i, t) for i, t in enumerate(times)]).build()
    source = Reader(io.BytesIO(data))
    got = [
        struct.unpack_from("<Q8xQ", b.record(i), 8)
        for b in source.ordered_blocks(window_records=window)
        for i in range(len(b))
    ]
    assert sorted(got) == sorted(enumerate(times)), "nothing is lost or doubled"
    if len(times) <= window:
        assert got == sorted(enumerate(times), key=lambda pair: pair[1])
        assert source.unordered == 0


def test_late_records_are_counted_and_still_delivered() -> None:
    records = [w.sample(t) for t in (*range(100, 300), 5, 6, 1000)]
    data = np.frombuffer(b"".join(records), np.uint8)
    attr = attr_codec.decode(w.attr())
    orderer = Orderer(data, Clock([attr], [(7,)]), window_records=50)
    one_by_one = scan(data, 0, len(data), report=pytest.fail, block_records=1)
    got = [b.record(i) for b in orderer.run(one_by_one) for i in range(len(b))]
    assert orderer.unordered == 2
    assert sorted(got) == sorted(records)
    assert got.index(w.sample(5)) < len(got) - 20, "a late record does not wait for the end"


def test_the_window_is_bounded_by_bytes_too() -> None:
    records = [w.sample(t) for t in range(200, 0, -1)]
    got = ordered(PerfFile(records=records).build(), window_bytes=1000)
    assert sorted(got) == sorted(records)
    assert ordered(PerfFile(records=records).build()) == records[::-1]


def test_sideband_is_ordered_by_its_trailer() -> None:
    records = [w.sample(10), w.comm(5), w.comm(7, b"b\0\0\0\0\0\0\0"), w.sample(6)]
    expected = [records[1], records[3], records[2], records[0]]
    assert ordered(PerfFile(records=records).build()) == expected


def test_without_sample_id_all_sideband_comes_at_once() -> None:
    plain = w.record(w.COMM, struct.pack("<II", 1, 1) + b"a\0\0\0\0\0\0\0")
    file = PerfFile(attrs=[(w.attr(flags=0), (1,))], records=[w.sample(2), w.sample(1), plain])
    assert ordered(file.build()) == [plain, w.sample(1), w.sample(2)]


def test_without_times_the_file_order_stays() -> None:
    bodies = [struct.pack("<Q", n) for n in (3, 1, 2)]
    records = [w.record(w.SAMPLE, b) for b in bodies]
    file = PerfFile(attrs=[(w.attr(w.IP), (1,))], records=records)
    assert ordered(file.build()) == records


def test_tool_records_and_all_ones_times_come_at_once() -> None:
    tool = w.record(w.EVENT_UPDATE, bytes(24))
    never = w.sample(2**64 - 1)
    records = [w.sample(9), tool, never]
    assert ordered(PerfFile(records=records).build()) == [tool, never, w.sample(9)]


def test_events_with_different_layouts() -> None:
    """Two events, told apart by IDENTIFIER; their times stand in different places."""
    thin, wide = w.IDENTIFIER | w.TIME, w.IDENTIFIER | w.IP | w.TID | w.TIME | w.CPU
    thin_sample = w.record(w.SAMPLE, struct.pack("<QQ", 1, 50))
    wide_sample = w.record(w.SAMPLE, struct.pack("<QQIIQII", 2, 0x99, 1, 1, 40, 0, 0))
    name = struct.pack("<II", 1, 1) + b"a\0\0\0\0\0\0\0"
    thin_comm = w.record(w.COMM, name + struct.pack("<QQ", 45, 1))
    wide_comm = w.record(w.COMM, name + struct.pack("<IIQIIQ", 1, 1, 35, 0, 0, 2))
    records = [thin_sample, wide_sample, thin_comm, wide_comm]
    file = PerfFile(attrs=[(w.attr(thin), (1,)), (w.attr(wide), (2,))], records=records)
    assert ordered(file.build()) == [wide_comm, wide_sample, thin_comm, thin_sample]


@pytest.mark.parametrize(("sample_type", "flags", "expected"), [
    (w.IP | w.TID | w.TIME, w.SAMPLE_ID_ALL, TimePlace(24, 0, 8, 0)),
    (w.IP | w.TID | w.TIME, 0, TimePlace(24, 0, 0, 0)),
    (w.TIME, w.SAMPLE_ID_ALL, TimePlace(8, 0, 8, 0)),
    (w.IP | w.TID, w.SAMPLE_ID_ALL, TimePlace(0, 0, 0, 0)),
    (w.IDENTIFIER | w.IP | w.TID | w.TIME | w.CPU, w.SAMPLE_ID_ALL, TimePlace(32, 8, 24, 8)),
    (w.IP | w.TID | w.TIME | w.ADDR | w.ID | w.STREAM_ID | w.CPU, w.SAMPLE_ID_ALL,
     TimePlace(24, 40, 32, 24)),
])  # fmt: skip
def test_time_place(sample_type: int, flags: int, expected: TimePlace) -> None:
    attr = attr_codec.decode(w.attr(sample_type, flags=flags))
    assert time_place(attr) == expected


def test_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    """24 bytes for each record that waits and three copies of that while they are put in order;
    beside them what finding the records of a block takes. Without rounds all that may wait does.
    """
    times = np.random.default_rng(1).permutation(200_000) + 1
    path = tmp_path / "perf.data"
    path.write_bytes(PerfFile(records=[w.sample(int(time)) for time in times]).build())
    peaks = {}
    for window in (20_000, 80_000):
        source = Reader(path)
        tracemalloc.start()
        try:
            count = sum(
                len(block)
                for block in source.ordered_blocks(window_records=window, block_records=4096)
            )
            peaks[window] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == len(times)
        assert source.unordered > 0
        assert peaks[window] <= 4 * 24 * window + (12 << 20)
    assert peaks[80_000] - peaks[20_000] <= 4 * 24 * 60_000
