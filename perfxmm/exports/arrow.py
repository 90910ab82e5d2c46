"""Arrow and Parquet: the fields of schema perfxmm.snapshot/1 as columns.

The same names and nesting as in JSON, with differences that lose nothing: 64-bit values are uint64
instead of hexadecimal strings, and `gpr` has a null where JSON leaves the register out. Where no
sample has a register set, or a set no general register, `sets` or `gpr` is a column of nulls.
The schema's name stands in the file's key-value metadata, under "schema".
Needs pyarrow, the `parquet` extra.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.lanes import KINDS
from perfxmm.analysis.names import CPUMODE_NAMES, NameTables
from perfxmm.analysis.report import WIDTHS
from perfxmm.analysis.shown import (
    GPR,
    IP_ID,
    OPMASK,
    XMM,
    YMM,
    ZMM,
    Policy,
    initial,
    words_of_class,
)
from perfxmm.analysis.statistics import NOT_COUNTED
from perfxmm.coherence.model import VERDICT_CLASSES, Bool, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.errors import NotSupported
from perfxmm.exports.jsonl import SCHEMA
from perfxmm.exports.redaction import STATISTICS_VIEW, Redaction, statistics_of

if TYPE_CHECKING:
    import pyarrow

_LOW_REGISTERS, _ALL_REGISTERS = 16, 32


def table_of(
    batches: Iterable[SnapshotBatch], names: NameTables, policy: Policy,
    redaction: Redaction | None = None,
) -> pyarrow.Table:
    """One table of all batches, `Recording.judged` ones. Without any sample it has no columns."""
    pa = _pyarrow()
    return _table(pa, [record_batch(batch, names, policy, redaction) for batch in batches])


def write_parquet(
    file: BinaryIO, batches: Iterable[SnapshotBatch], names: NameTables, policy: Policy,
    redaction: Redaction | None = None,
) -> int:
    """Writes a Parquet file batch by batch; returns the number of samples."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    writer: Any = None
    count = 0
    try:
        for batch in batches:
            columns = record_batch(batch, names, policy, redaction)
            if writer is None:
                writer = pq.ParquetWriter(file, columns.schema, compression="zstd")
            writer.write_batch(columns)
            count += len(batch)
        if writer is None:
            pq.write_table(_table(pa, []), file)
    finally:
        if writer is not None:
            writer.close()
    return count


def record_batch(
    batch: SnapshotBatch, names: NameTables, policy: Policy, redaction: Redaction | None = None
) -> pyarrow.RecordBatch:
    """One batch as Arrow columns, in its order."""
    pa = _pyarrow()
    n = len(batch)
    redacted = redaction.rows(batch) if redaction else None
    unknown = np.full(n, -1, np.int32)
    symbol = unknown if batch.symbol is None else batch.symbol
    offset = np.zeros(n, np.uint64) if batch.symbol_offset is None else batch.symbol_offset
    dso = unknown if batch.dso is None else batch.dso
    columns: dict[str, Any] = {
        "time_ns": pa.array(batch.time_ns, mask=batch.time_ns == 0),
        "pid": pa.array(batch.pid, mask=batch.pid == -1),
        "tid": pa.array(batch.tid, mask=batch.tid == -1),
        "cpu": pa.array(batch.cpu, mask=batch.cpu == -1),
        "comm": _strings(pa, names.comms, unknown if batch.comm is None else batch.comm),
        "event": _strings(pa, names.events, batch.event.astype(np.int32)),
        "period": pa.array(batch.period, mask=batch.period == 0),
        "ip": pa.array(batch.ip),
        "cpumode": _strings(pa, CPUMODE_NAMES, (batch.cpumode & 7).astype(np.int32)),
        "exact_ip": pa.array(batch.exact_ip),
        "symbol": _strings(pa, names.symbols, symbol),
        "symbol_offset": pa.array(offset, mask=symbol < 0),
        "dso": _strings(pa, names.dsos, dso),
        "build_id": _strings(pa, names.build_ids, dso),
        "source": pa.array([names.source or None], pa.string()).take(pa.array(np.zeros(n, int))),
        "sets": _struct(pa, {
            name: _set(
                pa, batch, registers, names, policy, redacted,
                statistics=redaction is not None and redaction.statistics,
            )
            for name, registers in batch.sets.items()
        }, n),
    }  # fmt: skip
    made = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    return made.replace_schema_metadata({"schema": SCHEMA})


def _table(pa: Any, batches: list[Any]) -> Any:
    if batches:
        return pa.Table.from_batches(batches)
    return pa.table({}).replace_schema_metadata({"schema": SCHEMA})


def _set(
    pa: Any, batch: SnapshotBatch, registers: RegisterSet, names: NameTables, policy: Policy,
    redacted: Bool | None, *, statistics: bool,
) -> Any:
    n = len(registers.abi)
    visible = policy.visible(registers.verdict)
    if redacted is not None:
        visible = visible & ~redacted[:, None]
    gpr = {}
    ip = pa.nulls(n, pa.uint64())
    for column, number in enumerate(registers.gpr_ids):
        there = (registers.gpr_mask >> np.uint64(number) & np.uint64(1)).astype(np.bool_)
        values = np.ascontiguousarray(registers.gprs[:, column])
        gpr[names.gpr_names[number]] = pa.array(values, mask=~(there & visible[:, GPR]))
        if number == IP_ID:
            ip = gpr[names.gpr_names[number]]
    bits = registers.delivered_qwords.astype(np.uint16) * 64 * (registers.vector_mask != 0)
    count = np.minimum(registers.delivered_predicates, 8).astype(np.int64)
    masks = np.arange(registers.predicates.shape[1]) < count[:, None]
    shown = np.broadcast_to(visible[:, OPMASK, None], masks.shape)
    labels = [verdict.label for verdict in sorted(Verdict)]
    columns = {
        "ip": ip, "gpr": _struct(pa, gpr, n), "vector_bits": pa.array(bits.astype(np.uint16)),
        "vector": _vectors(pa, registers, visible),
        "opmask": pa.ListArray.from_arrays(
            _offsets(pa, count), pa.array(registers.predicates[masks], mask=~shown[masks])
        ),
        "verdict": _struct(pa, {
            name: _strings(pa, labels, registers.verdict[:, column].astype(np.int32))
            for column, name in enumerate(VERDICT_CLASSES)
        }, n),
        "reasons": _reasons(pa, registers.reason),
        "init": _initial(pa, initial(registers)),
    }  # fmt: skip
    if statistics:
        columns["stats"] = _statistics(pa, batch, registers, policy)
    return _struct(pa, columns, n)


def _statistics(
    pa: Any, batch: SnapshotBatch, registers: RegisterSet, policy: Policy
) -> Any:
    n = len(registers.abi)
    counts, widest = statistics_of(batch, registers, policy, np.arange(n))
    columns = {"view": _strings(pa, [STATISTICS_VIEW], np.zeros(n, np.int32))}
    columns |= {
        kind: pa.array(counts[kind], mask=counts[kind] == NOT_COUNTED)
        for kind in ("lanes", *KINDS)
    }
    columns["widest"] = _strings(pa, WIDTHS[1:], widest.astype(np.int32) - 1)
    return _struct(pa, columns, n)


def _vectors(pa: Any, registers: RegisterSet, visible: Bool) -> Any:
    """list<list<uint64>>: words as delivered; null for registers and words that are not shown."""
    n, room, width = registers.vectors.shape
    numbers = np.arange(room, dtype=np.uint32)
    there = (registers.vector_mask[:, None] >> numbers & np.uint32(1)).astype(np.bool_)
    wide = np.arange(width) < registers.delivered_qwords[:, None]
    delivered: Bool = there[:, :, None] & wide[:, None, :]
    shown = np.zeros((n, room, width), np.bool_)
    for column in (XMM, YMM, ZMM):
        shown |= words_of_class(column, room, width) & visible[:, column, None, None]
    high = registers.vector_mask >> np.uint32(_LOW_REGISTERS) != 0
    count = np.where((registers.delivered_qwords > 4) | high, _ALL_REGISTERS, _LOW_REGISTERS)
    count[(registers.vector_mask == 0) | (registers.delivered_qwords == 0)] = 0
    count = np.minimum(count, room)
    listed: Bool = np.arange(room) < count[:, None]
    # A register of which no word is shown is null, and holds no words.
    some: Bool = np.logical_or.reduce(delivered & shown, axis=2)
    words: Bool = delivered & some[:, :, None]
    lengths = words.sum(axis=2)[listed]
    inner = pa.ListArray.from_arrays(
        _offsets(pa, lengths), pa.array(registers.vectors[words], mask=~shown[words]),
        mask=pa.array(~some[listed]),
    )
    return pa.ListArray.from_arrays(_offsets(pa, count), inner)


def _reasons(pa: Any, bits: npt.NDArray[np.uint64]) -> Any:
    used, inverse = np.unique(bits, return_inverse=True)
    table = pa.array([list(reason_names(b)) for b in used.tolist()], pa.list_(pa.string()))
    return table.take(pa.array(inverse))


def _initial(pa: Any, classes: Bool) -> Any:
    packed = (classes * (1 << np.arange(len(VERDICT_CLASSES)))).sum(axis=1)
    table = [
        [name for column, name in enumerate(VERDICT_CLASSES) if code >> column & 1]
        for code in range(1 << len(VERDICT_CLASSES))
    ]
    return pa.array(table, pa.list_(pa.string())).take(pa.array(packed))


def _strings(pa: Any, table: Sequence[str], indices: npt.NDArray[np.int32]) -> Any:
    """The string of each index, null for -1 and for empty ones."""
    used, inverse = np.unique(indices, return_inverse=True)
    texts = [_plain(table[int(k)]) or None if k >= 0 else None for k in used]
    return pa.array(texts, pa.string()).take(pa.array(inverse))


def _plain(text: str) -> str:
    """An undecodable byte of a file name (PEP 383) as backslash escape: Arrow holds UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _offsets(pa: Any, lengths: npt.NDArray[np.integer]) -> Any:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _struct(pa: Any, columns: dict[str, Any], n: int) -> Any:
    if not columns:
        return pa.nulls(n)  # Parquet has no struct without fields
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise NotSupported(
            "Arrow and Parquet need pyarrow, which is not installed",
            next_step="pip install 'perfxmm[parquet]', or export as jsonl or csv",
        ) from None
    return pyarrow
