"""Builds the truth programs, records them by the sigtrap source and checks the recordings."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.judging import judge_context
from truth.check import Report, check, count_reasons, labels

import perfxmm
from perfxmm.coherence import judge
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import Decoder
from perfxmm.sources.base import RecordRequest, RecordResult, RequestedEvent
from perfxmm.sources.sigtrap.source import SigtrapSource

SOURCES = Path(__file__).with_name("programs")
TASK_CLOCK = 1  # PERF_COUNT_SW_TASK_CLOCK, include/uapi/linux/perf_event.h, Linux 7.3
NO_CPU = 77  # a program's exit status where the CPU lacks what it needs
PROGRAMS = (
    "sse", "avx2", "avx512", "upper", "nan", "subnormal", "libm", "signals", "syscalls",
    "switches", "jit", "alike",
)  # fmt: skip
# Threads and processes that show what a program is about.
CROWDS = {"switches": (8, 3), "syscalls": (4, 2), "jit": (4, 2)}


@dataclass(frozen=True)
class Program:
    """A built program. places: its labels, which the binary itself lacks: as in any program, its
    symbols are functions."""

    name: str
    binary: Path
    places: dict[str, int]

    def command(self, seconds: float, threads: int, processes: int = 1) -> tuple[str, ...]:
        return (str(self.binary), f"{seconds:g}", str(threads), str(processes))

    def cannot_run(self) -> str | None:
        """Why not on this CPU, or None. Runs it shortly; raises AssertionError where the program's
        own check fails."""
        done = subprocess.run(
            self.command(0.02, 2), capture_output=True, timeout=60, check=False, text=True
        )
        assert done.returncode in (0, NO_CPU), done.stderr
        return done.stderr.strip() if done.returncode else None


def build(directory: Path, name: str) -> Program:
    """One program, built in `directory`. Raises CalledProcessError where gcc refuses it."""
    binary, labelled = directory / name, directory / f"{name}.labels"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-no-pie", "-pthread", "-o", labelled,
         SOURCES / f"{name}.c", "-lm"],
        check=True, timeout=120,
    )  # fmt: skip
    inner = [f"--strip-symbol=truth_*_{label}" for label in ("begin", "end", "[0-9]")]
    subprocess.run(
        ["objcopy", "--wildcard", *inner, labelled, binary], check=True, timeout=60
    )
    return Program(name, binary, labels(labelled))


def record(
    program: Program, output: Path, *, seconds: float, hz: int, classes: Collection[str],
    threads: int = 4, processes: int = 1, engine: str = "perf", max_samples: int | None = None,
) -> RecordResult:
    """One recording of a program, at `hz` samples a second and thread."""
    attr = EventAttr(
        type=PerfType.SOFTWARE, config=TASK_CLOCK, sample_period=hz,
        flags=int(AttrFlag.FREQ | AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV),
    )  # fmt: skip
    request = RecordRequest(
        events=(RequestedEvent("task-clock:u", attr),), classes=tuple(classes),
        output=str(output), command=program.command(seconds, threads, processes), engine=engine,
        max_samples=max_samples,
    )  # fmt: skip
    return SigtrapSource().record(request)


def batches(recording: Path) -> Iterator[SnapshotBatch]:
    """A recording as anyone reads it: decoded and judged, with nothing left out."""
    return perfxmm.open(recording).snapshots(keep=("all",))


def check_file(recording: Path, program: Program) -> Report:
    """Decodes, judges and checks a recording of the program."""
    return check(batches(recording), program.name, program.places)


def reasons_as_pmu(recording: Path) -> Counter[str]:
    """How many samples would carry which reason, had the PMU's interrupts taken them.

    Every snapshot of these programs is true: a reason that doubts one is a false alarm.
    """
    reader = Reader(str(recording))
    context = judge_context(reader, source="")
    decoder = Decoder(reader.events, stop_info=True)
    found: Counter[str] = Counter()
    for block in reader.ordered_blocks(block_records=8192):
        batch = decoder.decode(block)
        judge(batch, context)
        for registers in batch.sets.values():
            count_reasons(registers.reason, found)
    return found
