"""Claims: what is known at a boundary between instructions, as comparisons of 64-bit words.

Words are numbered: vector register r, qword q is 8 * r + q (0..255); opmask k is 256 + k; the
general register with canonical id g (snapshots.vocabulary.GPR_NAMES) is 264 + g.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from perfxmm.program.values import ALL_ONES, FIRST_UNKNOWN, Part, Register, Values
from perfxmm.snapshots.vocabulary import GPR_ID

FIRST_OPMASK, FIRST_GPR, WORDS = 256, 264, 264 + 64
NO_WORD = -1
_ALL = (1 << 64) - 1
# Encodings of general registers (SDM volume 2, 2.1.5) -> canonical ids.
_GPRS = (
    *(GPR_ID[name] for name in ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI")),
    *(GPR_ID[f"R{number}"] for number in range(8, 16)),
)


class Kind(IntEnum):
    """What is compared.

    CONSTANT: word & mask == value. PLACE: word == sample's IP + value, modulo 2**64.
    EQUAL: (word >> shift) & mask == (other >> value) & mask.
    REPEATS: word, rotated by `shift` bits, is the same.
    OFFSET: word == other + value, modulo 2**64.
    MASKED: lanes of `shift` bits of word & mask, of which lane 0 has bit `value` (may be negative)
    of the opmask `other`, are zero where that bit is.
    """

    CONSTANT = 0
    PLACE = 1
    EQUAL = 2
    REPEATS = 3
    MASKED = 4
    OFFSET = 5


class Claim(NamedTuple):
    """One comparison. word: what it speaks of; other: what that is compared with, or NO_WORD."""

    kind: Kind
    word: int
    mask: int = _ALL
    value: int = 0
    other: int = NO_WORD
    shift: int = 0


def first_word(register: Register) -> int:
    """Number of a register's lowest word."""
    kind, number = register
    if kind == "v":
        return 8 * number
    return FIRST_OPMASK + number if kind == "k" else FIRST_GPR + _GPRS[number]


def claims_of(values: Values, address: int) -> list[Claim]:
    """Everything that `values` knows at the instruction at `address` (before relocation).

    Sorted by word within each kind. Registers that were not touched are not in it.
    """
    claims: list[Claim] = []
    live_masks = {
        (parts[0], parts[1]): first_word(register)
        for register, parts in values.parts.items() if register[0] == "k"
    }  # fmt: skip
    pairs: dict[tuple[Part, Part], int] = {}
    places: dict[Part, tuple[int, int]] = {}
    bases: dict[tuple[Part, Part], tuple[int, int]] = {}
    for register in sorted(values.parts, key=first_word):
        parts, first = values.parts[register], first_word(register)
        for at in range(0, len(parts), 2):
            low, high, word = parts[at], parts[at + 1], first + at // 2
            claims += _constant(values, low, high, word)
            if low < FIRST_UNKNOWN and high < FIRST_UNKNOWN:
                continue
            target = values.addresses.get((low, high))
            if target is not None:
                claims.append(Claim(Kind.PLACE, word, value=target - address & _ALL))
            claims += _masked(values, low, high, word, live_masks)
            known = pairs.setdefault((low, high), word)
            if known != word:
                claims.append(Claim(Kind.EQUAL, word, other=known))
                continue
            base, far = values.offsets.get((low, high), ((low, high), 0))
            where_base, from_base = bases.setdefault(base, (word, far))
            if where_base != word:
                claims.append(Claim(
                    Kind.OFFSET, word, value=far - from_base & _ALL, other=where_base))
            if low == high:
                claims.append(Claim(Kind.REPEATS, word, shift=values.repeats.get(low, 32)))
            for half, part in enumerate((low, high) if low != high else (low,)):
                if part < FIRST_UNKNOWN:
                    continue
                where = places.setdefault(part, (word, 32 * half))
                if where != (word, 32 * half):
                    claims.append(Claim(
                        Kind.EQUAL, word, ALL_ONES, where[1], where[0], 32 * half,
                    ))  # fmt: skip
    return claims


def _constant(values: Values, low: Part, high: Part, word: int) -> list[Claim]:
    mask = value = 0
    for part, shift in ((low, 0), (high, 32)):
        if part < FIRST_UNKNOWN:
            mask |= ALL_ONES << shift
            value |= part << shift
        else:
            mask |= values.zero_bits.get(part, 0) << shift
    return [Claim(Kind.CONSTANT, word, mask, value)] if mask else []


def _masked(
    values: Values, low: Part, high: Part, word: int, live: dict[tuple[Part, Part], int],
) -> list[Claim]:
    """Lanes cleared by an opmask that still is in its register."""
    lanes = [values.lanes.get(low), values.lanes.get(high)]
    found = lanes[0] or lanes[1]
    if found is None or found.mask not in live:
        return []
    mask = 0
    for half, one in enumerate(lanes):
        if one is not None and (one.mask, one.bits) == (found.mask, found.bits):
            mask |= ALL_ONES << 32 * half
    first = found.first
    if lanes[0] is None and found.bits <= 32:
        first -= 32 // found.bits
    return [Claim(Kind.MASKED, word, mask, first, live[found.mask], found.bits)]
