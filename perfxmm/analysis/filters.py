"""Choosing samples by who, where, when and how far they may be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.names import NameTables
from perfxmm.coherence.model import Bool, SnapshotBatch


@dataclass(frozen=True, slots=True)
class Filters:
    """Empty means "all". Several values of one kind: any of them; several kinds: all of them.

    comms, symbols: exact names. dsos: a path, or its last part. start_ns, stop_ns: of the
    recording's clock, both ends included. verdicts: labels, of any class that was asked for.
    """

    comms: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    tids: frozenset[int] = frozenset()
    symbols: frozenset[str] = frozenset()
    dsos: frozenset[str] = frozenset()
    start_ns: int | None = None
    stop_ns: int | None = None
    verdicts: frozenset[str] = frozenset()

    def mask(self, batch: SnapshotBatch, names: NameTables) -> Bool:
        """Bool [n]. Everything but verdicts, which a judge has to speak about first."""
        out = np.ones(len(batch), np.bool_)
        if self.pids:
            out &= np.isin(batch.pid, list(self.pids))
        if self.tids:
            out &= np.isin(batch.tid, list(self.tids))
        if self.start_ns is not None:
            out &= batch.time_ns >= np.uint64(self.start_ns)
        if self.stop_ns is not None:
            out &= batch.time_ns <= np.uint64(self.stop_ns)
        if self.comms:
            out &= _named(batch.comm, names.comms, self.comms)
        if self.symbols:
            out &= _named(batch.symbol, names.symbols, self.symbols)
        if self.dsos:
            short = [path.rsplit("/", 1)[-1] for path in names.dsos]
            out &= _named(batch.dso, names.dsos, self.dsos) | _named(batch.dso, short, self.dsos)
        return out


def _named(
    column: npt.NDArray[np.int32] | None, table: Sequence[str], wanted: frozenset[str]
) -> Bool:
    if column is None:
        raise ValueError("the batch has no names yet")
    # One more entry, which index -1 ("unknown") takes.
    chosen = np.array([*(name in wanted for name in table), False], np.bool_)
    found: Bool = chosen[column]
    return found
