"""Rules for XSAVE images taken in an NMI (source `nmi`, tracepoint xsaves_nmi:snapshot).

Ascending precedence: a later row overrides an earlier one where both match. The image is what the
CPU held; whose it is the record's flags say, and perf's own account of the sample is the witness.
"""

from __future__ import annotations

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.evidence import Evidence, both, either, outside
from perfxmm.coherence.rule import NMI, VECTORS, Rule
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.vocabulary import (
    BROKEN_IMAGE,
    EGPR_MASK,
    SSP_MASK,
    CpuMode,
    SnapshotFlag,
)

_INTR = ("intr",)
_OWNER = "arch/x86/kernel/fpu/core.c, Linux 5.10 to 7.3: TIF_NEED_FPU_LOAD"


def snapshot_of_user(e: Evidence) -> Mask:
    """The NMI interrupted user code, as the record and the sample both say, and the task's
    registers were in the CPU: one XSAVE there is the task's own state at that instruction."""
    return both(
        e.snapshot(SnapshotFlag.PRESENT), e.snapshot(SnapshotFlag.USER),
        e.snapshot(SnapshotFlag.IN_NMI), e.user_mode,
    )  # fmt: skip


def snapshot_ip_match(e: Evidence) -> Mask:
    """The record's IP equals the sample's."""
    return both(e.snapshot(SnapshotFlag.PRESENT), e.ip_equal)


def snapshot_stale(e: Evidence) -> Mask:
    """The vectors are bit for bit those of another thread in the CPU's snapshot before, and none of
    the thread's own neighbouring snapshots explains that."""
    return e.stale


def snapshot_init_state(e: Evidence) -> Mask:
    """XSTATE_BV is clear for a class that was saved: zero by definition. The verdict stays."""
    return both(e.snapshot(SnapshotFlag.PRESENT), either(*e.initial_classes.values()))


def snapshot_unplaced(e: Evidence) -> Mask:
    """A component was saved, but nothing recorded says for certain where. What was found is not
    in doubt."""
    return e.snapshot(SnapshotFlag.UNPLACED)


def snapshot_ip_differs(e: Evidence) -> Mask:
    """The record's IP is not the sample's, although both come from the interrupted registers."""
    return both(
        e.snapshot(SnapshotFlag.PRESENT), outside(e.snapshot(SnapshotFlag.NO_IMAGE)),
        outside(e.ip_equal),
    )  # fmt: skip


def snapshot_broken(e: Evidence) -> Mask:
    """The image is not what the instruction writes: it was damaged, or written by something
    else. General registers do not come from it; R16 to R31 and SSP do."""
    return e.snapshot(BROKEN_IMAGE)


def snapshot_not_in_nmi(e: Evidence) -> Mask:
    """Outside NMI context the registers are those of whatever called, not of the interrupted
    code."""
    return both(e.snapshot(SnapshotFlag.PRESENT), outside(e.snapshot(SnapshotFlag.IN_NMI)))


def snapshot_thread_differs(e: Evidence) -> Mask:
    """Record and sample name different threads: it is not known whose registers these are. In
    another PID namespace than the module's the numbers differ as well."""
    return e.snapshot(SnapshotFlag.THREAD_DIFFERS)


def snapshot_mode_differs(e: Evidence) -> Mask:
    """The record says that user code was interrupted and the sample does not, or the other way
    round."""
    user = e.snapshot(SnapshotFlag.USER)
    return both(
        e.snapshot(SnapshotFlag.PRESENT),
        either(both(user, outside(e.user_mode)), both(outside(user), e.user_mode)),
    )


def snapshot_cpumode_unknown(e: Evidence) -> Mask:
    """The sample's misc names no mode, or one that does not exist."""
    return outside(
        either(*(e.cpumode(mode) for mode in CpuMode if mode is not CpuMode.UNKNOWN))
    )


def snapshot_need_fpu_load(e: Evidence) -> Mask:
    """The flag promises that the registers are loaded before user code runs. With it the CPU may
    hold the kernel's or another task's, whatever else the record says. R16 to R31 and
    SSP are as doubtful."""
    return e.snapshot(SnapshotFlag.NEED_FPU_LOAD)


def snapshot_of_kernel(e: Evidence) -> Mask:
    """The NMI hit the kernel: the registers may be the task's, a kernel FPU section's or another
    task's."""
    return both(e.snapshot(SnapshotFlag.PRESENT), outside(e.snapshot(SnapshotFlag.USER)))


def snapshot_of_kernel_thread(e: Evidence) -> Mask:
    """A kernel thread has no user registers: what the CPU holds belongs to another task."""
    return either(e.snapshot(SnapshotFlag.KERNEL_THREAD), e.kernel_tid)


def snapshot_idle(e: Evidence) -> Mask:
    """pid 0: registers are restored lazily, so another process's data is still in the CPU."""
    column = e.batch.pid == 0
    return both(bool(column.any()), column)


def snapshot_guest(e: Evidence) -> Mask:
    """A guest was running: its registers, not the thread's."""
    return either(e.cpumode(CpuMode.GUEST_KERNEL), e.cpumode(CpuMode.GUEST_USER))


def snapshot_hypervisor(e: Evidence) -> Mask:
    """The sample was taken in the hypervisor."""
    return e.cpumode(CpuMode.HYPERVISOR)


_RECORD = "record of xsaves_nmi:snapshot against PERF_RECORD_SAMPLE"

NMI_RULES: tuple[Rule, ...] = (
    Rule(
        "snapshot-of-user", snapshot_of_user, "user-mode",
        "XSAVE in the NMI before any other code of the kernel uses the FPU; " + _OWNER,
        Verdict.COHERENT, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-stale", snapshot_stale, "stale-suspected",
        "a buffer that keeps an earlier snapshot looks so; no case is known", Verdict.UNKNOWN,
        VECTORS, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-ip-match", snapshot_ip_match, "ip-match", _RECORD, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-init-state", snapshot_init_state, "init-state",
        "Intel SDM volume 1, 13.6 and 13.11: XSTATE_BV is XINUSE of what was saved",
        classes=VECTORS, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-unplaced", snapshot_unplaced, "component-unplaced",
        "CPUID leaf 0xD, ECX bit 1; Intel SDM volume 1, 13.4.3", sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-ip-differs", snapshot_ip_differs, "ip-differs", _RECORD, Verdict.UNKNOWN,
        sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-broken", snapshot_broken, "image-broken",
        "Intel SDM volume 1, 13.4.2, 13.10 and 13.11; MXCSR: 11.6.6", Verdict.UNKNOWN, VECTORS,
        sets=_INTR, sources=NMI, withhold_gprs=EGPR_MASK | SSP_MASK,
    ),
    Rule(
        "snapshot-not-in-nmi", snapshot_not_in_nmi, "not-in-nmi",
        "include/linux/preempt.h, in_nmi()", Verdict.UNKNOWN, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-thread-differs", snapshot_thread_differs, "thread-differs", _RECORD,
        Verdict.UNKNOWN, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-mode-differs", snapshot_mode_differs, "mode-differs", _RECORD, Verdict.UNKNOWN,
        sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-cpumode-unknown", snapshot_cpumode_unknown, "cpumode-unknown",
        "PERF_RECORD_MISC_CPUMODE, include/uapi/linux/perf_event.h, Linux 7.3", Verdict.UNKNOWN,
        sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-need-fpu-load", snapshot_need_fpu_load, "fpu-in-memory", _OWNER,
        Verdict.FOREIGN, VECTORS, sets=_INTR, sources=NMI, withhold_gprs=EGPR_MASK | SSP_MASK,
    ),
    Rule(
        "snapshot-of-kernel", snapshot_of_kernel, "kernel-mode",
        "60 of 60 snapshots inside kernel_fpu_begin() held the kernel's own values; " + _OWNER,
        Verdict.FOREIGN, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-of-kernel-thread", snapshot_of_kernel_thread, "kernel-thread",
        "PF_KTHREAD, include/linux/sched.h", Verdict.FOREIGN, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-idle", snapshot_idle, "idle-task",
        "x86 FPU switch code, Linux 7.3: lazy restore", Verdict.FOREIGN, sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-guest", snapshot_guest, "guest", "x86 perf core, Linux 7.3", Verdict.FOREIGN,
        sets=_INTR, sources=NMI,
    ),
    Rule(
        "snapshot-hypervisor", snapshot_hypervisor, "hypervisor", "x86 perf core, Linux 7.3",
        Verdict.FOREIGN, sets=_INTR, sources=NMI,
    ),
)  # fmt: skip
