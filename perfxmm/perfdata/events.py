"""Events of a recording and their names.

perf writes names into EVENT_DESC (files) or EVENT_UPDATE (pipes). A file without them gets the
names that perf would show for generic events, else one made from type and config.
Numbers: include/uapi/linux/perf_event.h, Linux 7.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType


@dataclass(frozen=True, slots=True)
class Event:
    """One event. attr_bytes: as in the file, attr.size long or more. attr_offset: in the file."""

    index: int
    name: str
    attr: EventAttr
    ids: tuple[int, ...]
    attr_bytes: bytes
    attr_offset: int


_HARDWARE = (
    "cycles", "instructions", "cache-references", "cache-misses", "branches", "branch-misses",
    "bus-cycles", "stalled-cycles-frontend", "stalled-cycles-backend", "ref-cycles",
)  # fmt: skip
_SOFTWARE = (
    "cpu-clock", "task-clock", "page-faults", "context-switches", "cpu-migrations",
    "minor-faults", "major-faults", "alignment-faults", "emulation-faults", "dummy", "bpf-output",
    "cgroup-switches",
)  # fmt: skip
_CACHES = ("L1-dcache", "L1-icache", "LLC", "dTLB", "iTLB", "branch", "node")
_CACHE_OPS = (("loads", "load-misses"), ("stores", "store-misses"),
              ("prefetches", "prefetch-misses"))  # fmt: skip


def event_name(attr: EventAttr, pmus: Mapping[int, str] | None = None) -> str:
    """A name from type, config and the exclude bits, as `perf script` of Linux 6.1 makes it.

    pmus: number -> name of the PMUs of the recorded machine. Where perf has only words for "not
    known" (other PMUs, tracepoints without tracing data) the name gives type and config.
    """
    base = _base_name(attr, pmus or {})
    mode = _modifiers(attr)
    if attr.type == PerfType.BREAKPOINT:
        mode = mode.removeprefix(":")
    elif attr.type == PerfType.TRACEPOINT or attr.type > PerfType.BREAKPOINT:
        mode = mode.rstrip("HG").rstrip(":")
    return base + mode


def _base_name(attr: EventAttr, pmus: Mapping[int, str]) -> str:
    # Above the low half of config stands the PMU's number on hybrid machines.
    pmu, low = attr.config >> 32, attr.config & 0xFFFFFFFF
    if attr.type == PerfType.HARDWARE and low < len(_HARDWARE):
        return f"{pmus.get(pmu, 'cpu')}/{_HARDWARE[low]}/" if pmu else _HARDWARE[low]
    if attr.type == PerfType.SOFTWARE and attr.config < len(_SOFTWARE):
        return _SOFTWARE[attr.config]
    if attr.type == PerfType.HW_CACHE:
        cache, op, result = low & 0xFF, low >> 8 & 0xFF, low >> 16 & 0xFF
        if cache < len(_CACHES) and op < len(_CACHE_OPS) and result < 2:
            return f"{_CACHES[cache]}-{_CACHE_OPS[op][result]}"
    if attr.type == PerfType.RAW:
        return f"raw {attr.config:#x}"
    if attr.type == PerfType.TRACEPOINT:
        return f"tracepoint:{attr.config}"
    if attr.type == PerfType.BREAKPOINT:
        # For a breakpoint config1 and bp_type are address and access; HW_BREAKPOINT_R, _W, _X in
        # include/uapi/linux/hw_breakpoint.h.
        access = "".join(letter for bit, letter in enumerate("rwx") if attr.bp_type >> bit & 1)
        return f"mem:{attr.config1:#x}:{access}"
    return f"{pmus.get(attr.type, f'type{attr.type}')}/config={attr.config:#x}/"


def _modifiers(attr: EventAttr) -> str:
    """":" and letters for what is counted where that is not perf's default; tools/perf/util/
    evsel.c. Without any other letter, H and G for host and guest are only given where the host is
    left out: Linux 6.1 and 7.3 do not agree on the rest.
    """
    levels = (
        (AttrFlag.EXCLUDE_KERNEL, "k"), (AttrFlag.EXCLUDE_USER, "u"), (AttrFlag.EXCLUDE_HV, "h")
    )  # fmt: skip
    letters = ""
    if any(attr.flag(bit) for bit, _ in levels):
        letters += "".join(letter for bit, letter in levels if not attr.flag(bit))
    letters += "p" * attr.precise_ip
    no_host, no_guest = attr.flag(AttrFlag.EXCLUDE_HOST), attr.flag(AttrFlag.EXCLUDE_GUEST)
    if no_host or (no_guest and letters):
        letters += "H" * (not no_host) + "G" * (not no_guest)
    return f":{letters}" if letters else ""
