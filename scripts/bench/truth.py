#!/usr/bin/env python3
"""How many registers with verdict `coherent` are wrong? None may be.

Records tests/truth/truth.c (AVX2 constants, FMA chains, NaN payloads, subnormals, vzeroupper and
vzeroall regions, and AVX-512 with opmasks where the CPU has it; four threads) by the sigtrap
source until enough coherent samples have been compared with what the registers must have held.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from common import Row, parser, report  # noqa: E402
from truth.check import Report  # noqa: E402
from truth.harness import build, check_file, record  # noqa: E402


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=100_000, help="coherent samples to check")
    options.add_argument("--hz", type=int, default=2999, help="samples a second and thread")
    options.add_argument("--seconds", type=float, default=10.0, help="length of one recording")
    options.add_argument("--engine", default="perf", choices=("perf", "interrupt"))
    chosen = options.parse_args()
    flags = Path("/proc/cpuinfo").read_text().split()
    widest = ("gpr", "zmm", "opmask") if "avx512bw" in flags else ("gpr", "ymm")
    # All three layouts in turn: widest, 256 bits, and the legacy one that any perf reads.
    turns = (widest, widest, ("gpr", "ymm"), ("gpr", "xmm"))
    total, runs = Report(), 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        binary = build(Path(scratch))
        while total.coherent.checked < chosen.samples and total.coherent.wrong == 0:
            output = Path(scratch) / "truth.data"
            output.unlink(missing_ok=True)
            before = total.coherent.checked
            result = record(
                binary, output, seconds=chosen.seconds, hz=chosen.hz,
                classes=turns[runs % len(turns)], engine=chosen.engine,
            )  # fmt: skip
            if result.exit_status != 0:
                print(f"the program ended with status {result.exit_status}", file=sys.stderr)
                return 1
            found = check_file(output, binary)
            total.add(found)
            runs += 1
            print(
                f"run {runs}: {'+'.join(turns[(runs - 1) % len(turns)])}, "
                f"{total.coherent.checked - before} samples, "
                f"{total.coherent.checked} of {chosen.samples} checked", file=sys.stderr,
            )  # fmt: skip
            if total.coherent.checked == before:
                print("no sample could be checked", file=sys.stderr)
                return 1
    print(json.dumps(total.to_dict(), indent=1), file=sys.stderr)
    rows = [
        Row("coherent samples checked", total.coherent.checked, "samples",
            at_least=chosen.samples if not total.coherent.wrong else None),
        Row("register words compared", total.coherent.values, "words"),
        Row("wrong among them", total.coherent.wrong, "words", at_most=0),
        Row("wrong among late samples, at their own IP", total.late.wrong, "words", at_most=0,
            note=f"of {total.late.checked} samples"),
        Row("elapsed", time.monotonic() - begun, "s"),
    ]  # fmt: skip
    rows += [
        Row(f"checked in region {name}", tally.checked, "samples", at_least=1)
        for name, tally in sorted(total.regions.items())
    ]
    return report("truth", rows, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
