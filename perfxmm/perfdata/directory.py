"""Recordings made with `perf record --threads`: a directory with one file for each writing thread.

Its file `data` is a recording like any other, with the head, the features and perf's own records;
`data.0`, `data.1` and so on are records and nothing else, each for some of the CPUs. There are no
rounds in them: perf collects all of them and sorts (tools/perf/util/data.c and session.c,
Linux 7.3). Here they are put together into one temporary file, always going on with the one that
has come least far in time, so that a bounded window is enough to sort the rest.
"""

from __future__ import annotations

import heapq
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import Damage, RecordBlock
from perfxmm.perfdata.order import Clock
from perfxmm.perfdata.scanner import scan
from perfxmm.perfdata.source import Mapped, map_file, spool_error

MAIN_FILE = "data"
_PART_NAME = re.compile(r"data\.(\d{1,9})")
_MOST_PARTS = 1 << 14
# Of one file at a time; so far may its records be from their place in time order.
_BLOCK_RECORDS = 2048
_BLOCK_BYTES = 256 << 10
_COPY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one file: data[begin:end]. name: for messages."""

    name: str
    data: Mapped
    begin: int
    end: int


def part_files(source: object) -> list[Path]:
    """The files `data.N` of the directory `source` in the order of N; [] where it is none."""
    if not isinstance(source, str | os.PathLike):
        return []
    directory = Path(os.fsdecode(source))
    try:
        inside = list(directory.iterdir()) if directory.is_dir() else []
        found = [
            (int(match[1]), path) for path in inside
            if (match := _PART_NAME.fullmatch(path.name)) and path.is_file()
        ]  # fmt: skip
    except (OSError, ValueError):
        return []  # told where `data` is opened
    return [path for _, path in sorted(found)[:_MOST_PARTS]]


def quiet(part: Part) -> Iterator[RecordBlock]:
    """The part's records, for a first look: what is damaged will be met again."""
    return scan(
        part.data.view, part.begin, part.end, report=lambda damage: None,
        release=part.data.release,
    )


def merge(parts: Sequence[Part], clock: Clock, report: Callable[[Damage], None]) -> Mapped | bytes:
    """The records of all parts in one data section, about in time order; rounds are left out.

    `report` gets damage by part, without an offset. Raises PerfxmmError where there is no room
    for the temporary file.
    """
    with tempfile.TemporaryFile(prefix="perfxmm-") as spool:
        try:
            # (newest time so far, number of the part, its blocks)
            waiting = [(0, row, _blocks(part, report)) for row, part in enumerate(parts)]
            heapq.heapify(waiting)
            while waiting:
                newest, row, blocks = waiting[0]
                block = next(blocks, None)
                if block is None:
                    heapq.heappop(waiting)
                    continue
                _copy(parts[row], block, spool)
                newest = max(newest, int(clock.times(block).max(initial=0)))
                heapq.heapreplace(waiting, (newest, row, blocks))
            spool.flush()
        except OSError as error:
            raise spool_error(error) from error
        return map_file(spool.fileno())


def _blocks(part: Part, report: Callable[[Damage], None]) -> Iterator[RecordBlock]:
    def tell(damage: Damage) -> None:
        report(Damage(-1, f"{part.name}, byte {damage.offset}: {damage.what}"))

    return scan(
        part.data.view, part.begin, part.end, report=tell, release=part.data.release,
        block_records=_BLOCK_RECORDS, block_bytes=_BLOCK_BYTES,
    )


def _copy(part: Part, block: RecordBlock, spool: BinaryIO) -> None:
    """Writes a block's records and what payload is between and behind them, without rounds."""
    begin = block.file_base + int(block.offsets[0])
    end = block.file_base + int(block.offsets[-1]) + int(block.sizes[-1])
    if block.types[-1] in (RecordType.AUXTRACE, RecordType.HEADER_TRACING_DATA):
        record = block.record(len(block) - 1)
        wide = 8 if block.types[-1] == RecordType.AUXTRACE else 4
        payload = int.from_bytes(record[8 : 8 + wide], "little")
        end += payload if wide == 8 else payload + -payload % 8
    for row in np.flatnonzero(block.types == RecordType.FINISHED_ROUND):
        at = block.file_base + int(block.offsets[row])
        _write(part.data, begin, at, spool)
        begin = at + int(block.sizes[row])
    _write(part.data, begin, end, spool)


def _write(data: Mapped, begin: int, end: int, spool: BinaryIO) -> None:
    for at in range(begin, end, _COPY_BYTES):
        spool.write(data[at : min(at + _COPY_BYTES, end)])
