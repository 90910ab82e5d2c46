"""Rules for registers that the kernel put into the sample (source `pmu`, and perf's own files).

Ascending precedence: a later row overrides an earlier one where both match. "merged series" is
the SIMD sampling series in tip perf/core of 9 September 2026 (expected in 7.4); "postings" are its
versions V2 to V5 of 2025; "overlay" is Intel's 6.18 LTS kernel overlay.
"""

from __future__ import annotations

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.evidence import Evidence, both, either, outside
from perfxmm.coherence.rule import ANY_SOURCE, PMU, UPPER, VECTORS, Rule
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.vocabulary import (
    ABI32_GPR_MASK,
    EGPR_MASK,
    GPR_ID,
    REGS_ABI_32,
    REGS_ABI_64,
    SSP_MASK,
    CpuMode,
)

ALL_GPRS = (1 << 64) - 1
HIGH_VECTORS = 0xFFFF0000
ABOVE_ABI32_VECTORS = 0xFFFFFF00
ABOVE_ABI32_GPRS = ALL_GPRS & ~(ABI32_GPR_MASK | SSP_MASK)
CALLEE_SAVED = sum(1 << GPR_ID[name] for name in ("BX", "R12", "R13", "R14", "R15"))


def trusted_dialect(e: Evidence) -> Mask:
    """Dialects in which a precise event's registers all come from one place. An attr in M's layout
    alone does not say so: O2 has the same."""
    return e.events(
        lambda event: event.dialect == "L" or (event.dialect == "M" and event.merged_proven)
    )


def postings(e: Evidence) -> Mask:
    """The postings V2 to V5, whose versions cannot be told apart, and what is not known at all."""
    return outside(e.dialect("M", "L", "O1", "O2", "R6"))


def user_mode(e: Evidence) -> Mask:
    """The interrupt hit user mode: live registers are the sampled thread's own."""
    return e.user_mode


def after_instruction(e: Evidence) -> Mask:
    """A precise event's registers come from the PEBS record, taken when the instruction retired."""
    return both(e.user_mode, e.precise)


def legacy_any_event(e: Evidence) -> Mask:
    """Legacy XMM without precise sampling, which only the merged kernels take."""
    return both(e.user_mode, e.dialect("L"), outside(e.precise), e.delivered("xmm"))


def ip_match(e: Evidence) -> Mask:
    """The set's IP equals the sample's."""
    return e.ip_equal


def ip_differs(e: Evidence) -> Mask:
    """In user mode the kernel takes the sample's IP from these very registers. Where the two
    differ, the registers can only be believed at their own IP."""
    return both(e.user_mode, e.ip_delivered, outside(e.ip_equal))


def in_kernel_event(e: Evidence) -> Mask:
    """A tracepoint or software event of the kernel whose sample has the user's registers, as
    system calls do: they are those of kernel entry, with AX replaced."""
    return both(e.user_mode, e.in_kernel)


def kernel_entry(e: Evidence) -> Mask:
    """The interrupt hit the kernel: general registers come from the entry frame, vectors from the
    task's saved state or, where nothing has touched them yet, from the CPU."""
    return e.kernel_mode


def callee_saved(e: Evidence) -> Mask:
    """At kernel entry BX and R12 to R15 are not reliably saved; the kernel reports all ones."""
    return e.kernel_mode


def mixed_sources(e: Evidence) -> Mask:
    """Precise event, dialects before the merged one (or only looking like it), no architectural
    PEBS known: the PEBS record has XMM, everything wider is read at the interrupt."""
    if e.context.arch_pebs:
        return False
    wide = either(e.delivered("ymm"), e.delivered("opmask"))
    return both(e.user_mode, e.precise, outside(trusted_dialect(e)), wide)


def egpr_torn(e: Evidence) -> Mask:
    """As mixed-sources, for R16 to R31 and SSP."""
    if e.context.arch_pebs:
        return False
    return both(e.user_mode, e.precise, outside(trusted_dialect(e)), e.late_gprs)


def user_precise_unread(e: Evidence) -> Mask:
    """User set of a precise event before the merged dialect: record or interrupt, not known."""
    return both(e.user_mode, e.precise, outside(trusted_dialect(e)))


def stored_state_unread(e: Evidence) -> Mask:
    """Overlay kernels in kernel mode: said to deliver the saved state, but not verified."""
    return both(e.kernel_mode, e.dialect("O1", "R6"))


def user_copy_unreset(e: Evidence) -> Mask:
    """Postings v6 and v7 did not reset the pointers of the user set from one sample to the next.
    Where the interrupt set, whose pointers they did reset, has the same values, they are right."""
    return both(e.user_mode, e.dialect("R6"), outside(e.twins_equal))


def twin_mismatch(e: Evidence) -> Mask:
    """Both sets of a user-mode sample are of one thread at one instant, so they must be equal: one
    XSAVES and one frame feed them. No dialect explains a difference."""
    if not isinstance(e.user_mode, bool) or e.user_mode:
        eligible = both(e.user_mode, outside(e.precise))
        return both(eligible, e.twins_differ) if eligible is not False else False
    return False


def stale_suspected(e: Evidence) -> Mask:
    """In user mode, the vectors are bit for bit those of another thread in the CPU's sample before,
    and none of the thread's own neighbouring samples explains that."""
    return e.stale


def not_collected(e: Evidence) -> Mask:
    """Every vector and mask register of the set reads zero: what could not be read is zero-filled,
    and nothing in the sample says so."""
    simd = outside(e.dialect("L"))
    return both(e.any_vectors, simd, e.all_zero)


def legacy_zero(e: Evidence) -> Mask:
    """All legacy XMM registers read zero: a PEBS record without an XMM block looks the same."""
    return both(e.any_vectors, e.dialect("L"), e.all_zero)


def xen_not_nmi(e: Evidence) -> Mask:
    """Xen PV: the PMU interrupt is an ordinary event channel. Merged kernels then read nothing;
    earlier ones may show what an earlier sample left in the buffer."""
    return e.context.xen and outside(e.dialect("M", "L"))


def xen_zero(e: Evidence) -> Mask:
    """Xen PV and all zero: expected there."""
    return both(e.context.xen, e.any_vectors, e.all_zero)


def live_as_user(e: Evidence) -> Mask:
    """The postings report live registers as the user's even when the kernel runs."""
    return both(e.kernel_mode, postings(e))


def dialect_unknown(e: Evidence) -> Mask:
    """The attr's dialect is not known: treated like the least trustworthy one."""
    return e.dialect_unknown


def kernel_mode(e: Evidence) -> Mask:
    """The interrupt hit the kernel: the owner of the live registers is not known."""
    return e.kernel_mode


def idle_task(e: Evidence) -> Mask:
    """pid 0: registers are restored lazily, so another process's data is still in the CPU."""
    column = e.batch.pid == 0
    return both(bool(column.any()), column)


def kernel_thread(e: Evidence) -> Mask:
    """A thread known to be the kernel's, or one that has no user registers to show (V4 shows none
    of any thread in the kernel)."""
    return either(e.kernel_tid, both(e.no_user_state, outside(postings(e))))


def guest(e: Evidence) -> Mask:
    """A guest was running: IP is the guest's, general registers the host's, vectors the guest's."""
    return either(e.cpumode(CpuMode.GUEST_KERNEL), e.cpumode(CpuMode.GUEST_USER))


def hypervisor(e: Evidence) -> Mask:
    """The sample was taken in the hypervisor."""
    return e.cpumode(CpuMode.HYPERVISOR)


def skid(e: Evidence) -> Mask:
    """exclude_kernel, kernel mode and IP 0: the interrupt came after kernel entry. The kernel
    withholds the interrupt registers; the user set is still the thread's."""
    excluded = e.events(lambda event: event.exclude_kernel)
    column = e.batch.ip == 0
    return both(bool(column.any()), e.kernel_mode, excluded, column)


def cpumode_unknown(e: Evidence) -> Mask:
    """The record's misc names no mode (or one that does not exist)."""
    return outside(
        either(*(e.cpumode(mode) for mode in CpuMode if mode is not CpuMode.UNKNOWN))
    )


def simd_missing(e: Evidence) -> Mask:
    """The attr enabled SIMD sampling, but the abi word lacks ABI_SIMD."""
    enabled = e.events(lambda event: event.simd_enabled)
    return both(enabled, outside(e.abi_none), outside(e.abi_simd))


def upper_zero(e: Evidence) -> Mask:
    """Upper parts zero, low parts not: legitimate, the initial state that vzeroupper leaves."""
    return e.upper_zero


def ssp_absent(e: Evidence) -> Mask:
    """SSP reads 0: there is no user shadow stack, or it was not collected."""
    return e.ssp_zero


def abi32(e: Evidence) -> Mask:
    """A 32-bit task reaches vectors 0 to 7 and no R8 to R15; the others are leftovers."""
    return both(e.abi_has(REGS_ABI_32), outside(e.abi_has(REGS_ABI_64)))


def egpr_absent(e: Evidence) -> Mask:
    """R16 to R31 all read 0 and so does everything else that XSAVES reads."""
    return both(e.abi_simd, e.only_egpr_zero)


def reduced_initial(e: Evidence) -> Mask:
    """Postings V4 and V5 cut the numbers in the header where XSAVES found a component in its
    initial state; while other vectors came, what is missing right above them is zero."""
    return both(postings(e), either(*(e.cut_width(name) for name in UPPER)))


def high_vectors_garbage(e: Evidence) -> Mask:
    """The postings read vectors 16 to 31 beyond the end of their buffer."""
    return both(e.high_vectors, outside(e.dialect("M", "L", "O1", "O2")))


def payload_cut(e: Evidence) -> Mask:
    """32 vectors asked for, 16 counted: the postings still write all of them, so that the mask
    registers' place holds vector 16."""
    return both(postings(e), e.cut_vectors(e.registers.name))


def behind_cut_payload(e: Evidence) -> Mask:
    """The interrupt set stands behind the user set: where that one was written beyond its room,
    nothing behind it can be relied on."""
    return both(postings(e), e.cut_vectors("user"))


def high_vectors_unread(e: Evidence) -> Mask:
    """Vectors 16 to 31 asked for at less than 512 bits pass validation, but are never read."""
    return both(e.high_vectors, outside(e.delivered("zmm")))


_RULES_TABLE = "ABI rules table"

PMU_RULES: tuple[Rule, ...] = (
    Rule(
        "intr-user-mode", user_mode, "user-mode",
        f"merged series, x86 perf core: one XSAVES in the NMI; {_RULES_TABLE}",
        Verdict.COHERENT, sets=("intr",),
    ),
    Rule(
        "user-user-mode", user_mode, "user-mode",
        f"merged series, x86 perf core: REGS_USER in user mode is the live state; {_RULES_TABLE}",
        Verdict.COHERENT, sets=("user",),
    ),
    Rule(
        "after-instruction", after_instruction, "after-instruction",
        "UAPI comment of sample_regs_intr (Linux 7.3); capture after retirement: general PEBS "
        "behaviour",
    ),
    Rule(
        "legacy-any-event", legacy_any_event, "legacy-any-event",
        "merged series: XMM through sample_regs_intr for non-PEBS events", sets=("intr",),
    ),
    Rule(
        "ip-match", ip_match, "ip-match", "perf core: the sample's IP is read from the same frame",
    ),
    Rule(
        "ip-differs", ip_differs, "ip-differs",
        "perf core: the sample's IP is read from the same frame; a difference is not explained",
        Verdict.LATE,
    ),
    Rule(
        "in-kernel-event", in_kernel_event, "in-kernel-event",
        "kernel/trace/trace_syscalls.c, Linux 7.3: perf_syscall_enter hands over the user's "
        "pt_regs; AX is -ENOSYS there until the call returns", Verdict.ENTRY,
    ),
    Rule(
        "user-kernel-entry", kernel_entry, "kernel-entry",
        f"merged series: TIF_NEED_FPU_LOAD decides; {_RULES_TABLE}", Verdict.ENTRY, sets=("user",),
    ),
    Rule(
        "callee-saved-unknown", callee_saved, "callee-saved-unknown",
        "arch/x86/kernel/perf_regs.c, Linux 7.3: perf_get_regs_user", sets=("user",),
        withhold_gprs=CALLEE_SAVED,
    ),
    Rule(
        "user-kernel-overlay", stored_state_unread, "stored-state-unread",
        "overlay: the patch for REGS_USER was not read", Verdict.UNKNOWN, VECTORS, sets=("user",),
    ),
    Rule(
        "mixed-sources", mixed_sources, "mixed-sources",
        f"postings V4 and overlay: XMM from PEBS, the rest from XSAVES; {_RULES_TABLE}",
        Verdict.TORN, UPPER, sets=("intr",),
    ),
    Rule(
        "egpr-torn", egpr_torn, "egpr-torn",
        "postings V4 and overlay: eGPR from XSAVES at the interrupt", sets=("intr",),
        withhold_gprs=EGPR_MASK | SSP_MASK,
    ),
    Rule(
        "user-precise-unread", user_precise_unread, "user-precise-unread",
        "postings and overlay: not established", Verdict.UNKNOWN, VECTORS, sets=("user",),
    ),
    Rule(
        "user-copy-unreset", user_copy_unreset, "user-copy-unreset",
        "postings v6 and v7, by the changelog of v8; ABI notes 5.3", Verdict.UNKNOWN, VECTORS,
        sets=("user",),
    ),
    Rule(
        "twin-mismatch", twin_mismatch, "twin-mismatch",
        "merged series: one XSAVES feeds both sets; confirmed on every kernel-made recording",
        Verdict.UNKNOWN,
    ),
    Rule(
        "stale-suspected", stale_suspected, "stale-suspected",
        "postings V2 to V7: buffers and pointers that were not reset; ABI notes 5.3",
        Verdict.UNKNOWN, VECTORS,
    ),
    Rule(
        "payload-cut", payload_cut, "payload-cut",
        "posting V4: the counts are cut, the loop over the mask is not; ABI notes 3.3",
        Verdict.UNKNOWN, ("opmask",),
    ),
    Rule(
        "behind-cut-payload", behind_cut_payload, "payload-cut",
        "posting V4, order of fields in PERF_RECORD_SAMPLE; not seen in a recording",
        Verdict.UNKNOWN, sets=("intr",),
    ),
    Rule(
        "xen-stale", xen_not_nmi, "xen-pv",
        "postings and overlay: the buffer is not cleared outside NMI", Verdict.UNKNOWN, VECTORS,
    ),
    Rule(
        "not-collected", not_collected, "not-collected",
        f"merged series: zero fill by design; {_RULES_TABLE}", Verdict.ABSENT, VECTORS,
    ),
    Rule(
        "legacy-zero", legacy_zero, "legacy-zero",
        "arch/x86/kernel/perf_regs.c, Linux 7.3: a null XMM pointer reads 0", Verdict.ABSENT,
        VECTORS,
    ),
    Rule("xen-zero", xen_zero, "xen-pv", "merged series: own register container for Xen PV"),
    Rule(
        "user-kernel-live", live_as_user, "live-as-user",
        f"postings V2 and V3: no look at TIF_NEED_FPU_LOAD; {_RULES_TABLE}", Verdict.FOREIGN,
        VECTORS, sets=("user",),
    ),
    Rule("dialect-unknown", dialect_unknown, "dialect-unknown", "attr layout by its bytes"),
    Rule(
        "cpumode-unknown", cpumode_unknown, "cpumode-unknown",
        "PERF_RECORD_MISC_CPUMODE, include/uapi/linux/perf_event.h, Linux 7.3", Verdict.UNKNOWN,
    ),
    Rule(
        "kernel-mode", kernel_mode, "kernel-mode",
        f"merged series: no owner in the sample; {_RULES_TABLE}", Verdict.FOREIGN, sets=("intr",),
    ),
    Rule(
        "guest", guest, "guest", f"x86 perf core, Linux 7.3; {_RULES_TABLE}", Verdict.FOREIGN,
    ),
    Rule("hypervisor", hypervisor, "hypervisor", _RULES_TABLE, Verdict.FOREIGN),
    Rule(
        "idle-task", idle_task, "idle-task",
        f"x86 FPU switch code, Linux 7.3: lazy restore; {_RULES_TABLE}", Verdict.FOREIGN,
    ),
    Rule(
        "kernel-thread", kernel_thread, "kernel-thread",
        f"perf core: no user registers for kernel threads and user workers; {_RULES_TABLE}",
        Verdict.FOREIGN,
    ),
    Rule(
        "skid", skid, "skid",
        "Linux 7.3: fix of June 2026 against register leaks by skid; an older kernel's leaked "
        "interrupt registers stay foreign",
    ),
    Rule(
        "upper-zero", upper_zero, "upper-zero",
        f"merged series: components outside XSTATE_BV are zero-filled; {_RULES_TABLE}",
    ),
    Rule(
        "reduced-initial", reduced_initial, "reduced-initial",
        "postings V4 and V5: the numbers follow XSTATE_BV; ABI notes 3.3",
    ),
    Rule(
        "high-vectors-garbage", high_vectors_garbage, "high-vectors-garbage",
        f"posting V4: index 16 to 31 of a 16-entry block; {_RULES_TABLE}",
        withhold_vectors=HIGH_VECTORS,
    ),
    Rule(
        "high-vectors-unread", high_vectors_unread, "high-vectors-unread",
        "merged series: Hi16_ZMM is fetched for 8 qwords only", withhold_vectors=HIGH_VECTORS,
    ),
)  # fmt: skip

# Rules about what a value can mean in any source.
COMMON_RULES: tuple[Rule, ...] = (
    Rule(
        "simd-missing", simd_missing, "simd-missing", _RULES_TABLE, Verdict.ABSENT, VECTORS,
        sources=ANY_SOURCE, withhold_gprs=EGPR_MASK | SSP_MASK,
    ),
    Rule(
        "egpr-absent", egpr_absent, "egpr-absent", f"merged series: zero fill; {_RULES_TABLE}",
        sources=PMU, withhold_gprs=EGPR_MASK,
    ),
    Rule(
        "ssp-absent", ssp_absent, "ssp-absent", f"merged series; {_RULES_TABLE}",
        sources=ANY_SOURCE, withhold_gprs=SSP_MASK,
    ),
    Rule(
        "abi32", abi32, "abi32", f"x86 architecture, 32-bit modes; {_RULES_TABLE}",
        sources=ANY_SOURCE, withhold_gprs=ABOVE_ABI32_GPRS, withhold_vectors=ABOVE_ABI32_VECTORS,
    ),
)  # fmt: skip
