"""Recordings of every kind that the installed perf makes here, held to what `perf script` says.

All events are ones that need no PMU. What perf record refuses on this machine is left out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support import perf_opinion
from support.workloads import symbol, workload

import perfxmm
from perfxmm.perfdata.reader import Reader

CLOCK = "-e cpu-clock -c 100000"
# Kind -> options of perf record. TARGET and WATCHED are put in.
FILES = {
    "plain": CLOCK,
    "frequency": "-e task-clock -F 3000",
    "zstd": f"-z {CLOCK}",
    "chains": f"-g {CLOCK}",
    "stacks": "--call-graph dwarf,512 -e cpu-clock -c 400000",
    "switches": "-a --switch-events --namespaces --all-cgroups -e cpu-clock -c 1000000",
    "addresses": f"-T -d -W --phys-data --data-page-size --code-page-size {CLOCK}",
    "no times": f"--no-timestamp {CLOCK}",
    "several": "-e cpu-clock/period=100000/,page-faults/period=1/,context-switches/period=1/,dummy",
    "group": "-e {task-clock,cpu-clock,context-switches,page-faults}:S -c 100000",
    "counts read": "-s -e cpu-clock,task-clock -c 200000",
    "one thread": f"--per-thread {CLOCK}",
    "backwards": f"--overwrite --tail-synthesize {CLOCK}",
    "late start": f"-D 5 --sample-cpu {CLOCK}",
    "another clock": f"-k mono --sample-identifier {CLOCK}",
    "user only": "-e cpu-clock:u,page-faults:uk -c 10000",
    "registers": f"--intr-regs=ax,bx --user-regs=ip,sp {CLOCK}",
    "tracepoints": "-a -e sched:sched_switch,sched:sched_wakeup,irq:softirq_entry -c 1",
    "breakpoint": "-e mem:WATCHED:w -c 1",
    "names": "-e cpu-clock/name=Mine,period=200000/,cpu-clock/name=yours:too,period=300000/",
    "build ids": f"--buildid-mmap {CLOCK}",
    "threads": f"--threads {CLOCK}",
}  # fmt: skip
PIPES = {
    "pipe": CLOCK,
    "zstd pipe": f"-z {CLOCK}",
    "pipe of several": "-e cpu-clock/name=Mine,period=100000/u,page-faults/period=1/",
    "pipe of tracepoints": "-e sched:sched_switch,sched:sched_process_fork -c 1",
    "injected pipe": f"{CLOCK} | PERF inject -b",
}


class Recorder:
    """Makes all of them at once: perf record mostly waits."""

    def __init__(self, folder: Path, perf: str) -> None:
        self.folder, self.perf = folder, perf
        self.program = workload("relatives.c", "-no-pie")
        watched = f"{symbol(self.program, 'watched'):#x}"
        self._pool = ThreadPoolExecutor(6)
        self._made: dict[str, Future[Path | str]] = {}
        for kinds, make in ((FILES, self._file), (PIPES, self._pipe)):
            for kind, options in kinds.items():
                self._made[kind] = self._pool.submit(
                    make, kind, options.replace("WATCHED", watched)
                )

    def get(self, kind: str) -> Path:
        made = self._made[kind].result()
        if isinstance(made, str):
            pytest.skip(f"perf record does not do that here: {made}")
        return made

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _file(self, kind: str, options: str) -> Path | str:
        path = self.folder / f"{kind.replace(' ', '-')}.data"
        command = [str(self.program)]
        if kind == "late start":  # perf may wake late on a busy machine: the work is still to come
            command = ["sh", "-c", f"sleep 0.2; exec {self.program}"]
        done = subprocess.run(
            [self.perf, "record", "-q", "-N", "-o", path, *options.split(), "--", *command],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return path if done.returncode == 0 else done.stderr.strip()[-200:]

    def _pipe(self, kind: str, options: str) -> Path | str:
        path = self.folder / f"{kind.replace(' ', '-')}.data"
        options, _, behind = options.partition(" | ")
        command = f"{self.perf} record -q -o - {options} -- {self.program}"
        if behind:
            command += " | " + behind.replace("PERF", self.perf)
        with path.open("wb") as out:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command], stdout=out, stderr=subprocess.PIPE,
                timeout=60, check=False,
            )  # fmt: skip
        return path if done.returncode == 0 else done.stderr.decode().strip()[-200:]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    made = Recorder(tmp_path_factory.mktemp("recorded"), perf_opinion.perf_or_skip())
    yield made
    made.close()


@pytest.mark.parametrize("kind", [*FILES, *PIPES])
def test_samples_are_those_of_perf(recorder: Recorder, kind: str) -> None:
    path = recorder.get(kind)
    said = perf_opinion.perf_script(recorder.perf, path)
    assert said.code == 0, said.error
    perf_opinion.compare(recorder.perf, path, said)
    assert said.lines, "nothing was compared"
    assert perfxmm.open(path).complete


def test_tracepoints_without_their_names(recorder: Recorder) -> None:
    """The names come from the tracing data where nothing else has them."""
    pipe = recorder.get("pipe of tracepoints")
    bare = without_names(pipe.read_bytes())
    path = pipe.with_suffix(".bare")
    path.write_bytes(bare)
    names = [event.name for event in Reader(path).events]
    assert names == ["sched:sched_switch", "sched:sched_process_fork"]
    perf_opinion.compare(recorder.perf, path, perf_opinion.perf_script(recorder.perf, path))


def without_names(pipe: bytes) -> bytes:
    """The stream without its features and updates of events."""
    kept, at = pipe[:16], 16
    while at < len(pipe):
        kind, size = int.from_bytes(pipe[at : at + 4], "little"), pipe[at + 6] | pipe[at + 7] << 8
        end = at + size
        if kind == 66:  # TRACING_DATA, whose payload is behind it
            end += -(-int.from_bytes(pipe[at + 8 : at + 12], "little") // 8) * 8
        if kind not in (78, 80):  # EVENT_UPDATE, HEADER_FEATURE
            kept += pipe[at:end]
        at = end
    return kept


def test_what_a_killed_recorder_leaves(recorder: Recorder, tmp_path: Path) -> None:
    """perf 6.1 to 7.3 refuse such a file: data.size is 0 and the features were never written."""
    path = tmp_path / "killed.data"
    loop = f"while :; do {recorder.program}; done"
    command = [recorder.perf, "record", "-q", "-o", str(path), "-e", "cpu-clock", "-c", "10000"]
    with subprocess.Popen(
        [*command, "timeout", "3", "sh", "-c", loop],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as recording:  # fmt: skip
        for _ in range(40):
            if path.exists() and path.stat().st_size > 1 << 18:
                break
            try:
                recording.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.skip("perf record does not record here")
        recording.kill()
    ran = perf_opinion.perfxmm_script(path)
    assert len(ran.lines) > 1000
    assert ran.code in (0, 5)
    assert "the recorder did not finish" in ran.error or "cut short" in ran.error
    assert not perfxmm.open(path).complete
