"""What the `sigtrap` source says of each stop, carried in the sample's PERF_SAMPLE_RAW field.

perf has no place in a sample for XSTATE_BV or si_perf_flags, and it prints raw data only when
asked. The payload is PAYLOAD_BYTES long, so that the u32 size in front of it and the payload keep
the record 8-byte aligned.
"""

from __future__ import annotations

from enum import IntFlag

# u32 magic, u64 xstate_bv, u32 si_perf_flags, u32 flags; little-endian, packed.
MAGIC = 0x31535850  # "PXS1"
FORMAT = "<IQII"
PAYLOAD_BYTES = 20

# With --redact values the payload goes on, and says of the vector registers what may be said:
# nine u16, u8, u8 in the order of STATISTICS, then four bytes of padding. f64_* and f32_* count
# lanes of each kind (a zero of either sign is a zero); words: 64-bit words counted, those of
# components in their initial state left out (0: nothing was delivered); widest_qwords: 2, 4 or 8
# as the widest register class with a bit set, 0 for none; registers: how many have a bit set.
STATISTICS_MAGIC = 0x32535850  # "PXS2"
STATISTICS_FORMAT = "<IQII9HBB4x"
STATISTICS_BYTES = 44
STATISTICS: tuple[str, ...] = (
    "f64_nan", "f64_inf", "f64_subnormal", "f64_zero",
    "f32_nan", "f32_inf", "f32_subnormal", "f32_zero", "words", "widest_qwords", "registers",
)  # fmt: skip


class StopFlag(IntFlag):
    """Bits of SnapshotBatch.stop_flags."""

    PRESENT = 1 << 0  # the sample carries stop information at all
    INTERRUPT = 1 << 1  # taken by PTRACE_INTERRUPT: there is no event IP, `ip` is the stop's
    ASYNC = 1 << 2  # si_perf_flags bit 0: the trap was delivered later than the overflow
    SIGTRAP_BLOCKED = 1 << 3  # the thread had SIGTRAP blocked when it was sampled
    COMPAT = 1 << 4  # the thread was in 32-bit code (CS 0x23)
    UNPAIRED = 1 << 5  # no ring-buffer sample matched this stop: `ip` is the stop's
    SYSCALL = 1 << 6  # stopped inside a system call (orig_rax is not -1)
    GROUP_STOP = 1 << 7  # the thread was in a group stop
