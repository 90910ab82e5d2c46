"""Register ids and vector geometry of x86 perf samples.

perfxmm has one numbering of its own for general registers, whatever dialect a file speaks: the
bit numbers of the merged SIMD ABI (asm/perf_regs.h with SIMD enabled). `GPR_NAMES[id]` names them.
Attr masks in a dialect's own numbering are turned into it by `dialects.canonical_gpr_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass

# Ids 0..23: arch/x86/include/uapi/asm/perf_regs.h, Linux 7.3. R16..R31 at 24..39 and SSP at 40:
# merged SIMD series.
GPR_NAMES: tuple[str, ...] = (
    "AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP", "IP", "FLAGS", "CS", "SS",
    "DS", "ES", "FS", "GS",
    *(f"R{n}" for n in range(8, 16)),
    *(f"R{n}" for n in range(16, 32)),
    "SSP",
)  # fmt: skip
GPR_ID: dict[str, int] = {name: number for number, name in enumerate(GPR_NAMES)}

GPR_IP = GPR_ID["IP"]
GPR_SSP = GPR_ID["SSP"]
# What tools on x86-64 call "all general registers": the segment registers DS..GS are refused.
CLASSIC_GPR_MASK = 0xFF0FFF
# With ABI_32 only these can be named by the program.
ABI32_GPR_MASK = 0x000FFF
EGPR_MASK = 0xFFFF000000
SSP_MASK = 1 << GPR_SSP
# Legacy XMM inside sample_regs_intr: bits 32..63, two per register (5.2 and later).
LEGACY_XMM_MASK = 0xFFFFFFFF00000000
LEGACY_XMM_SHIFT = 32


@dataclass(frozen=True, slots=True)
class VectorClass:
    """One register class as perf delivers it: whole registers, low qword first.

    mask: the full register mask that the merged ABI insists on.
    """

    name: str
    registers: int
    qwords: int

    @property
    def mask(self) -> int:
        return (1 << self.registers) - 1

    @property
    def bits(self) -> int:
        return self.qwords * 64


XMM = VectorClass("xmm", 16, 2)
YMM = VectorClass("ymm", 16, 4)
ZMM = VectorClass("zmm", 32, 8)
OPMASK = VectorClass("opmask", 8, 1)
VECTOR_CLASSES: dict[str, VectorClass] = {c.name: c for c in (XMM, YMM, ZMM)}
# Every register class a user can ask for by name, in the order in which they are shown.
CLASS_NAMES: tuple[str, ...] = ("gpr", "xmm", "ymm", "zmm", "opmask", "egpr", "ssp")


def gpr_names(mask: int) -> tuple[str, ...]:
    """Names of the general registers in a canonical `mask`, ascending by id.

    Bits without a name (41 and up) are an error of the caller: KeyError-free, they raise
    IndexError.
    """
    return tuple(GPR_NAMES[bit] for bit in range(mask.bit_length()) if mask >> bit & 1)
