"""Columns that a caller gets only when asking for them by name.

Most are one u64 of each sample (EXTRA_COLUMNS); call chains, branch stacks and counts that were
read with the sample are ragged (RAGGED_COLUMNS): for these a walk's places are kept until it is
settled which samples stay, and copied then.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from perfxmm.kernel.constants import CONTEXT_USER_DEFERRED
from perfxmm.kernel.layout import BRANCH_ENTRY_WORDS, LayoutPlan, ReadPlan
from perfxmm.snapshots.batch import I64, U64, Bool, SnapshotBatch
from perfxmm.snapshots.records import WORD_BYTES, ragged
from perfxmm.snapshots.walk import Walk

# In SnapshotBatch.extra; units and meaning as in PERF_RECORD_SAMPLE. *_offset are byte offsets in
# the block's buffer, for a caller that wants the bytes themselves; raw, stack and AUX bytes.
# weight is the whole word; weight_var1 .. 3 its parts where the event has WEIGHT_STRUCT (union
# perf_sample_weight: 32, 16 and 16 bits from the lowest up). time_*_ns: of READ. deferred_cookie:
# names the CALLCHAIN_DEFERRED record that has the rest of the chain; kernels never use 0.
# branch_hw_index: all ones, as kernels say it, where the hardware or the record has none.
EXTRA_COLUMNS = (
    "addr", "id", "stream_id", "weight", "weight_var1", "weight_var2", "weight_var3", "data_src",
    "transaction", "phys_addr", "cgroup", "data_page_size", "code_page_size", "raw_offset",
    "raw_bytes", "user_stack_offset", "user_stack_bytes", "user_stack_dyn_bytes", "aux_offset",
    "aux_bytes", "time_enabled_ns", "time_running_ns", "branch_hw_index", "deferred_cookie",
)  # fmt: skip
# With "chain", which is asked for by default.
RAGGED_COLUMNS = ("branches", "branch_counters", "read")
NO_HW_INDEX = np.uint64(0xFFFFFFFFFFFFFFFF)
READ_COLUMNS = 3  # count, id, lost samples
# Part of a weight -> shift and mask.
_WEIGHT_PARTS = {
    "weight_var1": (0, 0xFFFFFFFF), "weight_var2": (32, 0xFFFF), "weight_var3": (48, 0xFFFF),
}  # fmt: skip


@dataclass(slots=True)
class _Reads:
    """READ fields of one walk. rows: which of the block's samples; at: word of each field."""

    rows: I64
    at: I64
    count: I64
    plan: ReadPlan


class OptionalColumns:
    """The optional columns of n samples under construction, filled walk by walk.

    offsets: byte of the block's buffer at which each sample begins.
    """

    def __init__(self, n: int, columns: Collection[str], words: U64, offsets: I64) -> None:
        self.n = n
        self.words = words
        self.offsets = offsets
        self.extra = {name: np.zeros(n, np.uint64) for name in EXTRA_COLUMNS if name in columns}
        self._at: dict[str, I64] = {}
        self._count: dict[str, I64] = {}
        asked = {name for name in ("chain", *RAGGED_COLUMNS) if name in columns}
        if "branch_counters" in asked:
            asked.add("branches")
        for name in sorted(asked):
            self._at[name] = np.zeros(n, np.int64)
            self._count[name] = np.zeros(n, np.int64)
        self._reads: list[_Reads] = []
        self._wanted = bool(self.extra or asked)

    def add(self, plan: LayoutPlan, walk: Walk, head: U64, place: I64 | slice) -> None:
        """Takes what the samples of a walk have. head: their words up to READ; place: their rows.
        """
        if not self._wanted:
            return
        for name, column in self.extra.items():
            if name in plan.fixed:
                column[place] = head[:, plan.fixed[name]]
            elif name == "id" and "identifier" in plan.fixed:
                column[place] = head[:, plan.fixed["identifier"]]
            elif name in walk.at:
                column[place] = self.words[walk.at[name]]
        self._bytes(walk, place)
        if "callchain" in walk.at:
            self._chain(plan, walk, place)
        if "branch_stack" in walk.at:
            self._branches(plan, walk, place)
        if plan.read is not None:
            self._read(plan.read, walk, place)
        if plan.weight_parts:
            for name, (shift, mask) in _WEIGHT_PARTS.items():
                if name in self.extra:
                    whole = self.words[walk.at["weight"]]
                    self.extra[name][place] = whole >> np.uint64(shift) & np.uint64(mask)

    def finish(self, batch: SnapshotBatch, keep: Bool | slice) -> None:
        """Puts the columns of the samples that stay into `batch`."""
        batch.extra.update((name, column[keep]) for name, column in self.extra.items())
        if "chain" in self._at:
            batch.chain_start, chain = ragged(
                self.words, self._at["chain"][keep], self._count["chain"][keep]
            )
            batch.chain = chain.reshape(-1)
        if "branches" in self._at:
            at, count = self._at["branches"][keep], self._count["branches"][keep]
            batch.branch_start, batch.branches = ragged(self.words, at, count, BRANCH_ENTRY_WORDS)
            if "branch_counters" in self._at:
                batch.branch_counters = self._counters(count, keep)
        if "read" in self._at:
            batch.read_start, batch.read_values = self._read_values(keep)

    def _bytes(self, walk: Walk, place: I64 | slice) -> None:
        """Where the fields that are bytes lie: RAW, the user stack, AUX."""
        for name, skip in (("raw", 4), ("user_stack", 8), ("aux", 8)):
            if name not in walk.at:
                continue
            count = walk.count[name]
            if f"{name}_bytes" in self.extra:
                self.extra[f"{name}_bytes"][place] = count.astype(np.uint64)
            if f"{name}_offset" in self.extra:
                inside = (walk.at[name] - walk.start) * WORD_BYTES + skip
                at = self.offsets[place] + inside
                self.extra[f"{name}_offset"][place] = at.astype(np.uint64)
            if name == "user_stack" and "user_stack_dyn_bytes" in self.extra:
                self.extra["user_stack_dyn_bytes"][place] = stack_used(self.words, walk)

    def _chain(self, plan: LayoutPlan, walk: Walk, place: I64 | slice) -> None:
        at, count = walk.at["callchain"] + 1, walk.count["callchain"]
        if plan.deferred and ("chain" in self._at or "deferred_cookie" in self.extra):
            # The last two of a chain that goes on in another record: the mark, and the cookie,
            # which is no address.
            mark = np.where(count >= 2, at + count - 2, walk.start)
            deferred = (count >= 2) & (self.words[mark] == np.uint64(CONTEXT_USER_DEFERRED))
            if "deferred_cookie" in self.extra:
                cookie = self.words[np.where(deferred, mark + 1, walk.start)]
                self.extra["deferred_cookie"][place] = np.where(deferred, cookie, np.uint64(0))
            count = count - deferred
        if "chain" in self._at:
            self._at["chain"][place], self._count["chain"][place] = at, count

    def _branches(self, plan: LayoutPlan, walk: Walk, place: I64 | slice) -> None:
        at, count = walk.at["branch_stack"] + 1, walk.count["branch_stack"]
        if plan.branch_hw_index and not walk.bare_branches:
            if "branch_hw_index" in self.extra:
                self.extra["branch_hw_index"][place] = self.words[at]
            at = at + 1
        elif "branch_hw_index" in self.extra and plan.branch_hw_index:
            self.extra["branch_hw_index"][place] = NO_HW_INDEX
        if "branches" in self._at:
            self._at["branches"][place], self._count["branches"][place] = at, count
        if "branch_counters" in self._at and plan.branch_counters:
            # Behind all entries: perf_output_sample in kernel/events/core.c, Linux 7.3.
            self._at["branch_counters"][place] = at + count * BRANCH_ENTRY_WORDS
            self._count["branch_counters"][place] = count

    def _counters(self, branches: I64, keep: Bool | slice) -> U64:
        """uint64 [m], one for each branch; 0 where the sample's event has no counters."""
        at, count = self._at["branch_counters"][keep], self._count["branch_counters"][keep]
        _, found = ragged(self.words, at, count)
        out = np.zeros(int(branches.sum()), np.uint64)
        out[np.repeat(count > 0, branches)] = found.reshape(-1)
        return out

    def _read(self, plan: ReadPlan, walk: Walk, place: I64 | slice) -> None:
        at = walk.at["read"]
        for name, word in (("time_enabled_ns", plan.enabled), ("time_running_ns", plan.running)):
            if word is not None and name in self.extra:
                self.extra[name][place] = self.words[at + word]
        if "read" in self._at:
            count = walk.count["read"] if plan.entry_words else np.ones(len(walk), np.int64)
            self._count["read"][place] = count
            self._reads.append(_Reads(np.arange(self.n)[place], at, count, plan))

    def _read_values(self, keep: Bool | slice) -> tuple[I64, U64]:
        """Start of each sample's counts [n + 1], and [m, READ_COLUMNS]."""
        counts = self._count["read"][keep]
        start = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=start[1:])
        out = np.zeros((int(start[-1]), READ_COLUMNS), np.uint64)
        kept = np.zeros(self.n, np.bool_)
        kept[keep] = True
        row_of = np.cumsum(kept) - 1  # where a sample that stays comes to stand
        for reads in self._reads:
            stays = kept[reads.rows]
            count, at = reads.count[stays], reads.at[stays]
            ends = np.cumsum(count)
            inside = np.arange(int(count.sum())) - np.repeat(ends - count, count)
            target = np.repeat(start[row_of[reads.rows[stays]]], count) + inside
            source = np.repeat(at, count) + inside * reads.plan.entry_words
            parts = (reads.plan.value, reads.plan.id, reads.plan.lost)
            for column, word in enumerate(parts):
                if word is not None:
                    out[target, column] = self.words[source + word]
        return start, out


def stack_used(words: U64, walk: Walk) -> U64:
    """uint64 [k]: how many bytes of the user stack's dump are stack; 0 without a dump."""
    at, count = walk.at["user_stack"], walk.count["user_stack"]
    has = count > 0
    behind = np.where(has, at + 1 + -(-count // WORD_BYTES), walk.start)
    used: U64 = np.where(has, words[behind], np.uint64(0))
    return used
