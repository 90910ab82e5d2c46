"""What each event of a recording asked the kernel for, as the judge wants to know it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from perfxmm.coherence.context import EventContext
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.layout import X86_ARCHES
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, EGPR_MASK, SSP_MASK
from perfxmm.snapshots.batch import VERDICT_CLASSES

# PERF_COUNT_SW_CONTEXT_SWITCHES, _CPU_MIGRATIONS, _BPF_OUTPUT and _CGROUP_SWITCHES
# (include/uapi/linux/perf_event.h, Linux 7.3): what only happens inside the kernel.
_KERNEL_SOFTWARE_EVENTS = frozenset({3, 4, 10, 11})
# Bits of the vector masks from register 16 on.
_LOW_VECTORS = 16


def event_context(
    attr: EventAttr, name: str = "", arch: str = "x86_64", *, snapshots: bool = False,
    merged_proven: bool = True,
) -> EventContext:
    """What one event asked the kernel for, as the judge wants to know it.

    name: as recorded; numbers of dynamic PMUs say nothing, the name of one of them does.
    snapshots: its samples have images of the `nmi` source, which are the set `intr`; what was
        asked for, each of them says by itself.
    arch: the machine's name; masks of registers that are not x86's say nothing about classes.
    merged_proven: the kernel's release, or who called, says that an attr in M's layout is M's.
    """
    classes: dict[str, frozenset[str]] = {}
    for set_name, bit in (("intr", SampleType.REGS_INTR), ("user", SampleType.REGS_USER)):
        if attr.has(bit) and arch in X86_ARCHES:
            classes[set_name] = frozenset(_classes_asked(attr, set_name))
    if snapshots:
        classes["intr"] = frozenset(VERDICT_CLASSES)
    return EventContext(
        dialect=attr.dialect.name, precise_ip=attr.precise_ip,
        exclude_kernel=attr.flag(AttrFlag.EXCLUDE_KERNEL), simd_enabled=attr.simd_enabled,
        classes=classes, in_kernel=_in_kernel(attr, name),
        high_vectors=frozenset(_sets_with_high_vectors(attr)),
        sources={"intr": "nmi"} if snapshots else {},
        merged_proven=merged_proven or attr.dialect.name != "M",
    )  # fmt: skip


def asked_table(contexts: Sequence[EventContext]) -> dict[str, npt.NDArray[np.bool_]]:
    """Per set, bool [events, classes]."""
    return {
        name: np.array(
            [[c.asks(name, cls) for cls in VERDICT_CLASSES] for c in contexts], np.bool_
        ).reshape(len(contexts), len(VERDICT_CLASSES))
        for name in ("intr", "user")
    }


def _in_kernel(attr: EventAttr, name: str) -> bool:
    """Whether the event can only happen inside the kernel. Page faults and breakpoints happen at
    a user instruction; what is counted by hardware, and other PMUs, the sample's mode decides."""
    if attr.type == PerfType.SOFTWARE:
        return attr.config in _KERNEL_SOFTWARE_EVENTS
    return attr.type == PerfType.TRACEPOINT or name.startswith("kprobe/")


def _sets_with_high_vectors(attr: EventAttr) -> Iterator[str]:
    if attr.simd_enabled:
        masks = (
            ("intr", SampleType.REGS_INTR, attr.simd.vec_intr),
            ("user", SampleType.REGS_USER, attr.simd.vec_user),
        )
        for name, bit, mask in masks:
            if attr.has(bit) and mask >> _LOW_VECTORS:
                yield name


def _classes_asked(attr: EventAttr, name: str) -> Iterator[str]:
    gprs = attr.gpr_mask(name)
    if gprs & CLASSIC_GPR_MASK:
        yield "gpr"
    if gprs & EGPR_MASK:
        yield "egpr"
    if gprs & SSP_MASK:
        yield "ssp"
    if attr.legacy_xmm_mask(name):
        yield "xmm"
    if not attr.simd_enabled:
        return
    simd = attr.simd
    if simd.vec_intr if name == "intr" else simd.vec_user:
        for class_name, qwords in (("xmm", 2), ("ymm", 4), ("zmm", 8)):
            if simd.vec_qwords >= qwords:
                yield class_name
    if simd.pred_intr if name == "intr" else simd.pred_user:
        yield "opmask"
