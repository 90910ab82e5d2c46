"""Recordings that a kernel with the merged ABI wrote: what may be believed of them.

The kernel ran in an emulator with a test PMU (no precise events, no guests): rules about those are
tested on written columns only, in test_rules.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.judging import expected, judged_batches

from perfxmm.coherence import Verdict, reason_names, scrub_foreign
from perfxmm.kernel.constants import CpuMode
from perfxmm.snapshots.batch import VERDICT_CLASSES, SnapshotBatch

COHERENT, LATE, FOREIGN = Verdict.COHERENT, Verdict.LATE, Verdict.FOREIGN
TRUTH = "kernel-truth.json"


@pytest.fixture(scope="module")
def simd(shared_data: Path) -> Path:
    return shared_data / "simd"


def one_batch(path: Path) -> SnapshotBatch:
    batches = [batch for batch in judged_batches(path) if len(batch)]
    assert len(batches) == 1
    return batches[0]


def by_mode(samples: SnapshotBatch, name: str) -> Counter[tuple[str, tuple[str, ...]]]:
    """(cpumode, verdict per class) -> samples."""
    return Counter(
        (CpuMode(int(mode)).name, tuple(Verdict(code).label for code in row))
        for mode, row in zip(samples.cpumode, samples.sets[name].verdict, strict=True)
    )


C, E, F, A = "coherent", "entry", "foreign", "absent"


def test_kernel_fpu_section_is_withheld(simd: Path) -> None:
    samples = one_batch(simd / "kernel-kernel-fpu-section.data")
    assert by_mode(samples, "intr") == {("KERNEL", (F,) * 5): 39}
    assert by_mode(samples, "user") == {("KERNEL", (E,) * 5): 39}
    intr, user = samples.sets["intr"], samples.sets["user"]
    # The kernel's marker is really in the file, and gone after scrubbing.
    assert (intr.vectors[:, 0] == np.uint64(0xFFFF_FFFF_FFFF_FFFF)).all()
    scrub_foreign(samples)
    assert not intr.vectors.any()
    assert not intr.predicates.any()
    assert not intr.gprs.any()
    assert (user.vectors == words(truth(simd)["fills"]["1"]["zmm"])).all()


def test_idle_task_shows_nobodys_registers(simd: Path) -> None:
    samples = one_batch(simd / "kernel-cpu-wide-idle.data")
    assert by_mode(samples, "intr") == {("USER", (C,) * 5): 12, ("KERNEL", (F,) * 5): 6}
    assert by_mode(samples, "user") == {("USER", (C,) * 5): 12, ("KERNEL", (A,) * 5): 6}
    idle = samples.pid == 0
    assert idle.sum() == 6
    intr = samples.sets["intr"]
    assert all("idle-task" in reason_names(bits) for bits in intr.reason[idle])
    # Another task's vectors are in these samples; after scrubbing they are not.
    assert intr.vectors[idle].any(axis=(1, 2)).all()
    scrub_foreign(samples)
    assert not intr.vectors[idle].any()


def test_zero_fill_outside_nmi_is_absent(simd: Path) -> None:
    samples = one_batch(simd / "kernel-not-in-nmi.data")
    for name in ("intr", "user"):
        assert by_mode(samples, name) == {("USER", (C, A, A, A, A)): 37}
        registers = samples.sets[name]
        assert not registers.vector_mask.any()
        assert not registers.delivered_predicates.any()
        assert all("not-collected" in reason_names(bits) for bits in registers.reason)


def test_user_set_of_kernel_mode_samples_is_entry(simd: Path) -> None:
    samples = one_batch(simd / "kernel-syscalls-kernel-allowed.data")
    assert by_mode(samples, "user") == {("USER", (C,) * 5): 8, ("KERNEL", (E,) * 5): 16}
    assert by_mode(samples, "intr") == {("USER", (C,) * 5): 8, ("KERNEL", (F,) * 5): 16}
    kernel = samples.cpumode == CpuMode.KERNEL
    user = samples.sets["user"]
    fill = words(truth(simd)["fills"]["3"]["zmm"])
    assert (user.vectors == fill).all()
    # BX and R12 to R15, which the kernel gives as all ones, are not registers of the snapshot.
    assert set(user.gpr_mask[kernel].tolist()) == {0x0F0FFD}
    assert set(user.gpr_mask[~kernel].tolist()) == {0xFF0FFF}


def test_skid_has_no_interrupt_registers(simd: Path) -> None:
    samples = one_batch(simd / "kernel-syscalls-skid-exclude-kernel.data")
    assert by_mode(samples, "intr") == {
        ("USER", (C, C, C, A, A)): 6, ("KERNEL", (A,) * 5): 14,
    }  # fmt: skip
    assert by_mode(samples, "user") == {
        ("USER", (C, C, C, A, A)): 6, ("KERNEL", (E, E, E, A, A)): 14,
    }  # fmt: skip
    skidded = samples.cpumode == CpuMode.KERNEL
    for name in ("intr", "user"):
        reasons = samples.sets[name].reason
        assert all("skid" in reason_names(bits) for bits in reasons[skidded])
        assert not any("skid" in reason_names(bits) for bits in reasons[~skidded])


def truth(simd: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((simd / TRUTH).read_text())
    return loaded


def words(registers: list[list[str]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array([[int(word, 16) for word in register] for register in registers], np.uint64)


# Recordings of a program that holds one fill of kernel-truth.json throughout.
FILLED = (
    "kernel-zmm-opmask-both-user", "kernel-syscalls-kernel-allowed",
    "kernel-syscalls-skid-exclude-kernel", "kernel-not-in-nmi", "kernel-kernel-fpu-section",
    "kernel-cpu-wide-idle",
)  # fmt: skip


@pytest.mark.parametrize("case", FILLED)
def test_coherent_registers_equal_the_programs_constants(simd: Path, case: str) -> None:
    known = truth(simd)
    about = known["cases"][case]
    fill = known["fills"][str(about["fill"])]
    vectors = words(fill["zmm"])
    opmasks = words([fill["k"]])[0]
    samples = one_batch(simd / f"{case}.data")
    compared = 0
    for registers in samples.sets.values():
        # The fill stands from the spin loop on, and the system call loop keeps it.
        held = np.zeros(len(samples), np.bool_)
        for loop in ("spin", "syscall_loop"):
            first, last = (int(place, 16) for place in about[loop])
            held |= (samples.ip >= first) & (samples.ip <= last)
        for column, name in enumerate(VERDICT_CLASSES):
            rows = np.flatnonzero((registers.verdict[:, column] == COHERENT) & held)
            for row in rows if name not in ("gpr", "opmask") else ():
                low, high = {"xmm": (0, 2), "ymm": (2, 4), "zmm": (4, 8)}[name]
                for number in range(32):
                    if not int(registers.vector_mask[row]) >> number & 1:
                        continue
                    if case == "kernel-cpu-wide-idle" and number == 0 and name == "xmm":
                        continue  # its compiler used xmm0
                    got = registers.vectors[row, number, low:high]
                    assert (got == vectors[number, low:high]).all(), (row, name, number)
                    compared += 1
            for row in rows if name == "opmask" else ():
                assert (registers.predicates[row] == opmasks).all(), row
                compared += 8
    if case not in ("kernel-not-in-nmi", "kernel-kernel-fpu-section"):
        assert compared > 0


def test_user_mode_constants_are_all_coherent(simd: Path) -> None:
    samples = one_batch(simd / "kernel-zmm-opmask-both-user.data")
    for name in ("intr", "user"):
        assert by_mode(samples, name) == {("USER", (C,) * 5): 39}
        registers = samples.sets[name]
        assert (registers.vectors == words(truth(simd)["fills"]["1"]["zmm"])).all()
        assert {reason_names(bits) for bits in registers.reason} == {("user-mode", "ip-match")}


def test_perf_made_recordings(simd: Path) -> None:
    zmm = one_batch(simd / "kernel-perf-record-zmm.data")
    user = by_mode(zmm, "user")
    assert user["USER", (C, C, C, C, A)] + user["USER", (C, A, A, A, A)] == 37
    assert sum(count for (mode, _), count in user.items() if mode == "KERNEL") == 3
    assert not any(
        mode == "KERNEL" and {"coherent", "late"} & set(row) for (mode, row) in user
    )
    ymm = one_batch(simd / "kernel-perf-record-ymm-kernel.data")
    intr = by_mode(ymm, "intr")
    assert intr["KERNEL", (A, F, F, A, A)] == 29
    assert sum(intr.values()) == 42


RECORDINGS = (
    "a-xmm-intr", "f-mixed-modes", "g-two-events", "i-o1-zmm-opmask-egpr-ssp",
    "j-r2-zmm-opmask-egpr-ssp", "kernel-cpu-wide-idle", "kernel-kernel-fpu-section",
    "kernel-not-in-nmi", "kernel-perf-record-ymm-kernel", "kernel-perf-record-zmm",
    "kernel-syscalls-kernel-allowed", "kernel-syscalls-skid-exclude-kernel",
    "kernel-zmm-opmask-both-user",
)  # fmt: skip


@pytest.mark.parametrize("name", RECORDINGS)
def test_nothing_outside_user_mode_is_shown_by_default(simd: Path, name: str) -> None:
    _, written = expected(simd / f"{name}.data")
    outside = inside = 0
    for samples in judged_batches(simd / f"{name}.data"):
        for registers in samples.sets.values():
            shown = np.isin(registers.verdict, [int(COHERENT), int(LATE)])
            kernel = samples.cpumode != CpuMode.USER
            assert not shown[kernel].any()
            outside += int(kernel.sum())
            inside += int((~kernel).sum())
            # A set without an abi word has nothing at all.
            assert (registers.verdict[registers.abi == 0] == Verdict.ABSENT).all()
    modes = Counter(sample["cpumode"] == "USER" for sample in written)
    sets = sum(name in written[0] or any(name in s for s in written) for name in ("intr", "user"))
    assert (inside, outside) == (modes[True] * sets, modes[False] * sets)


def test_generated_registers_with_an_ip_of_their_own_are_late(simd: Path) -> None:
    """The generator gave its register sets random IPs: they can be believed at those only."""
    samples = one_batch(simd / "a-xmm-intr.data")
    assert by_mode(samples, "intr") == {
        ("USER", ("late", "late", A, A, A)): 59,
        # All sixteen XMM drawn as zero: not to be told from a zero fill.
        ("USER", ("late", A, A, A, A)): 5,
    }


def test_generated_sets_that_contradict_each_other_are_unknown(simd: Path) -> None:
    """One XSAVES feeds both sets of a real sample; the generator drew them independently."""
    samples = one_batch(simd / "f-mixed-modes.data")
    user = (samples.cpumode == CpuMode.USER) & (samples.sets["user"].abi != 0)
    for registers in samples.sets.values():
        reasons = [reason_names(bits) for bits in registers.reason[user]]
        assert len(reasons) == 32
        assert all("twin-mismatch" in names for names in reasons)
        assert (registers.verdict[user, 0] == Verdict.UNKNOWN).all()
