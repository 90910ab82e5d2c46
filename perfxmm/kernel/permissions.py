"""From an errno to what it means here, and to the least change that would help.

The kernel answers with a number; why it said so depends on the attr, the target and the machine.
Each errno has one small function that looks at those and gives (kind of error, why, next step).
Which errno means what: perf_event_open(2), kernel/events/core.c and arch/x86/events of Linux 7.3,
and for SIMD fields the merged series. Container and seccomp cases are from their documentation and
were not met by the kernel the errno tables were recorded on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from perfxmm.errors import (
    NotSupportedBySyscall,
    PerfxmmError,
    PermissionDenied,
    SyscallError,
    TargetError,
    errno_name,
)
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.situation import Situation, TaskFacts, survey, task_facts

__all__ = [
    "Explanation", "OpenContext", "Situation", "explain_mmap", "explain_open", "explain_ptrace",
    "survey", "task_facts",
]  # fmt: skip

INTERRUPT_ENGINE = "without perf events: --source sigtrap --engine interrupt"


@dataclass(frozen=True, slots=True)
class OpenContext:
    """What was being opened. pid -1 is every process, 0 this one; cpu -1 is any CPU."""

    event: str
    attr: EventAttr = field(default_factory=EventAttr)
    pid: int = 0
    cpu: int = -1
    target: TaskFacts | None = None

    @property
    def place(self) -> str:
        who = "all processes" if self.pid == -1 else f"pid {self.pid}" if self.pid else ""
        where = f"cpu {self.cpu}" if self.cpu >= 0 else ""
        return ", ".join(part for part in (who, where) if part)


@dataclass(frozen=True, slots=True)
class Explanation:
    kind: type[PerfxmmError]
    why: str
    next_step: str = ""


def explain_open(error: OSError, context: OpenContext, situation: Situation) -> PerfxmmError:
    """The error to raise for a perf_event_open that failed with `error`."""
    number = error.errno or 0
    explain = _OPEN.get(number)
    found = _module_refuses(number, context) or (
        explain(context, situation)
        if explain
        else Explanation(SyscallError, "the kernel gives no reason that perfxmm knows")
    )
    return _build(f"cannot open event {context.event!r}", "perf_event_open", number, found,
                  where=context.place)  # fmt: skip


def explain_mmap(error: OSError, data_pages: int, situation: Situation) -> PerfxmmError:
    """The error to raise for a ring of `data_pages` that could not be mapped."""
    number = error.errno or 0
    kb = (1 + data_pages) * 4
    if number in (errno.EPERM, errno.EAGAIN):
        limit = situation.perf_event_mlock_kb
        known = "" if limit is None else f" (kernel.perf_event_mlock_kb is {limit} for each CPU)"
        soft = situation.memlock[0]
        memlock = "unlimited" if soft < 0 else f"{soft >> 10} KiB"
        found = Explanation(
            PermissionDenied,
            f"a ring of {kb} KiB passes what an unprivileged user may lock{known}, "
            f"RLIMIT_MEMLOCK is {memlock}",
            f"a smaller ring: -m {max(1, data_pages // 4)}; or ulimit -l {4 * kb}, or "
            "sysctl kernel.perf_event_mlock_kb=2048, or CAP_IPC_LOCK",
        )
    elif number == errno.ENOMEM:
        found = Explanation(
            SyscallError, f"the kernel found no {kb} KiB for the ring",
            f"a smaller ring: -m {max(1, data_pages // 4)}",
        )  # fmt: skip
    elif number == errno.EINVAL:
        found = Explanation(
            SyscallError, f"{data_pages} data pages are not a size a ring can have",
            "-m takes a power of two",
        )  # fmt: skip
    else:
        found = Explanation(SyscallError, "the ring buffer could not be mapped")
    return _build("cannot map a ring buffer", "mmap", number, found)


def explain_ptrace(
    error: OSError, pid: int, situation: Situation, *, request: str = "PTRACE_SEIZE",
    root: str | Path = "/",
) -> PerfxmmError:
    """The error to raise for a ptrace request on `pid` that failed with `error`."""
    number = error.errno or 0
    target = task_facts(pid, root)
    if number == errno.ESRCH or not target.exists:
        found = Explanation(TargetError, "there is no such task any more")
    elif number in (errno.EPERM, errno.EACCES):
        found = _ptrace_denied(pid, target, situation)
    elif number == errno.ENOSYS:
        found = Explanation(
            PermissionDenied, _wall(situation, "ptrace is refused by a seccomp filter"),
            "let the container use ptrace: --cap-add SYS_PTRACE or a seccomp profile with it",
        )  # fmt: skip
    else:
        found = Explanation(SyscallError, "the task cannot be traced")
    return _build(f"cannot trace task {pid}", f"ptrace {request}", number, found)


def _ptrace_denied(pid: int, target: TaskFacts, situation: Situation) -> Explanation:
    if target.tracer_pid:
        return Explanation(
            PermissionDenied,
            f"process {target.tracer_pid} traces it already, and a task has one tracer",
            f"end the tracer (see /proc/{target.tracer_pid}/cmdline) or choose another target",
        )  # fmt: skip
    scope = situation.ptrace_scope
    if scope == 3:
        return Explanation(
            PermissionDenied, "kernel.yama.ptrace_scope is 3: no process may trace, until reboot"
        )
    if situation.has("CAP_SYS_PTRACE"):
        return Explanation(
            PermissionDenied, _wall(situation, "the kernel or a security module refuses"),
            "is it a kernel thread, init, or in another user namespace?",
        )  # fmt: skip
    if target.uid is not None and target.uid != situation.uid:
        return Explanation(
            PermissionDenied, f"it belongs to uid {target.uid}, this is uid {situation.uid}",
            "record as that user, or with CAP_SYS_PTRACE",
        )  # fmt: skip
    if scope == 2:
        return Explanation(
            PermissionDenied, "kernel.yama.ptrace_scope is 2: tracing needs CAP_SYS_PTRACE",
            "run with CAP_SYS_PTRACE, or sysctl kernel.yama.ptrace_scope=1 and launch the command",
        )  # fmt: skip
    if scope == 1:
        return Explanation(
            PermissionDenied, "kernel.yama.ptrace_scope is 1: only own children may be traced",
            "launch it instead (record -- command), or sysctl kernel.yama.ptrace_scope=0, "
            "or run with CAP_SYS_PTRACE",
        )  # fmt: skip
    return Explanation(
        PermissionDenied,
        _wall(situation, "the program is setuid, has file capabilities or made itself undumpable"),
        "run with CAP_SYS_PTRACE",
    )


def _build(
    what: str, call: str, number: int, found: Explanation, *, where: str = ""
) -> PerfxmmError:
    if issubclass(found.kind, SyscallError):
        return found.kind(
            what, call=call, errno=number, where=where, why=found.why, next_step=found.next_step
        )
    name = errno_name(number)
    place = f"{where}, {call}: {name}" if where else f"{call}: {name}"
    return found.kind(what, where=place, why=found.why, next_step=found.next_step)


def _wall(situation: Situation, otherwise: str) -> str:
    """Names the wall that is visible from here, if there is one."""
    if situation.seccomp == 2 and situation.in_container:
        return f"a container ({situation.containers[0]}) with a seccomp filter is in the way"
    if situation.seccomp == 2:
        return "a seccomp filter is in the way"
    if situation.user_namespace:
        return "capabilities of a user namespace do not count for this"
    return otherwise


def _denied(context: OpenContext, situation: Situation) -> Explanation:
    """EACCES and EPERM: the walls from the most particular to the most general."""
    attr = context.attr
    level = situation.perf_event_paranoid
    if situation.lockdown == "confidentiality" and attr.has(SampleType.REGS_INTR):
        return Explanation(
            PermissionDenied,
            "kernel lockdown (confidentiality) withholds registers of the interrupted code",
            "ask for user registers only: --user-regs, no --intr-regs",
        )
    if not situation.perfmon_capable and level is not None:
        if attr.type == PerfType.TRACEPOINT and attr.has(SampleType.RAW) and level > -1:
            return _raw_tracepoint(level)
        if level > 2:
            return Explanation(
                PermissionDenied,
                f"kernel.perf_event_paranoid is {level}: no perf events without CAP_PERFMON",
                "sysctl kernel.perf_event_paranoid=2 is enough for your own programs in user "
                f"mode, or CAP_PERFMON; {INTERRUPT_ENGINE}",
            )
        if context.pid == -1 and level > 0:
            return Explanation(
                PermissionDenied,
                f"kernel.perf_event_paranoid is {level}: whole CPUs need CAP_PERFMON",
                "record a command (-- command) or a process (-p), or "
                "sysctl kernel.perf_event_paranoid=0, or CAP_PERFMON",
            )
        if not attr.flag(AttrFlag.EXCLUDE_KERNEL) and level > 1:
            return Explanation(
                PermissionDenied,
                f"kernel.perf_event_paranoid is {level}: kernel mode needs CAP_PERFMON",
                f"sample user mode only ({context.event.partition(':')[0]}:u), or "
                "sysctl kernel.perf_event_paranoid=1, or CAP_PERFMON",
            )
    target = context.target
    if (
        target is not None and target.uid is not None and target.uid != situation.uid
        and not situation.has("CAP_SYS_PTRACE")
    ):  # fmt: skip
        return Explanation(
            PermissionDenied,
            f"the target belongs to uid {target.uid}, this is uid {situation.uid}",
            "record as that user, or with CAP_PERFMON and CAP_SYS_PTRACE",
        )  # fmt: skip
    if context.pid > 0 and target is not None and not situation.has("CAP_SYS_PTRACE"):
        return Explanation(
            PermissionDenied,
            "the target is setuid, has file capabilities or made itself undumpable",
            "CAP_PERFMON and CAP_SYS_PTRACE",
        )
    if situation.seccomp == 2:
        return Explanation(
            PermissionDenied,
            _wall(situation, ""),
            "start the container with --cap-add PERFMON and a seccomp profile that allows "
            f"perf_event_open; {INTERRUPT_ENGINE}",
        )
    if situation.perfmon_capable:
        return Explanation(
            PermissionDenied,
            _wall(situation, "a security module (SELinux, AppArmor, BPF) refuses perf events"),
            f"see the audit log; {INTERRUPT_ENGINE}",
        )
    return Explanation(
        PermissionDenied, "the kernel does not let this user open it",
        "CAP_PERFMON, for another user's process CAP_SYS_PTRACE too",
    )  # fmt: skip


def _raw_tracepoint(level: int) -> Explanation:
    # perf_trace_event_perm in kernel/trace/trace_event_perf.c, Linux 5.10 to 7.3: own processes
    # make no difference.
    return Explanation(
        PermissionDenied,
        f"kernel.perf_event_paranoid is {level}: raw tracepoint data needs CAP_PERFMON",
        "CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1",
    )


def explain_raw_tracepoint(event: str, situation: Situation) -> PerfxmmError | None:
    """The error that opening `event` with raw data would meet, without trying; None for none.

    Known from the sysctl and the capabilities alone, as the kernel decides it.
    """
    level = situation.perf_event_paranoid
    if situation.perfmon_capable or level is None or level < 0:
        return None
    return _build(
        f"cannot open event {event!r}", "perf_event_open", errno.EPERM, _raw_tracepoint(level)
    )


def _module_refuses(number: int, context: OpenContext) -> Explanation | None:
    """A tracepoint whose module starts something when listened to answers with its own errno."""
    if context.attr.type != PerfType.TRACEPOINT or not context.event.startswith("xsaves_nmi:"):
        return None
    known = {
        errno.ENODEV: "its source of NMIs is not there (nmi=pmu without a PMU, nmi=ipi with one "
        "CPU)",
        errno.ENOENT: "its source of NMIs is not there (nmi=pmu without a PMU)",
        errno.EBUSY: "KVM is in use, whose guests' registers it must not take, or the counter is "
        "taken",
        errno.EINVAL: "the tracepoint has another number by now: the module was loaded anew",
    }
    if number not in known:
        return None
    return Explanation(
        NotSupportedBySyscall, f"the module xsaves_nmi does not start: {known[number]}",
        "perfxmm module status; the kernel log says more; or --source sigtrap",
    )


def _no_call(context: OpenContext, situation: Situation) -> Explanation:
    if situation.seccomp == 2:
        return Explanation(
            PermissionDenied, _wall(situation, ""),
            f"a seccomp profile that allows perf_event_open; {INTERRUPT_ENGINE}",
        )  # fmt: skip
    return Explanation(
        NotSupportedBySyscall, "this kernel was built without perf events, or not for x86",
        INTERRUPT_ENGINE,
    )  # fmt: skip


def _no_entry(context: OpenContext, situation: Situation) -> Explanation:
    if context.attr.type in (PerfType.HARDWARE, PerfType.HW_CACHE, PerfType.RAW):
        return Explanation(
            NotSupportedBySyscall,
            "there is no hardware PMU here, or it lacks this event (usual in virtual machines)",
            "sample on time instead: -e task-clock",
        )
    return Explanation(
        NotSupportedBySyscall, "no PMU of this kernel knows the event", "see perfxmm list"
    )


def _not_supported(context: OpenContext, situation: Situation) -> Explanation:
    attr = context.attr
    if attr.type in (PerfType.SOFTWARE, PerfType.TRACEPOINT, PerfType.BREAKPOINT) and (
        attr.simd_enabled or attr.legacy_xmm_mask("intr") or attr.legacy_xmm_mask("user")
    ):
        return Explanation(
            NotSupportedBySyscall, "only a core PMU can sample vector registers",
            "a hardware event (-e cycles), or --source sigtrap",
        )  # fmt: skip
    if attr.precise_ip:
        return Explanation(
            NotSupportedBySyscall, f"this PMU cannot do precise_ip {attr.precise_ip} for it",
            "fewer p modifiers",
        )  # fmt: skip
    return Explanation(
        NotSupportedBySyscall,
        "this PMU can count the event but not sample it, or not these fields",
        "another event, or --source sigtrap with -e task-clock",
    )  # fmt: skip


def _invalid(context: OpenContext, situation: Situation) -> Explanation:
    attr = context.attr
    rate = situation.perf_event_max_sample_rate
    if attr.flag(AttrFlag.FREQ) and rate is not None and attr.sample_period > rate:
        return Explanation(
            SyscallError, f"{attr.sample_period} Hz is above kernel.perf_event_max_sample_rate, "
            f"which is {rate}", f"-F {rate} or less",
        )  # fmt: skip
    vectors = attr.simd_enabled or attr.legacy_xmm_mask("intr") or attr.legacy_xmm_mask("user")
    if vectors and attr.precise_ip:
        return Explanation(
            NotSupportedBySyscall,
            f"with precise_ip {attr.precise_ip} registers come from the PEBS record alone, and "
            "this CPU's cannot hold one of the classes asked for",
            "drop the p modifier, or ask for fewer classes (xmm)",
        )
    if vectors and not attr.simd_enabled:
        return Explanation(
            NotSupportedBySyscall,
            "without the SIMD ABI a kernel samples XMM by precise events only, and in the "
            "interrupt set",
            "a precise event (-e cycles:p), or --source sigtrap",
        )
    if vectors:
        return Explanation(
            NotSupportedBySyscall,
            "this PMU or CPU lacks one of the register classes asked for",
            "perfxmm doctor lists what each probe was answered",
        )
    return Explanation(
        SyscallError, "the kernel does not take this combination of event, period and options"
    )


def _too_big(context: OpenContext, situation: Situation) -> Explanation:
    if context.attr.flag(AttrFlag.SIGTRAP):
        return Explanation(
            NotSupportedBySyscall, "this kernel has no events with sigtrap (they came with 5.13)",
            "--engine interrupt needs no perf events",
        )  # fmt: skip
    return Explanation(
        NotSupportedBySyscall, "this kernel has no SIMD register sampling (expected in 7.4)",
        "--source sigtrap works here; perf events give XMM at most, by precise events",
    )  # fmt: skip


def _gone(context: OpenContext, situation: Situation) -> Explanation:
    return Explanation(TargetError, "there is no such process or thread any more")


def _no_device(context: OpenContext, situation: Situation) -> Explanation:
    if context.cpu >= 0:
        return Explanation(
            NotSupportedBySyscall, f"CPU {context.cpu} is offline, or this PMU does not cover it",
            "choose from /sys/devices/system/cpu/online",
        )  # fmt: skip
    return Explanation(NotSupportedBySyscall, "the PMU of this event is not there")


def _busy(context: OpenContext, situation: Situation) -> Explanation:
    return Explanation(
        SyscallError, "the counters are taken (another profiler, the NMI watchdog, a hypervisor)",
        "end the other user, or sysctl kernel.nmi_watchdog=0",
    )  # fmt: skip


def _descriptors(context: OpenContext, situation: Situation) -> Explanation:
    soft, hard = situation.nofile
    return Explanation(
        SyscallError,
        f"every thread takes one descriptor for each CPU; RLIMIT_NOFILE is {soft} (hard {hard})",
        f"ulimit -n {max(4096, 4 * max(soft, 0))}, or fewer threads (-t), or one CPU (-C)",
    )


def _system_descriptors(context: OpenContext, situation: Situation) -> Explanation:
    return Explanation(
        SyscallError, "the whole system has no descriptor left", "sysctl fs.file-max"
    )


def _no_memory(context: OpenContext, situation: Situation) -> Explanation:
    return Explanation(
        SyscallError, "the kernel found no memory for the event or its register buffers"
    )


def _no_slot(context: OpenContext, situation: Situation) -> Explanation:
    if context.attr.type == PerfType.BREAKPOINT:
        return Explanation(
            SyscallError, "all hardware breakpoints (four on x86) are taken",
            "delete breakpoints of other debuggers, or set fewer",
        )  # fmt: skip
    return Explanation(SyscallError, "the PMU has no counter left for it", "fewer events at once")


def _too_deep(context: OpenContext, situation: Situation) -> Explanation:
    return Explanation(
        SyscallError, "the call chain asked for is deeper than kernel.perf_event_max_stack",
        "sysctl kernel.perf_event_max_stack, or no -g",
    )  # fmt: skip


_OPEN: dict[int, Callable[[OpenContext, Situation], Explanation]] = {
    errno.EACCES: _denied,
    errno.EPERM: _denied,
    errno.ENOSYS: _no_call,
    errno.ENOENT: _no_entry,
    errno.ENXIO: _no_entry,
    errno.EOPNOTSUPP: _not_supported,
    errno.EINVAL: _invalid,
    errno.E2BIG: _too_big,
    errno.ESRCH: _gone,
    errno.ENODEV: _no_device,
    errno.EBUSY: _busy,
    errno.EMFILE: _descriptors,
    errno.ENFILE: _system_descriptors,
    errno.ENOMEM: _no_memory,
    errno.ENOSPC: _no_slot,
    errno.EOVERFLOW: _too_deep,
}
