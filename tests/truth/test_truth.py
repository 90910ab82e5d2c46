"""Registers sampled from self-checking programs are what the programs must have held.

The short form of scripts/bench/truth.py. It needs gcc, a CPU with AVX2 and FMA, perf_event_open and
ptrace; without one of them it skips and says so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from truth.check import REGIONS, Report
from truth.harness import CROWDS, PROGRAMS, Program, build, check_file, reasons_as_pmu, record

from perfxmm.errors import PermissionDenied

ENOUGH = 250
PATIENCE_S = 120
# Between regions a program runs C code; libm.c is about what is not its own.
MOST_OUTSIDE = {"libm": 0.6, "signals": 0.3}


def cpu_flags() -> set[str]:
    text = Path("/proc/cpuinfo").read_text()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


WIDE = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= cpu_flags()
WIDEST = ("gpr", "zmm", "opmask") if WIDE else ("gpr", "ymm")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    """Programs that were built so far."""
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no gcc and binutils to build the programs with")
    return {}


@pytest.fixture
def program(
    request: pytest.FixtureRequest, built: dict[str, Program],
    tmp_path_factory: pytest.TempPathFactory,
) -> Program:  # fmt: skip
    name = request.param
    if name not in built:
        built[name] = build(tmp_path_factory.mktemp(name), name)
    refused = built[name].cannot_run()
    if refused:
        pytest.skip(f"{name}: {refused}")
    return built[name]


def sampled(
    program: Program, output: Path, *, enough: Callable[[Report], bool], seconds: float, hz: int,
    threads: int, processes: int = 1, classes: tuple[str, ...] = WIDEST, engine: str = "perf",
) -> Report:  # fmt: skip
    """Recordings of the program until there is enough: a loaded machine gives little at a time."""
    report = Report()
    deadline = time.monotonic() + PATIENCE_S
    turn = 0
    while not turn or (not enough(report) and time.monotonic() < deadline):
        one = output.with_name(f"{output.stem}-{turn}.data")
        try:
            result = record(
                program, one, seconds=seconds, hz=hz, classes=classes, threads=threads,
                processes=processes, engine=engine,
            )  # fmt: skip
        except PermissionDenied as error:
            pytest.skip(f"cannot sample here: {error}")
        assert result.exit_status == 0  # the program's own check passed while it was sampled
        report.add(check_file(one, program))
        # Not even where another source's rules would doubt it.
        doubts = reasons_as_pmu(one)["stale-suspected"]
        assert doubts == 0 or (program.name == "alike" and doubts < 10)
        turn += 1
    return report


def checked(count: int) -> Callable[[Report], bool]:
    return lambda report: report.coherent.checked >= count


@pytest.mark.parametrize("program", PROGRAMS, indirect=True)
def test_no_coherent_register_is_wrong(program: Program, tmp_path: Path) -> None:
    threads, processes = CROWDS.get(program.name, (4, 1))
    report = sampled(
        program, tmp_path / "perf.data", enough=checked(ENOUGH), seconds=0.5, hz=2999,
        threads=threads, processes=processes,
    )  # fmt: skip
    assert report.first_wrong == []
    assert (report.false_coherent, report.late.wrong_samples) == (0, 0)
    assert report.coherent.checked >= ENOUGH
    assert report.not_checked <= report.samples * MOST_OUTSIDE.get(program.name, 0.1)
    # The code never speaks against what is true, and for it where it proves something.
    assert [name for name in report.reasons if name in ("code-contradicted", "code-skid")] == []
    if program.name in ("avx2", "upper", "nan"):
        assert report.reasons["code-proved"] > 0
    # Whole sets were compared: four words of general registers, and what vectors are known.
    words = report.coherent.words
    high = all(region.high for region in REGIONS[program.name])
    assert words["gpr"] <= report.coherent.checked * 4
    if WIDE and high:
        assert words["zmm"] == report.coherent.checked * (16 * 4 + 16 * 8)
        assert words["opmask"] == report.coherent.checked * 8
    if high or program.name == "sse":
        assert words["gpr"] == report.coherent.checked * 4
        assert words["xmm"] == words["ymm"] == report.coherent.checked * 32


@pytest.mark.parametrize("program", ["avx2", "avx512", "signals", "jit"], indirect=True)
def test_interrupt_engine(program: Program, tmp_path: Path) -> None:
    report = sampled(
        program, tmp_path / "interrupt.data", enough=checked(50), seconds=0.4, hz=1999, threads=1,
        engine="interrupt",
    )  # fmt: skip
    assert report.first_wrong == []
    assert (report.false_coherent, report.late.wrong_samples) == (0, 0)
    assert report.coherent.checked >= 50


@pytest.mark.parametrize("classes", [("gpr", "ymm"), ("gpr", "xmm")])
@pytest.mark.parametrize("program", ["upper"], indirect=True)
def test_narrower_classes(program: Program, tmp_path: Path, classes: tuple[str, ...]) -> None:
    report = sampled(
        program, tmp_path / "narrow.data", enough=checked(100), seconds=0.4, hz=1999, threads=2,
        classes=classes,
    )  # fmt: skip
    assert report.first_wrong == []
    assert (report.false_coherent, report.late.wrong_samples) == (0, 0)
    assert report.coherent.checked >= 100
    words = {"gpr": 4, "xmm": 32} | ({"ymm": 32} if classes[1] == "ymm" else {})
    assert report.coherent.words == {
        name: count * report.coherent.checked for name, count in words.items()
    }


@pytest.mark.parametrize("program", ["signals"], indirect=True)
def test_handlers_are_seen_and_blocked_traps_are_late(program: Program, tmp_path: Path) -> None:
    """A handler that blocks all signals holds the trap up: what is sampled then is its own IP's,
    not the event's."""

    def enough(report: Report) -> bool:
        return "signals_handler" in report.regions and report.late.checked > 0

    report = sampled(
        program, tmp_path / "signals.data", enough=enough, seconds=1.5, hz=3999, threads=3
    )
    assert report.regions["signals_handler"].checked > 0
    assert report.late.checked > 0
    assert (report.false_coherent, report.late.wrong_samples) == (0, 0)
    assert "signals_masked" not in report.regions
