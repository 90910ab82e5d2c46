"""Leaving values out on purpose: registers hold keys and private data.

`values` leaves out every register value and keeps classes, verdicts and lane statistics.
`crypto` leaves out all values of samples at an AES, SHA, carry-less multiply or GF(2^8)
instruction, and of samples whose instruction cannot be read: what is not known to be harmless is
not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import ELEMENTS, KINDS, count_lanes
from perfxmm.analysis.report import WIDTHS, widest_in_use
from perfxmm.analysis.shown import Policy, delivered_classes, initial, present_words
from perfxmm.coherence.model import Bool, RegisterSet, SnapshotBatch

MODES: tuple[str, ...] = ("values", "crypto")

# Bool [n]: whether the instruction of each sample is, or may be, one that handles keys.
CryptoAt = Callable[[SnapshotBatch], Bool]


@dataclass(frozen=True, slots=True)
class Redaction:
    """mode: "", "values" or "crypto". crypto_at: needed by "crypto"; without it everything is
    taken for crypto."""

    mode: str = ""
    crypto_at: CryptoAt | None = None

    @property
    def statistics(self) -> bool:
        """Whether lane statistics take the place of the values."""
        return self.mode == "values"

    def rows(self, batch: SnapshotBatch) -> Bool | None:
        """Bool [n], samples without values; None where no sample loses any."""
        if not self.mode:
            return None
        if self.mode == "values" or self.crypto_at is None:
            return np.ones(len(batch), np.bool_)
        return self.crypto_at(batch)


def statistics_text(
    registers: RegisterSet, policy: Policy, rows: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """JSON object per sample: widest class in use, and 64-bit float lanes by kind."""
    visible = policy.visible(registers.verdict) & delivered_classes(registers)
    data = present_words(registers, visible & ~initial(registers))[rows]
    words = registers.vectors[rows]
    counts = count_lanes(words, data, ELEMENTS["f64"])
    pieces: list[text.Piece] = [b'{"view":"f64"']
    for kind in ("lanes", *KINDS):
        pieces += [b',"%s":' % kind.encode(), text.decimal(counts[kind].astype(np.uint64))]
    widest = np.where(data.any(axis=(1, 2)), widest_in_use(words, data), 0)
    table = [b"null", *(b'"%s"' % name.encode() for name in WIDTHS[1:])]
    pieces += [b',"widest":', text.choose(table, widest), b"}"]
    return text.assemble(pieces, len(rows))
