"""JSON lines: one object of schema `perfxmm.snapshot/1` per sample.

ASCII only; 64-bit values are strings of hexadecimal digits. Lines are made column by column
(analysis.textcolumns), so that a sample never becomes a Python object. They are compact but for
blanks between fields, which make neighbouring lines equally long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.lanes import ELEMENTS, lanes_of
from perfxmm.analysis.lanetext import lane_rows
from perfxmm.analysis.names import CPUMODE_NAMES, EncodedTable, NameTables
from perfxmm.analysis.shapes import SetShape, Shape, pieces_of, shapes_of
from perfxmm.analysis.shown import IP_ID, Policy
from perfxmm.analysis.textcolumns import Piece, spaced
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.exports.redaction import Redaction, statistics_text

if TYPE_CHECKING:
    from perfxmm.analysis.report import ElementOf

SCHEMA = "perfxmm.snapshot/1"
_HEAD = f'{{"schema":"{SCHEMA}","time_ns":'.encode()
_CPUMODES = [json.dumps(name).encode() for name in CPUMODE_NAMES]
_ELEMENT_NAMES = list(ELEMENTS)


def json_string(value: str) -> bytes:
    r"""`value` as a JSON string, ASCII only.

    An undecodable byte of a file name (a lone surrogate, PEP 383) becomes the four characters
    `\xff`: JSON has no way to say it, and parsers disagree on lone surrogates.
    """
    if not value.isascii():
        value = "".join(
            f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF
            else f"\\u{ord(c):04x}" if 0xD800 <= ord(c) <= 0xDFFF
            else c
            for c in value
        )  # fmt: skip
    return json.dumps(value).encode("ascii")


@dataclass(slots=True)
class JsonLines:
    """Writes batches as JSON lines.

    view: also give decoded lanes under "lanes", by this element type ("" for none; "auto" asks
    element_of, f64 where the code does not say). redaction: values to leave out.
    """

    names: NameTables
    policy: Policy
    view: str = ""
    element_of: ElementOf | None = None
    redaction: Redaction = field(default_factory=Redaction)
    _comms: EncodedTable = field(init=False)
    _symbols: EncodedTable = field(init=False)
    _dsos: EncodedTable = field(init=False)
    _build_ids: EncodedTable = field(init=False)
    _events: EncodedTable = field(init=False)

    def __post_init__(self) -> None:
        names = self.names
        self._comms = EncodedTable(names.comms, json_string, b"null")
        self._symbols = EncodedTable(names.symbols, json_string, b"null")
        self._dsos = EncodedTable(names.dsos, json_string, b"null")
        self._build_ids = EncodedTable(
            names.build_ids, lambda b: json_string(b) if b else b"null", b"null"
        )
        self._events = EncodedTable(names.events, json_string, b"null")

    def lines(self, batch: SnapshotBatch) -> Iterator[memoryview]:
        """The batch's lines, in its order, as pieces of about a megabyte."""
        words = sum(s.vectors.shape[1] * s.vectors.shape[2] for s in batch.sets.values())
        row_bytes = 600 + 24 * words + 64 * sum(len(s.gpr_ids) for s in batch.sets.values())
        if self.view:
            row_bytes *= 2
        redacted = self.redaction.rows(batch)
        elements = self._elements(batch)
        shapes = shapes_of(batch, self.policy, redacted=redacted, elements=elements)
        return pieces_of(
            shapes, len(batch), row_bytes, lambda shape, rows: self._rows(batch, shape, rows)
        )

    def _elements(self, batch: SnapshotBatch) -> npt.NDArray[np.integer] | None:
        if not self.view:
            return None
        fallback = _ELEMENT_NAMES.index("f64" if self.view == "auto" else self.view)
        chosen: npt.NDArray[np.integer] = np.full(len(batch), fallback, np.int64)
        if self.view == "auto" and self.element_of is not None:
            said = self.element_of(batch)
            chosen = np.where(said < 0, chosen, said)
        return chosen

    def _rows(
        self, batch: SnapshotBatch, shape: Shape, rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.uint8]:
        unknown = np.full(len(rows), -1, np.int32)

        def names_of(column: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int32]:
            return unknown if column is None else column[rows]

        dso = names_of(batch.dso)
        symbol = names_of(batch.symbol)
        offset: Piece = b"null"
        if batch.symbol_offset is not None:
            offset = spaced(
                text.blank_where(text.decimal(batch.symbol_offset[rows]), symbol < 0, b"null")
            )
        time_ns, period = batch.time_ns[rows], batch.period[rows]
        exact = text.choose([b"false", b"true"], batch.exact_ip[rows].astype(np.int8))
        source = json_string(self.names.source) if self.names.source else b"null"
        pieces: list[Piece] = [
            _HEAD, spaced(text.blank_where(text.decimal(time_ns), time_ns == 0, b"null")),
            b',"pid":', _number(batch.pid[rows]), b',"tid":', _number(batch.tid[rows]),
            b',"cpu":', _number(batch.cpu[rows]),
            b',"comm":', spaced(self._comms.rows(names_of(batch.comm))),
            b',"event":', spaced(self._events.rows(batch.event[rows])),
            b',"period":', spaced(text.blank_where(text.decimal(period), period == 0, b"null")),
            b',"ip":"0x', text.hex_minimal(batch.ip[rows]),
            b'","cpumode":', spaced(text.choose(_CPUMODES, batch.cpumode[rows] & 7)),
            b',"exact_ip":', spaced(exact),
            b',"symbol":', spaced(self._symbols.rows(symbol)), b',"symbol_offset":', offset,
            b',"dso":', spaced(self._dsos.rows(dso)),
            b',"build_id":', spaced(self._build_ids.rows(dso)),
            b',"source":', source, b',"sets":{',
        ]  # fmt: skip
        for number, (name, registers) in enumerate(batch.sets.items()):
            pieces.append((b"," if number else b"") + json.dumps(name).encode() + b":")
            pieces += self._set(batch, registers, name, shape, rows)
        pieces.append(b"}}\n")
        return text.assemble(pieces, len(rows))

    def _set(
        self, batch: SnapshotBatch, registers: RegisterSet, name: str, shape: Shape,
        rows: npt.NDArray[np.intp],
    ) -> list[Piece]:
        own = shape.sets[name]
        pieces: list[Piece] = [b'{"ip":']
        ip = registers.gpr(IP_ID)
        if ip is not None and IP_ID in own.gprs:
            pieces += [b'"0x', text.hex_minimal(ip[rows]), b'"']
        else:
            pieces.append(b"null")
        pieces += [b',"gpr":{', *_gprs(registers, own, self.names.gpr_names, rows)]
        bits = own.qwords * 64 if own.vector_mask else 0
        pieces += [b"},", text.PAD, b'"vector_bits":%d,"vector":[' % bits]
        pieces += _vectors(registers, own, rows)
        pieces += [b'],"opmask":[', *_opmasks(registers, own, rows), b"]"]
        pieces += [b',"verdict":', spaced(_verdicts(registers, rows), 256)]
        pieces += [b',"reasons":', spaced(_reasons(registers, rows), 256)]
        initial = [c for c, i in zip(VERDICT_CLASSES, own.initial, strict=True) if i]
        pieces.append(b',"init":' + json.dumps(initial, separators=(",", ":")).encode())
        if self.view:
            element = _ELEMENT_NAMES[shape.element]
            pieces.append(b',"lanes":{"view":"%s","vector":[' % element.encode())
            pieces += _lanes(registers, own, rows, element)
            pieces.append(b"]}")
        if self.redaction.statistics:
            pieces += [b',"stats":', statistics_text(batch, registers, self.policy, rows)]
        return [*pieces, text.PAD, b"}"]


def _number(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Decimal digits; null for -1, which is how a batch says "not recorded"."""
    missing = values == -1
    return spaced(text.blank_where(text.decimal(np.where(missing, 0, values)), missing, b"null"))


def _gprs(
    registers: RegisterSet, own: SetShape, gpr_names: tuple[str, ...],
    rows: npt.NDArray[np.intp],
) -> list[Piece]:
    if not own.gprs:
        return []
    columns = [registers.gpr_ids.index(g) for g in own.gprs]
    digits = text.hex_minimal(registers.gprs[rows][:, columns])
    pieces: list[Piece] = []
    for number, gpr in enumerate(own.gprs):
        before = '","' if number else '"'
        pieces.append(f'{before}{gpr_names[gpr]}":"0x'.encode())
        pieces.append(digits[:, number])
    return [*pieces, b'"']


def _vectors(
    registers: RegisterSet, own: SetShape, rows: npt.NDArray[np.intp]
) -> list[Piece]:
    """The registers, by runs of neighbours with the same words to be seen."""
    pieces: list[Piece] = []
    for first, last, seen in _register_runs(own):
        if pieces:
            pieces.append(b",")
        if not any(seen):
            pieces.append(b",".join([b"null"] * (last - first)))
            continue
        # Words that may be seen stand in front: a verdict never believes an upper half alone,
        # but where it does (only that class is kept) the lower words are null.
        start = seen.index(True)
        stop = len(seen) - seen[::-1].index(True)
        words = text.picked(registers.vectors, rows)[:, first:last, start:stop]
        pieces.append(
            text.word_block(
                words, open_register=b"[" + b"null," * start, before=b'"0x', between=b'",',
                close_register=b'"' + b",null" * (len(seen) - stop) + b"]",
                between_registers=b",",
            )
        )
    return pieces


def _register_runs(own: SetShape) -> Iterator[tuple[int, int, tuple[bool, ...]]]:
    """(first, last, visible words): neighbouring registers of which the same may be seen."""
    first = 0
    count = own.registers
    for register in range(1, count + 1):
        if register == count or own.words_of(register) != own.words_of(first):
            yield first, register, own.words_of(first)
            first = register


def _opmasks(
    registers: RegisterSet, own: SetShape, rows: npt.NDArray[np.intp]
) -> list[Piece]:
    if not own.predicates:
        return [b",".join([b"null"] * own.delivered_predicates)]
    words = registers.predicates[rows, : own.predicates, None]
    return [
        text.word_block(
            words, open_register=b"", before=b'"0x', between=b'"', close_register=b'"',
            between_registers=b",",
        )
    ]


def _verdicts(registers: RegisterSet, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    packed = np.zeros(len(rows), np.int64)
    for column in range(len(VERDICT_CLASSES)):
        packed |= registers.verdict[rows, column].astype(np.int64) << 8 * column
    used, inverse = text.distinct(packed)
    texts = []
    for code in used.tolist():
        verdicts = {
            name: Verdict(code >> 8 * column & 0xFF).label
            for column, name in enumerate(VERDICT_CLASSES)
        }
        texts.append(json.dumps(verdicts, separators=(",", ":")).encode())
    return text.from_table(texts, inverse)


def _reasons(registers: RegisterSet, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    used, inverse = text.distinct(registers.reason[rows])
    texts = [
        json.dumps(list(reason_names(bits)), separators=(",", ":")).encode()
        for bits in used.tolist()
    ]
    return text.from_table(texts, inverse)


def _lanes(
    registers: RegisterSet, own: SetShape, rows: npt.NDArray[np.intp], element_name: str
) -> list[Piece]:
    """Decoded lanes of the visible low words of each register, null where nothing is visible."""
    element = ELEMENTS[element_name]
    pieces: list[Piece] = []
    for first, last, seen in _register_runs(own):
        stop = seen.index(False) if False in seen else len(seen)
        if stop == 0:
            pieces.append((b"," if pieces else b"") + b",".join([b"null"] * (last - first)))
            continue
        lanes = lanes_of(registers.vectors[rows, first:last, :stop], element)
        digits = lane_rows(lanes, element, json=True)
        for register in range(last - first):
            pieces.append(b",[" if pieces else b"[")
            for lane in range(lanes.shape[-1]):
                if lane:
                    pieces.append(b",")
                pieces.append(digits[:, register, lane])
            pieces.append(b"]")
    return pieces
