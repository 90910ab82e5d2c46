"""Samples of one shape: what is there and may be shown is the same for all of them.

Text of a snapshot is a fixed arrangement of fields once it is known which registers it has. A
recording has few such arrangements, so rows are written one shape at a time and put back in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.shown import (
    FIRST_HIGH_REGISTER,
    GPR,
    OPMASK,
    XMM,
    YMM,
    ZMM,
    Policy,
    initial,
)  # fmt: skip
from perfxmm.coherence.model import Bool, RegisterSet, SnapshotBatch

# Predicate registers that exist: k0..k7.
PREDICATES = 8


@dataclass(frozen=True, slots=True)
class SetShape:
    """One register set of a shape.

    gprs: visible canonical ids, ascending. vector_mask, qwords: as delivered.
    words: which delivered words of registers 0..15 may be seen; high: whether 16..31 may.
    predicates: visible opmasks. initial: classes in their initial state, by verdict column.
    """

    gprs: tuple[int, ...]
    vector_mask: int
    qwords: int
    words: tuple[bool, ...]
    high: bool
    predicates: int
    delivered_predicates: int
    initial: tuple[bool, ...]

    @property
    def registers(self) -> int:
        """How many register numbers a list of this set's vectors has: 0, 16 or 32."""
        if not self.vector_mask or not self.qwords:
            return 0
        return 32 if self.qwords > 4 or self.vector_mask >> FIRST_HIGH_REGISTER else 16

    def words_of(self, register: int) -> tuple[bool, ...]:
        """Which delivered words of a vector register may be seen; () where it was not delivered."""
        if not self.vector_mask >> register & 1:
            return ()
        if register < FIRST_HIGH_REGISTER:
            return self.words
        return (self.high,) * self.qwords


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of a batch that share everything but their values. element: as asked of `shapes_of`."""

    rows: npt.NDArray[np.intp]
    sets: dict[str, SetShape]
    element: int


def shapes_of(
    batch: SnapshotBatch, policy: Policy, *, redacted: Bool | None = None,
    elements: npt.NDArray[np.integer] | None = None,
) -> list[Shape]:
    """The shapes in a batch; together their rows are all rows, each once.

    redacted: bool [n], samples whose values are not to be seen whatever their verdict.
    elements: any small number per sample that changes the text, such as an element type.
    """
    n = len(batch)
    parts: list[npt.NDArray[np.uint64]] = []
    for registers in batch.sets.values():
        visible = policy.visible(registers.verdict)
        if redacted is not None:
            visible = visible & ~redacted[:, None]
        parts.append(_bits(visible))
        parts.append(_bits(initial(registers)))
        parts.append(registers.gpr_mask)
        counts = registers.delivered_qwords.astype(np.uint64) << np.uint64(8)
        counts |= registers.delivered_predicates
        parts.append(counts | registers.vector_mask.astype(np.uint64) << np.uint64(32))
    codes = np.zeros(n, np.int64) if elements is None else elements.astype(np.int64)
    parts.append(codes.view(np.uint64))
    key = np.stack(parts, axis=1)
    if n == 0:
        return []
    if (key == key[0]).all():
        return [_shape(batch, key[0], np.arange(n))]
    different, inverse = np.unique(key, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(different)))
    return [
        _shape(batch, row, order[start:end])
        for row, start, end in zip(different, [0, *ends[:-1]], ends, strict=True)
    ]


def _shape(
    batch: SnapshotBatch, key: npt.NDArray[np.uint64], rows: npt.NDArray[np.intp]
) -> Shape:
    sets = {}
    for number, (name, registers) in enumerate(batch.sets.items()):
        visible, init, gpr_mask, rest = (int(k) for k in key[4 * number : 4 * number + 4])
        sets[name] = _set_shape(registers, visible, init, gpr_mask, rest)
    return Shape(rows, sets, int(key[-1:].view(np.int64)[0]))


def _set_shape(
    registers: RegisterSet, visible: int, init: int, gpr_mask: int, rest: int
) -> SetShape:
    seen = [bool(visible >> column & 1) for column in range(5)]
    qwords = rest >> 8 & 0xFF
    by_word = [XMM, XMM, YMM, YMM, ZMM, ZMM, ZMM, ZMM]
    delivered = min(rest & 0xFF, PREDICATES)
    return SetShape(
        gprs=tuple(g for g in registers.gpr_ids if gpr_mask >> g & 1) if seen[GPR] else (),
        vector_mask=rest >> 32,
        qwords=qwords,
        words=tuple(seen[by_word[word]] for word in range(min(qwords, 8))),
        high=seen[ZMM],
        predicates=delivered if seen[OPMASK] else 0,
        delivered_predicates=delivered,
        initial=tuple(bool(init >> column & 1) for column in range(5)),
    )


def pieces_of(
    shapes: Sequence[Shape], count: int, row_bytes: int,
    render: Callable[[Shape, npt.NDArray[np.intp]], npt.NDArray[np.uint8]],
) -> Iterator[memoryview]:
    """Text of `count` samples in their order, in pieces of about a megabyte.

    row_bytes: about the length of a sample's text. render: a shape and some of its rows to one
    line of text bytes each (uint8 [rows, width], 0 where nothing stands).
    """
    for run in text.runs(count, row_bytes):
        parts = []
        for shape in shapes:
            first, last = np.searchsorted(shape.rows, (run.start, run.stop))
            rows = shape.rows[first:last]
            if len(rows):
                parts.append((rows - run.start, render(shape, rows)))
        yield text.squeeze(text.interleave(parts, run.stop - run.start))


def _bits(columns: Bool) -> npt.NDArray[np.uint64]:
    weights = np.array([1 << k for k in range(columns.shape[1])], np.uint64)
    sums: npt.NDArray[np.uint64] = (columns * weights).sum(axis=1, dtype=np.uint64)
    return sums
