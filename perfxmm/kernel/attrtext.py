"""An event attribute in perf's own words, for people who ask what a file says.

Names: perf_event_attr, PERF_SAMPLE_*, PERF_FORMAT_* and PERF_SAMPLE_BRANCH_* in
include/uapi/linux/perf_event.h; a field is told where it is set, and by the name that
`perf report --header-only -I` and `perf evlist -v` print (tools/perf/util), all of Linux 7.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

from perfxmm.kernel import eventnames
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, ReadFormat, SampleType
from perfxmm.kernel.dialects import SimdRequest, canonical_gpr_mask
from perfxmm.kernel.layout import bits_of
from perfxmm.kernel.registers import GPR_NAMES

# Bit numbers of perf_branch_sample_type.
BRANCH_NAMES = (
    "USER", "KERNEL", "HV", "ANY", "ANY_CALL", "ANY_RETURN", "IND_CALL", "ABORT_TX", "IN_TX",
    "NO_TX", "COND", "CALL_STACK", "IND_JUMP", "CALL", "NO_FLAGS", "NO_CYCLES", "TYPE_SAVE",
    "HW_INDEX", "PRIV_SAVE", "COUNTERS",
)  # fmt: skip
# CLOCK_*: include/uapi/linux/time.h.
CLOCK_NAMES = {
    0: "realtime", 1: "monotonic", 2: "process_cputime", 3: "thread_cputime", 4: "monotonic_raw",
    7: "boottime", 11: "tai",
}  # fmt: skip
_SKID = ("arbitrary", "constant", "requested 0", "must be 0")
# HW_BREAKPOINT_*: include/uapi/linux/hw_breakpoint.h.
_BREAKPOINT = {0: "empty", 1: "r", 2: "w", 3: "rw", 4: "x"}
# Without SIMD sampling ids end with R15.
_WITHOUT_SIMD = (1 << 24) - 1
# Fields told as plain numbers, in the order of the structure.
_NUMBERS = (
    "wakeup_events", "config2", "sample_stack_user", "aux_watermark", "sample_max_stack",
    "aux_sample_size",
)  # fmt: skip
_HEX = ("config1", "config3", "config4", "aux_action", "sig_data")


def bit_names(value: int, names: type[IntFlag]) -> list[str]:
    """Names of the bits set in `value`; bits without one as "bit N"."""
    known = {int(bit).bit_length() - 1: str(bit.name) for bit in names}
    return [known.get(bit, f"bit {bit}") for bit in bits_of(value)]


def type_text(number: int, pmus: Mapping[int, str]) -> str:
    """An attr's type by name; those that the ABI does not number by the PMU's, where it is known.

    pmus: names by type, as the recording's machine had them.
    """
    try:
        return PerfType(number).name
    except ValueError:
        return f"PMU {pmus[number]}" if number in pmus else "a PMU"


def config_text(attr: EventAttr, pmus: Mapping[int, str]) -> str:
    """config by the ABI's names where it has some, else in hexadecimal."""
    low = attr.config & 0xFFFFFFFF  # above it: the PMU's type on machines with several core PMUs
    table: dict[str, int] = {}
    if attr.type == PerfType.HARDWARE:
        table = eventnames.HARDWARE
    elif attr.type == PerfType.SOFTWARE:
        table, low = eventnames.SOFTWARE, attr.config
    named = next((name for name, number in table.items() if number == low), "")
    if attr.type == PerfType.HW_CACHE:
        named = _cache_name(low)
    if not named:
        return f"{attr.config:#x}"
    pmu = attr.config >> 32 if table is not eventnames.SOFTWARE else 0
    return f"{named} on PMU {pmus.get(pmu, pmu)}" if pmu else named


def register_names(attr: EventAttr, which: str) -> list[str]:
    """Registers asked for in set `which` ("intr" or "user") by sample_regs_*, as x86 names them."""
    raw = attr.sample_regs_intr if which == "intr" else attr.sample_regs_user
    general = canonical_gpr_mask(attr.dialect, attr.simd_enabled, raw)
    if not attr.simd_enabled:
        general &= _WITHOUT_SIMD
    names = [GPR_NAMES[bit] for bit in bits_of(general)]
    named = general.bit_count()
    halves = attr.legacy_xmm_mask(which)
    for register in range(16):
        both = halves >> 2 * register & 3
        if both:
            names.append(f"XMM{register}" + ("" if both == 3 else " (half)"))
    unnamed = raw.bit_count() - named - halves.bit_count()
    return [*names, f"{unnamed} bits without a name"] if unnamed > 0 else names


def describe(
    attr: EventAttr, *, x86: bool = True, pmus: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """Every field that is set, by its name in the ABI; values fit for JSON.

    x86: whether register masks may be told by x86's names; else they stay numbers. pmus: names by
    type, where the recording says them.
    """
    pmus = pmus or {}
    said: dict[str, Any] = {
        "type": attr.type, "type_name": type_text(attr.type, pmus), "size": attr.size,
        "config": attr.config, "config_name": config_text(attr, pmus),
        "sample_freq" if attr.flag(AttrFlag.FREQ) else "sample_period": attr.sample_period,
        "sample_type": attr.sample_type, "sample_type_names": bit_names(
            attr.sample_type, SampleType),
    }  # fmt: skip
    if attr.read_format:
        said["read_format"] = attr.read_format
        said["read_format_names"] = bit_names(attr.read_format, ReadFormat)
    said["flags"] = attr.flags
    said["flag_names"] = [name.lower() for name in bit_names(attr.flags, AttrFlag)]
    if attr.precise_ip:
        said["precise_ip"] = attr.precise_ip
        said["precise_ip_meaning"] = f"skid {_SKID[attr.precise_ip]}"
    if attr.type == PerfType.BREAKPOINT:
        said["bp_type"] = _BREAKPOINT.get(attr.bp_type, str(attr.bp_type))
    elif attr.bp_type:
        said["bp_type"] = attr.bp_type
    for name in (*_NUMBERS, *_HEX):
        if getattr(attr, name):
            said[name] = getattr(attr, name)
    if attr.branch_sample_type:
        said["branch_sample_type"] = attr.branch_sample_type
        said["branch_sample_type_names"] = [
            BRANCH_NAMES[bit] if bit < len(BRANCH_NAMES) else f"bit {bit}"
            for bit in bits_of(attr.branch_sample_type)
        ]
    if attr.flag(AttrFlag.USE_CLOCKID):
        said["clockid"] = attr.clockid
        said["clockid_name"] = CLOCK_NAMES.get(attr.clockid, f"clock {attr.clockid}")
    for which in ("user", "intr"):
        mask = getattr(attr, f"sample_regs_{which}")
        if mask:
            said[f"sample_regs_{which}"] = mask
            if x86:
                said[f"sample_regs_{which}_names"] = register_names(attr, which)
    if attr.simd != SimdRequest():
        said["simd"] = {
            name: getattr(attr.simd, name)
            for name in attr.dialect.fields if getattr(attr.simd, name)
        }  # fmt: skip
    if attr.tail:
        said["unknown_tail_bytes"] = len(attr.tail)
        if attr.tail.strip(b"\0"):
            said["unknown_tail"] = attr.tail.hex()
    return said


def _cache_name(config: int) -> str:
    numbers = (config & 0xFF, config >> 8 & 0xFF, config >> 16 & 0xFF)
    for name, (number, operations) in eventnames.CACHES.items():
        if number == numbers[0] and numbers[1] in operations and numbers[2] < 2:
            word = ("load", "store", "prefetch")[numbers[1]]
            many = ("loads", "stores", "prefetches")[numbers[1]]
            return f"{name}-{word}-misses" if numbers[2] else f"{name}-{many}"
    return ""
