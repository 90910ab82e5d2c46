"""The facade: judged, named, filtered, bounded batches; nothing hidden gets out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from support.written_recording import AXPY, DOT, Sample, program, write

import perfxmm
from perfxmm.analysis.filters import Filters
from perfxmm.analysis.shown import Policy
from perfxmm.coherence.verdicts import Verdict
from perfxmm.errors import UsageError
from perfxmm.recording import Recording

YMM = 2


@pytest.fixture
def mixed(tmp_path: Path) -> Recording:
    """Ten samples: even ones in axpy on thread 100, odd ones in dot on 101; the last is late."""
    samples = [Sample(DOT if n % 2 else AXPY, tid=100 + n % 2) for n in range(9)]
    samples.append(Sample(DOT, own_ip=AXPY + 8, tid=101))
    binary = program(tmp_path / "app")
    return perfxmm.open(write(tmp_path / "perf.data", samples, binary=binary, lost=3))


def rows(recording: Recording, **settings) -> int:
    return sum(len(batch) for batch in recording.snapshots(**settings))


def test_names_verdicts_and_values(mixed: Recording) -> None:
    (batch,) = mixed.snapshots()
    assert len(batch) == 10
    assert [mixed.comms[i] for i in batch.comm[:2]] == ["app", "worker"]
    assert [mixed.symbols[i] for i in batch.symbol[:2]] == ["axpy", "dot"]
    assert mixed.dsos[batch.dso[0]].endswith("/app")
    assert mixed.build_ids[batch.dso[0]] == ""
    user = batch.sets["user"]
    assert user.verdict[:9, :3].tolist() == [[Verdict.COHERENT] * 3] * 9
    assert user.verdict[9, :3].tolist() == [Verdict.LATE] * 3
    assert user.vectors[0, 0].tolist() == [0x3FF0000000000000] * 4
    assert user.vectors[0, 15].tolist() == [0x1111] * 4


def test_late_snapshots_are_attributed_to_their_own_ip(mixed: Recording) -> None:
    (batch,) = mixed.snapshots(keep=("late",))
    assert len(batch) == 1
    assert int(batch.ip[0]) == DOT
    assert mixed.symbols[batch.symbol[0]] == "axpy"
    assert int(batch.symbol_offset[0]) == 8


def test_the_account(mixed: Recording) -> None:
    assert rows(mixed, keep=("coherent",)) == 9
    account = mixed.account
    assert (account.seen, account.shown, dict(account.hidden)) == (10, 9, {"late": 1})
    assert account.lost == 3
    assert sum(n for key, n in account.kept.items() if key[:3] == ("user", "ymm", "coherent")) == 9
    # Reading once more counts afresh and does not feed the timeline twice.
    assert rows(mixed) == 10
    assert (mixed.account.seen, mixed.account.lost, len(mixed.comms)) == (10, 3, 2)


def test_batches_are_bounded(mixed: Recording) -> None:
    assert max(len(b) for b in mixed.snapshots(batch_samples=4)) <= 4
    assert rows(mixed, batch_samples=4) == 10


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (Filters(comms=frozenset({"worker"})), 5), (Filters(pids=frozenset({100})), 10),
        (Filters(pids=frozenset({1})), 0), (Filters(tids=frozenset({100})), 5),
        (Filters(symbols=frozenset({"dot"})), 4), (Filters(dsos=frozenset({"app"})), 10),
        (Filters(dsos=frozenset({"libc.so.6"})), 0),
        (Filters(start_ns=1_002_000_000, stop_ns=1_004_000_000), 3),
        (Filters(verdicts=frozenset({"late"})), 1),
        (Filters(comms=frozenset({"worker"}), verdicts=frozenset({"coherent"})), 4),
    ],
)  # fmt: skip
def test_filters(mixed: Recording, filters: Filters, count: int) -> None:
    assert rows(mixed, filters=filters) == count


def test_columns_that_were_not_asked_for_are_empty(mixed: Recording) -> None:
    (batch,) = mixed.snapshots(columns=["gprs"])
    user = batch.sets["user"]
    assert user.gprs.shape[0] == 10
    assert user.vectors.shape == (10, 0, 0)
    assert user.verdict[0, YMM] == Verdict.COHERENT
    with pytest.raises(ValueError, match="no such column: colour"):
        mixed.snapshots(columns=["colour"])
    with pytest.raises(ValueError, match="no such verdict: fine"):
        mixed.snapshots(keep=["fine"])


def test_initial_state_is_neither_data_nor_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample(words=(5, 6, 0, 0), xstate_bv=0b011)])
    from perfxmm.analysis.shown import initial

    (batch,) = perfxmm.open(path).snapshots()
    assert initial(batch.sets["user"])[0].tolist() == [False, False, True, False, False]
    assert batch.sets["user"].verdict[0, YMM] == Verdict.COHERENT


def test_arrow(mixed: Recording) -> None:
    table = mixed.to_arrow()
    assert table.num_rows == 10
    assert table.column("symbol").to_pylist()[:2] == ["axpy", "dot"]
    assert table.column("source").to_pylist()[0] == "sigtrap"


def test_a_recorder_that_was_killed_leaves_its_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()] * 5, finish=False)
    recording = perfxmm.open(path)
    assert rows(recording) == 5
    assert not recording.complete


def test_a_truncated_recording_delivers_what_is_there_and_says_where(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()] * 5, finish=False)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    recording = perfxmm.open(path)
    assert rows(recording) == 4
    assert len(recording.damage) == 1
    assert "cut short" in recording.damage[0].what


def test_there_has_to_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        perfxmm.open(tmp_path / "none")


def test_withheld_values_are_gone_from_public_batches(shared_data: Path) -> None:
    recording = perfxmm.open(shared_data / "simd" / "kernel-kernel-fpu-section.data")
    count = 0
    for batch in recording.snapshots(keep=("all",)):
        count += len(batch)
        intr, user = batch.sets["intr"], batch.sets["user"]
        foreign = intr.verdict[:, 1] == Verdict.FOREIGN
        assert foreign.any()
        assert not intr.vectors[foreign].any()
        assert not intr.gprs[foreign].any()
        assert not intr.vector_mask[foreign].any()
        assert not intr.predicates[foreign].any()
        assert user.vectors.any()
    assert count == 39
    seen = recording.snapshots(keep=("all",), unsafe_foreign=True)
    assert any(batch.sets["intr"].vectors.any() for batch in seen)


def _expected(path: Path) -> list[dict]:
    plain = path.with_suffix(".expected.jsonl")
    text = (
        plain.read_text() if plain.exists()
        else gzip.decompress(plain.with_name(plain.name + ".gz").read_bytes()).decode()
    )  # fmt: skip
    return [json.loads(line) for line in text.splitlines()][1:]


def test_user_mode_samples_of_the_kernel_are_coherent_and_right(shared_data: Path) -> None:
    path = shared_data / "simd" / "kernel-zmm-opmask-both-user.data"
    expected = {row["time"]: row for row in _expected(path)}
    recording = perfxmm.open(path)
    checked = 0
    for batch in recording.snapshots():
        for row in np.flatnonzero(batch.cpumode == 2):
            wanted = expected[int(batch.time_ns[row])]["intr"]["vectors"]
            intr = batch.sets["intr"]
            assert intr.verdict[row].tolist() == [Verdict.COHERENT] * 5
            assert [[f"{w:016x}" for w in r] for r in intr.vectors[row].tolist()] == wanted
            checked += 1
    assert checked == sum(row["cpumode"] == "USER" for row in expected.values()) > 30


def test_judged_batches_still_tell_what_was_delivered(shared_data: Path) -> None:
    recording = perfxmm.open(shared_data / "simd" / "kernel-kernel-fpu-section.data")
    for batch in recording.judged(Policy.of(["all"])):
        intr = batch.sets["intr"]
        assert (intr.delivered_qwords == 8).all()
        assert not intr.vectors[intr.verdict[:, 1] == Verdict.FOREIGN].any()


def test_samples_without_any_register_are_shown_as_they_are(shared_data: Path) -> None:
    """A plain perf recording: nothing was asked for, so nothing is withheld."""
    recording = perfxmm.open(shared_data / "perfdata" / "lpd.sleep.data")
    (batch,) = recording.snapshots()
    assert len(batch) == 7
    assert batch.sets == {}
    assert not recording.account.hidden
    assert recording.account.shown == 7
    filters = Filters(verdicts=frozenset({"coherent"}))
    assert rows(recording, filters=filters) == 0
    assert dict(recording.account.hidden) == {"absent": 7}

