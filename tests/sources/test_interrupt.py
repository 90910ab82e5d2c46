"""The engine without perf events: by request, and where perf_event_open is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.recorded import event, load, request
from support.workloads import symbol, workload

from perfxmm.errors import PermissionDenied, SyscallError
from perfxmm.kernel.constants import PerfType, RecordType
from perfxmm.kernel.registers import GPR_IP
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.sources.sigtrap import SigtrapSource
from perfxmm.xstate.components import classes_in
from perfxmm.xstate.cpuid import xgetbv

SOURCE = SigtrapSource()
TESTS = Path(__file__).resolve().parent.parent


def test_constants_and_flags(tmp_path: Path) -> None:
    if "ymm" not in classes_in(xgetbv() or 3):
        pytest.skip("this CPU has no ymm")
    program = workload("constants.c", "-mavx2")
    out = tmp_path / "a"
    result = SOURCE.record(
        request(out, program, "0.6", classes=("gpr", "xmm", "ymm"), hz=500, engine="interrupt")
    )
    assert result.exit_status == 0
    assert any("EINTR" in w for w in result.warnings)
    got = load(out)
    assert got.reader.metadata is not None
    assert got.reader.metadata.engine == "interrupt"
    assert len(got) > 100
    flags = got.column("stop_flags")
    assert ((flags & StopFlag.INTERRUPT) != 0).all()
    assert not (flags & StopFlag.UNPAIRED).any()
    assert (got.column("ip") == got.gpr(GPR_IP)).all()
    begin, end = symbol(program, "spin_begin") & 0xFFF, symbol(program, "spin_end") & 0xFFF
    low = got.column("ip") & np.uint64(0xFFF)
    chosen = (low >= begin) & (low < end)
    assert chosen.sum() > 0.8 * len(got)
    words = [[0xC0DE << 48 | r << 8 | q for q in range(4)] for r in range(16)]
    assert (got.registers("vectors")[chosen] == np.array(words, np.uint64)).all()
    assert set(got.column("period").tolist()) == {2_000_000}


def test_threads_and_children_are_told_of(tmp_path: Path) -> None:
    out = tmp_path / "a"
    result = SOURCE.record(
        request(out, workload("family.c"), "fork", hz=500, engine="interrupt")
    )
    assert result.exit_status == 4
    got = load(out)
    assert len(set(got.column("pid").tolist())) in (1, 2)  # the parent mostly waits
    assert got.counts[RecordType.FORK] == 1
    assert got.counts[RecordType.EXIT] == 2
    assert got.counts[RecordType.COMM] >= 1
    assert got.counts[RecordType.MMAP2] >= 3


def test_sleeping_threads_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "a"
    result = SOURCE.record(request(out, "sleep", "0.4", hz=1000, engine="interrupt"))
    assert result.exit_status == 0
    assert result.samples < 40


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    events = (event(hz=9000), event("cpu-clock", config=0, hz=10))
    result = SOURCE.record(request(tmp_path / "a", "true", events=events, engine="interrupt"))
    assert [w for w in result.warnings if "engine interrupt" in w][1:] == [
        "engine interrupt: the period is raised to 250000 ns",
        "engine interrupt samples one event: task-clock",
    ]


def deny_perf_event_open(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python script under a seccomp filter that answers perf_event_open with EPERM."""
    done = subprocess.run(
        [workload("deny.c"), "298", "1", sys.executable, "-c", script, f"{TESTS.parent}:{TESTS}",
         *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 125:
        pytest.skip("seccomp filters cannot be set here")
    return done


SCRIPT = (
    "import sys; sys.path[:0] = sys.argv[1].split(':');"
    "from support.recorded import request;"
    "from perfxmm.sources.sigtrap import SigtrapSource;"
    "r = SigtrapSource().record(request(*sys.argv[3:], engine=sys.argv[2], hz=500));"
    "print(r.warnings, r.exit_status)"
)


def test_falls_back_where_perf_events_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a"
    done = deny_perf_event_open(SCRIPT, "auto", str(out), workload("family.c"), "spin", "0.4")
    assert done.returncode == 0, done.stderr
    assert "perf events are refused here" in done.stdout
    got = load(out)
    assert got.result["engine"] == "interrupt"
    assert got.reader.metadata is not None
    assert got.reader.metadata.probes["perf_event_open"] == "EPERM"
    assert len(got) > 50


def test_engine_perf_does_not_fall_back(tmp_path: Path) -> None:
    done = deny_perf_event_open(SCRIPT, "perf", str(tmp_path / "a"), "true")
    assert PermissionDenied.__name__ in done.stderr
    assert "interrupt" in done.stderr  # the next step
    assert not (tmp_path / "a").exists()


def test_other_events_do_not_fall_back(tmp_path: Path) -> None:
    """A refused tracepoint is not replaced by time."""
    trace = event("sched:nothing", type=PerfType.TRACEPOINT, config=0xFFFFFF, sample_period=1)
    with pytest.raises(SyscallError, match="sched:nothing"):
        SOURCE.record(request(tmp_path / "a", "true", events=(trace,)))
