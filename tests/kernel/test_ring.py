"""The ring buffer: wrap-around at every offset, room given back, limits."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_kernel import feed_ring

from perfxmm.kernel.constants import RecordType
from perfxmm.kernel.ring import DATA_HEAD_OFFSET, RingBuffer, tally, walk

PAGE = 4096


def ring_memory(start: int = 0, pages: int = 1) -> bytearray:
    memory = bytearray((1 + pages) * PAGE)
    struct.pack_into("<QQQQ", memory, DATA_HEAD_OFFSET, start, start, PAGE, pages * PAGE)
    return memory


def record(kind: int, payload: bytes, misc: int = 2) -> bytes:
    assert len(payload) % 8 == 0
    return struct.pack("<IHH", kind, misc, 8 + len(payload)) + payload


def pointers(memory: bytearray) -> tuple[int, int]:
    return struct.unpack_from("<QQ", memory, DATA_HEAD_OFFSET)


@pytest.mark.parametrize("start", range(PAGE - 160, PAGE + 8, 8))
def test_records_that_cross_the_end_come_out_whole(start: int) -> None:
    memory = ring_memory(start)
    records = [record(9, bytes([n]) * 8 * n) for n in range(1, 5)]
    for one in records:
        assert feed_ring(memory, one)
    ring = RingBuffer(memoryview(memory))
    assert ring.available_bytes() == sum(map(len, records)) == 112
    assert bytes(ring.peek()) == b"".join(records)
    assert pointers(memory) == (start + 112, start)
    ring.consume()
    assert pointers(memory) == (start + 112, start + 112)
    assert ring.drain() == b""


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, (1 << 63) // 8).map(lambda n: n * 8),
    st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=8),
)
def test_everything_fed_comes_out_in_order(start: int, rounds: list[list[int]]) -> None:
    memory = ring_memory(start)
    ring = RingBuffer(memoryview(memory))
    fed, got = b"", b""
    for number, sizes in enumerate(rounds):
        for size in sizes:
            one = record(9, bytes([number]) * 8 * size)
            if feed_ring(memory, one):
                fed += one
        got += ring.drain()
    assert got == fed
    assert ring.overruns == 0


def test_a_full_ring_is_one_run() -> None:
    memory = ring_memory(24)
    one = record(9, bytes(PAGE - 8))
    assert feed_ring(memory, one)
    assert not feed_ring(memory, record(9, b""))
    ring = RingBuffer(memoryview(memory))
    assert len(ring.peek()) == PAGE
    ring.consume()
    assert feed_ring(memory, record(9, b""))


def test_peek_without_wrap_copies_nothing_and_ends_with_consume() -> None:
    memory = ring_memory()
    feed_ring(memory, record(9, bytes(8)))
    ring = RingBuffer(memoryview(memory))
    view = ring.peek()
    memory[PAGE + 8] = 77
    assert view[8] == 77
    ring.consume()
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_consume_without_peek_gives_nothing_back() -> None:
    memory = ring_memory()
    feed_ring(memory, record(9, bytes(8)))
    ring = RingBuffer(memoryview(memory))
    ring.consume()
    assert pointers(memory) == (16, 0)


def test_records_one_by_one() -> None:
    memory = ring_memory(PAGE - 16)
    records = [record(3, b"a" * 8), record(9, b"b" * 16)]
    for one in records:
        feed_ring(memory, one)
    assert list(RingBuffer(memoryview(memory)).records()) == records


@pytest.mark.parametrize(("head", "tail"), [(PAGE + 8, 0), (0, 8)])
def test_an_impossible_head_is_skipped_and_counted(head: int, tail: int) -> None:
    memory = ring_memory()
    struct.pack_into("<QQ", memory, DATA_HEAD_OFFSET, head, tail)
    ring = RingBuffer(memoryview(memory))
    assert len(ring.peek()) == 0
    assert ring.overruns == 1
    ring.consume()
    assert pointers(memory) == (head, head)


def test_kernels_before_4_1_leave_offset_and_size_zero() -> None:
    memory = ring_memory(PAGE - 8, pages=2)
    struct.pack_into("<QQ", memory, DATA_HEAD_OFFSET + 16, 0, 0)
    ring = RingBuffer(memoryview(memory))
    assert ring.size_bytes == 2 * PAGE


@pytest.mark.parametrize("size", [3 * PAGE, 2 * PAGE, 100])
def test_a_ring_that_does_not_fit_is_refused(size: int) -> None:
    memory = ring_memory()
    struct.pack_into("<Q", memory, DATA_HEAD_OFFSET + 24, size)
    with pytest.raises(ValueError, match="does not fit"):
        RingBuffer(memoryview(memory))


def test_close_lets_go_of_the_memory() -> None:
    memory = ring_memory()
    feed_ring(memory, record(9, bytes(8)))
    ring = RingBuffer(memoryview(memory))
    ring.peek()
    ring.close()
    memory.extend(b"x")  # a bytearray with live views could not grow


LOST = record(RecordType.LOST, struct.pack("<QQ", 5, 11))
LOST_SAMPLES = record(RecordType.LOST_SAMPLES, struct.pack("<Q", 7))
THROTTLE = record(RecordType.THROTTLE, bytes(24))
SAMPLE = record(RecordType.SAMPLE, bytes(40))


def test_tally_counts_by_header() -> None:
    data = SAMPLE + LOST + SAMPLE + THROTTLE + LOST_SAMPLES + record(RecordType.UNTHROTTLE, b"")
    count = tally(data)
    assert (count.samples, count.lost, count.throttled, count.records) == (2, 18, 1, 6)
    assert count.cut_bytes == len(data)


def test_tally_cuts_before_the_record_that_passes_a_limit() -> None:
    data = SAMPLE + LOST + SAMPLE + SAMPLE
    one = tally(data, max_samples=2)
    assert (one.samples, one.cut_bytes) == (2, 2 * len(SAMPLE) + len(LOST))
    two = tally(data, max_bytes=len(SAMPLE) + len(LOST) + 7)
    assert (two.samples, two.lost, two.cut_bytes) == (1, 11, len(SAMPLE) + len(LOST))
    assert tally(data, max_samples=0).cut_bytes == 0


@pytest.mark.parametrize(
    "bad", [struct.pack("<IHH", 9, 0, 0), struct.pack("<IHH", 9, 0, 12), b"\x09\0\0\0", LOST[:-8]]
)
def test_walk_stops_at_what_cannot_be_a_record(bad: bytes) -> None:
    assert list(walk(SAMPLE + bad)) == [(0, len(SAMPLE))]
