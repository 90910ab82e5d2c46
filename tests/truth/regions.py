"""What is known of a region of a truth program: which IPs it has and what its registers hold.

Written down independently of the programs' own checks. Arrays are uint64, one row a sample;
vectors [n, registers, 8 words], low word first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
WORDS = 8
VECTORS = 32
LOW_VECTORS = 16
MOST_THREADS = 64
# What R8, R9 and RBP are called in the constants, by canonical register name.
GPR_CONSTANTS = {"R8": 40, "R9": 41, "BP": 42}

_ONE = np.uint64(1)
_WORD = np.arange(WORDS, dtype=np.uint64)
_THREADS = np.arange(MOST_THREADS, dtype=np.uint64)


def constant(region: int | U64, thread: U64, register: int | U64, word: int | U64) -> U64:
    """What `constant` in truth.h says; the arguments are broadcast."""
    value: U64 = (
        np.uint64(0x5A00_0000_0000_BEEF)
        | np.asarray(region, np.uint64) << np.uint64(48)
        | thread << np.uint64(40)
        | np.asarray(register, np.uint64) << np.uint64(24)
        | np.asarray(word, np.uint64) << np.uint64(16)
    )
    return value


def table(number: int, thread: U64) -> U64:
    """[n, 32, 8]: every vector's constants in region `number`."""
    register = np.arange(VECTORS, dtype=np.uint64)[None, :, None]
    return constant(number, thread[:, None, None], register, _WORD[None, None, :])


@dataclass(frozen=True)
class Rows:
    """Samples inside one region, uint64 [n] each.

    ip: for code copied to another place, as if it were where the labels are.
    counter, thread: as sampled in RBX and R12. places: the labels, by name.
    """

    region: str
    ip: U64
    counter: U64
    thread: U64
    places: dict[str, int]

    def __len__(self) -> int:
        return len(self.ip)

    def after(self, label: str) -> Bool:
        """The IP is at or behind a label of the region: what stands before it has run."""
        behind: Bool = self.ip >= np.uint64(self.places[f"truth_{self.region}_{label}"])
        return behind

    def within(self, first: str, end: str) -> Bool:
        """The IP lies in [first, end)."""
        return self.after(first) & ~self.after(end)

    def runs(self, label: str, counted: str) -> U64:
        """How often the instruction before `label` has run. counted: the label behind the `inc`
        of the counter, which an instruction is one run ahead of until then."""
        return self.counter + self.within(label, counted)

    @property
    def number(self) -> F64:
        """What the programs make of the thread's number where they calculate: one more."""
        return (self.thread + _ONE).astype(np.float64)


@dataclass
class Held:
    """What registers must hold. vectors: [n, 32, 8]; opmasks: [n, 8].

    known: Bool [n, 32, 8], the vector words of which something is known; None where all are.
    gprs_known: Bool [n], where R8, R9 and RBP hold their constants; None where everywhere.
    """

    vectors: U64
    opmasks: U64
    known: Bool | None = None
    gprs_known: Bool | None = None

    def add(self, register: int, step: int, runs: U64, lanes: slice = slice(None)) -> None:
        """register += step, so many times, in some words."""
        self.vectors[:, register, lanes] += self.vectors[:, step, lanes] * runs[:, None]

    def toggle(self, register: int, other: int, runs: U64) -> None:
        """register ^= other, so many times."""
        self.vectors[:, register] ^= self.vectors[:, other] * (runs & _ONE)[:, None]

    def cleared(self, register: int, runs: U64, above: int) -> None:
        """Words from `above` up are zero once the instruction has run."""
        self.vectors[:, register, above:][runs > 0] = 0

    def set(self, register: int, value: U64 | int, where: Bool | slice = slice(None)) -> None:
        """All words of a register, in some rows; value: one for all, or one a row."""
        wanted = np.asarray(value, np.uint64)
        if wanted.ndim == 1 and not isinstance(where, slice):
            wanted = wanted[where]
        self.vectors[where, register] = wanted[:, None] if wanted.ndim == 1 else wanted


def lanes() -> F64:
    """[1, 8]: 1.0 to 8.0, what differs from word to word in calculations."""
    return np.arange(1, WORDS + 1, dtype=np.float64)[None, :]


Expect = Callable[[Rows, Held], None]


def nothing(rows: Rows, held: Held) -> None:
    """Every register is as it was loaded."""


@dataclass(frozen=True)
class Region:
    """One region. expect: puts into Held what is not a constant.

    number: what its constants are named by. words: low words of vectors 0 to 15 that its code
    writes or loads; those above are zero. high: vectors 16 to 31 and opmasks are known too.
    alike: the constants name thread 0 whichever it is. pages: code that is copied to so many
    pages, the first at `copies_at`; a page's number is its place from there, and the first one
    that is used is `number`.
    """

    name: str
    number: int
    expect: Expect = nothing
    words: int = 4
    high: bool = True
    alike: bool = False
    copies_at: int = 0
    pages: int = 0

    PAGE_BYTES = 4096
    _tables: dict[int, U64] = field(default_factory=dict, compare=False, repr=False)

    def find(self, ip: U64, places: dict[str, int]) -> tuple[Bool, U64, U64 | int]:
        """Which IPs lie inside, those as if at the labels, and the number (one, or one a row)."""
        begin, end = (places[f"truth_{self.name}_{label}"] for label in ("begin", "end"))
        if not self.pages:
            inside = (ip >= np.uint64(begin)) & (ip < np.uint64(end))
            return inside, ip[inside], self.number
        page = (ip - np.uint64(self.copies_at)) // np.uint64(self.PAGE_BYTES)
        start = places[f"truth_{self.name}"]
        at = ip % np.uint64(self.PAGE_BYTES) + np.uint64(start)
        inside = (page >= self.number) & (page < self.number + self.pages)
        inside &= (at >= np.uint64(begin)) & (at < np.uint64(end))
        return inside, at[inside], page[inside]

    def held(self, rows: Rows, number: U64 | int) -> Held:
        """What must be in the registers of `rows`. Thread numbers must be in range."""
        if isinstance(number, int):
            vectors = self._table(number)[rows.thread]
        else:
            vectors = np.empty((len(rows), VECTORS, WORDS), np.uint64)
            for one in np.unique(number).tolist():
                at = number == one
                vectors[at] = self._table(int(one))[rows.thread[at]]
        k = np.arange(8, dtype=np.uint64)[None, :]
        opmasks = (
            np.uint64(0xC0DE_0000_0000_00A5)
            | rows.thread[:, None] << np.uint64(40)
            | k << np.uint64(32)
        )
        held = Held(vectors, opmasks)
        self.expect(rows, held)
        if self.words < WORDS:
            held.vectors[:, :LOW_VECTORS, self.words :] = 0
        return held

    def _table(self, number: int) -> U64:
        if number not in self._tables:
            self._tables[number] = table(number, _THREADS)
        return self._tables[number]
