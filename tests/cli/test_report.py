from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from support.inprocess import run
from support.written_recording import AXPY, DOT, Sample, program, write

SCHEMA = json.loads(files("perfxmm.exports").joinpath("schema/perfxmm.report.1.json").read_text())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    nan, subnormal = 0x7FF8000000000000, 1
    samples = [Sample(AXPY, words=(nan, subnormal, 0, 0))] * 3 + [Sample(DOT, tid=101)]
    return write(tmp_path / "perf.data", samples, binary=program(tmp_path / "app"))


def test_the_table(recording: Path) -> None:
    done = run("report", "-i", recording)
    assert done.code == 0
    first, second = done.out.splitlines()[1:]
    assert first.split() == [
        "75.00", "%", "30.1..95.4", "3", "axpy", "(app)", "ymm", "100", "%", "3", "0",
        "15", "6", "coherent",
    ]  # fmt: skip
    # AESENC has no element type.
    assert second.split()[4:12] == ["dot", "(app)", "xmm", "100", "%", "0", "0", "0"]
    assert done.err == (
        "perfxmm: 4 snapshots, all coherent; lanes of the registers each instruction reads, "
        "counted by its own element type (f64 3); not counted: 1 at instructions of no one element "
        "type\n"
    )


def test_all_registers(recording: Path) -> None:
    done = run("report", "-i", recording, "--lanes", "all")
    assert done.out.splitlines()[1].split()[6:13] == ["ymm", "100", "%", "3", "0", "183", "6"]
    assert done.err == (
        "perfxmm: 4 snapshots, all coherent; lanes of all registers, counted as f64\n"
    )


@pytest.mark.parametrize("sort", ["symbol", "dso", "comm", "pid", "tid", "ip"])
def test_json(recording: Path, sort: str) -> None:
    done = run("report", "-i", recording, "--json", "--sort", sort)
    found = json.loads(done.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found["total"] == 4
    assert found["sort"] == sort
    top = found["rows"][0]
    assert top["samples"] == (4 if sort in ("dso", "pid") else 3)
    assert top["lanes"]["nan"] == 3
    assert top["share_low"] < top["share"] <= top["share_high"]
    assert found["account"] == {
        "seen": 4, "shown": 4, "hidden": {}, "withheld": {}, "lost": 0, "throttled": 0,
    }  # fmt: skip
    assert found["lanes"] == "used"
    assert found["widths"] == {"xmm": 1, "ymm": 3}
    assert found["complete"] is True


def test_views_change_what_is_counted(recording: Path) -> None:
    def counted(*options: str) -> dict:
        return json.loads(run("report", "-i", recording, "--json", *options).out)

    assert counted()["elements"] == {"f64": 3, "unknown": 1}
    assert counted()["rows"][0]["lanes"]["lanes"] == 3 * 2 * 4
    floats = counted("--view", "f32")
    assert floats["elements"] == {"f32": 4}
    assert [row["lanes"]["lanes"] for row in floats["rows"]] == [3 * 2 * 8, 2 * 4]
    everything = counted("--lanes", "all", "--view", "f32")
    assert everything["rows"][0]["lanes"]["lanes"] == 3 * 128
    everything = counted("--lanes", "all", "--view", "auto")
    assert everything["elements"] == {"f64": 3, "unknown": 1}
    assert [row["lanes"]["lanes"] for row in everything["rows"]] == [3 * 64, 0]


def test_a_process_is_not_its_threads(recording: Path) -> None:
    by_process = json.loads(run("report", "-i", recording, "--json", "-s", "pid").out)
    assert by_process["sort"] == "pid"
    assert [(r["pid"], r["tid"], r["samples"]) for r in by_process["rows"]] == [(100, None, 4)]
    by_thread = json.loads(run("report", "-i", recording, "--json", "-s", "thread").out)
    assert [(r["tid"], r["samples"]) for r in by_thread["rows"]] == [(100, 3), (101, 1)]


def test_limit_and_filters(recording: Path) -> None:
    found = json.loads(run("report", "-i", recording, "--json", "--limit", "1").out)
    assert [row["symbol"] for row in found["rows"]] == ["axpy"]
    assert found["total"] == 4
    found = json.loads(run("report", "-i", recording, "--json", "--comm", "worker").out)
    assert [(row["symbol"], row["samples"]) for row in found["rows"]] == [("dot", 1)]


def test_nothing_to_show_is_said(recording: Path) -> None:
    done = run("report", "-i", recording, "--comm", "nobody")
    assert (done.code, done.out) == (0, "")
    assert done.err == "perfxmm: no snapshot matches the filters\n"


def test_an_unknown_key_is_a_usage_error(recording: Path) -> None:
    done = run("report", "-i", recording, "--sort", "colour")
    assert done.code == 2
    assert done.err.splitlines() == [
        "perfxmm: no such sort key: colour",
        "  There are symbol, dso, comm, pid, tid, ip, srcline.",
    ]


def test_a_narrow_terminal(recording: Path) -> None:
    done = run("report", "-i", recording, env={"COLUMNS": "80"})
    assert len(done.out.splitlines()) == 3
    assert max(len(line.rstrip()) for line in done.out.splitlines()) <= 80


def test_the_account_is_a_small_bar(tmp_path: Path) -> None:
    from support.witness_recording import Shot
    from support.witness_recording import write as write_witnessed

    path = write_witnessed(tmp_path, [
        *([Shot(3)] * 6), Shot(5, change={"ax": 1}), Shot(5, change={"ax": 2}),
        Shot(0, 3, own_at=3),
    ])  # fmt: skip
    done = run("report", "-i", path)
    assert done.err.splitlines()[1:] == [
        "perfxmm:   kept     #############        6 coherent",
        "perfxmm:   kept     ##                   1 late",
        "perfxmm:   withheld ####                 2 unknown: code-contradicted 2",
        "perfxmm: 2 of 9 snapshots hidden (2 unknown); --keep unknown shows them",
    ]
    # Where nothing is withheld, the line below the table says all there is to say.
    done = run("report", "-i", path, "--no-code-checks")
    assert done.err.splitlines()[1:] == []
    assert run("report", "-i", path, "--json").err.splitlines() == [
        "perfxmm: 2 of 9 snapshots hidden (2 unknown); --keep unknown shows them",
    ]
