"""Each snapshot as text: a line of chosen fields, and below it a line per register.

The line is laid out as `perf script` lays out its own. With iregs or uregs the registers stand in
that line too, as NAME:0xVALUE, and text tools that read perf's output read this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import ELEMENTS
from perfxmm.analysis.names import EncodedTable, NameTables
from perfxmm.analysis.shapes import SetShape, Shape, pieces_of, shapes_of
from perfxmm.analysis.shown import Policy, at_ip, attributed_ip
from perfxmm.analysis.statistics import redacted
from perfxmm.analysis.textcolumns import Piece
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.views.escape import escape_control
from perfxmm.views.lanes import Selection, gpr_lines, vector_lines

if TYPE_CHECKING:
    # The disassembler and the tools for lines are only for those who look at code.
    from perfxmm.analysis.instructions import Use, Uses
    from perfxmm.analysis.report import ElementOf
    from perfxmm.views.sourcelines import Source, SourceText

FIELDS: tuple[str, ...] = (
    "comm", "pid", "tid", "cpu", "time", "event", "period", "ip", "sym", "symoff", "dso",
    "build_id", "verdict", "reason", "insn", "iregs", "uregs", "regs", "vec",
    "chain", "srcline", "inline",
)  # fmt: skip
DEFAULT_FIELDS: tuple[str, ...] = (
    "comm", "pid", "tid", "cpu", "time", "event", "ip", "sym", "symoff", "dso", "verdict", "vec",
)  # fmt: skip
_ELEMENT_NAMES = list(ELEMENTS)
_UNKNOWN = b"[unknown]"
_REDACTED = b"    redacted\n"
# An instruction works on three registers at most, most of the time.
_USED_WORDS = 3 * 8
_NS = np.uint64(1_000_000_000)
# Least widths, those of perf script (tools/perf/builtin-script.c, Linux 6.1).
_COMM_WIDTH, _ID_WIDTH, _SECONDS_WIDTH, _PERIOD_WIDTH, _IP_WIDTH = 16, 7, 5, 10, 16
# PERF_CONTEXT_MAX, include/uapi/linux/perf_event.h: from here up, entries are markers.
_CHAIN_MARKERS = (1 << 64) - 4095

Rows = npt.NDArray[np.intp]
# Element type, number of the instruction (-1: not known), bit mask of the sets of another IP.
_StyleKey = tuple[int, int, int]
# (symbol, symbol_offset, dso, file offset of the code) of each entry of batch.chain.
ChainNames = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32], npt.NDArray[np.uint64]
]


class Code(Protocol):
    """What analysis.instructions.Instructions knows, and a test can say."""

    @property
    def texts(self) -> Sequence[str]: ...

    def uses(self, batch: SnapshotBatch) -> Uses: ...

    def use(self, number: int) -> Use | None: ...


@dataclass(frozen=True, slots=True)
class _Style:
    """How rows of one shape are printed. element: as in Uses. used: where only the registers that
    the instruction uses are printed, those; None where the instruction is not known. elsewhere:
    names of the sets that are of another IP than the instruction."""

    element: int = -1
    used: Selection | None = None
    elsewhere: frozenset[str] = frozenset()


@dataclass(slots=True)
class ScriptText:
    """Writes batches of `Recording.judged` as text.

    fields: of FIELDS, whatever their order. view: of analysis.lanes.VIEWS. selection: registers
    to print, None for all. resolve_chain: names for a batch's call chains. code: needed by the
    field insn and by regs_used, which prints only what the instruction at the IP reads or writes.
    source: needed by the fields srcline and inline.
    """

    names: NameTables
    policy: Policy
    fields: Sequence[str] = DEFAULT_FIELDS
    view: str = "hex"
    msb_first: bool = False
    selection: Selection | None = None
    element_of: ElementOf | None = None
    resolve_chain: Callable[[SnapshotBatch], ChainNames] | None = None
    code: Code | None = None
    regs_used: bool = False
    source: Source | None = None
    _source_text: SourceText | None = field(init=False, default=None)
    _tables: dict[str, EncodedTable] = field(init=False)
    _event_width: int = field(init=False)
    _styles: list[_Style] = field(init=False, default_factory=list)
    _style_numbers: dict[_StyleKey, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        def encode(value: str) -> bytes:
            return escape_control(value).encode("utf-8", "backslashreplace")

        names = self.names
        self._tables = {
            "comm": EncodedTable(names.comms, encode, b""),
            "symbol": EncodedTable(names.symbols, encode, _UNKNOWN),
            "dso": EncodedTable(names.dsos, encode, _UNKNOWN),
            "build_id": EncodedTable(names.build_ids, lambda b: encode(b) or b"-", b"-"),
            "event": EncodedTable(names.events, encode, _UNKNOWN),
        }
        if self.code is not None:
            self._tables["insn"] = EncodedTable(
                self.code.texts, lambda t: encode(t) or _UNKNOWN, _UNKNOWN
            )
        if self.source is not None and {"srcline", "inline"} & set(self.fields):
            from perfxmm.views.sourcelines import SourceText

            self._source_text = SourceText(
                self.source, "srcline" in self.fields, "inline" in self.fields,
                self._tables["dso"].text,
            )
        # All events are known from the start: as wide as the longest of them, as perf does it.
        self._event_width = max((len(encode(name)) for name in names.events), default=0)

    def lines(self, batch: SnapshotBatch) -> Iterator[memoryview]:
        """The batch as text, in its order, in pieces of about a megabyte."""
        ip = attributed_ip(batch)
        uses = None
        if self.code is not None and (self.regs_used or "insn" in self.fields):
            uses = self.code.uses(batch)
        shapes = shapes_of(batch, self.policy, elements=self._style_of(batch, uses, ip))
        words = sum(s.vectors.shape[1] * s.vectors.shape[2] for s in batch.sets.values())
        word_bytes = 24 if self.view == "hex" else 60
        row_bytes = 200 + word_bytes * (min(words, _USED_WORDS) if self.regs_used else words)
        chains = self._chains(batch) if "chain" in self.fields else None
        source = None
        if self._source_text is not None and chains is None:
            source = self._source_text.below(batch, ip, self._entry_of(batch))

        def render(shape: Shape, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
            pieces = self._line(batch, shape, rows, ip, uses)
            if chains is not None:
                pieces.append(text.choose(chains, rows))
            if source is not None:
                pieces.append(source(rows))
            pieces += self._blocks(batch, shape, rows)
            return text.assemble(pieces, len(rows))

        return pieces_of(shapes, len(batch), row_bytes, render)

    def _style_of(
        self, batch: SnapshotBatch, uses: Uses | None, ip: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """int64 [n], index into self._styles: rows that may be printed alike have the same."""
        n = len(batch)
        if self.view != "auto":
            element = np.full(n, _ELEMENT_NAMES.index(self.view), np.int64)
        elif self.element_of is None:
            element = np.full(n, -1, np.int64)
        else:
            element = self.element_of(batch).astype(np.int64)
        number = np.full(n, -1, np.int64)
        elsewhere = np.zeros(n, np.int64)
        if self.regs_used and uses is not None:
            number = np.where(uses.known, uses.number, -1)
            for bit, registers in enumerate(batch.sets.values()):
                elsewhere |= (~at_ip(registers, ip, self.policy)).astype(np.int64) << bit
        packed = ((number + 1) << 8 | element + 1) << 2 | elsewhere
        different, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        names = list(batch.sets)
        codes = np.zeros(len(different), np.int64)
        for place, row in enumerate(first.tolist()):
            key = (int(element[row]), int(number[row]), int(elsewhere[row]))
            if key not in self._style_numbers:
                self._style_numbers[key] = self._style(key, names)
            codes[place] = self._style_numbers[key]
        found: npt.NDArray[np.int64] = codes[inverse.reshape(-1)]
        return found

    def _style(self, key: _StyleKey, names: list[str]) -> int:
        """The index of a style that may be an old one: instructions that use the same registers
        are printed alike."""
        element, number, bits = key
        use = self.code.use(number) if self.code is not None and number >= 0 else None
        style = _Style(
            element, None if use is None else Selection.of_use(use, self.names.gpr_names),
            frozenset(name for bit, name in enumerate(names) if bits >> bit & 1),
        )  # fmt: skip
        if style not in self._styles:
            self._styles.append(style)
        return self._styles.index(style)

    def _chosen(self, style: _Style, registers: RegisterSet) -> Selection:
        if self.regs_used:
            if style.used is None or registers.name in style.elsewhere:
                return Selection()
            return style.used
        return self.selection or Selection.everything(registers.gpr_ids)

    def _line(
        self, batch: SnapshotBatch, shape: Shape, rows: Rows, ip: npt.NDArray[np.uint64],
        uses: Uses | None,
    ) -> list[Piece]:
        """The fields that were asked for with a blank between them, and the end of the line.

        Widths are least widths, as perf's are: no field depends on what other rows hold.
        """
        has = set(self.fields)
        style = self._styles[shape.element]
        columns: list[list[Piece]] = []
        ids: list[Piece] = []
        if "comm" in has:
            columns.append([text.right_aligned(self._comms(batch, rows), _COMM_WIDTH)])
        if "pid" in has or "tid" in has:
            columns.append(self._ids(batch, rows))
            ids = columns[-1]
        if "cpu" in has:
            columns.append([b"[", _cpu(batch.cpu[rows]), b"]"])
        if "time" in has:
            time = batch.time_ns[rows]
            columns.append([*_time(time), b":"])
        if "period" in has:
            columns.append([text.right_aligned(text.decimal(batch.period[rows]), _PERIOD_WIDTH)])
        if "event" in has:
            event = self._tables["event"].rows(batch.event[rows])
            columns.append([text.right_aligned(event, self._event_width), b":"])
        if "ip" in has:
            columns.append([text.right_aligned(text.hex_minimal(ip[rows]), _IP_WIDTH)])
        if "sym" in has:
            columns.append(self._symbol(batch, rows))
        if "dso" in has:
            columns.append([b"(", self._names("dso", batch.dso, rows), b")"])
        if "build_id" in has:
            columns.append([self._names("build_id", batch.dso, rows)])
        if "verdict" in has and batch.sets:
            columns.append([_verdicts(batch, rows)])
        if "reason" in has and batch.sets:
            columns.append([b"[", _reasons(batch, rows), b"]"])
        if self.view == "auto" and (not self.regs_used or (style.used and style.used.vectors)):
            columns.append([_auto_note(style.element)])
        if self.regs_used and (note := _used_note(style)):
            columns.append([note])
        if "insn" in has and uses is not None:
            columns.append([b"insn: ", self._tables["insn"].rows(uses.number[rows])])
        for name, key in (("intr", "iregs"), ("user", "uregs")):
            if key in has and name in batch.sets:
                selection = self._chosen(style, batch.sets[name])
                columns.append(self._tokens(batch.sets[name], shape.sets[name], rows, selection))
        if len(ids) > 1 and columns[-1] is ids:  # nothing is filled up at the end of a line
            ids[-1] = text.decimal(batch.tid[rows])
        pieces: list[Piece] = []
        for number, column in enumerate(columns):
            pieces += [b" ", *column] if number else column
        return [*pieces, b"\n"]

    def _ids(self, batch: SnapshotBatch, rows: Rows) -> list[Piece]:
        has = set(self.fields)
        ids = [c[rows] for f, c in (("pid", batch.pid), ("tid", batch.tid)) if f in has]
        pieces: list[Piece] = [text.right_aligned(text.decimal(ids[0]), _ID_WIDTH)]
        if len(ids) > 1:
            pieces += [b"/", text.left_aligned(text.decimal(ids[1]), _ID_WIDTH)]
        return pieces

    def _symbol(self, batch: SnapshotBatch, rows: Rows) -> list[Piece]:
        pieces: list[Piece] = [self._names("symbol", batch.symbol, rows)]
        if "symoff" in self.fields and batch.symbol is not None and batch.symbol_offset is not None:
            offset = text.hex_minimal(batch.symbol_offset[rows])
            prefix = np.broadcast_to(np.frombuffer(b"+0x", np.uint8), (len(rows), 3))
            both = np.concatenate([prefix, offset], axis=1)
            pieces.append(text.blank_where(both, batch.symbol[rows] < 0))
        return pieces

    def _comms(self, batch: SnapshotBatch, rows: Rows) -> npt.NDArray[np.uint8]:
        """The threads' names; :TID, as perf has it, where none was ever heard."""
        named = self._names("comm", batch.comm, rows)
        nameless = np.full(len(rows), True) if batch.comm is None else batch.comm[rows] < 0
        if not nameless.any():
            return named
        used, inverse = text.distinct(batch.tid[rows][nameless])
        instead = text.from_table([b":%d" % tid for tid in used.tolist()], inverse)
        out = np.zeros((len(rows), max(named.shape[1], instead.shape[1])), np.uint8)
        out[:, : named.shape[1]] = named
        out[nameless, : instead.shape[1]] = instead
        out[nameless, instead.shape[1] :] = 0
        return out

    def _names(
        self, table: str, column: npt.NDArray[np.int32] | None, rows: Rows
    ) -> npt.NDArray[np.uint8]:
        indices = np.full(len(rows), -1, np.int32) if column is None else column[rows]
        return self._tables[table].rows(indices)

    def _tokens(
        self, registers: RegisterSet, own: SetShape, rows: Rows, selection: Selection
    ) -> list[Piece]:
        """Registers in the line, as perf prints them: NAME:0x1, YMM[3][0]:0x2."""
        pieces: list[Piece] = [b"ABI:", text.decimal(registers.abi[rows])]
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
            values = text.picked(registers.vectors, rows)
            if len(places) == values.shape[1] * values.shape[2]:
                values = values.reshape(len(rows), -1)
            else:
                values = values[:, *np.array(places).T]
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
        style = self._styles[shape.element]
        element = ELEMENTS[_ELEMENT_NAMES[style.element] if style.element >= 0 else "hex"]
        for name, registers in batch.sets.items():
            own = shape.sets[name]
            selection = self._chosen(style, registers)
            block: list[Piece] = []
            if "vec" in self.fields:
                block += vector_lines(
                    registers, own, rows, selection, element, msb_first=self.msb_first
                )
            if "regs" in self.fields:
                block += gpr_lines(registers, own, rows, selection, self.names.gpr_names)
            if not own.gprs and not own.vector_mask and (gone := redacted(registers)[rows]).any():
                # Where a value would stand, that it was never written.
                block.append(text.choose([b"", _REDACTED], gone.astype(np.int8)))
            if block and len(batch.sets) > 1:
                pieces.append(f"  {name}:\n".encode())
            pieces += block
        return pieces

    def _chains(self, batch: SnapshotBatch) -> list[bytes]:
        """A block of lines per sample. Chains differ in length: here samples are objects."""
        if batch.chain is None or batch.chain_start is None:
            return [b""] * len(batch)
        names = self.resolve_chain(batch) if self.resolve_chain else None
        code = self._source_text
        found = code.source.at(names[2], names[3]) if code is not None and names else None
        lines = []
        for entry, address in enumerate(batch.chain.tolist()):
            if address >= _CHAIN_MARKERS:
                lines.append(b"")
                continue
            if names is None:
                lines.append(b"\t%16x\n" % address)
                continue
            symbol, past, dso, offset = (int(column[entry]) for column in names)
            line = self._entry(address, symbol, past, dso)
            if code is not None and found is not None:
                frames = found.frames[int(found.number[entry])]
                line = code.expanded(frames, address, line, dso, offset)
            lines.append(line)
        starts = batch.chain_start.tolist()
        return [b"".join(lines[a:b]) for a, b in pairwise(starts)]

    def _entry(self, address: int, symbol: int, symbol_offset: int, dso: int) -> bytes:
        """The line of one function in a list of callers."""
        line = b"\t%16x " % address + self._tables["symbol"].text(symbol)
        if symbol >= 0 and "symoff" in self.fields:
            line += b"+0x%x" % symbol_offset
        return line + b" (" + self._tables["dso"].text(dso) + b")\n"

    def _entry_of(self, batch: SnapshotBatch) -> Callable[[int, int], bytes]:
        """The same of a sample's own IP."""

        def entry(row: int, address: int) -> bytes:
            columns = (batch.symbol, batch.symbol_offset, batch.dso)
            symbol, past, dso = (-1 if c is None else int(c[row]) for c in columns)
            return self._entry(address, symbol, past, dso)

        return entry


def _cpu(cpu: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    digits = text.right_aligned(text.decimal(np.maximum(cpu, 0)), 3)
    digits = np.where(digits == ord(" "), np.uint8(ord("0")), digits)
    return text.blank_where(digits, cpu < 0, b"---")


def _time(time_ns: npt.NDArray[np.uint64]) -> list[Piece]:
    """Seconds to the nanosecond; a dash where none was recorded (perf record --no-timestamp)."""
    seconds = text.right_aligned(text.decimal(time_ns // _NS), _SECONDS_WIDTH)
    pieces: list[Piece] = [seconds, b".", text.decimal_fixed(time_ns % _NS, 9)]
    absent = time_ns == 0
    if not absent.any():
        return pieces
    both = text.assemble(pieces, len(time_ns))
    return [text.blank_where(both, absent, b"-".rjust(_SECONDS_WIDTH))]


def _used_note(style: _Style) -> bytes:
    if style.used is None:
        return b"regs:none(instruction not known)"
    told = ",".join(sorted(style.elsewhere))
    return f"{told}:none(of another instruction)".encode() if told else b""


def _auto_note(element: int) -> bytes:
    if element < 0:
        return b"lanes:hex(no one element type known)"
    return b"lanes:%s(by instruction)" % _ELEMENT_NAMES[element].encode()


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
