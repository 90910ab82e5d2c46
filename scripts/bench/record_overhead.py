#!/usr/bin/env python3
"""What sampling costs the program, and whether it holds the asked rate.

Runs a fixed amount of AVX2 work (tests/workloads/busy.c) unsampled and by the sigtrap source at
several rates, in turns, and compares the least wall time of each: the program measures itself,
from its first instruction of work to its last, so start-up is no part of it. The rate is samples
per second of the program's own CPU time, as a share of the asked rate. As a floor, plain
`perf record` without registers runs in the same turns, where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from common import Row, parser, report  # noqa: E402
from support.recorded import event, request  # noqa: E402
from support.workloads import workload  # noqa: E402

from perfxmm.sources.sigtrap import SigtrapSource  # noqa: E402
from perfxmm.xstate.components import classes_in  # noqa: E402
from perfxmm.xstate.cpuid import xgetbv  # noqa: E402

# (threads, Hz, wall time at most this much longer); 0 Hz is the unsampled run.
CASES = ((1, 100, 1.03), (1, 1000, 1.12), (1, 4000, 1.50), (4, 1000, 1.15))
LEAST_RATE = 0.95
# (threads, Hz) of the floor.
PEER = (1, 4000)


@dataclass
class Runs:
    """Wall seconds of every run; shares of the asked rate; microseconds of tracer per sample."""

    wall_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, scratch: Path, classes: tuple[str, ...], engine: str) -> None:
        self.program = workload("busy.c", "-mavx2", "-mfma")
        self.scratch = scratch
        self.classes = classes
        self.engine = engine

    def command(self, millions: float, threads: int) -> tuple[str, ...]:
        return (str(self.program), f"{millions:g}", str(threads), str(self.scratch / "told"))

    def run_peer(self, millions: float, threads: int, hz: int, runs: Runs) -> None:
        period_ns = str(1_000_000_000 // hz)
        subprocess.run(
            ["perf", "record", "-q", "-e", "task-clock:u", "-c", period_ns,
             "-o", str(self.scratch / "peer.data"), *self.command(millions, threads)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        runs.wall_s.append(int((self.scratch / "told").read_text().split()[0]) / 1e9)

    def run(self, millions: float, threads: int, hz: int, runs: Runs) -> None:
        told = self.scratch / "told"
        arguments = self.command(millions, threads)
        samples = 0
        if hz:
            samples = SigtrapSource().record(
                request(self.scratch / "out.data", *arguments, force=True, classes=self.classes,
                        events=(event(hz=hz),), engine=self.engine)
            ).samples  # fmt: skip
        else:
            subprocess.run(arguments, check=True)
        wall_ns, cpu_ns, _ = told.read_text().split()
        runs.wall_s.append(int(wall_ns) / 1e9)
        if hz:
            runs.rates.append(samples / (int(cpu_ns) / 1e9 * hz))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=2.0, help="length of one unsampled run")
    options.add_argument("--rounds", type=int, default=7, help="turns of all cases")
    options.add_argument("--engine", default="auto", choices=("auto", "perf", "interrupt"))
    options.add_argument("--classes", default="", help="default: the widest this CPU has")
    chosen = options.parse_args()
    here = ("gpr", *classes_in(xgetbv() or 3))
    classes = tuple(chosen.classes.split(",")) if chosen.classes else here
    found: dict[tuple[int, int], Runs] = {}
    peer = Runs()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), classes, chosen.engine)
        trial = Runs()
        bench.run(200, 1, 0, trial)
        millions = {1: 200 * chosen.seconds / trial.wall_s[0]}
        millions[4] = millions[1] / 2  # four threads on two CPUs take as long
        cases = [(1, 0), (4, 0), *((threads, hz) for threads, hz, _ in CASES)]
        for turn in range(chosen.rounds):
            for threads, hz in cases:
                runs = found.setdefault((threads, hz), Runs())
                bench.run(millions[threads], threads, hz, runs)
            if shutil.which("perf"):
                bench.run_peer(millions[PEER[0]], *PEER, peer)
            print(f"turn {turn + 1} of {chosen.rounds}", file=sys.stderr)
    rows: list[Row] = []
    for threads, hz, at_most in CASES:
        base, sampled = found[threads, 0].wall_s, found[threads, hz]
        turns = [s / b for s, b in zip(sampled.wall_s, base, strict=True)]
        name = f"{threads} thread{'s' if threads > 1 else ''} at {hz} Hz"
        rows.append(Row(f"wall time, {name}", min(sampled.wall_s) / min(base), at_most=at_most,
                        note=f"median of turns {median(turns):.3f}"))  # fmt: skip
        rows.append(Row(f"achieved rate, {name}", median(sampled.rates), at_least=LEAST_RATE))
    if peer.wall_s:
        base = found[PEER[0], 0].wall_s
        turns = [s / b for s, b in zip(peer.wall_s, base, strict=True)]
        rows.append(Row(f"wall time, plain perf record at {PEER[1]} Hz",
                        min(peer.wall_s) / min(base), note=f"median of turns {median(turns):.3f}"))
    return report(f"record_overhead: {'+'.join(classes)}", rows, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
