"""Each snapshot as text: a line of chosen fields, and below it a line per register.

The line is laid out as `perf script` lays out its own. With iregs or uregs the registers stand in
that line too, as NAME:0xVALUE, and text tools that read perf's output read this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import ELEMENTS
from perfxmm.analysis.names import EncodedTable, NameTables
from perfxmm.analysis.report import ElementOf
from perfxmm.analysis.shapes import SetShape, Shape, shapes_of
from perfxmm.analysis.shown import Policy, attributed_ip
from perfxmm.analysis.textcolumns import Piece
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.views.escape import escape_control
from perfxmm.views.lanes import Selection, gpr_lines, vector_lines

FIELDS: tuple[str, ...] = (
    "comm", "pid", "tid", "cpu", "time", "event", "period", "ip", "sym", "symoff", "dso",
    "build_id", "verdict", "reason", "iregs", "uregs", "regs", "vec", "chain",
)  # fmt: skip
DEFAULT_FIELDS: tuple[str, ...] = (
    "comm", "pid", "tid", "cpu", "time", "event", "ip", "sym", "symoff", "dso", "verdict", "vec",
)  # fmt: skip
_ELEMENT_NAMES = list(ELEMENTS)
_UNKNOWN = b"[unknown]"
_NS = np.uint64(1_000_000_000)
_COMM_WIDTH, _ID_WIDTH, _IP_WIDTH = 16, 7, 16
# PERF_CONTEXT_MAX, include/uapi/linux/perf_event.h: from here up, entries are markers.
_CHAIN_MARKERS = (1 << 64) - 4095

Rows = npt.NDArray[np.intp]
# (symbol, symbol_offset, dso) of each entry of batch.chain.
ChainNames = tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32]]


@dataclass(slots=True)
class ScriptText:
    """Writes batches of `Recording.judged` as text.

    fields: of FIELDS, whatever their order. view: of analysis.lanes.VIEWS. selection: registers
    to print, None for all. resolve_chain: names for a batch's call chains.
    """

    names: NameTables
    policy: Policy
    fields: Sequence[str] = DEFAULT_FIELDS
    view: str = "hex"
    msb_first: bool = False
    selection: Selection | None = None
    element_of: ElementOf | None = None
    resolve_chain: Callable[[SnapshotBatch], ChainNames] | None = None
    _tables: dict[str, EncodedTable] = field(init=False)

    def __post_init__(self) -> None:
        def encode(value: str) -> bytes:
            return escape_control(value).encode("utf-8", "backslashreplace")

        names = self.names
        self._tables = {
            "comm": EncodedTable(names.comms, encode, b":unknown"),
            "symbol": EncodedTable(names.symbols, encode, _UNKNOWN),
            "dso": EncodedTable(names.dsos, encode, _UNKNOWN),
            "build_id": EncodedTable(names.build_ids, lambda b: encode(b) or b"-", b"-"),
            "event": EncodedTable(names.events, encode, _UNKNOWN),
        }

    def lines(self, batch: SnapshotBatch) -> Iterator[memoryview]:
        """The batch as text, in its order, in pieces of about a megabyte."""
        elements = self._elements(batch)
        shapes = shapes_of(batch, self.policy, elements=elements)
        row_bytes = 200 + 60 * sum(
            s.vectors.shape[1] * s.vectors.shape[2] for s in batch.sets.values()
        )
        ip = attributed_ip(batch)
        chains = self._chains(batch) if "chain" in self.fields else None
        for run in text.runs(len(batch), row_bytes):
            yield self._run(batch, shapes, run, ip, chains)

    def _run(
        self, batch: SnapshotBatch, shapes: list[Shape], run: slice, ip: npt.NDArray[np.uint64],
        chains: list[bytes] | None,
    ) -> memoryview:
        parts = []
        for shape in shapes:
            first, last = np.searchsorted(shape.rows, (run.start, run.stop))
            rows = shape.rows[first:last]
            if len(rows):
                pieces = self._line(batch, shape, rows, ip)
                if chains is not None:
                    pieces.append(text.choose(chains, rows))
                pieces += self._blocks(batch, shape, rows)
                parts.append((rows - run.start, text.assemble(pieces, len(rows))))
        return text.squeeze(text.interleave(parts, run.stop - run.start))

    def _elements(self, batch: SnapshotBatch) -> npt.NDArray[np.integer] | None:
        if self.view != "auto":
            return np.full(len(batch), _ELEMENT_NAMES.index(self.view), np.int64)
        if self.element_of is None:
            return np.full(len(batch), -1, np.int64)
        return self.element_of(batch)

    def _line(
        self, batch: SnapshotBatch, shape: Shape, rows: Rows, ip: npt.NDArray[np.uint64]
    ) -> list[Piece]:
        has = set(self.fields)
        pieces: list[Piece] = []
        if "comm" in has:
            comm = self._names("comm", batch.comm, rows)
            pieces += [text.right_aligned(comm, _COMM_WIDTH), b" "]
        if "pid" in has or "tid" in has:
            both = [batch.pid[rows]] * ("pid" in has) + [batch.tid[rows]] * ("tid" in has)
            pieces.append(text.right_aligned(text.decimal(both[0]), _ID_WIDTH))
            if len(both) > 1:
                pieces += [b"/", text.left_aligned(text.decimal(both[1]), _ID_WIDTH)]
            pieces.append(b" ")
        if "cpu" in has:
            cpu = batch.cpu[rows]
            digits = text.decimal_fixed(np.maximum(cpu, 0).astype(np.uint64), 3)
            wide = text.decimal(np.maximum(cpu, 0))
            if (cpu > 999).any():
                digits = text.blank_where(wide, cpu <= 999)
            pieces += [b"[", text.blank_where(digits, cpu < 0, b"---"), b"] "]
        if "time" in has:
            time = batch.time_ns[rows]
            seconds = text.right_aligned(text.decimal(time // _NS), 5)
            pieces += [seconds, b".", text.decimal_fixed(time % _NS, 9), b": "]
        if "period" in has:
            pieces += [text.right_aligned(text.decimal(batch.period[rows]), 10), b" "]
        if "event" in has:
            pieces += [self._tables["event"].rows(batch.event[rows]), b": "]
        pieces.append(text.PAD)
        if "ip" in has:
            pieces += [text.right_aligned(text.hex_minimal(ip[rows]), _IP_WIDTH), b" "]
        if "sym" in has:
            pieces.append(self._names("symbol", batch.symbol, rows))
            if "symoff" in has and batch.symbol is not None and batch.symbol_offset is not None:
                offset = text.hex_minimal(batch.symbol_offset[rows])
                known = np.broadcast_to(np.frombuffer(b"+0x", np.uint8), (len(rows), 3))
                both_ = np.concatenate([known, offset], axis=1)
                pieces.append(text.blank_where(both_, batch.symbol[rows] < 0))
            pieces.append(b" ")
        if "dso" in has:
            pieces += [b"(", self._names("dso", batch.dso, rows), b") "]
        if "build_id" in has:
            pieces += [self._names("build_id", batch.dso, rows), b" "]
        if "verdict" in has:
            pieces += [_verdicts(batch, rows), b" "]
        if "reason" in has:
            pieces += [b"[", _reasons(batch, rows), b"] "]
        if self.view == "auto":
            pieces.append(_auto_note(shape.element))
        for name, key in (("intr", "iregs"), ("user", "uregs")):
            if key in has and name in batch.sets:
                pieces += self._tokens(batch.sets[name], shape.sets[name], rows)
        return [*pieces, b"\n"]

    def _names(
        self, table: str, column: npt.NDArray[np.int32] | None, rows: Rows
    ) -> npt.NDArray[np.uint8]:
        indices = np.full(len(rows), -1, np.int32) if column is None else column[rows]
        return self._tables[table].rows(indices)

    def _tokens(self, registers: RegisterSet, own: SetShape, rows: Rows) -> list[Piece]:
        """Registers in the line, as perf prints them: NAME:0x1, YMM[3][0]:0x2."""
        selection = self.selection or Selection.everything(registers.gpr_ids)
        pieces: list[Piece] = [b" ABI:", text.decimal(registers.abi[rows])]
        gprs = [g for g in own.gprs if g in selection.gprs]
        if gprs:
            columns = [registers.gpr_ids.index(g) for g in gprs]
            digits = text.hex_minimal(registers.gprs[rows][:, columns])
            for number, gpr in enumerate(gprs):
                name = self.names.gpr_names[gpr].encode()
                pieces += [b" " + name + b":0x", digits[:, number]]
        prefix = {2: "XMM", 4: "YMM", 8: "ZMM"}.get(own.qwords, "VEC")
        places = [
            (register, word)
            for register in sorted(selection.vectors)
            for word, seen in enumerate(own.words_of(register)[: selection.vectors[register]])
            if seen
        ]
        if places:
            values = registers.vectors[rows][:, *np.array(places).T]
            labels = [f" {prefix}[{register}][{word}]:0x".encode() for register, word in places]
            pieces.append(text.Words(values, [*labels, b""]))
        for k in range(own.predicates):
            if k in selection.opmasks:
                digits = text.hex_minimal(registers.predicates[rows, k])
                pieces += [f" OPMASK[{k}]:0x".encode(), digits]
        return pieces

    def _blocks(self, batch: SnapshotBatch, shape: Shape, rows: Rows) -> list[Piece]:
        pieces: list[Piece] = []
        if not {"regs", "vec"} & set(self.fields):
            return pieces
        element = ELEMENTS[_ELEMENT_NAMES[shape.element] if shape.element >= 0 else "hex"]
        for name, registers in batch.sets.items():
            own = shape.sets[name]
            selection = self.selection or Selection.everything(registers.gpr_ids)
            block: list[Piece] = []
            if "vec" in self.fields:
                block += vector_lines(
                    registers, own, rows, selection, element, msb_first=self.msb_first
                )
            if "regs" in self.fields:
                block += gpr_lines(registers, own, rows, selection, self.names.gpr_names)
            if block and len(batch.sets) > 1:
                pieces.append(f"  {name}:\n".encode())
            pieces += block
        return pieces

    def _chains(self, batch: SnapshotBatch) -> list[bytes]:
        """A block of lines per sample. Chains differ in length: here samples are objects."""
        if batch.chain is None or batch.chain_start is None:
            return [b""] * len(batch)
        names = self.resolve_chain(batch) if self.resolve_chain else None
        lines = []
        for entry, address in enumerate(batch.chain.tolist()):
            if address >= _CHAIN_MARKERS:
                lines.append(b"")
                continue
            line = f"\t{address:16x}".encode()
            if names is not None:
                symbol, offset, dso = (int(column[entry]) for column in names)
                line += b" " + self._tables["symbol"].text(symbol)
                if symbol >= 0 and "symoff" in self.fields:
                    line += f"+0x{offset:x}".encode()
                line += b" (" + self._tables["dso"].text(dso) + b")"
            lines.append(line + b"\n")
        starts = batch.chain_start.tolist()
        return [b"".join(lines[a:b]) for a, b in pairwise(starts)]


def _auto_note(element: int) -> bytes:
    if element < 0:
        return b"lanes:hex(instruction not known) "
    return b"lanes:%s(by instruction) " % _ELEMENT_NAMES[element].encode()


def _verdicts(batch: SnapshotBatch, rows: Rows) -> npt.NDArray[np.uint8]:
    """`user:coherent`, or class by class where they differ: `intr:gpr=coherent,ymm=torn`."""
    columns = []
    for name, registers in batch.sets.items():
        packed = np.zeros(len(rows), np.int64)
        for column in range(len(VERDICT_CLASSES)):
            packed |= registers.verdict[rows, column].astype(np.int64) << 8 * column
        used, inverse = text.distinct(packed)
        texts = [f"{name}:{_verdict_text(code)}".encode() for code in used.tolist()]
        columns.append(text.from_table(texts, inverse))
    pieces: list[Piece] = []
    for number, column_ in enumerate(columns):
        pieces += [b" ", column_] if number else [column_]
    return text.assemble(pieces, len(rows))


def _verdict_text(code: int) -> str:
    labels = [Verdict(code >> 8 * column & 0xFF).label for column in range(len(VERDICT_CLASSES))]
    told = {c: v for c, v in zip(VERDICT_CLASSES, labels, strict=True) if v != "absent"}
    if len(set(told.values())) <= 1:
        return next(iter(told.values()), "absent")
    return ",".join(f"{name}={label}" for name, label in told.items())


def _reasons(batch: SnapshotBatch, rows: Rows) -> npt.NDArray[np.uint8]:
    pieces: list[Piece] = []
    for number, registers in enumerate(batch.sets.values()):
        used, inverse = text.distinct(registers.reason[rows])
        texts = [",".join(reason_names(bits)).encode() for bits in used.tolist()]
        pieces += [b"; "] * bool(number) + [text.from_table(texts, inverse)]
    return text.assemble(pieces, len(rows))


__all__ = ["DEFAULT_FIELDS", "FIELDS", "ChainNames", "ScriptText"]
