"""A recording made with --redact values: no value in it, and statistics wherever values would be.

The program keeps lane l of vector register r at 0xC0DE00000000rrll. As doubles these are of no
kind that is counted; as floats their low halves are subnormal, or zero where r and l are.
"""

from __future__ import annotations

import csv
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.inprocess import run
from support.recorded import Recorded, load
from support.workloads import workload
from support.written_recording import Sample, write

import perfxmm
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.stopinfo import STATISTICS

# Such a word in the file, little-endian.
CONSTANT = re.compile(rb"[\x00-\x07][\x00-\x1f]\x00{4}\xde\xc0")
COLUMN = {name: number for number, name in enumerate(STATISTICS)}
NOT_TOLD = np.uint64(2**64 - 1)


def schema_of(name: str) -> jsonschema.Draft202012Validator:
    path = files("perfxmm.exports").joinpath(f"schema/perfxmm.{name}.1.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(redacted, its twin with values)."""
    folder = tmp_path_factory.mktemp("redacted")
    program = workload("constants.c", "-mavx2")
    made = folder / "redacted.data", folder / "values.data"
    for path, options in zip(made, (("--redact", "values"), ()), strict=True):
        done = run(
            "record", "-q", "--source", "sigtrap", "-F", "997", "--regs", "gpr,xmm,ymm",
            "-o", path, *options, "--", program, "0.4",
        )  # fmt: skip
        if done.code == 4:
            pytest.skip(done.err)
        assert done.code == 0, done.err
    return made


def column_of(recorded: Recorded) -> np.ndarray:
    """The statistics as the decoder gives them, of samples that have some."""
    column = np.concatenate([batch.extra["stats"] for batch in recorded.batches])
    return column[column[:, 0] != NOT_TOLD]


def total(column: np.ndarray, name: str) -> int:
    return int(column[:, COLUMN[name]].sum())


def summed(found: dict[str, Any]) -> dict[str, int]:
    kinds = ("lanes", "nan", "inf", "subnormal", "zero")
    return {kind: sum(row["lanes"][kind] for row in found["rows"]) for kind in kinds}


def test_no_value_is_in_the_file(recordings: tuple[Path, Path]) -> None:
    redacted, values = recordings
    assert len(CONSTANT.findall(values.read_bytes())) > 1000
    assert CONSTANT.search(redacted.read_bytes()) is None
    got = load(redacted)
    assert len(got) > 100
    assert not got.registers("abi").any()
    for name in ("gprs", "vectors", "gpr_mask", "vector_mask"):
        assert not got.registers(name).any(), name


def test_the_report_adds_up_what_was_recorded(recordings: tuple[Path, Path]) -> None:
    redacted, _ = recordings
    column = column_of(load(redacted))
    for options, element, per_word in (
        ((), "f64", 1), (("--lanes", "all"), "f64", 1), (("--view", "f32"), "f32", 2),
    ):  # fmt: skip
        done = run("report", "-i", redacted, "--json", *options)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        schema_of("report").validate(found)
        assert (found["view"], found["lanes"]) == (element, "all")
        assert found["total"] == found["account"]["shown"] == found["account"]["seen"]
        assert found["elements"] == {element: len(column)}
        assert summed(found) == {
            "lanes": per_word * total(column, "words"),
            **{kind: total(column, f"{element}_{kind}")
               for kind in ("nan", "inf", "subnormal", "zero")},
        }  # fmt: skip
        assert all(row["lanes"]["negative_zero"] is None for row in found["rows"])
        widest = column[column[:, COLUMN["words"]] != 0, COLUMN["widest_qwords"]]
        for name, qwords in (("none", 0), ("xmm", 2), ("ymm", 4)):
            assert found["widths"].get(name, 0) == np.count_nonzero(widest == qwords)
        assert found["rows"][0]["symbol"] == "spin_begin"
        assert found["rows"][0]["widest"] == "ymm"


def test_other_types_were_not_counted(recordings: tuple[Path, Path]) -> None:
    done = run("report", "-i", recordings[0], "--view", "i16")
    assert done.code == 0
    assert "lanes not counted as i16 when this was recorded (--view f64, --view f32)" in done.err
    done = run("report", "-i", recordings[0])
    assert (
        "all absent; statistics of all delivered registers, counted as f64 when this was recorded"
    ) in done.err
    assert "hidden" not in done.err


def test_exports_hold_statistics(recordings: tuple[Path, Path], tmp_path: Path) -> None:
    redacted, _ = recordings
    column = column_of(load(redacted))
    done = run("export", "-i", redacted)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    for row in rows:
        schema_of("snapshot").validate(row)
    sets = [row["sets"]["user"] for row in rows]
    assert {(s["ip"], len(s["gpr"]), len(s["vector"]), s["verdict"]["ymm"]) for s in sets} == {
        (None, 0, 0, "absent")
    }
    told = [s["stats"] for s in sets]
    for kind, name in (
        ("lanes", "words"), ("nan", "f64_nan"), ("inf", "f64_inf"),
        ("subnormal", "f64_subnormal"), ("zero", "f64_zero"),
    ):  # fmt: skip
        assert sum(one[kind] or 0 for one in told) == total(column, name)
    assert {one["negative_zero"] for one in told} == {None}
    assert run("script", "-i", redacted, "--json").out == done.out

    assert run("export", "-i", redacted, "-o", tmp_path / "a.parquet").code == 0
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["sets"]["user"]["stats"] for row in table] == told
    arrow = perfxmm.open(redacted).to_arrow().to_pylist()
    assert [row["sets"]["user"]["stats"] for row in arrow] == told
    lines = csv.DictReader(io.StringIO(run("export", "-i", redacted, "-f", "csv").out))
    for line, one in zip(lines, told, strict=True):
        assert {key: line[f"user.stats.{key}"] for key in one} == {
            key: "" if value is None else str(value) for key, value in one.items()
        }
        assert line["user.vector[0][0]"] == line["user.gpr.AX"] == ""


def test_script_prints_where_snapshots_fell(recordings: tuple[Path, Path]) -> None:
    redacted, _ = recordings
    done = run("script", "-i", redacted)
    lines = done.out.splitlines()
    assert len(lines) == 2 * len(load(redacted))
    assert all("user:absent" in line for line in lines[::2])
    assert set(lines[1::2]) == {"    redacted"}
    done = run("script", "-i", redacted, "-F", "ip,sym")
    assert "redacted" not in done.out


def test_filters_by_verdict_still_apply(recordings: tuple[Path, Path]) -> None:
    redacted, _ = recordings
    count = len(load(redacted))
    for verdict, shown in (("absent", count), ("coherent", 0), ("torn,absent", count)):
        done = run("report", "-i", redacted, "--verdict", verdict, "--json")
        assert json.loads(done.out)["total"] == shown
    # Which verdicts are kept says nothing of what has no values.
    assert sum(len(b) for b in perfxmm.open(redacted).snapshots(keep=("torn",))) == count


def test_the_twin_counts_the_same_registers(recordings: tuple[Path, Path]) -> None:
    """In the loop that keeps the constants, a sample of either has the same counts."""
    per_sample = []
    for path, options in zip(recordings, ((), ("--lanes", "all")), strict=True):
        for view in ("f64", "f32"):
            done = run("report", "-i", path, "-S", "spin_begin", "--sort", "ip", "--view", view,
                       "--json", *options)  # fmt: skip
            row = json.loads(done.out)["rows"][0]
            assert row["widest"] == "ymm"
            kinds = ("lanes", "nan", "inf", "subnormal", "zero")
            per_sample.append({kind: row["lanes"][kind] / row["samples"] for kind in kinds})
    assert per_sample[:2] == per_sample[2:]
    assert per_sample[0] == {"lanes": 64, "nan": 0, "inf": 0, "subnormal": 0, "zero": 0}
    assert per_sample[1] == {"lanes": 128, "nan": 0, "inf": 0, "subnormal": 63, "zero": 1}


def test_what_nobody_counted_is_null(tmp_path: Path) -> None:
    """Written bytes: a source that takes values out and counts nothing."""
    metadata = Metadata(source="pmu", engine="perf", dialect="M", redact="values")
    path = write(tmp_path / "perf.data", [Sample(abi=0)] * 3, metadata=metadata)
    nothing = {"view": "f64", "widest": None} | dict.fromkeys(
        ("lanes", "nan", "inf", "subnormal", "zero", "negative_zero")
    )
    rows = [json.loads(line) for line in run("export", "-i", path).out.splitlines()]
    for row in rows:
        schema_of("snapshot").validate(row)
    assert [row["sets"]["user"]["stats"] for row in rows] == [nothing] * 3
    arrow = perfxmm.open(path).to_arrow().to_pylist()
    assert [row["sets"]["user"]["stats"] for row in arrow] == [nothing] * 3
    found = json.loads(run("report", "-i", path, "--json").out)
    schema_of("report").validate(found)
    assert (found["total"], found["widths"], found["elements"]) == (3, {"unseen": 3}, {})
    # Where values were redacted for some snapshots only, those stay hidden: others show more.
    metadata = Metadata(source="sigtrap", engine="perf", dialect="M", redact="crypto")
    path = write(tmp_path / "crypto", [Sample(abi=0), Sample()], metadata=metadata)
    found = json.loads(run("report", "-i", path, "--json").out)
    assert (found["total"], found["account"]["hidden"]) == (1, {"absent": 1})
