"""Source `pmu`: the kernel puts registers into its samples, and they go straight into the file.

Samples may carry values that are nobody's to write where kernel mode is allowed, with older
dialects, and with redaction: there `scrub` looks at each of them.

How far this is tried: no kernel with SIMD sampling and a hardware PMU was at hand. It ran against
a fake of the system call seam that answers as the merged kernel did (8,000 recorded attrs), with
rings fed from records that such a kernel wrote in an emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perfxmm.kernel.cpuinfo import CpuInfo
from perfxmm.kernel.permissions import Situation
from perfxmm.kernel.probe import Capabilities, probe
from perfxmm.kernel.syscalls import Kernel
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec
from perfxmm.sources import pmu_attr
from perfxmm.sources.base import RecordRequest
from perfxmm.sources.command import Command
from perfxmm.sources.pmu_attr import PlannedEvent
from perfxmm.sources.pmu_events import OpenEvents
from perfxmm.sources.ringsource import RingSource
from perfxmm.sources.scrub import Scrubber, needs_scrub
from perfxmm.xstate.cpuid import xgetbv


class PmuSource(RingSource):
    """Records through perf events with registers in the samples. Satisfies `sources.base.Source`.

    kernel: the seam. found, and what RingSource takes: replace this machine's, for tests.
    """

    name = "pmu"

    def __init__(
        self, kernel: Kernel | None = None, *, found: Capabilities | None = None,
        situation: Situation | None = None, spawn: Callable[..., Command] | None = None,
        cpus: Sequence[int] | None = None, machine: CpuInfo | None = None, proc: str = "/proc",
    ) -> None:  # fmt: skip
        super().__init__(
            kernel, situation=situation, spawn=spawn, cpus=cpus, machine=machine, proc=proc
        )
        self._found = found

    @property
    def capabilities(self) -> Capabilities:
        if self._found is None:
            self._found = probe(self._kernel)
        return self._found

    def why_not(self, request: RecordRequest) -> str | None:
        refusal = pmu_attr.why_not(request, self.capabilities)
        return None if refusal is None else refusal.why or refusal.what

    def _plan(self, request: RecordRequest) -> tuple[PlannedEvent, ...]:
        return pmu_attr.plan_events(request, self.capabilities)

    def _describe(
        self, request: RecordRequest, planned: Sequence[PlannedEvent], opened: OpenEvents
    ) -> Metadata:
        found = self.capabilities
        described = self._common_metadata(request, planned, opened)
        described.xcr0 = xgetbv() or 0
        described.probes = found.to_dict()
        # The questions are in the code; a recording keeps the answers.
        described.probes["probes"] = {one.name: one.errno_name for one in found.probes}
        described.probes["arch_pebs"] = arch_pebs(found)
        return described

    def _scrubber(self, request: RecordRequest, specs: Sequence[EventSpec]) -> Scrubber | None:
        everything = request.redact == "values"
        doubtful = not request.unsafe_foreign and any(needs_scrub(spec.attr) for spec in specs)
        if not everything and not doubtful:
            return None
        return Scrubber([(spec.attr, spec.ids) for spec in specs], everything=everything)

    def _remarks(self, request: RecordRequest, specs: Sequence[EventSpec]) -> list[str]:
        if any(s.attr.dialect.name == "O1" and s.attr.precise_ip for s in specs):
            return [
                "with precise events this kernel takes XMM from the PEBS record and wider "
                "registers later: wider snapshots are torn unless the CPU has architectural PEBS"
            ]
        return []


def arch_pebs(found: Capabilities) -> bool | None:
    """Whether PEBS records hold more than XMM; None where probing does not tell.

    Only dialect M refuses what PEBS cannot record, so only there a precise YMM proves it; and only
    M refuses masks that are not a whole class, which tells it from an overlay of the same layout.
    """
    if found.simd_dialect != "M" or not found.whole_classes:
        return None
    if "xmm" not in found.precise_classes:
        return None
    return "ymm" in found.precise_classes
