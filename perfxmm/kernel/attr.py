"""perf_event_attr as a dataclass, and its bytes.

Layout of the base: include/uapi/linux/perf_event.h, Linux 7.3 (VER0 64 .. VER9 144 bytes).
The SIMD fields beyond it depend on the dialect and live in `dialects`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from perfxmm.errors import DamagedInput
from perfxmm.kernel import dialects
from perfxmm.kernel.constants import PRECISE_IP_MASK, PRECISE_IP_SHIFT, AttrFlag, SampleType
from perfxmm.kernel.dialects import Dialect, SimdRequest
from perfxmm.kernel.registers import LEGACY_XMM_MASK

ATTR_SIZE_VER0 = 64
# Field name -> (offset, struct format), ascending. `size` and the flag word are handled apart.
BASE_FIELDS: dict[str, tuple[int, str]] = {
    "type": (0, "I"), "config": (8, "Q"), "sample_period": (16, "Q"), "sample_type": (24, "Q"),
    "read_format": (32, "Q"), "wakeup_events": (48, "I"), "bp_type": (52, "I"),
    "config1": (56, "Q"), "config2": (64, "Q"), "branch_sample_type": (72, "Q"),
    "sample_regs_user": (80, "Q"), "sample_stack_user": (88, "I"), "clockid": (92, "i"),
    "sample_regs_intr": (96, "Q"), "aux_watermark": (104, "I"), "sample_max_stack": (108, "H"),
    "aux_sample_size": (112, "I"), "aux_action": (116, "I"), "sig_data": (120, "Q"),
    "config3": (128, "Q"), "config4": (136, "Q"),
}  # fmt: skip
FIELD_BYTES = {"H": 2, "I": 4, "i": 4, "Q": 8}
SIZE_VERSIONS = (64, 72, 80, 96, 104, 112, 120, 128, 136, 144)


@dataclass(frozen=True, slots=True)
class EventAttr:
    """One event's attr. Fields that an attr is too short to hold read as 0.

    flags: the word at offset 40 without precise_ip, which is `precise_ip`.
    size: attr.size as written; 0 lets `encode` choose the smallest that holds every field set.
    simd: the SIMD fields by `dialect`.
    tail: bytes beyond what is known, kept so that nothing is lost on the way through.
    """

    type: int = 0
    config: int = 0
    sample_period: int = 0
    sample_type: int = 0
    read_format: int = 0
    flags: int = 0
    precise_ip: int = 0
    wakeup_events: int = 0
    bp_type: int = 0
    config1: int = 0
    config2: int = 0
    branch_sample_type: int = 0
    sample_regs_user: int = 0
    sample_stack_user: int = 0
    clockid: int = 0
    sample_regs_intr: int = 0
    aux_watermark: int = 0
    sample_max_stack: int = 0
    aux_sample_size: int = 0
    aux_action: int = 0
    sig_data: int = 0
    config3: int = 0
    config4: int = 0
    size: int = 0
    dialect: Dialect = dialects.L
    simd: SimdRequest = field(default_factory=SimdRequest)
    tail: bytes = b""

    def has(self, bit: SampleType) -> bool:
        return bool(self.sample_type & bit)

    def flag(self, bit: AttrFlag) -> bool:
        return bool(self.flags & bit)

    @property
    def simd_enabled(self) -> bool:
        return self.simd.enabled != 0

    def gpr_mask(self, which: str) -> int:
        """General registers asked for in set `which` ("intr" or "user"), canonical numbering."""
        raw = self.sample_regs_intr if which == "intr" else self.sample_regs_user
        return dialects.canonical_gpr_mask(self.dialect, self.simd_enabled, raw)

    def legacy_xmm_mask(self, which: str) -> int:
        """Legacy XMM half-register bits (0..31, two per register) of set `which`; 0 if none.

        Merged kernels take them in sample_regs_user too; older ones only in sample_regs_intr.
        """
        if self.simd_enabled:
            return 0
        raw = self.sample_regs_intr if which == "intr" else self.sample_regs_user
        return (raw & LEGACY_XMM_MASK) >> 32


def smallest_size(attr: EventAttr) -> int:
    """The smallest attr.size that holds every non-zero field of `attr`."""
    end = ATTR_SIZE_VER0
    for name, (offset, fmt) in BASE_FIELDS.items():
        if getattr(attr, name):
            end = max(end, offset + FIELD_BYTES[fmt])
    if attr.simd != SimdRequest():
        end = max(end, attr.dialect.attr_size)
    # A sample_type bit needs its mask field in the struct even where the mask is 0.
    if attr.has(SampleType.REGS_INTR):
        end = max(end, 104)
    if attr.has(SampleType.REGS_USER):
        end = max(end, 96)
    sizes = (*SIZE_VERSIONS, attr.dialect.attr_size, 176)
    return min(size for size in sizes if size >= end)


def encode(attr: EventAttr) -> bytes:
    """The attr's bytes, little-endian, attr.size long.

    Raises ValueError where an explicit size is too small for a field that is set: silently
    dropping a request would be worse.
    """
    known = _known_end(attr.dialect)
    size = attr.size or (known + len(attr.tail) if attr.tail else smallest_size(attr))
    if attr.tail.strip(b"\0") and size < known + len(attr.tail):
        raise ValueError(f"attr.size {size} is too small for {len(attr.tail)} bytes of tail")
    out = bytearray(max(size, 192))
    for name, (offset, fmt) in BASE_FIELDS.items():
        struct.pack_into("<" + fmt, out, offset, getattr(attr, name))
    struct.pack_into("<I", out, 4, size)
    flags = attr.flags & ~PRECISE_IP_MASK | attr.precise_ip << PRECISE_IP_SHIFT
    struct.pack_into("<Q", out, 40, flags)
    dialects.write_simd(attr.dialect, out, attr.simd)
    if size > known:
        out = out[:known].ljust(size, b"\0")
        out[known:size] = attr.tail.ljust(size - known, b"\0")[: size - known]
    elif any(out[size:]):
        raise ValueError(f"attr.size {size} is too small for the fields that are set")
    return bytes(out[:size])


def decode(
    data: bytes, *, dialect: Dialect | None = None, file: str = "", offset: int = 0
) -> EventAttr:
    """An attr from its bytes (exactly attr.size of them, or more), by the detected dialect.

    dialect overrides detection. Raises DamagedInput where the bytes cannot be an attr.
    """
    if len(data) < ATTR_SIZE_VER0:
        raise DamagedInput(
            "an event attribute is cut short", file=file, offset=offset, field="perf_event_attr",
            wanted_bytes=ATTR_SIZE_VER0, available_bytes=len(data),
        )
    size: int = struct.unpack_from("<I", data, 4)[0] or ATTR_SIZE_VER0
    if size < ATTR_SIZE_VER0 or size > len(data):
        raise DamagedInput(
            "an event attribute has an impossible size", file=file, offset=offset + 4,
            field="perf_event_attr.size", wanted_bytes=size, available_bytes=len(data),
        )
    data = data[:size]
    spoken = dialect or dialects.detect(data).dialect
    padded = data.ljust(192, b"\0")
    values = {
        name: struct.unpack_from("<" + fmt, padded, at)[0]
        for name, (at, fmt) in BASE_FIELDS.items()
    }
    if spoken.name == "R2":
        values["config4"] = 0  # its place is taken by the SIMD fields
    word: int = struct.unpack_from("<Q", padded, 40)[0]
    return EventAttr(
        **values, size=size, flags=word & ~PRECISE_IP_MASK,
        precise_ip=(word & PRECISE_IP_MASK) >> PRECISE_IP_SHIFT,
        dialect=spoken, simd=dialects.read_simd(spoken, data),
        tail=data[_known_end(spoken):],
    )  # fmt: skip


def _known_end(dialect: Dialect) -> int:
    # R2's structure is 176 bytes long although its declared size is 168.
    return 176 if dialect.fields else 144
