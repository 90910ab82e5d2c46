"""CSV: the fields of schema perfxmm.snapshot/1, flat, one line per sample.

Column names are the JSON paths: `user.gpr.AX`, `user.vector[3][0]`, `user.verdict.ymm`. An empty
field is null. `reasons` and `init` are joined by spaces. Where all values are redacted, lane
statistics take their place, as in JSON: `user.stats.nan`.

Text that came with the recording (commands, symbols, paths, event names) may be hostile: controls
are written as backslash escapes, and a text that a spreadsheet would take for a formula (it
begins with = + - or @) gets an apostrophe in front, as OWASP's "CSV Injection" page advises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import KINDS
from perfxmm.analysis.names import CPUMODE_NAMES, EncodedTable, NameTables
from perfxmm.analysis.report import WIDTHS
from perfxmm.analysis.shapes import Shape, pieces_of, shapes_of
from perfxmm.analysis.shown import IP_ID, Policy
from perfxmm.analysis.textcolumns import Piece
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.exports.jsonl import SCHEMA
from perfxmm.exports.redaction import STATISTICS, STATISTICS_VIEW, Redaction, statistics_of

_SCALARS = (
    "schema", "time_ns", "pid", "tid", "cpu", "comm", "event", "period", "ip", "cpumode",
    "exact_ip", "symbol", "symbol_offset", "dso", "build_id", "source",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@")


def csv_field(value: str) -> bytes:
    """One text field, escaped and quoted where CSV (RFC 4180) needs it. UTF-8."""
    if not value.isprintable() or not value.isascii():
        value = "".join(c if c.isprintable() else _escaped(c) for c in value)
    if value.startswith(_FORMULA):
        value = "'" + value
    if any(c in value for c in ',"'):
        value = '"' + value.replace('"', '""') + '"'
    return value.encode()


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # an undecodable byte, PEP 383
    return json.dumps(character)[1:-1].replace("\\u00", "\\x")


@dataclass(slots=True)
class CsvLines:
    """Writes batches as CSV. All batches of a recording have the same columns."""

    names: NameTables
    policy: Policy
    redaction: Redaction = field(default_factory=Redaction)
    _tables: dict[str, EncodedTable] = field(init=False)

    def __post_init__(self) -> None:
        names = self.names
        self._tables = {
            "comm": EncodedTable(names.comms, csv_field, b""),
            "symbol": EncodedTable(names.symbols, csv_field, b""),
            "dso": EncodedTable(names.dsos, csv_field, b""),
            "build_id": EncodedTable(names.build_ids, csv_field, b""),
            "event": EncodedTable(names.events, csv_field, b""),
        }

    def header(self, batch: SnapshotBatch) -> bytes:
        """The line of column names."""
        columns = list(_SCALARS)
        for name, registers in batch.sets.items():
            columns.append(f"{name}.ip")
            columns += [f"{name}.gpr.{self.names.gpr_names[g]}" for g in registers.gpr_ids]
            columns.append(f"{name}.vector_bits")
            _, count, qwords = registers.vectors.shape
            columns += [f"{name}.vector[{r}][{q}]" for r in range(count) for q in range(qwords)]
            columns += [f"{name}.opmask[{k}]" for k in range(registers.predicates.shape[1])]
            columns += [f"{name}.verdict.{cls}" for cls in VERDICT_CLASSES]
            columns += [f"{name}.reasons", f"{name}.init"]
            if self.redaction.statistics:
                columns += [f"{name}.stats.{key}" for key in STATISTICS]
        return ",".join(columns).encode() + b"\n"

    def lines(self, batch: SnapshotBatch) -> Iterator[memoryview]:
        """The batch's lines, in its order, as pieces of about a megabyte."""
        words = sum(s.vectors.shape[1] * s.vectors.shape[2] for s in batch.sets.values())
        shapes = shapes_of(batch, self.policy, redacted=self.redaction.rows(batch))
        return pieces_of(
            shapes, len(batch), 400 + 19 * words,
            lambda shape, rows: self._rows(batch, shape, rows),
        )

    def _rows(
        self, batch: SnapshotBatch, shape: Shape, rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.uint8]:
        unknown = np.full(len(rows), -1, np.int32)

        def named(key: str, column: npt.NDArray[np.int32] | None) -> Piece:
            return self._tables[key].rows(unknown if column is None else column[rows])

        symbol = unknown if batch.symbol is None else batch.symbol[rows]
        offset: Piece = b""
        if batch.symbol_offset is not None:
            offset = text.blank_where(text.decimal(batch.symbol_offset[rows]), symbol < 0)
        time_ns, period = batch.time_ns[rows], batch.period[rows]
        pieces: list[Piece] = [
            SCHEMA.encode(), b",", text.blank_where(text.decimal(time_ns), time_ns == 0),
            b",", _number(batch.pid[rows]), b",", _number(batch.tid[rows]),
            b",", _number(batch.cpu[rows]), b",", named("comm", batch.comm),
            b",", self._tables["event"].rows(batch.event[rows]),
            b",", text.blank_where(text.decimal(period), period == 0),
            b",0x", text.hex_minimal(batch.ip[rows]),
            b",", text.choose([m.encode() for m in CPUMODE_NAMES], batch.cpumode[rows] & 7),
            b",", text.choose([b"false", b"true"], batch.exact_ip[rows].astype(np.int8)),
            b",", named("symbol", batch.symbol), b",", offset,
            b",", named("dso", batch.dso), b",", named("build_id", batch.dso),
            b"," + self.names.source.encode(),
        ]  # fmt: skip
        for name, registers in batch.sets.items():
            pieces += _set(registers, name, shape, rows)
            if self.redaction.statistics:
                pieces += _statistics(batch, registers, self.policy, rows)
        return text.assemble([*pieces, b"\n"], len(rows))


def _number(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    missing = values == -1
    return text.blank_where(text.decimal(np.where(missing, 0, values)), missing)


def _set(
    registers: RegisterSet, name: str, shape: Shape, rows: npt.NDArray[np.intp]
) -> list[Piece]:
    own = shape.sets[name]
    pieces: list[Piece] = [b","]
    seen = set(own.gprs)
    ip = registers.gpr(IP_ID)
    if ip is not None and IP_ID in seen:
        pieces += [b"0x", text.hex_minimal(ip[rows])]
    digits = text.hex_minimal(registers.gprs[rows])
    for column, gpr in enumerate(registers.gpr_ids):
        pieces += [b",0x", digits[:, column]] if gpr in seen else [b","]
    pieces.append(b",%d" % (own.qwords * 64 if own.vector_mask else 0))
    _, count, qwords = registers.vectors.shape
    for register in range(count):
        words = own.words_of(register)
        visible = [q for q in range(len(words)) if words[q]]
        if visible and visible == list(range(visible[0], visible[-1] + 1)):
            first, last = visible[0], visible[-1] + 1
            block = text.word_block(
                registers.vectors[rows, register : register + 1, first:last], open_register=b"",
                before=b"0x", between=b",", close_register=b"", between_registers=b"",
            )
            pieces += [b"," * (first + 1), block, b"," * (qwords - last)]
        else:
            pieces.append(b"," * qwords)
    for k in range(registers.predicates.shape[1]):
        pieces.append(b",")
        if k < own.predicates:
            pieces += [b"0x", text.hex_fixed(registers.predicates[rows, k])]
    table = [verdict.label.encode() for verdict in sorted(Verdict)]
    for column in range(len(VERDICT_CLASSES)):
        pieces += [b",", text.choose(table, registers.verdict[rows, column])]
    used, inverse = text.distinct(registers.reason[rows])
    reasons = [" ".join(reason_names(bits)).encode() for bits in used.tolist()]
    initial = " ".join(c for c, i in zip(VERDICT_CLASSES, own.initial, strict=True) if i)
    return [*pieces, b",", text.from_table(reasons, inverse), b"," + initial.encode()]


def _statistics(
    batch: SnapshotBatch, registers: RegisterSet, policy: Policy, rows: npt.NDArray[np.intp]
) -> list[Piece]:
    counts, widest = statistics_of(batch, registers, policy, rows)
    pieces: list[Piece] = [b"," + STATISTICS_VIEW.encode()]
    for kind in ("lanes", *KINDS):
        pieces += [b",", _number(counts[kind])]
    return [*pieces, b",", text.choose([b"", *(w.encode() for w in WIDTHS[1:])], widest)]
