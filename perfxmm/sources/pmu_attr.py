"""From a request to the attrs that source `pmu` opens, or to the reason why it cannot.

The dialect follows from the classes: where general registers and XMM are all that is asked for and
the kernel gives them without the SIMD ABI, the attr stays in dialect L, so that every perf since
5.2 opens the file; else it is the dialect that probing proved.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from perfxmm.errors import NotSupported, errno_name
from perfxmm.kernel.attr import EventAttr, smallest_size
from perfxmm.kernel.constants import AttrFlag, PerfType, ReadFormat, SampleType
from perfxmm.kernel.dialects import L
from perfxmm.kernel.probe import Capabilities, request_mask, request_simd
from perfxmm.kernel.registers import CLASS_NAMES, GPR_IP, LEGACY_XMM_MASK
from perfxmm.sources.base import RecordRequest, RequestedEvent

SAMPLE_TYPE = (
    SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
    | SampleType.PERIOD
)  # fmt: skip
CLOCK_MONOTONIC = 1
# How a descriptor is read at the end: value, enabled, running, id. Samples do not hold any of it.
READ_FORMAT = ReadFormat.TOTAL_TIME_ENABLED | ReadFormat.TOTAL_TIME_RUNNING | ReadFormat.ID
# The first event also reports names, mappings, forks and exits.
TRACKING = (
    AttrFlag.MMAP | AttrFlag.MMAP2 | AttrFlag.COMM | AttrFlag.COMM_EXEC | AttrFlag.TASK
)  # fmt: skip
LEGACY_CLASSES = frozenset({"gpr", "xmm"})
# Events that never reach a core PMU: they carry no vector registers.
NO_CORE = (PerfType.SOFTWARE, PerfType.TRACEPOINT, PerfType.BREAKPOINT)


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    name: str
    attr: EventAttr


def plan_events(request: RecordRequest, found: Capabilities) -> tuple[PlannedEvent, ...]:
    """The attrs to open. Raises NotSupported with the reason of `why_not`."""
    refusal = why_not(request, found)
    if refusal is not None:
        raise refusal
    return tuple(
        PlannedEvent(event.name, _attr(request, event, found, first=index == 0))
        for index, event in enumerate(request.events)
    )


def why_not(request: RecordRequest, found: Capabilities) -> NotSupported | None:
    """Why this machine cannot serve `request`; None where it can."""
    if request.redact == "crypto":
        return NotSupported(
            "source 'pmu' cannot leave out values at crypto instructions while recording",
            why="the kernel writes the samples, and nothing decodes instructions on the way",
            next_step="record without it, then: perfxmm export --redact crypto",
        )
    if request.engine not in ("", "auto"):
        return NotSupported(
            f"engine '{request.engine}' belongs to source sigtrap",
            next_step="leave out --engine, or --source sigtrap",
        )
    wanted = frozenset(request.classes)
    for event in request.events:
        refusal = _why_not_event(event, wanted, sets_of(request), found)
        if refusal is not None:
            return refusal
    return None


def sets_of(request: RecordRequest) -> tuple[str, ...]:
    return request.sets or ("intr",)


def _why_not_event(
    event: RequestedEvent, wanted: frozenset[str], sets: tuple[str, ...], found: Capabilities
) -> NotSupported | None:
    vectors = wanted - {"gpr"}
    if event.attr.type in NO_CORE:
        if not vectors:
            return None
        return NotSupported(
            f"event '{event.name}' cannot carry {_names(vectors)}",
            why="only a core PMU samples vector registers (EOPNOTSUPP)",
            next_step="a hardware event (-e cycles), or --source sigtrap",
        )
    if found.open_errno:
        name = errno_name(found.open_errno)
        reason = "no core PMU here" if found.open_errno == errno.ENOENT else "refused"
        return NotSupported(
            f"event '{event.name}' cannot be opened",
            why=f"a plain cycles event gets {name}: {reason}",
            next_step="--source sigtrap works without a PMU",
        )
    level = event.attr.precise_ip
    missing = {
        name for name in wanted if any(name not in found.classes_available(s, level) for s in sets)
    }
    return _why_missing(event, missing, sets, found) if missing else None


def _why_missing(
    event: RequestedEvent, missing: set[str], sets: tuple[str, ...], found: Capabilities
) -> NotSupported:
    """Says where else the missing classes are to be had, from what probing answered."""
    level = event.attr.precise_ip
    base = event.name.partition(":")[0]
    what = f"{_names(missing)} cannot be sampled with event '{event.name}'"
    imprecise = all(missing <= found.classes_available(s, 0) for s in sets)
    if level and imprecise:
        return NotSupported(
            what,
            why=f"the kernel refuses them at precise_ip {level} (EINVAL): registers of a precise "
            "event come from the PEBS record alone, and this CPU's cannot hold them",
            next_step=f"without the p modifier they work: -e {base}:u",
        )
    if not level and all(missing <= found.classes_available(s, 1) for s in sets):
        return NotSupported(
            what, why="without the SIMD ABI a kernel samples XMM by precise events only (EINVAL)",
            next_step=f"-e {base}:up, or --source sigtrap",
        )  # fmt: skip
    others = [s for s in ("intr", "user") if s not in sets]
    elsewhere = [s for s in others if missing <= found.classes_available(s, level)]
    if elsewhere:
        return NotSupported(
            what, why=f"the kernel has them in the set '{elsewhere[0]}' only",
            next_step=f"--{elsewhere[0]}-regs {','.join(sorted(missing))}",
        )  # fmt: skip
    if not found.has_simd and missing - LEGACY_CLASSES:
        size = found.kernel_attr_size
        known = f" (E2BIG: its attr has {size} bytes)" if size else ""
        return NotSupported(
            what, why=f"this kernel has no SIMD register sampling{known}",
            next_step="--source sigtrap works on every kernel since 5.13",
        )  # fmt: skip
    return NotSupported(
        what, why="this CPU or its PMU does not have them (EINVAL)",
        next_step="perfxmm doctor shows what each probe was answered",
    )  # fmt: skip


def _attr(
    request: RecordRequest, event: RequestedEvent, found: Capabilities, *, first: bool
) -> EventAttr:
    sets = frozenset(sets_of(request))
    wanted = frozenset(request.classes)
    level = event.attr.precise_ip
    kinds = SAMPLE_TYPE
    if request.callchain:
        kinds |= SampleType.CALLCHAIN
    for name, bit in (("intr", SampleType.REGS_INTR), ("user", SampleType.REGS_USER)):
        if name in sets:
            kinds |= bit
    flags = event.attr.flags | AttrFlag.DISABLED | AttrFlag.SAMPLE_ID_ALL | AttrFlag.USE_CLOCKID
    if request.inherit and not by_cpu(request):
        flags |= AttrFlag.INHERIT
    if request.command and not by_cpu(request) and not request.delay_s:
        flags |= AttrFlag.ENABLE_ON_EXEC
    if first:
        flags |= TRACKING | (AttrFlag.BUILD_ID if found.build_id else 0)
    plain = "xmm" not in wanted or all((s, level) in found.legacy_xmm for s in sets)
    legacy = wanted <= LEGACY_CLASSES and plain
    # The registers' own IP is always among them: it says to which instruction they belong.
    mask = request_mask(L if legacy else found.dialect, wanted) | 1 << GPR_IP
    if legacy and "xmm" in wanted:
        mask |= LEGACY_XMM_MASK
    attr = replace(
        event.attr, sample_type=int(kinds), flags=int(flags), read_format=int(READ_FORMAT),
        clockid=CLOCK_MONOTONIC, size=0, tail=b"",
        sample_regs_intr=mask if "intr" in sets else 0,
        sample_regs_user=mask if "user" in sets else 0,
    )  # fmt: skip
    if not legacy:
        attr = replace(
            attr, dialect=found.dialect, simd=request_simd(found.dialect, wanted, sets)
        )
    return replace(attr, size=smallest_size(attr))


def by_cpu(request: RecordRequest) -> bool:
    """Whole CPUs are sampled, whoever runs on them."""
    return request.system_wide or bool(request.cpus)


def _names(classes: frozenset[str] | set[str]) -> str:
    return ", ".join(name for name in CLASS_NAMES if name in classes)
