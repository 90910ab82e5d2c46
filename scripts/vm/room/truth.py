"""Every register of every snapshot against what the program held, which its own line tells.

The constants are computed here a second time, apart from guest/holder.c. A value of the pattern
says whose it is, so another program's registers are found wherever they turn up, also outside the
regions and whatever the verdict.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import perfxmm.recording
from perfxmm.coherence.verdicts import Verdict
from perfxmm.kernel.registers import GPR_ID
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

KEEP, UPPER, INIT = 0, 1, 2           # guest/hold.h, enum upkeep
HANDLER_FAMILY = 0x80                 # guest/holder.c
MARKER = np.uint64(int.from_bytes(b"KERNMARK", "little"))   # guest/marker/marker.c
CLASS_WORDS = {"xmm": slice(0, 2), "ymm": slice(2, 4), "zmm": slice(4, 8)}


def constants(family: int) -> tuple[U64, U64]:
    """Vectors [32, 8] and opmasks [8] of one family: `constant` of guest/holder.c."""
    number = np.arange(32, dtype=np.uint64)[:, None]
    qword = np.arange(8, dtype=np.uint64)[None, :]
    fixed = np.uint64(family << 56 | 0xA5 << 48 | 0x5A5A)
    masks = np.uint64(family << 56 | 0xA5 << 48 | 0x5A5A) | (
        np.arange(8, dtype=np.uint64) + np.uint64(0x40)) << np.uint64(32)
    return fixed | number << np.uint64(32) | qword << np.uint64(16), masks


def families(values: U64) -> U64:
    """The family of each value that has the pattern; 0 for all others."""
    marked = ((values >> np.uint64(48)) & np.uint64(0xFF) == np.uint64(0xA5)) & (
        values & np.uint64(0xFFFF) == np.uint64(0x5A5A))
    return np.where(marked, values >> np.uint64(56), np.uint64(0))


@dataclass(frozen=True)
class Region:
    """Between begin and end (IPs) the registers hold `family` after `upkeep`."""

    begin: int
    end: int
    family: int
    upkeep: int

    def expected(self, wide: bool) -> tuple[U64, U64]:
        """Vectors [16 or 32, 4 or 8] and opmasks [0 or 8]."""
        vectors, masks = constants(self.family)
        if self.upkeep == UPPER:
            vectors[:16, 2:] = 0
        elif self.upkeep == INIT:
            vectors[:], masks[:] = 0, 0
        return (vectors, masks) if wide else (vectors[:16, :4], masks[:0])


@dataclass(frozen=True)
class Holder:
    """One thread of the guest that held constants, or a shadow stack."""

    tid: int
    way: str
    families: frozenset[int]
    wide: bool
    regions: tuple[Region, ...]
    shadow: tuple[tuple[int, int, int], ...]   # (begin, end, SSP)
    failures: int                              # wrong values that the program itself saw


def read_holders(*texts: bytes) -> list[Holder]:
    """The lines that the guest's programs printed. Raises ValueError for a line cut short."""
    holders = []
    for line in b"".join(texts).decode().splitlines():
        told = json.loads(line)
        regions = tuple(Region(*row) for row in told.get("regions", ()))
        holders.append(Holder(
            tid=told["tid"], way=told["way"], families=frozenset(r.family for r in regions),
            wide=bool(told.get("wide")), regions=regions,
            shadow=tuple((*row,) for row in told.get("ssp", ())),
            failures=told.get("failures", told.get("moved", 0)),
        ))
    return holders


@dataclass
class Tally:
    """What was found in one recording.

    snapshots: samples in it. verdicts: (class, verdict) -> samples. compared, wrong: class ->
    samples whose verdict is coherent and whose IP lies in a region, and those of them with a
    value that differs. not_believed: class -> samples in a region with another verdict.
    strangers: samples with a value of a family that is not the thread's own, any verdict;
    strangers_believed: those with a coherent class that holds it. marked, marked_believed:
    likewise with the kernel's marker. marker_bytes: places of the marker in the file's bytes.
    by_way: samples in a region by what the program did. self_failures: wrong values that the
    programs themselves saw. damage: what the reader found wrong in the file.
    """

    snapshots: int = 0
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    not_believed: Counter[str] = field(default_factory=Counter)
    by_way: Counter[str] = field(default_factory=Counter)
    strangers: int = 0
    strangers_believed: int = 0
    marked: int = 0
    marked_believed: int = 0
    marker_bytes: int = 0
    self_failures: int = 0
    damage: int = 0
    examples: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "snapshots": self.snapshots, "compared": dict(self.compared), "wrong": dict(self.wrong),
            "not_believed": dict(self.not_believed), "by_way": dict(self.by_way),
            "strangers": self.strangers, "strangers_believed": self.strangers_believed,
            "marked": self.marked,
            "marked_believed": self.marked_believed, "marker_bytes": self.marker_bytes,
            "self_failures": self.self_failures, "damage": self.damage,
            "verdicts": {f"{name} {verdict}": count
                         for (name, verdict), count in sorted(self.verdicts.items())},
            "examples": self.examples,
        }

    def note(self, text: str) -> None:
        if len(self.examples) < 10:
            self.examples.append(text)


def check(path: Path, holders: Sequence[Holder], recorder: int = -1) -> Tally:
    """All snapshots of a recording against the truth. Values are looked at whatever the verdict.

    recorder: process that wrote the recording; it moves other programs' values through registers
    of its own when it copies samples, so constants in it are no strangers.
    """
    tally = Tally(self_failures=sum(holder.failures for holder in holders))
    by_tid = {holder.tid: holder for holder in holders}
    recording = perfxmm.recording.open(path)
    for batch in recording.snapshots(keep=("all",), unsafe_foreign=True):
        registers = batch.sets.get("intr")
        tally.snapshots += len(batch)
        if registers is not None:
            _check_batch(batch, registers, by_tid, recorder, tally)
    tally.damage = len(recording.damage)
    tally.marker_bytes = path.read_bytes().count(b"KERNMARK")
    return tally


def _check_batch(batch: SnapshotBatch, registers: RegisterSet, by_tid: Mapping[int, Holder],
                 recorder: int, tally: Tally) -> None:
    for column, name in enumerate(VERDICT_CLASSES):
        codes, counts = np.unique(registers.verdict[:, column], return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            tally.verdicts[name, Verdict(code).label] += count
    _look_for_strangers(batch, registers, by_tid, recorder, tally)
    for tid in np.unique(batch.tid).tolist():
        holder = by_tid.get(tid)
        if holder is None:
            continue
        own = batch.tid == tid
        for region in holder.regions:
            rows = np.flatnonzero(own & (batch.ip >= region.begin) & (batch.ip < region.end))
            if len(rows):
                tally.by_way[holder.way] += len(rows)
                _compare(batch, registers, rows, region, holder.wide, tally)
        for begin, end, pointer in holder.shadow:
            rows = np.flatnonzero(own & (batch.ip >= begin) & (batch.ip < end))
            _compare_ssp(registers, rows, pointer, tally)


def _look_for_strangers(batch: SnapshotBatch, registers: RegisterSet,
                        by_tid: Mapping[int, Holder], recorder: int, tally: Tally) -> None:
    believed = np.zeros_like(registers.vectors, np.bool_)
    for name, words in CLASS_WORDS.items():
        believed[:, :, words] = _coherent(registers, name)[:, None, None]
    n = len(batch)
    values = np.concatenate(
        [registers.vectors.reshape(n, -1), registers.predicates.reshape(n, -1)], axis=1)
    masks = np.broadcast_to(_coherent(registers, "opmask")[:, None], registers.predicates.shape)
    trusted = np.concatenate([believed.reshape(n, -1), masks], axis=1)
    found = families(values)
    own = np.zeros_like(found, np.bool_)
    for tid, holder in by_tid.items():
        rows = np.flatnonzero(batch.tid == tid)
        if len(rows):
            own[rows] = np.isin(found[rows], np.array(sorted(holder.families), np.uint64))
    strange = (found != 0) & ~own & (batch.pid != recorder)[:, None]
    rows = np.flatnonzero(strange.any(axis=1))
    tally.strangers += len(rows)
    tally.strangers_believed += int((strange & trusted).any(axis=1).sum())
    for row in rows[:2].tolist():
        tally.note(f"tid {batch.tid[row]} at {batch.ip[row]:#x}, file offset "
                   f"{batch.file_offset[row]}: families {np.unique(found[row][strange[row]])}")
    marked = values == MARKER
    tally.marked += int(marked.any(axis=1).sum())
    tally.marked_believed += int((marked & trusted).any(axis=1).sum())


def _coherent(registers: RegisterSet, name: str) -> Bool:
    column: Bool = registers.verdict[:, VERDICT_CLASSES.index(name)] == Verdict.COHERENT
    return column


def _compare(batch: SnapshotBatch, registers: RegisterSet, rows: npt.NDArray[np.intp],
             region: Region, wide: bool, tally: Tally) -> None:
    vectors, masks = region.expected(wide)
    count, qwords = vectors.shape
    for name, words in CLASS_WORDS.items():
        if words.start >= qwords:
            continue
        believed = _coherent(registers, name)[rows]
        tally.compared[name] += int(believed.sum())
        tally.not_believed[name] += int((~believed).sum())
        got = registers.vectors[rows[believed], :count, words]
        if got.shape[1:] == vectors[:, words].shape:
            differs = (got != vectors[:, words]).any(axis=(1, 2))
        else:   # the recording has fewer registers than the program held: nothing to believe
            differs = np.ones(int(believed.sum()), np.bool_)
        _count_wrong(batch, rows[believed][differs], name, tally)
    if len(masks):
        believed = _coherent(registers, "opmask")[rows]
        tally.compared["opmask"] += int(believed.sum())
        tally.not_believed["opmask"] += int((~believed).sum())
        got = registers.predicates[rows[believed]]
        differs = ((got != masks).any(axis=1) if got.shape[1:] == masks.shape
                   else np.ones(int(believed.sum()), np.bool_))
        _count_wrong(batch, rows[believed][differs], "opmask", tally)


def _count_wrong(batch: SnapshotBatch, rows: npt.NDArray[np.intp], name: str, tally: Tally) -> None:
    tally.wrong[name] += len(rows)
    for row in rows[:2].tolist():
        tally.note(f"{name} of tid {batch.tid[row]} at {batch.ip[row]:#x}, file offset "
                   f"{batch.file_offset[row]}: not what the program held")


def _compare_ssp(registers: RegisterSet, rows: npt.NDArray[np.intp], pointer: int,
                 tally: Tally) -> None:
    column = registers.gpr(GPR_ID["SSP"])
    if column is None or not len(rows):
        tally.not_believed["ssp"] += len(rows)
        return
    there = (registers.gpr_mask[rows] >> np.uint64(GPR_ID["SSP"]) & np.uint64(1)).astype(np.bool_)
    believed = there & _coherent(registers, "gpr")[rows]
    tally.compared["ssp"] += int(believed.sum())
    tally.not_believed["ssp"] += int((~believed).sum())
    wrong = int((column[rows[believed]] != np.uint64(pointer)).sum())
    tally.wrong["ssp"] += wrong
    if wrong:
        tally.note(f"{wrong} shadow stack pointers differ from {pointer:#x}")


def merged(tallies: Iterable[Tally]) -> Tally:
    """The sum of several."""
    whole = Tally()
    for tally in tallies:
        for name in ("snapshots", "strangers", "strangers_believed", "marked", "marked_believed",
                     "marker_bytes", "self_failures", "damage"):
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
        for name in ("verdicts", "compared", "wrong", "not_believed", "by_way"):
            getattr(whole, name).update(getattr(tally, name))
        for example in tally.examples:
            whole.note(example)
    return whole
