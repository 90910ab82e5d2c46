"""Claims against registers, for many samples at once.

The work per place is done once: its claims are cut down to what samples of one shape have (the
registers and widths that were delivered, and the classes that are believed so far) and kept as
rows of flat tables, one a kind. A batch then needs a few gathers and comparisons per claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.coherence.witness.claims import FIRST_GPR, FIRST_OPMASK, NO_WORD, Claim, Kind
from perfxmm.snapshots.batch import U64, VERDICT_CLASSES, RegisterSet

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

CLASS_BIT = {name: 1 << column for column, name in enumerate(VERDICT_CLASSES)}
# Comparisons at a time: their columns then stay in the second-level cache.
_PIECE = 1 << 15
_ROW = np.dtype([
    ("word", np.int64), ("other", np.int64), ("mask", np.uint64), ("value", np.uint64),
    ("shift", np.int64), ("class", np.uint8),
])  # fmt: skip
# One table for the constants of each array that words come from, one for each other kind.
_VECTOR, _OPMASK, _GPR = 0, 1, 2
_TABLES = len(Kind) + 2


def class_of(word: int) -> str:
    """The register class that a word is part of: zmm for all of registers 16 to 31."""
    if word >= FIRST_GPR:
        return "gpr"
    if word >= FIRST_OPMASK:
        return "opmask"
    register, qword = divmod(word, 8)
    if register >= 16 or qword >= 4:
        return "zmm"
    return "ymm" if qword >= 2 else "xmm"


class Shape(NamedTuple):
    """What the samples of one kind have. gpr_ids: of the columns. words: of the vector array.

    believed: bit i for class VERDICT_CLASSES[i].
    """

    gpr_ids: tuple[int, ...]
    words: int
    vector_mask: int
    qwords: int
    gpr_mask: int
    predicate_mask: int
    believed: int

    def has(self, word: int) -> bool:
        """Whether these samples have the word, and its class is believed."""
        if not CLASS_BIT[class_of(word)] & self.believed:
            return False
        if word >= FIRST_GPR:
            number = word - FIRST_GPR
            return number in self.gpr_ids and bool(self.gpr_mask >> number & 1)
        if word >= FIRST_OPMASK:
            return bool(self.predicate_mask >> (word - FIRST_OPMASK) & 1)
        register, qword = divmod(word, 8)
        return bool(self.vector_mask >> register & 1) and qword < min(self.qwords, self.words)

    def can_check(self, claim: Claim) -> bool:
        return self.has(claim.word) and (claim.other == NO_WORD or self.has(claim.other))


def shapes_of(registers: RegisterSet, believed: U8) -> tuple[list[Shape], I64]:
    """The shapes of n samples, and the number of each sample's. believed: uint8 [n], class bits."""
    n = len(registers.abi)
    predicates = registers.predicate_mask
    if not registers.predicates.shape[1] or len(predicates) != n:
        predicates = np.zeros(n, np.uint8)
    predicates = np.where(registers.delivered_predicates != 0, predicates, np.uint8(0))
    columns = np.zeros((n, 3), np.uint64)
    columns[:, 0] = registers.vector_mask.astype(np.uint64) << np.uint64(8)
    columns[:, 0] |= registers.delivered_qwords
    columns[:, 1] = registers.gpr_mask
    columns[:, 2] = predicates.astype(np.uint64) << np.uint64(8) | believed
    words = registers.vectors.shape[2]

    def shape(row: Sequence[int]) -> Shape:
        return Shape(
            registers.gpr_ids, words, row[0] >> 8, row[0] & 0xFF, row[1], row[2] >> 8,
            row[2] & 0xFF,
        )  # fmt: skip

    # Nearly every batch is of one kind, or a few.
    if n and (columns == columns[0]).all():
        return [shape(columns[0].tolist())], np.zeros(n, np.int64)
    different, inverse = np.unique(columns, axis=0, return_inverse=True)
    return [shape(row) for row in different.tolist()], inverse.reshape(-1).astype(np.int64)


@dataclass(slots=True)
class _Flat:
    """Rows of one kind of claim, behind each other."""

    rows: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(256, _ROW))
    count: int = 0

    def add(self, more: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        """(first, count) of the rows that were added."""
        first = self.count
        self.count += len(more)
        while len(self.rows) < self.count:
            self.rows = np.concatenate([self.rows, np.zeros(len(self.rows), _ROW)])
        if more:
            self.rows[first : self.count] = np.array(more, _ROW)
        return first, len(more)


class Checklist:
    """Claims of places, cut to shapes of samples. Entries are numbered; 0 has no claims."""

    def __init__(self) -> None:
        self._tables = [_Flat() for _ in range(_TABLES)]
        self._spans = np.zeros((64, _TABLES, 2), np.int64)
        self._speaks = np.zeros(64, np.uint8)
        self.size = 0
        self.add((), Shape((), 0, 0, 0, 0, 0, 0))

    def add(self, claims: Sequence[Claim], shape: Shape) -> int:
        """The number of a new entry."""
        rows: list[list[tuple[int, ...]]] = [[] for _ in range(_TABLES)]
        speaks = 0
        for claim in claims:
            if not shape.can_check(claim):
                continue
            bit = CLASS_BIT[class_of(claim.word)]
            speaks |= bit
            value = claim.value & (1 << 64) - 1
            rows[_table_of(claim)].append((
                _column(claim.word, shape), _column(claim.other, shape), claim.mask, value,
                claim.shift, bit,
            ))  # fmt: skip
        number = self.size
        self.size += 1
        if number == len(self._spans):
            self._spans = np.concatenate([self._spans, np.zeros_like(self._spans)])
            self._speaks = np.concatenate([self._speaks, np.zeros_like(self._speaks)])
        for table, some in enumerate(rows):
            self._spans[number, table] = self._tables[table].add(some)
        self._speaks[number] = speaks
        return number

    @property
    def claims(self) -> int:
        """How many claims all entries have together."""
        return sum(table.count for table in self._tables)

    def speaks(self, entries: I64) -> U8:
        """uint8 per entry: class bits that its claims speak of."""
        found: U8 = self._speaks[entries]
        return found

    def contradicted(
        self, registers: RegisterSet, ip: U64, rows: I64, entries: I64
    ) -> U8:
        """uint8 [len(rows)]: classes in which a claim of entry entries[k] fails in sample rows[k].

        ip: uint64 [n] of the set, which PLACE claims count from.
        """
        out = np.zeros(len(rows), np.uint8)
        spans = self._spans[entries]
        for table in range(_TABLES):
            counts = spans[:, table, 1]
            if not counts.any():
                continue
            some = np.flatnonzero(counts)
            ends = np.cumsum(counts[some])
            # Cut into pieces of about the same number of comparisons.
            cuts = np.searchsorted(ends, np.arange(_PIECE, int(ends[-1]) + _PIECE, _PIECE))
            start = 0
            for cut in (*cuts.tolist(), len(some)):
                stop = min(max(cut, start + 1), len(some))
                if start < stop:
                    part = some[start:stop]
                    self._check(table, registers, ip, rows, spans[part, table], part, out)
                start = stop
        return out

    def _check(
        self, table: int, registers: RegisterSet, ip: U64, rows: I64, spans: I64, part: I64,
        out: U8,
    ) -> None:
        counts = spans[:, 1]
        before = np.cumsum(counts) - counts
        claim = np.repeat(spans[:, 0] - before, counts) + np.arange(int(counts.sum()))
        place = np.repeat(part, counts)
        sample = rows[place]
        flat = self._tables[table].rows
        failed = _fails(table, registers, ip, sample, flat, claim)
        wrong = np.flatnonzero(failed)
        if len(wrong):
            np.bitwise_or.at(out, place[wrong], flat["class"][claim[wrong]])


def _table_of(claim: Claim) -> int:
    if claim.kind is not Kind.CONSTANT:
        return int(claim.kind) + 2
    if claim.word >= FIRST_GPR:
        return _GPR
    return _OPMASK if claim.word >= FIRST_OPMASK else _VECTOR


def _column(word: int, shape: Shape) -> int:
    """Words of general registers by their column, the others by their number."""
    return FIRST_GPR + shape.gpr_ids.index(word - FIRST_GPR) if word >= FIRST_GPR else word


def _fails(
    table: int, registers: RegisterSet, ip: U64, sample: I64, flat: npt.NDArray[np.void],
    claim: I64,
) -> npt.NDArray[np.bool_]:
    """Bool, one a comparison."""
    failed: npt.NDArray[np.bool_]
    column = flat["word"][claim]
    if table == _VECTOR:
        found = registers.vectors[sample, column >> 3, column & 7]
        failed = found & flat["mask"][claim] != flat["value"][claim]
    elif table == _OPMASK:
        found = registers.predicates[sample, column - FIRST_OPMASK]
        failed = found & flat["mask"][claim] != flat["value"][claim]
    elif table == _GPR:
        found = registers.gprs[sample, column - FIRST_GPR]
        failed = found & flat["mask"][claim] != flat["value"][claim]
    elif table == Kind.PLACE + 2:
        failed = _words(registers, sample, column) != ip[sample] + flat["value"][claim]
    elif table == Kind.EQUAL + 2:
        mask = flat["mask"][claim]
        one = _words(registers, sample, column) >> flat["shift"][claim].astype(np.uint64)
        two = _words(registers, sample, flat["other"][claim]) >> flat["value"][claim]
        failed = one & mask != two & mask
    elif table == Kind.REPEATS + 2:
        found = _words(registers, sample, column)
        bits = flat["shift"][claim].astype(np.uint64)
        failed = (found >> bits | found << (np.uint64(64) - bits)) != found
    elif table == Kind.OFFSET + 2:
        there = _words(registers, sample, flat["other"][claim]) + flat["value"][claim]
        failed = _words(registers, sample, column) != there
    else:
        found = _words(registers, sample, column) & flat["mask"][claim]
        opmask = _words(registers, sample, flat["other"][claim])
        first = flat["value"][claim].astype(np.int64)
        failed = found & ~_chosen(opmask, first, flat["shift"][claim]) != 0
    return failed


def _words(registers: RegisterSet, sample: I64, column: I64) -> U64:
    """The words at `column` of each sample, from whichever array they are in."""
    vector, gpr = column < FIRST_OPMASK, column >= FIRST_GPR
    if vector.all():
        found: U64 = registers.vectors[sample, column >> 3, column & 7]
        return found
    out = np.zeros(len(column), np.uint64)
    opmask = ~vector & ~gpr
    out[vector] = registers.vectors[sample[vector], column[vector] >> 3, column[vector] & 7]
    out[opmask] = registers.predicates[sample[opmask], column[opmask] - FIRST_OPMASK]
    out[gpr] = registers.gprs[sample[gpr], column[gpr] - FIRST_GPR]
    return out


def _chosen(opmask: U64, first: I64, bits: I64) -> U64:
    """uint64: all bits of the lanes of a word whose bit of the opmask is set."""
    out = np.zeros(len(opmask), np.uint64)
    left, right = np.maximum(-first, 0).astype(np.uint64), np.maximum(first, 0).astype(np.uint64)
    moved = opmask >> right << left
    for size in np.unique(bits).tolist():
        ones = np.uint64((1 << size) - 1)
        for lane in range(64 // size):
            there = (bits == size) & ((moved >> np.uint64(lane) & np.uint64(1)) != 0)
            out[there] |= ones << np.uint64(lane * size)
    return out
