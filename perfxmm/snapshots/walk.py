"""From where a sample starts to where each of its fields starts, for many samples at once.

A walk takes one event's samples through its layout plan field by field, all samples together.
What a length word says is checked against the record's end before it is believed; a sample that
does not hold what it claims leaves the walk and is named in `damage`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.layout import FieldKind, FieldPlan, LayoutPlan, SetPlan
from perfxmm.snapshots.batch import I64, U64, Bool
from perfxmm.snapshots.records import ALL_BITS, WORD_BYTES, all_equal, stride_of

# perf_sample_regs_abi: none, 32, 64, and the latter two with SIMD (kernel.constants.REGS_ABI_*).
SIMD_ABIS = np.array([True, True, True, False, False, True, True, False])
PLAIN_ABIS = np.array([True, True, True, False, False, False, False, False])
POSSIBLE_QWORDS = np.array([True, False, True, False, True, False, False, False, True, False])
RAW_SIZE = 0xFFFFFFFF  # RAW begins with a u32; its payload shares the word
# With fewer samples than this it does not pay to look for one layout in all of them.
ALIKE_LEAST = 8
SIMD_ABI = np.uint64(4)
SIMD_HEADER_WORDS = {"u64": 4, "u16": 1, "none": 0}
# Postings of dialect R2 cut nr_vectors to this where the upper 16 registers were missing.
R2_CUT_REGISTERS = 16


class Look(Flag):
    """How to take samples for which there is more than one way.

    FULL_PAYLOAD: where a u16 header says 16 vectors and more were asked for, the payload holds all
    that were asked for. The postings that cut the count wrote such records.
    BARE_BRANCHES: a branch stack without entries has no hardware index either.
    LONGER: words may follow the last field.
    """

    PLAIN = 0
    FULL_PAYLOAD = auto()
    BARE_BRANCHES = auto()
    LONGER = auto()

Word = TypeVar("Word", np.uint64, np.int64)


@dataclass(slots=True)
class Walk:
    """Where things are. Arrays are [k], one row for each sample that was sound.

    row: which of the samples handed in. start, end: first word, and the word behind the last.
    at: field name -> word where it starts (for register sets: the abi word).
    count: field name -> entries (call chain, branch stack) or bytes (raw, stack, aux).
    abi, header: register set name -> abi, and the SIMD header packed as in RegisterSet.header.
    stored: register set name -> vectors in the payload, which may be more than the header says.
    damage: rows that were not sound, and why.
    longer: how many samples have words behind their last field, which nobody reads.
    bare_branches: taken so (`Look`).
    alike: every sample has the same layout as the first. stride: and is so many words behind the
        one before it; 0: it is not; None: not known.
    """

    row: I64
    start: I64
    end: I64
    at: dict[str, I64] = field(default_factory=dict)
    count: dict[str, I64] = field(default_factory=dict)
    abi: dict[str, U64] = field(default_factory=dict)
    header: dict[str, U64] = field(default_factory=dict)
    stored: dict[str, I64] = field(default_factory=dict)
    damage: list[tuple[I64, str]] = field(default_factory=list)
    longer: int = 0
    bare_branches: bool = False
    alike: bool = False
    stride: int | None = None

    def __len__(self) -> int:
        return len(self.row)


def walk_samples(
    words: U64, start: I64, end: I64, plan: LayoutPlan, *, look: Look = Look.PLAIN
) -> Walk:
    """Walks samples start[i]..end[i] (in words; they lie inside `words`) by `plan`."""
    if len(start) >= ALIKE_LEAST and bool((end - start == end[0] - start[0]).all()):
        pioneer = _Walker(words, start[:1], end[:1], look)
        first = pioneer.go(plan)
        stride = stride_of(start)
        origin = int(start[0])
        if len(first) and all(
            all_equal(words, start, place - origin, value, mask, stride)
            for place, value, mask in pioneer.seen
        ):
            return _repeated(first, start, end, stride)
    return _Walker(words, start, end, look).go(plan)


def _repeated(first: Walk, start: I64, end: I64, stride: int) -> Walk:
    """The walk of one sample as that of all, whose lengths are known to be the same."""
    n, origin = len(start), int(first.start[0])
    return Walk(
        row=np.arange(n), start=start, end=end,
        at={name: start + (int(at[0]) - origin) for name, at in first.at.items()},
        count={name: _same(count, n) for name, count in first.count.items()},
        abi={name: _same(abi, n) for name, abi in first.abi.items()},
        header={name: _same(header, n) for name, header in first.header.items()},
        stored={name: _same(stored, n) for name, stored in first.stored.items()},
        alike=True, stride=stride, longer=n * first.longer, bare_branches=first.bare_branches,
    )  # fmt: skip


def _same(one: npt.NDArray[Word], n: int) -> npt.NDArray[Word]:
    """The only element of `one`, n times over, read-only; np.broadcast_to takes far longer."""
    repeated: npt.NDArray[Word] = np.ndarray((n,), one.dtype, one, 0, (0,))
    repeated.flags.writeable = False
    return repeated


class _Walker:
    """The walk under way: `pos` is the word each sample has come to.

    seen: for a walk of one sample, each word that decided a length: place, value, mask.
    """

    def __init__(self, words: U64, start: I64, end: I64, look: Look) -> None:
        self.words = words
        self.pos = start
        self.options = look
        self.walk = Walk(
            row=np.arange(len(start)), start=start, end=end,
            bare_branches=Look.BARE_BRANCHES in look,
        )  # fmt: skip
        self.seen: list[tuple[int, int, int]] = []

    def go(self, plan: LayoutPlan) -> Walk:
        self.advance(plan.fixed_words)
        for step in plan.following:
            self.field(step, plan)
        return self.finish(plan)

    def look(self, at: I64, mask: int = ALL_BITS) -> U64:
        """The words at `at`, which exist; every length is read through here."""
        found: U64 = self.words[at]
        if len(at) == 1:
            self.seen.append((int(at[0]), int(found[0]), mask))
        return found

    def advance(self, count: int | I64) -> None:
        self.pos = self.pos + count

    def drop(self, bad: npt.NDArray[np.bool_], why: str) -> None:
        """Lets the samples marked in `bad` leave the walk."""
        if not bad.any():
            return
        walk, keep = self.walk, ~bad
        walk.damage.append((walk.row[bad], why))
        self.pos, walk.row = self.pos[keep], walk.row[keep]
        walk.start, walk.end = walk.start[keep], walk.end[keep]
        tables: list[dict[str, Any]] = [walk.at, walk.count, walk.abi, walk.header, walk.stored]
        for columns in tables:
            for name in columns:
                columns[name] = columns[name][keep]

    def need(self, count: int | I64, name: str) -> None:
        """Drops samples that have fewer than `count` words left."""
        self.drop(self.pos + count > self.walk.end, f"the record ends inside {name}")

    def length(self, name: str, unit: int) -> I64:
        """The u64 at `pos`: so many units of `unit` bytes follow, no more than the record has."""
        self.need(1, name)
        claimed = self.look(self.pos)
        room = (self.walk.end - self.pos - 1) * WORD_BYTES // unit
        too_long = claimed > room.astype(np.uint64)
        if too_long.any():
            self.drop(too_long, f"{name} claims to be longer than its record")
            claimed = claimed[~too_long]
        return claimed.astype(np.int64)

    def field(self, step: FieldPlan, plan: LayoutPlan) -> None:
        walk, name = self.walk, step.name
        if step.kind is FieldKind.REGISTERS:
            self.registers(plan.sets[name])
            return
        if step.kind is FieldKind.WORDS:
            walk.at[name] = self.pos
            self.advance(step.words)
            return
        if step.kind is FieldKind.RAW:
            self.need(1, name)
            count = (self.look(self.pos, RAW_SIZE) & np.uint64(RAW_SIZE)).astype(np.int64)
            step_words = _words(4 + count)
        else:
            entry_bytes = step.entry_words * WORD_BYTES
            count = self.length(name, entry_bytes if step.kind is FieldKind.COUNTED else 1)
            if step.kind is FieldKind.COUNTED:
                step_words = 1 + step.words + count * step.entry_words
                if name == "branch_stack" and walk.bare_branches:
                    step_words = step_words - step.words * (count == 0)
            elif step.kind is FieldKind.STACK:
                step_words = 1 + _words(count) + (count > 0)
            else:
                step_words = 1 + _words(count)
        walk.at[name], walk.count[name] = self.pos, count
        self.advance(step_words)

    def registers(self, plan: SetPlan) -> None:
        walk, name = self.walk, plan.name
        self.need(1, f"the {name} registers' abi")
        abi = self.look(self.pos)
        possible = SIMD_ABIS if plan.simd else PLAIN_ABIS
        bad = ~possible[np.minimum(abi, np.uint64(7)).view(np.int64)]
        if bad.any():
            self.drop(bad, f"the {name} registers have an impossible abi")
            abi = abi[~bad]
        walk.at[name], walk.abi[name] = self.pos, abi
        self.advance(1 + (abi != 0) * plan.words)
        walk.header[name] = np.zeros(len(abi), np.uint64)
        walk.stored[name] = np.zeros(len(abi), np.int64)
        if plan.simd and (abi & np.uint64(4)).any():
            self.simd(plan)

    def simd(self, plan: SetPlan) -> None:
        walk, name = self.walk, plan.name
        header_words = SIMD_HEADER_WORDS[plan.header]
        self.need(header_words * self._has_simd(name), f"the {name} registers' SIMD header")
        has = self._has_simd(name)
        at = np.where(has, self.pos, 0)
        if plan.header == "u64":
            parts = [self.look(at + part) for part in range(4)]
        else:
            slot = self.look(at)
            parts = [slot >> np.uint64(shift) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)]
        nr, qwords, nr_pred, pred_qwords = (np.where(has, part, np.uint64(0)) for part in parts)
        bad = (
            (nr > len(plan.vec_registers)) | (qwords > plan.vec_qwords)
            | (nr_pred > len(plan.pred_registers)) | (pred_qwords > plan.pred_qwords)
            | ~POSSIBLE_QWORDS[np.minimum(qwords, np.uint64(9)).astype(np.int64)]
        )  # fmt: skip
        stored = nr.copy()
        if Look.FULL_PAYLOAD in self.options:
            cut = (nr == R2_CUT_REGISTERS) & (len(plan.vec_registers) > R2_CUT_REGISTERS)
            stored[cut] = len(plan.vec_registers)
        walk.header[name] = (
            nr | qwords << np.uint64(16) | nr_pred << np.uint64(32) | pred_qwords << np.uint64(48)
        )
        walk.stored[name] = stored.astype(np.int64)
        data = (stored * qwords + nr_pred * pred_qwords).astype(np.int64)
        data[bad] = 0
        self.advance(header_words * has + data)
        self.drop(bad, f"the {name} registers' SIMD header says more than was asked for")

    def _has_simd(self, name: str) -> Bool:
        has: Bool = (self.walk.abi[name] & np.uint64(4)) != 0
        return has

    def finish(self, plan: LayoutPlan) -> Walk:
        walk = self.walk
        self.drop(self.pos > walk.end, "the record is shorter than its fields")
        if plan.open_ended:
            return walk
        left_over = self.pos != walk.end
        # Words left over mean that the plan is not this record's: registers read by it would be
        # somebody else's bytes. Without registers they are passed over, as perf does.
        if plan.sets or (plan.branch_hw_index and Look.LONGER not in self.options):
            self.drop(left_over, "the record is longer than its fields")
        else:
            walk.longer = int(np.count_nonzero(left_over))
        return walk


def _words(bytes_: I64) -> I64:
    return -(-bytes_ // WORD_BYTES)
