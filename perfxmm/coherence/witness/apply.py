"""Lets the code speak about a judged batch, and changes verdicts by what it says."""

from __future__ import annotations

import numpy as np

from perfxmm.coherence.context import JudgeContext
from perfxmm.coherence.rules_code import CODE_RULES, CodeEvidence
from perfxmm.coherence.verdicts import Verdict
from perfxmm.coherence.witness.asking import Witness
from perfxmm.snapshots.batch import I32, U64, SnapshotBatch


def apply(
    batch: SnapshotBatch, context: JudgeContext, witness: Witness, ip: U64, dso: I32, offset: U64,
) -> bool:
    """Asks the code about every set of a judged batch; see Witness.testify for the columns.

    Notes the statement with the batch (`Statement.of`) and the reasons with the samples. Classes
    that were coherent become late where a skid explains their set's contradiction; those that were
    coherent or late become unknown where nothing does, and late ones also by a skid: they were
    said to belong to this very IP. All classes of a set are of one instant, so one contradiction
    speaks against them all. Returns whether a late class lost its verdict: the IP that its sample
    counts for is then another one.
    """
    lost = False
    for name, registers in batch.sets.items():
        statement = witness.testify(batch, registers, ip, dso, offset)
        statement.note(batch, name)
        evidence = CodeEvidence(batch, registers, context, statement)
        before = registers.verdict
        for rule in CODE_RULES:
            mask = np.broadcast_to(np.asarray(rule.match(evidence)), (len(batch),))
            if not mask.any():
                continue
            registers.reason = np.where(
                mask, registers.reason | np.uint64(rule.reason_mask), registers.reason
            )
            if rule.verdict is None:
                continue
            coherent = (before == np.uint8(Verdict.COHERENT)) & mask[:, None]
            late = (before == np.uint8(Verdict.LATE)) & mask[:, None]
            verdict = np.where(coherent, np.uint8(rule.verdict), registers.verdict)
            registers.verdict = np.where(late, np.uint8(Verdict.UNKNOWN), verdict)
            lost = lost or bool(late.any())
    return lost
