"""General registers, where what they hold is known for nothing: zeros, immediates, moves, widths.

A 32-bit result clears the upper half (Intel SDM volume 1, 3.4.1.1). Effects give two parts for a
register that is written as a whole, and None for narrower ones.
"""

from __future__ import annotations

import iced_x86 as iced

from perfxmm.program.operands import DONE, MNEMONICS, Effect, bytes_of, memory, same_registers
from perfxmm.program.values import ALL_ONES, FIRST_UNKNOWN, PLACES, Part, Values

_Instruction = iced.Instruction
_OpKind = iced.OpKind
_STACK = 4  # RSP's encoding
_IMMEDIATES = frozenset((
    _OpKind.IMMEDIATE8, _OpKind.IMMEDIATE16, _OpKind.IMMEDIATE32, _OpKind.IMMEDIATE64,
    _OpKind.IMMEDIATE8TO16, _OpKind.IMMEDIATE8TO32, _OpKind.IMMEDIATE8TO64,
    _OpKind.IMMEDIATE32TO64,
))


def _immediate(instruction: _Instruction, number: int, size: int) -> int | None:
    if instruction.op_kind(number) not in _IMMEDIATES:
        return None
    found: int = instruction.immediate(number)
    return found & (1 << 8 * size) - 1


def _whole(instruction: _Instruction) -> int:
    """4 or 8, the size of a general register that is written as a whole; else 0."""
    size = bytes_of(instruction)
    return size if size in (4, 8) and PLACES[instruction.op0_register][0] == "g" else 0


def _zero_of_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    return [0, 0] if _whole(instruction) and same_registers(instruction, 0, 1) else None


def _subtract(values: Values, instruction: _Instruction) -> list[Part] | None:
    return _zero_of_itself(values, instruction) or _moved(values, instruction, -1)


def _add(values: Values, instruction: _Instruction) -> list[Part] | None:
    return _moved(values, instruction, 1)


def _moved(values: Values, instruction: _Instruction, sign: int) -> list[Part] | None:
    """A 64-bit register and an immediate."""
    by = _immediate(instruction, 1, 8) if _whole(instruction) == 8 else None
    if by is None:
        return None
    return values.moved(values.get(("g", PLACES[instruction.op0_register][1])), sign * by)


def _count(sign: int) -> Effect:
    """INC and DEC."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        if _whole(instruction) != 8:
            return None
        return values.moved(values.get(("g", PLACES[instruction.op0_register][1])), sign)
    return effect


def _stack(values: Values, instruction: _Instruction) -> list[Part] | None:
    """PUSH and POP: the stack pointer moves; what is popped is not known."""
    place = PLACES.get(instruction.op0_register)
    popped = instruction.stack_pointer_increment > 0 and place is not None
    if popped and place is not None and (place[1] == _STACK or place[2] != 8):
        return None
    moved = values.moved(values.get(("g", _STACK)), instruction.stack_pointer_increment)
    values.put(("g", _STACK), moved)
    if popped and place is not None:
        values.forget(("g", place[1]))
    return DONE


def _move(values: Values, instruction: _Instruction) -> list[Part] | None:
    size = _whole(instruction)
    if not size:
        return None
    immediate = _immediate(instruction, 1, size)
    if immediate is not None:
        return [immediate & ALL_ONES, immediate >> 32]
    if instruction.op_kind(1) == _OpKind.MEMORY:
        return [*memory(values, instruction, size // 4), 0][:2]
    source = PLACES.get(instruction.op_register(1))
    if source is None or source[0] != "g":
        return None
    parts = values.get((source[0], source[1]))
    return list(parts) if size == 8 else [parts[0], 0]


def _address(values: Values, instruction: _Instruction) -> list[Part] | None:
    """LEA of a place in the binary (where that lies, the sample's own IP tells), or of a register
    and a number."""
    if _whole(instruction) != 8:
        return None
    base = PLACES.get(instruction.memory_base)
    if base is not None and base[2] == 8 and instruction.memory_index == iced.Register.NONE:
        return values.moved(values.get(("g", base[1])), instruction.memory_displacement)
    if not instruction.is_ip_rel_memory_operand:
        return None
    parts = values.unknowns(2)
    values.addresses[parts[0], parts[1]] = instruction.ip_rel_memory_address
    return parts


def _widened(values: Values, instruction: _Instruction) -> list[Part] | None:
    """MOVZX."""
    if not _whole(instruction):
        return None
    if instruction.op_kind(1) == _OpKind.REGISTER:
        bits = 16 if bytes_of(instruction, 1) == 2 else 8
    else:
        bits = 8 * int(iced.MemorySizeExt.size(instruction.memory_size))
    return [values.below(bits), 0]


def _and(values: Values, instruction: _Instruction) -> list[Part] | None:
    size = _whole(instruction)
    mask = _immediate(instruction, 1, size) if size else None
    if mask is None:
        return None
    before = values.get(("g", PLACES[instruction.op0_register][1]))
    out: list[Part] = []
    for at, part in zip((0, 32), before, strict=True):
        kept = mask >> at & ALL_ONES
        if size == 4 and at:
            out.append(0)
        elif part < FIRST_UNKNOWN:
            out.append(part & kept)
        elif kept == ALL_ONES or not kept:
            out.append(part if kept else 0)
        else:
            new = values.unknown()
            values.zero_bits[new] = (values.zero_bits.get(part, 0) | ~kept) & ALL_ONES
            out.append(new)
    return out


def _shift_right(values: Values, instruction: _Instruction) -> list[Part] | None:
    size = _whole(instruction)
    count = _immediate(instruction, 1, 1) if size else None
    if count is None:
        return None
    count &= 63 if size == 8 else 31
    left = 8 * size - count
    return None if count == 0 else [values.below(min(left, 32)), values.below(left - 32)]


def _counted(values: Values, instruction: _Instruction) -> list[Part] | None:
    """POPCNT: at most 64. (TZCNT and LZCNT are other instructions on old CPUs.)"""
    return [values.below(7), 0] if _whole(instruction) else None


def _signs(bits: int) -> Effect:
    """MOVMSK: a bit for each lane of `bits`."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        lanes = bytes_of(instruction, 1) * 8 // bits
        return [values.below(min(lanes, 32)), 0] if _whole(instruction) and lanes else None
    return effect


GENERAL: dict[str, Effect] = {
    "XOR": _zero_of_itself, "SUB": _subtract, "ADD": _add,
    "INC": _count(1), "DEC": _count(-1), "PUSH": _stack, "POP": _stack, "MOV": _move,
    "LEA": _address,
    "MOVZX": _widened, "AND": _and, "SHR": _shift_right, "POPCNT": _counted,
    **{f"{v}PMOVMSKB": _signs(8) for v in ("", "V")},
    **{f"{v}MOVMSKPS": _signs(32) for v in ("", "V")},
    **{f"{v}MOVMSKPD": _signs(64) for v in ("", "V")},
}  # fmt: skip
assert GENERAL.keys() <= set(MNEMONICS.values())
