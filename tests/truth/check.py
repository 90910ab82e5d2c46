"""Counts wrong register values in a recording of truth.c.

What each region of the program holds is a function of the IP, the counter in RCX and the thread's
number in R12. It is written down here a second time, independently of the C source's own check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from perfxmm.coherence import Verdict
from perfxmm.kernel.registers import GPR_ID
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

U64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
WORDS = 8
THREADS = 16
CLASS_WORDS = {"xmm": slice(0, 2), "ymm": slice(2, 4), "zmm": slice(4, 8)}


def labels(binary: str | Path) -> dict[str, int]:
    """The program's `truth_*` symbols. It is linked at fixed addresses: they are what IPs are."""
    with open(binary, "rb") as stream:
        found: dict[str, int] = {}
        for section in ELFFile(stream).iter_sections():
            if isinstance(section, SymbolTableSection):
                found.update(
                    (symbol.name, symbol["st_value"])
                    for symbol in section.iter_symbols()
                    if symbol.name.startswith("truth_")
                )
    return found


@dataclass(frozen=True)
class Rows:
    """Samples inside one region: uint64 [n] each; `at(label)` tells which IPs lie where."""

    region: str
    ip: U64
    rcx: U64
    thread: U64
    places: dict[str, int]

    def from_label(self, name: str) -> Bool:
        """The IP is at or behind a label of the region."""
        behind: Bool = self.ip >= np.uint64(self.places[f"truth_{self.region}_{name}"])
        return behind

    def between(self, first: str, end: str) -> U64:
        """1 where the IP lies in [first, end), else 0."""
        return (self.from_label(first) & ~self.from_label(end)).astype(np.uint64)


def constants(number: int, thread: U64) -> U64:
    """[n, 32, 8]: what `constant` in truth.c says."""
    register = np.arange(32, dtype=np.uint64)[None, :, None]
    word = np.arange(WORDS, dtype=np.uint64)[None, None, :]
    return (
        np.uint64(0x5A00_0000_0000_BEEF | number << 48)
        | thread[:, None, None] << np.uint64(40)
        | register << np.uint64(24)
        | word << np.uint64(16)
    )


def lanes(count: int) -> npt.NDArray[np.float64]:
    return np.arange(1, count + 1, dtype=np.float64)


def expect_const(rows: Rows) -> U64:
    return constants(1, rows.thread)


def expect_fma(rows: Rows) -> U64:
    values = constants(2, rows.thread)
    number = (rows.thread + np.uint64(1)).astype(np.float64)[:, None]
    lane = lanes(WORDS)[None, :]
    # A chain is one step ahead of the counter between its own instruction and the counter's.
    steps = [rows.rcx + rows.between(label, "5") for label in ("1", "2", "3", "4")]
    done = steps[0].astype(np.float64)[:, None]
    values[:, 0] = (lane + 2.0 * lane * number * done).view(np.uint64)
    values[:, 1] = (2.0 * lane).view(np.uint64)
    values[:, 2] = np.broadcast_to(number, (len(number), WORDS)).copy().view(np.uint64)
    odd = (steps[1] & np.uint64(1)).astype(np.bool_)[:, None]
    start = np.broadcast_to(lane * 0.5, (len(number), WORDS))
    values[:, 3] = np.where(odd, number - start, start).view(np.uint64)
    values[:, 4] = np.float64(-1.0).view(np.uint64)
    values[:, 5] = values[:, 2]
    values[:, 6] += values[:, 7] * steps[2][:, None]
    toggled = (steps[3] & np.uint64(1)).astype(np.bool_)[:, None]
    values[:, 8] = np.where(toggled, values[:, 8] ^ values[:, 9], values[:, 8])
    return values


def expect_nan(rows: Rows) -> U64:
    values = constants(3, rows.thread)
    word = np.arange(WORDS, dtype=np.uint64)[None, :]
    thread = rows.thread[:, None]
    payload = thread << np.uint64(8) | word | np.uint64(0x10)
    single = np.uint64(0x7FC00100) | thread << np.uint64(4) | word
    values[:, 0] = np.uint64(0x7FF8 << 48) | payload
    values[:, 1] = np.uint64(0xFFF0 << 48) | payload
    values[:, 2] = np.float64(1.0).view(np.uint64)
    values[:, 3] = values[:, 0]
    values[:, 4] = np.uint64(0xFFF8 << 48) | payload
    values[:, 5] = single << np.uint64(32) | np.uint64(0xFFC00200) | word
    values[:, 6] = values[:, 5]
    values[:, 7] = np.uint64(0x7FF0 << 48)
    values[:, 8] = np.uint64(0xFFF8 << 48)
    values[:, 9] = np.uint64(1 << 63)
    return values


def expect_subnormal(rows: Rows) -> U64:
    values = constants(4, rows.thread)
    number = (rows.thread + np.uint64(1))[:, None]
    halvings = rows.rcx + rows.between("1", "2")
    halvings[rows.between("3", "4") != 0] = 0
    values[:, 0] = (np.uint64(1) << (np.uint64(52) - np.minimum(halvings, 52)))[:, None]
    values[:, 1] = np.float64(0.5).view(np.uint64)
    values[:, 2] = number
    values[:, 3] = np.uint64(1 << 63) | number
    values[:, 4] = number << np.uint64(32) | np.uint64(0x80000001)
    values[:, 15] = np.uint64(1 << 52)
    return values


def expect_upper(rows: Rows) -> U64:
    values = constants(5, rows.thread)
    steps = rows.rcx + rows.between("1", "2")
    values[:, 0] += values[:, 1] * steps[:, None]
    values[:, :, 2:] = 0
    return values


def expect_zero(rows: Rows) -> U64:
    return np.zeros((len(rows.ip), 32, WORDS), np.uint64)


def expect_avx512(rows: Rows) -> U64:
    values = constants(7, rows.thread)
    steps = rows.rcx + rows.between("1", "2")
    live = np.array([0xA5 >> lane & 1 for lane in range(WORDS)], np.uint64)[None, :]
    values[:, 0] += values[:, 1] * live * steps[:, None]
    return values


def opmasks(rows: Rows) -> U64:
    """[n, 8]: k0..k7 in the region avx512, the only one that sets them."""
    number = np.arange(8, dtype=np.uint64)[None, :]
    return (
        np.uint64(0xC0DE_0000_0000_00A5)
        | rows.thread[:, None] << np.uint64(40)
        | number << np.uint64(32)
    )


# Region -> its registers; in all but the last, VEX and SSE code leaves words 4..7 of 0..15 zero and
# nothing is known of registers 16..31.
EXPECTED: dict[str, Callable[[Rows], U64]] = {
    "const": expect_const,
    "fma": expect_fma,
    "nan": expect_nan,
    "subnormal": expect_subnormal,
    "upper": expect_upper,
    "zero": expect_zero,
    "avx512": expect_avx512,
}


@dataclass
class Tally:
    """checked: samples whose registers were compared. values: register words compared.

    wrong: words that differ. wrong_samples: samples with one or more of them.
    """

    checked: int = 0
    values: int = 0
    wrong: int = 0
    wrong_samples: int = 0

    def add(self, other: Tally) -> None:
        self.checked += other.checked
        self.values += other.values
        self.wrong += other.wrong
        self.wrong_samples += other.wrong_samples


@dataclass
class Report:
    """What a recording of the program came to, by verdict of the sample's XMM class.

    outside: samples between regions, of which nothing is known. first_wrong: for a look at it.
    """

    coherent: Tally = field(default_factory=Tally)
    late: Tally = field(default_factory=Tally)
    regions: dict[str, Tally] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    first_wrong: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.coherent.add(other.coherent)
        self.late.add(other.late)
        for name, tally in other.regions.items():
            self.regions.setdefault(name, Tally()).add(tally)
        self.verdicts.update(other.verdicts)
        self.outside += other.outside
        self.first_wrong += other.first_wrong

    def to_dict(self) -> dict[str, Any]:
        return {
            "checked": self.coherent.checked,
            "values": self.coherent.values,
            "wrong": self.coherent.wrong,
            "wrong_samples": self.coherent.wrong_samples,
            "late_checked": self.late.checked,
            "late_wrong": self.late.wrong,
            "outside_regions": self.outside,
            "by_region": {name: vars(tally) for name, tally in sorted(self.regions.items())},
            "by_verdict": dict(self.verdicts),
            "first_wrong": self.first_wrong,
        }


def check(
    batches: Iterable[SnapshotBatch], places: dict[str, int], report: Report | None = None
) -> Report:
    """Compares every coherent or late register of judged batches with what it must have been.

    Coherent registers are held to the sample's IP, late ones to their own. report: to add to.
    """
    report = Report() if report is None else report
    for batch in batches:
        for registers in batch.sets.values():
            xmm = registers.verdict[:, VERDICT_CLASSES.index("xmm")]
            report.verdicts.update(Verdict(int(code)).label for code in xmm)
            for verdict, tally in (
                (Verdict.COHERENT, report.coherent), (Verdict.LATE, report.late),
            ):  # fmt: skip
                own = registers.gpr(GPR_ID["IP"])
                ip = batch.ip if verdict is Verdict.COHERENT or own is None else own
                _check_set(registers, ip, verdict, tally, places, report)
    return report


def _check_set(
    registers: RegisterSet, ip: U64, verdict: Verdict, tally: Tally, places: dict[str, int],
    report: Report,
) -> None:
    judged = (registers.verdict == verdict).any(axis=1)
    rcx, r12 = registers.gpr(GPR_ID["CX"]), registers.gpr(GPR_ID["R12"])
    assert rcx is not None, "the checker needs RCX"
    assert r12 is not None, "the checker needs R12"
    left = judged.copy()
    for name, expect in EXPECTED.items():
        first, end = places[f"truth_{name}_begin"], places[f"truth_{name}_end"]
        inside = np.flatnonzero(judged & (ip >= np.uint64(first)) & (ip < np.uint64(end)))
        left[inside] = False
        if not len(inside):
            continue
        rows = Rows(name, ip[inside], rcx[inside], r12[inside], places)
        found = _compare(registers, inside, rows, expect(rows), verdict, report)
        tally.add(found)
        if verdict is Verdict.COHERENT:
            report.regions.setdefault(name, Tally()).add(found)
    report.outside += int(left.sum())


def _compare(
    registers: RegisterSet, inside: npt.NDArray[np.intp], rows: Rows, want: U64,
    verdict: Verdict, report: Report,
) -> Tally:
    wide = rows.region == "avx512"
    if not wide:
        want[:, :16, 4:] = 0
    count = min(registers.vectors.shape[1], 32 if wide else 16)
    width = registers.vectors.shape[2]
    got = registers.vectors[inside][:, :count]
    want = want[:, :count, :width]
    numbers = np.arange(count, dtype=np.uint32)
    there = (registers.vector_mask[inside, None] >> numbers & np.uint32(1)).astype(np.bool_)
    trusted = np.zeros((len(inside), count, width), np.bool_)
    for name, part in CLASS_WORDS.items():
        good = registers.verdict[inside, VERDICT_CLASSES.index(name)] == verdict
        trusted[:, :, part] |= good[:, None, None]
        if name == "zmm":
            trusted[:, 16:] &= good[:, None, None]
    trusted &= there[:, :, None]
    bad = trusted & (got != want)
    # A thread number that the program does not have is a wrong register too.
    strange = rows.thread >= THREADS
    bad_words = bad.sum(axis=(1, 2)) + strange
    values = int(trusted.sum()) + len(inside)
    if wide and registers.predicates.shape[1]:
        good = registers.verdict[inside, VERDICT_CLASSES.index("opmask")] == verdict
        unequal = (registers.predicates[inside] != opmasks(rows)) & good[:, None]
        bad_words += unequal.sum(axis=1)
        values += int(good.sum()) * 8
    for row in np.flatnonzero(bad_words)[: max(0, 5 - len(report.first_wrong))]:
        where = np.argwhere(bad[row])
        number, word = where[0] if len(where) else (-1, -1)
        report.first_wrong.append(
            f"{rows.region} ip {int(rows.ip[row]):#x} rcx {int(rows.rcx[row])} thread "
            f"{int(rows.thread[row])} register {number} word {word}: "
            f"{int(got[row, number, word]):#x}, not {int(want[row, number, word]):#x}"
        )
    return Tally(len(inside), values, int(bad_words.sum()), int((bad_words != 0).sum()))
