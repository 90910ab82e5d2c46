"""What leaves the filter: foreign values never, torn ones only in the part that can be trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import batch, register_set

from perfxmm.coherence import (
    EventContext,
    JudgeContext,
    Verdict,
    judge,
    kept_rows,
    scrub_foreign,
    withhold,
)
from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.registers import CLASSIC_GPR_MASK
from perfxmm.snapshots.batch import VERDICT_CLASSES, SnapshotBatch

ASKED = frozenset({"gpr", "zmm", "opmask"})
EVENT = EventContext("M", simd_enabled=True, classes={"user": ASKED, "intr": ASKED})
DEFAULT = (Verdict.COHERENT, Verdict.LATE)


def zmm_batch(cpumodes: list[int], **event: object) -> SnapshotBatch:
    count = len(cpumodes)
    sets = [
        register_set(count, name=name, registers=32, qwords=8, predicates=8)
        for name in ("intr", "user")
    ]
    samples = batch(*sets, cpumode=cpumodes)
    judge(samples, JudgeContext("pmu", "", (replace(EVENT, **event),)))  # type: ignore[arg-type]
    return samples


def test_foreign_values_are_gone_and_others_are_not() -> None:
    samples = zmm_batch([CpuMode.USER, CpuMode.KERNEL])
    before = samples.sets["user"].vectors.copy()
    scrub_foreign(samples)
    intr, user = samples.sets["intr"], samples.sets["user"]
    assert not intr.vectors[1].any()
    assert not intr.predicates[1].any()
    assert not intr.gprs[1].any()
    assert intr.vector_mask.tolist() == [0xFFFFFFFF, 0]
    assert intr.gpr_mask.tolist() == [CLASSIC_GPR_MASK, 0]
    assert intr.delivered_predicates.tolist() == [8, 0]
    assert intr.predicate_mask.tolist() == [0xFF, 0]
    assert (intr.verdict[1] == Verdict.FOREIGN).all()
    assert (user.vectors == before).all()
    assert (intr.vectors[0] == before[0]).all()


def test_columns_shared_between_sets_are_not_written_through() -> None:
    intr = register_set(2, name="intr", registers=32, qwords=8, predicates=8)
    user = register_set(2, registers=32, qwords=8, predicates=8)
    user.gpr_mask = intr.gpr_mask
    user.delivered_predicates = intr.delivered_predicates
    shared = intr.vectors
    shared.setflags(write=False)
    user.vectors = shared
    samples = batch(intr, user, cpumode=[CpuMode.USER, CpuMode.KERNEL])
    judge(samples, JudgeContext("pmu", "", (EVENT,)))
    scrub_foreign(samples)
    assert user.delivered_predicates.tolist() == [8, 8]
    assert user.vectors[1].any()
    assert not intr.vectors[1].any()


def test_a_torn_register_keeps_its_low_128_bits() -> None:
    samples = zmm_batch([CpuMode.USER], dialect="O1", precise_ip=1)
    intr = samples.sets["intr"]
    assert [Verdict(v).label for v in intr.verdict[0]] == [
        "coherent", "coherent", "torn", "torn", "torn",
    ]  # fmt: skip
    before = intr.vectors.copy()
    withhold(samples, DEFAULT)
    assert (intr.vectors[0, :16, :2] == before[0, :16, :2]).all()
    assert not intr.vectors[0, :, 2:].any()
    assert not intr.vectors[0, 16:].any()
    assert intr.delivered_qwords[0] == 2
    assert intr.vector_mask[0] == 0xFFFF
    assert intr.delivered_predicates[0] == 0
    assert intr.gpr_mask[0] == CLASSIC_GPR_MASK


def test_rows_are_kept_by_any_class_of_any_set() -> None:
    samples = zmm_batch([CpuMode.USER, CpuMode.KERNEL, CpuMode.GUEST_USER])
    assert kept_rows(samples, DEFAULT).tolist() == [True, False, False]
    assert kept_rows(samples, [Verdict.ENTRY]).tolist() == [False, True, False]
    assert kept_rows(samples, list(Verdict)).all()


MODES = st.lists(st.integers(0, 7), min_size=1, max_size=6)
CHOICES = st.sets(st.sampled_from(list(Verdict)))


@settings(max_examples=60, deadline=None)
@given(MODES, CHOICES, st.sampled_from(["M", "O1", "R2", "L", ""]), st.integers(0, 3))
def test_what_is_not_kept_cannot_be_read(
    modes: list[int], keep: set[Verdict], dialect: str, precise_ip: int
) -> None:
    samples = zmm_batch(modes, dialect=dialect, precise_ip=precise_ip)
    withhold(samples, keep)
    for registers in samples.sets.values():
        for row in range(len(modes)):
            kept = [
                name
                for name, code in zip(VERDICT_CLASSES, registers.verdict[row], strict=True)
                if Verdict(code) in keep
            ]
            words = registers.vectors[row]
            if "gpr" not in kept:
                assert not registers.gprs[row].any()
                assert registers.gpr_mask[row] == 0
            if "opmask" not in kept:
                assert not registers.predicates[row].any()
            if "zmm" not in kept:
                assert not words[16:].any()
                assert not words[:, 4:].any()
            if "ymm" not in kept and "zmm" not in kept:
                assert not words[:, 2:].any()
            if not {"xmm", "ymm", "zmm"} & set(kept):
                assert not words.any()
                assert registers.vector_mask[row] == 0


@settings(max_examples=60, deadline=None)
@given(MODES, st.sampled_from(["M", "O1", "R2", "L", ""]), st.integers(0, 3))
def test_only_user_mode_is_ever_coherent(modes: list[int], dialect: str, precise_ip: int) -> None:
    samples = zmm_batch(modes, dialect=dialect, precise_ip=precise_ip)
    outside = np.array(modes) != CpuMode.USER
    for registers in samples.sets.values():
        shown = np.isin(registers.verdict, [int(v) for v in DEFAULT])
        assert not shown[outside].any()
