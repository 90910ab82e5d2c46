"""Writes XSAVE images, standard and compacted, from registers: the inverse of what is tested.

Deliberately its own arithmetic: offsets are literals of the two vendors' manuals and of one real
machine, not taken from the package.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

# Standard offsets: Intel with MPX (2,696 bytes), AMD with AVX-512 and PKU (2,440), AMD AVX2 (840).
INTEL = {2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688}
AMD = {2: 576, 5: 832, 6: 896, 7: 1408, 9: 2432}
AMD_AVX2 = {2: 576, 9: 832}
SIZES = {2: 256, 3: 64, 4: 64, 5: 64, 6: 512, 7: 1024, 9: 8, 11: 16, 17: 64, 19: 128}


@dataclass
class Registers:
    """vectors: 32 rows of 8 words; opmask: 8 words."""

    vectors: list[list[int]] = field(default_factory=lambda: [[0] * 8 for _ in range(32)])
    opmask: list[int] = field(default_factory=lambda: [0] * 8)


def component_bytes(number: int, regs: Registers) -> bytes:
    v = regs.vectors
    if number == 1:
        words = [w for r in v[:16] for w in r[0:2]]
    elif number == 2:
        words = [w for r in v[:16] for w in r[2:4]]
    elif number == 5:
        words = regs.opmask
    elif number == 6:
        words = [w for r in v[:16] for w in r[4:8]]
    elif number == 7:
        words = [w for r in v[16:] for w in r]
    else:
        return b"\x5a" * SIZES[number]
    return struct.pack(f"<{len(words)}Q", *words)


def _head(xstate_bv: int, xcomp_bv: int, xcr0: int, regs: Registers, filler: int) -> bytearray:
    image = bytearray(576)
    struct.pack_into("<II", image, 24, 0x1F80, 0x2FFFF)
    if xcr0:
        struct.pack_into("<Q", image, 464, xcr0)
    image[160:416] = component_bytes(1, regs) if xstate_bv & 2 else bytes([filler]) * 256
    struct.pack_into("<QQ", image, 512, xstate_bv, xcomp_bv)
    return image


def standard(
    regs: Registers, *, offsets: dict[int, int], xcr0: int, xstate_bv: int, filler: int = 0
) -> bytes:
    """A standard image; components in their initial state hold `filler` bytes (the kernel: 0)."""
    image = _head(xstate_bv, 0, xcr0, regs, filler)
    numbers = [n for n in offsets if xcr0 >> n & 1]
    end = max([576, *(offsets[n] + SIZES[n] for n in numbers)])
    image += bytes(end - len(image))
    for n in numbers:
        live = xstate_bv >> n & 1
        data = component_bytes(n, regs) if live else bytes([filler]) * SIZES[n]
        image[offsets[n] : offsets[n] + SIZES[n]] = data
    return bytes(image)


def compacted(
    regs: Registers, *, saved: int, xstate_bv: int, aligned: frozenset[int] = frozenset(),
    filler: int = 0,
) -> bytes:
    """A compacted image of the components in `saved`, those in `aligned` on 64 bytes."""
    image = _head(xstate_bv, saved | 1 << 63, 0, regs, filler)
    for n in (n for n in range(2, 63) if saved >> n & 1):
        if n in aligned:
            image += bytes(-len(image) % 64)
        live = xstate_bv >> n & 1
        image += component_bytes(n, regs) if live else bytes([filler]) * SIZES[n]
    return bytes(image)
