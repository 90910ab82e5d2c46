"""What the instruction at each sample's IP says about its registers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.lanes import ELEMENTS
from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.analysis.shown import attributed_ip
from perfxmm.coherence.model import Bool, SnapshotBatch
from perfxmm.program import code
from perfxmm.program.timeline import Timeline

_KERNEL_HALF = np.uint64(1 << 63)
_OFFSET_BITS = 48
_VECTOR = re.compile(r"([XYZ])MM(\d+)")
_WORDS = {"X": 2, "Y": 4, "Z": 8}
_ELEMENT_NAMES = list(ELEMENTS)


@dataclass(frozen=True, slots=True)
class Use:
    """The registers that one instruction reads or writes.

    text: Intel syntax. element: index into tuple(ELEMENTS), -1 where it has no one type.
    scalar: works on lane 0 alone. vectors: register number -> 64-bit words of the operand.
    operands: bit mask of those of them that hold data of type `element` before the instruction:
    the ones that it reads. results: the same after it; a conversion's result is of another type.
    opmasks: bit mask. gprs: full names in iced-x86's spelling ("RAX", "R8").
    """

    text: str
    element: int = -1
    scalar: bool = False
    vectors: dict[int, int] = field(default_factory=dict)
    operands: int = 0
    results: int = 0
    opmasks: int = 0
    gprs: frozenset[str] = frozenset()


# Per instruction, as columns. words: uint32, registers of which words 0-1, 2-3, 4-7 are in use.
FACTS = np.dtype([
    ("known", np.bool_), ("scalar", np.bool_), ("element", np.int8), ("operands", np.uint32),
    ("results", np.uint32), ("words", np.uint32, (3,)),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Uses:
    """What the instructions of n samples use, as columns.

    number: intp [n], for `Instructions.use`. known: bool [n], the instruction could be read; where
    it could not, the others say nothing. element, scalar, operands, results: as in Use.
    words: uint32 [n, 3], bit masks of the registers whose words 0-1, 2-3 and 4-7 are in use.
    """

    number: npt.NDArray[np.intp]
    known: Bool
    element: npt.NDArray[np.int8]
    scalar: Bool
    operands: npt.NDArray[np.uint32]
    results: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint32]


# What a batch's instructions use.
UsesOf = Callable[[SnapshotBatch], Uses]


class Instructions:
    """Questions about code, answered once per address.

    texts: what stands at each of `Uses.number`, "" where it is not known. The list grows.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._reader = code.CodeReader(timeline.binaries)
        self._numbers: dict[tuple[int, int], int] = {}
        self._uses: list[Use | None] = []
        self.texts: list[str] = []
        self._facts = np.zeros(256, FACTS)

    def elements(self, batch: SnapshotBatch) -> npt.NDArray[np.int64]:
        """int64 [n]: index into tuple(ELEMENTS), -1 where the instruction has no one type."""
        return self.uses(batch).element.astype(np.int64)

    def uses(self, batch: SnapshotBatch) -> Uses:
        """The registers that the instruction at each sample's attributed IP works on."""
        dso, offset = _place(batch)
        number = self._number(dso, offset)
        facts = self._facts[number]
        return Uses(
            number, facts["known"], facts["element"], facts["scalar"], facts["operands"],
            facts["results"], facts["words"],
        )  # fmt: skip

    def use(self, number: int) -> Use | None:
        """One of `Uses.number`; None where the instruction's bytes are unknown."""
        return self._uses[number]

    def _number(
        self, dso: npt.NDArray[np.int32], offset: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.intp]:
        if not len(dso):
            return np.zeros(0, np.intp)
        # One integer a place sorts many times as fast as a pair. Where an offset does not fit
        # (no file is that large), a place counts as unknown.
        fits = (dso >= 0) & (offset >> np.uint64(_OFFSET_BITS) == 0) & (dso < 1 << 15)
        owner = np.where(fits, dso, -1).astype(np.int64)
        packed = owner << _OFFSET_BITS | np.where(fits, offset, np.uint64(0)).astype(np.int64)
        distinct, inverse = np.unique(packed, return_inverse=True)
        numbers = [
            self._number_of(place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1)
            for place in distinct.tolist()
        ]
        found: npt.NDArray[np.intp] = np.array(numbers, np.intp)[inverse.reshape(-1)]
        return found

    def _number_of(self, dso: int, offset: int) -> int:
        found = self._numbers.get((dso, offset))
        if found is not None:
            return found
        operation = self._reader.operation(dso, offset)
        use = None if operation is None else use_of(operation)
        number = self._numbers[dso, offset] = len(self._uses)
        self._uses.append(use)
        self.texts.append("" if use is None else use.text)
        if number == len(self._facts):
            self._facts = np.concatenate([self._facts, np.zeros(number, FACTS)])
        self._facts[number] = facts_of(use)
        return number

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
    ) -> tuple[
        npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32],
        npt.NDArray[np.uint64],
    ]:
        """(symbol, symbol_offset, dso, file offset) of every entry of batch.chain.

        Callers are looked up one byte before the return address, as perf does: a call may be the
        last instruction of its function. The file offset is that of this byte.
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
        return found.symbol, offset, found.dso, found.offset


def use_of(operation: code.Operation) -> Use:
    """What one instruction uses.

    An instruction without a vector operand (VZEROUPPER) uses no vector register, whatever it does
    to all of them.
    """
    vectors: dict[int, int] = {}
    for name in operation.operands:
        if match := _VECTOR.fullmatch(name):
            number = int(match[2])
            vectors[number] = max(vectors.get(number, 0), _WORDS[match[1]])
    names = {*operation.reads, *operation.writes}
    if vectors:
        for name in names:
            match = _VECTOR.fullmatch(name)
            if match and int(match[2]) not in vectors:  # an operand that is not written down
                vectors[int(match[2])] = 2
    read = {int(m[2]) for name in operation.reads if (m := _VECTOR.fullmatch(name))} & set(vectors)
    results = read if "CVT" in operation.mnemonic else set(vectors)
    masks = {int(name[1:]) for name in names if re.fullmatch(r"K[0-7]", name)}
    gprs = {name for name in names if re.fullmatch(r"R[A-Z]{2}|R\d+", name)}
    element = -1 if operation.element is None else _ELEMENT_NAMES.index(operation.element)
    return Use(
        operation.text, element, operation.scalar, vectors, _bits(read), _bits(results),
        _bits(masks), frozenset(gprs - {"RIP"}),
    )  # fmt: skip


def facts_of(use: Use | None) -> tuple[object, ...]:
    if use is None:
        return (False, False, -1, 0, 0, (0, 0, 0))
    words = tuple(
        _bits({number for number, words in use.vectors.items() if words >= least})
        for least in (2, 4, 8)
    )
    return (True, use.scalar, use.element, use.operands, use.results, words)


def _bits(numbers: set[int]) -> int:
    return sum(1 << number for number in numbers)


def _place(batch: SnapshotBatch) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    if batch.dso is None or CODE_OFFSET not in batch.extra:
        return np.full(len(batch), -1, np.int32), attributed_ip(batch)
    return batch.dso, batch.extra[CODE_OFFSET]
