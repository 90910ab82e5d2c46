"""XSAVE images to register columns, vectorised: standard and compacted, any vendor's offsets.

Terms of the Intel SDM volume 1, chapter 13: a component whose XSTATE_BV bit is clear is in its
initial configuration. For every component read here that means "all registers zero", whatever
bytes the image holds in its place. It is a state of its own, neither data nor absence:
`DecodedImages.init` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from perfxmm.xstate.components import (
    AVX,
    CLASS_COMPONENTS,
    COMPACTED_BIT,
    COMPONENTS,
    EXTENDED_OFFSET,
    HI16_ZMM,
    MXCSR_DEFAULT_MASK,
    MXCSR_OFFSET,
    OPMASK,
    RESERVED_OFFSET,
    SSE,
    SW_XCR0_OFFSET,
    XCOMP_BV_OFFSET,
    XSTATE_BV_OFFSET,
    ZMM_HI256,
)
from perfxmm.xstate.layout import Layout, Place

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


class Problem(IntFlag):
    """What is wrong with an image. Each one makes the image's registers unusable but the last."""

    SHORT = 1 << 0  # no room for the header, or for a component that was asked for
    XCOMP_BV = 1 << 1  # standard format with other XCOMP_BV bits set
    BV_BEYOND_XCOMP = 1 << 2  # compacted: XSTATE_BV names a component that was not saved
    BV_BEYOND_XCR0 = 1 << 3  # standard: XSTATE_BV names a component that is not enabled
    RESERVED = 1 << 4  # reserved header bytes are not zero
    NOT_SAVED = 1 << 5  # a component that was asked for is not in the image at all
    NO_PLACE = 1 << 6  # the layout does not say where a component lies
    MXCSR = 1 << 7  # MXCSR has reserved bits set: the legacy area was not written by XSAVE


@dataclass(slots=True)
class DecodedImages:
    """Columns of n images.

    vectors: uint64 [n, registers, qwords], low qword first. opmask: uint64 [n, 8 or 0].
    xstate_bv, xcomp_bv: uint64 [n] as in the image's header (0 where it is too short).
    present: uint64 [n], components that the image holds, initial state included.
    init: uint64 [n], present components whose XSTATE_BV bit is clear.
    problems: uint32 [n], Problem bits; registers of an image with problems are all zero and
        must be read as absent.
    """

    vectors: U64
    opmask: U64
    xstate_bv: U64
    xcomp_bv: U64
    present: U64
    init: U64
    problems: U32


def vector_shape(classes: frozenset[str] | set[str] | tuple[str, ...]) -> tuple[int, int]:
    """(registers, qwords) of the widest vector class in `classes`; (0, 0) where there is none."""
    if "zmm" in classes:
        return 32, 8
    if "ymm" in classes:
        return 16, 4
    return (16, 2) if "xmm" in classes else (0, 0)


def wanted_components(classes: frozenset[str] | set[str] | tuple[str, ...]) -> tuple[int, ...]:
    """Components to read for these classes, ascending."""
    return tuple(sorted({n for c in classes for n in CLASS_COMPONENTS.get(c, ())}))


def decode_images(
    images: U8, layout: Layout, classes: frozenset[str] | set[str] | tuple[str, ...],
    *, xcr0: int | None = None,
) -> DecodedImages:
    """Decodes uint8 [n, length] images, each by its own format.

    classes: of "xmm", "ymm", "zmm", "opmask". xcr0: enabled components for standard images that
    do not carry it themselves (only ptrace's do, in a software-reserved field); None reads that
    field.
    """
    n, length = images.shape
    registers, qwords = vector_shape(classes)
    out = DecodedImages(
        vectors=np.zeros((n, registers, qwords), np.uint64),
        opmask=np.zeros((n, 8 if "opmask" in classes else 0), np.uint64),
        xstate_bv=np.zeros(n, np.uint64), xcomp_bv=np.zeros(n, np.uint64),
        present=np.zeros(n, np.uint64), init=np.zeros(n, np.uint64),
        problems=np.zeros(n, np.uint32),
    )  # fmt: skip
    if length < EXTENDED_OFFSET:
        out.problems |= np.uint32(Problem.SHORT)
        return out
    out.xstate_bv[:] = _word(images, XSTATE_BV_OFFSET)
    out.xcomp_bv[:] = _word(images, XCOMP_BV_OFFSET)
    compacted = out.xcomp_bv >> np.uint64(63) != 0
    enabled = _word(images, SW_XCR0_OFFSET) if xcr0 is None else np.full(n, xcr0, np.uint64)
    saved = out.xcomp_bv & np.uint64(COMPACTED_BIT - 1)
    out.present[:] = np.where(compacted, saved, enabled)
    out.init[:] = out.present & ~out.xstate_bv
    out.problems[:] = header_problems(images, enabled)

    wanted = wanted_components(classes)
    for number in wanted:
        missing = out.present >> np.uint64(number) & np.uint64(1) == 0
        out.problems[missing] |= np.uint32(Problem.NOT_SAVED)
    # Images of one recording share one format: a handful of groups at most.
    for xcomp_bv in np.unique(out.xcomp_bv).tolist():
        rows = np.flatnonzero(out.xcomp_bv == np.uint64(xcomp_bv))
        places = layout.compacted(xcomp_bv) if xcomp_bv & COMPACTED_BIT else None
        for number in wanted:
            place = places.get(number) if places is not None else layout.place(number)
            _read_component(images, rows, number, place, out)
    bad = out.problems != 0
    out.vectors[bad] = 0
    out.opmask[bad] = 0
    return out


def _word(images: U8, offset: int) -> U64:
    return np.ascontiguousarray(images[:, offset : offset + 8]).view("<u8")[:, 0]


def header_problems(images: U8, enabled: U64) -> U32:
    """Problem bits that an image's first EXTENDED_OFFSET bytes tell, uint32 [n].

    images: uint8 [n, EXTENDED_OFFSET or more]. enabled: uint64 [n], components that may be in a
    standard image; compacted ones name theirs themselves.
    """
    zero = np.uint64(0)
    xstate_bv, xcomp_bv = _word(images, XSTATE_BV_OFFSET), _word(images, XCOMP_BV_OFFSET)
    compacted = xcomp_bv >> np.uint64(63) != zero
    bits = np.zeros(len(images), np.uint32)
    bits[~compacted & (xcomp_bv != zero)] |= np.uint32(Problem.XCOMP_BV)
    bits[compacted & (xstate_bv & ~xcomp_bv != zero)] |= np.uint32(Problem.BV_BEYOND_XCOMP)
    bits[~compacted & (xstate_bv & ~enabled != zero)] |= np.uint32(Problem.BV_BEYOND_XCR0)
    reserved = images[:, RESERVED_OFFSET:EXTENDED_OFFSET].any(axis=1)
    bits[reserved] |= np.uint32(Problem.RESERVED)
    mxcsr = _word(images, MXCSR_OFFSET)
    value, mask = mxcsr & np.uint64(0xFFFFFFFF), mxcsr >> np.uint64(32)
    mask = np.where(mask == zero, np.uint64(MXCSR_DEFAULT_MASK), mask)
    # XSAVES and XSAVEC write MXCSR only together with SSE or AVX; elsewhere it is left-over bytes.
    written = ~compacted | (xstate_bv & np.uint64(1 << SSE | 1 << AVX) != zero)
    # In the compacted format MXCSR_MASK may not be written: then only the architectural bits can
    # be judged.
    mask = np.where(compacted, np.uint64(0x2FFFF), mask)
    bits[written & (value & ~mask != zero)] |= np.uint32(Problem.MXCSR)
    return bits


def _read_component(
    images: U8, rows: npt.NDArray[np.intp], number: int, place: Place | None, out: DecodedImages
) -> None:
    live = rows[(out.xstate_bv[rows] >> np.uint64(number) & np.uint64(1)) != 0]
    if place is None or place.size_bytes != COMPONENTS[number].size_bytes:
        # A size that is not the component's own: a recording's layout may claim anything.
        saved = out.present[rows] >> np.uint64(number) & np.uint64(1) != 0
        out.problems[rows[saved]] |= np.uint32(Problem.NO_PLACE)
        return
    if place.offset + place.size_bytes > images.shape[1]:
        # An image may be cut behind the last component in use; what is in its initial state
        # needs no bytes.
        out.problems[live] |= np.uint32(Problem.SHORT)
        return
    if not len(live):
        return
    field = images[live, place.offset : place.offset + place.size_bytes]
    words = np.ascontiguousarray(field).view("<u8")
    if number == SSE:
        out.vectors[live, :16, 0:2] = words.reshape(-1, 16, 2)
    elif number == AVX:
        out.vectors[live, :16, 2:4] = words.reshape(-1, 16, 2)
    elif number == ZMM_HI256:
        out.vectors[live, :16, 4:8] = words.reshape(-1, 16, 4)
    elif number == HI16_ZMM:
        out.vectors[live, 16:32, :] = words.reshape(-1, 16, 8)
    elif number == OPMASK and out.opmask.shape[1]:
        out.opmask[live] = words
