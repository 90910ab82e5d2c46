"""What the code says of every sample of a batch, as columns. Needs no disassembler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.batch import U8, VERDICT_CLASSES, RegisterSet, SnapshotBatch

# Columns of SnapshotBatch.extra that carry a set's statement: this and the set's name.
STATEMENT = "code:"


@dataclass(frozen=True, slots=True)
class Statement:
    """What the code says of one register set of n samples.

    asked, proved, contradicted: uint8 [n], bit i for class VERDICT_CLASSES[i]. Asked are the
    classes that the rules before this believe (coherent or late). Of those that are neither proved
    nor contradicted the code says nothing: it is silent. Where one claim about a class fails, the
    class is contradicted.
    skid: uint8 [n], how many instructions on from the IP the registers fit; 0 where they are not
    contradicted, or fit nowhere near.
    """

    asked: U8
    proved: U8
    contradicted: U8
    skid: U8

    @staticmethod
    def silent(count: int) -> Statement:
        """Of n samples whose code was not asked."""
        return Statement(*(np.zeros(count, np.uint8) for _ in range(4)))

    @staticmethod
    def of(batch: SnapshotBatch, set_name: str) -> Statement:
        """As it was noted in the batch; silent where nothing was."""
        packed = batch.extra.get(STATEMENT + set_name)
        if packed is None:
            return Statement.silent(len(batch))
        parts = [(packed >> np.uint64(shift)).astype(np.uint8) for shift in (0, 8, 16, 24)]
        return Statement(*parts)

    def note(self, batch: SnapshotBatch, set_name: str) -> None:
        """Keeps it with the batch."""
        packed = np.zeros(len(batch), np.uint64)
        for shift, column in enumerate((self.asked, self.proved, self.contradicted, self.skid)):
            packed |= column.astype(np.uint64) << np.uint64(8 * shift)
        batch.extra[STATEMENT + set_name] = packed


def believed_classes(registers: RegisterSet) -> U8:
    """uint8 [n]: bit i where class VERDICT_CLASSES[i] is coherent or late."""
    out = np.zeros(len(registers.abi), np.uint8)
    for column in range(len(VERDICT_CLASSES)):
        verdict = registers.verdict[:, column]
        good = (verdict == np.uint8(Verdict.COHERENT)) | (verdict == np.uint8(Verdict.LATE))
        out |= good.astype(np.uint8) << np.uint8(column)
    return out


def note_silence(batch: SnapshotBatch) -> None:
    """Notes for every set of a judged batch that its code was not asked."""
    for name, registers in batch.sets.items():
        nothing = [np.zeros(len(batch), np.uint8) for _ in range(3)]
        Statement(believed_classes(registers), *nothing).note(batch, name)
