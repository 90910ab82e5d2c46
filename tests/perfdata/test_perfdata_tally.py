"""The pass that only counts: each number beside one that was counted record by record."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as pw
from support.sample_writer import block_of

from perfxmm.kernel import attr as attrs
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.tally import MOST_TYPES, Span, Tally

FULL = pw.IP | pw.TID | pw.TIME | pw.ID | pw.CPU
ALL_ONES = 2**64 - 1

whole = st.integers(0, 2**64 - 1)
times = st.sampled_from([0, ALL_ONES, 1, 2, 2**63]) | st.integers(1, 1000)
small = st.integers(0, 3)
names = st.sampled_from([b"a", b"b", b"long-name-here"])
ids = st.sampled_from([0, 7, 8, 9, 77])


def made(
    *layouts: int, numbers: tuple[tuple[int, ...], ...] = ((7,),)
) -> tuple[Tally, list[Damage]]:
    found: list[Damage] = []
    decoded = [attrs.decode(pw.attr(layout)) for layout in layouts]
    return Tally(decoded, numbers, found.append), found


def full_sample(time: int, pid: int, tid: int, number: int, cpu: int) -> bytes:
    """IP, TID, TIME, ID, CPU."""
    return pw.record(pw.SAMPLE, struct.pack("<QIIQQII", 1, pid, tid, time, number, cpu, 0))


sample = st.tuples(times, small, st.integers(0, 5) | st.just(2**31), ids, small)


@settings(max_examples=60, deadline=None)
@given(st.lists(sample | st.none(), max_size=40), st.booleans())
def test_samples_are_counted_as_one_by_one(
    rows: list[tuple[int, int, int, int, int] | None], odd: bool
) -> None:
    """Samples of two events among other records; `odd`: at places that no word begins at."""
    tally, damage = made(FULL, FULL, numbers=((7, 8), (9,)))
    records, samples = [], []
    for row in rows:
        if row is None:
            records.append(pw.record(200, b"\0" * 16))
            continue
        records.append(full_sample(*row))
        samples.append(row)
    tally.add(block_of(records, before=b"\0" * 2 if odd else b""))
    event = {0: 0, 7: 0, 8: 0, 9: 1, 77: -1}
    assert +tally.samples == Counter(event[number] for _, _, _, number, _ in samples)
    signed = [(pid, tid - (tid >> 31 << 32)) for _, pid, tid, _, _ in samples]
    assert +tally.threads == Counter(signed)
    assert +tally.cpus == Counter(cpu for *_, cpu in samples)
    real = [time for time, *_ in samples if time not in (0, ALL_ONES)]
    assert tally.sample_time == Span(min(real, default=None), max(real, default=None))
    assert tally.records[9] == len(samples)
    assert tally.records[200] == len(rows) - len(samples)
    wrong = [row for row in samples if row[3] == 77]
    assert [d.what for d in damage] == ["the sample's id is no event's"] * len(wrong)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(times, st.integers(1, 3), names), max_size=30))
def test_the_last_name_in_the_file_is_kept(rows: list[tuple[int, int, bytes]]) -> None:
    tally, _ = made(pw.IP | pw.TID | pw.TIME)
    records = [
        pw.record(pw.COMM, struct.pack("<II", 1, tid) + name.ljust(16, b"\0")
                  + struct.pack("<IIQ", 1, tid, time))
        for time, tid, name in rows
    ]  # fmt: skip
    tally.add(block_of(records))
    assert tally.comms == {tid: (1, name) for _, tid, name in rows}
    real = [time for time, *_ in rows if time not in (0, ALL_ONES)]
    assert tally.time == Span(min(real, default=None), max(real, default=None))
    assert tally.sample_time == Span()


@given(st.lists(whole, max_size=10))
def test_losses_do_not_overflow(counts: list[int]) -> None:
    tally, _ = made(pw.IP | pw.TID | pw.TIME)
    end = struct.pack("<IIQ", 1, 1, 1)
    tally.add(block_of(
        [pw.record(pw.LOST, struct.pack("<QQ", 7, n) + end) for n in counts]
        + [pw.record(13, struct.pack("<Q", n) + end) for n in counts]
    ))  # fmt: skip
    assert tally.lost_records == tally.lost_samples == sum(counts)


def test_events_of_different_layouts() -> None:
    """The second event's samples have no time; both have the id in the same word."""
    named = pw.IDENTIFIER | pw.IP
    tally, damage = made(named | pw.TID | pw.TIME, named | pw.CPU, numbers=((7,), (8,)))
    tally.add(block_of([
        pw.record(pw.SAMPLE, struct.pack("<QQIIQ", 7, 1, 5, 6, 100)),
        pw.record(pw.SAMPLE, struct.pack("<QQII", 8, 1, 3, 0)),
    ]))  # fmt: skip
    assert +tally.samples == {0: 1, 1: 1}
    assert (tally.sample_time.first_ns, tally.sample_time.last_ns) == (100, 100)
    assert tally.cpus[3] == 1
    assert tally.threads[5, 6] == 1
    assert damage == []


def test_short_and_odd_samples_are_told() -> None:
    tally, damage = made(pw.IP | pw.TID | pw.TIME)
    tally.add(block_of([
        pw.sample(1), pw.record(pw.SAMPLE, b"\0" * 8), pw.record(pw.SAMPLE, b"\0" * 25),
    ], file_base=1000))  # fmt: skip
    assert damage == [
        Damage(1048, "the sample's size is no multiple of 8"),
        Damage(1032, "the sample is shorter than its event's samples can be"),
    ]
    assert tally.damaged == 2


def test_what_is_remembered_is_bounded() -> None:
    tally, _ = made(pw.IP | pw.TID | pw.TIME)
    kinds = np.arange(1000, 1000 + MOST_TYPES + 5)
    tally.add(block_of([pw.record(int(kind)) for kind in kinds]))
    assert len(tally.records) == MOST_TYPES
    assert tally.cut == {"record types"}


def test_threads_far_apart() -> None:
    tally, _ = made(pw.IP | pw.TID | pw.TIME)
    pids = [1, 2**31, 2**32 - 1, 1]
    tally.add(block_of([pw.sample(1, pid=pid) for pid in pids]))
    assert +tally.threads == {(1, 1): 2, (-(2**31), -(2**31)): 1, (-1, -1): 1}


@pytest.mark.parametrize("size", [0, 4, 20])
def test_build_ids_from_mappings(size: int) -> None:
    tally, _ = made(pw.IP | pw.TID | pw.TIME)
    raw = bytes(range(1, 21))
    body = struct.pack("<IIQQQ", 1, 1, 0x1000, 0x1000, 0) + bytes([size, 0, 0, 0]) + raw
    body += struct.pack("<II", 5, 2) + b"/lib/x\0\0" + struct.pack("<IIQ", 1, 1, 9)
    with_id = pw.record(pw.MMAP2, body, misc=2 | 1 << 14)
    tally.add(block_of([with_id, with_id, pw.record(pw.MMAP2, body, misc=2)]))
    assert list(tally.build_ids) == ([(b"/lib/x", raw[:size])] if size else [])
