"""Operands of instructions as parts of values, and what masks do to results."""

from __future__ import annotations

import re
from collections.abc import Callable

import iced_x86 as iced

from perfxmm.program.values import FIRST_UNKNOWN, PLACES, Lanes, Part, Values, words_of

# The result's parts for the first operand, DONE where the effect has written all that is written,
# or None where it has nothing to say.
Effect = Callable[[Values, iced.Instruction], list[Part] | None]
DONE: list[Part] = []

MNEMONICS: dict[int, str] = {
    value: name for name, value in vars(iced.Mnemonic).items() if isinstance(value, int)
}
_REGISTER, _MEMORY = iced.OpKind.REGISTER, iced.OpKind.MEMORY
_NO_REGISTER = iced.Register.NONE

# Instructions whose mask has a bit for each lane of their result, by the lane's size: the last
# letter, or the last number, says it. Conversions, VCOMPRESS and interleaving of bytes and words
# do not belong here: their names say another size.
_BY_LANE = re.compile(
    r"VMOVDQ[UA](?P<bits>8|16|32|64)"
    r"|VMOV[AU]P(?P<a>[SD])|VBROADCASTS(?P<b>[SD])|VP(?:BROADCAST|EXPAND)(?P<c>[BWDQ])"
    r"|V(?:ADD|SUB|MUL|DIV|MIN|MAX|SQRT|AND|ANDN|OR|XOR|BLENDM|PERM|PERMIL|UNPCKL|UNPCKH|SHUF"
    r"|EXPAND|SCALEF|RCP14|RSQRT14|RNDSCALE|GETEXP|GETMANT|F(?:N?M(?:ADD|SUB)(?:132|213|231)))"
    r"P(?P<d>[SD])"
    r"|VP(?:ADD|SUB|ABS|MULL|BLENDM|PERM|PERMT2|PERMI2|MAXS|MAXU|MINS|MINU|SLLV|SRLV|SRAV|ROLV"
    r"|RORV|TERNLOG|AND|ANDN|OR|XOR|POPCNT|LZCNT|CONFLICT)(?P<e>[BWDQ])"
    r"|VP(?:SLL|SRL|SRA|ROL|ROR|SHUF)(?P<f>[DQ])"
)
_LANE_BITS = {"B": 8, "W": 16, "D": 32, "Q": 64}
_FLOAT_BITS = {"S": 32, "D": 64}
_lane_bits: dict[int, int] = {}


def lane_bits(instruction: iced.Instruction) -> int:
    """Size of what one bit of the instruction's mask governs; 0 where that is not known."""
    mnemonic = instruction.mnemonic
    found = _lane_bits.get(mnemonic)
    if found is None:
        found = 0
        if match := _BY_LANE.fullmatch(MNEMONICS[mnemonic]):
            for group, text in match.groupdict().items():
                if text:
                    found = (
                        int(text) if group == "bits"
                        else (_FLOAT_BITS if group in "abd" else _LANE_BITS)[text]
                    )  # fmt: skip
        _lane_bits[mnemonic] = found
    return found


def register_of(instruction: iced.Instruction, number: int) -> tuple[str, int, int] | None:
    """(kind, number, bytes) of a register operand; None for every other one."""
    if instruction.op_kind(number) != _REGISTER:
        return None
    return PLACES.get(instruction.op_register(number))


def same_registers(instruction: iced.Instruction, one: int, two: int) -> bool:
    return (
        instruction.op_kind(one) == _REGISTER and instruction.op_kind(two) == _REGISTER
        and instruction.op_register(one) == instruction.op_register(two)
    )  # fmt: skip


def read(values: Values, instruction: iced.Instruction, number: int, count: int) -> list[Part]:
    """`count` parts of an operand, lowest first: a register's, or those of memory.

    A memory operand that is broadcast gives its one element again and again.
    """
    place = register_of(instruction, number)
    if place is not None:
        kind, register, size = place
        if kind == "v" or size == 8:
            return values.get((kind, register))[:count]
        if size == 4:
            return [values.get((kind, register))[0], *values.unknowns(count - 1)][:count]
        return values.unknowns(count)
    if instruction.op_kind(number) != _MEMORY:
        return values.unknowns(count)
    if instruction.is_broadcast:
        size = iced.MemorySizeExt.size(instruction.memory_size)
        if size not in (4, 8):
            return values.unknowns(count)
        return memory(values, instruction, size // 4) * (count * 4 // size)
    return memory(values, instruction, count)


def memory(values: Values, instruction: iced.Instruction, count: int) -> list[Part]:
    """`count` parts at the memory operand: constants where it cannot change, else unknown."""
    plain = instruction.segment_prefix == _NO_REGISTER and instruction.is_ip_rel_memory_operand
    if plain:
        found = values.constant(instruction.ip_rel_memory_address, 4 * count)
        if found is not None:
            return words_of(found)
    return values.unknowns(count)


def bytes_of(instruction: iced.Instruction, number: int = 0) -> int:
    """Size of a register operand in bytes; 0 for every other one."""
    place = register_of(instruction, number)
    return place[2] if place is not None else 0


def sources(instruction: iced.Instruction) -> tuple[int, int]:
    """Numbers of the two source operands: SSE forms read what they write."""
    return (0, 1) if instruction.encoding == iced.EncodingKind.LEGACY else (1, 2)


def masked(
    values: Values, instruction: iced.Instruction, result: list[Part], size: int,
) -> list[Part] | None:
    """The parts of a masked result of `size` bytes; None where nothing is known of it."""
    mask = values.get(("k", PLACES[instruction.op_mask][1]))
    if not instruction.zeroing_masking:
        return None
    bits = lane_bits(instruction)
    if not any(part for part in result):
        return result  # zero, or zero by the mask
    if not bits:
        return None
    known = all(part < FIRST_UNKNOWN for part in mask)
    whole = mask[0] | mask[1] << 32 if known else 0
    out: list[Part] = []
    for place, part in enumerate(result[: size // 4]):
        first = place * 32 // bits
        if known:
            chosen = _spread(whole >> first, bits)
            if chosen == 0 or part < FIRST_UNKNOWN:
                out.append(part & chosen if part < FIRST_UNKNOWN else 0)
            elif chosen == FIRST_UNKNOWN - 1:
                out.append(part)
            else:
                new = values.unknown()
                values.zero_bits[new] = ~chosen & FIRST_UNKNOWN - 1
                out.append(new)
        elif part == 0:
            out.append(0)
        else:
            new = values.unknown()
            values.lanes[new] = Lanes((mask[0], mask[1]), first, bits)
            out.append(new)
    return out


def _spread(mask: int, bits: int) -> int:
    """The bits of one part that mask bits from 0 up choose, in lanes of `bits`."""
    if bits >= 32:
        return FIRST_UNKNOWN - 1 if mask & 1 else 0
    lane = (1 << bits) - 1
    return sum(lane << at for at in range(0, 32, bits) if mask >> at // bits & 1)
