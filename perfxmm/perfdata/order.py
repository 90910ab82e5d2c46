"""Time order.

The kernel's ring buffers are drained one after another, so a file is not in time order. perf
promises less, and enough: at FINISHED_ROUND number N everything with a time up to the newest of
round N-1 has been written. So at each such record what is that old can be put in order and handed
out (tools/perf/util/ordered-events.c, Linux 7.3). As in perf, records without a time (0 or all
ones, no sample_id_all, perf's own types from 64 on) are handed out at once.

A file without rounds, or with huge ones, is ordered within a window: at most WINDOW_RECORDS wait,
and when more do the older half is handed out. `Orderer.unordered` counts records that came later
than the window could wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, RecordType, SampleType
from perfxmm.perfdata.blocks import (
    BLOCK_RECORDS,
    I64,
    U8,
    U64,
    RecordBlock,
    block_of,
    gather_u64,
    header_sizes,
)

WINDOW_RECORDS = 1_000_000
WINDOW_BYTES = 64 * 1024 * 1024
WINDOW_TEXT = f"at most {WINDOW_RECORDS:,} records or {WINDOW_BYTES >> 20} MiB"
NO_TIME = 0
_ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_FIRST_TOOL_TYPE = 64


@dataclass(frozen=True, slots=True)
class TimePlace:
    """Where an event's records hold time and id, in bytes; 0 where they have none.

    sample_*: from the start of a PERF_RECORD_SAMPLE, header included.
    trailer_*: from the end of any other record of the kernel, to the field's first byte.
    Field order: perf_output_sample and __perf_event__output_id_sample in kernel/events/core.c.
    """

    sample_time: int
    sample_id: int
    trailer_time: int
    trailer_id: int


def time_place(attr: EventAttr) -> TimePlace:
    """From sample_type alone."""

    def fields(*bits: SampleType) -> int:
        return 8 * sum(attr.has(bit) for bit in bits)

    st = SampleType
    has_time, has_id, named = attr.has(st.TIME), attr.has(st.ID), attr.has(st.IDENTIFIER)
    sample_id = trailer_id = trailer_time = 0
    if named:
        sample_id = 8
    elif has_id:
        sample_id = 8 + fields(st.IP, st.TID, st.TIME, st.ADDR)
    if attr.flag(AttrFlag.SAMPLE_ID_ALL):
        if named:
            trailer_id = 8
        elif has_id:
            trailer_id = 8 + fields(st.STREAM_ID, st.CPU)
        if has_time:
            trailer_time = 8 + fields(st.ID, st.STREAM_ID, st.CPU, st.IDENTIFIER)
    return TimePlace(
        8 + fields(st.IDENTIFIER, st.IP, st.TID) if has_time else 0, sample_id, trailer_time,
        trailer_id,
    )  # fmt: skip


class Clock:
    """Times of the records of a block, by its file's events."""

    def __init__(self, attrs: Sequence[EventAttr], ids: Sequence[Sequence[int]]) -> None:
        places = [time_place(attr) for attr in attrs]
        # There are few different ones, however many events there are.
        self._places = list(dict.fromkeys(places))
        self._uniform = len(self._places) <= 1
        number = {place: at for at, place in enumerate(self._places)}
        pairs = sorted((i, index) for index, row in enumerate(ids) for i in row)
        self._ids = np.array([pair[0] for pair in pairs], dtype=np.uint64)
        self._place_of = np.array([number[places[pair[1]]] for pair in pairs], dtype=np.int64)

    @property
    def timed(self) -> bool:
        """Whether any record can have a time at all."""
        return any(place.sample_time or place.trailer_time for place in self._places)

    def times(self, block: RecordBlock) -> U64:
        """uint64 [k] ns; NO_TIME where a record has none."""
        times = np.zeros(len(block), np.uint64)
        if not self._places:
            return times
        is_sample = block.types == RecordType.SAMPLE
        kernel = (block.types < _FIRST_TOOL_TYPE) & ~is_sample
        for rows, from_end in ((np.flatnonzero(is_sample), False), (np.flatnonzero(kernel), True)):
            if not len(rows):
                continue
            if self._uniform:
                self._fill(block, rows, self._places[0], from_end, times)
                continue
            owner = self._owners(block, rows, from_end)
            for at, place in enumerate(self._places):
                self._fill(block, rows[owner == at], place, from_end, times)
        times[times == _ALL_ONES] = NO_TIME
        return times

    def _fill(
        self, block: RecordBlock, rows: I64, place: TimePlace, from_end: bool, times: U64
    ) -> None:
        at = place.trailer_time if from_end else place.sample_time
        good, values = _field(block, rows, at, from_end)
        times[good] = values

    def _owners(self, block: RecordBlock, rows: I64, from_end: bool) -> I64:
        """Whose place each record has; the first event's where the id does not tell, as in perf."""
        owner = np.zeros(len(rows), np.int64)
        # perf insists that the id stands in one place for all events of a file.
        place = self._places[0]
        at = place.trailer_id if from_end else place.sample_id
        good, values = _field(block, rows, at, from_end)
        if not len(good) or not len(self._ids):
            return owner
        slot = np.minimum(np.searchsorted(self._ids, values), len(self._ids) - 1)
        known = self._ids[slot] == values
        owner[np.searchsorted(rows, good[known])] = self._place_of[slot[known]]
        return owner


def _field(block: RecordBlock, rows: I64, at: int, from_end: bool) -> tuple[I64, U64]:
    """(those of `rows` that are long enough for the field, its values)."""
    if not at:
        return rows[:0], np.empty(0, np.uint64)
    sizes = block.sizes[rows].astype(np.int64)
    # A trailer cannot reach into the header; a field at `at` needs 8 bytes.
    rows = rows[sizes >= at + 8]
    starts = block.offsets[rows]
    positions = starts + (block.sizes[rows].astype(np.int64) - at if from_end else at)
    return rows, gather_u64(block.buffer, positions)


class Orderer:
    """Turns blocks in file order into blocks in time order."""

    def __init__(
        self, data: U8, clock: Clock, *, window_records: int = WINDOW_RECORDS,
        window_bytes: int = WINDOW_BYTES, block_records: int = BLOCK_RECORDS,
        release: Callable[[int, int], None] | None = None,
    ) -> None:
        self._data = data
        self._clock = clock
        self._window_records = window_records
        self._window_bytes = window_bytes
        self._block_records = block_records
        self._release = release
        # Waiting records, in file order within equal times: file offset, header word, time.
        self._waiting: list[tuple[I64, U64, U64]] = []
        self._count = self._bytes = 0
        # In order and due, but not yet enough for a block: file offset, header word.
        self._due: list[tuple[I64, U64]] = []
        self._due_count = 0
        self._newest = 0  # of everything seen
        self._limit = 0  # what the next round may hand out
        self._handed_out = 0  # newest time handed out
        self.unordered = 0

    def run(self, blocks: Iterable[RecordBlock]) -> Iterator[RecordBlock]:
        for block in blocks:
            times = self._clock.times(block)
            headers = block.headers()
            bounds = np.flatnonzero(block.types == RecordType.FINISHED_ROUND)
            begin = 0
            for bound in (*(int(b) for b in bounds), None):
                end = len(block) if bound is None else bound
                self._take(
                    block.offsets[begin:end] + block.file_base, headers[begin:end],
                    times[begin:end],
                )
                begin = end + 1
                if bound is not None:
                    self._hand_out(self._limit)
                    self._limit = self._newest
                if self._due_count >= self._block_records:
                    yield from self._blocks()
        self._hand_out(None)
        yield from self._blocks()

    def _take(self, offsets: I64, headers: U64, times: U64) -> None:
        if not len(offsets):
            return
        timed = times != NO_TIME
        if not timed.all():
            self._put(offsets[~timed], headers[~timed])
            offsets, headers, times = offsets[timed], headers[timed], times[timed]
        if not len(offsets):
            return
        self._newest = max(self._newest, int(times.max()))
        self.unordered += int((times < np.uint64(self._handed_out)).sum())
        self._waiting.append((offsets, headers, times))
        self._count += len(offsets)
        self._bytes += int(header_sizes(headers).sum())
        while self._count > self._window_records or self._bytes > self._window_bytes:
            self._hand_out(None, at_most=max(1, self._count // 2))

    def _hand_out(self, limit: int | None, *, at_most: int | None = None) -> None:
        """Everything up to time `limit`, or the oldest `at_most`."""
        if not self._waiting:
            return
        offsets, headers, times = (
            np.concatenate(column) for column in zip(*self._waiting, strict=True)
        )
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            offsets, headers, times = offsets[order], headers[order], times[order]
        count = len(times)
        if limit is not None:
            count = int(np.searchsorted(times, np.uint64(limit), side="right"))
        if at_most is not None:
            count = min(count, at_most)
        self._waiting = [(offsets[count:], headers[count:], times[count:])]
        self._count = len(times) - count
        self._bytes = int(header_sizes(headers[count:]).sum())
        if count:
            self._handed_out = max(self._handed_out, int(times[count - 1]))
            self._put(offsets[:count], headers[:count])

    def _put(self, offsets: I64, headers: U64) -> None:
        self._due.append((offsets, headers))
        self._due_count += len(offsets)

    def _blocks(self) -> Iterator[RecordBlock]:
        if not self._due:
            return
        offsets, headers = (np.concatenate(column) for column in zip(*self._due, strict=True))
        self._due, self._due_count = [], 0
        for at in range(0, len(offsets), self._block_records):
            some = offsets[at : at + self._block_records]
            words = headers[at : at + self._block_records]
            first, last = int(some.min()), int((some + header_sizes(words)).max())
            yield block_of(self._data, some, words, first, last)
            if self._release is not None:
                self._release(first, last)
