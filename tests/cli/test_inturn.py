"""Two processes write what one would, and break off as one would."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import PERFXMM
from support.written_recording import AXPY, DOT, Sample, program, write

# Several batches of recording.BATCH_SAMPLES, and a rest.
SAMPLES = 30_000
CPUS = sorted(os.sched_getaffinity(0))
TWO_CPUS = pytest.mark.skipif(len(CPUS) < 2, reason="two processes need two CPUs")
VERBS = (
    ("export", "--format", "jsonl"), ("export", "--format", "jsonl", "--view", "auto"),
    ("export", "--format", "csv"), ("script",), ("script", "-F", "ip,sym,uregs"),
    ("script", "--json"), ("script", "--keep", "coherent"), ("export", "-S", "dot"),
    ("script", "--limit", "20000"),
)  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two symbols and many threads, a third of the samples late, and one thread without values."""
    directory = tmp_path_factory.mktemp("inturn")
    samples = [
        Sample(
            DOT if number % 5 == 0 else AXPY, own_ip=AXPY + 8 if number % 3 == 0 else None,
            words=(number, number * 0x9E3779B97F4A7C15 % (1 << 64), 0, 1), tid=100 + number % 7,
            abi=0 if number % 7 == 3 else 6,
        )
        for number in range(SAMPLES)
    ]  # fmt: skip
    return write(directory / "perf.data", samples, binary=program(directory / "app"))


@pytest.fixture(scope="module")
def exported(recording: Path) -> bytes:
    return _run("export", "-i", recording).stdout


def _run(*arguments: str | Path, cpus: str = "") -> subprocess.CompletedProcess[bytes]:
    """The command as a user would run it; `cpus` for taskset.

    Some seconds on an idle machine: a busy one may take its time, up to pytest's own limit.
    """
    pinned = ["taskset", "-c", cpus] if cpus else []
    return subprocess.run(
        [*pinned, *PERFXMM, *map(str, arguments)], capture_output=True, check=False, timeout=220
    )


@TWO_CPUS
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_bytes_are_those_of_one_process(recording: Path, verb: tuple[str, ...]) -> None:
    alone = _run(*verb, "-i", recording, cpus=str(CPUS[0]))
    both = _run(*verb, "-i", recording)
    assert alone.returncode == both.returncode == 0
    assert len(alone.stdout.splitlines()) > 3000
    assert both.stdout == alone.stdout
    assert both.stderr == alone.stderr


@TWO_CPUS
def test_damage_is_told_once_and_what_can_be_read_is_out(
    recording: Path, tmp_path: Path
) -> None:
    damaged = bytearray(recording.read_bytes())
    for part in (0.4, 0.6):
        middle = int(len(damaged) * part)
        damaged[middle : middle + 4096] = b"\xff" * 4096
    path = tmp_path / "perf.data"
    path.write_bytes(damaged)
    alone = _run("script", "-i", path, cpus=str(CPUS[0]))
    both = _run("script", "-i", path)
    assert both.returncode == alone.returncode == 5
    assert (both.stdout, both.stderr) == (alone.stdout, alone.stderr)
    assert len(alone.stdout) > 1 << 20


@TWO_CPUS
@pytest.mark.parametrize("megabytes", [5, 25, 40, 54])
def test_a_full_file_in_whosever_turn_it_is(
    recording: Path, exported: bytes, tmp_path: Path, megabytes: int
) -> None:
    limit = megabytes * 1_000_000
    assert limit < len(exported)
    out = tmp_path / "out.jsonl"
    done = subprocess.run(
        [*PERFXMM, "export", "-i", recording, "-o", out], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("perfxmm: the export could not be written")
    assert len(done.stderr.splitlines()) == 2
    assert out.read_bytes() == exported[:limit]


def test_a_lean_start_that_leaves_no_trace(recording: Path) -> None:
    """Only what is needed is imported, no thread runs, and the environment is as it was."""
    program = (
        "import os, sys\n"
        "from perfxmm.cli.main import main\n"
        "before = dict(os.environ)\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'pydantic', 'elftools', 'pyarrow', 'iced_x86', 'rich'}\n"
        "print(code, sorted(heavy & set(sys.modules)), before == dict(os.environ),\n"
        "      len(os.listdir('/proc/self/task')), file=sys.stderr)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", program, "script", "-i", str(recording), "--pid", "1"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # The ELF parser: the recording has mappings of a binary that is there.
    assert done.stderr.splitlines()[-1] == "0 ['elftools'] True 1"


class Running:
    """`perfxmm script` whose output nobody reads, so that both processes are there and wait."""

    def __init__(self, recording: Path) -> None:
        self.process = subprocess.Popen(
            [*PERFXMM, "script", "-i", str(recording)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        # Past the first batch, which one process writes alone.
        self.read = len(self.process.stdout.read(12_000_000))
        self.second = self._second()

    def _second(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for _ in range(500):
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise AssertionError("there is no second process")

    def end(self) -> tuple[int, bytes, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err.decode()

    def second_is_gone(self) -> bool:
        for _ in range(500):
            try:
                if Path(f"/proc/{self.second}/stat").read_text().split()[2] == "Z":
                    return True
            except (FileNotFoundError, ProcessLookupError):
                return True
            time.sleep(0.01)
        return False


@pytest.fixture
def running(recording: Path) -> Running:
    return Running(recording)


@TWO_CPUS
def test_a_reader_that_leaves(running: Running) -> None:
    assert running.process.stdout is not None
    running.process.stdout.close()
    running.process.stdout = None
    code, _, err = running.end()
    assert (code, err) == (141, "")
    assert running.second_is_gone()


@TWO_CPUS
def test_ctrl_c_ends_both(running: Running) -> None:
    os.killpg(running.process.pid, signal.SIGINT)
    code, _, err = running.end()
    assert (code, err) == (130, "perfxmm: interrupted\n")
    assert running.second_is_gone()


@TWO_CPUS
def test_the_second_ends_with_the_first(running: Running) -> None:
    running.process.kill()
    code, _, err = running.end()
    assert (code, err) == (-signal.SIGKILL, "")
    assert running.second_is_gone()


@TWO_CPUS
def test_a_second_that_is_killed_is_an_error(running: Running) -> None:
    os.kill(running.second, signal.SIGKILL)
    code, _, err = running.end()
    assert code == 1
    assert err.splitlines()[0] == (
        "perfxmm: the text is not complete: the second process that made it was killed"
    )
