"""The dialects of SIMD sampling, as tables.

A dialect is a row: where its fields lie in perf_event_attr, how its sample header is written and
what its kernels may be believed for. A new dialect is a new row.

| name | what | source |
| --- | --- | --- |
| L | mainline 5.2 and later: XMM inside sample_regs_intr | UAPI headers of Linux 7.3 |
| R2 | postings V2..V5 of the SIMD series (2025), never released | the series' mails |
| R6 | postings v6 and v7 (2026): O1's attr, R2's header | changelogs; order inferred |
| O1 | Intel's 6.18 LTS overlay | the overlay's patches |
| O2 | Intel's overlay of mid 2026: M's layout, O1's manners | the overlay's patches |
| M | merged (tip, 9 September 2026; expected in 7.4) | the merged series |

Detection order and the tests are inferred from those layouts: sizes alone do not decide. R6 and
O1, and O2 and M, have the same attr: an attr alone names O1 and M. R6 is told by its samples, O2 by
what M refuses (`overlay_of_2026`).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import Literal

from perfxmm.kernel.constants import SampleType
from perfxmm.kernel.registers import GPR_SSP, LEGACY_XMM_MASK, SSP_MASK

HeaderKind = Literal["none", "u64", "u16"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row.

    fields: SIMD field name -> (offset in the attr, struct format); empty where there is none.
    attr_size: the smallest attr.size that holds the fields.
    header: how nr_vectors, vector_qwords, nr_pred, pred_qwords stand in a sample's register set.
    enabled_is_pred_qwords: one u16 serves as both (union).
    ssp_bit: bit of SSP in sample_regs_* while SIMD is enabled.
    subset_masks: whether the kernel takes masks that are not a whole class.
    writable: perfxmm asks kernels and writes files in it; the others are read only.
    """

    name: str
    title: str
    fields: dict[str, tuple[int, str]]
    attr_size: int
    header: HeaderKind
    enabled_is_pred_qwords: bool
    ssp_bit: int
    subset_masks: bool
    writable: bool


L = Dialect(
    name="L", title="mainline since 5.2: XMM in sample_regs_intr", fields={}, attr_size=104,
    header="none", enabled_is_pred_qwords=False, ssp_bit=GPR_SSP, subset_masks=True, writable=True,
)
R2 = Dialect(
    name="R2", title="postings V2 to V5 (2025), never released",
    fields={
        "enabled": (136, "H"), "pred_qwords": (136, "H"), "pred_intr": (140, "I"),
        "pred_user": (144, "I"), "vec_qwords": (148, "H"), "vec_intr": (152, "Q"),
        "vec_user": (160, "Q"), "reserved": (168, "I"),
    },
    attr_size=168, header="u16", enabled_is_pred_qwords=True, ssp_bit=41, subset_masks=True,
    writable=False,
)  # fmt: skip
O1 = Dialect(
    name="O1", title="Intel 6.18 LTS overlay",
    fields={
        "enabled": (144, "H"), "pred_qwords": (144, "H"), "vec_qwords": (146, "H"),
        "reserved": (148, "I"), "pred_intr": (152, "I"), "pred_user": (156, "I"),
        "vec_intr": (160, "Q"), "vec_user": (168, "Q"),
    },
    attr_size=176, header="u64", enabled_is_pred_qwords=True, ssp_bit=GPR_SSP, subset_masks=True,
    writable=True,
)  # fmt: skip
M = Dialect(
    name="M", title="merged SIMD sampling (expected in 7.4)",
    fields={
        "enabled": (144, "H"), "pred_qwords": (146, "H"), "vec_qwords": (148, "H"),
        "reserved": (150, "H"), "pred_intr": (152, "I"), "pred_user": (156, "I"),
        "vec_intr": (160, "Q"), "vec_user": (168, "Q"),
    },
    attr_size=176, header="u64", enabled_is_pred_qwords=False, ssp_bit=GPR_SSP,
    subset_masks=False, writable=True,
)  # fmt: skip
R6 = replace(O1, name="R6", title="postings v6 and v7 (2026), never released", header="u16",
             writable=False)  # fmt: skip
O2 = replace(M, name="O2", title="Intel overlay of mid 2026", subset_masks=True, writable=False)
DIALECTS: dict[str, Dialect] = {d.name: d for d in (L, R2, R6, O1, O2, M)}
# Attrs in the one's layout, headers of the other's kind: no kernel is known to write that.
UNKNOWN = replace(M, name="unknown", title="no known dialect", header="u16", writable=False)
VECTOR_QWORDS = (0, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class SimdRequest:
    """What an attr asks for beyond sample_regs_*. All zero where SIMD sampling is off."""

    enabled: int = 0
    pred_qwords: int = 0
    vec_qwords: int = 0
    pred_intr: int = 0
    pred_user: int = 0
    vec_intr: int = 0
    vec_user: int = 0
    reserved: int = 0


def read_simd(dialect: Dialect, attr: bytes) -> SimdRequest:
    """The SIMD fields of `attr` read by `dialect`; fields beyond the attr's end are 0."""
    padded = attr.ljust(dialect.attr_size + 8, b"\0")
    values = {
        name: struct.unpack_from("<" + fmt, padded, offset)[0]
        for name, (offset, fmt) in dialect.fields.items()
    }
    return SimdRequest(**values)


def write_simd(dialect: Dialect, attr: bytearray, simd: SimdRequest) -> None:
    """Puts `simd` into `attr`, which must be at least dialect.attr_size long.

    In dialects where `enabled` doubles as pred_qwords, `enabled` is what is written: those
    kernels take nothing but 1 there.
    """
    for name, (offset, fmt) in dialect.fields.items():
        if name == "pred_qwords" and dialect.enabled_is_pred_qwords:
            continue
        struct.pack_into("<" + fmt, attr, offset, getattr(simd, name))


@dataclass(frozen=True, slots=True)
class Detection:
    """Which dialect an attr speaks, and the evidence in words."""

    dialect: Dialect
    evidence: str


def plausible(dialect: Dialect, attr: bytes) -> bool:
    """Whether a kernel of `dialect` could have accepted these SIMD fields, and they are enabled."""
    if not dialect.fields:
        return False
    simd = read_simd(dialect, attr)
    known_masks = max(simd.pred_intr, simd.pred_user) <= 0xFF and max(
        simd.vec_intr, simd.vec_user
    ) <= 0xFFFFFFFF  # fmt: skip
    enabled = simd.enabled == 1 if dialect.enabled_is_pred_qwords else simd.enabled != 0
    # Only R2 does not look at its reserved word.
    reserved = simd.reserved == 0 or dialect is R2
    return (
        enabled and reserved and known_masks
        and simd.vec_qwords in VECTOR_QWORDS and simd.pred_qwords <= 1
    )  # fmt: skip


def readings(attr: bytes) -> tuple[Dialect, ...]:
    """The dialects that an attr can be read in, the likeliest (`detect`) first, L never.

    What `detect` says is among them only where it is a SIMD dialect. Which one is right, an event's
    samples tell.
    """
    first = detect(attr).dialect
    possible = [d for d in (M, O1, R6, R2) if plausible(d, attr)]
    return tuple(sorted(possible, key=lambda d: d is not first))


def merged_release(release: str) -> bool:
    """Whether a kernel release is known to have the merged series: 7.4 and later, and linux-next
    from 20260909. False also where it may have it (tip trees, back-ports) or is not known."""
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) >= (7, 4):
        return True
    tree = re.search(r"-next-(\d{8})", release)
    return tree is not None and int(tree[1]) >= 20260909


def overlay_of_2026(attr: bytes) -> str:
    """Why an attr in M's layout is not the merged kernel's but O2's; "" where nothing says so.

    M refuses masks that are not a whole class, in the sets that sample_type asks for; O2 takes
    subsets.
    """
    if not plausible(M, attr):
        return ""
    simd, (sample_type,) = read_simd(M, attr), struct.unpack_from("<Q", attr, 24)
    # M looks at a mask only where its class has a width, and below 512 bits only at the low half.
    low = 0xFFFFFFFF if simd.vec_qwords == 8 else 0xFFFF
    for name, bit, mask, looked_at in (
        ("vec_intr", SampleType.REGS_INTR, simd.vec_intr, low * (simd.vec_qwords > 0)),
        ("vec_user", SampleType.REGS_USER, simd.vec_user, low * (simd.vec_qwords > 0)),
        ("pred_intr", SampleType.REGS_INTR, simd.pred_intr, 0xFF * simd.pred_qwords),
        ("pred_user", SampleType.REGS_USER, simd.pred_user, 0xFF * simd.pred_qwords),
    ):
        if sample_type & bit and mask and mask & looked_at != looked_at:
            return f"{name} {mask:#x} is no whole class, which the merged kernel refuses"
    return ""


def detect(attr: bytes) -> Detection:
    """Tells dialects apart by an x86 attr's bytes alone.

    Total: every byte string of 64 or more gets an answer. Confirm it on the first samples
    (`confirm_header`) and let the user override it.
    """
    tail = attr.ljust(184, b"\0")
    at136, at138, at144, at146, at148 = (
        struct.unpack_from("<H", tail, offset)[0] for offset in (136, 138, 144, 146, 148)
    )
    pred_intr, pred_user = struct.unpack_from("<II", tail, 152)
    if len(attr) <= 144:
        return Detection(L, f"attr.size {len(attr)} has no room for SIMD fields")
    if not any(attr[136:]):
        return Detection(L, "all bytes from 136 on are zero")
    # Bytes 136..143 are config4's place (VER9), which no x86 PMU uses.
    if at144 == 0 and at136 == 1:
        return Detection(R2, "u16 at 136 is 1 and u16 at 144 is 0")
    # R2 has pred_user at 144, mostly 0xff: no value anyone writes into M's `enabled`. And read as
    # M, its vec_intr at 152 would be an impossible predicate mask.
    as_m = at144 == 1 and pred_intr in (0, 0xFF)
    if at136 == 1 and at138 == 0 and at144 <= 0xFF and at146 == 0 and not as_m:
        return Detection(R2, f"u16 at 136 is 1, pred_user {at144:#x} at 144, vec_intr at 152")
    if at144 and at146 in (2, 4, 8):
        return Detection(O1, f"u16 at 144 is {at144}, vec_qwords {at146} at 146")
    if at144 and at146 == 0 and at148 == 0 and (pred_intr or pred_user):
        return Detection(O1, f"u16 at 144 is {at144}, a predicate mask, no qwords at 146 and 148")
    if at144 and at146 in (0, 1):
        merged = f"u16 at 144 is {at144}, pred_qwords {at146} at 146"
        overlay = overlay_of_2026(attr)
        return Detection(O2, f"{merged}; {overlay}") if overlay else Detection(M, merged)
    return Detection(L, "SIMD sampling is not enabled")


def canonical_gpr_mask(dialect: Dialect, simd_enabled: bool, mask: int) -> int:
    """A sample_regs_* mask in perfxmm's own numbering, legacy XMM bits left out."""
    if not simd_enabled:
        return mask & ~LEGACY_XMM_MASK & 0xFFFFFFFF
    low = mask & ((1 << GPR_SSP) - 1)
    return low | (SSP_MASK if mask >> dialect.ssp_bit & 1 else 0)
