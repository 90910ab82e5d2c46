"""Lane counts that a recorder wrote in place of values (record --redact values).

They are of all vector registers that were delivered: which of them an instruction used cannot be
told any more. Negative zeros were counted as zeros and not apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.lanes import KINDS
from perfxmm.coherence.model import STATISTICS, Bool, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import REASONS

I64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

# Stands for a count that was not made.
NOT_COUNTED = -1
# Element types that were counted, and their lanes per word.
COUNTED_AS: dict[str, int] = {"f64": 1, "f32": 2}
# SnapshotBatch.extra key, and what a sample without counts has in all columns.
_COLUMN, _NOTHING = "stats", np.uint64(2**64 - 1)
_WORDS, _WIDEST = STATISTICS.index("words"), STATISTICS.index("widest_qwords")
_REDACTED = np.uint64(REASONS["redacted"].mask)


def redacted(registers: RegisterSet) -> Bool:
    """Bool [n]: nothing is there of the set, and the recorder was told to leave values out."""
    left_out: Bool = (registers.abi == 0) & (registers.reason & _REDACTED != 0)
    return left_out


def any_redacted(batch: SnapshotBatch) -> Bool:
    """Bool [n]: some set of the sample is `redacted`."""
    out = np.zeros(len(batch), np.bool_)
    for registers in batch.sets.values():
        out |= redacted(registers)
    return out


def recorded(batch: SnapshotBatch) -> Bool:
    """Bool [n]: samples with counts in place of values."""
    column = batch.extra.get(_COLUMN)
    if column is None:
        return np.zeros(len(batch), np.bool_)
    there: Bool = any_redacted(batch) & (column[:, _WORDS] != _NOTHING)
    return there


def recorded_lanes(batch: SnapshotBatch, rows: Rows, element: str) -> dict[str, I64]:
    """Counts of samples that are `recorded`, int64 [len(rows)] each: "lanes" in all, and KINDS.

    element: of COUNTED_AS. NOT_COUNTED where a kind was not counted.
    """
    column = batch.extra[_COLUMN][rows].astype(np.int64)
    counts = {"lanes": column[:, _WORDS] * COUNTED_AS[element]}
    for kind in KINDS:
        name = f"{element}_{kind}"
        counts[kind] = (
            column[:, STATISTICS.index(name)] if name in STATISTICS
            else np.full(len(rows), NOT_COUNTED, np.int64)
        )
    return counts


def recorded_qwords(batch: SnapshotBatch, rows: Rows) -> I64:
    """Of samples that are `recorded`: quadwords of the widest class in use, 0 where all words
    were zero, NOT_COUNTED where there were none."""
    column = batch.extra[_COLUMN][rows].astype(np.int64)
    qwords: I64 = np.where(column[:, _WORDS] != 0, column[:, _WIDEST], NOT_COUNTED)
    return qwords
