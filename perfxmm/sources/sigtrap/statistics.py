"""--redact values: what is kept of a stop's vector registers in place of their values.

Counts only, by kind of number and over the whole register file, made before anything is written.
Components in their initial state are not counted: XSTATE_BV in the same record says so.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from perfxmm.xstate.components import AVX, HI16_ZMM, SSE, ZMM_HI256
from perfxmm.xstate.gather import GatherPlan

U64 = npt.NDArray[np.uint64]
Index = npt.NDArray[np.intp]

_F64_MAGNITUDE, _F64_INF = np.uint64((1 << 63) - 1), np.uint64(0x7FF << 52)
_F64_FRACTION = np.uint64((1 << 52) - 1)
_F32_MAGNITUDE, _F32_INF = np.uint32((1 << 31) - 1), np.uint32(0xFF << 23)
_F32_FRACTION = np.uint32((1 << 23) - 1)
# The words of perfdata.stopinfo.STATISTICS_FORMAT that follow those of FORMAT.
_WORDS = struct.Struct("<3Q")
_COUNTS = struct.Struct("<9HBB4x")


class LaneStatistics:
    """Counts over the vector registers of one plan. image_at: the image's first word in scratch."""

    def __init__(self, plan: GatherPlan, image_at: int) -> None:
        shape = (plan.registers, plan.qwords)
        self._words: Index = plan.index[: plan.registers * plan.qwords] + image_at
        register, qword = np.indices(shape).reshape(2, -1)
        self._register, self._width = register, np.where(qword < 2, 2, np.where(qword < 4, 4, 8))
        self._component = np.where(qword < 2, SSE, np.where(qword < 4, AVX, ZMM_HI256))
        self._component[register >= 16] = HI16_ZMM
        self._live: dict[int, tuple[Index, Index, Index]] = {}

    def count(self, scratch: U64, xstate_bv: int) -> tuple[int, int, int]:
        """Three words for the record, see stopinfo.STATISTICS_FORMAT."""
        known = self._live.get(xstate_bv)
        if known is None:
            there = (xstate_bv >> self._component) & 1 != 0
            known = self._live[xstate_bv] = (
                self._words[there], self._register[there], self._width[there],
            )  # fmt: skip
        index, register, width = known
        words = scratch.take(index)
        some = np.flatnonzero(words)
        doubles = words & _F64_MAGNITUDE
        singles = words.view(np.uint32) & _F32_MAGNITUDE
        many = np.count_nonzero
        first, second, third = _WORDS.unpack(_COUNTS.pack(
            many(doubles > _F64_INF), many(doubles == _F64_INF),
            # 0 - 1 wraps round to the largest value: zero is no subnormal.
            many(doubles - np.uint64(1) < _F64_FRACTION), many(doubles == 0),
            many(singles > _F32_INF), many(singles == _F32_INF),
            many(singles - np.uint32(1) < _F32_FRACTION), many(singles == 0),
            len(words), int(width[some].max()) if len(some) else 0,
            many(np.bincount(register[some])),
        ))  # fmt: skip
        return first, second, third
