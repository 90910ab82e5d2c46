"""Counts wrong register values in a recording of a truth program.

Every register word of every class with verdict `coherent` or `late` is compared with what the
region at its IP must hold. IPs outside any region (libc, libm, the programs' C code) are "not
checked" and counted as such.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from truth import expected_floats, expected_plain, expected_system
from truth.regions import (
    GPR_CONSTANTS,
    LOW_VECTORS,
    MOST_THREADS,
    U64,
    VECTORS,
    Bool,
    Held,
    Region,
    Rows,
    constant,
)

from perfxmm.coherence import REASONS, Verdict
from perfxmm.kernel.registers import GPR_ID
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

REGIONS: dict[str, tuple[Region, ...]] = {
    **expected_plain.REGIONS, **expected_floats.REGIONS, **expected_system.REGIONS,
}  # fmt: skip
Rules = tuple[Sequence[Region], dict[str, int]]
_JUDGED = (Verdict.COHERENT, Verdict.LATE)
_KEPT_EXAMPLES = 5


def labels(binary: str | Path) -> dict[str, int]:
    """The program's `truth_*` symbols. It is linked at fixed addresses: they are what IPs are."""
    with open(binary, "rb") as stream:
        return {
            symbol.name: symbol["st_value"]
            for section in ELFFile(stream).iter_sections()
            if isinstance(section, SymbolTableSection)
            for symbol in section.iter_symbols()
            if symbol.name.startswith("truth_")
        }


@dataclass
class Tally:
    """checked: samples of which registers were compared. words: register words compared, by class.

    wrong: those that differ, by class. wrong_samples: samples with one or more of them.
    """

    checked: int = 0
    wrong_samples: int = 0
    words: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.checked += other.checked
        self.wrong_samples += other.wrong_samples
        self.words.update(other.words)
        self.wrong.update(other.wrong)

    def to_dict(self) -> dict[str, Any]:
        return {
            "checked": self.checked, "wrong_samples": self.wrong_samples,
            "words": self.words.total(), "wrong_words": self.wrong.total(),
            "words_by_class": dict(self.words), "wrong_by_class": dict(self.wrong),
        }  # fmt: skip


@dataclass
class Report:
    """What recordings came to.

    regions: coherent samples, by region. verdicts: samples by the verdict of their XMM class.
    not_checked: judged samples outside all regions. reasons: all samples by
    reason. disordered: coherent samples whose visit or counter goes back in
    their thread. strangers: those with another thread's number. first_wrong: for a look at it.
    """

    coherent: Tally = field(default_factory=Tally)
    late: Tally = field(default_factory=Tally)
    regions: dict[str, Tally] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    not_checked: int = 0
    disordered: int = 0
    strangers: int = 0
    first_wrong: list[str] = field(default_factory=list)

    @property
    def false_coherent(self) -> int:
        """Samples with verdict coherent that were wrong in any way."""
        return self.coherent.wrong_samples + self.disordered + self.strangers

    def add(self, other: Report) -> None:
        self.coherent.add(other.coherent)
        self.late.add(other.late)
        for name, tally in other.regions.items():
            self.regions.setdefault(name, Tally()).add(tally)
        self.verdicts.update(other.verdicts)
        self.reasons.update(other.reasons)
        self.samples += other.samples
        self.not_checked += other.not_checked
        self.disordered += other.disordered
        self.strangers += other.strangers
        self.first_wrong += other.first_wrong[: _KEPT_EXAMPLES - len(self.first_wrong)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "false_coherent": self.false_coherent,
            "coherent": self.coherent.to_dict(),
            "late": self.late.to_dict(),
            "disordered": self.disordered,
            "strangers": self.strangers,
            "not_checked": self.not_checked,
            "by_verdict": dict(self.verdicts),
            "by_reason": dict(self.reasons),
            "by_region": {name: tally.to_dict() for name, tally in sorted(self.regions.items())},
            "first_wrong": self.first_wrong,
        }


def check(
    batches: Iterable[SnapshotBatch], program: str, places: dict[str, int]
) -> Report:
    """Compares every coherent or late register of one recording's judged batches.

    Coherent registers are held to the sample's IP, late ones to their own. places: of `labels`.
    """
    report = Report()
    lives: list[npt.NDArray[Any]] = []
    for batch in batches:
        report.samples += len(batch)
        for registers in batch.sets.values():
            count_reasons(registers.reason, report.reasons)
            xmm = registers.verdict[:, VERDICT_CLASSES.index("xmm")]
            for code, count in enumerate(np.bincount(xmm).tolist()):
                if count:
                    report.verdicts[Verdict(code).label] += count
            for verdict in _JUDGED:
                _check_set(batch, registers, verdict, (REGIONS[program], places), report, lives)
    if lives:
        _check_lives(np.concatenate(lives), report)
    return report


def count_reasons(bits: U64, into: Counter[str]) -> None:
    """Adds how many samples carry which reason, by its name."""
    seen = int(np.bitwise_or.reduce(bits)) if len(bits) else 0
    for reason in REASONS.values():
        if seen & reason.mask:
            into[reason.name] += int(np.count_nonzero(bits & np.uint64(reason.mask)))


# One row a coherent sample: who was where, and how far.
_LIFE = np.dtype(
    [("tid", "i8"), ("region", "i8"), ("time", "u8"), ("who", "u8"), ("counter", "u8")]
)


def _check_set(
    batch: SnapshotBatch, registers: RegisterSet, verdict: Verdict, rules: Rules, report: Report,
    lives: list[npt.NDArray[Any]],
) -> None:
    regions, places = rules
    judged = (registers.verdict == verdict).any(axis=1)
    own_ip = _gpr(registers, "IP")
    ip = batch.ip if verdict is Verdict.COHERENT else own_ip
    left = judged.copy()
    for index, region in enumerate(regions):
        inside, at, number = region.find(ip, places)
        there = judged[inside]
        rows_at = np.flatnonzero(inside)[there]
        left[rows_at] = False
        if not len(rows_at):
            continue
        who, counter = _gpr(registers, "R12")[rows_at], _gpr(registers, "BX")[rows_at]
        thread = who & np.uint64(0xFF)
        named = thread * np.uint64(0) if region.alike else thread % np.uint64(MOST_THREADS)
        rows = Rows(region.name, at[there], counter, named, places)
        number = number if isinstance(number, int) else number[there]
        compared = _Compared(registers, rows_at, rows, verdict)
        compared.general(
            region.held(rows, number), number,
            (thread >= MOST_THREADS) | (counter > _gpr(registers, "R14")[rows_at])
            | (ip[rows_at] != own_ip[rows_at]),
        )  # fmt: skip
        compared.vectors(region.high)
        (report.coherent if verdict is Verdict.COHERENT else report.late).add(compared.tally())
        report.first_wrong += compared.examples(_KEPT_EXAMPLES - len(report.first_wrong))
        if verdict is Verdict.COHERENT:
            report.regions.setdefault(region.name, Tally()).add(compared.tally())
            life = np.empty(len(rows_at), _LIFE)
            life["tid"], life["region"], life["who"] = batch.tid[rows_at], index, who
            life["time"], life["counter"] = batch.time_ns[rows_at], counter
            lives.append(life)
    report.not_checked += int(left.sum())


def _gpr(registers: RegisterSet, name: str) -> U64:
    column = registers.gpr(GPR_ID[name])
    assert column is not None, f"the checker needs {name}"
    return column


class _Compared:
    """The comparison of some samples of one region. `general` comes first."""

    def __init__(
        self, registers: RegisterSet, rows_at: npt.NDArray[np.intp], rows: Rows, verdict: Verdict
    ) -> None:
        self._registers, self._at, self._rows = registers, rows_at, rows
        self._good = {
            name: registers.verdict[rows_at, column] == verdict
            for column, name in enumerate(VERDICT_CLASSES)
        }
        self._words: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        self._bad = np.zeros(len(rows_at), np.bool_)
        self._held: Held | None = None

    def _count(self, name: str, trusted: Bool, bad: Bool) -> None:
        """Both [n, ...]: words that are compared, and those of them that differ."""
        compared = int(np.count_nonzero(trusted))
        if compared:
            self._words[name] += compared
        wrong = int(np.count_nonzero(bad))
        if wrong:
            self._wrong[name] += wrong
            self._bad |= bad.reshape(len(bad), -1).any(axis=1)

    def general(self, held: Held, number: int | U64, strange: Bool) -> None:
        """R8, R9, RBP; and thread, counter and IP (in range, and one IP), counted as one word."""
        self._held = held
        good = self._good["gpr"]
        self._count("gpr", good, strange & good)
        if held.gprs_known is not None:
            good = good & held.gprs_known
        for name, register in GPR_CONSTANTS.items():
            got = _gpr(self._registers, name)[self._at]
            want = constant(number, self._rows.thread, register, 0)
            self._count("gpr", good, (got != want) & good)

    def vectors(self, high: bool) -> None:
        held, registers, at = self._held, self._registers, self._at
        assert held is not None
        count = min(registers.vectors.shape[1], VECTORS if high else LOW_VECTORS)
        width = registers.vectors.shape[2]
        differ = registers.vectors[at][:, :count] != held.vectors[:, :count, :width]
        there = self._there(count)
        if held.known is not None:
            known = held.known[:, :count, :width]
        else:
            known = np.broadcast_to(np.True_, differ.shape)
        low, words = slice(0, LOW_VECTORS), width
        parts = (
            ("xmm", low, slice(0, 2)), ("ymm", low, slice(2, 4)), ("zmm", low, slice(4, 8)),
            ("zmm", slice(LOW_VECTORS, VECTORS), slice(0, 8)),
        )  # fmt: skip
        for name, numbers, part in parts:
            if part.start >= words or numbers.start >= count:
                continue
            trusted = (
                known[:, numbers, part] & there[:, numbers, None] & self._good[name][:, None, None]
            )
            self._count(name, trusted, differ[:, numbers, part] & trusted)
        if high and registers.predicates.shape[1]:
            trusted = np.broadcast_to(self._good["opmask"][:, None], held.opmasks.shape)
            self._count("opmask", trusted, (registers.predicates[at] != held.opmasks) & trusted)

    def _there(self, count: int) -> Bool:
        numbers = np.arange(count, dtype=np.uint32)
        mask = self._registers.vector_mask[self._at, None] >> numbers & np.uint32(1)
        return mask.astype(np.bool_)

    def tally(self) -> Tally:
        return Tally(len(self._at), int(self._bad.sum()), self._words, self._wrong)

    def examples(self, most: int) -> list[str]:
        held, found = self._held, []
        assert held is not None
        for row in np.flatnonzero(self._bad)[: max(0, most)].tolist():
            got = self._registers.vectors[self._at[row]]
            registers, words = got.shape
            unequal = np.argwhere(got != held.vectors[row, :registers, :words])
            first = ", ".join(
                f"{r}[{w}] {int(got[r, w]):#x} not {int(held.vectors[row, r, w]):#x}"
                for r, w in unequal[:3].tolist()
            )
            found.append(
                f"{self._rows.region} ip {int(self._rows.ip[row]):#x} counter "
                f"{int(self._rows.counter[row])} thread {int(self._rows.thread[row])}: {first}"
            )
        return found


def _check_lives(lives: npt.NDArray[Any], report: Report) -> None:
    """Each thread has one number, and its visits and counters only grow within a region."""
    thread = (lives["who"] & np.uint64(0xFF)).astype(np.int64)
    _, owner = np.unique(lives["tid"], return_inverse=True)
    for one in range(int(owner.max()) + 1):
        numbers = np.bincount(thread[owner == one])
        report.strangers += int(numbers.sum() - numbers.max())
    order = np.lexsort((lives["time"], lives["region"], lives["tid"]))
    lives = lives[order]
    before, now = lives[:-1], lives[1:]
    same = (before["tid"] == now["tid"]) & (before["region"] == now["region"])
    back = (now["who"] < before["who"]) | (
        (now["who"] == before["who"]) & (now["counter"] < before["counter"])
    )
    report.disordered += int(np.count_nonzero(same & back))
