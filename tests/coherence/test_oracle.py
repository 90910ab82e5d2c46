"""The filter against a second, plain account of when a register may be believed.

The oracle looks at one sample at a time and knows no rules, masks or precedence: it only says
which conditions must all hold for `coherent`. The filter must agree in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import IP, batch, register_set, vector_values

from perfxmm.coherence import EventContext, JudgeContext, Verdict, judge
from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, GPR_IP
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet

ASKED = frozenset({"gpr", "ymm"})


@dataclass(frozen=True)
class Sample:
    """What decides, of one sample of one set (`user` or `intr`)."""

    cpumode: int
    pid: int
    tid: int
    ip_offset: int
    has_ip: bool
    abi: int
    zero: bool
    twin: str  # "none", "same", "other", "no-abi"
    stop_flags: int
    event: int


SAMPLES = st.lists(
    st.builds(
        Sample,
        # Mostly the combinations that are believed, so that single deviations decide.
        cpumode=st.sampled_from([2, 2, 2, 2, 0, 1, 3, 4, 5, 6]),
        pid=st.sampled_from([100, 100, 100, 0, -1]),
        tid=st.sampled_from([100, 100, 7]),
        ip_offset=st.sampled_from([0, 0, 0, 4]),
        has_ip=st.sampled_from([True, True, False]),
        abi=st.sampled_from([6, 6, 6, 5, 2, 4, 0]),
        zero=st.sampled_from([False, False, True]),
        twin=st.sampled_from(["none", "same", "same", "other", "no-abi"]),
        stop_flags=st.sampled_from(
            [1, 1, 1, 0, *(1 | int(flag) for flag in StopFlag if flag is not StopFlag.PRESENT)]
        ),
        event=st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
)
EVENTS = st.lists(
    st.builds(
        EventContext,
        dialect=st.sampled_from(["M", "M", "O1", "O2", "R2", "R6", "?"]),
        merged_proven=st.sampled_from([True, True, False]),
        precise_ip=st.sampled_from([0, 0, 1, 3]),
        exclude_kernel=st.booleans(),
        simd_enabled=st.just(True),
        classes=st.just({"user": ASKED, "intr": ASKED}),
        in_kernel=st.sampled_from([False, False, False, True]),
    ),
    min_size=2,
    max_size=2,
)


def columns(samples: list[Sample], name: str) -> RegisterSet:
    values = vector_values(len(samples), 16, 4)
    values[[sample.zero for sample in samples]] = 0
    masks = [
        CLASSIC_GPR_MASK if sample.has_ip else CLASSIC_GPR_MASK & ~(1 << GPR_IP)
        for sample in samples
    ]
    ips = np.array([IP + sample.ip_offset for sample in samples], np.uint64)
    abis = [sample.abi for sample in samples]
    return register_set(
        len(samples), name=name, vectors=values, gpr_mask=masks, ip=ips, abi=abis
    )


def twin_of(samples: list[Sample], first: RegisterSet, name: str) -> RegisterSet:
    twin = columns(samples, name)
    twin.gprs, twin.vectors = first.gprs.copy(), first.vectors.copy()
    for row, sample in enumerate(samples):
        if sample.twin == "other":
            twin.vectors[row, 9, 1] += np.uint64(1)
        if sample.twin == "no-abi":
            twin.abi[row] = 0
            twin.gpr_mask[row] = twin.delivered_vectors[row] = twin.delivered_qwords[row] = 0
            twin.vectors[row] = twin.vector_mask[row] = 0
    return twin


def believed(sample: Sample, event: EventContext, name: str, wide: bool, arch_pebs: bool,
             twins: bool) -> bool:  # fmt: skip
    """Whether the vectors of one pmu sample belong to its thread at its IP."""
    merged = event.dialect == "M" and event.merged_proven
    precise = event.precise_ip > 0
    return (
        sample.cpumode == CpuMode.USER
        and not event.in_kernel
        and sample.pid != 0
        and sample.tid != 7  # the kernel thread of this test
        and sample.abi in (5, 6)
        and not (sample.has_ip and sample.ip_offset)
        and not sample.zero
        and (
            merged or not precise
            # An overlay's PEBS record has XMM; what its user set has is not established.
            or (name == "intr" and (arch_pebs or not wide))
        )
        and not (twins and not precise and sample.twin == "other")
        and not (event.dialect == "R6" and name == "user" and not (twins and sample.twin == "same"))
    )


@settings(max_examples=150, deadline=None)
@given(SAMPLES, EVENTS, st.booleans(), st.sampled_from(["intr", "user"]), st.booleans())
def test_pmu_vectors_are_coherent_exactly_when_all_conditions_hold(
    samples: list[Sample], events: list[EventContext], arch_pebs: bool, name: str, twins: bool
) -> None:
    first = columns(samples, name)
    sets = [first]
    if twins:
        sets.append(twin_of(samples, first, "user" if name == "intr" else "intr"))
    found = batch(
        *sets, ip=IP, pid=[s.pid for s in samples], tid=[s.tid for s in samples],
        cpumode=[s.cpumode for s in samples], event=[s.event for s in samples],
    )  # fmt: skip
    context = JudgeContext(
        "pmu", "", tuple(events), arch_pebs=arch_pebs, kernel_tids=frozenset({7})
    )
    judge(found, context)
    for row, sample in enumerate(samples):
        for wide, column in ((False, "xmm"), (True, "ymm")):
            verdict = found.sets[name].verdict[row, VERDICT_CLASSES.index(column)]
            want = believed(sample, events[sample.event], name, wide, arch_pebs, twins)
            assert (verdict == Verdict.COHERENT) == want, (sample, column)


@settings(max_examples=100, deadline=None)
@given(SAMPLES, st.booleans())
def test_stops_are_coherent_exactly_when_all_conditions_hold(
    samples: list[Sample], in_kernel: bool
) -> None:
    found = batch(
        columns(samples, "user"), ip=IP, cpumode=[s.cpumode for s in samples],
        stop_flags=[s.stop_flags for s in samples],
    )  # fmt: skip
    asked = EventContext(
        "M", simd_enabled=True, classes={"user": ASKED}, in_kernel=in_kernel
    )
    judge(found, JudgeContext("sigtrap", "perf", (asked,)))
    for row, sample in enumerate(samples):
        flags = StopFlag(sample.stop_flags)
        spoiling = (
            StopFlag.ASYNC | StopFlag.SIGTRAP_BLOCKED | StopFlag.UNPAIRED | StopFlag.SYSCALL
            | StopFlag.GROUP_STOP
        )  # fmt: skip
        want = (
            bool(flags & StopFlag.PRESENT)
            and not flags & spoiling
            and sample.cpumode == CpuMode.USER
            and not in_kernel
            and (sample.has_ip or bool(flags & StopFlag.INTERRUPT))
            and not (sample.has_ip and sample.ip_offset)
            and sample.abi in (5, 6)
        )
        verdict = found.sets["user"].verdict[row, VERDICT_CLASSES.index("ymm")]
        assert (verdict == Verdict.COHERENT) == want, sample
