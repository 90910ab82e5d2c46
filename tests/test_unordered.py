"""--unordered: the file's order instead of time's, with the names of the samples' own times."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from support import inprocess
from support import perfdata_writer as pw

import perfxmm
from perfxmm.perfdata import order, reader

# As two rings are drained one after the other: the first ring's records, then the second's.
FIRST = [(100, 1), (300, 1), (500, 1)]
SECOND = [(200, 1), (400, 1), (600, 1)]
ROUND = pw.record(pw.FINISHED_ROUND)


def named(time: int, tid: int, name: bytes) -> bytes:
    body = struct.pack("<II", tid, tid) + name.ljust(8, b"\0")
    return pw.record(pw.COMM, body + struct.pack("<IIQ", tid, tid, time))


def out_of_order(path: Path, *, rounds: bool = True) -> Path:
    """Thread 1 is `early` until 350, `late` from then on; the names stand behind all samples."""
    records = [pw.sample(time, pid=tid) for time, tid in (*FIRST, *SECOND)]
    records += [named(50, 1, b"early"), named(350, 1, b"late")]
    records += [ROUND, ROUND] if rounds else []
    path.write_bytes(pw.PerfFile(records=records).build())
    return path


@pytest.mark.parametrize("rounds", [True, False])
def test_the_files_order_and_the_names_of_each_time(tmp_path: Path, rounds: bool) -> None:
    recording = perfxmm.open(out_of_order(tmp_path / "perf.data", rounds=rounds))
    (batch,) = recording.snapshots(ordered=False)
    assert batch.time_ns.tolist() == [100, 300, 500, 200, 400, 600]
    names = [recording.comms[i] for i in batch.comm]
    assert names == ["early", "early", "late", "early", "late", "late"]
    (batch,) = recording.snapshots()
    assert batch.time_ns.tolist() == [100, 200, 300, 400, 500, 600]
    assert [recording.comms[i] for i in batch.comm] == ["early"] * 3 + ["late"] * 3


def test_batches_stay_bounded(tmp_path: Path) -> None:
    recording = perfxmm.open(out_of_order(tmp_path / "perf.data"))
    batches = list(recording.snapshots(ordered=False, batch_samples=2))
    assert [batch.time_ns.tolist() for batch in batches] == [[100, 300], [500, 200], [400, 600]]
    assert [recording.comms[i] for batch in batches for i in batch.comm][:3] == [
        "early", "early", "late"
    ]


def test_script(tmp_path: Path) -> None:
    path = out_of_order(tmp_path / "perf.data")
    asked = ("script", "-i", path, "-F", "comm,time")
    ordered, unordered = inprocess.run(*asked), inprocess.run(*asked, "--unordered")
    assert (ordered.code, unordered.code) == (0, 0)
    assert sorted(ordered.out.splitlines()) == sorted(unordered.out.splitlines())
    assert ordered.out != unordered.out
    assert [line.split()[0] for line in unordered.out.splitlines()] == [
        "early", "early", "late", "early", "late", "late"
    ]


def test_export(tmp_path: Path) -> None:
    path = out_of_order(tmp_path / "perf.data")
    done = inprocess.run("export", "-i", path, "--unordered")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["time_ns"] for row in rows] == [100, 300, 500, 200, 400, 600]


def test_report_counts_the_same(tmp_path: Path) -> None:
    path = out_of_order(tmp_path / "perf.data")
    asked = ("report", "-i", path, "--json", "--sort", "comm")
    found = [json.loads(inprocess.run(*asked, *more).out) for more in ((), ("--unordered",))]
    assert found[0]["rows"] == found[1]["rows"]
    assert {row["comm"]: row["samples"] for row in found[0]["rows"]} == {"early": 3, "late": 3}


def test_what_came_too_late_is_told(tmp_path: Path) -> None:
    """Against the rounds' promise: a sample older than what the round before handed out."""
    records = [pw.sample(100), pw.sample(200), ROUND, ROUND, pw.sample(50), pw.sample(300)]
    path = tmp_path / "perf.data"
    path.write_bytes(pw.PerfFile(records=records).build())
    recording = perfxmm.open(path)
    (batch,) = recording.snapshots()
    assert batch.time_ns.tolist() == [100, 200, 50, 300]
    (told,) = (note for note in recording.notes if "too late" in note)
    assert told.startswith("1 records came too late to be put in time order")
    assert "1,000,000 records or 64 MiB" in told
    assert "too late" in inprocess.run("script", "-i", path).err
    assert "too late" not in inprocess.run("script", "-i", path, "--unordered").err


def test_without_rounds_the_stated_window_orders(tmp_path: Path) -> None:
    """The newest first, as far apart as the window is wide, comes out in order."""
    window = 64
    times = list(range(window, 0, -1))
    path = tmp_path / "perf.data"
    path.write_bytes(pw.PerfFile(records=[pw.sample(time) for time in times]).build())
    within = reader.Reader(path)
    got = [
        int.from_bytes(block.record(row)[24:32], "little")
        for block in within.ordered_blocks(window_records=window)
        for row in range(len(block))
    ]
    assert got == sorted(times)
    assert within.unordered == 0


@pytest.mark.parametrize("verb", ["script", "report", "export"])
def test_the_window_is_stated_where_one_asks_for_it(verb: str) -> None:
    told = " ".join(inprocess.run(verb, "--help").out.split())
    assert "--unordered" in told
    assert f"{order.WINDOW_RECORDS:,} records or {order.WINDOW_BYTES >> 20} MiB" in told
