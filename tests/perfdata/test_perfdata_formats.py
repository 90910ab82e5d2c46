"""Formats of tracepoints in tracing data: written ones, and what perf keeps of this machine's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import snapshot_writer as sw

from perfxmm.kernel.traceformat import parse_format
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.tracing import (
    TracingError,
    encode_tracing_data,
    tracepoint_formats,
    tracepoint_names,
)

TEXT = sw.PLAIN.text()
TRACEFS = Path("/sys/kernel/tracing")


def test_formats_of_one_system() -> None:
    other = sw.Layout(number=9, name="other").text()
    data = sw.tracing_data([("sched", other), ("xsaves_nmi", TEXT), ("xsaves_nmi", other)])
    found = tracepoint_formats(data, 0, len(data), "xsaves_nmi")
    assert {n: f.name for n, f in found.items()} == {sw.NUMBER: "snapshot", 9: "other"}
    assert found[sw.NUMBER] == parse_format(TEXT, "xsaves_nmi")
    assert tracepoint_formats(data, 0, len(data), "nobody") == {}


def test_what_is_written_is_what_the_tests_write() -> None:
    made = encode_tracing_data(
        sw.HEADER_PAGE, b"# compressed entry header\n", {"xsaves_nmi": [TEXT]}
    )
    assert made == sw.tracing_data([("xsaves_nmi", TEXT)])
    assert tracepoint_names(made, 0, len(made)) == {sw.NUMBER: "xsaves_nmi:snapshot"}


def test_tracing_data_cut_anywhere_give_the_formats_or_none() -> None:
    data = sw.tracing_data([("xsaves_nmi", TEXT)])
    whole = tracepoint_formats(data, 0, len(data), "xsaves_nmi")
    end = data.index(TEXT) + len(TEXT)
    for cut in range(len(data)):
        if cut >= end:
            assert tracepoint_formats(data, 0, cut, "xsaves_nmi") == whole
        else:
            with pytest.raises(TracingError):
                tracepoint_formats(data, 0, cut, "xsaves_nmi")


def test_a_format_that_makes_no_sense_is_none() -> None:
    data = sw.tracing_data([("xsaves_nmi", TEXT.replace(b"ID: ", b"Id: "))])
    with pytest.raises(TracingError, match="no number"):
        tracepoint_formats(data, 0, len(data), "xsaves_nmi")


@pytest.mark.parametrize("form", ["file", "zstd", "pipe"])
def test_what_perf_keeps_is_what_tracefs_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    source = TRACEFS / "events/sched/sched_switch/format"
    try:
        text = source.read_bytes()
    except OSError:
        pytest.skip("tracefs cannot be read here")
    path = tmp_path / "perf.data"
    command = ["perf", "record", "-q", "-R", "-e", "sched:sched_switch", "-c", "1"]
    command += ["-z"] if form == "zstd" else []
    command += ["-o", "-" if form == "pipe" else str(path), "--", "sleep", "0.05"]
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("perf cannot record tracepoints here")
    if form == "pipe":
        path.write_bytes(made.stdout)
    monkeypatch.setattr("perfxmm.perfdata.snapshotinfo.SYSTEM", "sched")
    found = Reader(path).snapshot_formats
    expected = parse_format(text, "sched")
    assert found == {expected.number: expected}
