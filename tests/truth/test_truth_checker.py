"""The checker can fail: true recordings, and one thing changed in them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from truth.check import REGIONS, Report, check
from truth.harness import Program, batches, build, record
from truth.regions import MOST_THREADS, table

from perfxmm.coherence import Verdict
from perfxmm.errors import PermissionDenied
from perfxmm.kernel.registers import GPR_ID
from perfxmm.snapshots.batch import VERDICT_CLASSES, SnapshotBatch

R12, RBX = GPR_ID["R12"], GPR_ID["BX"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no gcc and binutils to build the programs with")
    made = build(tmp_path_factory.mktemp("checker"), "avx2")
    refused = made.cannot_run()
    if refused:
        pytest.skip(refused)
    return made


@pytest.fixture(scope="module")
def recorded(program: Program) -> SnapshotBatch:
    """One batch of a true recording of four threads."""
    for seconds in (1, 2, 4, 8, 16, 32):  # more time where the machine is busy
        output = program.binary.with_name(f"checker-{seconds}.data")
        try:
            record(program, output, seconds=seconds, hz=2999, classes=("gpr", "ymm"))
        except PermissionDenied as error:
            pytest.skip(f"cannot sample here: {error}")
        batch = max(batches(output), key=len)
        if len(batch) > 600:
            return batch
    raise AssertionError(f"{len(batch)} samples in {seconds} seconds")


@pytest.fixture
def batch(recorded: SnapshotBatch) -> SnapshotBatch:
    """The same, to be changed."""
    registers = recorded.sets["user"]
    twin = replace(
        registers, vectors=registers.vectors.copy(), gprs=registers.gprs.copy(),
        verdict=registers.verdict.copy(), predicates=registers.predicates.copy(),
    )  # fmt: skip
    return replace(recorded, ip=recorded.ip.copy(), sets={"user": twin})


def column(batch: SnapshotBatch, gpr: int) -> np.ndarray:
    registers = batch.sets["user"]
    return registers.gprs[:, registers.gpr_ids.index(gpr)]


def checked(batch: SnapshotBatch, program: Program) -> Report:
    return check([batch], program.name, program.places)


def inside(batch: SnapshotBatch, program: Program, region: str) -> np.ndarray:
    found = next(r for r in REGIONS[program.name] if r.name == region)
    return np.flatnonzero(found.find(batch.ip, program.places)[0])


def test_the_recording_is_true(batch: SnapshotBatch, program: Program) -> None:
    report = checked(batch, program)
    assert (report.false_coherent, report.first_wrong) == (0, [])
    assert report.coherent.checked + report.not_checked == len(batch)
    assert sorted(report.regions) == sorted(region.name for region in REGIONS["avx2"])


@pytest.mark.parametrize("region", [region.name for region in REGIONS["avx2"]])
@pytest.mark.parametrize(("word", "name"), [(0, "xmm"), (3, "ymm")])
def test_one_flipped_bit(
    batch: SnapshotBatch, program: Program, region: str, word: int, name: str
) -> None:
    row = inside(batch, program, region)[-1]
    batch.sets["user"].vectors[row, 13, word] ^= np.uint64(1 << 40)
    report = checked(batch, program)
    assert report.coherent.wrong == {name: 1}
    assert (report.coherent.wrong_samples, report.false_coherent) == (1, 1)
    assert report.first_wrong[0].startswith(f"{region} ip")
    assert f"13[{word}]" in report.first_wrong[0]


def test_a_general_register(batch: SnapshotBatch, program: Program) -> None:
    row = inside(batch, program, "avx2_const")[0]
    column(batch, GPR_ID["R9"])[row] += np.uint64(1)
    assert checked(batch, program).coherent.wrong == {"gpr": 1}


def test_the_next_samples_vectors(batch: SnapshotBatch, program: Program) -> None:
    registers = batch.sets["user"]
    registers.vectors = np.roll(registers.vectors, 1, axis=0)
    report = checked(batch, program)
    assert report.coherent.wrong_samples > report.coherent.checked * 0.9


def test_whole_snapshots_of_another_thread(batch: SnapshotBatch, program: Program) -> None:
    """They agree with their own IP: only that the thread has another number tells."""
    tids, counts = np.unique(batch.tid, return_counts=True)
    first, second = tids[np.argsort(counts)[-2:]]
    one, other = np.flatnonzero(batch.tid == first)[5], np.flatnonzero(batch.tid == second)[5]
    registers = batch.sets["user"]
    batch.ip[one] = batch.ip[other]
    registers.vectors[one], registers.gprs[one] = registers.vectors[other], registers.gprs[other]
    report = checked(batch, program)
    assert (report.strangers, report.coherent.wrong_samples) == (1, 0)
    assert report.false_coherent >= 1


def test_a_snapshot_from_earlier(batch: SnapshotBatch, program: Program) -> None:
    """A whole set of the thread's own past: the visit or the counter goes back."""
    const = inside(batch, program, "avx2_const")
    tid = batch.tid[const[0]]
    mine = const[batch.tid[const] == tid]
    mine = mine[np.argsort(batch.time_ns[mine])]
    registers = batch.sets["user"]
    old, new = mine[0], mine[-1]
    batch.ip[new] = batch.ip[old]
    registers.vectors[new], registers.gprs[new] = registers.vectors[old], registers.gprs[old]
    report = checked(batch, program)
    assert (report.disordered, report.coherent.wrong_samples) == (1, 0)
    assert report.false_coherent == 1


@pytest.mark.parametrize(
    ("region", "last"), [("avx2_fma", 5), ("avx2_int", 9)]
)
def test_an_ip_one_instruction_off(
    batch: SnapshotBatch, program: Program, region: str, last: int
) -> None:
    """Each instruction of these regions changes something: all IPs moved on by one are wrong.

    Interrupts come at some instructions only, those of the others find no samples to move.
    """
    names = ["begin", *(str(number) for number in range(1, last + 1))]
    at = [program.places[f"truth_{region}_{name}"] for name in names]
    own_ip = column(batch, GPR_ID["IP"])
    moved = np.isin(batch.ip, at[:-1])
    assert moved.any()
    following = dict(pairwise(at))
    batch.ip[moved] = [following[ip] for ip in batch.ip[moved].tolist()]
    own_ip[moved] = batch.ip[moved]
    # A zeroed register that is zeroed again is as it was: no other instruction repeats itself.
    zeroed = own_ip == program.places["truth_avx2_int_6"]
    same = moved & zeroed & (column(batch, RBX) > 0)
    report = checked(batch, program)
    assert report.coherent.wrong_samples == int(moved.sum()) - int(same.sum())


def test_an_ip_that_is_not_the_sets_own(batch: SnapshotBatch, program: Program) -> None:
    row = inside(batch, program, "avx2_const")[0]
    batch.ip[row] += np.uint64(4)
    assert checked(batch, program).coherent.wrong == {"gpr": 1}


def test_a_counter_beyond_its_bound(batch: SnapshotBatch, program: Program) -> None:
    row = inside(batch, program, "avx2_const")[0]
    column(batch, RBX)[row] = np.uint64(1 << 40)
    assert checked(batch, program).coherent.wrong == {"gpr": 1}


def test_a_thread_number_that_is_none(batch: SnapshotBatch, program: Program) -> None:
    row = inside(batch, program, "avx2_const")[0]
    column(batch, R12)[row] |= np.uint64(0xC0)
    report = checked(batch, program)
    assert report.coherent.wrong["gpr"] == 1
    assert report.coherent.wrong_samples == 1


@pytest.mark.parametrize("verdict", [Verdict.ENTRY, Verdict.UNKNOWN, Verdict.FOREIGN])
def test_what_is_withheld_is_not_counted(
    batch: SnapshotBatch, program: Program, verdict: Verdict
) -> None:
    batch.sets["user"].verdict[:] = verdict
    batch.sets["user"].vectors[:] = 0
    report = checked(batch, program)
    assert (report.coherent.checked, report.late.checked, report.not_checked) == (0, 0, 0)
    assert report.verdicts == {verdict.label: len(batch)}


def test_a_class_that_is_not_coherent_is_left_out(batch: SnapshotBatch, program: Program) -> None:
    """Only what the verdict vouches for is compared."""
    registers = batch.sets["user"]
    registers.verdict[:, VERDICT_CLASSES.index("ymm")] = Verdict.UNKNOWN
    registers.vectors[:, :, 2:] = 7
    report = checked(batch, program)
    assert report.false_coherent == 0
    assert report.coherent.words == {
        "gpr": report.coherent.checked * 4, "xmm": report.coherent.checked * 32,
    }  # fmt: skip


def test_late_registers_are_held_to_their_own_ip(batch: SnapshotBatch, program: Program) -> None:
    batch.sets["user"].verdict[:] = Verdict.LATE
    batch.ip[:] = 0x1234
    report = checked(batch, program)
    assert (report.coherent.checked, report.late.wrong_samples) == (0, 0)
    assert report.late.checked > len(batch) // 2


def test_constants_name_region_thread_register_and_word() -> None:
    """No two words of any region and thread are alike, so a mix-up of any kind is seen."""
    everything = np.concatenate(
        [
            table(region.number, np.arange(MOST_THREADS, dtype=np.uint64)).reshape(-1)
            for regions in REGIONS.values() for region in regions
        ]
    )  # fmt: skip
    assert len(np.unique(everything)) == len(everything)
    assert int(table(7, np.array([3], np.uint64))[0, 31, 5]) == 0x5A07_0300_1F05_BEEF


def test_region_numbers_are_unique() -> None:
    numbers = [region.number for regions in REGIONS.values() for region in regions]
    assert len(set(numbers)) == len(numbers)
