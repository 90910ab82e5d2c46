"""What must hold for any bytes: the properties that fuzzing and the corpus tests share.

Each target takes bytes, raises nothing but AssertionError, and returns something a test can look
at. An error of perfxmm's own is an answer; any other exception leaves through here and is a
finding.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perfxmm.analysis.shown import Policy
from perfxmm.errors import DamagedInput, PerfxmmError
from perfxmm.exports.csvfile import CsvLines
from perfxmm.exports.jsonl import JsonLines
from perfxmm.inspector import Inspector, first_damage
from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import Damage, RecordBlock
from perfxmm.perfdata.reader import Reader
from perfxmm.program.binaries import Places
from perfxmm.recording import Recording
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import EXTRA_COLUMNS, Decoder
from perfxmm.snapshots.gather import ALL_COLUMNS
from perfxmm.views.escape import escape_control
from perfxmm.views.inspect import text as inspect_text
from perfxmm.views.script import ScriptText

EVERY_COLUMN = frozenset({*ALL_COLUMNS, *EXTRA_COLUMNS, "branches"})
TEXT_FIELDS = ("comm", "pid", "tid", "cpu", "time", "event", "period", "ip", "sym", "symoff",
               "dso", "build_id", "verdict", "reason", "iregs", "uregs", "regs", "vec")  # fmt: skip
_CONTROL = re.compile(rb"[\0-\x09\x0b-\x1f\x7f]")
# Names of files that do not exist: a fuzzed path must not lead to a real file.
csv.field_size_limit(1 << 24)
NOWHERE = Places(symfs=Path("/nonexistent"), kernel_root=Path("/nonexistent"))


@dataclass(slots=True)
class Found:
    """What a target could read. error: what the reader answered instead of opening."""

    error: PerfxmmError | None = None
    records: int = 0
    samples: int = 0
    lines: int = 0
    damage: list[Damage] = field(default_factory=list)


@contextmanager
def stream_of(data: bytes) -> Iterator[BinaryIO]:
    """`data` as a regular file without a name, so that nothing has to be copied to be mapped."""
    with os.fdopen(os.memfd_create("recording"), "w+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file


def read_records(data: bytes, orders: str = "both") -> Found:
    """Reader, blocks in file order or time order ("file", "time", "both"), samples with every
    column, and side-band."""
    found = Found()
    with stream_of(data) as file:
        try:
            reader = Reader(file)
        except PerfxmmError as error:
            found.error = _damaged(error)
            return found
        decoder = Decoder(reader.events)
        rounds = 0
        first = reader.ordered_blocks() if orders == "time" else reader.blocks()
        for block in first:
            _check_block(block, len(data))
            found.records += len(block)
            rounds += int(np.count_nonzero(block.types == RecordType.FINISHED_ROUND))
            before = sum(decoder.damaged.values())
            batch = decoder.decode(block, columns=EVERY_COLUMN)
            check_batch(batch, len(reader.events))
            left_out = sum(decoder.damaged.values()) - before
            samples = int(np.count_nonzero(block.types == RecordType.SAMPLE))
            assert len(batch) + left_out == samples, (len(batch), left_out, samples)
            found.samples += len(batch)
            for _ in decoder.sideband(block):
                pass
        if orders == "both":
            _check_order(reader, len(data), found.records, rounds)
        found.damage = [
            *reader.damage,
            *(Damage(p.file_offset, p.what) for p in decoder.problems),
            *(Damage(p.file_offset, p.what) for p in decoder.sideband_problems),
        ]
    _check_damage(found.damage, len(data))
    return found


def _check_order(reader: Reader, file_bytes: int, records: int, rounds: int) -> None:
    """In time order there are as many records as in file order; rounds may be left out."""
    ordered = 0
    for block in reader.ordered_blocks(block_records=64):
        _check_block(block, file_bytes)
        ordered += len(block)
    assert ordered in (records - rounds, records), (ordered, records, rounds)


def read_snapshots(data: bytes) -> Found:
    """The whole way of `perfxmm script` and `export`: judged batches with names, as text, as JSON
    lines and as CSV."""
    found = Found()
    with stream_of(data) as file:
        try:
            recording = Recording(file, places=NOWHERE)
        except PerfxmmError as error:
            found.error = _damaged(error)
            return found
        policy = Policy.of(("all",), unsafe_foreign=True)
        lines = JsonLines(recording.names, policy)
        comma = CsvLines(recording.names, policy)
        columns = rows = 0
        text = ScriptText(recording.names, policy, TEXT_FIELDS)
        try:
            for batch in recording.judged(policy, batch_samples=256):
                check_batch(batch, len(recording.events))
                found.samples += len(batch)
                for piece in lines.lines(batch):
                    for line in bytes(piece).splitlines():
                        json.loads(line)
                        found.lines += 1
                for piece in text.lines(batch):
                    assert not _CONTROL.search(piece)
                columns = columns or len(_csv_rows(comma.header(batch))[0])
                for piece in comma.lines(batch):
                    fields = [len(row) for row in _csv_rows(bytes(piece))]
                    assert set(fields) <= {columns}
                    rows += len(fields)
        except PerfxmmError as error:
            found.error = _damaged(error)
        assert found.error or found.lines == rows == found.samples
        found.damage = recording.damage
    _check_damage(found.damage, len(data))
    return found


def _csv_rows(raw: bytes) -> list[list[str]]:
    assert not _CONTROL.search(raw)
    return list(csv.reader(io.StringIO(raw.decode(), newline="")))


def inspect_all(data: bytes, *, lines: bool) -> Found:
    """The whole way of `perfxmm inspect`, with a line for each record or without."""
    found = Found()
    with stream_of(data) as file:
        try:
            inspector = Inspector(file)
        except PerfxmmError as error:
            found.error = _damaged(error)
            return found
        if lines:
            for line in inspector.lines():
                escape_control(line)
                found.lines += 1
        result = inspector.result()
    said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert said["record_total"] == sum(said["records"].values())
    assert not lines or found.lines == said["record_total"]
    for line in inspect_text(result):
        assert not _CONTROL.search(line.encode("utf-8", "surrogateescape"))
    found.records = said["record_total"]
    found.samples = said["records"].get("SAMPLE", 0)
    found.damage = [Damage(one["offset"], one["what"]) for one in said["damage"]]
    assert said["damage_count"] >= len(found.damage)
    assert (first_damage(result) is None) == (not found.damage)
    _check_damage(found.damage, len(data))
    return found


def _damaged(error: PerfxmmError) -> DamagedInput:
    """Whatever bytes there are, the only answer that is an error is that they are damaged."""
    if not isinstance(error, DamagedInput):
        raise error
    return error


def _check_block(block: RecordBlock, file_bytes: int) -> None:
    n = len(block)
    assert n == len(block.sizes) == len(block.types) == len(block.misc)
    if not n:
        return
    assert int(block.offsets.min()) >= 0
    assert int(block.sizes.min()) >= 8
    assert int((block.offsets + block.sizes).max()) <= len(block.buffer)
    assert -1 <= block.file_base <= file_bytes


def check_batch(batch: SnapshotBatch, events: int) -> None:
    n = len(batch)
    for name in ("ip", "period", "pid", "tid", "cpu", "event", "misc", "file_offset"):
        assert len(getattr(batch, name)) == n, name
    assert not n or int(batch.event.max()) < events
    for start, values in ((batch.chain_start, batch.chain), (batch.branch_start, batch.branches)):
        if start is not None and values is not None:
            assert len(start) == n + 1
            assert int(start[-1]) == len(values)
            assert bool((start[1:] >= start[:-1]).all())
    for registers in batch.sets.values():
        assert len(registers.abi) == len(registers.gprs) == len(registers.vectors) == n
        assert registers.vectors.shape[1] <= 32
        assert registers.vectors.shape[2] <= 8
        if registers.vectors.shape[1]:
            assert int(registers.vector_mask.max(initial=0)) >> registers.vectors.shape[1] == 0


def _check_damage(damage: list[Damage], file_bytes: int) -> None:
    for one in damage:
        assert -1 <= one.offset <= file_bytes, one
        assert one.what
