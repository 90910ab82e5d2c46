"""Reason codes: why a verdict is what it is. One bit each in the `reason` column.

Bits are part of what recordings' exports mean: they are only ever added at the end. A reference
names the behaviour's origin: a kernel release, or "merged series" for the patches "Support
SIMD/eGPR/SSP registers sampling" in tip perf/core of 9 September 2026 (expected in 7.4).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason code. `bit` is its number in the `reason` column."""

    name: str
    bit: int
    text: str

    @property
    def mask(self) -> int:
        return 1 << self.bit


# (name, text) in bit order.
_TABLE: tuple[tuple[str, str], ...] = (
    ("user-mode", "The thread was in user mode, so the live registers were its own."),
    ("ip-match", "The registers' own IP equals the sample's IP."),
    ("ip-differs", "The registers' own IP is not the sample's IP."),
    (
        "after-instruction",
        "A precise event: the registers were taken when the instruction at the sample's IP had "
        "retired, so they show its results.",
    ),
    (
        "kernel-mode",
        "The interrupt hit the kernel: the live registers may be the task's, a kernel FPU "
        "section's, another task's or a guest's, and no bit of the sample says which.",
    ),
    ("kernel-entry", "The interrupt hit the kernel: the user registers are those of its entry."),
    (
        "callee-saved-unknown",
        "BX and R12 to R15 are not saved at kernel entry; the kernel reports all ones for them. "
        "They are withheld.",
    ),
    ("idle-task", "pid 0, the idle task: the registers are those of whichever task ran last."),
    (
        "kernel-thread",
        "A kernel thread or user worker has no user registers: what the CPU holds belongs to "
        "another task.",
    ),
    ("guest", "A guest was running: IP, general and vector registers have different owners."),
    ("hypervisor", "The sample was taken in the hypervisor."),
    ("cpumode-unknown", "The sample does not say in which mode the CPU was."),
    (
        "skid",
        "An event that excludes the kernel was delivered late, inside the kernel: the sample "
        "has no IP and no interrupt registers.",
    ),
    ("abi-none", "The kernel delivered no registers for this set (abi 0)."),
    (
        "simd-missing",
        "SIMD sampling was on, but this set came without its SIMD block (ABI_SIMD is clear).",
    ),
    ("not-asked", "The register class was not asked for."),
    ("not-delivered", "The register class was asked for, but the sample's header has none of it."),
    (
        "not-collected",
        "Every vector and mask register reads zero. The kernel zero-fills what it could not "
        "read (outside NMI context, a faulting XSAVES), and this cannot be told from a thread "
        "whose registers really are all zero.",
    ),
    (
        "legacy-zero",
        "All XMM registers read zero, as they also do when the PEBS record had no XMM block.",
    ),
    (
        "xen-pv",
        "Recorded in a Xen PV guest, where the PMU interrupt is not an NMI and vector registers "
        "are not read.",
    ),
    (
        "mixed-sources",
        "A precise event on a kernel that takes XMM from the PEBS record and everything wider "
        "from the moment of the interrupt, or, where the recording names no kernel release that "
        "decides, may do so: only the low 128 bits surely belong to the sample.",
    ),
    (
        "egpr-torn",
        "R16 to R31 and SSP come from the moment of the interrupt, not from the PEBS record. "
        "They are withheld.",
    ),
    (
        "user-precise-unread",
        "What this kernel puts into the user set of a precise event has not been established.",
    ),
    (
        "stored-state-unread",
        "In kernel mode this kernel is said to read the task's saved state; that patch has not "
        "been read, so it is not relied on.",
    ),
    (
        "live-as-user",
        "In kernel mode this kernel reports the live registers as the user's: they may be the "
        "kernel's.",
    ),
    (
        "twin-mismatch",
        "The interrupt and the user set of one user-mode sample come from one XSAVES and must "
        "be equal, but they differ: a broken kernel, file or decoder.",
    ),
    ("ssp-absent", "The shadow stack pointer reads 0: no user shadow stack, or not collected."),
    (
        "abi32",
        "32-bit code reaches only vectors 0 to 7 and the eight old general registers; the "
        "others are leftovers and are withheld.",
    ),
    (
        "high-vectors-unread",
        "Vectors 16 to 31 are read only when 512-bit width is asked for; they are withheld.",
    ),
    (
        "high-vectors-garbage",
        "This kernel copies vectors 16 to 31 from beyond their buffer; they are withheld.",
    ),
    ("upper-zero", "Upper parts read zero while lower ones do not: as after vzeroupper."),
    (
        "init-state",
        "XSTATE_BV says that a register class is in its architectural initial state: zero, and "
        "not touched by the program.",
    ),
    ("async-trap", "si_perf_flags: the SIGTRAP was delivered later than the overflow."),
    ("sigtrap-blocked", "The thread had SIGTRAP blocked: the trap waited until it was unblocked."),
    (
        "interrupt-engine",
        "Stopped by PTRACE_INTERRUPT: there is no event IP, the sample's IP is the stop's own.",
    ),
    ("unpaired", "No ring-buffer sample belongs to this stop: the event's IP is not known."),
    ("in-syscall", "Stopped inside a system call: the registers are those of its entry."),
    ("group-stop", "The thread was in a group stop (SIGSTOP and friends)."),
    ("no-stop-info", "The sample does not carry what the source knew of the stop."),
    ("ip-not-recorded", "The set has no IP to compare with the sample's."),
    (
        "kernel-mode-event",
        "The event happened in the kernel, as tracepoints do even where the sample names user "
        "mode; the stop came on return from it.",
    ),
    ("source-unknown", "No rules exist for the source of this recording."),
    (
        "dialect-unknown",
        "Which kernel interface wrote this cannot be told, so the worst of them is assumed.",
    ),
    (
        "legacy-any-event",
        "XMM without precise sampling in the legacy layout: read live at the interrupt.",
    ),
    (
        "redacted",
        "Nothing is in the file for this set, and the recorder was told to leave values out "
        "(--redact).",
    ),
    (
        "payload-cut",
        "The header counts 16 vectors where 32 were asked for. This kernel then writes all 32 "
        "into the room of 16: what follows the first 16 is not what it should be.",
    ),
    (
        "in-kernel-event",
        "The event happened in the kernel on the thread's behalf: the registers are those of "
        "kernel entry, whose AX may already be changed.",
    ),
    (
        "fpu-in-memory",
        "TIF_NEED_FPU_LOAD was set: the task's vector registers were in memory, and the CPU's are "
        "somebody else's.",
    ),
    (
        "not-in-nmi",
        "The image was not taken in NMI context, so it is not the interrupted state.",
    ),
    (
        "mode-differs",
        "The snapshot and the sample do not agree whether user code was interrupted.",
    ),
    ("thread-differs", "The snapshot's thread is not the sample's."),
    (
        "image-broken",
        "The XSAVE image contradicts itself or what was asked for: reserved bits, XSTATE_BV, "
        "XCOMP_BV, MXCSR, or the record's own copies of them.",
    ),
    (
        "component-unplaced",
        "Where a state component lies in the image cannot be told for certain without the "
        "recording machine's component table; it is left out.",
    ),
    (
        "stale-suspected",
        "The vectors are bit for bit those of another thread in the sample that this CPU took "
        "before, and neither of the thread's own neighbouring samples has them. A suspicion, not "
        "proof: two threads may rightly hold the same values.",
    ),
    (
        "egpr-absent",
        "R16 to R31 all read 0, and nothing else shows that any extended state was read: initial "
        "state, or not collected. They are withheld.",
    ),
    (
        "reduced-initial",
        "The header has less than was asked for: this kernel cuts what XSAVES found in its "
        "initial state. Those parts are zero, not lost.",
    ),
    (
        "user-copy-unreset",
        "This kernel did not reset what it points the user set to, so registers of an earlier "
        "sample may be in it, and no equal interrupt set shows that they are not.",
    ),
    (
        "code-proved",
        "The instructions that ran just before the IP leave known values in some registers, and "
        "those registers hold them.",
    ),
    (
        "code-skid",
        "The registers are not what the code before the IP leaves in them, but what code a few "
        "instructions on does: they were taken later than the IP.",
    ),
    (
        "code-contradicted",
        "The registers are not what the code before the IP leaves in them, and no place a few "
        "instructions on explains them.",
    ),
)

REASONS: dict[str, Reason] = {
    name: Reason(name, bit, text) for bit, (name, text) in enumerate(_TABLE)
}


def reason_names(bits: int) -> tuple[str, ...]:
    """Names of the reason bits that are set, in bit order.

    A bit without a name (written by a newer version) reads as `bit-N`.
    """
    names = []
    for bit in range(int(bits).bit_length()):
        if int(bits) >> bit & 1:
            names.append(_TABLE[bit][0] if bit < len(_TABLE) else f"bit-{bit}")
    return tuple(names)
