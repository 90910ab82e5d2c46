"""Leaving values out on purpose: registers hold keys and private data.

`values` leaves out every register value and keeps classes, verdicts and lane statistics.
`crypto` leaves out all values of samples at an AES, SHA, carry-less multiply or GF(2^8)
instruction, and of samples whose instruction cannot be read: what is not known to be harmless is
not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import ELEMENTS, KINDS, count_lanes
from perfxmm.analysis.report import WIDTHS, recorded_widths, widest_in_use
from perfxmm.analysis.shown import Policy, delivered_classes, initial, present_words
from perfxmm.analysis.statistics import (
    NOT_COUNTED,
    recorded,
    recorded_lanes,
    redacted,
)  # fmt: skip
from perfxmm.coherence.model import Bool, RegisterSet, SnapshotBatch

MODES: tuple[str, ...] = ("values", "crypto")
# Fields of "stats", in their order: element type, counts of 64-bit lanes, widest class in use.
STATISTICS: tuple[str, ...] = ("view", "lanes", *KINDS, "widest")
STATISTICS_VIEW = "f64"
# SnapshotBatch.extra key: 1 where a sample's values are to be left out.
_REDACTED = "redacted"

# Bool [n]: whether the instruction of each sample is, or may be, one that handles keys.
CryptoAt = Callable[[SnapshotBatch], Bool]


@dataclass(slots=True)
class Redaction:
    """What to leave out, and how many samples lost values by it.

    mode: "", "values" or "crypto". crypto_at: needed by "crypto"; without it everything is taken
    for crypto. recorded: the recorder had been told to leave out all values, and wrote statistics.
    removed: samples of `noted` that had values to show.
    """

    mode: str = ""
    crypto_at: CryptoAt | None = None
    recorded: bool = False
    removed: int = 0

    @property
    def statistics(self) -> bool:
        """Whether lane statistics take the place of the values."""
        return self.recorded or self.mode == "values"

    def rows(self, batch: SnapshotBatch) -> Bool | None:
        """Bool [n], samples without values; None where no sample loses any."""
        if not self.mode:
            return None
        if _REDACTED in batch.extra:
            known: Bool = batch.extra[_REDACTED] != 0
            return known
        if self.mode == "values" or self.crypto_at is None:
            return np.ones(len(batch), np.bool_)
        return self.crypto_at(batch)

    def noted(self, batches: Iterator[SnapshotBatch], policy: Policy) -> Iterator[SnapshotBatch]:
        """The same batches. Counts `removed`, wherever their text is made."""
        for batch in batches:
            rows = self.rows(batch)
            if rows is not None:
                batch.extra[_REDACTED] = rows.astype(np.uint64)
                some = np.zeros(len(batch), np.bool_)
                for registers in batch.sets.values():
                    visible = policy.visible(registers.verdict) & delivered_classes(registers)
                    some |= visible.any(axis=1)
                self.removed += int(np.count_nonzero(rows & some))
            yield batch


def statistics_of(
    batch: SnapshotBatch, registers: RegisterSet, policy: Policy, rows: npt.NDArray[np.intp]
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.int8]]:
    """(counts, widest) of some samples: 64-bit float lanes in all and by kind, or NOT_COUNTED;
    index into WIDTHS of the widest class in use, 0 where no vector may be seen."""
    visible = policy.visible(registers.verdict) & delivered_classes(registers)
    data = present_words(registers, visible & ~initial(registers))[rows]
    words = registers.vectors[rows]
    counts = count_lanes(words, data, ELEMENTS[STATISTICS_VIEW])
    widest = np.where(data.any(axis=(1, 2)), widest_in_use(words, data), np.int8(0))
    left_out = redacted(registers)[rows]
    if left_out.any():
        told = left_out & recorded(batch)[rows]
        there = recorded_lanes(batch, rows[told], STATISTICS_VIEW) if told.any() else {}
        for kind, values in counts.items():
            values[left_out] = NOT_COUNTED
            if kind in there:
                values[told] = there[kind]
        if there:
            widest[told] = recorded_widths(batch, rows[told])
    return counts, widest


def statistics_text(
    batch: SnapshotBatch, registers: RegisterSet, policy: Policy, rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """JSON object per sample: widest class in use, and 64-bit float lanes by kind."""
    counts, widest = statistics_of(batch, registers, policy, rows)
    pieces: list[text.Piece] = [b'{"view":"%s"' % STATISTICS_VIEW.encode()]
    for kind in ("lanes", *KINDS):
        missing = counts[kind] == NOT_COUNTED
        digits = text.decimal(np.where(missing, 0, counts[kind]).astype(np.uint64))
        pieces += [b',"%s":' % kind.encode(), text.blank_where(digits, missing, b"null")]
    table = [b"null", *(b'"%s"' % name.encode() for name in WIDTHS[1:])]
    pieces += [b',"widest":', text.choose(table, widest), b"}"]
    return text.assemble(pieces, len(rows))
