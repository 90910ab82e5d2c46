"""Asks the machine everything that `perfxmm doctor` tells, and hands it on as plain values."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfxmm import __version__
from perfxmm.analysis.capability import Facts, Limit, Trial
from perfxmm.errors import PerfxmmError, PermissionDenied, errno_name
from perfxmm.kernel import attr as attrs
from perfxmm.kernel import ptrace
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import PERF_FLAG_FD_CLOEXEC, AttrFlag, PerfType, SampleType
from perfxmm.kernel.cpuinfo import CpuInfo, read_cpuinfo
from perfxmm.kernel.permissions import OpenContext, explain_open, explain_ptrace
from perfxmm.kernel.probe import Capabilities, probe
from perfxmm.kernel.pybinding import HERE, PerfBinding
from perfxmm.kernel.situation import SECCOMP_NAMES, Situation, survey
from perfxmm.kernel.syscalls import Kernel, linux_kernel
from perfxmm.sources import nmi
from perfxmm.sources.kmodule.state import read_state
from perfxmm.xstate.components import classes_in
from perfxmm.xstate.cpuid import xgetbv

TASK_CLOCK = 1
# sigtrap and remove_on_exec came with Linux 5.13; the attr that has them is 128 bytes long.
SIGTRAP_ATTR = EventAttr(
    type=PerfType.SOFTWARE, config=TASK_CLOCK, sample_period=1_000_000, size=128,
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME),
    flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV
    | AttrFlag.SIGTRAP | AttrFlag.REMOVE_ON_EXEC,
)  # fmt: skip
CYCLES_ATTR = EventAttr(
    type=PerfType.HARDWARE, sample_period=1, flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL
)
VIRTUAL_PMU = (
    "give this virtual machine a PMU (QEMU: -cpu host,pmu=on), or sample on time: -e task-clock"
)
OLD_KERNEL = "this kernel is older than 5.13 and knows no sigtrap events"


def gather(
    root: str | Path = "/", kernel: Kernel | None = None, *, binding: PerfBinding = HERE,
    trace: Callable[[], None] | None = None, xcr0: Callable[[], int | None] = xgetbv,
) -> Facts:
    """Everything that can be known without disturbing anyone.

    root, kernel, trace and xcr0 are the machine; tests hand in others. trace: raises OSError where
    a child may not be traced.
    """
    base = Path(root)
    kernel = kernel or linux_kernel()
    situation = survey(base)
    cpu = read_cpuinfo(base / "proc", base / "sys")
    found = probe(kernel, base)
    mask = xcr0()
    return Facts(
        tool_version=__version__,
        machine={
            "cpu": cpu.model_name or cpu.vendor, "vendor": cpu.vendor, "kernel": cpu.kernel_release,
            "machine": cpu.machine, "hypervisor": cpu.hypervisor,
        },
        cpu_classes=frozenset(cpu.classes),
        enabled_classes=None if mask is None else frozenset(("gpr", *classes_in(mask))),
        pmu_trials=_pmu_trials(found, cpu, situation),
        pmu_classes=dict(found.delivered), pmu_dialect=found.simd_dialect,
        sigtrap_trials=[_sigtrap_trial(kernel, situation)],
        interrupt_trials=[_trace_trial(trace or trace_a_child, situation)],
        attach=_attach(situation), **_nmi_facts(base, situation), limits=_limits(situation),
        binding=binding.inspect().to_dict(),
        probes=[one.to_dict() for one in found.probes], xen=cpu.xen,
    )  # fmt: skip


def trace_a_child() -> None:
    """Traces a child of its own for a moment, as `record` would. Raises OSError if refused."""
    pid = os.fork()
    if pid == 0:
        # Nothing of Python's may run here beyond this: the child only waits to be ended.
        signal.pause()
        os._exit(0)
    try:
        ptrace.seize(pid, ptrace.O_EXITKILL)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _pmu_trials(found: Capabilities, cpu: CpuInfo, situation: Situation) -> list[Trial]:
    call = "perf_event_open"
    if found.open_errno:
        error = OSError(found.open_errno, "")
        explained = explain_open(error, OpenContext("cycles", CYCLES_ATTR), situation)
        trial = _failed("cycles in user mode", call, found.open_errno, explained)
        if found.open_errno == errno.ENOENT and cpu.hypervisor:
            trial = replace(trial, next_step=VIRTUAL_PMU)
        trials = [trial]
    else:
        trials = [Trial("cycles in user mode", call, "ok")]
    if found.has_simd:
        return [*trials, Trial(f"SIMD registers, dialect {found.simd_dialect}", call, "ok")]
    size = found.kernel_attr_size
    if size is not None:
        step = "a kernel with SIMD register sampling (expected in 7.4); --source sigtrap until then"
        why = f"this kernel has no SIMD register sampling: its attr has {size} bytes"
        return [*trials, Trial("SIMD registers", call, "E2BIG", why, step)]
    if found.open_errno:
        return trials
    # Only Intel's core PMU was taught to sample them; AMD's refuses the attr as invalid.
    step = "--source sigtrap reads vector registers without the PMU"
    maker = f"the core PMU of {cpu.vendor or 'this CPU'}"
    return [
        *trials,
        Trial("SIMD registers", call, "EINVAL", f"{maker} does not sample vector registers", step),
    ]


def _sigtrap_trial(kernel: Kernel, situation: Situation) -> Trial:
    what, call = "task-clock with sigtrap, user mode, on this process", "perf_event_open"
    try:
        kernel.close(
            kernel.perf_event_open(
                bytearray(attrs.encode(SIGTRAP_ATTR)), 0, -1, -1, PERF_FLAG_FD_CLOEXEC
            )
        )
    except OSError as error:
        number = error.errno or errno.EIO
        if number in (errno.EINVAL, errno.E2BIG):
            return Trial(what, call, errno_name(number), OLD_KERNEL,
                         "a newer kernel, or --source sigtrap --engine interrupt")  # fmt: skip
        explained = explain_open(error, OpenContext("task-clock", SIGTRAP_ATTR), situation)
        return _failed(what, call, number, explained)
    return Trial(what, call, "ok")


def _trace_trial(trace: Callable[[], None], situation: Situation) -> Trial:
    what, call = "trace a child of our own", "ptrace PTRACE_SEIZE"
    try:
        trace()
    except OSError as error:
        explained = explain_ptrace(error, os.getpid(), situation)
        return _failed(what, call, error.errno or errno.EIO, explained)
    return Trial(what, call, "ok")


def _nmi_facts(base: Path, situation: Situation) -> dict[str, Any]:
    """What there is to say of source nmi, by the fields of Facts."""
    state = read_state(base)
    loaded = "kernel module xsaves_nmi"
    if state.status is None:
        return {"nmi_trials": [Trial(loaded, "init_module", state.state, state.why,
                                     state.next_step)]}  # fmt: skip
    trials = [Trial(loaded, "init_module", "ok")]
    refused = nmi.refusal(situation, base)
    what, call = "raw data of its tracepoint", "perf_event_open"
    if isinstance(refused, PermissionDenied):
        trials.append(_failed(what, refused.call, refused.errno, refused))
    elif refused is not None:
        trials.append(Trial(what, call, "ENOENT", refused.why, refused.next_step))
    else:
        trials.append(Trial(what, call, "ok"))
    status = state.status
    return {
        "nmi_trials": trials, "nmi_classes": nmi.delivered(status),
        "nmi_detail": f"{status.instruction or 'XSAVE'} in an NMI by {status.nmi}; of general "
        "registers IP and SP",
    }  # fmt: skip


def _failed(what: str, call: str, number: int, explained: PerfxmmError) -> Trial:
    name = errno_name(number)
    return Trial(what, call, name, explained.why, explained.next_step,
                 isinstance(explained, PermissionDenied))  # fmt: skip


def _attach(situation: Situation) -> Limit:
    """Whom a running process may be attached to."""
    scope = situation.ptrace_scope
    shown = "not there" if scope is None else str(scope)
    if scope == 3:
        meaning = "no process may be traced until reboot"
    elif situation.has("CAP_SYS_PTRACE"):
        meaning = "attach to any process (CAP_SYS_PTRACE)"
    elif scope == 2:
        meaning = "no attaching or launching without CAP_SYS_PTRACE"
    elif scope == 1:
        meaning = "launch commands; attaching needs CAP_SYS_PTRACE or kernel.yama.ptrace_scope=0"
    else:
        meaning = "attach to processes of the same user"
    return Limit("kernel.yama.ptrace_scope", shown, meaning)


def _limits(situation: Situation) -> list[Limit]:
    paranoid = situation.perf_event_paranoid
    privileged = situation.perfmon_capable
    if paranoid is None:
        meaning = "this kernel has no perf events, or /proc/sys is hidden"
    elif privileged:
        meaning = "does not bind: CAP_PERFMON or CAP_SYS_ADMIN is there"
    elif paranoid > 2:
        meaning = "no perf events without CAP_PERFMON"
    elif paranoid == 2:
        meaning = "own processes in user mode, which is what perfxmm samples"
    else:
        meaning = "own processes" + (", kernel mode, whole CPUs" if paranoid <= 0 else
                                     " and kernel mode")  # fmt: skip
    soft, hard = situation.nofile
    capabilities = situation.capabilities
    found = [
        Limit("kernel.perf_event_paranoid", _shown(paranoid), meaning),
        Limit("kernel.perf_event_max_sample_rate", _shown(situation.perf_event_max_sample_rate),
              "highest -F"),
        Limit("capabilities", "unknown" if capabilities is None else
              " ".join(sorted(capabilities)) or "none", "of those that matter here"),
        Limit("RLIMIT_NOFILE", f"{_limit(soft)} (hard {_limit(hard)})", "one for each thread"),
    ]  # fmt: skip
    if situation.lockdown:
        found.append(Limit("lockdown", situation.lockdown, "confidentiality withholds intr sets"))
    if situation.seccomp:
        found.append(Limit("seccomp", SECCOMP_NAMES.get(situation.seccomp, "?"),
                           "may refuse perf_event_open and ptrace"))  # fmt: skip
    if situation.containers:
        found.append(Limit("container", ", ".join(situation.containers), "its profile decides"))
    return found


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)


def _limit(value: int) -> str:
    return "unlimited" if value < 0 else str(value)
