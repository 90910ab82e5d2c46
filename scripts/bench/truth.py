#!/usr/bin/env python3
"""How many registers with verdict `coherent` are wrong? None may be.

Records the programs of tests/truth (SSE, AVX2, AVX-512 with opmasks, upper halves and initial
state, NaN payloads, subnormals, libm, signals, system calls, context switches, code made at run
time, threads with the same values) by the sigtrap source, with both engines, until enough
coherent samples have been compared with what the registers must have held.

The engines take their turns at every program: a round is one recording of each, and every third
round is one of single threads. The interrupt engine gives fewer samples in the same time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from common import Row, parser, report  # noqa: E402
from truth.check import Report  # noqa: E402
from truth.harness import (  # noqa: E402
    CROWDS,
    PROGRAMS,
    Program,
    build,
    check_file,
    reasons_as_pmu,
    record,
)

from perfxmm.errors import PerfxmmError  # noqa: E402

# The interrupt engine is slow with more threads than CPUs: its crowd is one process of two.
INTERRUPT_CROWD = (2, 1)
# Reasons that doubt a sample. All of these are true, so each is a false alarm. Whether another
# thread's registers show is asked of interrupts only, so the samples are judged as such once more.
ALARMS = ("code-contradicted", "code-skid")
ALARMS_AS_PMU = ("stale-suspected",)


@dataclass
class Found:
    """as_pmu: samples by reason, see harness.reasons_as_pmu."""

    report: Report
    as_pmu: Counter[str]

    def add(self, other: Found) -> None:
        self.report.add(other.report)
        self.as_pmu.update(other.as_pmu)


def layouts() -> tuple[tuple[str, ...], ...]:
    """Widest, 256 bits, and the legacy one that any perf reads; the widest more often."""
    flags = Path("/proc/cpuinfo").read_text().split()
    widest = ("gpr", "zmm", "opmask") if "avx512bw" in flags else ("gpr", "ymm")
    return (widest, widest, widest, ("gpr", "ymm"), widest, ("gpr", "xmm"))


def built(directory: Path, names: list[str]) -> list[Program]:
    """The programs that this CPU can run; says why of the others."""
    found = []
    for name in names:
        program = build(directory, name)
        refused = program.cannot_run()
        if refused:
            print(f"{name}: skipped, {refused}", file=sys.stderr)
        else:
            found.append(program)
    return found


def one_recording(
    program: Program, engine: str, classes: tuple[str, ...], output: Path, seconds: float, hz: int,
    *, alone: bool,
) -> Found | None:  # fmt: skip
    """Records and checks; None where the program's own check failed. alone: with one thread, if it
    is not about many."""
    threads, processes = CROWDS.get(program.name, (1 if alone else 4, 1))
    if engine == "interrupt":
        threads, processes = (1, 1) if alone else INTERRUPT_CROWD
    output.unlink(missing_ok=True)
    result = record(
        program, output, seconds=seconds, hz=hz, classes=classes, threads=threads,
        processes=processes, engine=engine,
    )  # fmt: skip
    if result.exit_status != 0:
        print(f"{program.name} ended with status {result.exit_status}", file=sys.stderr)
        return None
    return Found(check_file(output, program), reasons_as_pmu(output))


def figures(totals: dict[tuple[str, str], Found], samples: int, elapsed_s: float) -> list[Row]:
    """samples: how many there should be at least."""
    whole = Found(Report(), Counter())
    for found in totals.values():
        whole.add(found)
    every = whole.report
    rows = [
        Row("coherent samples checked", every.coherent.checked, "samples", at_least=samples),
        Row("register words compared", every.coherent.words.total(), "words"),
        Row("false coherent", every.false_coherent, "samples", at_most=0),
        Row("wrong words among them", every.coherent.wrong.total(), "words", at_most=0),
        Row("wrong late samples, held to their own IP", every.late.wrong_samples, "samples",
            at_most=0, note=f"of {every.late.checked} samples"),
        Row("coherent or late outside regions, not checked", every.not_checked, "samples"),
    ]  # fmt: skip
    alarms = {name: every.reasons[name] for name in ALARMS}
    alarms |= {name: whole.as_pmu[name] for name in ALARMS_AS_PMU}
    rows += [
        Row(f"false alarms: {name}", count / max(1, every.samples), at_most=0.001,
            note=f"{count} of {every.samples} samples")
        for name, count in alarms.items()
    ]  # fmt: skip
    rows += [Row("elapsed", elapsed_s, "s")]
    rows += [
        Row(f"{name}, {engine}", part.coherent.checked, "samples", at_least=1,
            note=f"{part.false_coherent} false; {part.coherent.words.total()} words, "
                 f"{part.late.checked} late, {part.not_checked} not checked")
        for (name, engine), part in sorted((key, found.report) for key, found in totals.items())
    ]  # fmt: skip
    return rows


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=1_000_000,
                         help="coherent samples to check, over all programs and engines")
    options.add_argument("--hz", type=int, default=3999, help="samples a second and thread")
    options.add_argument("--seconds", type=float,
                         help="stop after so many, however many samples there are")
    options.add_argument("--length", type=float, default=5.0, help="seconds of one recording")
    options.add_argument("--engine", default="perf,interrupt", help="perf, interrupt or both")
    options.add_argument("--programs", default=",".join(PROGRAMS), help="names, comma-separated")
    options.add_argument("--details", type=Path, metavar="FILE",
                         help="write what was found, by program, engine and region, as JSON")
    chosen = options.parse_args()
    engines = chosen.engine.split(",")
    totals: dict[tuple[str, str], Found] = {}
    with tempfile.TemporaryDirectory() as scratch:
        programs = built(Path(scratch), chosen.programs.split(","))
        begun = time.monotonic()
        deadline = begun + (chosen.seconds or float("inf"))
        done, turn = 0, 0
        while done < chosen.samples and time.monotonic() < deadline and programs:
            before = done
            classes = layouts()[turn % len(layouts())]
            for program in programs:
                for engine in engines:
                    if time.monotonic() >= deadline:
                        break
                    found = one_recording(
                        program, engine, classes, Path(scratch) / "truth.data", chosen.length,
                        chosen.hz, alone=turn % 3 == 2,
                    )  # fmt: skip
                    if found is None:
                        return 1
                    empty = Found(Report(), Counter())
                    totals.setdefault((program.name, engine), empty).add(found)
                    part = found.report
                    done += part.coherent.checked
                    print(f"{program.name}, {engine}, {'+'.join(classes)}: "
                          f"{part.coherent.checked} samples, {part.false_coherent} false; "
                          f"{done} of {chosen.samples}", file=sys.stderr)  # fmt: skip
                    for line in part.first_wrong:
                        print(f"  {line}", file=sys.stderr)
            turn += 1
            if done == before:
                print("no sample could be checked", file=sys.stderr)
                return 1
    if chosen.details is not None:
        by_name: dict[str, dict[str, object]] = {}
        for (name, engine), found in sorted(totals.items()):
            by_name.setdefault(name, {})[engine] = {
                **found.report.to_dict(), "by_reason_as_pmu": dict(found.as_pmu),
            }
        chosen.details.write_text(json.dumps(by_name, indent=1) + "\n")
    samples = 1 if chosen.seconds else chosen.samples
    rows = figures(totals, samples, time.monotonic() - begun)
    return report("truth", rows, json_file=chosen.json)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerfxmmError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
