"""The words a batch speaks in, for the rooms that read batches without knowing the kernel's ABI.

Every name is defined (and sourced) in `kernel` or `perfdata`; here they are only handed on.
"""

from __future__ import annotations

from perfxmm.kernel.constants import (
    REGS_ABI_32,
    REGS_ABI_64,
    REGS_ABI_NONE,
    REGS_ABI_SIMD,
    CpuMode,
)
from perfxmm.kernel.registers import (
    ABI32_GPR_MASK,
    EGPR_MASK,
    GPR_ID,
    GPR_IP,
    GPR_NAMES,
    GPR_SSP,
    SSP_MASK,
)
from perfxmm.perfdata.snapshotinfo import BROKEN_IMAGE, SnapshotFlag
from perfxmm.perfdata.stopinfo import StopFlag

__all__ = [
    "ABI32_GPR_MASK",
    "BROKEN_IMAGE",
    "EGPR_MASK",
    "GPR_ID",
    "GPR_IP",
    "GPR_NAMES",
    "GPR_SSP",
    "REGS_ABI_32",
    "REGS_ABI_64",
    "REGS_ABI_NONE",
    "REGS_ABI_SIMD",
    "SSP_MASK",
    "CpuMode",
    "SnapshotFlag",
    "StopFlag",
]
