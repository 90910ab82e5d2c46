"""Attaching to what runs, letting it go, and every way in which a recorder may die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from support.recorded import load, request
from support.workloads import workload

from perfxmm.errors import PerfxmmError, PermissionDenied, TargetError
from perfxmm.kernel.constants import RecordType
from perfxmm.kernel.registers import GPR_IP
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.sources.sigtrap import SigtrapSource

SOURCE = SigtrapSource()
TESTS = Path(__file__).resolve().parent.parent
# Records as a process of its own: argv is output, pid, Hz.
RECORDER = (
    "import sys; sys.path[:0] = sys.argv[1].split(':');"
    "from support.recorded import request;"
    "from perfxmm.sources.sigtrap import SigtrapSource;"
    "r = SigtrapSource().record(request(sys.argv[2], pids=(int(sys.argv[3]),),"
    " hz=int(sys.argv[4])), progress=lambda n, s: print(n, flush=True));"
    "print('done', r.samples, r.interrupted)"
)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A target that says "ready" and runs until it is killed.

    Its threads take all CPUs: niced, so that the test gets on.
    """
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(10)
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def target() -> Iterator[subprocess.Popen[str]]:
    with running(workload("family.c"), "wait") as process:
        yield process


def recorder(output: Path, pid: int, hz: int = 997) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORDER, f"{TESTS.parent}:{TESTS}", str(output), str(pid), str(hz)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def tids_of(pid: int) -> list[int]:
    return sorted(int(p.name) for p in Path(f"/proc/{pid}/task").iterdir())


def status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def wait_until_free(pid: int, seconds: float = 10.0) -> None:
    """Until nobody traces any of the process's threads."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(status(t)["TracerPid"] == "0" for t in tids_of(pid)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{pid} is still traced")


def assert_unharmed(process: subprocess.Popen[str], threads: int = 4) -> None:
    assert process.poll() is None
    assert len(tids_of(process.pid)) == threads
    for tid in tids_of(process.pid):
        said = status(tid)
        assert said["State"][0] in "RS"
        assert int(said["SigPnd"], 16) == 0
        assert int(said["SigBlk"], 16) == 0
    assert int(status(process.pid)["ShdPnd"], 16) == 0


def test_attach_samples_every_thread(tmp_path: Path) -> None:
    with target() as process:
        result = SOURCE.record(request(tmp_path / "a", pids=(process.pid,), duration_s=0.7))
        assert_unharmed(process)
        assert result.exit_status is None
        got = load(tmp_path / "a")
        assert sorted(set(got.column("tid").tolist())) == tids_of(process.pid)
        assert set(got.column("pid").tolist()) == {process.pid}
        assert got.counts[RecordType.COMM] == 4
        assert got.counts[RecordType.MMAP2] >= 3
        assert got.result["stopped_by"] == "duration"


def test_attach_to_one_thread(tmp_path: Path) -> None:
    with target() as process:
        tid = max(tids_of(process.pid))
        SOURCE.record(request(tmp_path / "a", tids=(tid,), duration_s=0.3))
        assert_unharmed(process)
        assert set(load(tmp_path / "a").column("tid").tolist()) == {tid}


def test_attach_and_detach_again_and_again(tmp_path: Path) -> None:
    with target() as process:
        for n in range(8):
            SOURCE.record(
                request(tmp_path / "a", pids=(process.pid,), hz=4000, duration_s=0.03, force=True)
            )
            assert process.poll() is None, f"died at cycle {n}"
        wait_until_free(process.pid)
        assert_unharmed(process)


def test_recorder_killed(tmp_path: Path) -> None:
    """The tracer outlives it, lets the target go, and finishes the file."""
    with target() as process:
        for n in range(2):
            out = tmp_path / str(n)
            with recorder(out, process.pid, hz=2000) as record:
                while int(record.stdout.readline()) < 100:
                    pass
                record.send_signal(signal.SIGKILL)
            wait_until_free(process.pid)
            assert_unharmed(process)
            assert len(load(out)) >= 100
        deadline = time.monotonic() + 5
        while not load(out).reader.complete:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert load(out).result["stopped_by"] in ("interrupted", "recorder gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_recording_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with target() as process:
        with recorder(tmp_path / "a", process.pid) as record:
            while int(record.stdout.readline()) < 100:
                pass
            record.send_signal(number)
            said = record.stdout.read().split()
        assert record.returncode == 0
        assert said[-3] == "done"
        assert said[-1] == "True"
        assert_unharmed(process)
        got = load(tmp_path / "a")
        assert got.reader.complete
        # A trap on its way at that moment is swallowed; its event is kept without registers.
        assert len(got) == int(said[-2]) + got.result["bare_samples"]


def tracer_of(pid: int) -> int:
    return int(status(pid)["TracerPid"])


def test_tracer_interrupted_itself(tmp_path: Path) -> None:
    with target() as process, recorder(tmp_path / "a", process.pid) as record:
        while int(record.stdout.readline()) < 100:
            pass
        os.kill(tracer_of(process.pid), signal.SIGHUP)
        assert "done" in record.stdout.read()
        wait_until_free(process.pid)
        assert_unharmed(process)


def test_tracer_killed_is_reported_and_the_file_readable(tmp_path: Path) -> None:
    """The one thing nobody can help: SIGKILL of the tracer itself may take the target along."""
    with target() as process, recorder(tmp_path / "a", process.pid) as record:
        while int(record.stdout.readline()) < 200:
            pass
        os.kill(tracer_of(process.pid), signal.SIGKILL)
        assert "tracer process ended" in record.communicate()[1]
    got = load(tmp_path / "a")
    assert not got.reader.complete
    assert len(got) > 0


def test_stopped_target(tmp_path: Path) -> None:
    with target() as process:
        process.send_signal(signal.SIGSTOP)
        result = SOURCE.record(request(tmp_path / "a", pids=(process.pid,), duration_s=0.3))
        assert result.samples == 0
        # Between them a thread may be said to block SIGTRAP: stopped while libc started it.
        assert [result.warnings[0], result.warnings[-1]] == [
            f"process {process.pid} is stopped (SIGSTOP): it is sampled when it continues",
            "no samples: the target was stopped by a signal",
        ]
        wait_until_free(process.pid)
        assert status(process.pid)["State"][0] == "T"  # as it was found
        process.send_signal(signal.SIGCONT)
        result = SOURCE.record(
            request(tmp_path / "a", pids=(process.pid,), duration_s=0.3, force=True)
        )
        assert result.samples > 20
        assert_unharmed(process)


def test_target_stopped_and_continued_meanwhile(tmp_path: Path) -> None:
    with target() as process, recorder(tmp_path / "a", process.pid) as record:
        while int(record.stdout.readline()) < 50:
            pass
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        assert status(process.pid)["State"][0] in "tT"
        process.send_signal(signal.SIGCONT)
        before = int(record.stdout.readline())
        while int(record.stdout.readline()) < before + 50:
            pass
        record.send_signal(signal.SIGINT)
        record.communicate()
        assert_unharmed(process)


def test_target_that_dies(tmp_path: Path) -> None:
    with target() as process, recorder(tmp_path / "a", process.pid) as record:
        while int(record.stdout.readline()) < 50:
            pass
        process.kill()
        said = record.communicate()[0]
    assert "done" in said
    got = load(tmp_path / "a")
    assert got.reader.complete
    assert got.result["stopped_by"] == "exited"


def test_blocked_sigtrap_survives_the_detach(tmp_path: Path) -> None:
    with running(workload("traps.c"), "blocked", "2") as process:
        for n in range(2):
            result = SOURCE.record(
                request(tmp_path / str(n), pids=(process.pid,), hz=1000, duration_s=0.3)
            )
            assert any("blocks SIGTRAP" in w for w in result.warnings)
            wait_until_free(process.pid)
            assert int(status(process.pid)["SigBlk"], 16) == 1 << 4
            assert int(status(process.pid)["SigPnd"], 16) == 0
        assert process.stdout.read() == "mine 0 others 0\n"
        assert process.wait() == 0


def test_no_such_process(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        SOURCE.record(request(tmp_path / "a", pids=(2**22 - 1,)))
    assert not (tmp_path / "a").exists()


def test_already_traced(tmp_path: Path) -> None:
    with target() as process, recorder(tmp_path / "a", process.pid) as record:
        while int(record.stdout.readline()) < 10:
            pass
        with pytest.raises(PerfxmmError, match=f"process {tracer_of(process.pid)} traces it"):
            SOURCE.record(request(tmp_path / "b", pids=(process.pid,)))
        record.send_signal(signal.SIGINT)
        record.communicate()
        assert_unharmed(process)


def as_nobody(*arguments: str) -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv to become another user")
    return [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups",
            "--bounding-set", "-all", "--inh-caps", "-all", *arguments]  # fmt: skip


def nobody_python() -> tuple[list[str], str]:
    """(command, sys.path) of an interpreter that another user may run, skips without one."""
    packages = str(Path(numpy.__file__).resolve().parent.parent)
    path = f"{TESTS.parent}:{TESTS}:{packages}"
    check = (
        "import subprocess, sys; sys.path[:0] = sys.argv[1].split(':');"
        "import support.recorded, perfxmm.sources.sigtrap.session;"
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        command = as_nobody(python, "-c")
        done = subprocess.run([*command, check, path], capture_output=True, check=False, cwd="/")
        if done.returncode == 0:
            return command, path
    pytest.skip("another user cannot run an interpreter with these packages, or read the checkout")


def test_unprivileged() -> None:
    command, path = nobody_python()
    paranoid = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text())
    script = RECORDER.replace("pids=(int(sys.argv[3]),)", "*sys.argv[3].split()")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        out = Path(directory) / "a"
        done = subprocess.run(
            [*command, script, path, str(out), f"{workload('family.c')} spin 0.5", "997"],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        got = load(out)
        assert out.stat().st_uid == 65534
    assert len(got) > 200
    assert got.result["engine"] == ("perf" if paranoid <= 2 else "interrupt")


def test_somebody_elses_process(tmp_path: Path) -> None:
    command, path = nobody_python()
    with target() as process:
        done = subprocess.run(
            [*command, RECORDER, path, "/dev/null", str(process.pid), "997"],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert PermissionDenied.__name__ in done.stderr
        assert "belongs to uid 0" in done.stderr
        assert_unharmed(process)


LAUNCHER = (
    "import sys, resource; sys.path[:0] = sys.argv[1].split(':');"
    "kind, limit = sys.argv[3].split('=');"
    "resource.setrlimit(getattr(resource, 'RLIMIT_' + kind), (int(limit), int(limit)));"
    "from support.recorded import request;"
    "from perfxmm.sources.sigtrap import SigtrapSource;"
    "r = SigtrapSource().record(request(sys.argv[2], *sys.argv[4:], hz=500));"
    "print(r.exit_status, *r.warnings)"
)


def test_open_files_limit(tmp_path: Path) -> None:
    """Threads beyond the limit go unsampled and unharmed."""
    program = workload("constants.c", "-mavx2")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, f"{TESTS.parent}:{TESTS}", str(tmp_path / "a"),
         "NOFILE=30", program, "0.05", "30"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith("0 some threads are not sampled"), done.stderr
    got = load(tmp_path / "a")
    sampled = len(set(got.column("tid").tolist()))
    assert 5 < sampled < 30
    assert got.result["threads_not_sampled"] == 30 - sampled


def test_locked_memory_limit() -> None:
    """Threads without a ring are sampled with the stop's own IP."""
    command, path = nobody_python()
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 2:
        pytest.skip("perf events are refused to other users here")
    allowed_kb = int(Path("/proc/sys/kernel/perf_event_mlock_kb").read_text())
    if allowed_kb * (os.cpu_count() or 1) > 64 * 36:  # a ring of 8 pages and one more each
        pytest.skip("too much memory may be locked here")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        out = f"{directory}/a"
        done = subprocess.run(
            [*command, LAUNCHER, path, out, "MEMLOCK=0", workload("constants.c", "-mavx2"),
             "0.05", "64"], capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert "0 the locked-memory limit" in done.stdout, done.stderr
        got = load(out)
    assert got.result["unpaired"] > 10
    flags = got.column("stop_flags")
    assert ((flags & StopFlag.UNPAIRED) != 0).sum() == got.result["unpaired"]
    assert (got.column("ip") == got.gpr(GPR_IP))[(flags & StopFlag.UNPAIRED) != 0].all()


def test_set_user_id_program() -> None:
    """Traced by a user without privileges, it runs without its own: one has to be told."""
    command, path = nobody_python()
    program = next(
        (p for p in ("/usr/bin/mount", "/usr/bin/su", "/usr/bin/passwd")
         if Path(p).exists() and Path(p).stat().st_mode & 0o4000), None,
    )  # fmt: skip
    if program is None:
        pytest.skip("no set-user-id program here")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        done = subprocess.run(
            [*command, LAUNCHER, path, f"{directory}/a", "CORE=0", program, "--version"],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
    assert "executed a set-user-id program" in done.stdout, done.stderr


def test_recorder_of_a_launched_command_killed(tmp_path: Path) -> None:
    """The command goes on to its own end."""
    status_file = tmp_path / "status"
    script = RECORDER.replace("pids=(int(sys.argv[3]),)", "'sh', '-c', sys.argv[3]")
    family = workload("family.c")
    command = (
        f"{family} spin 1.5; echo $? > {status_file}.new; mv {status_file}.new {status_file}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, f"{TESTS.parent}:{TESTS}", str(tmp_path / "a"), command,
         "997"], stdout=subprocess.PIPE, text=True,
    ) as record:  # fmt: skip
        while int(record.stdout.readline()) < 50:
            pass
        record.kill()
    deadline = time.monotonic() + 60
    while not status_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status_file.read_text() == "5\n"
    got = load(tmp_path / "a")
    assert len(got) >= 50
