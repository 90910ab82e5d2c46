"""The attrs: what is handed to the kernel, and what the recording says of it."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import PERF_FLAG_FD_CLOEXEC, AttrFlag, PerfType, SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, EGPR_MASK, LEGACY_XMM_MASK, OPMASK
from perfxmm.kernel.registers import VECTOR_CLASSES as VECTORS
from perfxmm.kernel.syscalls import Kernel
from perfxmm.sources.base import RecordRequest, RequestedEvent

# At 50 us a target runs ten times slower, at 10 us it stands still (measured): hold this floor.
PERIOD_FLOOR_NS = 100_000
MAX_HZ = 1_000_000_000 // PERIOD_FLOOR_NS
# PERF_COUNT_SW_CPU_CLOCK and PERF_COUNT_SW_TASK_CLOCK, include/uapi/linux/perf_event.h.
_CLOCKS = (0, 1)
# PERF_COUNT_SW_CONTEXT_SWITCHES, _CPU_MIGRATIONS, _BPF_OUTPUT and _CGROUP_SWITCHES, from there too:
# they are counted with the kernel's own registers, so exclude_kernel leaves nothing of them.
_IN_KERNEL = (3, 4, 10, 11)
CLOCK_MONOTONIC = 1

RING_SAMPLE_TYPE = (
    SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
)  # fmt: skip
SIDEBAND = (
    AttrFlag.MMAP | AttrFlag.MMAP2 | AttrFlag.COMM | AttrFlag.COMM_EXEC | AttrFlag.TASK
    | AttrFlag.BUILD_ID
)  # fmt: skip
_IMPRECISE = (PerfType.SOFTWARE, PerfType.TRACEPOINT, PerfType.BREAKPOINT)
# Errors of perf_event_open that say "not you" or "not here", not "not this event". E2BIG: a kernel
# before 5.13, whose attr ends before sig_data.
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.ENOSYS, errno.E2BIG})


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """One requested event.

    opened: handed to the kernel, once per thread. recorded: the attr in the file.
    file_id: its id in the file (the kernel gives every thread's counter another one).
    clock: a timer event, whose period is in ns of the thread's time.
    """

    index: int
    name: str
    opened: EventAttr
    recorded: EventAttr
    file_id: int
    clock: bool

    def opened_bytes(self, *, enabled: bool, period: int) -> bytearray:
        """The attr with another period (or frequency)."""
        flags = self.opened.flags & ~AttrFlag.DISABLED
        if not enabled:
            flags |= AttrFlag.DISABLED
        return bytearray(
            attr_codec.encode(replace(self.opened, flags=flags, sample_period=period))
        )

    def period(self, factor: float = 1.0, trim_ns: int = 0) -> int:
        """sample_period (or frequency) stretched by `factor`; a clock's less `trim_ns`."""
        asked = self.opened.sample_period
        if self.opened.flag(AttrFlag.FREQ):
            return max(1, int(asked / factor))
        period = int(asked * factor)
        return max(PERIOD_FLOOR_NS, period - trim_ns) if self.clock else period


def ring_has_period(opened: EventAttr) -> bool:
    """Whether PERIOD is asked of the kernel: only where it chooses the period itself.

    With PERF_SAMPLE_PERIOD and a fixed period, perf_swevent_event makes every single occurrence
    of a software event or tracepoint a sample; and perf_swevent_hrtimer goes on reporting the
    first period after PERF_EVENT_IOC_PERIOD (kernel/events/core.c, Linux 6.18).
    """
    return opened.flag(AttrFlag.FREQ)


def is_clock(attr: EventAttr) -> bool:
    return attr.type == PerfType.SOFTWARE and attr.config in _CLOCKS


def why_not_sampled(event: RequestedEvent) -> str | None:
    """Why no stop of a thread can belong to this event; None where one can."""
    attr = event.attr
    if attr.type == PerfType.TRACEPOINT:
        return None
    only = f"sigtrap samples user mode only, and {event.name}"
    if attr.type == PerfType.SOFTWARE and attr.config in _IN_KERNEL:
        return f"{only} happens in the kernel"
    if attr.flag(AttrFlag.EXCLUDE_USER):
        return f"{only} asks for the kernel alone"
    return None


def build_events(
    request: RecordRequest, nonce: int, warnings: list[str]
) -> tuple[TracedEvent, ...]:
    """The request's events. nonce: upper half of sig_data, by which our own traps are known."""
    return tuple(
        _build(request, index, nonce, warnings) for index in range(len(request.events))
    )


def _build(
    request: RecordRequest, index: int, nonce: int, warnings: list[str]
) -> TracedEvent:
    asked = request.events[index].attr
    name = request.events[index].name
    flags = asked.flags & ~(AttrFlag.INHERIT | AttrFlag.ENABLE_ON_EXEC | AttrFlag.INHERIT_STAT)
    period = asked.sample_period
    clock = is_clock(asked)
    if flags & AttrFlag.FREQ and period > MAX_HZ:
        warnings.append(f"{name}: {period} Hz is lowered to {MAX_HZ} Hz; faster stops would "
                        "leave the program no time to run")  # fmt: skip
        period = MAX_HZ
    if clock:
        if flags & AttrFlag.FREQ:
            # The kernel's clock events have a fixed period anyway; ours can then be stretched.
            flags &= ~AttrFlag.FREQ
            period = 1_000_000_000 // max(1, period)
        if period < PERIOD_FLOOR_NS:
            warnings.append(f"{name}: a period of {period} ns is raised to {PERIOD_FLOOR_NS} ns; "
                            "shorter ones leave the program no time to run")  # fmt: skip
            period = PERIOD_FLOOR_NS
    if asked.precise_ip and asked.type in _IMPRECISE:
        # The kernel takes it without a word; kept, it would make the IP look exact.
        warnings.append(f"{name}: modifier p means nothing for an event that is not a PMU's")
        asked = replace(asked, precise_ip=0)
    if asked.type != PerfType.TRACEPOINT:
        # A trap for an overflow in the kernel would come at the return to user mode: its
        # registers do not belong to the event. Tracepoints are all in the kernel.
        flags |= AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV
        flags &= ~AttrFlag.EXCLUDE_USER
    else:
        warnings.append(f"{name}: a tracepoint traps at the return from the kernel: registers are "
                        "those of that moment, and system calls may return EINTR")  # fmt: skip
    flags |= AttrFlag.SAMPLE_ID_ALL | AttrFlag.USE_CLOCKID
    sample_type = int(RING_SAMPLE_TYPE)
    if flags & AttrFlag.FREQ:
        sample_type |= SampleType.PERIOD
    if request.callchain:
        sample_type |= SampleType.CALLCHAIN
        flags |= AttrFlag.EXCLUDE_CALLCHAIN_KERNEL
    if index == 0:
        flags |= SIDEBAND
    base = replace(
        asked, flags=int(flags), sample_period=period, sample_type=sample_type,
        clockid=CLOCK_MONOTONIC, size=0, simd=SimdRequest(), dialect=dialects.L,
        sample_regs_user=0, sample_regs_intr=0, read_format=0, sample_stack_user=0,
        branch_sample_type=0, wakeup_events=0,
    )  # fmt: skip
    opened = replace(
        base, flags=int(flags | AttrFlag.SIGTRAP | AttrFlag.REMOVE_ON_EXEC),
        sig_data=nonce << 32 | index,
    )  # fmt: skip
    return TracedEvent(
        index, name, opened, recorded_attr(base, request.classes), index + 1, clock
    )


def uses_legacy(classes: tuple[str, ...]) -> bool:
    """Whether dialect L can carry these classes: then every perf since 5.2 reads the file."""
    return not set(classes) - {"gpr", "xmm"}


def recorded_attr(base: EventAttr, classes: tuple[str, ...]) -> EventAttr:
    """The file's attr: what the kernel gave, plus what the tracer adds to each sample."""
    sample_type = base.sample_type | SampleType.RAW | SampleType.PERIOD
    if uses_legacy(classes):
        mask = CLASSIC_GPR_MASK | (LEGACY_XMM_MASK if "xmm" in classes else 0)
        return replace(
            base, sample_type=int(sample_type | SampleType.REGS_INTR), sample_regs_intr=mask
        )
    widest = next((VECTORS[c] for c in ("zmm", "ymm", "xmm") if c in classes), None)
    opmask = "opmask" in classes
    simd = SimdRequest(
        enabled=1, pred_qwords=OPMASK.qwords if opmask else 0,
        vec_qwords=widest.qwords if widest else 0, pred_user=OPMASK.mask if opmask else 0,
        vec_user=widest.mask if widest else 0,
    )  # fmt: skip
    mask = CLASSIC_GPR_MASK | (EGPR_MASK if "egpr" in classes else 0)
    return replace(
        base, sample_type=int(sample_type | SampleType.REGS_USER), sample_regs_user=mask,
        dialect=dialects.M, simd=simd,
    )  # fmt: skip


def probe(kernel: Kernel, events: tuple[TracedEvent, ...]) -> None:
    """Opens every event, disabled, on the tracer itself: a refusal is better known before the
    command runs. Raises OSError with the event's name as filename."""
    for event in events:
        attr = event.opened_bytes(enabled=False, period=event.period())
        try:
            kernel.close(kernel.perf_event_open(attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, event.name) from error
