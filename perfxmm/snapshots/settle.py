"""Which dialect an event's samples really are in.

An attr does not prove its dialect: postings R6 have O1's attr and R2's header, and R2's fields can
be read as M's. So an event's first samples are asked. A reading of the attr fits a sample where
the sample's SIMD headers stay within what the attr asks for by it and the fields end where the
record does; kernels with u64 headers (M, O1, O2) always echo the attr's own numbers, which tells
readings apart whose headers have the same size.

The sample layouts are those of the merged series, the overlays and the postings (`dialects`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.dialects import Dialect
from perfxmm.kernel.layout import LayoutPlan, plan_layout
from perfxmm.snapshots.batch import I64, U64
from perfxmm.snapshots.walk import SIMD_ABI, Look, walk_samples

# How many of an event's first samples are asked.
CONFIRM_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was found out about one event's dialect.

    attr: the event's, read by that dialect. confirmed: True where samples agree with what the attr
    says, False where they overrule it, None where none has spoken (yet), or none fits anything.
    evidence: what the samples say, in words.
    """

    attr: EventAttr
    plan: LayoutPlan
    confirmed: bool | None = None
    evidence: str = "no sample with a SIMD header was met that would confirm it"

    @property
    def dialect(self) -> Dialect:
        return self.attr.dialect


@dataclass(frozen=True, slots=True)
class _Trial:
    """How one reading of the attr does. tried: samples; simd: those that fit and have a header;
    exact: of these, the headers that say what the attr says."""

    attr: EventAttr
    plan: LayoutPlan
    tried: int
    fitting: int
    simd: int
    exact: int

    @property
    def echoes(self) -> bool:
        """The headers are as this dialect's kernels write them. Those with u16 headers may say
        less than was asked for."""
        return self.attr.dialect.header != "u64" or self.exact == self.simd


def other_looks(plan: LayoutPlan) -> tuple[Look, ...]:
    """In what other ways samples may be meant that do not fit their plan, likeliest first."""
    looks: list[Look] = []
    cut = any(set_plan.header == "u16" for set_plan in plan.sets.values())
    if cut:
        looks.append(Look.FULL_PAYLOAD)
    if plan.branch_hw_index:
        looks.append(Look.BARE_BRANCHES)
        if cut:
            looks.append(Look.FULL_PAYLOAD | Look.BARE_BRANCHES)
        if not plan.sets:
            looks.append(Look.LONGER)
    return tuple(looks)


def first_settlement(attr: EventAttr) -> Settlement:
    """What the attr alone says."""
    return Settlement(attr, plan_layout(attr))


def open_question(said: Settlement) -> bool:
    """Whether samples can have anything to say: there are register sets, and SIMD fields in the
    attr, by one reading at least."""
    return bool(said.plan.sets) and (
        said.attr.simd_enabled or next(_other_readings(said.attr), None) is not None
    )


def settle(said: Settlement, words: U64, start: I64, end: I64) -> Settlement:
    """Asks an event's first samples, start[i]..end[i] in `words`.

    Returns `said` itself where they say nothing: none has a SIMD header. Another reading of the
    attr is taken only where no sample with a SIMD header fits as the attr says, or headers do not
    echo it, and nearly all samples fit otherwise.
    """
    some = slice(0, CONFIRM_SAMPLES)
    start, end = start[some], end[some]
    mine = _try(said.attr, said.plan, words, start, end)
    if mine.simd and mine.echoes:
        kind = said.dialect.header
        return replace(
            said, confirmed=True,
            evidence=f"the first {_samples(mine.simd)} {kind} SIMD headers that fit it",
        )
    if mine.fitting == mine.tried and not mine.simd:
        return said
    for attr in _other_readings(said.attr):
        trial = _try(attr, plan_layout(attr), words, start, end)
        if trial.simd and trial.echoes and 8 * trial.fitting >= 7 * trial.tried:
            found = attr.dialect
            why = (
                f"the first {_samples(trial.simd)} {found.header} SIMD headers that fit dialect "
                f"{found.name} ({found.title}), and not {said.dialect.name}"
                if found is not dialects.UNKNOWN else
                f"the first {_samples(trial.simd)} u16 SIMD headers, though the event's attribute "
                f"reads as dialect {said.dialect.name}: no known kernel writes that"
            )
            return Settlement(attr, trial.plan, False, why)
    if mine.simd:
        # The UAPI header's comment allows less than was asked for, though no known kernel with
        # four u64 writes that.
        return replace(
            said, confirmed=True,
            evidence=f"the first {_samples(mine.simd)} {said.dialect.header} SIMD headers that fit "
            f"it, {mine.simd - mine.exact} of them with less than was asked for",
        )
    return replace(said, evidence="no known dialect's SIMD headers fit the first samples")


def _samples(count: int) -> str:
    return f"{count} samples have" if count != 1 else "sample has"


def _other_readings(attr: EventAttr) -> Iterator[EventAttr]:
    try:
        raw = attr_codec.encode(attr)
    except ValueError:  # made by hand, and not as any file could have it
        return
    for dialect in dialects.readings(raw):
        if dialect.name != attr.dialect.name:
            yield attr_codec.decode(raw, dialect=dialect)
    if attr.dialect.name in ("M", "O2"):
        yield replace(attr, dialect=dialects.UNKNOWN)


def _try(attr: EventAttr, plan: LayoutPlan, words: U64, start: I64, end: I64) -> _Trial:
    fitting = simd = exact = 0
    left = np.arange(len(start))
    for look in (Look.PLAIN, *other_looks(plan)):
        walk = walk_samples(words, start[left], end[left], plan, look=look)
        has = np.zeros(len(walk), np.bool_)
        same = np.ones(len(walk), np.bool_)
        for name, abi in walk.abi.items():
            with_header = (abi & SIMD_ABI) != 0
            has |= with_header
            same &= ~with_header | (walk.header[name] == _echo(attr, name))
        fitting += len(walk)
        simd += int(np.count_nonzero(has))
        exact += int(np.count_nonzero(has & same))
        if not walk.damage:
            break
        left = np.sort(left[np.concatenate([rows for rows, _ in walk.damage])])
    return _Trial(attr, plan, len(start), fitting, simd, exact)


def _echo(attr: EventAttr, name: str) -> np.uint64:
    """The header of a kernel that says what was asked for, packed as in RegisterSet.header."""
    ask = attr.simd
    vec, pred = (ask.vec_intr, ask.pred_intr) if name == "intr" else (ask.vec_user, ask.pred_user)
    return np.uint64(
        vec.bit_count() | ask.vec_qwords << 16 | pred.bit_count() << 32 | ask.pred_qwords << 48
    )

