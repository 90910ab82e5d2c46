"""Events of a recording and their names.

perf writes names into EVENT_DESC (files) or EVENT_UPDATE (pipes). A file without them gets the
names that perf would show for generic events, else one made from type and config.
Numbers: include/uapi/linux/perf_event.h, Linux 7.3.
"""

from __future__ import annotations

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


def event_name(attr: EventAttr) -> str:
    """A name from type, config and the exclude bits."""
    base = _base_name(attr)
    mode = _modifiers(attr)
    return f"{base}:{mode}" if mode else base


def _base_name(attr: EventAttr) -> str:
    low = attr.config & 0xFFFFFFFF  # above it: the PMU's type on hybrid machines
    if attr.type == PerfType.HARDWARE and low < len(_HARDWARE):
        return _HARDWARE[low]
    if attr.type == PerfType.SOFTWARE and attr.config < len(_SOFTWARE):
        return _SOFTWARE[attr.config]
    if attr.type == PerfType.HW_CACHE:
        cache, op, result = low & 0xFF, low >> 8 & 0xFF, low >> 16 & 0xFF
        if cache < len(_CACHES) and op < len(_CACHE_OPS) and result < 2:
            return f"{_CACHES[cache]}-{_CACHE_OPS[op][result]}"
    if attr.type == PerfType.RAW:
        return f"r{attr.config:x}"
    if attr.type == PerfType.TRACEPOINT:
        return f"tracepoint:{attr.config}"
    if attr.type == PerfType.BREAKPOINT:
        return f"mem:{attr.config1:#x}"
    return f"type{attr.type}/config={attr.config:#x}/"


def _modifiers(attr: EventAttr) -> str:
    out = ""
    hidden = [attr.flag(bit) for bit in (
        AttrFlag.EXCLUDE_USER, AttrFlag.EXCLUDE_KERNEL, AttrFlag.EXCLUDE_HV
    )]  # fmt: skip
    if hidden[0] or hidden[1]:
        # A third letter would say h, which perf leaves out unless asked for.
        out += "".join(letter for letter, off in zip("uk", hidden[:2], strict=True) if not off)
    return out + "p" * attr.precise_ip
