"""The ranked summary: where snapshots fell, which register width was in use, what lanes held.

Batches go in one after the other; what is kept is one small record per row of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.intervals import wilson
from perfxmm.analysis.lanes import ELEMENTS, KINDS, count_lanes
from perfxmm.analysis.names import NameTables
from perfxmm.analysis.shown import (
    FIRST_HIGH_REGISTER,
    VERDICT_NAMES,
    XMM,
    ZMM,
    Policy,
    attributed_ip,
    best_verdict,
    delivered_classes,
    initial,
    present_words,
    primary_set,
)  # fmt: skip
from perfxmm.coherence.model import RegisterSet, SnapshotBatch

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SORT_KEYS: tuple[str, ...] = ("symbol", "dso", "comm", "tid", "ip")
# Widest register class in use; "none": vectors are visible and all of them are zero; "unseen":
# no vector of the sample is visible.
WIDTHS: tuple[str, ...] = ("unseen", "none", "xmm", "ymm", "zmm")
UNSEEN, NONE_IN_USE, XMM_IN_USE, YMM_IN_USE, ZMM_IN_USE = range(5)

# Element type per sample, as an index into tuple(ELEMENTS); -1 where the code does not say.
ElementOf = Callable[[SnapshotBatch], npt.NDArray[np.integer]]


@dataclass(slots=True)
class ReportRow:
    """One line of a report. Names are "" where not known, ids and ip None where not the key.

    samples: shown snapshots. period: sum of their event periods. share: samples / total, with
    its 95 % interval low..high. widths: samples by widest class in use (WIDTHS).
    lanes: counted lanes, and how many of them were nan, inf, subnormal, zero (-0.0 included) and
    negative_zero. verdicts: samples by the most useful verdict among the classes asked for.
    """

    symbol: str = ""
    dso: str = ""
    comm: str = ""
    pid: int | None = None
    tid: int | None = None
    ip: int | None = None
    symbol_offset: int | None = None
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

    elements: samples by the element type that was used to count (several with view "auto").
    """

    sort: str
    view: str
    total: int
    rows: list[ReportRow]
    elements: dict[str, int] = field(default_factory=dict)


_COLUMNS = ("samples", "period", *WIDTHS, "lanes", *KINDS, *VERDICT_NAMES)


class ReportBuilder:
    """Adds up batches: `add` each, then `finish`."""

    def __init__(
        self, names: NameTables, policy: Policy, *, sort: str = "symbol", view: str = "f64",
        element_of: ElementOf | None = None,
    ) -> None:
        if sort not in SORT_KEYS:
            raise ValueError(f"no such sort key: {sort} (there are {', '.join(SORT_KEYS)})")
        self.names = names
        self.policy = policy
        self.sort = sort
        self.view = view
        self.element_of = element_of
        self.total = 0
        self._elements: dict[str, int] = {}
        # Key -> (sums in the order of _COLUMNS, columns that name the row).
        self._sums: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
        self._about: dict[tuple[int, int], tuple[int, int, int, int, int, int, int]] = {}

    def add(self, batch: SnapshotBatch) -> None:
        n = len(batch)
        if n == 0:
            return
        self.total += n
        columns = self._columns(batch)
        ip = attributed_ip(batch)
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
        rows = [self._row(key, sums) for key, sums in self._sums.items()]
        rows.sort(key=lambda r: (-r.samples, r.symbol, r.dso, r.comm, r.tid or 0, r.ip or 0))
        if limit is not None:
            rows = rows[:limit]
        return Report(self.sort, self.view, self.total, rows, dict(self._elements))

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
        if self.sort == "tid":
            return batch.pid.astype(np.int64), batch.tid.astype(np.int64)
        return ip.view(np.int64), column(batch.dso)

    def _columns(self, batch: SnapshotBatch) -> list[npt.NDArray[np.generic]]:
        n = len(batch)
        widths = np.zeros((len(WIDTHS), n), np.int64)
        widths[UNSEEN] = 1
        counts = {kind: np.zeros(n, np.int64) for kind in ("lanes", *KINDS)}
        elements = self._element_indices(batch)
        set_names, chosen = primary_set(batch, self.policy)
        for index, name in enumerate(set_names):
            rows = np.flatnonzero(chosen == index)
            if len(rows):
                self._count(batch.sets[name], rows, elements, widths, counts)
        verdicts = [r.verdict for r in batch.sets.values()]
        best = best_verdict(verdicts, [np.ones(v.shape, np.bool_) for v in verdicts])
        if not verdicts:
            best = np.zeros(n, np.uint8)
        return [
            np.ones(n), batch.period.astype(np.float64), *widths, counts["lanes"],
            *(counts[kind] for kind in KINDS),
            *(best == code for code in range(len(VERDICT_NAMES))),
        ]  # fmt: skip

    def _count(
        self, registers: RegisterSet, rows: npt.NDArray[np.intp],
        elements: npt.NDArray[np.integer], widths: I64, counts: dict[str, I64],
    ) -> None:
        """Adds the samples `rows` of one set to `widths` and `counts` (in place)."""
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
        for element in np.unique(used):
            mine = np.flatnonzero(used == element)
            all_mine = len(mine) == len(rows)
            found = count_lanes(
                words if all_mine else words[mine], data if all_mine else data[mine],
                _ELEMENT_LIST[int(element)],
            )  # fmt: skip
            for kind, values in found.items():
                counts[kind][rows[mine]] = values

    def _element_indices(self, batch: SnapshotBatch) -> npt.NDArray[np.integer]:
        fallback = list(ELEMENTS).index("f64" if self.view == "auto" else self.view)
        chosen: npt.NDArray[np.integer] = np.full(len(batch), fallback, np.int8)
        if self.view == "auto" and self.element_of is not None:
            said = self.element_of(batch)
            chosen = np.where(said < 0, chosen, said)
        for index, count in zip(*np.unique(chosen, return_counts=True), strict=True):
            name = _ELEMENT_LIST[int(index)].name
            self._elements[name] = self._elements.get(name, 0) + int(count)
        return chosen

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
        names = self.names
        if self.sort in ("symbol", "ip"):
            row.symbol = names.symbols[symbol] if symbol >= 0 else ""
        if self.sort in ("symbol", "dso", "ip"):
            row.dso = names.dsos[dso] if dso >= 0 else ""
        if self.sort in ("comm", "tid"):
            row.comm = names.comms[comm] if comm >= 0 else ""
        if self.sort == "tid":
            row.pid, row.tid = pid, tid
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
    count, width = live.shape[1:]
    out[live[:, :, :2].any(axis=(1, 2))] = XMM_IN_USE
    if width > 2:
        out[live[:, :FIRST_HIGH_REGISTER, 2:4].any(axis=(1, 2))] = YMM_IN_USE
    if width > 4:
        out[live[:, :FIRST_HIGH_REGISTER, 4:].any(axis=(1, 2))] = ZMM_IN_USE
    if count > FIRST_HIGH_REGISTER:
        out[live[:, FIRST_HIGH_REGISTER:].any(axis=(1, 2))] = ZMM_IN_USE
    return out


__all__ = [
    "SORT_KEYS", "WIDTHS", "Report", "ReportBuilder", "ReportRow", "widest_in_use",
]  # fmt: skip
