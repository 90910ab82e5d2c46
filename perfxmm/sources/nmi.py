"""Source `nmi`: XSAVE images taken in an NMI by the module xsaves_nmi, out of its tracepoint.

The module decides what is saved and how often; this source listens. Samples go into the file as
the kernel wrote them, and beside them what decoding needs anywhere: the tracepoint's format and
the machine's component table.

How far this is tried: see README; here against a fake of the system call seam and, for what perf
makes of the files, against perf 6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perfxmm.errors import NotSupported, PerfxmmError, PermissionDenied
from perfxmm.kernel.attr import EventAttr, smallest_size
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.cpuinfo import CpuInfo
from perfxmm.kernel.permissions import Situation, explain_raw_tracepoint, survey
from perfxmm.kernel.registers import CLASS_NAMES
from perfxmm.kernel.syscalls import Kernel
from perfxmm.kernel.traceformat import TraceFormat, parse_format
from perfxmm.kernel.tracefs import find_tracefs, read_event_file
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.snapshotinfo import (
    IMAGE_FIELD,
    NAME,
    NUMBER_FIELDS,
    SYSTEM,
    TRACEPOINT,
    ComponentPlace,
    SnapshotInfo,
)
from perfxmm.perfdata.tracing import encode_tracing_data
from perfxmm.perfdata.writer import EventSpec
from perfxmm.sources import pmu_attr
from perfxmm.sources.base import MMAP_PAGES, RecordRequest
from perfxmm.sources.command import Command
from perfxmm.sources.kmodule.status import ModuleStatus, read_status
from perfxmm.sources.nmi_scrub import SnapshotScrubber
from perfxmm.sources.pmu_attr import PlannedEvent, by_cpu
from perfxmm.sources.pmu_events import OpenEvents
from perfxmm.sources.ringsource import RingSource
from perfxmm.xstate.components import CET_USER, classes_in

# An image with ZMM is 2.5 KB: rings that nobody chose are larger than for other sources.
RING_PAGES = 4 * MMAP_PAGES
SAMPLE_TYPE = pmu_attr.SAMPLE_TYPE | SampleType.RAW
LOAD = "perfxmm module load (once built: perfxmm module build)"


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """What tracefs says of xsaves_nmi:snapshot. text: its format file."""

    format: TraceFormat
    text: bytes
    header_page: bytes
    header_event: bytes

    @property
    def number(self) -> int:
        return self.format.number


def read_tracepoint(sysfs: Path = Path("/sys")) -> Tracepoint:
    """Raises PermissionDenied or NotSupported where tracefs, or the tracepoint, cannot be read."""
    root = find_tracefs(sysfs)
    texts = []
    for place in (f"{SYSTEM}/{NAME}/format", "header_page", "header_event"):
        text = read_event_file(root, place)
        if text is None:
            raise NotSupported(
                f"there is no {place} in tracefs", where=str(root / "events"),
                why="the module and the tracepoint do not fit together, or it is being unloaded",
                next_step="perfxmm module status",
            )
        texts.append(text)
    try:
        parsed = parse_format(texts[0], SYSTEM)
    except ValueError as error:
        raise NotSupported(
            f"the format of {TRACEPOINT} cannot be read", where=str(root), why=str(error)
        ) from error
    if lacking := parsed.lacking((*NUMBER_FIELDS, IMAGE_FIELD)):
        raise NotSupported(
            f"the format of {TRACEPOINT} lacks {', '.join(lacking)}", where=str(root),
            why="another module of that name is loaded, or a version that is not known here",
            next_step="perfxmm module build, unload, load",
        )
    return Tracepoint(parsed, *texts)


def refusal(situation: Situation, root: Path = Path("/")) -> PerfxmmError | None:
    """Why this source cannot work here, whatever is asked of it; None where it can."""
    if read_status(root) is None:
        return NotSupported(
            "source 'nmi' cannot be used here", why="the kernel module xsaves_nmi is not loaded",
            next_step=LOAD,
        )
    try:
        read_tracepoint(root / "sys")
    except (NotSupported, PermissionDenied) as error:
        return error
    return explain_raw_tracepoint(TRACEPOINT, situation)


def delivered(status: ModuleStatus) -> tuple[str, ...]:
    """Classes that the module's images have. Of general registers, that is IP and SP."""
    mask = status.rfbm or 0
    found = {"gpr", *classes_in(mask)} | ({"ssp"} if mask >> CET_USER & 1 else set())
    return tuple(name for name in CLASS_NAMES if name in found)


class NmiSource(RingSource):
    """Records from the module's tracepoint. Satisfies `sources.base.Source`.

    root: of the machine's file system; it and what RingSource takes replace this machine's, for
    tests.
    """

    name = "nmi"

    def __init__(
        self, kernel: Kernel | None = None, *, root: Path = Path("/"),
        situation: Situation | None = None, spawn: Callable[..., Command] | None = None,
        cpus: Sequence[int] | None = None, machine: CpuInfo | None = None, proc: str = "/proc",
    ) -> None:  # fmt: skip
        super().__init__(
            kernel, situation=situation or survey(root), spawn=spawn, cpus=cpus, machine=machine,
            proc=proc,
        )
        self._root = root
        self._found: tuple[ModuleStatus, Tracepoint] | None = None

    def why_not(self, request: RecordRequest) -> str | None:
        """The reason, and what would help behind it in brackets."""
        try:
            self._require(request)
        except (NotSupported, PermissionDenied) as error:
            why = error.why or error.what
            return f"{why} ({error.next_step})" if error.next_step else why
        return None

    def _machinery(self) -> tuple[ModuleStatus, Tracepoint]:
        """The module's state and its tracepoint, as they were when first asked for."""
        if self._found is None:
            assert self._situation is not None
            refused = refusal(self._situation, self._root)
            if refused is not None:
                raise refused
            status = read_status(self._root)
            if status is None:
                raise NotSupported("xsaves_nmi was unloaded this moment", next_step=LOAD)
            self._found = status, read_tracepoint(self._root / "sys")
        return self._found

    def _require(self, request: RecordRequest) -> int:
        """The period to sample with. Raises NotSupported for what is not to be had."""
        status, tracepoint = self._machinery()
        if request.redact == "crypto":
            raise NotSupported(
                "source 'nmi' cannot leave out values at crypto instructions while recording",
                why="the kernel writes the samples, and nothing decodes instructions on the way",
                next_step="record without it, then: perfxmm export --redact crypto",
            )
        if request.engine not in ("", "auto"):
            raise NotSupported(
                f"engine '{request.engine}' belongs to source sigtrap",
                next_step="leave out --engine, or --source sigtrap",
            )
        if "user" in request.sets:
            raise NotSupported(
                "source 'nmi' has no set of user registers",
                why="it saves what was interrupted: the set is 'intr'", next_step="--intr-regs",
            )
        others = [
            event.name for event in request.events
            if event.attr.type != PerfType.TRACEPOINT or event.attr.config != tracepoint.number
        ]  # fmt: skip
        if others and not request.default_events:
            raise NotSupported(
                f"source 'nmi' cannot sample event '{others[0]}'",
                why=f"it listens to the module's own NMIs, event {TRACEPOINT}",
                next_step="leave out -e, or choose the source of NMIs when loading the module "
                "(perfxmm module load --help)",
            )
        return self._period(request, status)

    def _period(self, request: RecordRequest, status: ModuleStatus) -> int:
        """Every how many hits a sample is wanted: the rate itself is the module's."""
        if request.period is not None:
            return request.period
        wanted = request.frequency_hz
        if wanted is None:
            return 1
        if status.period or not status.hz:
            raise NotSupported(
                "source 'nmi' cannot be given a frequency here",
                why="the module counts events (period=), so that its rate is not known",
                next_step="-c N takes every Nth hit",
            )
        if wanted > status.hz:
            raise NotSupported(
                f"source 'nmi' cannot sample at {wanted} Hz",
                why=f"the module sends {status.hz} NMIs a second to each CPU",
                next_step=f"load it with hz={wanted}, or -F {status.hz} or less",
            )
        return max(1, round(status.hz / wanted))

    def _plan(self, request: RecordRequest) -> tuple[PlannedEvent, ...]:
        period = self._require(request)
        _, tracepoint = self._machinery()
        kinds = SAMPLE_TYPE
        if period != 1:
            # A tracepoint with the period in its samples is sampled at every hit, whatever that is
            # (perf_swevent_event in kernel/events/core.c, Linux 5.10 to 7.3).
            kinds &= ~SampleType.PERIOD
        if request.callchain:
            kinds |= SampleType.CALLCHAIN
        flags = AttrFlag.DISABLED | AttrFlag.SAMPLE_ID_ALL | AttrFlag.USE_CLOCKID
        flags |= pmu_attr.TRACKING
        if not request.unsafe_foreign:
            # The interrupted registers decide, as with other events: hits in the kernel are not
            # even put into the ring (perf_tp_event_match in kernel/events/core.c, Linux 5.10).
            flags |= AttrFlag.EXCLUDE_KERNEL
        if request.inherit and not by_cpu(request):
            flags |= AttrFlag.INHERIT
        if request.command and not by_cpu(request) and not request.delay_s:
            flags |= AttrFlag.ENABLE_ON_EXEC
        attr = EventAttr(
            type=PerfType.TRACEPOINT, config=tracepoint.number, sample_period=period,
            sample_type=int(kinds), flags=int(flags), read_format=int(pmu_attr.READ_FORMAT),
            clockid=pmu_attr.CLOCK_MONOTONIC,
        )  # fmt: skip
        return (PlannedEvent(TRACEPOINT, replace(attr, size=smallest_size(attr))),)

    def _describe(
        self, request: RecordRequest, planned: Sequence[PlannedEvent], opened: OpenEvents
    ) -> Metadata:
        status, tracepoint = self._machinery()
        described = self._common_metadata(request, planned, opened)
        described.xcr0 = status.xcr0 or 0
        described.snapshots = snapshot_info(status, tracepoint).to_dict()
        return described

    def _scrubber(
        self, request: RecordRequest, specs: Sequence[EventSpec]
    ) -> SnapshotScrubber | None:
        everything = request.redact == "values"
        if request.unsafe_foreign and not everything:
            return None
        _, tracepoint = self._machinery()
        return SnapshotScrubber(specs[0].attr, tracepoint.format, everything=everything)

    def _tracing_data(self) -> bytes:
        _, tracepoint = self._machinery()
        return encode_tracing_data(
            tracepoint.header_page, tracepoint.header_event, {SYSTEM: [tracepoint.text]}
        )

    def _ring_pages(self, request: RecordRequest) -> int:
        return RING_PAGES if request.mmap_pages == MMAP_PAGES else request.mmap_pages

    def _remarks(self, request: RecordRequest, specs: Sequence[EventSpec]) -> list[str]:
        status, _ = self._machinery()
        there = frozenset(delivered(status))
        more = [name for name in CLASS_NAMES if name in there - {*request.classes, "gpr"}]
        if request.classes and more and not request.redact:
            return [
                f"the module saves {', '.join(more)} as well: which components it does is chosen "
                "when it is loaded (mask=)"
            ]
        return []


def snapshot_info(status: ModuleStatus, tracepoint: Tracepoint) -> SnapshotInfo:
    """What decoding needs to know of the module and the machine."""
    return SnapshotInfo(
        version=status.version, instruction=status.instruction, nmi=status.nmi,
        rfbm=status.rfbm or 0, xcr0=status.xcr0 or 0,
        components=tuple(
            ComponentPlace(c.nr, c.size, c.offset, c.alignment > 1)
            for c in status.components if c.nr >= 2
        ),
        format=tracepoint.text.decode("utf-8", "replace"),
        parameters={
            "hz": str(status.hz), "period": str(status.period), "ssp": str(int(status.ssp)),
            "kernel_hits": str(int(status.kernel_hits)),
        },
    )  # fmt: skip
