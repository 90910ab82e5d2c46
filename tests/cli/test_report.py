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
        "183", "6", "coherent",
    ]  # fmt: skip
    assert second.split()[4:6] == ["dot", "(app)"]
    assert done.err == "perfxmm: 4 snapshots, lanes counted as f64\n"


@pytest.mark.parametrize("sort", ["symbol", "dso", "comm", "tid", "ip"])
def test_json(recording: Path, sort: str) -> None:
    done = run("report", "-i", recording, "--json", "--sort", sort)
    found = json.loads(done.out)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found["total"] == 4
    assert found["sort"] == sort
    top = found["rows"][0]
    assert top["samples"] == (4 if sort == "dso" else 3)
    assert top["lanes"]["nan"] == 3
    assert top["share_low"] < top["share"] <= top["share_high"]
    assert found["account"] == {"seen": 4, "shown": 4, "hidden": {}, "withheld": {}, "lost": 0}
    assert found["complete"] is True


def test_views_change_what_is_counted(recording: Path) -> None:
    floats = json.loads(run("report", "-i", recording, "--json", "--view", "f32").out)
    assert floats["rows"][0]["lanes"]["lanes"] == 3 * 128
    auto = json.loads(run("report", "-i", recording, "--json", "--view", "auto").out)
    assert auto["elements"] == {"f64": 3, "u8": 1} or auto["elements"] == {"f64": 4}


def test_limit_and_filters(recording: Path) -> None:
    found = json.loads(run("report", "-i", recording, "--json", "--limit", "1").out)
    assert [row["symbol"] for row in found["rows"]] == ["axpy"]
    assert found["total"] == 4
    found = json.loads(run("report", "-i", recording, "--json", "--comm", "worker").out)
    assert [(row["symbol"], row["samples"]) for row in found["rows"]] == [("dot", 1)]


def test_nothing_to_show_is_said(recording: Path) -> None:
    done = run("report", "-i", recording, "--comm", "nobody")
    assert (done.code, done.out) == (0, "")
    assert done.err == "perfxmm: no snapshot to show\n"


def test_an_unknown_key_is_a_usage_error(recording: Path) -> None:
    done = run("report", "-i", recording, "--sort", "colour")
    assert done.code == 2
    assert done.err.splitlines() == [
        "perfxmm: no such sort key: colour", "  There are symbol, dso, comm, tid, ip.",
    ]  # fmt: skip


def test_a_narrow_terminal(recording: Path) -> None:
    done = run("report", "-i", recording, env={"COLUMNS": "80"})
    assert max(len(line.rstrip()) for line in done.out.splitlines()) <= 80
