"""The table of rules, in ascending precedence: a later row overrides an earlier one.

The filter walks through it, `perfxmm explain` prints it. A class that no row speaks of stays
`unknown`.
"""

from __future__ import annotations

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.evidence import Evidence, both, either, outside
from perfxmm.coherence.rule import ANY_SOURCE, NMI, PMU, SIGTRAP, VECTORS, Rule
from perfxmm.coherence.rules_code import CODE_RULES
from perfxmm.coherence.rules_nmi import NMI_RULES
from perfxmm.coherence.rules_pmu import (
    ABOVE_ABI32_GPRS,
    ABOVE_ABI32_VECTORS,
    COMMON_RULES,
    PMU_RULES,
)
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.vocabulary import CpuMode, StopFlag

_STOP = "ptrace(2) signal-delivery-stop; siginfo si_perf_flags, Linux 7.3"


def stopped_in_user_mode(e: Evidence) -> Mask:
    """The thread was stopped at a return to user mode: the registers read there are its own."""
    return e.stopped(StopFlag.PRESENT)


def stop_ip_match(e: Evidence) -> Mask:
    """The stop's IP is the event's."""
    event_ip_known = outside(either(e.stopped(StopFlag.INTERRUPT), e.stopped(StopFlag.UNPAIRED)))
    return both(event_ip_known, e.ip_equal)


def stop_ip_differs(e: Evidence) -> Mask:
    """The stop's IP is not the event's: the thread had run on."""
    return both(e.ip_delivered, outside(e.ip_equal))


def asynchronous_trap(e: Evidence) -> Mask:
    """The kernel says that the trap was delivered later than the overflow. An equal IP is then a
    coincidence (a loop), so the registers are not taken for the event's."""
    return e.stopped(StopFlag.ASYNC)


def sigtrap_blocked(e: Evidence) -> Mask:
    """SIGTRAP was blocked, so the trap waited for an unknown time."""
    return e.stopped(StopFlag.SIGTRAP_BLOCKED)


def kernel_mode_event(e: Evidence) -> Mask:
    """The event did not happen in user mode, or is of a kind that happens in the kernel whatever
    the sample says (a system call's tracepoint has user registers, and its IP is the stop's). The
    registers are those of the return to user mode: AX is the call's result by then."""
    return either(outside(e.cpumode(CpuMode.USER)), e.in_kernel)


def interrupt_engine(e: Evidence) -> Mask:
    """No event, hence no event IP: the sample's IP is the stop's, and registers belong to it."""
    return e.stopped(StopFlag.INTERRUPT)


def unpaired(e: Evidence) -> Mask:
    """The event's IP is not known. Only what is certain is claimed: the registers belong to their
    own IP."""
    return e.stopped(StopFlag.UNPAIRED)


def group_stop(e: Evidence) -> Mask:
    """The thread was stopped by job control: its registers belong to their own IP."""
    return e.stopped(StopFlag.GROUP_STOP)


def in_syscall(e: Evidence) -> Mask:
    """Stopped inside a system call: user registers as of its entry."""
    return e.stopped(StopFlag.SYSCALL)


def ip_not_recorded(e: Evidence) -> Mask:
    """No IP of the stop to compare with the event's (the interrupt engine has no event)."""
    return both(outside(e.ip_delivered), outside(e.stopped(StopFlag.INTERRUPT)))


def no_stop_info(e: Evidence) -> Mask:
    """The sample lacks the stop information that every sample of this source carries."""
    return outside(e.stopped(StopFlag.PRESENT))


def compat_code(e: Evidence) -> Mask:
    """Stopped in 32-bit code: vectors above 7 and R8 to R15 are leftovers."""
    return e.stopped(StopFlag.COMPAT)


def init_state(e: Evidence) -> Mask:
    """XSTATE_BV is clear for a class that was delivered: zero by definition. The verdict stays."""
    return both(e.stopped(StopFlag.PRESENT), either(*e.initial_classes.values()))


def abi_none(e: Evidence) -> Mask:
    """abi 0: the kernel had no registers to give."""
    return False if e.context.redacted else e.abi_none


def redacted(e: Evidence) -> Mask:
    """abi 0 in a redacted recording: the recorder took the values out, or there were none."""
    return e.abi_none if e.context.redacted else False


def always(e: Evidence) -> Mask:
    """Asked for, but not in the sample."""
    return True


def always_not_asked(e: Evidence) -> Mask:
    """Not asked for, hence not in the sample."""
    return True


def _missing(e: Evidence, register_class: str) -> Mask:
    return both(
        e.asked(register_class), outside(e.delivered(register_class)), outside(e.abi_none)
    )


def _unasked(e: Evidence, register_class: str) -> Mask:
    return both(outside(e.asked(register_class)), outside(e.delivered(register_class)))


def unjudged_source(e: Evidence) -> Mask:
    """A source for which there are no rules: nothing is claimed."""
    return outside(e.of_sources(PMU | SIGTRAP | NMI))


SIGTRAP_RULES: tuple[Rule, ...] = (
    Rule(
        "stopped-in-user-mode", stopped_in_user_mode, "user-mode", _STOP, Verdict.COHERENT,
        sources=SIGTRAP,
    ),
    Rule("stop-ip-match", stop_ip_match, "ip-match", _STOP, sources=SIGTRAP),
    Rule(
        "stop-ip-differs", stop_ip_differs, "ip-differs", _STOP, Verdict.LATE, sources=SIGTRAP,
    ),
    Rule(
        "async-trap", asynchronous_trap, "async-trap",
        "TRAP_PERF_FLAG_ASYNC, include/uapi/asm-generic/siginfo.h, Linux 7.3", Verdict.LATE,
        sources=SIGTRAP,
    ),
    Rule(
        "sigtrap-blocked", sigtrap_blocked, "sigtrap-blocked",
        "perf core, Linux 5.19 and later: blocked traps are not forced", Verdict.LATE,
        sources=SIGTRAP,
    ),
    Rule(
        "kernel-mode-event", kernel_mode_event, "kernel-mode-event",
        "perf core: the trap is raised on return to user mode; system call tracepoints sample "
        "the user's pt_regs (kernel/trace/trace_syscalls.c, Linux 7.3)",
        Verdict.LATE, sources=SIGTRAP,
    ),
    Rule(
        "unpaired", unpaired, "unpaired", "pairing of ring buffer and stop", Verdict.LATE,
        sources=SIGTRAP,
    ),
    Rule(
        "group-stop", group_stop, "group-stop", "ptrace(2), group-stop", Verdict.LATE,
        sources=SIGTRAP,
    ),
    Rule(
        "interrupt-engine", interrupt_engine, "interrupt-engine",
        "ptrace(2), PTRACE_INTERRUPT and PTRACE_EVENT_STOP", sources=SIGTRAP,
    ),
    Rule(
        "in-syscall", in_syscall, "in-syscall", "ptrace(2); orig_ax is not -1", Verdict.ENTRY,
        sources=SIGTRAP,
    ),
    Rule(
        "ip-not-recorded", ip_not_recorded, "ip-not-recorded", _STOP, Verdict.UNKNOWN,
        sources=SIGTRAP,
    ),
    Rule(
        "no-stop-info", no_stop_info, "no-stop-info", "perfxmm's own sample payload",
        Verdict.UNKNOWN, sources=SIGTRAP,
    ),
    Rule(
        "compat-code", compat_code, "abi32", "CS 0x23: 32-bit code segment of x86-64 Linux",
        sources=SIGTRAP, withhold_gprs=ABOVE_ABI32_GPRS, withhold_vectors=ABOVE_ABI32_VECTORS,
    ),
    Rule(
        "init-state", init_state, "init-state",
        "Intel SDM volume 1, 13.6: XSTATE_BV; the kernel zero-fills such components",
        classes=VECTORS, sources=SIGTRAP,
    ),
)  # fmt: skip

# Rules about what is there at all: they come last, whatever was said before.
PRESENCE_RULES: tuple[Rule, ...] = (
    Rule(
        "source-unknown", unjudged_source, "source-unknown", "no rules for this source",
        Verdict.UNKNOWN, sources=ANY_SOURCE,
    ),
    Rule(
        "not-delivered", always, "not-delivered", "the sample's own header", Verdict.ABSENT,
        class_match=_missing, sources=ANY_SOURCE,
    ),
    Rule(
        "not-asked", always_not_asked, "not-asked", "the attr's masks", Verdict.ABSENT,
        class_match=_unasked, sources=ANY_SOURCE,
    ),
    Rule(
        "abi-none", abi_none, "abi-none",
        "PERF_SAMPLE_REGS_ABI_NONE, include/uapi/linux/perf_event.h, Linux 7.3; ABI rules table",
        Verdict.ABSENT, sources=ANY_SOURCE,
    ),
    Rule(
        "redacted", redacted, "redacted", "the recording's own metadata", Verdict.ABSENT,
        sources=ANY_SOURCE,
    ),
)  # fmt: skip

# What the filter walks through.
RULES: tuple[Rule, ...] = PMU_RULES + SIGTRAP_RULES + NMI_RULES + COMMON_RULES + PRESENCE_RULES
# All that can decide a verdict: the code is asked (by `witness`) about what those would believe.
ALL_RULES: tuple[Rule, ...] = RULES + CODE_RULES
