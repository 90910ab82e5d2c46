"""Registers as lines of text: lanes by element type, opmasks as bits, states by name.

Lane 0 comes first, as gdb prints it; `msb_first` turns lanes and bits round. A part of a register
that is not data says what it is: `init` (architecturally zero, not touched by the program) or
`withheld` (delivered, but its verdict is not among those shown).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import Element, lanes_of
from perfxmm.analysis.lanetext import lane_rows
from perfxmm.analysis.shapes import SetShape
from perfxmm.analysis.shown import FIRST_HIGH_REGISTER, OPMASK, XMM, YMM, ZMM
from perfxmm.analysis.textcolumns import Piece
from perfxmm.coherence.model import RegisterSet

if TYPE_CHECKING:
    from perfxmm.analysis.instructions import Use

WIDTH_WORDS: dict[str, int] = {"xmm": 2, "ymm": 4, "zmm": 8}
_WIDTH_NAMES = {2: "xmm", 4: "ymm", 8: "zmm"}
_SEGMENTS: tuple[tuple[int, int, int], ...] = ((XMM, 0, 2), (YMM, 2, 4), (ZMM, 4, 8))
_MASK_WIDTHS = (8, 16, 32, 64)
_GPRS_A_LINE = 4
_INDENT = b"    "

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which registers to print. vectors: register number -> words; opmasks: numbers; gprs: ids."""

    vectors: Mapping[int, int] = field(default_factory=dict)
    opmasks: frozenset[int] = frozenset()
    gprs: frozenset[int] = frozenset()

    @staticmethod
    def of(names: Iterable[str], gpr_names: tuple[str, ...]) -> Selection:
        """From names: xmm, ymm3, zmm, k1, opmask, gpr, egpr, ssp, ax, rax, r8, ...

        Raises ValueError naming what is not a register.
        """
        vectors: dict[int, int] = {}
        opmasks: set[int] = set()
        gprs: set[int] = set()
        ids = {name.lower(): number for number, name in enumerate(gpr_names)}
        for name in (n.strip().lower() for n in names):
            vector = re.fullmatch(r"([xyz]mm)(\d+)?", name)
            mask = re.fullmatch(r"k([0-7])", name)
            if vector:
                words = WIDTH_WORDS[vector[1]]
                last = 32 if words == 8 else FIRST_HIGH_REGISTER
                numbers = range(last) if vector[2] is None else [int(vector[2])]
                if numbers[-1] >= 32:
                    raise ValueError(f"no such register: {name}")
                for number in numbers:
                    vectors[number] = max(vectors.get(number, 0), words)
            elif mask:
                opmasks.add(int(mask[1]))
            elif name == "opmask":
                opmasks |= set(range(8))
            elif name == "gpr":
                gprs |= {i for n, i in ids.items() if n not in ("ssp", *_EGPR)}
            elif name == "egpr":
                gprs |= {ids[n] for n in _EGPR}
            elif name in ids:
                gprs.add(ids[name])
            elif name.startswith("r") and name[1:] in ids:
                gprs.add(ids[name[1:]])
            else:
                raise ValueError(f"no such register or register class: {name}")
        return Selection(vectors, frozenset(opmasks), frozenset(gprs))

    @staticmethod
    def of_use(use: Use, gpr_names: tuple[str, ...]) -> Selection:
        """The registers that one instruction reads or writes."""
        ids = {name: number for number, name in enumerate(gpr_names)}
        gprs = (ids.get(name, ids.get(name[1:])) for name in use.gprs)
        return Selection(
            use.vectors, frozenset(k for k in range(8) if use.opmasks >> k & 1),
            frozenset(number for number in gprs if number is not None),
        )  # fmt: skip

    @staticmethod
    def everything(gpr_ids: Iterable[int]) -> Selection:
        return Selection(
            dict.fromkeys(range(32), 8), frozenset(range(8)), frozenset(gpr_ids)
        )


_EGPR = tuple(f"r{n}" for n in range(16, 32))


def vector_lines(
    registers: RegisterSet, own: SetShape, rows: Rows, selection: Selection, element: Element,
    *, msb_first: bool = False,
) -> list[Piece]:
    """One line per selected vector register that was delivered, and one per opmask."""
    pieces: list[Piece] = []
    low = [r for r in selection.vectors if r < FIRST_HIGH_REGISTER]
    high = [r for r in selection.vectors if r >= FIRST_HIGH_REGISTER]
    for numbers in (sorted(low), sorted(high)):
        delivered = [r for r in numbers if own.vector_mask >> r & 1 and own.qwords]
        for words in sorted({selection.vectors[r] for r in delivered}):
            mine = [r for r in delivered if selection.vectors[r] == words]
            pieces += _registers(
                registers, own, rows, mine, min(words, own.qwords), element, msb_first
            )
    return pieces + _opmask_lines(registers, own, rows, selection, msb_first)


def gpr_lines(
    registers: RegisterSet, own: SetShape, rows: Rows, selection: Selection,
    gpr_names: tuple[str, ...],
) -> list[Piece]:
    """Selected general registers, some on a line."""
    shown = [g for g in own.gprs if g in selection.gprs]
    if not shown:
        return []
    columns = [registers.gpr_ids.index(g) for g in shown]
    digits = text.hex_fixed(registers.gprs[rows][:, columns])
    pieces: list[Piece] = []
    for number, gpr in enumerate(shown):
        before = _INDENT if number % _GPRS_A_LINE == 0 else b"  "
        pieces += [before + f"{gpr_names[gpr]:<5} 0x".encode(), digits[:, number]]
        if number % _GPRS_A_LINE == _GPRS_A_LINE - 1 or number == len(shown) - 1:
            pieces.append(b"\n")
    return pieces


def mask_text(value: int, msb_first: bool) -> str:
    """An opmask as bits, as many as a register has lanes, and how many are set."""
    width = next(w for w in _MASK_WIDTHS if value >> w == 0)
    bits = f"{value:0{width}b}"
    return f"{bits if msb_first else bits[::-1]} ({value.bit_count()} active)"


def _registers(
    registers: RegisterSet, own: SetShape, rows: Rows, numbers: list[int], words: int,
    element: Element, msb_first: bool,
) -> list[Piece]:
    """Lines of vector registers that all have the same parts."""
    if not numbers:
        return []
    parts = _parts(own, numbers[0], words)
    name = _WIDTH_NAMES.get(words, f"{words * 64}b")
    if [state for _, _, state in parts] == ["init"] and len(numbers) > 1:
        span = _span(name, numbers)
        return [_INDENT + span + b"  init\n"]
    if element.kind == "hex" and [state for _, _, state in parts] == ["data"]:
        return [_hex_lines(registers, rows, numbers, words, name, msb_first)]
    pieces: list[Piece] = []
    lanes = {
        first: _lane_pieces(registers, rows, numbers, first, last, element, msb_first)
        for first, last, state in parts
        if state == "data"
    }
    for index, number in enumerate(numbers):
        pieces.append(_INDENT + f"{name}{number}".ljust(6).encode())
        for first, _, state in reversed(parts) if msb_first else parts:
            pieces += lanes[first][index] if state == "data" else [b" " + state.encode()]
        pieces.append(b"\n")
    return pieces


def _hex_lines(
    registers: RegisterSet, rows: Rows, numbers: list[int], words: int, name: str, msb_first: bool
) -> Piece:
    """The everyday case in one piece: whole registers as raw words."""
    values = text.picked(registers.vectors, rows)
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        values = values[:, numbers[0] : numbers[-1] + 1, :words]
    else:
        values = values[:, numbers, :words]
    if msb_first:
        values = values[:, :, ::-1]
    literals: list[bytes] = []
    for number in numbers:
        label = _INDENT + f"{name}{number}".ljust(6).encode() + b" 0x"
        literals += [(b"\n" if literals else b"") + label, *[b" 0x"] * (words - 1)]
    return text.Words(values.reshape(len(rows), -1), [*literals, b"\n"])


def _lane_pieces(
    registers: RegisterSet, rows: Rows, numbers: list[int], first: int, last: int,
    element: Element, msb_first: bool,
) -> list[list[Piece]]:
    """Per register, its lanes of the words first..last, each with what separates it."""
    words = registers.vectors[rows][:, numbers, first:last]
    if element.kind == "hex":
        digits = text.hex_fixed(words)
        before = b" 0x"
    else:
        digits = lane_rows(lanes_of(words, element), element)
        before = b" "
    order = range(digits.shape[2])
    lanes = list(reversed(order)) if msb_first else list(order)
    return [
        [piece for lane in lanes for piece in (before, digits[:, register, lane])]
        for register in range(len(numbers))
    ]


def _parts(own: SetShape, register: int, words: int) -> list[tuple[int, int, str]]:
    """(first word, last word, state) of a register, from word 0 up; neighbours alike are one."""
    seen = own.words_of(register)
    if register >= FIRST_HIGH_REGISTER:
        segments = [(ZMM, 0, words)]
    else:
        segments = [(c, a, min(b, words)) for c, a, b in _SEGMENTS if a < words]
    parts: list[tuple[int, int, str]] = []
    for column, first, last in segments:
        if not seen[first]:
            state = "withheld"
        else:
            state = "init" if own.initial[column] else "data"
        if parts and parts[-1][2] == state:
            parts[-1] = (parts[-1][0], last, state)
        else:
            parts.append((first, last, state))
    return parts


def _opmask_lines(
    registers: RegisterSet, own: SetShape, rows: Rows, selection: Selection, msb_first: bool
) -> list[Piece]:
    wanted = [k for k in sorted(selection.opmasks) if k < own.delivered_predicates]
    if not wanted:
        return []
    if not own.predicates:
        return [_INDENT + _span("k", wanted) + b"  withheld\n"]
    if own.initial[OPMASK]:
        return [_INDENT + _span("k", wanted) + b"  init\n"]
    pieces: list[Piece] = []
    for k in wanted:
        used, inverse = np.unique(registers.predicates[rows, k], return_inverse=True)
        texts = [mask_text(value, msb_first).encode() for value in used.tolist()]
        pieces += [_INDENT + f"k{k}".ljust(6).encode() + b" ", text.choose(texts, inverse), b"\n"]
    return pieces


def _span(name: str, numbers: list[int]) -> bytes:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    if len(numbers) == 1:
        return f"{name}{numbers[0]}".encode()
    listed = f"{numbers[0]}..{numbers[-1]}" if whole else ",".join(map(str, numbers))
    return f"{name}{listed}".encode()
