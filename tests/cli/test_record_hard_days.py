"""Bad input and hard days at `perfxmm record`: one clear line, the right exit code, nothing lost.

What the sigtrap source itself does about odd targets (32-bit, static, blocked signals, many
threads) is in tests/sources; here it is what a person sees.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import NOBODY, PERFXMM, Ran, run, run_as_nobody

import perfxmm

BUSY = (sys.executable, "-c", "import time\ne=time.time()+{}\nwhile time.time()<e: pass")
SYS_PTRACE, SYS_PERF_EVENT_OPEN = 101, 298  # arch/x86/entry/syscalls/syscall_64.tbl, Linux 7.3

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing users or mounting needs root")


def busy(seconds: float) -> list[str]:
    return [BUSY[0], BUSY[1], BUSY[2].format(seconds)]


@pytest.fixture
def target() -> Iterator[subprocess.Popen[bytes]]:
    """A busy process that has been running for a moment; ended at the end."""
    process = subprocess.Popen(busy(30), stdin=subprocess.DEVNULL)
    time.sleep(0.3)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory that the user nobody can write to."""
    path = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def deny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not here")
    binary = tmp_path_factory.mktemp("deny") / "deny"
    source = Path(__file__).parent.parent / "workloads" / "deny.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-o", binary, source], check=True)
    return binary


def first_line(ran: Ran) -> str:
    """The error's first line (the line that names the source comes before it)."""
    chosen = re.compile(r"perfxmm: source (pmu|sigtrap) \(")
    lines = [line for line in ran.err.splitlines() if not chosen.match(line)]
    return lines[0] if lines else ""


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["-e", "no-such-event", "--", "true"], 2, "no-such-event"),
        (["-e", "cycles/", "--", "true"], 2, "cycles/"),
        (["--regs", "qmm", "--", "true"], 2, "unknown register class 'qmm'"),
        (["--regs", "zmm0", "--", "true"], 2, "single vector registers cannot be sampled"),
        (["--source", "magic", "--", "true"], 2, "unknown source 'magic'"),
        (["--engine", "steam", "--", "true"], 2, "unknown engine 'steam'"),
        (["--redact", "some", "--", "true"], 2, "unknown redaction 'some'"),
        (["-F", "0", "--", "true"], 2, "-F must be greater than zero"),
        (["-F", "99", "-c", "1000", "--", "true"], 2, "exclude one another"),
        (["-p", "1", "--", "true"], 2, "exclude"),
        (["-p", "x"], 2, "-p takes numbers"),
        (["-m", "3", "--", "true"], 2, "power of two"),
        (["--max-size", "1X", "--", "true"], 2, "--max-size"),
        ([], 2, "nothing to record"),
        (["--", "./no-such-program"], 2, "cannot run './no-such-program'"),
        (["-u", "no-such-user"], 2, "no-such-user"),
        (["--source", "nmi", "--", "true"], 4, "source 'nmi' cannot be used here"),
        # No source on this kind of machine delivers the shadow stack pointer.
        (["--source", "sigtrap", "--regs", "ssp", "--", "true"], 4, "ssp cannot be sampled"),
        (["--source", "sigtrap", "-a"], 4, "source 'sigtrap' cannot serve this request"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused(options: list[str], code: int, words: str, tmp_path: Path) -> None:
    ran = run("record", *options, cwd=tmp_path)
    assert (ran.code, ran.out) == (code, "")
    assert first_line(ran).startswith("perfxmm: ")
    assert words in first_line(ran)
    assert not (tmp_path / "perf.data").exists()


def test_exit_status_of_the_command_is_passed_on(tmp_path: Path) -> None:
    assert run("record", "-q", "-o", tmp_path / "a", "--", "sh", "-c", "exit 7").code == 7
    assert run("record", "-q", "-o", tmp_path / "b", "--", "sh", "-c", "kill -9 $$").code == 137


def test_existing_output_is_refused_without_force(tmp_path: Path) -> None:
    output = tmp_path / "perf.data"
    output.write_bytes(b"mine")
    ran = run("record", "--", "true", cwd=tmp_path)
    assert ran.code == 1
    assert "already" in first_line(ran)
    assert "--force" in ran.err
    assert output.read_bytes() == b"mine"
    assert run("record", "-q", "--force", "--", "true", cwd=tmp_path).code == 0
    assert output.stat().st_mode & 0o777 == 0o600


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "perf.data").symlink_to(victim)
    assert run("record", "--force", "--", "true", cwd=tmp_path).code == 1
    assert victim.read_bytes() == b"mine"


def test_output_directory_that_is_not_there(tmp_path: Path) -> None:
    ran = run("record", "-o", tmp_path / "no" / "perf.data", "--", "true")
    assert ran.code == 1
    assert "No such file or directory" in first_line(ran)


def test_output_that_may_not_be_written(tmp_path: Path) -> None:
    ran = run_as_nobody("record", "-o", tmp_path / "perf.data", "--", "true")
    assert ran.code == 1
    assert "Permission denied" in first_line(ran)


def test_unprivileged_user_records(private: Path) -> None:
    count = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
    ran = run_as_nobody("record", "-q", "-o", private / "perf.data", "--", "sh", "-c", count)
    assert (ran.code, ran.err) == (0, "")
    assert sum(len(b) for b in perfxmm.open(str(private / "perf.data")).snapshots()) >= 100


@needs_root
def test_disk_full_keeps_what_was_recorded(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small], capture_output=True,
        check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting is not possible here")
    try:
        ran = run("record", "-F", "2000", "-o", small / "perf.data", "--", *busy(4))
        assert ran.code == 1
        assert "No space left on device" in ran.err
        kept = perfxmm.open(str(small / "perf.data"))
        samples = sum(len(batch) for batch in kept.snapshots())
        # Every complete record is there: some 2.4 KiB each with ZMM, 0.9 KiB with YMM.
        assert 150 <= samples <= 1000
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_pid_that_is_not_there(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    ran = run("record", "-p", str(gone.pid), cwd=tmp_path)
    assert ran.code == 1
    assert str(gone.pid) in first_line(ran)
    assert not (tmp_path / "perf.data").exists()


def test_somebody_elses_process(target: subprocess.Popen[bytes], private: Path) -> None:
    ran = run_as_nobody("record", "-p", str(target.pid), "-o", private / "perf.data")
    assert ran.code == 3
    assert str(target.pid) in first_line(ran)
    assert target.poll() is None
    assert not (private / "perf.data").exists()


def test_process_that_is_traced_already(
    target: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    first = subprocess.Popen(
        [*PERFXMM, "record", "-q", "-p", str(target.pid), "-o", tmp_path / "first",
         "--duration", "200"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        status = Path(f"/proc/{target.pid}/status")
        until = time.monotonic() + 100
        while "TracerPid:\t0" in status.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        ran = run("record", "-p", str(target.pid), "-o", tmp_path / "second")
        assert ran.code == 3
        assert "traces it already" in ran.err
        assert target.poll() is None
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(60)
    assert target.poll() is None


def test_target_that_is_killed(tmp_path: Path) -> None:
    ran = run("record", "-q", "-o", tmp_path / "perf.data", "--", "sh", "-c",
              "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; kill -KILL $$")  # fmt: skip
    assert ran.code == 137
    kept = perfxmm.open(str(tmp_path / "perf.data"))
    assert kept.complete
    assert sum(len(batch) for batch in kept.snapshots()) >= 1


def test_stopped_target_stays_stopped(
    target: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    target.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    ran = run("record", "-p", str(target.pid), "-o", tmp_path / "perf.data", "--duration", "0.5")
    assert ran.code == 0
    state = Path(f"/proc/{target.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    assert state == "T"
    assert "TracerPid:\t0" in Path(f"/proc/{target.pid}/status").read_text()
    target.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    assert target.poll() is None


@pytest.mark.parametrize("answer", [errno.EPERM, errno.ENOSYS, errno.E2BIG])
def test_without_perf_event_open(deny: Path, tmp_path: Path, answer: int) -> None:
    """A container's filter, or a kernel before 5.13: the interrupt engine takes over, says so."""
    ran = run(
        "record", "-F", "200", "-o", tmp_path / "perf.data", "--", *busy(1.0),
        prefix=(deny, str(SYS_PERF_EVENT_OPEN), str(answer)),
    )  # fmt: skip
    assert ran.code == 0
    assert "interrupt" in ran.err
    assert ("5.13" in ran.err) == (answer == errno.E2BIG)
    recording = perfxmm.open(str(tmp_path / "perf.data"))
    assert recording.metadata is not None
    assert recording.metadata.engine == "interrupt"
    assert sum(len(batch) for batch in recording.snapshots()) >= 50


def test_without_ptrace(deny: Path, tmp_path: Path) -> None:
    ran = run(
        "record", "--", "true", cwd=tmp_path,
        prefix=(deny, str(SYS_PTRACE), str(errno.EPERM)),
    )  # fmt: skip
    assert ran.code == 3
    assert "ptrace" in ran.err.lower()
    assert not (tmp_path / "perf.data").exists()


def test_few_descriptors(tmp_path: Path) -> None:
    """More threads than descriptors: the rest is named, nothing fails."""
    threads = (
        "import threading,time\n"
        "t=[threading.Thread(target=time.sleep,args=(1.5,)) for _ in range(80)]\n"
        "[x.start() for x in t]\n"
        "e=time.time()+0.5\n"
        "while time.time()<e: pass"
    )
    ran = run(
        "record", "-o", tmp_path / "perf.data", "--", sys.executable, "-c", threads,
        prefix=("prlimit", "--nofile=48:48"),
    )  # fmt: skip
    assert ran.code == 0
    assert "open files" in ran.err
    assert sum(len(b) for b in perfxmm.open(str(tmp_path / "perf.data")).snapshots()) >= 50


def test_ctrl_c_ends_cleanly(target: subprocess.Popen[bytes], tmp_path: Path) -> None:
    output = tmp_path / "perf.data"
    recorder = subprocess.Popen(
        [*PERFXMM, "record", "-p", str(target.pid), "-o", output],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 20
    while (not output.exists() or output.stat().st_size < 100_000) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(recorder.pid, signal.SIGINT)
    _, err = recorder.communicate(timeout=20)
    assert recorder.returncode == 0, err
    assert b"Traceback" not in err
    assert b"interrupted" in err
    assert target.poll() is None
    assert perfxmm.open(str(output)).complete


def test_limits_end_the_recording(target: subprocess.Popen[bytes], tmp_path: Path) -> None:
    begun = time.monotonic()
    ran = run("record", "-p", str(target.pid), "-o", tmp_path / "a", "--max-samples", "40")
    assert ran.code == 0
    assert sum(len(b) for b in perfxmm.open(str(tmp_path / "a")).snapshots()) == 40
    ran = run("record", "-p", str(target.pid), "-o", tmp_path / "b", "--max-size", "200K")
    assert ran.code == 0
    assert 150_000 <= (tmp_path / "b").stat().st_size <= 400_000
    ran = run("record", "-p", str(target.pid), "-o", tmp_path / "c", "--duration", "0.5",
              "-D", "200")  # fmt: skip
    assert ran.code == 0
    assert time.monotonic() - begun < 25
    assert target.poll() is None


def test_json_result(tmp_path: Path) -> None:
    import json

    ran = run("record", "--json", "-q", "-o", tmp_path / "perf.data", "--", *busy(0.5))
    assert ran.code == 0
    result = json.loads(ran.out)
    assert result["source"] in ("sigtrap", "pmu")
    assert result["exit_status"] == 0
    assert result["samples"] == sum(
        len(b) for b in perfxmm.open(str(tmp_path / "perf.data")).snapshots(
            keep=("coherent", "late", "entry", "torn", "foreign", "absent", "unknown"))
    )  # fmt: skip
