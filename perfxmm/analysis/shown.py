"""What of a snapshot may be shown: verdicts asked for, values withheld, initial states.

A class's *verdict* is always shown with a snapshot; its *values* only if the verdict is one that
was asked for, and foreign ones never unless that was asked for by name. Every screen and every
export asks here, so that there is one place to get it wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxmm.coherence.filter import init_classes
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.verdicts import Verdict

Bool = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]

DEFAULT_KEEP: tuple[str, ...] = ("coherent", "late")
VERDICT_NAMES: tuple[str, ...] = tuple(v.name.lower() for v in sorted(Verdict))

GPR, XMM, YMM, ZMM, OPMASK = range(5)
# Id of the instruction pointer among the canonical register ids (asm/perf_regs.h, Linux 7.3).
IP_ID = 8
# The first registers have lower parts of their own; from here on only ZMM has them.
FIRST_HIGH_REGISTER = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """Which verdicts to show, and whether foreign values may be seen."""

    keep: frozenset[str] = frozenset(DEFAULT_KEEP)
    unsafe_foreign: bool = False

    @staticmethod
    def of(keep: Collection[str], unsafe_foreign: bool = False) -> Policy:
        """keep: verdict names, or "all". Raises ValueError naming what is not a verdict."""
        wanted = {name.lower() for name in keep}
        unknown = wanted - set(VERDICT_NAMES) - {"all"}
        if unknown:
            raise ValueError(
                f"no such verdict: {', '.join(sorted(unknown))} "
                f"(there are {', '.join(VERDICT_NAMES)} and all)"
            )
        return Policy(
            frozenset(VERDICT_NAMES) if "all" in wanted else frozenset(wanted), unsafe_foreign
        )

    def kept(self, verdict: npt.NDArray[np.uint8]) -> Bool:
        """Bool mask of verdict codes that were asked for."""
        return self._table()[verdict]

    def visible(self, verdict: npt.NDArray[np.uint8]) -> Bool:
        """Bool mask of verdict codes whose values may be seen."""
        table = self._table()
        table[Verdict.ABSENT] = False
        if not self.unsafe_foreign:
            table[Verdict.FOREIGN] = False
        return table[verdict]

    def _table(self) -> Bool:
        table = np.zeros(256, np.bool_)
        for verdict in Verdict:
            table[verdict] = verdict.name.lower() in self.keep
        return table


def initial(registers: RegisterSet) -> Bool:
    """Bool [n, classes]: delivered, and in its architectural initial state (all zero).

    Known only where the source gives XSTATE_BV; False everywhere else.
    """
    bits = init_classes(registers)
    return (bits[:, None] >> np.arange(len(VERDICT_CLASSES), dtype=np.uint8) & 1).astype(np.bool_)


def delivered_classes(registers: RegisterSet) -> Bool:
    """Bool [n, classes]: what a sample holds at all, whatever its verdict."""
    there = registers.abi != 0
    low = (registers.vector_mask & np.uint32(0xFFFF)) != 0
    high = (registers.vector_mask >> np.uint32(FIRST_HIGH_REGISTER)) != 0
    qwords = registers.delivered_qwords
    return np.stack(
        [
            there & (registers.gpr_mask != 0),
            there & low & (qwords >= 2),
            there & low & (qwords >= 4),
            there & (low | high) & (qwords >= 8),
            there & (registers.delivered_predicates != 0),
        ],
        axis=1,
    )


def words_of_class(column: int, registers: int, qwords: int) -> Bool:
    """Bool [registers, qwords]: the words of a vector register file that a class stands for."""
    out = np.zeros((registers, qwords), np.bool_)
    first, last = {XMM: (0, 2), YMM: (2, 4), ZMM: (4, 8)}[column]
    out[:FIRST_HIGH_REGISTER, first:last] = True
    if column == ZMM:
        out[FIRST_HIGH_REGISTER:] = True
    return out


def present_words(registers: RegisterSet, classes: Bool) -> Bool:
    """Bool [n, registers, qwords]: words that were delivered and belong to `classes` [n, 5]."""
    n, count, width = registers.vectors.shape
    numbers = np.arange(count, dtype=np.uint32)
    there = (registers.vector_mask[:, None] >> numbers & np.uint32(1)).astype(np.bool_)
    wide = np.arange(width) < registers.delivered_qwords[:, None]
    out = np.zeros((n, count, width), np.bool_)
    for column in (XMM, YMM, ZMM):
        words = words_of_class(column, count, width)
        out |= words & classes[:, column, None, None]
    return out & there[:, :, None] & wide[:, None, :]


def present_words_at(
    registers: RegisterSet, classes: Bool, rows: npt.NDArray[np.intp],
    numbers: npt.NDArray[np.intp],
) -> Bool:
    """`present_words` of some registers only: sample rows[k], register numbers[k].

    Returns bool [len(rows), qwords].
    """
    _, count, width = registers.vectors.shape
    there = (registers.vector_mask[rows] >> numbers.astype(np.uint32) & np.uint32(1)) != 0
    out = np.zeros((len(rows), width), np.bool_)
    for column in (XMM, YMM, ZMM):
        words = words_of_class(column, count, width)
        out |= words[numbers] & classes[rows, column][:, None]
    wide = np.arange(width) < registers.delivered_qwords[rows][:, None]
    present: Bool = out & wide & there[:, None]
    return present


def attributed_ip(batch: SnapshotBatch) -> U64:
    """The IP a snapshot counts for: the registers' own where they are late, else the sample's.

    Late means that no class of any set is coherent with the sample's IP, and one set is coherent
    with an IP of its own.
    """
    late = np.zeros(len(batch), np.bool_)
    coherent = np.zeros(len(batch), np.bool_)
    for registers in batch.sets.values():
        coherent |= (registers.verdict == Verdict.COHERENT).any(axis=1)
    out = batch.ip
    for registers in batch.sets.values():
        own = registers.gpr(IP_ID)
        if own is None:
            continue
        has_own = (registers.gpr_mask >> np.uint64(IP_ID) & np.uint64(1)).astype(np.bool_)
        mine = (registers.verdict == Verdict.LATE).any(axis=1) & has_own & ~coherent & ~late
        if mine.any():
            out = np.where(mine, own, out)
            late |= mine
    return out


def at_ip(registers: RegisterSet, ip: U64, policy: Policy) -> Bool:
    """Bool [n]: the registers are not known to be of another IP than `ip`, uint64 [n]."""
    own = registers.gpr(IP_ID)
    if own is None:
        return np.ones(len(ip), np.bool_)
    told = (registers.gpr_mask >> np.uint64(IP_ID) & np.uint64(1)) != 0
    told &= policy.visible(registers.verdict[:, GPR])
    belong: Bool = ~told | (own == ip)
    return belong


def withhold(registers: RegisterSet, policy: Policy) -> None:
    """Zero the values of classes that `policy` does not show. Masks and verdicts stay.

    After this a zero may mean "withheld": read `Policy.visible(registers.verdict)` first.
    """
    visible = policy.visible(registers.verdict)
    hidden = delivered_classes(registers) & ~visible
    if not hidden.any():
        return
    registers.gprs = np.where(visible[:, GPR, None], registers.gprs, np.uint64(0))
    if registers.predicates.shape[1]:
        registers.predicates = np.where(
            visible[:, OPMASK, None], registers.predicates, np.uint64(0)
        )
    if registers.vectors.shape[1] and hidden[:, XMM : ZMM + 1].any():
        keep = present_words(registers, visible)
        registers.vectors = np.where(keep, registers.vectors, np.uint64(0))


# From the most to the least that can be made of a snapshot.
_USEFULNESS: tuple[Verdict, ...] = (
    Verdict.COHERENT, Verdict.LATE, Verdict.ENTRY, Verdict.TORN, Verdict.UNKNOWN, Verdict.FOREIGN,
    Verdict.ABSENT,
)  # fmt: skip


def best_verdict(verdicts: list[npt.NDArray[np.uint8]], asked: list[Bool]) -> npt.NDArray[np.uint8]:
    """The most useful verdict of each sample over its sets and the classes that were asked for.

    verdicts, asked: one [n, classes] each per set. ABSENT where nothing was asked for.
    """
    rank_of = np.full(256, len(_USEFULNESS) - 1, np.uint8)
    for rank, verdict in enumerate(_USEFULNESS):
        rank_of[verdict] = rank
    code_of = np.array(_USEFULNESS, np.uint8)
    n = len(verdicts[0]) if verdicts else 0
    best = np.full(n, len(_USEFULNESS) - 1, np.uint8)
    for codes, wanted in zip(verdicts, asked, strict=True):
        ranks = np.where(wanted, rank_of[codes], np.uint8(len(_USEFULNESS) - 1))
        best = np.minimum(best, ranks.min(axis=1))
    return code_of[best]


def primary_set(batch: SnapshotBatch, policy: Policy) -> tuple[list[str], npt.NDArray[np.int8]]:
    """Which set speaks for each sample in statistics, so that no register counts twice.

    Returns the set names and int8 [n]: the index of the first one with visible vectors or
    opmasks, -1 where there is none.
    """
    names: list[str] = [name for name in ("user", "intr") if name in batch.sets]
    chosen = np.full(len(batch), -1, np.int8)
    for index, name in enumerate(names):
        visible = policy.visible(batch.sets[name].verdict)[:, XMM:]
        there = delivered_classes(batch.sets[name])[:, XMM:]
        chosen[(chosen < 0) & (visible & there).any(axis=1)] = index
    return names, chosen


def limited(batches: Iterator[SnapshotBatch], limit: int | None) -> Iterator[SnapshotBatch]:
    """The first `limit` samples of all batches together; None is no limit."""
    left = limit
    for batch in batches if left != 0 else ():
        if left is None:
            yield batch
            continue
        if len(batch) >= left:
            yield select(batch, np.arange(len(batch)) < left)
            return
        left -= len(batch)
        yield batch


def select(batch: SnapshotBatch, rows: Bool) -> SnapshotBatch:
    """The batch with only the rows of a mask; call chains and branch stacks go along."""
    n = len(batch)
    changes: dict[str, Any] = {
        "sets": {name: _select_set(s, rows, n) for name, s in batch.sets.items()},
        "extra": {name: column[rows] for name, column in batch.extra.items()},
    }
    for starts, values in (
        ("chain_start", "chain"), ("branch_start", "branches"),
        ("branch_start", "branch_counters"), ("read_start", "read_values"),
    ):  # fmt: skip
        begin, items = getattr(batch, starts), getattr(batch, values)
        if begin is None or items is None:
            continue
        length = np.diff(begin)
        changes[values] = items[np.repeat(rows, length)]
        changes[starts] = np.concatenate([[0], np.cumsum(length[rows])]).astype(begin.dtype)
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name not in changes and isinstance(value, np.ndarray) and len(value) == n:
            changes[field.name] = value[rows]
    return replace(batch, **changes)


def _select_set(registers: RegisterSet, rows: Bool, n: int) -> RegisterSet:
    changes: dict[str, Any] = {
        field.name: value[rows]
        for field in fields(registers)
        if isinstance(value := getattr(registers, field.name), np.ndarray) and len(value) == n
    }
    return replace(registers, **changes)
