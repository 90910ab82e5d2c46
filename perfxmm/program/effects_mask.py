"""Opmask instructions: constants, moves, and how many bits a result can have at most.

Intel SDM volume 2: instructions on masks work on 8, 16, 32 or 64 bits and clear the rest; a
comparison into a mask clears the bits beyond its number of lanes.
"""

from __future__ import annotations

import re

import iced_x86 as iced

from perfxmm.program.effects_vector import VECTOR
from perfxmm.program.operands import MNEMONICS, Effect, memory, register_of, same_registers
from perfxmm.program.values import ALL_ONES, PLACES, Part, Values

_WIDTHS = {"B": 8, "W": 16, "D": 32, "Q": 64}
_BY_WIDTH = re.compile(r"K(?:MOV|AND|ANDN|OR|XOR|XNOR|NOT|ADD|SHIFTL|SHIFTR)([BWDQ])")
_UNPACKED = {"KUNPCKBW": 16, "KUNPCKWD": 32, "KUNPCKDQ": 64}
_COMPARED = re.compile(
    r"VP(?:CMPU?|CMPEQ|CMPGT|TESTN?M)(?P<a>[BWDQ])|VPMOV(?P<b>[BWDQ])2M"
    r"|V(?:CMP|FPCLASS)P(?P<c>[HSD])"
)
_SCALAR = re.compile(r"V(?:CMP|FPCLASS)S[HSD]")
_FLOATS = {"H": 16, "S": 32, "D": 64}
_Instruction = iced.Instruction


def lanes_compared(instruction: _Instruction) -> int:
    """How many low bits a mask that `instruction` writes can have; 64 where that is not known."""
    name = MNEMONICS[instruction.mnemonic]
    if match := _BY_WIDTH.fullmatch(name):
        return _WIDTHS[match[1]]
    if name in _UNPACKED:
        return _UNPACKED[name]
    if _SCALAR.fullmatch(name):
        return 1
    if match := _COMPARED.fullmatch(name):
        bits = _WIDTHS.get(match["a"] or match["b"] or "") or _FLOATS[match["c"]]
        place = register_of(instruction, 1)
        if place is not None and place[0] == "v":
            return place[2] * 8 // bits
    return 64


def _cut(values: Values, parts: list[Part], bits: int) -> list[Part]:
    """The low `bits` of two parts, the others zero."""
    out: list[Part] = []
    for at, part in zip((0, 32), parts, strict=True):
        left = max(0, min(32, bits - at))
        mask = (1 << left) - 1
        if part <= ALL_ONES:
            out.append(part & mask)
        elif left == 32 or not ~values.zero_bits.get(part, 0) & ~mask & ALL_ONES:
            out.append(part)
        else:
            out.append(values.below(left))
    return out


def _move(values: Values, instruction: _Instruction) -> list[Part] | None:
    place = register_of(instruction, 0)
    if place is None:
        return None
    bits = lanes_compared(instruction)
    source = register_of(instruction, 1)
    if source is None:
        count = max(1, bits // 32)
        found = memory(values, instruction, count) if bits >= 32 else [values.unknown()]
        return _cut(values, [*found, 0][:2], bits)
    parts = values.get((source[0], source[1]))
    return _cut(values, [parts[0], parts[1] if bits == 64 else 0], bits)


def _zero_of_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    return [0, 0] if same_registers(instruction, 1, 2) else None


def _ones_of_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    if not same_registers(instruction, 1, 2):
        return None
    return _cut(values, [ALL_ONES, ALL_ONES], lanes_compared(instruction))


def _equal_to_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    """VPCMPEQ of a register with itself, into a mask."""
    place = register_of(instruction, 0)
    if place is None or place[0] != "k" or instruction.op_mask != iced.Register.NONE:
        return None
    return _ones_of_itself(values, instruction)


def _greater_than_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    place = register_of(instruction, 0)
    return None if place is None or place[0] != "k" else _zero_of_itself(values, instruction)


def _either(one: Effect, two: Effect) -> Effect:
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        place = PLACES.get(instruction.op0_register)
        return (one if place is not None and place[0] == "k" else two)(values, instruction)
    return effect


def _table() -> dict[str, Effect]:
    table: dict[str, Effect] = {}
    for letter in "BWDQ":
        table[f"KMOV{letter}"] = _move
        table[f"KXOR{letter}"] = _zero_of_itself
        table[f"KANDN{letter}"] = _zero_of_itself
        table[f"KXNOR{letter}"] = _ones_of_itself
        # The same names write vector registers in their VEX forms.
        for name, effect in (
            (f"VPCMPEQ{letter}", _equal_to_itself), (f"VPCMPGT{letter}", _greater_than_itself),
        ):
            table[name] = _either(effect, VECTOR[name])
    return table


MASK: dict[str, Effect] = _table()
