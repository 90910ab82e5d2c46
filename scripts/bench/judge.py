#!/usr/bin/env python3
"""How fast verdicts are given: by the rules alone, and with the code around the IPs asked.

    python scripts/bench/judge.py [--seconds S] [--json FILE]

Rules: batches of 65,536 written samples, as a PMU with XMM and as `sigtrap` with ZMM and opmasks
delivers them. Code: a recording of compiled SSE, AVX2, AVX-512 and opmask loops (loops.c), its
samples repeated; what is known of a place is kept, as it is after the first sample there. Also the
share of samples that the code proves, and how many it contradicts: all are true.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from common import Row, best_of, parser, report  # noqa: E402
from support.batches import ALL_IN_USE, STOPPED, batch, register_set  # noqa: E402

import perfxmm  # noqa: E402
from perfxmm.analysis.names import CODE_OFFSET  # noqa: E402
from perfxmm.analysis.shown import Policy, attributed_ip  # noqa: E402
from perfxmm.coherence import EventContext, JudgeContext, judge  # noqa: E402
from perfxmm.coherence.witness.apply import apply  # noqa: E402
from perfxmm.coherence.witness.statement import Statement  # noqa: E402
from perfxmm.snapshots.batch import SnapshotBatch  # noqa: E402

RULES_SAMPLES, CODE_SAMPLES = 65_536, 8_192
RULES_LEAST, CODE_LEAST = 5e6, 3e5
LOOPS = Path(__file__).with_name("loops.c")


def fresh(samples: SnapshotBatch) -> SnapshotBatch:
    """The same columns to be judged anew: the filter puts new ones into the sets."""
    return replace(
        samples, sets={name: replace(one) for name, one in samples.sets.items()},
        extra=dict(samples.extra),
    )  # fmt: skip


def rules_row(name: str, samples: SnapshotBatch, context: JudgeContext) -> Row:
    seconds, = best_of(7, lambda: judge(fresh(samples), context))
    return Row(f"rules, {name}", len(samples) / seconds / 1e6, "M/s", at_least=RULES_LEAST / 1e6)


def rules_rows() -> list[Row]:
    n = RULES_SAMPLES
    rng = np.random.default_rng(1)
    cpus = rng.integers(0, 8, n).astype(np.int32)
    xmm = batch(register_set(n, name="intr", abi=2, registers=16, qwords=2), exact_ip=True)
    xmm.cpu[:] = cpus
    legacy = EventContext("L", precise_ip=2, classes={"intr": frozenset({"gpr", "xmm"})})
    values = rng.integers(0, 1 << 64, (n, 32, 8), dtype=np.uint64)
    masks = rng.integers(0, 1 << 64, (n, 8), dtype=np.uint64)
    zmm = batch(
        register_set(n, vectors=values, predicates=masks, xstate_bv=ALL_IN_USE),
        stop_flags=STOPPED,
    )  # fmt: skip
    zmm.cpu[:] = cpus
    merged = EventContext(
        "M", simd_enabled=True, classes={"user": frozenset({"gpr", "zmm", "opmask"})}
    )
    live = batch(register_set(n, vectors=values, predicates=masks))
    live.cpu[:] = cpus
    return [
        rules_row("pmu, 16 XMM", xmm, JudgeContext("pmu", "", (legacy,))),
        rules_row("pmu, ZMM and opmasks", live, JudgeContext("pmu", "", (merged,))),
        rules_row("sigtrap, ZMM and opmasks", zmm, JudgeContext("sigtrap", "perf", (merged,))),
    ]  # fmt: skip


def repeated(samples: SnapshotBatch, count: int) -> SnapshotBatch:
    """So many samples: a batch's own, again and again."""
    own = len(samples)
    chosen = np.arange(count) % own

    def columns(of: Any) -> dict[str, Any]:
        return {
            field.name: value[chosen] for field in fields(of)
            if isinstance(value := getattr(of, field.name), np.ndarray) and len(value) == own
        }  # fmt: skip

    return replace(
        samples, sets={name: replace(s, **columns(s)) for name, s in samples.sets.items()},
        extra={name: column[chosen] for name, column in samples.extra.items()},
        **columns(samples),
    )


def code_rows(directory: Path, seconds: float) -> list[Row]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler here: there are no loops to record")
    program, path = directory / "loops", directory / "loops.data"
    subprocess.run([compiler, "-O2", str(LOOPS), "-o", str(program)], check=True)
    perfxmm.record(
        ["timeout", str(seconds), str(program), "1000000000"], output=str(path), frequency_hz=3999
    )
    recording = perfxmm.open(path)
    batches = list(recording.judged(Policy.of(("all",))))
    statements = [Statement.of(one, name) for one in batches for name in one.sets]
    samples = sum(len(one) for one in batches)
    proved = sum(int(np.count_nonzero(one.proved)) for one in statements)
    wrong = sum(int(np.count_nonzero(one.contradicted)) for one in statements)
    largest = repeated(max(batches, key=len), CODE_SAMPLES)
    context = recording._context()
    ip = attributed_ip(largest)
    assert largest.dso is not None
    dso, offset = largest.dso, largest.extra[CODE_OFFSET]

    def judged() -> SnapshotBatch:
        one = fresh(largest)
        judge(one, context)
        return one

    ready = judged()
    ask_s, both_s = best_of(
        7, lambda: apply(fresh(ready), context, recording.witness, ip, dso, offset),
        lambda: apply(judged(), context, recording.witness, ip, dso, offset),
    )
    places = len(np.unique(offset))
    return [
        Row("code asked, places known", CODE_SAMPLES / ask_s / 1e6, "M/s",
            at_least=CODE_LEAST / 1e6, note=f"{places} places"),
        Row("rules, then code asked", CODE_SAMPLES / both_s / 1e6, "M/s",
            at_least=CODE_LEAST / 1e6),
        Row("snapshots of loops that the code proves", 100 * proved / samples, "%",
            note=f"{proved:,} of {samples:,}"),
        Row("true snapshots that it contradicts", wrong, "samples", at_most=0),
    ]  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="length of the recording")
    chosen = options.parse_args()
    rows = rules_rows()
    with tempfile.TemporaryDirectory() as directory:
        rows += code_rows(Path(directory), chosen.seconds)
    return report("judge", rows, json_file=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
