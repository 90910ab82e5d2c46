"""Samples of a block to a SnapshotBatch, by the plan of each one's event.

All samples of one event in a block are decoded together: `walk` finds where their fields start,
`gather` copies register sets out, this module does the rest and puts the samples of several events
back into the block's order. One damaged record costs that record: it is counted, its place is
kept in `Decoder.problems`, and the batch goes on without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from perfxmm.kernel.constants import MISC_CPUMODE_MASK, MISC_EXACT_IP, AttrFlag, RecordType
from perfxmm.kernel.layout import X86_ARCHES, LayoutPlan
from perfxmm.perfdata import stopinfo
from perfxmm.perfdata.allocation import keep_freed_memory
from perfxmm.perfdata.blocks import RecordBlock
from perfxmm.snapshots.batch import I32, I64, U32, U64, Bool, RegisterSet, SnapshotBatch
from perfxmm.snapshots.gather import ALL_COLUMNS as ALL_COLUMNS
from perfxmm.snapshots.gather import SetColumns
from perfxmm.snapshots.optional import EXTRA_COLUMNS as EXTRA_COLUMNS
from perfxmm.snapshots.optional import RAGGED_COLUMNS as RAGGED_COLUMNS
from perfxmm.snapshots.optional import OptionalColumns, stack_used
from perfxmm.snapshots.records import (
    WORD_BYTES,
    SampledEvent,
    gather,
    peek,
    words_of,
)
from perfxmm.snapshots.settle import (
    CONFIRM_SAMPLES,
    Settlement,
    first_settlement,
    open_question,
    other_looks,
    settle,
)
from perfxmm.snapshots.sideband import Sideband, SidebandDecoder, SidebandProblem
from perfxmm.snapshots.walk import Walk, walk_samples
from perfxmm.snapshots.xsaves import (
    SnapshotPlan,
    Snapshots,
    put_snapshots,
    read_snapshots,
    set_plan,
)

MOST_PROBLEMS = 1000
NOTHING_KNOWN = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class SampleProblem:
    """A sample that was left out. event: its index, -1 where that is not known.

    file_offset: byte in the file, -1 where the record came out of something unpacked.
    """

    file_offset: int
    what: str
    event: int


class Decoder:
    """Turns the samples of blocks into batches. Made once for a recording.

    stop_info: the recording is by the `sigtrap` source, whose RAW field tells of the stop.
    snapshots: events whose RAW field has an image of the `nmi` source, by index. Their registers
        become the set `intr`; one of the kernel's that they might have is not read.
    arch: the recording machine's name (uname -m). Register sets of one that is no x86 are passed
        over by their size; everything else is read.
    problems: the first MOST_PROBLEMS samples left out, or of an uneven size; damaged: how many of
        each kind were left out; strange: how many had an uneven size.
    settled: by event, its dialect and what its first samples say of that (`settle`). It changes
        when they are met, before they are decoded: read attrs from there.
    trust_attrs: the caller knows the dialect; samples do not overrule it.
    longer: event -> samples that had words behind their last field. Only counted where there are
        no register sets: with them, such a sample is left out.
    """

    def __init__(
        self, events: Sequence[SampledEvent], *, stop_info: bool = False, arch: str = "x86_64",
        trust_attrs: bool = False, snapshots: Mapping[int, SnapshotPlan] | None = None,
    ) -> None:  # fmt: skip
        keep_freed_memory()
        self.events = events
        self.stop_info = stop_info
        self.snapshots = dict(snapshots or {}) if arch in X86_ARCHES else {}
        # Components met in images so far: columns never get narrower from batch to batch.
        self.components = 0
        self.settled: list[Settlement] = [first_settlement(event.attr) for event in events]
        self.problems: list[SampleProblem] = []
        self.damaged: Counter[str] = Counter()
        self.strange = 0
        self.longer: Counter[int] = Counter()
        self._notes: list[str] = []
        plans = self.plans
        # Only register sets have dialects.
        x86 = arch in X86_ARCHES
        self._asking = [x86 and open_question(said) for said in self.settled]
        self._trust_attrs = trust_attrs
        self._looks = [other_looks(plan) for plan in plans]
        self._set_names = [
            name for name in ("intr", "user")
            if any(name in plan.sets for plan in plans) or (name == "intr" and self.snapshots)
        ]  # fmt: skip
        if arch not in X86_ARCHES:
            self._notes += sorted({
                f"{name} registers of {arch} ({set_plan.words} each) are skipped: only x86 is "
                "decoded"
                for plan in plans for name, set_plan in plan.sets.items()
            })  # fmt: skip
            self._set_names = []
        self._lookup = _EventLookup(events, plans)
        self._sideband = SidebandDecoder(events, plans)

    @property
    def plans(self) -> list[LayoutPlan]:
        """The layout of each event's samples, as far as that is settled."""
        return [said.plan for said in self.settled]

    def decode(
        self, block: RecordBlock, *, columns: Collection[str] | None = None
    ) -> SnapshotBatch:
        """The samples of `block` in its order; other records are passed over.

        columns: of ALL_COLUMNS, EXTRA_COLUMNS and RAGGED_COLUMNS; None means ALL_COLUMNS.
        Columns that cost next to nothing are always there. Never raises for bad records.
        Memory: the columns asked for, of at most 32 vectors of 8 qwords and 64 general registers
        a sample and set, and ragged ones no longer than the records; never by what a count says.
        """
        return _BatchBuilder(self, block, ALL_COLUMNS if columns is None else columns).build()

    def sideband(self, block: RecordBlock) -> Iterator[Sideband]:
        """The block's records that are not samples, as `sideband` knows them."""
        return self._sideband.decode(block)

    @property
    def sideband_problems(self) -> list[SidebandProblem]:
        """Side-band records that were left out, the first MOST_PROBLEMS of them."""
        return self._sideband.problems

    @property
    def damage_count(self) -> int:
        """Samples and side-band records that are not as they should be, listed or not."""
        return self.damaged.total() + self.strange + self._sideband.damaged.total()

    @property
    def notes(self) -> list[str]:
        """What was found out about the recording as a whole, in words. Grows with the blocks."""
        return [*self._notes, *(
            f"event {event}: {count} samples are longer than their fields; what follows them is "
            "not read"
            for event, count in sorted(self.longer.items())
        )]  # fmt: skip

    def report(
        self, event: int, file_offsets: I64, what: str, *, left_out: bool = True
    ) -> None:
        """Counts samples that are left out, or are strange in a way that perf does not mind."""
        if left_out:
            self.damaged[what] += len(file_offsets)
        else:
            self.strange += len(file_offsets)
        room = MOST_PROBLEMS - len(self.problems)
        self.problems += [SampleProblem(int(at), what, event) for at in file_offsets[:room]]

    def walk(self, event: int, words: U64, start: I64, end: I64) -> list[Walk]:
        """Walks one event's samples: one walk, and more where some only fit with another look.

        `row` of all counts from the samples handed in; damage is in the last walk's.
        """
        plan = self.settled[event].plan
        walks = [walk_samples(words, start, end, plan)]
        for look in self._looks[event]:
            if not walks[-1].damage:
                break
            again = np.sort(np.concatenate([rows for rows, _ in walks[-1].damage]))
            walk = walk_samples(words, start[again], end[again], plan, look=look)
            if len(walk):
                walk.row = again[walk.row]
                walk.damage = [(again[rows], why) for rows, why in walk.damage]
                walks[-1].damage = []
                walks.append(walk)
        if longer := sum(walk.longer for walk in walks):
            self.longer[event] += longer
        return walks

    def ask(self, event: int, words: U64, start: I64, end: I64) -> None:
        """Has the dialect of an event settled by its first samples, if that is still open."""
        if not self._asking[event] or not len(start):
            return
        before = self.settled[event]
        found = settle(before, words, start, end)
        if found is before:
            return
        self._asking[event] = found.confirmed is None
        if self._trust_attrs and found.confirmed is not True:
            found = replace(before, evidence=f"given, though {found.evidence}")
        self.settled[event] = found
        self._looks[event] = other_looks(found.plan)


class _EventLookup:
    """Which event each sample is of: the id in the sample, found among the events' ids."""

    def __init__(self, events: Sequence[SampledEvent], plans: Sequence[LayoutPlan]) -> None:
        self.single = len(events) == 1
        # Events whose id stands at the same word share a table; nearly always there is one.
        self.tables: list[tuple[int, U64, I64]] = []
        for word in sorted({plan.id_word for plan in plans if plan.id_word is not None}):
            pairs = sorted(
                (number, index) for index, event in enumerate(events)
                if plans[index].id_word == word for number in event.ids
            )  # fmt: skip
            ids = np.array([number for number, _ in pairs], np.uint64)
            self.tables.append((word, ids, np.array([index for _, index in pairs], np.int64)))

    def find(self, words: U64, start: I64, end: I64) -> I64:
        """int64 [n], index of each sample's event; -1 where its id is nobody's.

        As in perf, a sample with id 0 or without any id is the first event's.
        """
        found = np.zeros(len(start), np.int64)
        if self.single or not self.tables:
            return found
        found -= 1
        for word, ids, events in self.tables:
            here = np.flatnonzero((found < 0) & (start + word < end))
            number = words[start[here] + word]
            if len(ids):
                at = np.minimum(np.searchsorted(ids, number), len(ids) - 1)
                known = ids[at] == number
                found[here[known]] = events[at[known]]
            found[here[number == 0]] = 0
        return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """One walk of an event's samples. rows: which of the block's samples; None where all are."""

    event: int
    plan: LayoutPlan
    walk: Walk
    rows: I64 | None
    snapshots: Snapshots | None


class _BatchBuilder:
    """One batch under construction. n counts the block's samples, sound or not."""

    def __init__(self, decoder: Decoder, block: RecordBlock, columns: Collection[str]) -> None:
        self.decoder = decoder
        self.columns = frozenset(columns)
        chosen = block.types == RecordType.SAMPLE
        if not bool(chosen.all()):
            block = block.select(chosen)
        self.offsets = block.offsets.astype(np.int64, copy=False)
        sizes = block.sizes.astype(np.int64)
        self.file_offset = (
            self.offsets + block.file_base if block.file_base >= 0
            else np.full(len(sizes), -1, np.int64)
        )
        self.misc = block.misc
        self.good: Bool = np.ones(len(sizes), np.bool_)
        self.uneven: Bool | None = None
        ends = self.offsets + sizes
        if len(sizes) and (
            int(np.bitwise_or.reduce(sizes)) & 7 or int(sizes.min()) < WORD_BYTES
            or int(ends.max()) > len(block.buffer)
        ):  # fmt: skip
            self.uneven = sizes & 7 != 0
            sizes &= ~7
            impossible = (sizes < WORD_BYTES) | (ends > len(block.buffer))
            self.leave_out(-1, np.flatnonzero(impossible), "the record's size is impossible")
            # What stays in these rows does not matter as long as it can be read.
            sizes[impossible] = 0
            self.offsets = np.where(impossible, 0, self.offsets)
        self.words, self.start = words_of(block.buffer, self.offsets, sizes)
        self.end = self.start + (sizes >> 3)
        n = self.n = len(sizes)
        self.time_ns = np.zeros(n, np.uint64)
        self.ip = np.zeros(n, np.uint64)
        self.period = np.zeros(n, np.uint64)
        self.pid: I32 = np.full(n, -1, np.int32)
        self.tid: I32 = np.full(n, -1, np.int32)
        self.cpu: I32 = np.full(n, -1, np.int32)
        self.event = np.zeros(n, np.uint16)
        self.stop_flags = np.zeros(n, np.uint32)
        self.xstate_bv = np.full(n if decoder.stop_info else 0, NOTHING_KNOWN)
        self.statistics: U64 | None = None
        self.optional = OptionalColumns(n, self.columns, self.words, self.offsets)
        self.sets: dict[str, SetColumns] = {}
        self.snapshot_flags = np.zeros(n if decoder.snapshots else 0, np.uint64)
        self.snapshot_bv = np.full(len(self.snapshot_flags), NOTHING_KNOWN)
        self.asked_components = np.full(len(self.snapshot_flags), NOTHING_KNOWN)

    def leave_out(self, event: int, rows: I64, why: str) -> None:
        self.good[rows] = False
        self.decoder.report(event, self.file_offset[rows], why)

    def build(self) -> SnapshotBatch:
        chosen: list[tuple[int, I64 | None]] = []
        if self.n:
            event_of = self.decoder._lookup.find(self.words, self.start, self.end)
            stray = self.good & (event_of < 0)
            if stray.any():
                self.leave_out(-1, np.flatnonzero(stray), "the sample's id is no event's")
            for event in range(len(self.decoder.events)):
                mine = self.good & (event_of == event)
                if mine.any():
                    rows = None if bool(np.all(mine)) else np.flatnonzero(mine)
                    chosen.append((event, rows))
                    some = slice(None) if rows is None else rows[:CONFIRM_SAMPLES]
                    self.decoder.ask(event, self.words, self.start[some], self.end[some])
        places = [place for event, rows in chosen for place in self._event(event, rows)]
        # Only now: asking may have changed what an event has, and images say what they have.
        self._make_sets()
        for place in places:
            self._walk(place)
        return self._finish()

    def _make_sets(self) -> None:
        for name in self.decoder._set_names:
            plans = [p.sets[name] for p in self.decoder.plans if name in p.sets]
            if name == "intr" and self.decoder.snapshots:
                plans.append(set_plan(self.decoder.components))
            self.sets[name] = SetColumns(name, self.n, plans, self.columns)

    def _event(self, event: int, rows: I64 | None) -> Iterator[_Placed]:
        """Where one event's samples are, walk by walk."""
        start, end = (
            (self.start, self.end) if rows is None else (self.start[rows], self.end[rows])
        )
        walks = self.decoder.walk(event, self.words, start, end)
        for walk in walks:
            for bad, why in walk.damage:
                self.leave_out(event, bad if rows is None else rows[bad], why)
        plan = self.decoder.settled[event].plan
        for walk in walks:
            if "user_stack" in walk.at:
                beyond = stack_used(self.words, walk) > walk.count["user_stack"].astype(np.uint64)
                if beyond.any():
                    bad = walk.row[beyond]
                    self.leave_out(
                        event, bad if rows is None else rows[bad],
                        "user_stack claims to use more than was dumped",
                    )
            if rows is None and len(walk) == self.n:
                yield _Placed(event, plan, walk, None, self._snapshots(event, plan, walk, walk.row))
            elif len(walk):
                mine = walk.row if rows is None else rows[walk.row]
                yield _Placed(event, plan, walk, mine, self._snapshots(event, plan, walk, mine))

    def _snapshots(
        self, event: int, plan: LayoutPlan, walk: Walk, rows: I64
    ) -> Snapshots | None:
        """What the samples' raw data hold, where the event is the `nmi` source's."""
        how = self.decoder.snapshots.get(event)
        if how is None or "raw" not in walk.at:
            return None
        pid = tid = np.full(len(walk), -1, np.int32)
        if "tid" in plan.fixed:
            both = gather(self.words, walk.start + plan.fixed["tid"], 1).view("<i4")
            pid, tid = both[:, 0], both[:, 1]
        found = read_snapshots(self.words, walk, how, pid, tid)
        for bad, why in found.damage:
            self.leave_out(event, rows[bad], why)
        self.decoder.components |= found.components
        return found

    def _walk(self, placed: _Placed) -> None:
        event, plan, walk, rows = placed.event, placed.plan, placed.walk, placed.rows
        place = slice(None) if rows is None else rows
        self.event[place] = event
        head = peek(self.words, walk.start, plan.fixed_words, walk.stride)
        for name, column in (("ip", self.ip), ("time", self.time_ns), ("period", self.period)):
            if name in plan.fixed:
                column[place] = head[:, plan.fixed[name]]
        attr = self.decoder.events[event].attr
        if "period" not in plan.fixed and not attr.flag(AttrFlag.FREQ):
            self.period[place] = attr.sample_period  # the same in every sample: not written
        if "tid" in plan.fixed:
            both = np.ascontiguousarray(head[:, plan.fixed["tid"]]).view("<i4")
            self.pid[place], self.tid[place] = both[0::2], both[1::2]
        if "cpu" in plan.fixed:
            self.cpu[place] = np.ascontiguousarray(head[:, plan.fixed["cpu"]]).view("<i4")[0::2]
        if self.decoder.stop_info and "raw" in walk.at:
            self._stop(walk, place)
        for name, columns in self.sets.items():
            if name == "intr" and event in self.decoder.snapshots:
                if placed.snapshots is not None:
                    self._put(columns, placed.snapshots, walk.row if rows is None else rows)
            elif name in plan.sets:
                columns.add(self.words, walk, plan.sets[name], rows)
        self.optional.add(plan, walk, head, place)

    def _put(self, columns: SetColumns, found: Snapshots, rows: I64) -> None:
        """The registers of the `nmi` source's images. rows: of the walk's samples."""
        mine = rows[found.row]
        self.snapshot_flags[mine] = found.flags
        self.snapshot_bv[mine] = found.xstate_bv
        self.asked_components[mine] = found.requested
        put_snapshots(columns, self.words, found, mine)

    def _stop(self, walk: Walk, place: I64 | slice) -> None:
        """What the `sigtrap` source put into RAW: see perfdata.stopinfo."""
        flags: U32 = np.zeros(len(walk), np.uint32)
        xstate_bv = np.full(len(walk), NOTHING_KNOWN)
        at, size = walk.at["raw"], walk.count["raw"]
        magic = self.words[at] >> np.uint64(32)
        counted = (
            (size == stopinfo.STATISTICS_BYTES) & (magic == np.uint64(stopinfo.STATISTICS_MAGIC))
        )  # fmt: skip
        mine = np.flatnonzero(
            (size == stopinfo.PAYLOAD_BYTES) & (magic == np.uint64(stopinfo.MAGIC)) | counted
        )
        payload = gather(self.words, at[mine], 3)
        xstate_bv[mine] = payload[:, 1]
        si_perf_flags = payload[:, 2] & np.uint64(0xFFFFFFFF)
        said = (payload[:, 2] >> np.uint64(32)) | np.uint64(stopinfo.StopFlag.PRESENT)
        said[si_perf_flags & np.uint64(1) != 0] |= np.uint64(stopinfo.StopFlag.ASYNC)
        flags[mine] = said.astype(np.uint32)
        self.stop_flags[place] = flags
        self.xstate_bv[place] = xstate_bv
        if counted.any():
            self._statistics(np.flatnonzero(counted), at, place)

    def _statistics(self, rows: I64, at: I64, place: I64 | slice) -> None:
        """The lane counts that stand in place of redacted values."""
        if self.statistics is None:
            self.statistics = np.full((self.n, len(stopinfo.STATISTICS)), NOTHING_KNOWN)
        found = np.full((len(at), len(stopinfo.STATISTICS)), NOTHING_KNOWN)
        octets = gather(self.words, at[rows] + 3, 3).astype("<u8", copy=False).view(np.uint8)
        found[rows, :9] = np.ascontiguousarray(octets[:, :18]).view("<u2")
        found[rows, 9:] = octets[:, 18:20]
        self.statistics[place] = found

    def _finish(self) -> SnapshotBatch:
        good = self.good
        if self.uneven is not None:
            self.decoder.report(
                -1, self.file_offset[self.uneven & good],
                "the sample's size is no multiple of 8; what is behind its last word is not read",
                left_out=False,
            )  # fmt: skip
        keep: Bool | slice = slice(None) if bool(np.all(good)) else good
        sets = {}
        for name, columns in self.sets.items():
            if self.decoder.stop_info:
                columns.xstate_bv = self.xstate_bv
            elif self.decoder.snapshots and name == "intr":
                columns.xstate_bv = self.snapshot_bv
                columns.asked_components = self.asked_components
            finished = columns.finish()
            sets[name] = finished if isinstance(keep, slice) else _kept(finished, keep)
        misc = self.misc[keep].astype(np.uint16, copy=True)
        batch = SnapshotBatch(
            time_ns=self.time_ns[keep], ip=self.ip[keep], period=self.period[keep],
            pid=self.pid[keep], tid=self.tid[keep], cpu=self.cpu[keep], event=self.event[keep],
            misc=misc, cpumode=(misc & MISC_CPUMODE_MASK).astype(np.uint8),
            exact_ip=(misc & MISC_EXACT_IP) != 0, file_offset=self.file_offset[keep],
            stop_flags=self.stop_flags[keep], sets=sets,
            snapshot_flags=self.snapshot_flags[keep] if self.decoder.snapshots else None,
        )  # fmt: skip
        self.optional.finish(batch, keep)
        if self.statistics is not None:
            batch.extra["stats"] = self.statistics[keep]
        return batch


def _kept(register_set: RegisterSet, keep: Bool) -> RegisterSet:
    """The set without the rows that `keep` lacks."""
    changes: dict[str, Any] = {}
    for field in fields(register_set):
        value = getattr(register_set, field.name)
        if isinstance(value, np.ndarray):
            changes[field.name] = value[keep]
    return replace(register_set, **changes)
