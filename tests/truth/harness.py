"""Builds truth.c, records it by the sigtrap source and checks the recording."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path

from support.judging import judge_context
from truth.check import Report, check, labels

from perfxmm.coherence import judge
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder
from perfxmm.sources.base import RecordRequest, RecordResult, RequestedEvent
from perfxmm.sources.sigtrap.source import SigtrapSource

SOURCE = Path(__file__).with_name("truth.c")
TASK_CLOCK = 1  # PERF_COUNT_SW_TASK_CLOCK, include/uapi/linux/perf_event.h, Linux 7.3
NO_AVX2 = 77


def build(directory: Path) -> Path:
    """The program, built in `directory`. Raises CalledProcessError where gcc refuses it."""
    binary = directory / "truth"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-no-pie", "-pthread", "-o", binary, SOURCE],
        check=True, timeout=120,
    )  # fmt: skip
    return binary


def record(
    binary: Path, output: Path, *, seconds: float, hz: int, classes: Collection[str],
    threads: int = 4, engine: str = "perf", max_samples: int | None = None,
) -> RecordResult:
    """One recording of the program, at `hz` samples a second and thread."""
    attr = EventAttr(
        type=PerfType.SOFTWARE, config=TASK_CLOCK, sample_period=hz,
        flags=int(AttrFlag.FREQ | AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV),
    )  # fmt: skip
    request = RecordRequest(
        events=(RequestedEvent("task-clock:u", attr),), classes=tuple(classes),
        output=str(output), command=(str(binary), f"{seconds:g}", str(threads)), engine=engine,
        max_samples=max_samples,
    )  # fmt: skip
    return SigtrapSource().record(request)


def check_file(recording: Path, binary: Path) -> Report:
    """Decodes, judges and checks a recording, block by block."""
    reader = Reader(str(recording))
    context = judge_context(reader)
    decoder = Decoder(reader.events, stop_info=context.source == "sigtrap")
    places = labels(binary)
    report = Report()
    for block in reader.blocks():
        batch = decoder.decode(block)
        judge(batch, context)
        check([batch], places, report)
    return report
