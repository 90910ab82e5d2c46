#!/usr/bin/env python3
"""What the filter makes of lies: recall and precision of each kind, and false alarms on the truth.

Records programs of tests/truth by the sigtrap source (their registers are true), writes what was
recorded as recordings of each SIMD dialect, with lies of tests/support/liar.py at known places, and
reads them as a user does. Every word shown as coherent is compared with the truth.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from common import Row, parser, report  # noqa: E402
from support.dialect_lies import (  # noqa: E402
    CHANGES,
    PAIRS,
    changed_attr,
    damaged_headers,
    foreign_attr,
    shifted_header,
)
from support.liar import KINDS  # noqa: E402
from support.lie_check import DOUBTS, Found, Score, fitted, look, score, truth_of  # noqa: E402
from support.simd_writer import Truth, recording  # noqa: E402
from support.skews import SkewScore, skew, spoken_bits  # noqa: E402
from support.stepper import BUILDS, can_run, executed, step  # noqa: E402
from support.stepper import build as build_stepped  # noqa: E402
from truth.harness import CROWDS, PROGRAMS, build, record  # noqa: E402

from perfxmm.coherence import Verdict, reason_names  # noqa: E402
from perfxmm.kernel.dialects import O1, O2, R2, R6, M  # noqa: E402

# Share of samples that become lies.
SHARE = 0.1
GROUP_LIMITS = {"ownership": 1.0, "absence": 1.0, "zero fill": 1.0, "torn": 0.99}
MOST_FALSE_ALARMS = 0.001
SKEWS = (1, 2, 3, 4, -1, -2, -3, -4)
LEAST_SKEWS_CAUGHT = 0.95
# Of a program's steps, so many are one sample.
STEPS_A_SAMPLE = 7


def recorded(name: str, directory: Path, seconds: float, hz: int, most: int) -> Truth | None:
    """One program's samples with ZMM and opmasks; None where it cannot run here."""
    program = build(directory, name)
    refused = program.cannot_run()
    if refused:
        print(f"{name}: skipped, {refused}", file=sys.stderr)
        return None
    threads, processes = CROWDS.get(name, (4, 1))
    path = directory / f"{name}.data"
    record(program, path, seconds=seconds, hz=hz, classes=("gpr", "zmm", "opmask"),
           threads=threads, processes=processes)  # fmt: skip
    truth = truth_of(path, most=most)
    path.unlink()
    return truth


def add(one: Score | None, two: Score) -> Score:
    if one is None:
        return two
    reasons = dict(one.by_reason)
    for name, number in two.by_reason.items():
        reasons[name] = reasons.get(name, 0) + number
    return Score(
        one.name, one.group, one.lies + two.lies, one.caught + two.caught, one.late + two.late,
        one.honest + two.honest, one.alarms + two.alarms, one.untrue + two.untrue,
        one.words + two.words, reasons,
    )  # fmt: skip


def dialect_lies(truth: Truth, path: Path) -> tuple[int, int, int, int]:
    """Files, their samples, words shown, and classes shown that hold an untrue word."""
    rng = np.random.default_rng(1)
    files = [(one, foreign_attr(truth, one, two)) for one, two in PAIRS if one is not two]
    for one in (M, O1, O2, R2, R6):
        files += [(one, changed_attr(truth, one, change)) for change in CHANGES.values()]
        files += [(one, shifted_header(truth, one, words)) for words in (-4, -1, 1, 2, 4)]
        files.append((one, damaged_headers(truth, one, rng)))
    words = untrue = 0
    for written, data in files:
        found = look(data, path, fitted(truth, written, tuple(truth.sets)))
        words += found.words
        untrue += sum(int(one.sum()) for one in found.untrue.values())
    return len(files), len(files) * len(truth), words, untrue


def true_alarms(
    truth: Truth, path: Path, side: list[bytes] | None = None
) -> tuple[int, int, dict[str, int]]:
    """Snapshots of a true recording, of these doubted, and by which remark."""
    told = truth.with_sets("user", "intr")
    found: Found = look(recording(told, M, sideband=side or ()), path, told)
    doubted: dict[str, int] = {}
    alarms = 0
    for name in told.sets:
        lost = (found.verdict[name] != np.uint8(Verdict.COHERENT)).any(axis=1)
        for row in np.flatnonzero(lost):
            names = set(reason_names(int(found.reason[name][row])))
            # All registers zero cannot be told from a zero fill, in these dialects: no alarm, but
            # what the program held is not shown either. It is counted apart.
            why = sorted(names & {*DOUBTS, "not-collected"}) or ["other"]
            for reason in why:
                doubted[reason] = doubted.get(reason, 0) + 1
            alarms += why != ["not-collected"]
    return len(told) * len(told.sets), alarms, doubted


def skewed(
    directory: Path, steps: int
) -> tuple[list[tuple[str, SkewScore]], dict[str, Score], int, int]:
    """IPs that are off, by build and steps; lies without a trace where code speaks; and snapshots
    of the true steps, with how many of them were doubted."""
    skews: list[tuple[str, SkewScore]] = []
    kinds: dict[str, Score] = {}
    true = alarms = 0
    for name in BUILDS:
        if not can_run(name):
            print(f"{name}: skipped, this CPU cannot run it", file=sys.stderr)
            continue
        trace = step(build_stepped(directory, name), steps)
        path = directory / "skewed.data"
        spoken = spoken_bits(trace, path)
        skews += [(name, skew(trace, k, spoken, path)) for k in SKEWS]
        count, doubted, why = true_alarms(trace.truth, path, trace.side)
        true, alarms = true + count, alarms + doubted
        print(f"stepped {name}: {count:,} true snapshots, {doubted} doubted {why}",
              file=sys.stderr)  # fmt: skip
        samples = executed(trace.truth, range(0, steps, STEPS_A_SAMPLE))
        samples.time_ns = samples.time_ns[0] + 1000 * np.arange(len(samples), dtype=np.uint64)
        for kind in KINDS:
            if kind.traceless:
                found = score(kind, samples, directory, share=SHARE, side=trace.side)
                kinds[kind.name] = add(kinds.get(kind.name), found)
    return skews, kinds, true, alarms


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--samples", type=int, default=2000, help="of each program (2000)")
    args.add_argument("--seconds", type=float, default=4.0, help="of each recording (4)")
    args.add_argument("--hz", type=int, default=997, help="of each thread (997)")
    args.add_argument("--steps", type=int, default=10_000, help="of each stepped build (10000)")
    args.add_argument("--programs", default=",".join(PROGRAMS), help="of tests/truth")
    asked = args.parse_args()
    begun = time.monotonic()
    kinds: dict[str, Score] = {}
    held: dict[str, object] = {}
    true = alarms = files = dialect_samples = dialect_words = dialect_untrue = 0
    doubts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for number, program in enumerate(asked.programs.split(",")):
            truth = recorded(program, directory, asked.seconds, asked.hz, asked.samples)
            if truth is None:
                continue
            for kind in KINDS:
                found = score(kind, truth, directory, share=SHARE, seed=1 + number)
                kinds[kind.name] = add(kinds.get(kind.name), found)
            samples, doubted, why = true_alarms(truth, directory / "true.data")
            true, alarms = true + samples, alarms + doubted
            for reason, count in why.items():
                doubts[reason] = doubts.get(reason, 0) + count
            some = Truth(
                *(getattr(truth, name)[:200] for name in
                  ("time_ns", "ip", "pid", "tid", "cpu", "misc")), truth.sets,
            ).with_sets("user")  # fmt: skip
            for one in some.sets.values():
                one.abi, one.gprs = one.abi[:200], one.gprs[:200]
                one.vectors, one.predicates = one.vectors[:200], one.predicates[:200]
            counted = dialect_lies(some.with_sets("user", "intr"), directory / "dialect.data")
            files, dialect_samples = files + counted[0], dialect_samples + counted[1]
            dialect_words, dialect_untrue = dialect_words + counted[2], dialect_untrue + counted[3]
            held[program] = {"samples": len(truth), "alarms": doubted, "of": samples, "why": why}
            print(f"{program}: {len(truth):,} samples, {doubted} of {samples:,} doubted {why}",
                  file=sys.stderr)  # fmt: skip
        skews, coded, stepped, stepped_alarms = skewed(directory, asked.steps)
    rows = _table(kinds)
    rows += _skew_rows(skews)
    for one in coded.values():
        rows.append(Row(f"with code: {one.name}", one.recall, "recall",
                        note=f"{one.caught:,} of {one.lies:,}, else silent; precision "
                        f"{one.precision:.4f}"))  # fmt: skip
    rows.append(Row("false alarms on true steps", stepped_alarms / max(stepped, 1), "share",
                    at_most=MOST_FALSE_ALARMS,
                    note=f"{stepped_alarms} of {stepped:,}"))  # fmt: skip
    rows.append(Row("dialect lies: classes shown untrue", dialect_untrue, "classes", at_most=0,
                    note=f"{files} files, {dialect_samples:,} samples, {dialect_words:,} words "
                    "shown"))  # fmt: skip
    rows.append(Row("false alarms on true snapshots", alarms / max(true, 1), "share",
                    at_most=MOST_FALSE_ALARMS, note=f"{alarms} of {true:,} {doubts}"))  # fmt: skip
    told_alarms = sum(one.alarms for one in kinds.values())
    told_true = sum(one.honest for one in kinds.values())
    rows.append(Row("false alarms beside lies", told_alarms / max(told_true, 1), "share",
                    at_most=MOST_FALSE_ALARMS,
                    note=f"{told_alarms} of {told_true:,}"))  # fmt: skip
    missed = report(
        f"lies ({time.monotonic() - begun:.0f} s)", rows, json_file=asked.json
    )
    if asked.json:
        document = json.loads(asked.json.read_text())
        document["kinds"] = [
            {**vars(one), "recall": one.recall, "precision": one.precision}
            for one in kinds.values()
        ]  # fmt: skip
        document["programs"] = held
        document["skews"] = [{"build": name, **vars(one), "recall": one.recall}
                             for name, one in skews]  # fmt: skip
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    return missed


def _table(kinds: dict[str, Score]) -> list[Row]:
    traceless = {kind.name for kind in KINDS if kind.traceless}
    rows = []
    for one in kinds.values():
        limit = GROUP_LIMITS.get(one.group)
        late = f", {one.late} of these shown at their own IP" if one.late else ""
        silent = ", else silent" if one.name in traceless else ""
        rows.append(Row(
            f"{one.group}: {one.name}", one.recall, "recall", at_least=limit,
            note=f"{one.caught:,} of {one.lies:,}{silent}{late}; precision {one.precision:.4f}",
        ))  # fmt: skip
    # What rules alone can see is not to be shown untrue at all.
    seen = [one for one in kinds.values() if one.group in GROUP_LIMITS]
    rows.append(Row(
        "classes shown untrue where a limit holds", sum(one.untrue for one in seen), "classes",
        at_most=0, note=f"{sum(one.words for one in seen):,} words shown",
    ))  # fmt: skip
    return rows


def _skew_rows(skews: list[tuple[str, SkewScore]]) -> list[Row]:
    rows = []
    for name, group in (("later", [one for _, one in skews if one.steps > 0]),
                        ("earlier", [one for _, one in skews if one.steps < 0])):  # fmt: skip
        for steps in (1, 2, 3, 4):
            some = [one for one in group if abs(one.steps) == steps]
            if some:
                rows.append(_skew_row(f"skewed IP: {steps} {name}", some, None))
    if skews:
        everything = [one for _, one in skews]
        rows.append(_skew_row("skewed IP: all", everything, LEAST_SKEWS_CAUGHT))
    return rows


def _skew_row(name: str, some: list[SkewScore], limit: float | None) -> Row:
    def total(field: str) -> int:
        return sum(int(getattr(one, field)) for one in some)

    return Row(
        name, total("caught") / max(total("spoken"), 1), "recall", at_least=limit,
        note=f"{total('caught'):,} of {total('spoken'):,} ({total('late'):,} late); "
        f"{total('words'):,} of {total('skewed'):,} change a register it speaks of; "
        f"{total('proved'):,} uncaught have another class proved; {total('more')} beside",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
