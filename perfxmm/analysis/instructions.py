"""What the instruction at each sample's IP says about its registers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.lanes import ELEMENTS
from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.analysis.shown import attributed_ip
from perfxmm.coherence.model import Bool, SnapshotBatch
from perfxmm.program import code
from perfxmm.program.timeline import Timeline

_KERNEL_HALF = np.uint64(1 << 63)


class Instructions:
    """Questions about code, answered once per address."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._reader = code.CodeReader(timeline.binaries)
        names = list(ELEMENTS)
        self._element = np.array([*(names.index(e) for e in code.ELEMENTS), -1], np.int64)

    def elements(self, batch: SnapshotBatch) -> npt.NDArray[np.int64]:
        """int64 [n]: index into tuple(ELEMENTS), -1 where the instruction has no one type."""
        dso, offset = _place(batch)
        found: npt.NDArray[np.int64] = self._element[self._reader.elements(dso, offset)]
        return found

    def crypto(self, batch: SnapshotBatch) -> Bool:
        """Bool [n]: cryptographic instruction or function, or not known to be none.

        A function counts as a whole: keys stay in registers after the instruction that used them.
        """
        dso, offset = _place(batch)
        out: Bool = self._reader.crypto(dso, offset) != 0
        symbol = batch.symbol
        if symbol is None:
            return out
        for number in np.unique(symbol[~out & (symbol >= 0)]).tolist():
            owner = self._timeline.symbol_dso[number]
            start = self._timeline.symbol_start[number]
            table = self._timeline.binaries.symbols(owner)
            row = int(np.searchsorted(table.starts, np.uint64(start)))
            known = row < len(table) and int(table.starts[row]) == start
            end = int(table.ends[row]) if known else start
            if self._reader.function_has_crypto(owner, start, end) is not False:
                out |= symbol == number
        return out

    def chain_names(
        self, batch: SnapshotBatch
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """(symbol, symbol_offset, dso) of every entry of batch.chain.

        Callers are looked up one byte before the return address, as perf does: a call may be the
        last instruction of its function.
        """
        assert batch.chain is not None
        assert batch.chain_start is not None
        count = np.diff(batch.chain_start)
        owner = np.repeat(np.arange(len(batch)), count)
        address = batch.chain.copy()
        first = np.zeros(len(address), np.bool_)
        # Entry 0 is a context marker, the sampled IP follows it.
        starts = batch.chain_start[:-1][count > 0]
        first[starts] = True
        first[np.minimum(starts + 1, max(len(address) - 1, 0))] = True
        address[~first & (address > 0)] -= np.uint64(1)
        mode = np.where(address >= _KERNEL_HALF, np.uint8(1), np.uint8(2))
        found = self._timeline.resolve(
            batch.time_ns[owner], batch.pid[owner], batch.tid[owner], address, mode
        )
        offset = found.symbol_offset + (~first).astype(np.uint64)
        return found.symbol, offset, found.dso


def _place(batch: SnapshotBatch) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    if batch.dso is None or CODE_OFFSET not in batch.extra:
        return np.full(len(batch), -1, np.int32), attributed_ip(batch)
    return batch.dso, batch.extra[CODE_OFFSET]
