"""What registers are known to hold, by value numbers: a value that is not known still has a name.

Registers are lists of 32-bit parts, lowest first: 16 of a vector register, 2 of the others. A part
below 2**32 is that very number; one from there on is unknown, and equal wherever it appears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import iced_x86 as iced

# ("v", 0..31), ("k", 0..7), ("g", 0..15): vector, opmask and general registers, the last ones in
# the order of instruction encodings (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, ...).
Register = tuple[str, int]
Part = int

FIRST_UNKNOWN = 1 << 32
PARTS = {"v": 16, "k": 2, "g": 2}
ALL_ONES = FIRST_UNKNOWN - 1
_RegisterExt = iced.RegisterExt


@dataclass(frozen=True, slots=True)
class Lanes:
    """Lanes of a part that are zero where their bit of an opmask is.

    mask: the opmask's parts when it was used. first: number of the lowest lane that the part has
    bits of. bits: of a lane (64-bit lanes: two parts name the same one).
    """

    mask: tuple[Part, Part]
    first: int
    bits: int


# Reads that many bytes of data that cannot change while a program runs; None where that is not so.
ReadConstant = Callable[[int, int], bytes | None]


def no_constants(address: int, count: int) -> bytes | None:
    """Nothing is known of memory."""
    return None


@dataclass(slots=True)
class Values:
    """What is known at one boundary between instructions. Starts with nothing known.

    parts: of registers that were touched; the others are unknown and alike to nothing.
    zero_bits: of unknown parts, bits that are 0. repeats: size in bits of the lanes (8, 16) that
    are equal throughout an unknown part. lanes: of unknown parts, those that a mask cleared.
    addresses: pairs of parts that together are an address in the binary (before relocation).
    offsets: pairs of parts that are another pair and a number, modulo 2**64. That other pair is
    not among them.
    """

    constant: ReadConstant = no_constants
    parts: dict[Register, list[Part]] = field(default_factory=dict)
    zero_bits: dict[Part, int] = field(default_factory=dict)
    repeats: dict[Part, int] = field(default_factory=dict)
    lanes: dict[Part, Lanes] = field(default_factory=dict)
    addresses: dict[tuple[Part, Part], int] = field(default_factory=dict)
    offsets: dict[tuple[Part, Part], tuple[tuple[Part, Part], int]] = field(default_factory=dict)
    _last: int = FIRST_UNKNOWN - 1

    def copy(self) -> Values:
        """What happens to the copy leaves this one as it is."""
        return Values(
            self.constant, {register: list(parts) for register, parts in self.parts.items()},
            dict(self.zero_bits), dict(self.repeats), dict(self.lanes), dict(self.addresses),
            dict(self.offsets), self._last,
        )  # fmt: skip

    def unknown(self) -> Part:
        """A new part of which nothing is known."""
        self._last += 1
        return self._last

    def unknowns(self, count: int) -> list[Part]:
        return [self.unknown() for _ in range(count)]

    def below(self, bits: int) -> Part:
        """A new part whose bits from `bits` on are 0."""
        if bits <= 0:
            return 0
        part = self.unknown()
        if bits < 32:
            self.zero_bits[part] = ALL_ONES & ~((1 << bits) - 1)
        return part

    def moved(self, parts: Sequence[Part], by: int) -> list[Part]:
        """The parts of a 64-bit value and a number, modulo 2**64."""
        low, high = parts[0], parts[1]
        by %= 1 << 64
        if low < FIRST_UNKNOWN and high < FIRST_UNKNOWN:
            whole = (low | high << 32) + by
            return [whole & ALL_ONES, whole >> 32 & ALL_ONES]
        if not by:
            return [low, high]
        new = self.unknowns(2)
        target = self.addresses.get((low, high))
        if target is not None:
            self.addresses[new[0], new[1]] = (target + by) % (1 << 64)
            return new
        base, far = self.offsets.get((low, high), ((low, high), 0))
        far = (far + by) % (1 << 64)
        if not far:
            return list(base)
        self.offsets[new[0], new[1]] = (base, far)
        return new

    def get(self, register: Register) -> list[Part]:
        """The register's parts. Not to be changed: use `put`."""
        found = self.parts.get(register)
        if found is None:
            found = self.parts[register] = self.unknowns(PARTS[register[0]])
        return found

    def put(self, register: Register, low: Sequence[Part], *, clear: bool = False) -> None:
        """Replaces the lowest parts; the rest becomes zero with `clear`, else it stays."""
        count = PARTS[register[0]]
        low = list(low[:count])
        if len(low) == count:
            self.parts[register] = low
        elif clear:
            self.parts[register] = [*low, *([0] * (count - len(low)))]
        else:
            self.parts[register] = [*low, *self.get(register)[len(low) :]]

    def forget(self, register: Register) -> None:
        self.parts[register] = self.unknowns(PARTS[register[0]])

    def forget_everything(self) -> None:
        self.parts.clear()


def _places() -> dict[int, tuple[str, int, int]]:
    """iced-x86's registers -> (kind, number, bytes); AH and its like have the bytes -1."""
    places: dict[int, tuple[str, int, int]] = {}
    named: dict[str, Any] = {
        name: register for name, register in vars(iced.Register).items()
        if isinstance(register, int) and name not in ("NONE", "DONTUSE0")
    }  # fmt: skip
    for name, register in named.items():
        number, size = _RegisterExt.number(register), _RegisterExt.size(register)
        if _RegisterExt.is_vector_register(register):
            places[register] = ("v", number, size)
        elif _RegisterExt.is_k(register):
            places[register] = ("k", number, 8)
        elif _RegisterExt.is_gpr(register):
            full = _RegisterExt.number(_RegisterExt.full_register(register))
            places[register] = ("g", full, -1 if name in ("AH", "BH", "CH", "DH") else size)
    return places


# Where iced-x86's registers are.
PLACES = _places()


def words_of(data: bytes) -> list[Part]:
    """Constant parts of bytes that are multiples of four."""
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
