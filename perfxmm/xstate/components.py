"""XSAVE state components: their numbers, names and what is fixed about them.

Source: Intel SDM volume 1, chapter 13 (XSAVE-managed features), and
arch/x86/include/asm/fpu/types.h of Linux 7.3. Sizes are architectural; offsets in the standard
format are not (CPUID leaf 0xD enumerates them and vendors differ), see `layout`.
"""

from __future__ import annotations

from dataclasses import dataclass

X87, SSE, AVX, BNDREGS, BNDCSR, OPMASK, ZMM_HI256, HI16_ZMM = range(8)
PKRU = 9
CET_USER = 11
XTILE_CFG, XTILE_DATA = 17, 18
APX = 19

# The legacy area: FXSAVE's 512 bytes, then the 64 byte header; extended components follow.
LEGACY_BYTES = 512
HEADER_OFFSET = 512
HEADER_BYTES = 64
EXTENDED_OFFSET = 576
MXCSR_OFFSET = 24
XMM_OFFSET = 160
# Where Linux's ptrace note leaves XCR0: the first of FXSAVE's software-reserved bytes
# (arch/x86/include/asm/user.h, struct xstate_header note, Linux 7.3).
SW_XCR0_OFFSET = 464
XSTATE_BV_OFFSET = 512
XCOMP_BV_OFFSET = 520
RESERVED_OFFSET = 528
COMPACTED_BIT = 1 << 63
# MXCSR_MASK of 0 in an image means this value (Intel SDM volume 1, 11.6.6).
MXCSR_DEFAULT_MASK = 0x0000FFBF


@dataclass(frozen=True, slots=True)
class Component:
    """One row. size_bytes is 0 where it is not architectural."""

    number: int
    name: str
    size_bytes: int
    supervisor: bool = False


COMPONENTS: dict[int, Component] = {
    c.number: c
    for c in (
        Component(X87, "x87", 160),
        Component(SSE, "sse", 256),
        Component(AVX, "avx", 256),
        Component(BNDREGS, "bndregs", 64),
        Component(BNDCSR, "bndcsr", 64),
        Component(OPMASK, "opmask", 64),
        Component(ZMM_HI256, "zmm_hi256", 512),
        Component(HI16_ZMM, "hi16_zmm", 1024),
        Component(8, "pt", 128, supervisor=True),
        Component(PKRU, "pkru", 8),
        Component(10, "pasid", 8, supervisor=True),
        Component(CET_USER, "cet_user", 16, supervisor=True),
        Component(12, "cet_supervisor", 24, supervisor=True),
        Component(13, "hdc", 8, supervisor=True),
        Component(14, "uintr", 48, supervisor=True),
        Component(15, "lbr", 0, supervisor=True),
        Component(16, "hwp", 8, supervisor=True),
        Component(XTILE_CFG, "xtile_cfg", 64),
        Component(XTILE_DATA, "xtile_data", 0),
        Component(APX, "apx", 128),
    )
}

# Components that must be there (in XCR0) for a class to exist, and whose XSTATE_BV bits say
# whether its registers are in their initial state.
CLASS_COMPONENTS: dict[str, tuple[int, ...]] = {
    "xmm": (SSE,),
    "ymm": (SSE, AVX),
    "zmm": (SSE, AVX, ZMM_HI256, HI16_ZMM),
    "opmask": (OPMASK,),
    "egpr": (APX,),
}


def component_name(number: int) -> str:
    """The component's name, or "component N" for one without a row."""
    known = COMPONENTS.get(number)
    return known.name if known else f"component {number}"


def component_numbers(mask: int) -> tuple[int, ...]:
    """Bit numbers in `mask`, ascending; the compacted-format bit 63 is not a component."""
    return tuple(n for n in range(63) if mask >> n & 1)


def classes_in(mask: int) -> tuple[str, ...]:
    """Register classes whose every component is in `mask` (an XCR0)."""
    return tuple(
        name for name, needs in CLASS_COMPONENTS.items() if all(mask >> n & 1 for n in needs)
    )
