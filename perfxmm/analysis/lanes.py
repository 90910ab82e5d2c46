"""Lanes of vector registers: element types, and what kind of number stands in each lane.

Everything works on the bits, never on converted floats: a signalling NaN stays one, -0.0 keeps its
sign, and the processor's own float environment has no say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
Bits = npt.NDArray[np.unsignedinteger]

# What is counted in floating-point lanes, in the order in which it is shown.
KINDS: tuple[str, ...] = ("nan", "inf", "subnormal", "zero", "negative_zero")


@dataclass(frozen=True, slots=True)
class Element:
    """One way to read a lane.

    kind: "hex", "float", "signed" or "unsigned". bits: lane width.
    mantissa_bits: stored fraction bits of a float (IEEE 754 binary16/32/64; bfloat16: Intel,
    "BFLOAT16 - Hardware Numerics Definition", 2018).
    """

    name: str
    kind: str
    bits: int
    mantissa_bits: int = 0

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def fraction(self) -> int:
        return (1 << self.mantissa_bits) - 1

    @property
    def infinity(self) -> int:
        """Bits of +Inf: every exponent bit set, fraction zero."""
        return self.sign - 1 - self.fraction


ELEMENTS: dict[str, Element] = {
    e.name: e
    for e in (
        Element("hex", "hex", 64),
        Element("f64", "float", 64, 52), Element("f32", "float", 32, 23),
        Element("f16", "float", 16, 10), Element("bf16", "float", 16, 7),
        Element("i64", "signed", 64), Element("u64", "unsigned", 64),
        Element("i32", "signed", 32), Element("u32", "unsigned", 32),
        Element("i16", "signed", 16), Element("u16", "unsigned", 16),
        Element("i8", "signed", 8), Element("u8", "unsigned", 8),
    )
}  # fmt: skip
VIEWS: tuple[str, ...] = (*ELEMENTS, "auto")

_ONES = np.array([n.bit_count() for n in range(256)], np.uint8)


def lanes_of(words: U64, element: Element) -> Bits:
    """Lane bits, lane 0 first: uint64 [..., qwords] to unsigned [..., qwords * 64 / bits]."""
    flat = np.ascontiguousarray(words)
    return flat.view(element.dtype).reshape(*words.shape[:-1], words.shape[-1] * 64 // element.bits)


def classify(lanes: Bits, element: Element) -> dict[str, Bool]:
    """Masks of the shape of `lanes`, one for each of KINDS. "zero" holds for -0.0 too.

    For integers only "zero" can be true.
    """
    dtype = element.dtype.type
    if not element.is_float:
        nothing = np.zeros(lanes.shape, np.bool_)
        return {kind: lanes == 0 if kind == "zero" else nothing for kind in KINDS}
    magnitude = lanes & dtype(element.sign - 1)
    infinity = dtype(element.infinity)
    zero = magnitude == 0
    return {
        "nan": magnitude > infinity,
        "inf": magnitude == infinity,
        # Below the smallest normal number and not zero: 0 - 1 wraps round to the largest value.
        "subnormal": magnitude - dtype(1) < dtype(element.fraction),
        "zero": zero,
        "negative_zero": lanes == dtype(element.sign),
    }


def count_lanes(
    words: U64, present: Bool, element: Element, *, lowest: bool = False
) -> dict[str, I64]:
    """How many lanes of each kind a sample has, and how many it has in all ("lanes").

    words: uint64 [n, registers, qwords]; present: bool [n, registers, qwords], words that are
    data. lowest: count lane 0 of each register alone, as scalar instructions see it.
    Returns int64 [n] for each of KINDS and for "lanes". Lanes never cross a word.
    """
    if lowest:
        first = lanes_of(words[:, :, :1], element)[:, :, :1]
        seen = present[:, :, :1]
        counts = {"lanes": np.count_nonzero(seen, axis=(1, 2))}
        for kind, mask in classify(first, element).items():
            counts[kind] = np.count_nonzero(mask & seen, axis=(1, 2))
        return counts
    per_word = 64 // element.bits
    counts = {"lanes": np.count_nonzero(present, axis=(1, 2)) * per_word}
    everything = bool(present.all())
    lanes = lanes_of(words, element)
    valid = None if everything else np.repeat(present, per_word, axis=2)
    for kind, mask in classify(lanes, element).items():
        # Most recordings hold none of a kind in a whole batch: do not reduce what is empty.
        if not mask.any():
            counts[kind] = np.zeros(len(words), np.int64)
            continue
        seen = mask if valid is None else mask & valid
        counts[kind] = np.count_nonzero(seen, axis=(1, 2))
    return counts


def active_lanes(predicates: U64) -> I64:
    """Number of set bits of each opmask: uint64 [...] to int64 [...]."""
    octets = np.ascontiguousarray(predicates).view(np.uint8)
    ones: I64 = _ONES[octets].reshape(*predicates.shape, 8).sum(axis=-1, dtype=np.int64)
    return ones


def to_float(lanes: Bits, element: Element) -> npt.NDArray[np.float64]:
    """Float lanes as float64, exactly (every narrower value has one). NaN payloads are lost."""
    with np.errstate(invalid="ignore"):
        if element.name == "f64":
            return lanes.view(np.float64)
        if element.name == "f32":
            return lanes.view(np.float32).astype(np.float64)
        if element.name == "f16":
            return lanes.view(np.float16).astype(np.float64)
        widened = lanes.astype(np.uint32) << np.uint32(16)
        return widened.view(np.float32).astype(np.float64)


def to_signed(lanes: Bits) -> npt.NDArray[np.signedinteger]:
    """The same bits as two's complement integers."""
    return lanes.view(f"<i{lanes.dtype.itemsize}")
