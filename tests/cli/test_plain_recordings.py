"""Recordings without registers: every verb shows every sample, and an empty one is no error."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import inprocess
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

SHARED = {"perf.data.singleprocess-3.8": 13, "perf.data.raw-3.4": 441, "perf.data.branch-4.14": 13}


def written(tmp_path: Path, samples: int) -> Path:
    path = tmp_path / "perf.data"
    path.write_bytes(PerfFile(records=[w.comm(1), *(w.sample(t + 2) for t in range(samples))])
                     .build())  # fmt: skip
    return path


def check(path: Path, samples: int, tmp_path: Path) -> None:
    ran = inprocess.run("script", "-F", "ip", "-i", path)
    assert (ran.code, len(ran.out.splitlines())) == (0, samples)
    assert "hidden" not in ran.err
    ran = inprocess.run("export", "--format", "jsonl", "-i", path)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, len(rows)) == (0, samples)
    assert all(row["sets"] == {} for row in rows)
    assert "hidden" not in ran.err
    ran = inprocess.run("export", "--format", "csv", "-i", path)
    table = list(csv.reader(io.StringIO(ran.out)))
    assert (ran.code, len(table)) == (0, samples + 1 if samples else 0)
    output = tmp_path / "out.parquet"
    ran = inprocess.run("export", "--force", "-i", path, "-o", output)
    assert ran.code == 0, ran.err
    found = pq.read_table(output)
    assert found.num_rows == samples
    if samples:
        assert found["sets"].null_count == samples
        assert [f"{ip:#x}" for ip in found["ip"].to_pylist()] == [row["ip"] for row in rows]
        assert found["pid"].to_pylist() == [row["pid"] for row in rows]
    ran = inprocess.run("report", "--json", "-i", path)
    assert ran.code == 0
    assert sum(row["samples"] for row in json.loads(ran.out)["rows"]) == samples


@pytest.mark.parametrize("samples", [0, 1, 30])
def test_written_ones(samples: int, tmp_path: Path) -> None:
    check(written(tmp_path, samples), samples, tmp_path)


@pytest.mark.parametrize("name", SHARED)
def test_shared_ones(name: str, shared_data: Path, tmp_path: Path) -> None:
    check(shared_data / "perfdata" / name, SHARED[name], tmp_path)


def test_without_any_record(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(PerfFile(records=[]).build())
    check(path, 0, tmp_path)
    ran = inprocess.run("inspect", path)
    assert ran.code == 0
    assert "\nRecords: 0, 0 bytes\n" in ran.out
