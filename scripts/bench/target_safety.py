#!/usr/bin/env python3
"""Does the target survive? Attach and detach cycles, and SIGKILLs of the recorder.

The target (tests/workloads/family.c, mode guard) has four busy threads and handlers that count
every signal. After each cycle it must be alive, running, untraced and without a pending signal; at
the end it tells how many signals it got: none is the figure.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from common import Row, parser, report  # noqa: E402
from support.recorded import request  # noqa: E402
from support.workloads import workload  # noqa: E402

from perfxmm.sources.sigtrap import SigtrapSource  # noqa: E402

RECORDER = (
    "import sys; sys.path[:0] = sys.argv[1].split(':');"
    "from support.recorded import request;"
    "from perfxmm.sources.sigtrap import SigtrapSource;"
    "SigtrapSource().record(request(sys.argv[2], pids=(int(sys.argv[3]),), hz=int(sys.argv[4]),"
    " force=True), progress=lambda n, s: n and print(n, flush=True))"
)
FREE_WITHIN_S = 20.0


class Target:
    """A guarded program; a new one takes its place when it dies.

    Niced: its threads take all CPUs, and the cycles are to get on.
    """

    def __init__(self) -> None:
        self.deaths = self.stops = self.pending = self.traps = self.signals = 0
        self.process = self._start()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["nice", workload("family.c"), "guard"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def _threads(self) -> list[dict[str, str]]:
        found = []
        for path in Path(f"/proc/{self.process.pid}/task").iterdir():
            lines = (path / "status").read_text().splitlines()
            found.append({k: v.strip() for k, _, v in (line.partition(":") for line in lines)})
        return found

    def check(self) -> None:
        """Waits until nobody traces it, then looks at it."""
        deadline = time.monotonic() + FREE_WITHIN_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if all(t["TracerPid"] == "0" for t in self._threads()):
                break
            time.sleep(0.005)
        if self.process.poll() is not None:
            self.deaths += 1
            self.process = self._start()
            return
        threads = self._threads()
        self.stops += any(t["State"][0] in "tT" or t["TracerPid"] != "0" for t in threads)
        self.pending += any(int(t["SigPnd"], 16) | int(t["ShdPnd"], 16) for t in threads)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        said = self.process.communicate()[0].split()
        if len(said) == 4:
            self.traps += int(said[1])
            self.signals += int(said[3])


def kill_once(target: Target, output: Path, hz: int, delay: random.Random) -> bool:
    """Starts a recorder, kills it some time after its first samples; whether it got that far."""
    record = subprocess.Popen(
        [sys.executable, "-c", RECORDER, f"{ROOT}:{ROOT / 'tests'}", str(output),
         str(target.process.pid), str(hz)], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert record.stdout is not None
    sampling = bool(record.stdout.readline())
    time.sleep(delay.uniform(0, 0.1))
    record.kill()
    record.communicate()
    return sampling


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--cycles", type=int, default=500, help="attach and detach cycles")
    options.add_argument("--kills", type=int, default=100, help="SIGKILLs of the recorder")
    options.add_argument("--hz", type=int, default=1999)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--short", action="store_true", help="20 cycles and 5 kills")
    chosen = options.parse_args()
    cycles, kills = (20, 5) if chosen.short else (chosen.cycles, chosen.kills)
    delay = random.Random(chosen.seed)
    samples = killed_sampling = 0
    cycled = Target()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.data"
        for n in range(cycles):
            result = SigtrapSource().record(
                request(output, pids=(cycled.process.pid,), hz=chosen.hz, force=True,
                        duration_s=delay.uniform(0.01, 0.15))
            )  # fmt: skip
            samples += result.samples
            cycled.check()
            if n % 50 == 49:
                print(f"{n + 1} of {cycles} cycles", file=sys.stderr)
        cycled.end()
        killed = Target()
        for n in range(kills):
            killed_sampling += kill_once(killed, output, chosen.hz, delay)
            killed.check()
            if n % 25 == 24:
                print(f"{n + 1} of {kills} kills", file=sys.stderr)
        killed.end()
    rows = [
        Row("attach and detach cycles", cycles, "cycles", note=f"{samples} samples"),
        Row("recorders killed while sampling", killed_sampling, "kills", at_least=kills),
    ]
    for name, target in (("cycles", cycled), ("kills", killed)):
        rows += [
            Row(f"targets that died ({name})", target.deaths, "targets", at_most=0),
            Row(f"targets left stopped or traced ({name})", target.stops, "targets", at_most=0),
            Row(f"signals left pending ({name})", target.pending, "targets", at_most=0),
            Row(f"stray SIGTRAPs ({name})", target.traps, "signals", at_most=0),
            Row(f"other stray signals ({name})", target.signals, "signals", at_most=0),
        ]
    return report("target_safety", rows, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
