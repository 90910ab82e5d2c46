"""Vector instructions whose results are known from their operands: idioms, moves, permutations.

Each takes what is known before and gives the result's parts, unmasked (Intel SDM volume 2, the
instruction's own page). An effect gives None where this form of the instruction is not of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import iced_x86 as iced

from perfxmm.program.operands import (
    DONE,
    MNEMONICS,
    Effect,
    bytes_of,
    memory,
    read,
    register_of,
    same_registers,
    sources,
)
from perfxmm.program.values import ALL_ONES, FIRST_UNKNOWN, Part, Values

_Instruction = iced.Instruction


def _to_vector(instruction: _Instruction) -> int:
    """Parts of the first operand where it is a vector register, else 0."""
    place = register_of(instruction, 0)
    return place[2] // 4 if place is not None and place[0] == "v" else 0


def _zero_of_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    count = _to_vector(instruction)
    if not count or not same_registers(instruction, *sources(instruction)):
        return None
    return [0] * count


def _ones_of_itself(values: Values, instruction: _Instruction) -> list[Part] | None:
    count = _to_vector(instruction)
    if not count or not same_registers(instruction, *sources(instruction)):
        return None
    return [ALL_ONES] * count


def _ternary(values: Values, instruction: _Instruction) -> list[Part] | None:
    known = {0x00: 0, 0xFF: ALL_ONES}.get(instruction.immediate8)
    return None if known is None else [known] * _to_vector(instruction)


def _move(values: Values, instruction: _Instruction) -> list[Part] | None:
    count = _to_vector(instruction)
    return read(values, instruction, 1, count) if count else None


def _move_low(parts: int) -> Effect:
    """MOVSS and MOVSD: a load clears the rest, a move between registers merges."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        if not _to_vector(instruction):
            return None
        if instruction.op_count == 2 and instruction.op_kind(1) == iced.OpKind.MEMORY:
            return [*memory(values, instruction, parts), *([0] * (4 - parts))]
        rest, low = (0, 1) if instruction.op_count == 2 else (1, 2)
        upper = read(values, instruction, rest, 4)[parts:]
        return [*read(values, instruction, low, 4)[:parts], *upper]
    return effect


def _move_zero(parts: int) -> Effect:
    """MOVD and MOVQ: to a vector register with the rest zero, or to a general register."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        place = register_of(instruction, 0)
        if place is None:
            return None
        low = read(values, instruction, 1, parts)[:parts]
        if place[0] == "v":
            return [*low, *([0] * (4 - parts))]
        return [*low, *([0] * (2 - parts))]
    return effect


def _halves(choose: Callable[[list[Part], list[Part]], Sequence[Part]]) -> Effect:
    """Of two 128-bit sources, register operands only."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        one, two = sources(instruction)
        if not _to_vector(instruction) or bytes_of(instruction, two) != 16:
            return None
        return list(choose(read(values, instruction, one, 4), read(values, instruction, two, 4)))
    return effect


def _by_128(choose: Callable[[list[Part], list[Part], int], Sequence[Part]]) -> Effect:
    """In each 128 bits alike: (first source, second source, immediate) -> four parts."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        if count < 4:
            return None
        one, two = sources(instruction)
        first, second = (read(values, instruction, n, count) for n in (one, two))
        immediate = _immediate(instruction)
        out: list[Part] = []
        for at in range(0, count, 4):
            out += choose(first[at : at + 4], second[at : at + 4], immediate)
        return out
    return effect


def _within_128(choose: Callable[[list[Part], int], Sequence[Part]]) -> Effect:
    """The same of one source, operand 1."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        if count < 4 or (instruction.op_count > 2 and not _has_immediate(instruction)):
            return None
        source = read(values, instruction, 1, count)
        immediate = _immediate(instruction)
        out: list[Part] = []
        for at in range(0, count, 4):
            out += choose(source[at : at + 4], immediate)
        return out
    return effect


_IMMEDIATES = frozenset((iced.OpKind.IMMEDIATE8, iced.OpKind.IMMEDIATE8TO32))


def _has_immediate(instruction: _Instruction) -> bool:
    return instruction.op_kind(instruction.op_count - 1) in _IMMEDIATES


def _immediate(instruction: _Instruction) -> int:
    return instruction.immediate8 if _has_immediate(instruction) else 0


def _pick4(source: list[Part], immediate: int) -> list[Part]:
    return [source[immediate >> shift & 3] for shift in (0, 2, 4, 6)]


def _shuffle_floats(one: list[Part], two: list[Part], immediate: int) -> list[Part]:
    return [
        one[immediate & 3], one[immediate >> 2 & 3], two[immediate >> 4 & 3],
        two[immediate >> 6 & 3],
    ]  # fmt: skip


def _pair(source: Sequence[Part], number: int) -> list[Part]:
    return list(source[2 * number : 2 * number + 2])


def _permute_qwords(values: Values, instruction: _Instruction) -> list[Part] | None:
    """VPERMQ and VPERMPD with an immediate: within 256 bits."""
    count = _to_vector(instruction)
    if not _has_immediate(instruction) or count < 8:
        return None
    source, immediate = read(values, instruction, 1, count), instruction.immediate8
    out: list[Part] = []
    for at in range(0, count, 8):
        for shift in (0, 2, 4, 6):
            out += _pair(source[at : at + 8], immediate >> shift & 3)
    return out


def _permute_128(values: Values, instruction: _Instruction) -> list[Part] | None:
    """VPERM2F128, VPERM2I128."""
    both = [*read(values, instruction, 1, 8), *read(values, instruction, 2, 8)]
    out: list[Part] = []
    for shift in (0, 4):
        chosen = instruction.immediate8 >> shift
        out += [0] * 4 if chosen & 8 else both[4 * (chosen & 3) : 4 * (chosen & 3) + 4]
    return out


def _insert(parts: int) -> Effect:
    """VINSERT*: operand 2 over one place of operand 1."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        if not count:
            return None
        out = list(read(values, instruction, 1, count))
        at = instruction.immediate8 % (count // parts) * parts
        out[at : at + parts] = read(values, instruction, 2, parts)
        return out
    return effect


def _extract(parts: int) -> Effect:
    """VEXTRACT* to a register."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        if not _to_vector(instruction):
            return None
        count = bytes_of(instruction, 1) // 4
        at = instruction.immediate8 % (count // parts) * parts
        return read(values, instruction, 1, count)[at : at + parts]
    return effect


def _broadcast(parts: int) -> Effect:
    """VBROADCAST* and VPBROADCASTD/Q from memory, a vector or a general register."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        if not count:
            return None
        return read(values, instruction, 1, parts)[:parts] * (count // parts)
    return effect


def _broadcast_small(bits: int) -> Effect:
    """VPBROADCASTB/W: every lane is equal, whatever it is."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        if not count:
            return None
        source = register_of(instruction, 1)
        part: Part | None = None
        if source is None:
            found = memory(values, instruction, 1)
            # Four bytes are read here, of which the first ones count.
            part = found[0]
        else:
            part = values.get((source[0], source[1]))[0]
        if part < FIRST_UNKNOWN:
            lane = part & (1 << bits) - 1
            return [sum(lane << at for at in range(0, 32, bits))] * count
        new = values.unknown()
        values.repeats[new] = bits
        return [new] * count
    return effect


def _blend(bits: int) -> Effect:
    """BLENDPS, BLENDPD, VPBLENDD: lanes by an immediate's bits."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        one, two = (read(values, instruction, n, count) for n in sources(instruction))
        immediate = instruction.immediate8
        return [
            (two if immediate >> (place * 32 // bits) & 1 else one)[place]
            for place in range(count)
        ]
    return effect


def _shift_bytes(left: bool) -> Effect:
    """PSLLDQ and PSRLDQ by whole parts."""
    def effect(values: Values, instruction: _Instruction) -> list[Part] | None:
        count = _to_vector(instruction)
        by = min(instruction.immediate8, 16)
        if by % 4 or not count:
            return None
        source = read(values, instruction, 0 if instruction.op_count == 2 else 1, count)
        gone, out = by // 4, []
        for at in range(0, count, 4):
            lane = source[at : at + 4]
            out += [*([0] * gone), *lane[: 4 - gone]] if left else [*lane[gone:], *([0] * gone)]
        return out
    return effect


def _align(values: Values, instruction: _Instruction) -> list[Part] | None:
    """PALIGNR by whole parts."""
    by = instruction.immediate8
    if by % 4 or by > 16 or not _to_vector(instruction):
        return None
    return _by_128(lambda one, two, _: [*two, *one][by // 4 : by // 4 + 4])(values, instruction)


def _zero_all(values: Values, instruction: _Instruction) -> list[Part] | None:
    for number in range(16):
        values.put(("v", number), [], clear=True)
    return DONE


def _zero_upper(values: Values, instruction: _Instruction) -> list[Part] | None:
    for number in range(16):
        values.put(("v", number), values.get(("v", number))[:4], clear=True)
    return DONE


def _table() -> dict[str, Effect]:
    table: dict[str, Effect] = {}
    for names, effect in _ROWS:
        for name in names.split():
            for form in (name, f"V{name}"):
                if form in _KNOWN:
                    table[form] = effect
    return table


_KNOWN = frozenset(MNEMONICS.values())
# Names without the V of their VEX and EVEX forms.
_ROWS: tuple[tuple[str, Effect], ...] = (
    ("PXOR XORPS XORPD PXORD PXORQ PSUBB PSUBW PSUBD PSUBQ PSUBSB PSUBSW PSUBUSB PSUBUSW PANDN "
     "PANDND PANDNQ ANDNPS ANDNPD PCMPGTB PCMPGTW PCMPGTD PCMPGTQ", _zero_of_itself),
    ("PCMPEQB PCMPEQW PCMPEQD PCMPEQQ", _ones_of_itself),
    ("PTERNLOGD PTERNLOGQ", _ternary),
    ("MOVAPS MOVAPD MOVUPS MOVUPD MOVDQA MOVDQU MOVDQA32 MOVDQA64 MOVDQU8 MOVDQU16 MOVDQU32 "
     "MOVDQU64 LDDQU MOVNTDQA", _move),
    ("MOVSS", _move_low(1)), ("MOVSD", _move_low(2)),
    ("MOVD", _move_zero(1)), ("MOVQ", _move_zero(2)),
    ("MOVLHPS UNPCKLPD PUNPCKLQDQ", _by_128(lambda a, b, _: [*a[:2], *b[:2]])),
    ("MOVHLPS", _halves(lambda a, b: [*b[2:], *a[2:]])),
    ("UNPCKHPD PUNPCKHQDQ", _by_128(lambda a, b, _: [*a[2:], *b[2:]])),
    ("UNPCKLPS PUNPCKLDQ", _by_128(lambda a, b, _: [a[0], b[0], a[1], b[1]])),
    ("UNPCKHPS PUNPCKHDQ", _by_128(lambda a, b, _: [a[2], b[2], a[3], b[3]])),
    ("MOVSLDUP", _within_128(lambda a, _: [a[0], a[0], a[2], a[2]])),
    ("MOVSHDUP", _within_128(lambda a, _: [a[1], a[1], a[3], a[3]])),
    ("PSHUFD", _within_128(_pick4)),
    ("SHUFPS", _by_128(_shuffle_floats)),
    ("PERMQ PERMPD", _permute_qwords), ("PERM2F128 PERM2I128", _permute_128),
    ("INSERTF128 INSERTI128 INSERTF32X4 INSERTI32X4 INSERTF64X2 INSERTI64X2", _insert(4)),
    ("INSERTF32X8 INSERTI32X8 INSERTF64X4 INSERTI64X4", _insert(8)),
    ("EXTRACTF128 EXTRACTI128 EXTRACTF32X4 EXTRACTI32X4 EXTRACTF64X2 EXTRACTI64X2", _extract(4)),
    ("EXTRACTF32X8 EXTRACTI32X8 EXTRACTF64X4 EXTRACTI64X4", _extract(8)),
    ("BROADCASTSS PBROADCASTD", _broadcast(1)), ("BROADCASTSD PBROADCASTQ", _broadcast(2)),
    ("BROADCASTF128 BROADCASTI128 BROADCASTF32X4 BROADCASTI32X4 BROADCASTF64X2 BROADCASTI64X2",
     _broadcast(4)),
    ("BROADCASTF32X8 BROADCASTI32X8 BROADCASTF64X4 BROADCASTI64X4", _broadcast(8)),
    ("PBROADCASTB", _broadcast_small(8)), ("PBROADCASTW", _broadcast_small(16)),
    ("BLENDPS PBLENDD", _blend(32)), ("BLENDPD", _blend(64)),
    ("PSLLDQ", _shift_bytes(left=True)), ("PSRLDQ", _shift_bytes(left=False)),
    ("PALIGNR", _align),
    ("ZEROALL", _zero_all), ("ZEROUPPER", _zero_upper),
)  # fmt: skip

# MOVDDUP's memory form reads 64 bits where its register form reads 128.
def _move_ddup(values: Values, instruction: _Instruction) -> list[Part] | None:
    count = _to_vector(instruction)
    if instruction.op_kind(1) != iced.OpKind.REGISTER and count == 4:
        return memory(values, instruction, 2) * 2
    source = read(values, instruction, 1, count)
    out: list[Part] = []
    for at in range(0, count, 4):
        out += source[at : at + 2] * 2
    return out


VECTOR: dict[str, Effect] = {
    **_table(), "MOVDDUP": _move_ddup, "VMOVDDUP": _move_ddup,
}
# PERMILPS with an immediate is PSHUFD of floats; with a register it is another thing.
VECTOR["VPERMILPS"] = lambda values, instruction: (
    _within_128(_pick4)(values, instruction) if _has_immediate(instruction) else None
)
