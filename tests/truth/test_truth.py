"""Registers sampled from a self-checking program are what the program must have held.

The short form of scripts/bench/truth.py. It needs gcc, a CPU with AVX2 and FMA, perf_event_open and
ptrace; without one of them it skips and says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.judging import judged_batches
from truth.check import EXPECTED, check, labels
from truth.harness import NO_AVX2, build, check_file, record

from perfxmm.coherence import Verdict, class_counts, init_classes
from perfxmm.errors import PermissionDenied
from perfxmm.snapshots.batch import SnapshotBatch

ENOUGH = 2000


def cpu_flags() -> set[str]:
    text = Path("/proc/cpuinfo").read_text()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


WIDE = {"avx512f", "avx512bw"} <= cpu_flags()
WIDEST = ("gpr", "zmm", "opmask") if WIDE else ("gpr", "ymm")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the program with")
    binary = build(tmp_path_factory.mktemp("truth"))
    done = subprocess.run([binary, "0.05", "2"], capture_output=True, timeout=60, check=False)
    if done.returncode == NO_AVX2:
        pytest.skip("this CPU has no AVX2 and FMA")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wrong"] == 0
    return binary


@pytest.fixture(scope="module")
def recording(program: Path) -> Path:
    output = program.with_name("widest.data")
    try:
        result = record(program, output, seconds=1.5, hz=2999, classes=WIDEST)
    except PermissionDenied as error:
        pytest.skip(f"cannot sample here: {error}")
    assert result.exit_status == 0  # the program's own check passed while it was sampled
    return output


def test_no_coherent_register_is_wrong(program: Path, recording: Path) -> None:
    report = check_file(recording, program)
    for again in range(4):
        if report.coherent.checked >= ENOUGH:
            break
        # A loaded machine gives the program little time: go on until there are enough.
        output = recording.with_name(f"again-{again}.data")
        assert record(program, output, seconds=2, hz=2999, classes=WIDEST).exit_status == 0
        report.add(check_file(output, program))
    assert report.first_wrong == []
    assert (report.coherent.wrong, report.late.wrong) == (0, 0)
    assert report.coherent.checked >= ENOUGH
    # Far more samples lie in regions than between them, and every region was met.
    assert report.outside * 5 < report.coherent.checked
    assert set(report.regions) == {name for name in EXPECTED if WIDE or name != "avx512"}
    assert all(tally.checked > 0 for tally in report.regions.values())


@pytest.mark.parametrize("classes", [("gpr", "ymm"), ("gpr", "xmm")])
def test_narrower_classes(program: Path, recording: Path, classes: tuple[str, ...]) -> None:
    output = recording.with_name(f"{classes[1]}.data")
    result = record(program, output, seconds=0.4, hz=1999, classes=classes, threads=2)
    assert result.exit_status == 0
    report = check_file(output, program)
    assert report.first_wrong == []
    assert (report.coherent.wrong, report.late.wrong) == (0, 0)
    assert report.coherent.checked > 50


def test_interrupt_engine(program: Path, recording: Path) -> None:
    output = recording.with_name("interrupt.data")
    result = record(
        program, output, seconds=0.6, hz=499, classes=WIDEST, threads=2, engine="interrupt"
    )
    assert result.exit_status == 0
    report = check_file(output, program)
    assert report.first_wrong == []
    assert (report.coherent.wrong, report.late.wrong) == (0, 0)
    assert report.coherent.checked > 20


@pytest.fixture(scope="module")
def batch(recording: Path) -> SnapshotBatch:
    return max(judged_batches(recording), key=len)


def copied(batch: SnapshotBatch) -> SnapshotBatch:
    registers = batch.sets["user"]
    twin = replace(
        registers, vectors=registers.vectors.copy(), gprs=registers.gprs.copy(),
        verdict=registers.verdict.copy(), predicates=registers.predicates.copy(),
    )  # fmt: skip
    return replace(batch, ip=batch.ip.copy(), sets={"user": twin})


def test_one_flipped_bit_is_found(program: Path, batch: SnapshotBatch) -> None:
    """The checker can fail: one bit of one register of one sample."""
    places = labels(program)
    for region in EXPECTED:
        changed = copied(batch)
        inside = (batch.ip >= np.uint64(places[f"truth_{region}_begin"])) & (
            batch.ip < np.uint64(places[f"truth_{region}_end"])
        )
        if not inside.any():
            continue
        row = np.flatnonzero(inside)[-1]
        changed.sets["user"].vectors[row, 13, 3] ^= np.uint64(1 << 40)
        report = check([changed], places)
        assert (report.coherent.wrong, report.coherent.wrong_samples) == (1, 1), region
        assert f"{region} ip" in report.first_wrong[0]


def test_registers_of_the_neighbouring_sample_are_found(
    program: Path, batch: SnapshotBatch
) -> None:
    changed = copied(batch)
    registers = changed.sets["user"]
    registers.vectors = np.roll(registers.vectors, 1, axis=0)
    report = check([changed], labels(program))
    assert report.coherent.wrong_samples > report.coherent.checked // 2


def test_an_ip_one_instruction_off_is_found(program: Path, batch: SnapshotBatch) -> None:
    """Chains tell apart neighbouring instructions: the counter's own step is seen."""
    places = labels(program)
    labels_in_order = [places[f"truth_fma_{n}"] for n in ("begin", "1", "2", "3", "4", "5")]
    moved = 0
    for here, there in pairwise(labels_in_order):
        at = batch.ip == np.uint64(here)
        changed = copied(batch)
        changed.ip[at] = there
        report = check([changed], places)
        assert report.coherent.wrong_samples == int(at.sum())
        moved += int(at.sum())
    assert moved > 0


def test_what_is_withheld_is_not_counted(program: Path, batch: SnapshotBatch) -> None:
    changed = copied(batch)
    changed.sets["user"].verdict[:] = Verdict.ENTRY
    report = check([changed], labels(program))
    assert (report.coherent.checked, report.late.checked) == (0, 0)


def test_zeroed_registers_are_coherent_zeros(program: Path, batch: SnapshotBatch) -> None:
    """After vzeroall zero is a value (or the initial state), never absence."""
    places = labels(program)
    inside = (batch.ip >= np.uint64(places["truth_zero_begin"])) & (
        batch.ip < np.uint64(places["truth_zero_end"])
    )
    registers = batch.sets["user"]
    counts = class_counts(replace(registers, verdict=registers.verdict[inside]))
    assert set(counts["xmm"]) <= {Verdict.COHERENT, Verdict.LATE}
    assert inside.any()
    assert not registers.vectors[inside, :16].any()
    assert (registers.vector_mask[inside] & 0xFFFF == 0xFFFF).all()
    assert init_classes(registers).shape == (len(batch),)
