"""Every rule of source nmi: a snapshot on which it speaks, and one on which it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.batches import batch, register_set

from perfxmm.coherence import (
    RULES,
    EventContext,
    JudgeContext,
    Verdict,
    init_classes,
    judge,
    reason_names,
)
from perfxmm.coherence.rule import NMI
from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.registers import EGPR_MASK, GPR_ID, SSP_MASK
from perfxmm.perfdata.snapshotinfo import SnapshotFlag
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

IN_USE = 0xE7
GOOD = SnapshotFlag.PRESENT | SnapshotFlag.USER | SnapshotFlag.IN_NMI | SnapshotFlag.COMPACTED
ALL_COHERENT, ALL_UNKNOWN, ALL_FOREIGN = (
    (word,) * 5 for word in ("coherent", "unknown", "foreign")
)
VECTORS_UNKNOWN = ("coherent", *("unknown",) * 4)
VECTORS_FOREIGN = ("coherent", *("foreign",) * 4)
BEYOND_AX = (1 << GPR_ID["SP"]) | (1 << GPR_ID["IP"]) | EGPR_MASK | SSP_MASK
CONTEXT = JudgeContext(
    "nmi", "",
    (EventContext("L", classes={"intr": frozenset(VERDICT_CLASSES)}, in_kernel=True,
                  sources={"intr": "nmi"}),),
)  # fmt: skip


def intr(**changes: Any) -> RegisterSet:
    usual: dict[str, Any] = {
        "name": "intr", "registers": 32, "qwords": 8, "predicates": 8, "gpr_mask": BEYOND_AX,
        "xstate_bv": IN_USE, "asked_components": IN_USE,
    }  # fmt: skip
    return register_set(**(usual | changes))


def snapshot(flags: int = GOOD, set_changes: dict[str, Any] | None = None, **changes: Any) -> Any:
    return lambda: batch(intr(**(set_changes or {})), snapshot_flags=int(flags), **changes)


def judged(make: Callable[[], SnapshotBatch]) -> RegisterSet:
    samples = make()
    judge(samples, CONTEXT)
    return samples.sets["intr"]


def verdicts(registers: RegisterSet, row: int = 0) -> tuple[str, ...]:
    return tuple(Verdict(code).label for code in registers.verdict[row])


KERNEL_IP = 0xFFFFFFFF8101A60F
# Rule -> (where it speaks, what comes of it), and where it does not although it is near.
CASES: dict[str, tuple[tuple[Any, tuple[str, ...]], tuple[Any, tuple[str, ...]]]] = {
    "snapshot-of-user": (
        (snapshot(), ALL_COHERENT),
        (snapshot(GOOD & ~SnapshotFlag.USER, cpumode=CpuMode.KERNEL), ALL_FOREIGN),
    ),
    "snapshot-ip-match": (
        (snapshot(), ALL_COHERENT),
        (snapshot(ip=0x401137), ALL_UNKNOWN),
    ),
    "snapshot-init-state": (
        (snapshot(set_changes={"xstate_bv": 0x3}), ALL_COHERENT),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-unplaced": (
        (snapshot(GOOD | SnapshotFlag.UNPLACED), ALL_COHERENT),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-ip-differs": (
        (snapshot(ip=0x401137), ALL_UNKNOWN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-broken": (
        (snapshot(GOOD | SnapshotFlag.RESERVED), VECTORS_UNKNOWN),
        (snapshot(GOOD | SnapshotFlag.UNPLACED), ALL_COHERENT),
    ),
    "snapshot-not-in-nmi": (
        (snapshot(GOOD & ~SnapshotFlag.IN_NMI), ALL_UNKNOWN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-thread-differs": (
        (snapshot(GOOD | SnapshotFlag.THREAD_DIFFERS), ALL_UNKNOWN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-mode-differs": (
        (snapshot(cpumode=CpuMode.KERNEL), ALL_UNKNOWN),
        (snapshot(GOOD & ~SnapshotFlag.USER, cpumode=CpuMode.KERNEL), ALL_FOREIGN),
    ),
    "snapshot-cpumode-unknown": (
        (snapshot(cpumode=0), ALL_UNKNOWN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-need-fpu-load": (
        (snapshot(GOOD | SnapshotFlag.NEED_FPU_LOAD), VECTORS_FOREIGN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-of-kernel": (
        (snapshot(GOOD & ~SnapshotFlag.USER, cpumode=CpuMode.KERNEL), ALL_FOREIGN),
        (snapshot(cpumode=CpuMode.KERNEL), ALL_UNKNOWN),
    ),
    "snapshot-of-kernel-thread": (
        (snapshot(GOOD | SnapshotFlag.KERNEL_THREAD), ALL_FOREIGN),
        (snapshot(), ALL_COHERENT),
    ),
    "snapshot-idle": (
        (snapshot(pid=0, tid=0), ALL_FOREIGN),
        (snapshot(tid=0), ALL_COHERENT),
    ),
    "snapshot-guest": (
        (snapshot(cpumode=CpuMode.GUEST_USER), ALL_FOREIGN),
        (snapshot(cpumode=CpuMode.KERNEL), ALL_UNKNOWN),
    ),
    "snapshot-hypervisor": (
        (snapshot(cpumode=CpuMode.HYPERVISOR), ALL_FOREIGN),
        (snapshot(), ALL_COHERENT),
    ),
}  # fmt: skip
RULE_BY_NAME = {rule.name: rule for rule in RULES if rule.sources == NMI}


def test_every_rule_has_a_case_and_a_counter_example() -> None:
    # One that takes more than one snapshot is in test_staleness.
    assert set(CASES) | {"snapshot-stale"} == set(RULE_BY_NAME)


@pytest.mark.parametrize("name", list(CASES))
def test_a_rule_of_snapshots_speaks_and_is_silent(name: str) -> None:
    (speaks, then), (silent, otherwise) = CASES[name]
    reason = RULE_BY_NAME[name].reason
    found = judged(speaks)
    assert verdicts(found) == then
    assert reason in reason_names(found.reason[0])
    found = judged(silent)
    assert verdicts(found) == otherwise
    assert reason not in reason_names(found.reason[0])


@pytest.mark.parametrize("name", list(CASES))
def test_snapshots_in_a_mixed_batch_are_judged_as_alone(name: str) -> None:
    for make, then in CASES[name]:
        one = make()
        kinds = [(int(one.snapshot_flags[0]), int(one.cpumode[0]), int(one.ip[0]), one.pid[0],
                  one.tid[0], int(one.sets["intr"].xstate_bv[0]))]  # fmt: skip
        kinds.append((0, CpuMode.USER, 1, 5, 5, 0))
        kinds.append((int(GOOD | SnapshotFlag.KERNEL_THREAD), CpuMode.KERNEL, KERNEL_IP, 0, 0, 1))
        flags, modes, ips, pids, tids, bvs = (list(column) for column in zip(*kinds, strict=True))
        mixed = batch(
            intr(count=3, xstate_bv=bvs), snapshot_flags=np.array(flags, np.uint64), cpumode=modes,
            ip=np.array(ips, np.uint64), pid=pids, tid=tids,
        )  # fmt: skip
        judge(mixed, CONTEXT)
        assert verdicts(mixed.sets["intr"]) == then
        assert mixed.sets["intr"].reason[0] == judged(make).reason[0]
        # A sample without a snapshot is never believed.
        assert verdicts(mixed.sets["intr"], 1) == ALL_UNKNOWN


@pytest.mark.parametrize(
    "flag", [SnapshotFlag.RESERVED, SnapshotFlag.BV_BEYOND, SnapshotFlag.XCOMP_BV,
             SnapshotFlag.NOT_AS_ASKED, SnapshotFlag.HEADER_DIFFERS, SnapshotFlag.MXCSR]
)  # fmt: skip
def test_each_fault_of_an_image_costs_its_vectors(flag: SnapshotFlag) -> None:
    found = judged(snapshot(GOOD | flag))
    assert verdicts(found) == VECTORS_UNKNOWN
    # R16 to R31 and SSP come out of the image too.
    assert int(found.gpr_mask[0]) == 1 << GPR_ID["SP"] | 1 << GPR_ID["IP"]


def test_initial_classes_are_named() -> None:
    found = judged(snapshot(set_changes={"xstate_bv": 0x3}))
    assert int(init_classes(found)[0]) == 0b11100  # ymm, zmm, opmask


def test_what_was_not_asked_for_is_absent_by_each_samples_own_word() -> None:
    samples = batch(
        intr(count=2, asked_components=np.array([0x7, IN_USE], np.uint64),
             delivered_qwords=[4, 8], delivered_vectors=[16, 32], delivered_predicates=[0, 8]),
        snapshot_flags=int(GOOD),
    )  # fmt: skip
    judge(samples, CONTEXT)
    registers = samples.sets["intr"]
    assert verdicts(registers) == ("coherent", "coherent", "coherent", "absent", "absent")
    assert "not-asked" in reason_names(registers.reason[0])
    assert "not-delivered" not in reason_names(registers.reason[0])
    assert verdicts(registers, 1) == ALL_COHERENT


def test_an_image_left_out_is_absent_and_not_redacted_data() -> None:
    flags = GOOD | SnapshotFlag.NO_IMAGE
    found = judged(snapshot(flags, set_changes={"abi": 0, "ip": 0}))
    assert verdicts(found) == ("absent",) * 5
    assert "ip-differs" not in reason_names(found.reason[0])


def test_other_events_of_the_same_recording_keep_their_own_rules() -> None:
    plain = EventContext("M", simd_enabled=True, classes={"intr": frozenset({"gpr", "ymm"})})
    context = JudgeContext("", "", (CONTEXT.events[0], plain))
    samples = batch(
        intr(count=2, asked_components=np.array([IN_USE, 2**64 - 1], np.uint64),
             delivered_qwords=[8, 4], delivered_vectors=[32, 16], delivered_predicates=[8, 0]),
        snapshot_flags=np.array([int(GOOD), 0], np.uint64), event=[0, 1],
        cpumode=[CpuMode.USER, CpuMode.KERNEL],
    )  # fmt: skip
    judge(samples, context)
    registers = samples.sets["intr"]
    assert verdicts(registers) == ALL_COHERENT
    assert verdicts(registers, 1) == ("foreign", "foreign", "foreign", "absent", "absent")
