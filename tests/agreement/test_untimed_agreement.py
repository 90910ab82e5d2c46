"""Recordings without times: names hold from where they stand, and no time is made up."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from support import inprocess, perf_opinion
from support import perfdata_writer as w

import perfxmm

FIELDS = ("comm", "pid", "tid", "period", "event", "ip")


def comm(tid: int, name: bytes) -> bytes:
    body = struct.pack("<II", 1, tid) + name.ljust(8, b"\0") + struct.pack("<II", 1, tid)
    return w.record(w.COMM, body)


def sample(tid: int, ip: int) -> bytes:
    return w.record(w.SAMPLE, struct.pack("<QII", ip, 1, tid), misc=2)


def recording(tmp_path: Path) -> Path:
    made = w.PerfFile(
        attrs=[(w.attr(w.IP | w.TID, flags=w.SAMPLE_ID_ALL | 1 << 20), (7,))],
        records=[
            comm(1, b"first"), sample(1, 0x1000), sample(2, 0x1008), comm(1, b"second"),
            sample(1, 0x1010), w.record(w.EXIT, struct.pack("<IIIIQ", 1, 0, 2, 0, 77)),
            sample(0, 0x1018),
        ],
    )  # fmt: skip
    path = tmp_path / "untimed.data"
    path.write_bytes(made.build())
    return path


def test_names_by_place_and_no_time(tmp_path: Path) -> None:
    path = recording(tmp_path)
    wanted = [
        "first 1/1 1000 task-clock: 1000", ":2 1/2 1000 task-clock: 1008",
        "second 1/1 1000 task-clock: 1010", "swapper 1/0 1000 task-clock: 1018",
    ]  # fmt: skip
    assert perf_opinion.perfxmm_script(path, FIELDS).lines == wanted
    assert perf_opinion.from_columns(path, FIELDS) == wanted
    assert perf_opinion.from_export(path, FIELDS) == wanted
    timed = perf_opinion.perfxmm_script(path, ("tid", "time")).lines
    assert timed == ["1 -:", "2 -:", "1 -:", "0 -:"]


def test_exports_have_no_time(tmp_path: Path) -> None:
    path = recording(tmp_path)
    rows = inprocess.run("export", "--format", "jsonl", "-i", path, "-o", "-").out.splitlines()
    assert [json.loads(row)["time_ns"] for row in rows] == [None] * 4
    table = inprocess.run("export", "--format", "csv", "-i", path, "-o", "-").out.splitlines()
    place = table[0].split(",").index("time_ns")
    assert [line.split(",")[place] for line in table[1:]] == [""] * 4
    assert [batch.time_ns.tolist() for batch in perfxmm.open(path).snapshots()] == [[0] * 4]


def test_perf_says_the_same(tmp_path: Path) -> None:
    perf = perf_opinion.perf_or_skip()
    path = recording(tmp_path)
    said = perf_opinion.perf_script(perf, path)
    assert said.fields == FIELDS
    perf_opinion.compare(perf, path, said)
    assert len(said.lines) == 4
