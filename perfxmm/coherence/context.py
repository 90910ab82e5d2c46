"""What a judge has to know beyond the batch: where it comes from and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Dialects whose behaviour is known row by row; any other name is judged like the worst of them.
KNOWN_DIALECTS: frozenset[str] = frozenset({"L", "M", "O1", "O2", "R2", "R6"})


@dataclass(frozen=True, slots=True)
class EventContext:
    """What one event of the recording asked the kernel for.

    dialect: name of the event's dialect (KNOWN_DIALECTS); anything else where it cannot be told.
    merged_proven: dialect "M" is not only what the attr looks like, which it has in common with an
        overlay that mixes sources: the kernel's release says so, or the caller does.
    simd_enabled: the attr's sample_simd_regs_enabled.
    classes: per set name ("intr", "user") the register classes asked for, of gpr, xmm, ymm, zmm,
        opmask, egpr, ssp. A wider vector class includes the narrower ones.
    in_kernel: the event happens inside the kernel, whatever the sample's cpumode says
        (tracepoints, context switches): user registers are those that the kernel was entered with.
    high_vectors: names of the sets that were asked for vectors 16 to 31.
    sources: source by set name, where a set does not come from the recording's own source.
    """

    dialect: str
    precise_ip: int = 0
    exclude_kernel: bool = True
    simd_enabled: bool = False
    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    in_kernel: bool = False
    high_vectors: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)
    merged_proven: bool = True

    def asks(self, set_name: str, register_class: str) -> bool:
        """Whether `register_class` was asked for, itself or as part of a wider class."""
        asked = self.classes.get(set_name, frozenset())
        wider = _INCLUDED_IN.get(register_class, (register_class,))
        return any(name in asked for name in wider)


_INCLUDED_IN: dict[str, tuple[str, ...]] = {
    "gpr": ("gpr", "egpr", "ssp"),
    "xmm": ("xmm", "ymm", "zmm"),
    "ymm": ("ymm", "zmm"),
}


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """Where the batch comes from.

    source: "pmu", "sigtrap", "nmi"; "" is a file of perf's own, judged like "pmu".
    engine: "perf" or "interrupt" with sigtrap, else "".
    events: indexed by `SnapshotBatch.event`.
    xen: the recording machine was a Xen PV guest, where the PMU interrupt is not an NMI.
    arch_pebs: whether the CPU has architectural PEBS; None where that is not known.
    kernel_tids: threads known to be kernel threads.
    redacted: the recorder was told to leave values out, of all snapshots or of some.
    """

    source: str
    engine: str
    events: tuple[EventContext, ...]
    xen: bool = False
    arch_pebs: bool | None = None
    kernel_tids: frozenset[int] = frozenset()
    redacted: bool = False
