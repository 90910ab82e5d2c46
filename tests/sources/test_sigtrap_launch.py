"""Launching and sampling real programs: every register exact, every process followed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.recorded import event, load, request
from support.workloads import symbol, workload

from perfxmm.errors import NotSupported, OutputError, UsageError
from perfxmm.kernel.constants import AttrFlag, PerfType, RecordType, SampleType
from perfxmm.kernel.registers import GPR_IP
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.stopinfo import STATISTICS, StopFlag
from perfxmm.sources.sigtrap import SigtrapSource
from perfxmm.xstate.components import classes_in
from perfxmm.xstate.cpuid import xgetbv

SOURCE = SigtrapSource()
HERE = classes_in(xgetbv() or 3)
YMM = ("gpr", "xmm", "ymm")
WIDE = (*YMM, "zmm", "opmask")


def constants(registers: int, qwords: int) -> np.ndarray:
    return np.array(
        [[0xC0DE << 48 | r << 8 | q for q in range(qwords)] for r in range(registers)], np.uint64
    )


def in_loop(program: str, ips: np.ndarray) -> np.ndarray:
    """Which addresses lie in the loop that holds the constants (by page offset: PIE)."""
    begin, end = symbol(program, "spin_begin") & 0xFFF, symbol(program, "spin_end") & 0xFFF
    return (ips & np.uint64(0xFFF) >= begin) & (ips & np.uint64(0xFFF) < end)


@pytest.mark.parametrize(
    ("classes", "flags", "registers", "qwords"),
    [(("gpr", "xmm"), ("-mavx2",), 16, 2), (YMM, ("-mavx2",), 16, 4),
     (WIDE, ("-mavx2", "-DWIDE"), 32, 8)],
)  # fmt: skip
def test_constants_read_back_exactly(
    tmp_path: Path, classes: tuple[str, ...], flags: tuple[str, ...], registers: int, qwords: int
) -> None:
    missing = set(classes) - {"gpr", *HERE}
    if missing:
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    program = workload("constants.c", *flags)
    out = tmp_path / "out.data"
    result = SOURCE.record(request(out, program, "0.4", "4", hz=1000, classes=classes))
    assert result.exit_status == 0  # the program found its own registers unharmed
    assert result.lost == 0
    assert result.warnings == []
    got = load(out)
    assert got.reader.complete
    assert len(got) == result.samples + got.result["bare_samples"]
    assert result.samples > 1000
    # libc blocks signals for a moment around a thread's start and end: such samples come late, or
    # without registers. There are few of them.
    there = got.registers("abi") != 0
    prompt = there & (got.column("stop_flags") == int(StopFlag.PRESENT))
    assert prompt.sum() > 0.99 * len(got)
    chosen = in_loop(program, got.gpr(GPR_IP)) & there
    assert chosen.sum() > 0.95 * len(got)
    assert (got.registers("vectors")[chosen] == constants(registers, qwords)).all()
    if "opmask" in classes:
        masks = np.array([0x0101010101010100 + k for k in range(8)], np.uint64)
        assert (got.registers("predicates")[chosen] == masks).all()
    # Zero skid: the event's IP is the stop's.
    assert (got.column("ip") == got.gpr(GPR_IP))[prompt].all()
    assert len(set(got.column("tid").tolist())) == 4


def test_rate_is_held(tmp_path: Path) -> None:
    program = workload("family.c")
    SOURCE.record(request(tmp_path / "a", program, "spin", "1", hz=1000))
    # Other work on the machine may keep some timers from firing in time.
    assert 850 <= load(tmp_path / "a").result["samples"] <= 1150


def test_file_says_how_it_was_made(tmp_path: Path) -> None:
    out = tmp_path / "out.data"
    SOURCE.record(request(out, workload("family.c"), "spin", "0.1", command_line=("x", "y")))
    assert out.stat().st_mode & 0o777 == 0o600
    reader = load(out).reader
    assert reader.metadata is not None
    said = reader.metadata
    assert (said.source, said.engine, said.dialect, said.clock) == (
        "sigtrap", "perf", "L", "monotonic",
    )  # fmt: skip
    assert said.xcr0 == xgetbv()
    assert said.xstate_layout["2"] == [576, 256]
    assert said.result["stopped_by"] == "exited"
    (attr,) = (e.attr for e in reader.events)
    assert attr.size == 104
    assert not attr.flags & (AttrFlag.SIGTRAP | AttrFlag.REMOVE_ON_EXEC)
    assert attr.sample_period == 1_000_000_000 // 997
    opened = bytes.fromhex(said.opened_attrs[0])
    assert int.from_bytes(opened[40:48], "little") & AttrFlag.SIGTRAP


def test_perf_reads_the_same_values(tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    out = tmp_path / "out.data"
    SOURCE.record(request(out, workload("constants.c", "-mavx2"), "0.4"))
    printed = subprocess.run(
        [perf, "script", "-i", str(out), "-F", "ip,sym,iregs"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if "incompatible" in printed.stderr:
        pytest.skip(f"this perf cannot open it: {printed.stderr.strip()}")
    assert printed.returncode == 0, printed.stderr
    got = load(out)
    lines = [line for line in printed.stdout.splitlines() if "ABI:2" in line]
    there = got.registers("abi") != 0  # an event whose stop came too late has no registers
    assert len(lines) == there.sum()
    ids = got.one_set(got.batches[0]).gpr_ids
    ips, gprs, vectors = (column[there] for column in (
        got.column("ip"), got.registers("gprs"), got.registers("vectors")))  # fmt: skip
    assert len(ids) == 20
    for row, line in enumerate(lines):
        assert int(line.split()[0], 16) == ips[row]
        values = [int(w.split(":")[1], 16) for w in line[line.index("ABI:2") + 5 :].split()]
        assert values == [*gprs[row].tolist(), *vectors[row].reshape(-1).tolist()]
    # Which symbol the loop is in depends on the compiler and on perf; that it has one does not.
    assert sum("[unknown]" in line for line in lines) < 0.1 * len(lines)


@pytest.mark.parametrize(
    ("arguments", "status", "processes"),
    [(("fork",), 4, 2), (("spawn", "SELF"), 5, 2), (("exec", "SELF"), 5, 1), (("leader",), 3, 1),
     (("churn", "120"), 0, 1)],
)  # fmt: skip
def test_threads_and_processes_are_followed(
    tmp_path: Path, arguments: tuple[str, ...], status: int, processes: int
) -> None:
    program = workload("family.c")
    out = tmp_path / "out.data"
    arguments = tuple(program if a == "SELF" else a for a in arguments)
    result = SOURCE.record(request(out, program, *arguments, hz=1000))
    assert result.exit_status == status
    got = load(out)
    sampled = got.column("pid")
    assert len(set(sampled.tolist())) <= processes
    busiest = max((sampled == p).sum() for p in set(sampled.tolist()))
    assert busiest > 200
    assert got.result["lost"] == 0
    if arguments[0] == "churn":
        assert len(set(got.column("tid").tolist())) > 100
        assert got.counts[RecordType.EXIT] >= 120
    if arguments[0] == "fork":
        assert got.counts[RecordType.FORK] == 1


def test_rounds_keep_their_promise(tmp_path: Path) -> None:
    """Nothing that follows a finished round is older than the round before that one."""
    out = tmp_path / "a"
    SOURCE.record(request(out, workload("family.c"), "churn", "200", hz=2000))
    before_last = until_now = newest = rounds = 0
    for block in Reader(str(out)).blocks():
        for offset, size, kind in zip(
            block.offsets.tolist(), block.sizes.tolist(), block.types.tolist(), strict=True
        ):
            if kind == RecordType.FINISHED_ROUND:
                rounds += 1
                before_last, until_now = until_now, newest
                continue
            # TIME stands behind header, IDENTIFIER, IP and TID; or in the trailer in front of
            # CPU and IDENTIFIER.
            at = offset + 32 if kind == RecordType.SAMPLE else offset + size - 24
            time_ns = int.from_bytes(bytes(block.buffer[at : at + 8]), "little")
            assert time_ns >= before_last
            newest = max(newest, time_ns)
    assert rounds >= 2


def test_without_inherit_children_go_free(tmp_path: Path) -> None:
    program = workload("family.c")
    result = SOURCE.record(request(tmp_path / "a", program, "fork", inherit=False))
    assert result.exit_status == 4
    assert len(set(load(tmp_path / "a").column("pid").tolist())) <= 1


@pytest.mark.parametrize("mode", ["int3", "raise"])
def test_the_programs_own_traps_reach_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str
) -> None:
    result = SOURCE.record(request(tmp_path / "a", workload("traps.c"), mode, "100", hz=3000))
    assert result.exit_status == 0
    assert capfd.readouterr().out == "mine 100 others 0\n"
    assert result.samples > 500


def test_blocked_sigtrap(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = workload("traps.c")
    result = SOURCE.record(request(tmp_path / "a", program, "blocked", "1.3", hz=500))
    assert result.exit_status == 0
    assert capfd.readouterr().out == "ready\nmine 0 others 0\n"
    assert any("blocks SIGTRAP" in w for w in result.warnings)
    got = load(tmp_path / "a")
    # While it is blocked there is no stop: the event's samples are kept, without registers.
    assert got.result["bare_samples"] > 200
    flags = got.column("stop_flags")
    assert (got.registers("abi") == 0).sum() == got.result["bare_samples"]
    assert ((flags & StopFlag.ASYNC) != 0).sum() == 1


def test_ignored_sigtrap(tmp_path: Path) -> None:
    result = SOURCE.record(request(tmp_path / "a", workload("traps.c"), "ignored", "0.3"))
    assert result.exit_status == 0
    assert result.samples > 200


def test_static_binary(tmp_path: Path) -> None:
    program = workload("family.c", "-static")
    result = SOURCE.record(request(tmp_path / "a", program, "spin", "0.3"))
    assert result.exit_status == 5
    assert result.samples > 200


def test_32_bit_program(tmp_path: Path) -> None:
    program = workload("compat.s", "-m32", "-nostdlib", "-static", "-no-pie")
    if subprocess.run([program], check=False).returncode != 7:
        pytest.skip("this kernel does not run 32-bit programs")
    for classes in (("gpr", "xmm"), YMM):
        out = tmp_path / f"{len(classes)}.data"
        result = SOURCE.record(request(out, program, hz=2000, classes=classes))
        assert result.exit_status == 7
        got = load(out)
        assert len(got) > 20
        assert set(got.registers("abi").tolist()) == {1 if len(classes) == 2 else 5}
        assert ((got.column("stop_flags") & StopFlag.COMPAT) != 0).mean() > 0.98
        vectors = got.registers("vectors")
        assert (vectors[:, 0, :2] == [0x1111111111111111, 0x2222222222222222]).all()
        assert (vectors[:, 7, :2] == [0x7777777777777777, 0x8888888888888888]).all()


def test_call_chains_are_the_kernels(tmp_path: Path) -> None:
    out = tmp_path / "a"
    SOURCE.record(request(out, workload("family.c"), "spin", "0.3", callchain=True, classes=YMM))
    got = load(out)
    assert len(got) > 200
    (attr,) = (e.attr for e in got.reader.events)
    assert attr.has(SampleType.CALLCHAIN)
    batch = got.batches[0]
    assert batch.chain is not None
    assert batch.chain_start is not None
    starts = batch.chain_start[:-1][np.diff(batch.chain_start) >= 2]
    # PERF_CONTEXT_USER, then the sample's own IP.
    assert set(batch.chain[starts].tolist()) == {2**64 - 512}
    full = np.diff(batch.chain_start) >= 2
    assert (batch.chain[starts + 1] == batch.ip[full]).all()


def test_two_events(tmp_path: Path) -> None:
    out = tmp_path / "a"
    events = (event(hz=500), event("cpu-clock", hz=200, config=0))
    SOURCE.record(request(out, workload("family.c"), "spin", "1", events=events))
    got = load(out)
    counts = np.bincount(got.column("event"), minlength=2)
    assert 350 < counts[0] < 600
    assert 140 < counts[1] < 260
    assert [e.name for e in got.reader.events] == ["task-clock", "cpu-clock"]


def test_breakpoint_event(tmp_path: Path) -> None:
    """An execution breakpoint: every call is a sample, at the function's first instruction."""
    program = workload("family.c", "-no-pie", "-fno-inline")
    address = symbol(program, "brief")
    hit = event("mem:brief:x", type=PerfType.BREAKPOINT, config=0, bp_type=4, config1=address,
                config2=8, sample_period=1)  # fmt: skip
    try:
        SOURCE.record(request(tmp_path / "a", program, "churn", "40", events=(hit,)))
    except NotSupported as error:
        pytest.skip(str(error))
    got = load(tmp_path / "a")
    assert len(got) == 40
    assert set(got.gpr(GPR_IP).tolist()) == {address}


def test_limits(tmp_path: Path) -> None:
    program = workload("family.c")
    out = tmp_path / "samples"
    result = SOURCE.record(request(out, program, "spin", "0.5", hz=1000, max_samples=100))
    got = load(out)
    # A trap on its way at that moment is swallowed; its event is kept without registers.
    assert (result.samples, result.exit_status) == (100, 5)
    assert len(got) == 100 + got.result["bare_samples"]
    assert got.result["stopped_by"] == "max-samples"
    out = tmp_path / "duration"
    result = SOURCE.record(request(out, program, "spin", "0.6", duration_s=0.3))
    assert 0.25 < result.elapsed_s < 0.6
    assert result.exit_status == 5
    out = tmp_path / "size"
    SOURCE.record(request(out, program, "spin", "0.5", hz=4000, max_size_bytes=100_000))
    assert 100_000 <= out.stat().st_size < 115_000  # records already made, and the file's features
    assert load(out).result["stopped_by"] == "max-size"


def test_delay(tmp_path: Path) -> None:
    out = tmp_path / "a"
    before_ns = time.monotonic_ns()
    SOURCE.record(request(out, workload("family.c"), "spin", "0.6", hz=500, delay_s=0.3))
    got = load(out)
    assert got.column("time_ns").min() - before_ns > 300_000_000
    assert len(got) > 20
    assert got.counts[RecordType.MMAP2] >= 2  # what a disabled event did not tell is described


def test_cpu_limit_stretches_the_period(tmp_path: Path) -> None:
    out = tmp_path / "a"
    result = SOURCE.record(
        request(out, workload("family.c"), "spin", "1", hz=8000, cpu_limit_percent=0.5)
    )
    assert load(out).result["back_offs"] >= 1
    assert result.samples < 5000
    periods = load(out).column("period")
    assert periods.max() > 2 * periods.min()
    (told,) = [w for w in result.warnings if w.startswith("sampled every")]
    assert "instead of every 125000 ns: stops cost the target more than 0.5 %" in told
    assert result.details["back_offs"] == load(out).result["back_offs"]


def test_floor(tmp_path: Path) -> None:
    out = tmp_path / "a"
    fast = event(sample_period=10_000)
    result = SOURCE.record(request(out, workload("family.c"), "spin", "0.1", events=(fast,)))
    assert any("raised to 100000 ns" in w for w in result.warnings)
    assert load(out).column("period").min() >= 100_000


def test_redact_values(tmp_path: Path) -> None:
    out = tmp_path / "a"
    program = workload("constants.c", "-mavx2")
    SOURCE.record(request(out, program, "0.3", redact="values", classes=YMM))
    assert b"\xde\xc0" not in out.read_bytes().replace(bytes.fromhex("0000"), b"")
    got = load(out)
    assert len(got) > 100
    assert set(got.registers("abi").tolist()) == {0}
    assert (got.registers("xstate_bv") & np.uint64(6) != 0).mean() > 0.9
    stats = np.concatenate([b.extra["stats"] for b in got.batches])
    loop = in_loop(program, got.column("ip")) & (stats[:, STATISTICS.index("words")] != 0)
    assert loop.sum() > 100
    # 0xC0DE0000000000RL sixty-four times: its lower half, a float subnormal or register 0 lane 0.
    expected = dict.fromkeys(STATISTICS, 0) | {
        "f32_subnormal": 63, "f32_zero": 1, "words": 64, "widest_qwords": 4, "registers": 16,
    }  # fmt: skip
    assert (stats[loop] == np.array(list(expected.values()), np.uint64)).all()


def test_command_that_does_not_exist(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(UsageError, match="cannot run") as caught:
        SOURCE.record(request(out, "/nowhere/at-all"))
    assert caught.value.exit_code == 2
    assert not out.exists()
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(UsageError, match="Permission denied"):
        SOURCE.record(request(out, str(plain)))


def test_killed_command(tmp_path: Path) -> None:
    result = SOURCE.record(request(tmp_path / "a", "sh", "-c", "kill -9 $$"))
    assert result.exit_status == 137


def test_output_exists(tmp_path: Path) -> None:
    out = tmp_path / "a"
    out.write_text("mine")
    mark = tmp_path / "ran"
    with pytest.raises(OutputError, match="already there"):
        SOURCE.record(request(out, "touch", str(mark)))
    assert out.read_text() == "mine"
    assert not mark.exists()


def test_disk_full(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: writing fails in the middle."""
    script = (
        "import resource,sys,signal;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE,(400000,400000));"
        "sys.path[:0]=sys.argv[1].split(':');"
        "from support.recorded import request;"
        "from perfxmm.sources.sigtrap import SigtrapSource;"
        "SigtrapSource().record(request(*sys.argv[2:], hz=4000))"
    )
    out = tmp_path / "a"
    tests = str(Path(__file__).resolve().parent.parent)
    root = str(Path(tests).parent)
    done = subprocess.run(
        [sys.executable, "-c", script, f"{root}:{tests}", str(out), workload("family.c"),
         "spin", "1"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "OutputError" in done.stderr
    assert len(load(out)) > 300


def test_refusals() -> None:
    assert "threads" in (SOURCE.why_not(request("a", system_wide=True)) or "")
    assert "ssp" in (SOURCE.why_not(request("a", "x", classes=("gpr", "ssp"))) or "")
    assert SOURCE.why_not(request("a", "x")) is None
    with pytest.raises(NotSupported, match="threads"):
        SOURCE.record(request("a", system_wide=True))
    with pytest.raises(UsageError, match="nothing to record"):
        SOURCE.record(request("a"))
    with pytest.raises(UsageError, match="itself"):
        SOURCE.record(request("a", pids=(os.getpid(),)))


def test_event_that_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "a"
    nonsense = event("no-such-event", config=99)
    with pytest.raises(NotSupported, match="no-such-event"):
        SOURCE.record(request(out, "true", events=(nonsense,)))
    assert not out.exists()
