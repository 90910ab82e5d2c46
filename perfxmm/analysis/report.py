"""The ranked summary: where snapshots fell, which register width was in use, what lanes held.

Batches go in one after the other; what is kept is one small record per row of the result.

Width is that of the instruction at the registers' IP, and lanes are those of the registers that
it reads: all others, the one it is going to write included, hold what some earlier code left
there. With lanes="all" every register counts, and width is that of the words that are not zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.intervals import wilson
from perfxmm.analysis.lanes import ELEMENTS, KINDS, count_lanes
from perfxmm.analysis.names import NameTables
from perfxmm.analysis.shown import (
    VERDICT_NAMES,
    XMM,
    ZMM,
    Policy,
    at_ip,
    attributed_ip,
    best_verdict,
    delivered_classes,
    initial,
    present_words,
    present_words_at,
    primary_set,
)  # fmt: skip
from perfxmm.analysis.statistics import (
    COUNTED_AS,
    NOT_COUNTED,
    recorded,
    recorded_lanes,
    recorded_qwords,
)  # fmt: skip
from perfxmm.coherence.model import RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import REASONS
from perfxmm.coherence.verdicts import Verdict

if TYPE_CHECKING:
    # The disassembler is only for those who look at code.
    from perfxmm.analysis.instructions import Uses, UsesOf
    from perfxmm.analysis.sourcelines import LinesOf

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SORT_KEYS: tuple[str, ...] = ("symbol", "dso", "comm", "pid", "tid", "ip", "srcline")
# Whose lanes count: of the registers that the instruction works on, or of all that were delivered.
LANES: tuple[str, ...] = ("used", "all")
# Widest register class in use. Of all registers: "none" where vectors are visible and all of them
# are zero; "unseen" where no vector of the sample is visible. Of used ones: "none" where the
# instruction uses no vector register, "unseen" where it is not known too.
WIDTHS: tuple[str, ...] = ("unseen", "none", "xmm", "ymm", "zmm")
UNSEEN, NONE_IN_USE, XMM_IN_USE, YMM_IN_USE, ZMM_IN_USE = range(5)

# Stands for "no one element type" among the element names of a Report.
UNTYPED = "unknown"

# Element type per sample, as an index into tuple(ELEMENTS); -1 where the code does not say.
ElementOf = Callable[[SnapshotBatch], npt.NDArray[np.integer]]


@dataclass(slots=True)
class ReportRow:
    """One line of a report. Names are "" where not known, ids and ip None where not the key.

    file, line: the source line where that is the key: of the innermost function that was inlined
    there; None (and a symbol) where it is not known.

    samples: shown snapshots. period: sum of their event periods. share: samples / total, with
    its 95 % interval low..high. widths: samples by widest class in use (WIDTHS).
    lanes: counted lanes, and how many of them were nan, inf, subnormal, zero (-0.0 included) and
    negative_zero; the recorder, where it counted in place of values, did not count the last one,
    which is left out then. verdicts: samples by the most useful verdict among the classes asked
    for.
    """

    symbol: str = ""
    dso: str = ""
    comm: str = ""
    pid: int | None = None
    tid: int | None = None
    ip: int | None = None
    symbol_offset: int | None = None
    file: str | None = None
    line: int | None = None
    samples: int = 0
    period: int = 0
    share: float = 0.0
    low: float = 0.0
    high: float = 0.0
    widths: dict[str, int] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)

    @property
    def widest(self) -> str | None:
        """The widest class any sample had in use; "none" if all were zero, None if unseen."""
        for name in reversed(WIDTHS[NONE_IN_USE:]):
            if self.widths.get(name):
                return name
        return None


@dataclass(slots=True)
class Report:
    """rows by falling share. total: snapshots in all rows. view: element type of the counts.

    elements: samples with vectors to count by the element type that was used (several with view
    "auto"); those under "unknown" were not counted. lanes: of LANES. widths: as in a row, of all
    rows, also of those that a limit left out. recorded: samples whose widths and counts are the
    recorder's, made in place of values; they are of all registers, and of COUNTED_AS only.
    """

    sort: str
    view: str
    total: int
    rows: list[ReportRow]
    elements: dict[str, int] = field(default_factory=dict)
    lanes: str = "all"
    widths: dict[str, int] = field(default_factory=dict)
    recorded: int = 0


_COLUMNS = ("samples", "period", "recorded", *WIDTHS, "lanes", *KINDS, *VERDICT_NAMES)


class ReportBuilder:
    """Adds up batches: `add` each, then `finish`.

    uses_of: what instructions use; needed by lanes="used" and by view="auto".
    lines_of: source lines; needed by sort="srcline".
    """

    def __init__(
        self, names: NameTables, policy: Policy, *, sort: str = "symbol", view: str = "f64",
        lanes: str = "all", uses_of: UsesOf | None = None, lines_of: LinesOf | None = None,
    ) -> None:
        if sort not in SORT_KEYS:
            raise ValueError(f"no such sort key: {sort} (there are {', '.join(SORT_KEYS)})")
        if lanes not in LANES:
            raise ValueError(f"no such lanes: {lanes} (there are {', '.join(LANES)})")
        if uses_of is None and (lanes == "used" or view == "auto"):
            raise ValueError("what instructions use is not known without uses_of")
        if lines_of is None and sort == "srcline":
            raise ValueError("source lines are not known without lines_of")
        self.names = names
        self.policy = policy
        self.sort = sort
        self.view = view
        self.lanes = lanes
        self.uses_of = uses_of
        self.lines_of = lines_of
        self.total = 0
        self.recorded = 0
        self._elements: dict[str, int] = {}
        # Source lines that were met, (file, line) -> number in this order.
        self._places: dict[tuple[str, int], int] = {}
        # Key -> (sums in the order of _COLUMNS, columns that name the row).
        self._sums: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
        self._about: dict[tuple[int, int], tuple[int, int, int, int, int, int, int]] = {}

    def add(self, batch: SnapshotBatch) -> None:
        n = len(batch)
        if n == 0:
            return
        self.total += n
        ip = attributed_ip(batch)
        columns = self._columns(batch, ip)
        first, second = self._keys(batch, ip)
        pairs = np.stack([first, second], axis=1)
        keys, where, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
        sums = np.stack(
            [
                np.bincount(inverse, weights=column.astype(np.float64), minlength=len(keys))
                for column in columns
            ],
            axis=1,
        )
        unknown = np.full(n, -1, np.int32)
        about = (
            unknown if batch.symbol is None else batch.symbol,
            unknown if batch.dso is None else batch.dso,
            unknown if batch.comm is None else batch.comm,
            batch.pid, batch.tid, ip,
            np.zeros(n, np.uint64) if batch.symbol_offset is None else batch.symbol_offset,
        )  # fmt: skip
        for group, row in enumerate(where):
            key = (int(keys[group, 0]), int(keys[group, 1]))
            if key in self._sums:
                self._sums[key] += sums[group]
            else:
                self._sums[key] = sums[group].copy()
                s, d, c, p, t, i, o = (int(column[row]) for column in about)
                self._about[key] = (s, d, c, p, t, i, o)

    def finish(self, limit: int | None = None) -> Report:
        """The result, by falling number of samples; limit: rows to give at most."""
        places = list(self._places)
        rows = []
        for key, sums in self._sums.items():
            row = self._row(key, sums)
            if self.sort == "srcline" and key[0] >= 0:
                row.file, row.line = places[key[0]]
                row.symbol = ""
            rows.append(row)
        rows.sort(key=lambda r: (-r.samples, r.symbol, r.dso, r.comm, r.tid or r.pid or 0,
                                 r.ip or 0, r.file or "", r.line or 0))  # fmt: skip
        widths = {w: sum(row.widths.get(w, 0) for row in rows) for w in WIDTHS}
        if limit is not None:
            rows = rows[:limit]
        return Report(
            self.sort, self._recorded_view if self.recorded else self.view, self.total, rows,
            dict(self._elements), "all" if self.recorded else self.lanes,
            {name: count for name, count in widths.items() if count}, self.recorded,
        )

    def _keys(
        self, batch: SnapshotBatch, ip: npt.NDArray[np.uint64]
    ) -> tuple[I64, I64]:
        zero = np.zeros(len(batch), np.int64)
        unknown = np.full(len(batch), -1, np.int64)

        def column(values: npt.NDArray[np.int32] | None) -> I64:
            return unknown if values is None else values.astype(np.int64)

        if self.sort == "symbol":
            return column(batch.symbol), column(batch.dso)
        if self.sort == "dso":
            return column(batch.dso), zero
        if self.sort == "comm":
            return column(batch.comm), zero
        if self.sort == "pid":
            return batch.pid.astype(np.int64), zero
        if self.sort == "tid":
            return batch.pid.astype(np.int64), batch.tid.astype(np.int64)
        if self.sort == "srcline":
            place = self._place_numbers(batch)
            # Without a line, the symbol is the next best answer: below the numbers of lines.
            return np.where(place >= 0, place, -2 - column(batch.symbol)), column(batch.dso)
        return ip.view(np.int64), column(batch.dso)

    def _place_numbers(self, batch: SnapshotBatch) -> I64:
        """int64 [n], number in self._places; -1 where no source line is known."""
        assert self.lines_of is not None
        found = self.lines_of(batch)
        numbers = np.full(len(found.frames), -1, np.int64)
        for index, frames in enumerate(found.frames):
            if frames and frames[0].file:
                place = frames[0].file, frames[0].line
                numbers[index] = self._places.setdefault(place, len(self._places))
        of_row: I64 = numbers[found.number]
        return of_row

    def _columns(
        self, batch: SnapshotBatch, ip: npt.NDArray[np.uint64]
    ) -> list[npt.NDArray[np.generic]]:
        n = len(batch)
        widths = np.zeros((len(WIDTHS), n), np.int64)
        widths[UNSEEN] = 1
        counts = {kind: np.zeros(n, np.int64) for kind in ("lanes", *KINDS)}
        uses = None if self.uses_of is None else self.uses_of(batch)
        elements = self._element_indices(n, uses)
        set_names, chosen = primary_set(batch, self.policy)
        for index, name in enumerate(set_names):
            rows = np.flatnonzero(chosen == index)
            if not len(rows):
                continue
            registers = batch.sets[name]
            if self.lanes == "used" and uses is not None:
                rows = rows[at_ip(registers, ip, self.policy)[rows]]
                self._count_used(registers, rows, uses, elements, widths, counts)
            else:
                self._count_all(registers, rows, elements, widths, counts)
        told = recorded(batch)
        if told.any():
            self._count_recorded(batch, np.flatnonzero(told), widths, counts)
        verdicts = [r.verdict for r in batch.sets.values()]
        best = best_verdict(verdicts, [np.ones(v.shape, np.bool_) for v in verdicts])
        if not verdicts:
            best = np.full(n, Verdict.ABSENT, np.uint8)
        return [
            np.ones(n), batch.period.astype(np.float64), told, *widths, counts["lanes"],
            *(counts[kind] for kind in KINDS),
            *(best == code for code in range(len(VERDICT_NAMES))),
        ]  # fmt: skip

    def _count_used(
        self, registers: RegisterSet, rows: npt.NDArray[np.intp], uses: Uses,
        elements: npt.NDArray[np.integer], widths: I64, counts: dict[str, I64],
    ) -> None:
        """Adds the registers that the instructions of the samples `rows` use (in place)."""
        rows = rows[uses.known[rows]]
        used = uses.words[rows]
        widths[UNSEEN, rows] = 0
        widest = NONE_IN_USE + (used != 0).sum(axis=1)
        widths[widest, rows] = 1
        room, width = registers.vectors.shape[1:]
        # Registers that were taken when the instruction had retired show its results.
        after = registers.reason[rows] & np.uint64(REASONS["after-instruction"].mask) != 0
        counted = np.where(after, uses.results[rows], uses.operands[rows])
        self._note_elements(elements[rows[counted != 0]])
        bits = counted[:, None] >> np.arange(room, dtype=np.uint32) & np.uint32(1)
        owner, number = np.nonzero(bits)
        if not len(owner):
            return
        sample = rows[owner]
        classes = self.policy.visible(registers.verdict) & delivered_classes(registers)
        data = present_words_at(registers, classes & ~initial(registers), sample, number)
        part = np.array([0, 0, 1, 1, 2, 2, 2, 2])[:width]
        data &= (used[owner][:, part] >> number[:, None].astype(np.uint32) & np.uint32(1)) != 0
        words = registers.vectors[sample, number]
        kind_of = elements[sample].astype(np.int64) * 2 + uses.scalar[sample]
        for code in np.unique(kind_of[kind_of >= 0]).tolist():
            mine = np.flatnonzero(kind_of == code)
            found = count_lanes(
                words[mine, None], data[mine, None], _ELEMENT_LIST[code >> 1],
                lowest=bool(code & 1),
            )  # fmt: skip
            for kind, values in found.items():
                np.add.at(counts[kind], sample[mine], values)

    def _count_all(
        self, registers: RegisterSet, rows: npt.NDArray[np.intp],
        elements: npt.NDArray[np.integer], widths: I64, counts: dict[str, I64],
    ) -> None:
        """Adds all registers of the samples `rows` of one set to `widths` and `counts`."""
        classes = self.policy.visible(registers.verdict) & delivered_classes(registers)
        data = present_words(registers, classes & ~initial(registers))[rows]
        whole = len(rows) == len(registers.abi)
        words = registers.vectors if whole else registers.vectors[rows]
        widths[UNSEEN, rows] = ~classes[rows][:, XMM : ZMM + 1].any(axis=1)
        widest = widest_in_use(words, data)
        seen = widths[UNSEEN, rows] == 0
        for width in range(NONE_IN_USE, len(WIDTHS)):
            widths[width, rows] = seen & (widest == width)
        used = elements[rows]
        self._note_elements(used)
        for element in np.unique(used[used >= 0]):
            mine = np.flatnonzero(used == element)
            all_mine = len(mine) == len(rows)
            found = count_lanes(
                words if all_mine else words[mine], data if all_mine else data[mine],
                _ELEMENT_LIST[int(element)],
            )  # fmt: skip
            for kind, values in found.items():
                counts[kind][rows[mine]] = values

    @property
    def _recorded_view(self) -> str:
        return "f64" if self.view == "auto" else self.view

    def _count_recorded(
        self, batch: SnapshotBatch, rows: npt.NDArray[np.intp], widths: I64,
        counts: dict[str, I64],
    ) -> None:
        """Adds the samples `rows` whose registers the recorder has counted."""
        self.recorded += len(rows)
        widths[UNSEEN, rows] = 0
        widths[recorded_widths(batch, rows), rows] = 1
        view = self._recorded_view
        name = view if view in COUNTED_AS else UNTYPED
        self._elements[name] = self._elements.get(name, 0) + len(rows)
        if view in COUNTED_AS:
            for kind, values in recorded_lanes(batch, rows, view).items():
                counts[kind][rows] = np.where(values == NOT_COUNTED, 0, values)

    def _element_indices(self, n: int, uses: Uses | None) -> npt.NDArray[np.integer]:
        if self.view == "auto" and uses is not None:
            return uses.element
        return np.full(n, list(ELEMENTS).index(self.view), np.int8)

    def _note_elements(self, elements: npt.NDArray[np.integer]) -> None:
        for index, count in zip(*np.unique(elements, return_counts=True), strict=True):
            name = _ELEMENT_LIST[int(index)].name if index >= 0 else UNTYPED
            self._elements[name] = self._elements.get(name, 0) + int(count)

    def _row(self, key: tuple[int, int], sums: npt.NDArray[np.float64]) -> ReportRow:
        symbol, dso, comm, pid, tid, ip, offset = self._about[key]
        value = dict(zip(_COLUMNS, (round(float(s)) for s in sums), strict=True))
        low, high = wilson(value["samples"], self.total)
        row = ReportRow(
            samples=value["samples"], period=value["period"],
            share=value["samples"] / self.total, low=low, high=high,
            widths={w: value[w] for w in WIDTHS if value[w]},
            lanes={k: value[k] for k in ("lanes", *KINDS)},
            verdicts={v: value[v] for v in VERDICT_NAMES if value[v]},
        )  # fmt: skip
        if value["recorded"]:
            del row.lanes["negative_zero"]
        names = self.names
        if self.sort in ("symbol", "ip", "srcline"):
            row.symbol = names.symbols[symbol] if symbol >= 0 else ""
        if self.sort in ("symbol", "dso", "ip", "srcline"):
            row.dso = names.dsos[dso] if dso >= 0 else ""
        if self.sort in ("comm", "pid", "tid"):
            row.comm = names.comms[comm] if comm >= 0 else ""
        if self.sort in ("pid", "tid"):
            row.pid = pid
        if self.sort == "tid":
            row.tid = tid
        if self.sort == "ip":
            row.ip = ip
            row.symbol_offset = offset if symbol >= 0 else None
        return row


_ELEMENT_LIST = list(ELEMENTS.values())


def widest_in_use(words: npt.NDArray[np.uint64], data: Bool) -> npt.NDArray[np.int8]:
    """Index into WIDTHS of the widest class with a word that is not zero: int8 [n].

    words: uint64 [n, registers, qwords]; data: the words that count, same shape.
    """
    out = np.full(len(words), NONE_IN_USE, np.int8)
    live = data & (words != 0)
    # Registers 16 to 31 too: AVX-512VL uses them at every width.
    for code, first, last in ((XMM_IN_USE, 0, 2), (YMM_IN_USE, 2, 4), (ZMM_IN_USE, 4, 8)):
        out[live[:, :, first:last].any(axis=(1, 2))] = code
    return out


def recorded_widths(batch: SnapshotBatch, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int8]:
    """Index into WIDTHS of the widest class in use, as the recorder counted it: int8 [n]."""
    qwords = recorded_qwords(batch, rows)
    out = np.full(len(rows), UNSEEN, np.int8)
    for code, count in (
        (NONE_IN_USE, 0), (XMM_IN_USE, 2), (YMM_IN_USE, 4), (ZMM_IN_USE, 8),
    ):  # fmt: skip
        out[qwords == count] = code
    return out


__all__ = [
    "LANES", "SORT_KEYS", "UNTYPED", "WIDTHS", "Report", "ReportBuilder", "ReportRow",
    "recorded_widths", "widest_in_use",
]  # fmt: skip
