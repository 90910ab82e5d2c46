"""Counts what the filter makes of lies: caught, missed, false alarms, and untrue `coherent` words.

Everything goes through a file: written, opened, decoded and judged as a user's recording is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from support import simd_writer as sw
from support.liar import KERNEL_THREAD, Kind, Lies, Rows, places
from support.simd_writer import GPR_IDS, SetTruth, Truth

from perfxmm.analysis.shown import Policy
from perfxmm.coherence import REASONS, Verdict
from perfxmm.kernel.dialects import Dialect, L
from perfxmm.perfdata import encode
from perfxmm.recording import Recording
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet

Bools = npt.NDArray[np.bool_]
# Remarks that doubt a sample: on a true one they are false alarms.
DOUBTS = ("stale-suspected", "twin-mismatch", "code-contradicted", "code-skid")
_WORDS = {"xmm": (0, 2), "ymm": (2, 4), "zmm": (4, 8)}


@dataclass
class Found:
    """What came out for n written samples, by set. verdict: [n, 5], ABSENT where a sample did not
    come out. untrue: bool [n, 5], shown by default though a word is not the truth's."""

    verdict: dict[str, npt.NDArray[np.uint8]]
    reason: dict[str, npt.NDArray[np.uint64]]
    untrue: dict[str, Bools]
    words: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """lies, caught: falsified snapshots (row and set). late: of those caught, the ones shown at
    their registers' own IP. alarms: true snapshots of which a class lost its `coherent` or was
    doubted, of `honest`. untrue: classes of snapshots shown as coherent with untrue words.
    """

    name: str
    group: str
    lies: int
    caught: int
    late: int
    honest: int
    alarms: int
    untrue: int
    words: int
    by_reason: dict[str, int]

    @property
    def recall(self) -> float:
        return self.caught / self.lies if self.lies else 1.0

    @property
    def precision(self) -> float:
        flagged = self.caught + self.alarms
        return self.caught / flagged if flagged else 1.0


def fitted(truth: Truth, dialect: Dialect, names: Sequence[str]) -> Truth:
    """The truth as a recording of `dialect` can carry it, in the sets named."""
    out = truth.with_sets(*names)
    if dialect is L:
        for one in out.sets.values():
            one.vectors = np.ascontiguousarray(one.vectors[:, :16, :2])
            one.predicates = one.predicates[:, :0]
            one.abi[:] = 2
    return out


def look(data: bytes, path: Path, truth: Truth, dialect: str | None = None) -> Found:
    """Writes `data` to `path`, reads it and compares with `truth` what is shown by default."""
    path.write_bytes(data)
    count = len(truth)
    absent = np.uint8(Verdict.ABSENT)
    found = Found(
        {name: np.full((count, 5), absent) for name in truth.sets},
        {name: np.zeros(count, np.uint64) for name in truth.sets},
        {name: np.zeros((count, 5), np.bool_) for name in truth.sets},
    )
    recording = Recording(str(path), dialect=dialect)
    first = int(truth.time_ns[0])
    step = int(truth.time_ns[1]) - first if count > 1 else 1
    for batch in recording.judged(Policy.of(("all",), unsafe_foreign=True), batch_samples=65_536):
        rows = ((batch.time_ns - np.uint64(first)) // np.uint64(step)).astype(np.intp)
        for name, registers in batch.sets.items():
            if name not in truth.sets:
                continue
            found.verdict[name][rows] = registers.verdict
            found.reason[name][rows] = registers.reason
            wrong, words = _untrue(registers, truth.sets[name], rows)
            found.untrue[name][rows] = wrong
            found.words += words
    found.notes = list(recording.notes)
    return found


def _untrue(registers: RegisterSet, truth: SetTruth, rows: Rows) -> tuple[Bools, int]:
    """Bool [len(rows), 5]: believed, and a word of the class is not the truth's. Words compared."""
    out = np.zeros((len(rows), 5), np.bool_)
    believed = registers.verdict == np.uint8(Verdict.COHERENT)
    words = 0
    for column, number in enumerate(registers.gpr_ids):
        if number in GPR_IDS:
            there = (registers.gpr_mask >> np.uint64(number) & np.uint64(1)) != 0
            there &= believed[:, 0]
            differ = registers.gprs[:, column] != truth.gprs[rows, GPR_IDS.index(number)]
            out[:, 0] |= there & differ
            words += int(there.sum())
    for column, name in enumerate(VERDICT_CLASSES):
        if name not in _WORDS:
            continue
        first, end = _WORDS[name]
        for register in range(registers.vectors.shape[1]):
            there = (registers.vector_mask >> np.uint32(register) & np.uint32(1)) != 0
            there &= believed[:, column] & (registers.delivered_qwords >= end)
            if register >= truth.vectors.shape[1]:
                out[:, column] |= there
                continue
            theirs = truth.vectors[rows, register, first:end]
            differ = (registers.vectors[:, register, first:end] != theirs).any(axis=1)
            out[:, column] |= there & differ
            words += int(there.sum()) * (end - first)
    for register in range(registers.predicates.shape[1]):
        there = (registers.predicate_mask >> np.uint8(register) & np.uint8(1)) != 0
        there &= believed[:, 4]
        out[:, 4] |= there & (registers.predicates[:, register] != truth.predicates[rows, register])
        words += int(there.sum())
    return out, words


def truth_of(path: Path, *, most: int = 1 << 62) -> Truth:
    """The samples of a true recording that are coherent in every class it asked for: the `sigtrap`
    source reads a stopped thread, so these are what the registers held."""
    recording = Recording(str(path))
    parts: list[Truth] = []
    for batch in recording.judged(Policy.of(("all",)), batch_samples=65_536):
        user = batch.sets["user"]
        fine = np.isin(user.verdict, [int(Verdict.COHERENT), int(Verdict.ABSENT)]).all(axis=1)
        rows = np.flatnonzero(fine & (user.abi == 6))
        gprs = np.stack([_gpr(user, number)[rows] for number in GPR_IDS], axis=1)
        one = SetTruth(
            user.abi[rows].astype(np.uint64), gprs, user.vectors[rows], user.predicates[rows]
        )
        parts.append(Truth(
            batch.time_ns[rows], batch.ip[rows], batch.pid[rows], batch.tid[rows],
            batch.cpu[rows], np.full(len(rows), 2, np.uint16), {"user": one},
        ))  # fmt: skip
    joined = _joined(parts)
    count = min(len(joined), most)
    # Evenly spaced times stand for row numbers.
    joined.time_ns = 1_000_000_000 + 1000 * np.arange(len(joined), dtype=np.uint64)
    return joined if count == len(joined) else _cut(joined, count)


def _gpr(registers: RegisterSet, number: int) -> npt.NDArray[np.uint64]:
    column = registers.gpr(number)
    assert column is not None
    return column


def _joined(parts: Sequence[Truth]) -> Truth:
    def both(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(part, name) for part in parts])

    one = SetTruth(*(
        np.concatenate([getattr(part.sets["user"], name) for part in parts])
        for name in ("abi", "gprs", "vectors", "predicates")
    ))  # fmt: skip
    columns = [both(name) for name in ("time_ns", "ip", "pid", "tid", "cpu", "misc")]
    return Truth(*columns, {"user": one})  # type: ignore[arg-type]


def _cut(truth: Truth, count: int) -> Truth:
    one = truth.sets["user"]
    return Truth(
        truth.time_ns[:count], truth.ip[:count], truth.pid[:count], truth.tid[:count],
        truth.cpu[:count], truth.misc[:count],
        {"user": SetTruth(one.abi[:count], one.gprs[:count], one.vectors[:count],
                          one.predicates[:count])},
    )  # fmt: skip


def sideband() -> list[bytes]:
    """Names: the threads' program, and who is a kernel thread."""
    return [
        encode.comm_record(2, 2, "kthreadd"), encode.comm_record(100, 100, "truth"),
        encode.fork_record(KERNEL_THREAD, 2, KERNEL_THREAD, 2, 1),
        encode.comm_record(KERNEL_THREAD, KERNEL_THREAD, "kworker/0:1"),
    ]  # fmt: skip


def file_of(kind: Kind, told: Truth, side: Sequence[bytes]) -> bytes:
    return sw.recording(
        told, kind.dialect, precise_ip=kind.precise_ip, exclude_kernel=kind.exclude_kernel,
        release=kind.release, sideband=side,
    )


def score(
    kind: Kind, truth: Truth, directory: Path, *, share: float = 0.1, seed: int = 1,
    side: Sequence[bytes] | None = None,
) -> Score:
    """Tells lies of one kind in a share of the samples and counts what becomes of them."""
    rng = np.random.default_rng(seed)
    side = sideband() if side is None else side
    honest = fitted(truth, kind.dialect, kind.sets)
    path = directory / f"{kind.name}.data"
    before = look(file_of(kind, honest, side), path, honest)
    lies = kind.tell(honest, places(len(honest), share, rng), rng)
    after = look(file_of(kind, lies.told, side), path, honest)
    return count(kind, honest, lies, before, after)


def count(kind: Kind, honest: Truth, lies: Lies, before: Found, after: Found) -> Score:
    """Adds up one comparison of a file before and after the lies."""
    coherent, late_code = np.uint8(Verdict.COHERENT), np.uint8(Verdict.LATE)
    touched = {name: np.zeros((len(honest), 5), np.bool_) for name in honest.sets}
    told = caught = late = 0
    reasons: dict[str, int] = {}
    for claim in lies.claims:
        if claim.set not in honest.sets:
            continue
        columns = [VERDICT_CLASSES.index(name) for name in claim.classes]
        touched[claim.set][np.ix_(claim.rows, columns)] = True
        # What was never delivered cannot be missed.
        absent = np.uint8(Verdict.ABSENT)
        at_stake = before.verdict[claim.set][np.ix_(claim.rows, columns)] != absent
        verdict = after.verdict[claim.set][np.ix_(claim.rows, columns)]
        rows = at_stake.any(axis=1)
        missed = (at_stake & (verdict == coherent)).any(axis=1)
        told += int(rows.sum())
        caught += int((rows & ~missed).sum())
        late += int((rows & ~missed & (verdict == late_code).any(axis=1)).sum())
        for name, number in _reasons(after.reason[claim.set][claim.rows[rows & ~missed]]):
            reasons[name] = reasons.get(name, 0) + number
    true = alarms = untrue = 0
    doubts = np.uint64(sum(REASONS[name].mask for name in DOUBTS if name in REASONS))
    for name in honest.sets:
        # A row in which anything was falsified is no true snapshot.
        rows = ~np.any([mask.any(axis=1) for mask in touched.values()], axis=0)
        stood = before.verdict[name] == coherent
        lost = stood & (after.verdict[name] != coherent)
        doubted = ((after.reason[name] & doubts) != 0) & stood.any(axis=1)
        true += int(rows.sum())
        alarms += int((rows & (lost.any(axis=1) | doubted)).sum())
        untrue += int(after.untrue[name].sum())
    return Score(
        kind.name, kind.group, told, caught, late, true, alarms, untrue, after.words, reasons
    )


def _reasons(bits: npt.NDArray[np.uint64]) -> Iterator[tuple[str, int]]:
    for name, reason in REASONS.items():
        number = int(np.count_nonzero(bits & np.uint64(reason.mask)))
        if number:
            yield name, number


__all__ = ["Found", "Score", "count", "file_of", "fitted", "look", "score", "sideband", "truth_of"]
