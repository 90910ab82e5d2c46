"""Signals that came ignored, and a tracer that makes mistakes: nobody is left stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.recorded import load, request
from support.workloads import workload

from perfxmm.errors import PerfxmmError
from perfxmm.sources.sigtrap import SigtrapSource, source

TESTS = Path(__file__).resolve().parent.parent
RECORDER = (
    "import sys; sys.path[:0] = sys.argv[1].split(':');"
    "from support.recorded import request;"
    "from perfxmm.sources.sigtrap import SigtrapSource;"
    "r = SigtrapSource().record(request(sys.argv[2], *sys.argv[3:], duration_s=3),"
    " progress=lambda n, s: print(n, file=sys.stderr, flush=True));"
    "print('done', r.exit_status, r.interrupted)"
)


def recorder(output: Path, ignored: signal.Signals, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORDER, f"{TESTS.parent}:{TESTS}", str(output), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "interrupted"), [(signal.SIGINT, True), (signal.SIGHUP, False)]
)
def test_signals_that_came_ignored(
    tmp_path: Path, number: signal.Signals, interrupted: bool
) -> None:
    """SIGINT ends the background job of a script all the same; nohup is nohup."""
    go = tmp_path / "go"
    script = f"grep SigIgn /proc/$$/status; echo $$; until [ -e {go} ]; do :; done; exit 5"
    with recorder(tmp_path / "a", number, "sh", "-c", script) as record:
        assert record.stdout is not None
        assert record.stderr is not None
        ignored, pid = record.stdout.readline(), int(record.stdout.readline())
        record.stderr.readline()
        record.send_signal(number)
        # The recorder waits a second for a command that it let go: this one then ends at once.
        while interrupted and "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.01)
        go.touch()
        said, errors = record.communicate()
    assert record.returncode == 0, errors
    (done,) = said.splitlines()
    assert int(ignored.split()[1], 16) == 1 << (number - 1)  # the command has it as it was
    assert done == f"done 5 {interrupted}"
    assert (load(tmp_path / "a").result["stopped_by"] == "interrupted") is interrupted


# The tracer's boot text, with a method in it that fails at its Nth call.
BREAK = (
    "from {module} import {cls} as C\n"
    "before, calls = C.{method}, [0]\n"
    "def broken(*a, **k):\n"
    "    calls[0] += 1\n"
    "    if calls[0] == {call}: raise ZeroDivisionError('on purpose')\n"
    "    return before(*a, **k)\n"
    "C.{method} = broken\n"
)
STATE = "perfxmm.sources.sigtrap.state"


@pytest.mark.parametrize("engine", ["perf", "interrupt"])
@pytest.mark.parametrize(
    ("module", "cls", "method", "call"),
    [(STATE, "TraceState", "rare", 3), (STATE, "TraceState", "on_tick", 3),
     ("perfxmm.sources.sigtrap.assembly", "SampleAssembler", "sample", 20),
     ("perfxmm.sources.sigtrap.detach", "Detacher", "_look", 1)],
)  # fmt: skip
def test_a_mistake_of_the_tracer_frees_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, cls: str, method: str, call: int,
    engine: str,
) -> None:
    head, tail = source._BOOT.split("from perfxmm", 1)
    broken = BREAK.format(module=module, cls=cls, method=method, call=call)
    monkeypatch.setattr(source, "_BOOT", f"{head}\n{broken}from perfxmm{tail}")
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}; {workload('family.c')} spin 0.05; exec sleep 30"
    before = time.monotonic()
    asked = request(tmp_path / "a", "sh", "-c", script, engine=engine, duration_s=0.4,
                    options={"wait": False})  # fmt: skip
    if method == "_look":
        assert SigtrapSource().record(asked).details["stopped_by"] == "duration"
    else:
        with pytest.raises(PerfxmmError, match="on purpose"):
            SigtrapSource().record(asked)
    assert time.monotonic() - before < 5
    pid = int(pid_file.read_text())
    status = Path(f"/proc/{pid}/status").read_text()
    assert "TracerPid:\t0" in status
    assert "State:\tT" not in status
    assert "State:\tt" not in status
    os.kill(pid, signal.SIGKILL)
    assert load(tmp_path / "a").reader.complete


def test_a_stop_that_was_forgotten_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second net: the thread in hand is left stopped, and no attempt made to resume it."""
    head, tail = source._BOOT.split("from perfxmm", 1)
    broken = BREAK.format(module=STATE, cls="TraceState", method="rare", call=3) + (
        "import perfxmm.sources.sigtrap.loop as L\nL.resume = lambda *a: None\n"
    )
    monkeypatch.setattr(source, "_BOOT", f"{head}\n{broken}from perfxmm{tail}")
    before = time.monotonic()
    with pytest.raises(PerfxmmError, match="on purpose"):
        SigtrapSource().record(request(tmp_path / "a", workload("family.c"), "fork"))
    assert time.monotonic() - before < 4
    assert load(tmp_path / "a").reader.complete


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, tail = source._BOOT.split("from perfxmm", 1)
    slow = (
        "from perfxmm.sources.sigtrap.detach import Detacher as D\nimport time\nrun = D.run\n"
        "def later(self):\n    until = time.monotonic() + 1.5\n"
        "    while time.monotonic() < until: time.sleep(0.1)\n    run(self)\nD.run = later\n"
    )
    monkeypatch.setattr(source, "_BOOT", f"{head}\n{slow}from perfxmm{tail}")
    monkeypatch.setattr(source, "_PATIENCE_S", 0.1)
    sent: list[threading.Timer] = []

    def interrupt(samples: int, elapsed_s: float) -> None:
        if not sent:
            os.kill(os.getpid(), signal.SIGTERM)
            sent.append(threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGTERM)))
            sent[0].start()

    before = time.monotonic()
    with pytest.raises(PerfxmmError, match="interrupted again"):
        SigtrapSource().record(
            request(tmp_path / "a", workload("family.c"), "spin", "0.8"), progress=interrupt
        )
    assert time.monotonic() - before < 1.6
    deadline = time.monotonic() + 5
    while not load(tmp_path / "a").reader.complete:  # by the tracer, which went on
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_tracer_is_not_named_like_its_recorder(tmp_path: Path) -> None:
    """`pkill -9 perfxmm` must leave the tracer alone: it lets the target go."""
    script = "cat /proc/$(grep TracerPid /proc/$$/status | cut -f2)/comm > $0"
    out = tmp_path / "name"
    SigtrapSource().record(request(tmp_path / "a", "sh", "-c", script, str(out)))
    assert out.read_text() == "xmm-tracer\n"
