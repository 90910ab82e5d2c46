"""The rules against a liar that knows where it lied: exact counts, through files.

Every word that is shown as coherent is compared with what the register held. scripts/bench/lies.py
does the same with real recordings and prints the figures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.dialect_lies import (
    CHANGES,
    PAIRS,
    changed_attr,
    damaged_headers,
    foreign_attr,
    shifted_header,
)
from support.liar import KINDS, Kind, places
from support.lie_check import file_of, fitted, look, score, sideband
from support.simd_writer import Shape, Truth, invented

from perfxmm.coherence import Verdict
from perfxmm.kernel.dialects import O1, O2, R2, R6, Dialect, L, M

SAMPLES = 400
TRACEABLE = [kind for kind in KINDS if not kind.traceless]
# kind -> reason that every caught lie carries, in the one set or the other
EXPECTED = {
    "kernel-mode": "kernel-mode|kernel-entry", "kernel-mode-overlay": "kernel-mode|kernel-entry",
    "live-as-user": "kernel-mode|live-as-user", "live-as-user-v6": "kernel-mode|kernel-entry",
    "skid-leak": "skid", "skid-leak-legacy": "skid", "idle-task": "idle-task",
    "idle-in-user-mode": "idle-task", "kernel-thread": "kernel-thread", "guest-user": "guest",
    "guest-kernel": "guest", "hypervisor": "hypervisor", "mode-unknown": "cpumode-unknown",
    "other-thread": "ip-differs", "stale-in-one-set": "twin-mismatch",
    "stale-in-one-set-v6": "twin-mismatch", "no-registers": "abi-none",
    "no-simd-block": "simd-missing", "not-in-nmi": "not-collected",
    "not-in-nmi-postings": "not-collected", "no-xmm-in-pebs": "legacy-zero",
    "torn-precise-o1": "mixed-sources", "torn-precise-r2": "mixed-sources",
    "torn-precise-r6": "mixed-sources", "torn-precise-o2": "mixed-sources",
    "torn-twin": "twin-mismatch", "torn-cut-payload": "payload-cut",
    "rotated-twin": "twin-mismatch", "stale": "stale-suspected",
}  # fmt: skip


@pytest.fixture(scope="module")
def truth() -> Truth:
    return invented(SAMPLES)


def test_every_kind_of_lie_is_expected_to_be_seen_by_something() -> None:
    assert set(EXPECTED) == {kind.name for kind in TRACEABLE}


@pytest.mark.parametrize("kind", TRACEABLE, ids=lambda kind: kind.name)
def test_lies_are_caught_and_the_truth_is_left_alone(
    kind: Kind, truth: Truth, tmp_path: Path
) -> None:
    found = score(kind, truth, tmp_path, share=0.1)
    assert found.lies >= 20
    assert (found.caught, found.alarms, found.untrue) == (found.lies, 0, 0)
    assert found.words > 0
    reasons = EXPECTED[kind.name].split("|")
    assert sum(found.by_reason.get(name, 0) for name in reasons) >= found.caught


@pytest.mark.parametrize("name", ["traceless-stale", "traceless-torn", "traceless-rotation"])
def test_lies_without_a_trace_are_what_rules_cannot_see(
    name: str, truth: Truth, tmp_path: Path
) -> None:
    """The measure measures: values that nothing gives away do show up as untrue."""
    kind = next(kind for kind in KINDS if kind.name == name)
    found = score(kind, truth, tmp_path)
    assert found.caught == 0
    assert found.untrue >= found.lies > 20


def shown_untrue(data: bytes, path: Path, truth: Truth, written: Dialect) -> tuple[int, int]:
    """Classes shown as coherent that hold an untrue word, and words shown."""
    found = look(data, path, fitted(truth, written, tuple(truth.sets)))
    return sum(int(untrue.sum()) for untrue in found.untrue.values()), found.words


# Readable whichever of these the attr claims: the samples say which it is.
TOLD_BY_SAMPLES = {
    (one.name, two.name) for one in (M, O1, O2, R2, R6) for two in (M, O1, O2, R6)
} | {("R2", "R2"), ("R6", "R2"), ("L", "L")}
WORDS = {"L": SAMPLES * 2 * (20 + 32), "low": SAMPLES * 2 * (20 + 16 * 8 + 8),
         "all": SAMPLES * 2 * (20 + 32 * 8 + 8)}  # fmt: skip


@pytest.mark.parametrize(("written", "claimed"), PAIRS, ids=lambda one: one.name)
def test_samples_of_one_dialect_under_the_attr_of_another(
    written: Dialect, claimed: Dialect, truth: Truth, tmp_path: Path
) -> None:
    untrue, words = shown_untrue(
        foreign_attr(truth, written, claimed), tmp_path / "x", truth, written
    )
    assert untrue == 0
    # Postings' vectors 16 to 31 are never shown.
    full = {"L": "L", "R2": "low", "R6": "low"}.get(written.name, "all")
    told = (written.name, claimed.name) in TOLD_BY_SAMPLES
    assert words == (WORDS[full] if told else 0)


@pytest.mark.parametrize("written", [M, O1, O2, R2, R6], ids=lambda one: one.name)
@pytest.mark.parametrize("name", list(CHANGES))
def test_an_attr_with_one_thing_wrong_shows_nothing(
    written: Dialect, name: str, truth: Truth, tmp_path: Path
) -> None:
    data = changed_attr(truth, written, CHANGES[name])
    assert shown_untrue(data, tmp_path / "x", truth, written) == (0, 0)


@pytest.mark.parametrize("written", [M, O1, R2, R6], ids=lambda one: one.name)
@pytest.mark.parametrize("words", [-4, -1, 1, 2, 4])
def test_words_too_many_or_too_few_show_nothing(
    written: Dialect, words: int, truth: Truth, tmp_path: Path
) -> None:
    data = shifted_header(truth, written, words)
    assert shown_untrue(data, tmp_path / "x", truth, written) == (0, 0)


@pytest.mark.parametrize("written", [M, O1, R2, R6], ids=lambda one: one.name)
def test_headers_with_any_number_in_them_show_nothing_untrue(
    written: Dialect, truth: Truth, tmp_path: Path
) -> None:
    for seed in range(3):
        data = damaged_headers(truth, written, np.random.default_rng(seed))
        untrue, words = shown_untrue(data, tmp_path / "x", truth, written)
        assert untrue == 0
        assert words < WORDS["all"] // 10


@pytest.mark.parametrize("dialect", [M, O1, R2, L], ids=lambda one: one.name)
def test_given_the_right_dialect_everything_is_shown(
    dialect: Dialect, truth: Truth, tmp_path: Path
) -> None:
    honest = fitted(truth, dialect, ("user", "intr"))
    data = foreign_attr(truth, dialect, dialect)
    found = look(data, tmp_path / "x", honest, dialect=dialect.name)
    assert not any(untrue.any() for untrue in found.untrue.values())
    columns = 2 if dialect is L else 5
    for verdict in found.verdict.values():
        assert (verdict[:, :columns] == Verdict.COHERENT).all()


def test_given_a_wrong_dialect_nothing_untrue_is_shown(truth: Truth, tmp_path: Path) -> None:
    for written in (M, O1, R2, R6):
        data = foreign_attr(truth, written, written)
        for given in ("L", "M", "O1", "O2", "R2", "R6"):
            found = look(data, tmp_path / "x", fitted(truth, written, ("user", "intr")), given)
            assert not any(untrue.any() for untrue in found.untrue.values()), (written, given)


def test_a_failed_twin_check_is_said_loudly(truth: Truth, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == "torn-twin")
    found = score(kind, truth, tmp_path)

    rng = np.random.default_rng(1)
    honest = fitted(truth, M, ("user", "intr"))
    lies = kind.tell(honest, places(SAMPLES, 0.1, rng), rng)
    notes = look(file_of(kind, lies.told, sideband()), tmp_path / "y", honest).notes
    loud = [note for note in notes if note.startswith("WARNING:")]
    assert len(loud) == 1
    assert f"in {found.lies} user-mode samples" in loud[0]
    assert "kernel release 7.4.0, dialect M" in loud[0]


def test_workers_that_hold_the_same_values_are_no_alarm(tmp_path: Path) -> None:
    """Threads of one program with the same constants, for some time: equal registers, no lie."""
    same = invented(SAMPLES, Shape(threads=6, names=("intr",)))
    one = same.sets["intr"]
    for phase in range(4):
        rows = slice(phase * 100, phase * 100 + 100)
        one.vectors[rows], one.predicates[rows] = one.vectors[phase * 100], one.predicates[
            phase * 100
        ]
    kind = next(kind for kind in KINDS if kind.name == "mode-unknown")
    found = score(kind, same, tmp_path, share=0.0)
    assert found.alarms == 0
