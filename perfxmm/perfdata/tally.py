"""What a pass over a recording's headers tells: counts, times, threads, CPUs, losses.

Made to run at the speed at which memory can be read: each block is looked at once, by columns, and
of a sample only its header and its leading words (all in one or two cache lines). What would need
a look at every byte (the samples' registers, stacks, call chains) is not counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import MISC_MMAP_BUILD_ID, RecordType
from perfxmm.kernel.layout import LayoutPlan, plan_layout
from perfxmm.perfdata.blocks import I64, U64, Damage, RecordBlock, gather_u64
from perfxmm.perfdata.order import NO_TIME, Clock

# Bounds on what a hostile file can make us remember.
MOST_THREADS = 100_000
MOST_CPUS = 65_536
MOST_BUILD_IDS = 100_000
MOST_TYPES = 4_096
_MOST_REPORTED = 1000  # of one kind in one block
_DENSE = 1 << 20  # a table of so many small integers is cheaper than sorting
_FIRST_TOOL_TYPE = 64
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
# Odd 64-bit factors: rows of words that differ get different sums, so that each is read once.
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F),
        np.uint64(0x165667B19E3779F9))  # fmt: skip


@dataclass(slots=True)
class SampleHeads:
    """Leading fields of a block's samples, n of them in the block's order.

    rows int64 [n]: in the block. event int64 [n]: index, -1 where the id is no event's.
    fields: of "ip", "tid" (pid low, tid high), "time", "cpu" (low half), each uint64 [n];
    missing where no event has it. Where only some events have it, or a sample is too short, 0.
    too_short bool [n]: shorter than its event's samples can be.
    """

    rows: I64
    event: I64
    fields: dict[str, U64]
    too_short: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Span:
    """Least and greatest of the times seen; None before the first."""

    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, times: U64) -> None:
        """times: uint64 [n] ns; NO_TIME and all ones are no times."""
        if not len(times):
            return
        least, most = int(times.min()), int(times.max())
        if least == NO_TIME or most == int(_ALL_ONES):
            times = times[(times != NO_TIME) & (times != _ALL_ONES)]
            if not len(times):
                return
            least, most = int(times.min()), int(times.max())
        self.first_ns = least if self.first_ns is None else min(self.first_ns, least)
        self.last_ns = most if self.last_ns is None else max(self.last_ns, most)


class HeadReader:
    """Finds event, time, thread and CPU of samples by the events' layouts."""

    def __init__(self, attrs: Sequence[EventAttr], ids: Sequence[Sequence[int]]) -> None:
        self.plans = [plan_layout(attr) for attr in attrs]
        self._least = np.array([8 * _least_words(plan) for plan in self.plans], np.int64)
        self._alike = len({tuple(plan.fixed.items()) for plan in self.plans}) == 1
        # Events whose id stands at the same word share a table, as nearly all do.
        self._tables: list[tuple[int, U64, I64]] = []
        for word in sorted({p.id_word for p in self.plans if p.id_word is not None}):
            pairs = sorted(
                (number, index) for index, row in enumerate(ids)
                if self.plans[index].id_word == word for number in row
            )  # fmt: skip
            known = np.array([pair[0] for pair in pairs], np.uint64)
            self._tables.append((word, known, np.array([pair[1] for pair in pairs], np.int64)))

    def read(self, block: RecordBlock, wanted: Sequence[str]) -> SampleHeads:
        """wanted: names of SampleHeads.fields."""
        chosen = block.types == RecordType.SAMPLE
        rows = np.flatnonzero(chosen)
        whole = len(rows) == len(block)
        offsets = block.offsets if whole else block.offsets[rows]
        sizes = (block.sizes if whole else block.sizes[rows]).astype(np.int64)
        words = _Words(block, offsets, sizes)
        if not self.plans:
            return SampleHeads(
                rows, np.full(len(rows), -1), {}, np.zeros(len(rows), np.bool_)
            )  # fmt: skip
        event = self._events(words, len(rows))
        least = self._least[0] if len(self._least) == 1 else self._least[np.maximum(event, 0)]
        fields: dict[str, U64] = {}
        for name in wanted:
            if self._alike:
                if name in self.plans[0].fixed:
                    fields[name] = words.at(self.plans[0].fixed[name])
                continue
            for index, plan in enumerate(self.plans):
                if name in plan.fixed:
                    column = fields.setdefault(name, np.zeros(len(rows), np.uint64))
                    mine = np.flatnonzero(event == index)
                    column[mine] = words.some(plan.fixed[name], mine)
        return SampleHeads(rows, event, fields, sizes < least)

    def _events(self, words: _Words, count: int) -> I64:
        found = np.zeros(count, np.int64)
        if len(self.plans) == 1 or not self._tables or not count:
            return found
        found -= 1
        for word, ids, events in self._tables:
            number = words.at(word)
            open_ = found < 0
            if len(ids):
                slot = np.minimum(np.searchsorted(ids, number), len(ids) - 1)
                hit = open_ & (ids[slot] == number)
                found[hit] = events[slot[hit]]
            # As in perf, a sample with id 0 is the first event's.
            found[open_ & (number == 0)] = 0
        return found


class _Words:
    """u64 words of records by their place from the start; 0 beyond a record's end."""

    def __init__(self, block: RecordBlock, offsets: I64, sizes: I64) -> None:
        self._buffer = block.buffer
        self._offsets = offsets
        self._sizes = sizes
        self._least = int(sizes.min()) if len(sizes) else 0
        self._stride = 0
        if len(offsets) > 1:
            step = int(offsets[1] - offsets[0])
            if step > 0 and bool((offsets[1:] - offsets[:-1] == step).all()):
                self._stride = step

    def at(self, word: int) -> U64:
        if 8 * word + 8 > self._least:
            return self.some(word, np.arange(len(self._offsets)))
        if self._stride:
            # Equal records behind each other: a strided view needs no index.
            first = int(self._offsets[0]) + 8 * word
            return np.ndarray(
                len(self._offsets), "<u8", self._buffer.data, first, (self._stride,)
            )
        return gather_u64(self._buffer, self._offsets + 8 * word)

    def some(self, word: int, rows: I64) -> U64:
        found = np.zeros(len(rows), np.uint64)
        there = np.flatnonzero(self._sizes[rows] >= 8 * word + 8)
        if len(there):
            found[there] = gather_u64(self._buffer, self._offsets[rows[there]] + 8 * word)
        return found


@dataclass(slots=True)
class Tally:
    """The running counts of a pass; `add` every block once.

    records: by record type. samples: by event index, -1 for ids that are no event's.
    threads: samples by (pid, tid). comms: last name of each tid; parents: tid of who made it.
    cpus: samples by CPU. lost_records, lost_samples: as LOST and LOST_SAMPLES say.
    build_ids: by path, from MMAP2 records. damaged: samples that `report` got, or would have got
    were they not too many. cut: what was too much to be remembered.
    """

    attrs: Sequence[EventAttr]
    ids: Sequence[Sequence[int]]
    report: Callable[[Damage], None]
    records: Counter[int] = field(default_factory=Counter)
    samples: Counter[int] = field(default_factory=Counter)
    record_bytes: Counter[int] = field(default_factory=Counter)
    threads: Counter[tuple[int, int]] = field(default_factory=Counter)
    comms: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    parents: dict[int, tuple[int, int]] = field(default_factory=dict)
    cpus: Counter[int] = field(default_factory=Counter)
    build_ids: dict[tuple[bytes, bytes], None] = field(default_factory=dict)
    lost_records: int = 0
    lost_samples: int = 0
    damaged: int = 0
    time: Span = field(default_factory=Span)
    sample_time: Span = field(default_factory=Span)
    cut: set[str] = field(default_factory=set)
    heads: HeadReader = field(init=False)
    _clock: Clock = field(init=False)
    _seen_maps: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.heads = HeadReader(self.attrs, self.ids)
        self._clock = Clock(self.attrs, self.ids)

    def add(self, block: RecordBlock, *, check: bool = True) -> SampleHeads:
        """Counts one block. check: report samples that cannot be; the decoder would do that too."""
        kinds = _counts(block.types)
        for kind, count in kinds.items():
            if kind in self.records or len(self.records) < MOST_TYPES:
                self.records[kind] += count
            else:
                self.cut.add("record types")
        heads = self.heads.read(block, ("tid", "time", "cpu"))
        if len(heads.rows):
            self._samples(heads)
            if check:
                self._check(block, heads)
        if len(heads.rows) < len(block):
            others = block if not len(heads.rows) else block.select(
                block.types != RecordType.SAMPLE
            )  # fmt: skip
            self._others(others, kinds)
        return heads

    def _samples(self, heads: SampleHeads) -> None:
        if len(self.heads.plans) == 1:
            self.samples[0] += len(heads.rows)
        else:
            counted = np.bincount(heads.event + 1)
            for index in np.flatnonzero(counted):
                self.samples[int(index) - 1] += int(counted[index])
        if "time" in heads.fields:
            times = heads.fields["time"]
            self.sample_time.add(times)
            self.time.add(times)
        if "cpu" in heads.fields:
            self._cpus(heads.fields["cpu"] & _LOW)
        if "tid" in heads.fields:
            self._threads(heads.fields["tid"])

    def _cpus(self, cpus: U64) -> None:
        for cpu, count in _counts(cpus).items():
            if cpu in self.cpus or len(self.cpus) < MOST_CPUS:
                self.cpus[cpu] += count
            else:
                self.cut.add("CPUs")

    def _threads(self, both: U64) -> None:
        """both: pid in the low half, tid in the high one."""
        tids = (both >> _HALF).astype(np.int64)
        least, most = int(tids.min()), int(tids.max())
        found: list[tuple[int, int]]
        if most - least < _DENSE:
            place = tids - least
            counts = np.bincount(place)
            # One sample of each tid; nearly always they are all of the same process.
            example = np.zeros(len(counts), np.uint64)
            example[place] = both
            if bool((example[place] == both).all()):
                some = np.flatnonzero(counts)
                found = list(zip(example[some].tolist(), counts[some].tolist(), strict=True))
            else:
                found = _unique(both)
        else:
            found = _unique(both)
        for word, count in found:
            key = (_signed(word & 0xFFFFFFFF), _signed(word >> 32))
            if key in self.threads or len(self.threads) < MOST_THREADS:
                self.threads[key] += count
            else:
                self.cut.add("threads")

    def _check(self, block: RecordBlock, heads: SampleHeads) -> None:
        if not self.heads.plans:
            return
        stray = heads.event < 0
        sizes = block.sizes if len(heads.rows) == len(block) else block.sizes[heads.rows]
        bad = (
            ((sizes & 7) != 0, "the sample's size is no multiple of 8"),
            (stray, "the sample's id is no event's"),
            (heads.too_short & ~stray, "the sample is shorter than its event's samples can be"),
        )
        for mask, what in bad:
            if mask.any():
                self.damaged += int(np.count_nonzero(mask))
                for row in heads.rows[mask][:_MOST_REPORTED]:
                    self.report(Damage(block.file_base + int(block.offsets[row]), what))

    def _others(self, block: RecordBlock, kinds: Counter[int]) -> None:
        """Records that are not samples, a kind at a time."""
        if any(kind < _FIRST_TOOL_TYPE for kind in kinds):
            self.time.add(self._clock.times(block))
        for kind, take in _TAKERS.items():
            if kinds.get(kind):
                rows = np.flatnonzero(block.types == kind)
                take(self, block, rows)


def _comm(tally: Tally, block: RecordBlock, rows: I64) -> None:
    """COMM: pid, tid, up to 16 bytes of name."""
    words = _Words(block, block.offsets[rows], block.sizes[rows].astype(np.int64))
    thread, low, high = words.at(1), words.at(2), words.at(3)
    for row in _last_of_each(thread, low, high):
        word = int(thread[row])
        record = block.record(int(rows[row]))
        if len(record) < 16:
            continue
        tid = _signed(word >> 32)
        if tid in tally.comms or len(tally.comms) < MOST_THREADS:
            name = record[16:32].split(b"\0", 1)[0]
            tally.comms[tid] = (_signed(word & 0xFFFFFFFF), name)
        else:
            tally.cut.add("thread names")


def _fork(tally: Tally, block: RecordBlock, rows: I64) -> None:
    """FORK: pid, ppid, tid, ptid. A new thread has its maker's name until it takes another."""
    words = _Words(block, block.offsets[rows], block.sizes[rows].astype(np.int64))
    processes, threads = words.at(1), words.at(2)
    for row in _last_of_each(processes, threads):
        tid = _signed(int(threads[row]) & 0xFFFFFFFF)
        if tid in tally.parents or len(tally.parents) < MOST_THREADS:
            pid, parent = _signed(int(processes[row]) & 0xFFFFFFFF), int(threads[row]) >> 32
            tally.parents[tid] = (pid, _signed(parent))


def _lost(tally: Tally, block: RecordBlock, rows: I64) -> None:
    words = _Words(block, block.offsets[rows], block.sizes[rows].astype(np.int64))
    tally.lost_records += _sum(words.at(2))


def _lost_samples(tally: Tally, block: RecordBlock, rows: I64) -> None:
    words = _Words(block, block.offsets[rows], block.sizes[rows].astype(np.int64))
    tally.lost_samples += _sum(words.at(1))


def _mmap2(tally: Tally, block: RecordBlock, rows: I64) -> None:
    """MMAP2 in the form that has a build id: its length, 3 bytes, 20 bytes of it, then (at 72) the
    path."""
    rows = rows[(block.misc[rows] & MISC_MMAP_BUILD_ID) != 0]
    if not len(rows):
        return
    words = _Words(block, block.offsets[rows], block.sizes[rows].astype(np.int64))
    mixed = _mixed(words.at(5), words.at(6), words.at(7))
    _, first = np.unique(mixed, return_index=True)
    for row in first:
        mark = int(mixed[row])
        if mark in tally._seen_maps:
            continue
        if len(tally._seen_maps) >= MOST_BUILD_IDS:
            tally.cut.add("build ids")
            return
        tally._seen_maps.add(mark)
        record = block.record(int(rows[row]))
        length = min(record[40], 20) if len(record) > 72 else 0
        path = record[72:].split(b"\0", 1)[0]
        if length and path:
            tally.build_ids[path, record[44 : 44 + length]] = None


_TAKERS: dict[int, Callable[[Tally, RecordBlock, I64], None]] = {
    RecordType.COMM: _comm, RecordType.FORK: _fork, RecordType.LOST: _lost,
    RecordType.LOST_SAMPLES: _lost_samples, RecordType.MMAP2: _mmap2,
}  # fmt: skip


def _least_words(plan: LayoutPlan) -> int:
    """Words that a sample of this layout has at least; a size field alone is one."""
    return plan.fixed_words + sum(max(1, step.words) for step in plan.following)


def _counts(values: npt.NDArray[np.unsignedinteger]) -> Counter[int]:
    """How often each value occurs."""
    if not len(values):
        return Counter()
    least, most = int(values.min()), int(values.max())
    if least == most:
        return Counter({least: len(values)})
    if most < _DENSE:
        counted = np.bincount(values.astype(np.int64))
        some = np.flatnonzero(counted)
        return Counter(dict(zip(some.tolist(), counted[some].tolist(), strict=True)))
    return Counter(dict(_unique(values)))


def _unique(values: npt.NDArray[np.unsignedinteger]) -> list[tuple[int, int]]:
    found, counts = np.unique(values, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _mixed(*columns: U64) -> U64:
    """One word for each row: rows that are equal get equal ones, others (nearly) never."""
    out = np.zeros(len(columns[0]), np.uint64)
    for column, factor in zip(columns, _MIX, strict=False):
        out += (column ^ (column >> np.uint64(29))) * factor
        out ^= out >> np.uint64(32)
    return out


def _last_of_each(*columns: U64) -> I64:
    """int64: the last row of each kind, in the rows' order."""
    mixed = _mixed(*columns)
    if len(mixed) < 2:
        return np.arange(len(mixed))
    # Runs of equal rows first: what a loop writes again and again.
    last = np.flatnonzero(np.append(mixed[1:] != mixed[:-1], True))
    _, first = np.unique(mixed[last][::-1], return_index=True)
    return np.sort(last[len(last) - 1 - first])


def _sum(values: U64) -> int:
    """Without overflow, whatever a hostile file says."""
    return int((values & _LOW).sum()) + (int((values >> _HALF).sum()) << 32)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 & 1 else number
