"""Vectors that a sample seems to have from another thread: a suspicion with its conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.batches import IP, batch, register_set, vector_values

from perfxmm.coherence import EventContext, JudgeContext, Verdict, judge, reason_names
from perfxmm.kernel.constants import CpuMode
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.vocabulary import SnapshotFlag

ASKED = {"intr": frozenset({"gpr", "zmm", "opmask"})}
TIDS = [1, 2, 1, 2, 1, 2]
STALE = 3  # thread 2's second sample, which follows one of thread 1


def samples(
    stale: int | None = STALE, tids: list[int] | None = None, **columns: Any
) -> SnapshotBatch:
    """Two threads in turn on one CPU, distinct values; `stale` has those of the sample before."""
    tids = tids or TIDS
    vectors, opmasks = vector_values(len(tids), 32, 8), np.arange(len(tids) * 8, dtype=np.uint64)
    opmasks = opmasks.reshape(-1, 8)
    if stale is not None:
        vectors[stale], opmasks[stale] = vectors[stale - 1], opmasks[stale - 1]
    ip = IP + np.arange(len(tids), dtype=np.uint64)
    made = batch(
        register_set(len(tids), name="intr", vectors=vectors, predicates=opmasks, ip=ip),
        ip=ip, pid=tids, tid=tids,
    )  # fmt: skip
    for name, value in columns.items():
        setattr(made, name, np.asarray(value, getattr(made, name).dtype))
    return made


def suspected(made: SnapshotBatch, source: str = "pmu") -> list[int]:
    judge(made, JudgeContext(source, "", (EventContext("M", simd_enabled=True, classes=ASKED),)))
    return [
        row for row, bits in enumerate(made.sets["intr"].reason)
        if "stale-suspected" in reason_names(bits)
    ]


def test_the_block_of_another_thread_is_suspected() -> None:
    made = samples()
    assert suspected(made) == [STALE]
    verdict = made.sets["intr"].verdict
    assert [Verdict(code).label for code in verdict[STALE]] == ["coherent"] + ["unknown"] * 4
    assert (np.delete(verdict, STALE, axis=0) == Verdict.COHERENT).all()
    assert suspected(samples(None)) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"ip": [IP] * 6}, {"cpu": [0, 0, 0, 1, 0, 0]}, {"cpu": [-1] * 6},
        {"tid": [1] * 6}, {"cpumode": [2, 2, 2, 1, 2, 2]},
    ],
    ids=["same-ip", "other-cpu", "no-cpu", "one-thread", "kernel-mode"],
)
def test_without_one_of_the_conditions_nothing_is_suspected(columns: dict[str, Any]) -> None:
    made = samples(**columns)
    if "ip" in columns:
        made.sets["intr"].gprs[:] = IP
    assert suspected(made) == []


def test_each_cpu_has_its_own_sample_before() -> None:
    made = samples(None, [1, 5, 2, 6, 1, 5, 2, 6], cpu=[0, 1] * 4)
    intr = made.sets["intr"]
    intr.vectors[4], intr.predicates[4] = intr.vectors[2], intr.predicates[2]
    assert suspected(made) == [4]


def test_what_a_thread_has_before_or_behind_explains_itself() -> None:
    """Workers of one program hold the same constants: nothing odd."""
    for own in (1, 5):
        made = samples()
        intr = made.sets["intr"]
        intr.vectors[own] = intr.vectors[STALE]
        assert suspected(made) == []
    # A thread with one sample only has nothing that would make it odd.
    assert suspected(samples(3, [1, 1, 1, 2, 1, 1])) == []


def test_next_to_nothing_is_not_suspected() -> None:
    made = samples()
    intr = made.sets["intr"]
    for row in (STALE - 1, STALE):
        intr.vectors[row] = 0
        intr.vectors[row, 9, :3] = [1, 2, 3]
    assert suspected(made) == []
    intr.vectors[[STALE - 1, STALE], 9, 3] = 4
    assert suspected(made) == [STALE]


@pytest.mark.parametrize("what", ["vectors", "predicates", "width", "mask"])
def test_one_difference_is_enough(what: str) -> None:
    made = samples()
    intr = made.sets["intr"]
    if what == "vectors":
        intr.vectors[STALE, 31, 7] += np.uint64(1)
    elif what == "predicates":
        intr.predicates[STALE, 7] += np.uint64(1)
    elif what == "width":
        intr.delivered_qwords[STALE] = 4
    else:
        intr.vector_mask[STALE] = 0xFFFF
    assert suspected(made) == []


def test_snapshots_of_source_nmi_are_looked_at_too() -> None:
    made = samples()
    flags = int(SnapshotFlag.PRESENT | SnapshotFlag.USER | SnapshotFlag.IN_NMI)
    made.snapshot_flags = np.full(len(made), flags, np.uint64)
    assert suspected(made, source="nmi") == [STALE]
    labels = [Verdict(code).label for code in made.sets["intr"].verdict[STALE]]
    assert labels == ["coherent", *["unknown"] * 4]


def test_stops_are_read_from_the_thread_itself() -> None:
    assert suspected(samples(), source="sigtrap") == []


def test_every_row_of_a_large_batch_is_found() -> None:
    rng = np.random.default_rng(4)
    count = 5000
    vectors = rng.integers(1, 1 << 62, (count, 16, 2), dtype=np.uint64)
    tid, cpu = rng.integers(1, 9, count), rng.integers(0, 4, count)
    ip = np.arange(count, dtype=np.uint64) * 4 + IP
    last: dict[int, int] = {}
    injected = []
    for row in range(count):
        before = last.get(int(cpu[row]), -1)
        if row % 50 == 49 and before >= 0 and tid[before] != tid[row]:
            vectors[row] = vectors[before]
            injected.append(row)
        last[int(cpu[row])] = row
    made = batch(
        register_set(count, name="intr", vectors=vectors, ip=ip), ip=ip, pid=tid, tid=tid,
        cpumode=CpuMode.USER,
    )  # fmt: skip
    made.cpu = cpu.astype(np.int32)
    assert suspected(made) == injected
    assert len(injected) == 87
