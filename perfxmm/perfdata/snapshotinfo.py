"""What the `nmi` source says: the tracepoint that carries its images, and its part of the metadata.

The tracepoint `xsaves_nmi:snapshot` has one XSAVE image in each sample's raw data, and beside it
whose it is. Where its fields lie is in the recording's own tracing data (kernel.traceformat); what
they mean is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

SYSTEM = "xsaves_nmi"
NAME = "snapshot"
TRACEPOINT = f"{SYSTEM}:{NAME}"
# One number each, then the image: u8[] behind a location.
NUMBER_FIELDS = ("ip", "sp", "flags", "tid", "tgid", "len", "rfbm", "xstate_bv", "xcomp_bv")
IMAGE_FIELD = "xsave"
# The tracepoint's own number stands in front of every raw record (struct trace_entry).
TYPE_FIELD = "common_type"
SOURCES = {1: "pmu", 2: "ipi", 3: "self"}
_MOST_COMPONENTS = 63


class SnapshotFlag(IntFlag):
    """Bits of SnapshotBatch.snapshot_flags.

    The lower 32 are the record's own `flags`; the NMI's source (SOURCES) is a number from bit
    SOURCE_SHIFT up. The upper ones are what decoding found.
    """

    USER = 1 << 0  # the interrupted code ran in user mode
    NEED_FPU_LOAD = 1 << 1  # TIF_NEED_FPU_LOAD: the task's registers are in memory, not in the CPU
    COMPACTED = 1 << 2  # the image is in the compacted format
    XSAVES = 1 << 3  # and was written by XSAVES
    IN_NMI = 1 << 4  # taken in NMI context
    KERNEL_THREAD = 1 << 5  # the current task had no user registers (PF_KTHREAD)

    PRESENT = 1 << 32  # the sample carries a snapshot at all
    NO_IMAGE = 1 << 33  # its image is empty: left out when it was recorded
    RESERVED = 1 << 34  # reserved bytes of the image's header, or reserved flags, are not zero
    BV_BEYOND = 1 << 35  # XSTATE_BV names a component that was not saved
    XCOMP_BV = 1 << 36  # XCOMP_BV is none that an instruction writes
    NOT_AS_ASKED = 1 << 37  # the image does not hold the components that were asked for
    HEADER_DIFFERS = 1 << 38  # the record's xstate_bv, xcomp_bv or flags are not the image's
    MXCSR = 1 << 39  # MXCSR has reserved bits set
    UNPLACED = 1 << 40  # where a component lies could not be found out; it is left out
    THREAD_DIFFERS = 1 << 41  # the record's thread is not the sample's


SOURCE_SHIFT = 8
KNOWN_FLAGS = 0x3F | 0xFF << SOURCE_SHIFT
BROKEN_IMAGE = (
    SnapshotFlag.RESERVED | SnapshotFlag.BV_BEYOND | SnapshotFlag.XCOMP_BV
    | SnapshotFlag.NOT_AS_ASKED | SnapshotFlag.HEADER_DIFFERS | SnapshotFlag.MXCSR
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComponentPlace:
    """One row of the module's component table, as CPUID leaf 0xD has it.

    offset: in the standard format, 0 for supervisor components. aligned: starts at a multiple of
    64 bytes in the compacted format.
    """

    number: int
    size_bytes: int
    offset: int
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What the recorder read from the module. Empty strings, 0 and () mean "not known".

    version: the module's. instruction: "xsaves", "xsavec" or "xsave". nmi: its NMI source.
    rfbm: components asked for. xcr0: user components that were enabled. format: the tracepoint's,
    for recordings whose recorder did not live to write the tracing data.
    """

    version: str = ""
    instruction: str = ""
    nmi: str = ""
    rfbm: int = 0
    xcr0: int = 0
    components: tuple[ComponentPlace, ...] = ()
    format: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The form in Metadata.snapshots. components: number -> [size, offset, aligned 0 or 1]."""
        return {
            "version": self.version, "instruction": self.instruction, "nmi": self.nmi,
            "rfbm": self.rfbm, "xcr0": self.xcr0,
            "components": {
                str(c.number): [c.size_bytes, c.offset, int(c.aligned)] for c in self.components
            },
            "format": self.format, "parameters": dict(self.parameters),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SnapshotInfo:
        """Unknown keys are passed over. Raises ValueError for what cannot be meant."""
        texts = {key: data.get(key, "") for key in ("version", "instruction", "nmi", "format")}
        numbers = {key: data.get(key, 0) for key in ("rfbm", "xcr0")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("snapshots has names that are no text")
        if not all(type(n) is int and 0 <= n < 1 << 64 for n in numbers.values()):
            raise ValueError("snapshots has component masks that are no 64-bit numbers")
        said, parameters = data.get("components", {}), data.get("parameters", {})
        if not isinstance(said, Mapping) or not isinstance(parameters, Mapping):
            raise ValueError("snapshots has tables that are none")
        places = tuple(_place(key, row) for key, row in said.items())
        return SnapshotInfo(
            **texts, **numbers, components=places,
            parameters={str(key): str(value) for key, value in parameters.items()},
        )  # fmt: skip


def _place(key: str, row: Any) -> ComponentPlace:
    whole = isinstance(row, list) and len(row) == 3 and all(type(n) is int for n in row)
    if not whole or not str(key).isdecimal() or not 2 <= int(key) < _MOST_COMPONENTS:
        raise ValueError(f"snapshots.components: {key!r} has no valid row")
    size, offset, aligned = row
    if not 0 <= size <= 1 << 16 or not 0 <= offset <= 1 << 20 or aligned not in (0, 1):
        raise ValueError(f"snapshots.components: {key} cannot be {row}")
    return ComponentPlace(int(key), size, offset, bool(aligned))
