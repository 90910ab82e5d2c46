"""The filter: walks through the table of rules and fills in the verdict and reason columns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.context import JudgeContext
from perfxmm.coherence.evidence import (
    LOW_VECTOR_MASK,
    XSTATE_COMPONENTS,
    Evidence,
    both,
    in_initial_state,
)
from perfxmm.coherence.reasons import REASONS
from perfxmm.coherence.rule import VECTORS, Rule
from perfxmm.coherence.rules import RULES
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.batch import U8, U64, VERDICT_CLASSES, Bool, RegisterSet, SnapshotBatch

_COLUMN = {name: column for column, name in enumerate(VERDICT_CLASSES)}
_VECTOR_COLUMNS = [_COLUMN[name] for name in VECTORS]


def judge(batch: SnapshotBatch, context: JudgeContext) -> None:
    """Fills `verdict` and `reason` of every register set of `batch`.

    It also takes back what was not really delivered: `vector_mask` and `gpr_mask` lose the
    registers that a rule withholds, and where a class is `absent` its masks and delivered counts
    become 0, so that a zero-filled block cannot be taken for data. Values are left alone (see
    `scrub_foreign` and `withhold`). `context.events` must cover every number in `batch.event`.
    Raises ValueError for a batch decoded without the values that rules look at.
    """
    for registers in batch.sets.values():
        _require_values(registers)
    # Everything is judged before anything is trimmed: some rules look at the other set.
    shared: dict[str, Mask] = {}
    judged = [
        (registers, *_walk(Evidence(batch, registers, context, shared)))
        for registers in batch.sets.values()
    ]
    for registers, verdict, reason, withheld in judged:
        registers.verdict = verdict
        registers.reason = reason
        for rule, mask in withheld:
            _take_out(registers, rule, mask)
        _drop_absent(registers)


def _require_values(registers: RegisterSet) -> None:
    missing = (
        (registers.gpr_mask.any() and not registers.gpr_ids)
        or (registers.delivered_qwords.any() and not registers.vectors.shape[2])
        or (registers.delivered_predicates.any() and not registers.predicates.shape[1])
    )
    if missing:
        raise ValueError(f"set {registers.name} cannot be judged without its values")


def _walk(evidence: Evidence) -> tuple[U8, U64, list[tuple[Rule, Mask]]]:
    count = len(evidence.batch)
    # One contiguous row per class while rules write, turned round at the end.
    verdict = np.zeros((len(VERDICT_CLASSES), count), np.uint8)
    reason = np.zeros(count, np.uint64)
    withheld: list[tuple[Rule, Mask]] = []
    for rule in RULES if count else ():
        if evidence.registers.name not in rule.sets:
            continue
        spoken_of = evidence.of_sources(rule.sources)
        if spoken_of is False:
            continue
        mask = both(spoken_of, rule.match(evidence))
        if mask is False:
            continue
        if rule.class_match is None:
            _note(reason, rule, mask)
            for column in rule.columns if rule.verdict is not None else ():
                _write(verdict[column], rule, mask)
        else:
            for name, column in zip(rule.classes, rule.columns, strict=True):
                class_mask = both(mask, rule.class_match(evidence, name))
                if class_mask is not False:
                    _note(reason, rule, class_mask)
                    _write(verdict[column], rule, class_mask)
        if rule.withhold_gprs or rule.withhold_vectors:
            withheld.append((rule, mask))
    return np.ascontiguousarray(verdict.T), reason, withheld


def _note(reason: U64, rule: Rule, mask: Mask) -> None:
    np.bitwise_or(reason, np.uint64(rule.reason_mask), out=reason, where=np.asarray(mask))


def _write(column: U8, rule: Rule, mask: Mask) -> None:
    assert rule.verdict is not None
    np.copyto(column, np.uint8(rule.verdict), where=mask)


def _take_out(registers: RegisterSet, rule: Rule, mask: Mask) -> None:
    if rule.withhold_gprs:
        left = np.uint64(~rule.withhold_gprs & 0xFFFF_FFFF_FFFF_FFFF)
        registers.gpr_mask = np.where(mask, registers.gpr_mask & left, registers.gpr_mask)
    if rule.withhold_vectors:
        keep = np.uint32(~rule.withhold_vectors & 0xFFFF_FFFF)
        registers.vector_mask = np.where(
            mask, registers.vector_mask & keep, registers.vector_mask
        )


def _cleared(column: npt.NDArray[Any], rows: Bool) -> npt.NDArray[Any]:
    """A copy of `column` that is 0 in `rows`: the decoder may share columns between sets."""
    return np.where(rows, column.dtype.type(0), column)


def _drop_absent(registers: RegisterSet) -> None:
    absent = registers.verdict == np.uint8(Verdict.ABSENT)
    if (rows := absent[:, _COLUMN["gpr"]]).any():
        registers.gpr_mask = _cleared(registers.gpr_mask, rows)
    if (rows := absent[:, _COLUMN["xmm"]]).any():
        registers.vector_mask = _cleared(registers.vector_mask, rows)
        registers.delivered_vectors = _cleared(registers.delivered_vectors, rows)
        registers.delivered_qwords = _cleared(registers.delivered_qwords, rows)
    if (rows := absent[:, _COLUMN["opmask"]]).any():
        _drop_predicates(registers, rows)


def _drop_predicates(registers: RegisterSet, rows: Bool) -> None:
    registers.delivered_predicates = _cleared(registers.delivered_predicates, rows)
    if len(registers.predicate_mask) == len(rows):
        registers.predicate_mask = _cleared(registers.predicate_mask, rows)


def init_classes(registers: RegisterSet) -> U8:
    """Which classes are in their architectural initial state: uint8 [n], bit i for class
    VERDICT_CLASSES[i]. All 0 where the source cannot tell. Call after `judge`."""
    found = np.zeros(len(registers.abi), np.uint8)
    bv = registers.xstate_bv
    if bv is not None:
        told = (registers.reason & np.uint64(REASONS["init-state"].mask)) != 0
        delivered = registers.verdict != np.uint8(Verdict.ABSENT)
        for name in XSTATE_COMPONENTS:
            column = _COLUMN[name]
            rows = told & delivered[:, column] & in_initial_state(bv, name)
            found |= rows.astype(np.uint8) << np.uint8(column)
    return found


def class_counts(registers: RegisterSet) -> dict[str, dict[Verdict, int]]:
    """How many samples of a judged set have which verdict, per register class (no zero counts)."""
    counts: dict[str, dict[Verdict, int]] = {}
    for name, column in _COLUMN.items():
        numbers = np.bincount(registers.verdict[:, column], minlength=len(Verdict))
        counts[name] = {verdict: int(numbers[verdict]) for verdict in Verdict if numbers[verdict]}
    return counts


def reason_counts(registers: RegisterSet) -> dict[str, int]:
    """How many samples of a judged set carry which reason, by reason name (no zero counts)."""
    seen = int(np.bitwise_or.reduce(registers.reason)) if len(registers.reason) else 0
    return {
        reason.name: int(np.count_nonzero(registers.reason & np.uint64(reason.mask)))
        for reason in REASONS.values()
        if seen & reason.mask
    }


def kept_rows(batch: SnapshotBatch, keep: Collection[Verdict]) -> Bool:
    """Bool [n]: samples in which some class of some set has a verdict in `keep`."""
    kept = np.zeros(len(batch), np.bool_)
    for registers in batch.sets.values():
        kept |= _in(registers.verdict, keep).any(axis=1)
    return kept


def _in(verdict: U8, keep: Collection[Verdict]) -> Bool:
    table = np.zeros(256, np.bool_)
    table[[int(verdict) for verdict in keep]] = True
    chosen: Bool = table[verdict]
    return chosen


def scrub_foreign(batch: SnapshotBatch) -> None:
    """Takes every `foreign` value out of a judged batch: masks and values become 0, the verdict
    stays. What went through here cannot show another owner's data any more."""
    withhold(batch, frozenset(Verdict) - {Verdict.FOREIGN})


def withhold(batch: SnapshotBatch, keep: Collection[Verdict]) -> None:
    """Takes the values of all classes with a verdict outside `keep` out of a judged batch.

    Vectors are cut to the widest part that is kept (a torn YMM leaves its XMM), `vector_mask`,
    `delivered_qwords`, `delivered_predicates` and `gpr_mask` say what is left, values become 0.
    The verdict and reason columns stay as they are.
    """
    for registers in batch.sets.values():
        kept = _in(registers.verdict, keep)
        _withhold_gprs(registers, ~kept[:, _COLUMN["gpr"]])
        _withhold_predicates(registers, ~kept[:, _COLUMN["opmask"]])
        _withhold_vectors(registers, kept)


def _withhold_gprs(registers: RegisterSet, rows: Bool) -> None:
    rows = rows & (registers.gpr_mask != 0)
    if rows.any():
        registers.gpr_mask = _cleared(registers.gpr_mask, rows)
        registers.gprs = _writable(registers.gprs)
        registers.gprs[rows] = 0


def _withhold_predicates(registers: RegisterSet, rows: Bool) -> None:
    rows = rows & (registers.delivered_predicates != 0)
    if rows.any():
        _drop_predicates(registers, rows)
        registers.predicates = _writable(registers.predicates)
        registers.predicates[rows] = 0


def _withhold_vectors(registers: RegisterSet, kept: Bool) -> None:
    width = np.zeros(len(kept), np.uint8)
    for name, qwords in (("xmm", 2), ("ymm", 4), ("zmm", 8)):
        width[kept[:, _COLUMN[name]]] = qwords
    rows = width < registers.delivered_qwords
    if not rows.any():
        return
    low = np.where(width == 0, np.uint32(0), np.uint32(LOW_VECTOR_MASK))
    registers.vector_mask = np.where(rows, registers.vector_mask & low, registers.vector_mask)
    registers.vectors = _writable(registers.vectors)
    for left in np.unique(width[rows]):
        registers.vectors[rows & (width == left), :, int(left) :] = 0
    registers.vectors[rows, 16:] = 0
    registers.delivered_qwords = np.where(rows, width, registers.delivered_qwords)
    registers.delivered_vectors = np.where(
        rows & (width == 0), np.uint8(0), registers.delivered_vectors
    )


def _writable(values: U64) -> U64:
    return values if values.flags.writeable else values.copy()
