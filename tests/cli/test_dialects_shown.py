"""What a user is told of a recording's SIMD dialect, and how to overrule it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import inprocess
from support import simd_writer as sw
from support.simd_writer import Shape, invented

from perfxmm.kernel.dialects import O2, R2, R6, Dialect, M

COUNT = 6
R6_SAYS = (
    "the first 6 samples have u16 SIMD headers that fit dialect R6 (postings v6 and v7 (2026), "
    "never released), and not O1"
)


@pytest.fixture
def r6(tmp_path: Path) -> Path:
    return put(tmp_path, R6)


def put(folder: Path, dialect: Dialect, **more: object) -> Path:
    path = folder / "perf.data"
    truth = invented(COUNT, Shape(names=("intr",)))
    path.write_bytes(sw.recording(truth, dialect, **more))  # type: ignore[arg-type]
    return path


def test_inspect_says_what_overruled_the_attribute(r6: Path) -> None:
    ran = inprocess.run("inspect", "--json", r6)
    assert ran.code == 0
    (event,) = json.loads(ran.out)["events"]
    assert event["dialect"] == {
        "name": "R6", "title": "postings v6 and v7 (2026), never released",
        "evidence": "u16 at 144 is 1, vec_qwords 8 at 146", "confirmed": False,
        "confirmation": f"{R6_SAYS}; by its attribute alone it would be O1",
    }
    text = inprocess.run("inspect", r6).out
    assert "dialect        R6 (postings v6 and v7 (2026), never released)" in text


def test_script_says_which_dialect_and_why(r6: Path) -> None:
    ran = inprocess.run("script", "-i", r6)
    assert ran.code == 0
    assert f"event 0 (cycles): dialect R6 (postings v6 and v7 (2026), never released): {R6_SAYS}" \
        in ran.err  # fmt: skip
    assert ran.out.count("intr:coherent") == COUNT


def test_a_given_dialect_is_taken_as_given(r6: Path) -> None:
    ran = inprocess.run("inspect", "--json", "--dialect", "o1", r6)
    assert ran.code == 5
    found = json.loads(ran.out)
    said = found["events"][0]["dialect"]
    assert (said["name"], said["evidence"]) == ("O1", "it was given")
    assert said["confirmation"].startswith("given, though the first 6 samples have u16")
    assert len(found["damage"]) == COUNT
    right = inprocess.run("inspect", "--json", "--dialect", "R6", r6)
    assert right.code == 0
    assert json.loads(right.out)["events"][0]["dialect"]["confirmed"] is True


@pytest.mark.parametrize("verb", ["script", "report", "export"])
def test_verbs_take_a_dialect(verb: str, r6: Path) -> None:
    assert inprocess.run(verb, "-i", r6, "--dialect", "R6").code == 0
    damaged = inprocess.run(verb, "-i", r6, "--dialect", "M")
    assert damaged.code == 5
    wrong = inprocess.run(verb, "-i", r6, "--dialect", "Q7")
    assert wrong.code == 2
    assert "no such dialect: Q7" in wrong.err
    assert "There are L, M, O1, O2, R2, R6." in wrong.err


# release in the file | verdict of the upper halves of a precise event
PRECISE = [("7.4.0-rc0", "coherent"), ("7.3.0-rc3-next-20260909", "coherent"),
           ("7.1.0-intel", "torn"), ("", "torn")]  # fmt: skip


@pytest.mark.parametrize(("release", "upper"), PRECISE)
def test_ms_layout_alone_does_not_make_a_precise_event_coherent(
    release: str, upper: str, tmp_path: Path
) -> None:
    """The overlay of mid 2026 has the same layout and mixes sources: the release decides."""
    path = put(tmp_path, M, release=release, precise_ip=2)
    ran = inprocess.run("export", "-i", path, "--keep", "all")
    for line in ran.out.splitlines():
        verdict = json.loads(line)["sets"]["intr"]["verdict"]
        assert (verdict["xmm"], verdict["ymm"], verdict["zmm"], verdict["opmask"]) == (
            "coherent", upper, upper, upper
        )
    given = inprocess.run("export", "-i", path, "--keep", "all", "--dialect", "M")
    assert '"zmm":"coherent"' in given.out.replace(" ", "")
    overlay = inprocess.run("export", "-i", path, "--keep", "all", "--dialect", "O2")
    assert '"zmm":"torn"' in overlay.out.replace(" ", "")


def test_the_overlay_of_2026_is_known_by_what_the_merged_kernel_refuses(tmp_path: Path) -> None:
    truth = invented(COUNT, Shape(registers=4, qwords=4, predicates=0, names=("intr",)))
    truth.sets["intr"].abi[:] = 6
    path = tmp_path / "perf.data"
    path.write_bytes(sw.recording(truth, O2))
    (event,) = json.loads(inprocess.run("inspect", "--json", path).out)["events"]
    assert event["dialect"]["name"] == "O2"
    assert event["dialect"]["evidence"] == (
        "u16 at 144 is 1, pred_qwords 0 at 146; vec_intr 0xf is no whole class, which the merged "
        "kernel refuses"
    )


def test_vectors_that_the_postings_garble_are_not_shown(tmp_path: Path) -> None:
    ran = inprocess.run("export", "-i", put(tmp_path, R2))
    for line in ran.out.splitlines():
        vectors = json.loads(line)["sets"]["intr"]["vector"]
        assert [one is None for one in vectors] == [False] * 16 + [True] * 16


def test_completion_of_dialects() -> None:
    from perfxmm.cli.options import DIALECT_NAMES, complete_dialect
    from perfxmm.kernel.dialects import DIALECTS

    assert set(DIALECT_NAMES) == set(DIALECTS)
    assert complete_dialect("o") == ["O1", "O2"]
