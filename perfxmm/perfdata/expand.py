"""Recordings made with `perf record -z`: compressed records put back into plain ones.

COMPRESSED and COMPRESSED2 carry pieces of one zstd stream; what comes out is records again, the
last of which may go on in the next piece (tools/perf/util/session.c and zstd.c, Linux 7.3).
Everything is written, in order, to an unnamed temporary file, so that the rest of the room sees an
ordinary data section and memory stays at one piece.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import HEADER_BYTES, Damage, RecordBlock
from perfxmm.perfdata.origins import Origins
from perfxmm.perfdata.source import Mapped, map_file, spool_error

_PIECE_BYTES = 4 << 20
COMPRESSED_TYPES = (RecordType.COMPRESSED, RecordType.COMPRESSED2)


def is_compressed(blocks: Iterable[RecordBlock]) -> bool:
    """Whether any of the records is a compressed one."""
    return any(bool(np.isin(block.types, COMPRESSED_TYPES).any()) for block in blocks)


def expand(
    data: Mapped, blocks: Iterable[RecordBlock], begin: int, end: int,
    report: Callable[[Damage], None], origins: Origins,
) -> Mapped | bytes:
    """data[begin:end] with the compressed records among `blocks` (in file order) unpacked.

    `report` gets the first piece that cannot be unpacked, by its offset in `data`; the compressed
    records behind it are left out, plain ones are kept. `origins` gets what came from where.
    Raises PerfxmmError where there is no room for the temporary file.
    """
    stream = Stream(report)
    with tempfile.TemporaryFile(prefix="perfxmm-") as spool:
        try:
            for block in blocks:
                begin = _expand_block(data, block, begin, stream, spool, origins)
            _copy(data, begin, end, spool, origins)
            spool.flush()
        except OSError as error:
            raise spool_error(error) from error
        if stream.rest and not stream.broken:
            report(Damage(len(data), f"{len(stream.rest)} bytes of an unfinished record are left"))
        return map_file(spool.fileno())


def _expand_block(
    data: Mapped, block: RecordBlock, copied: int, stream: Stream, spool: BinaryIO,
    origins: Origins,
) -> int:  # fmt: skip
    """Everything up to the block's last compressed record; returns where that ends."""
    for row in np.flatnonzero(np.isin(block.types, COMPRESSED_TYPES)):
        begin = block.file_base + int(block.offsets[row])
        _copy(data, copied, begin, spool, origins)
        copied = begin + int(block.sizes[row])
        origins.add(spool.tell(), begin, copied=False)
        for records in stream.feed(int(block.types[row]), block.record(int(row)), begin):
            spool.write(records)
    return copied


def _copy(data: Mapped, begin: int, end: int, spool: BinaryIO, origins: Origins) -> None:
    if begin < end:
        origins.add(spool.tell(), begin, copied=True)
    for at in range(begin, end, _PIECE_BYTES):
        spool.write(data[at : min(at + _PIECE_BYTES, end)])


class Stream:
    """The zstd stream of a recording. rest: the beginning of a record that is not complete.

    order: of the records inside, as `struct` has it.
    """

    def __init__(self, report: Callable[[Damage], None], order: str = "<") -> None:
        self._report = report
        self._size = struct.Struct(f"{order}H")
        self._zstd: Any = None
        self._decoder: Any = None
        self.rest = b""
        self.broken = False

    def feed(self, kind: int, record: bytes, offset: int) -> Iterator[bytes]:
        """Complete records from one more piece of the stream."""
        if self.broken:
            return
        try:
            if self._zstd is None:
                self._zstd = _zstd()
            for plain in self._unpack(_payload(kind, record)):
                whole = self.rest + plain
                end = _whole_records(whole, self._size)
                self.rest = whole[end:]
                yield whole[:end]
        except ImportError:
            self._fail(offset, "compressed records need the package backports.zstd")
        except (ValueError, struct.error) as error:
            self._fail(offset, f"compressed records from here on cannot be unpacked: {error}")
        except Exception as error:  # ZstdError derives from Exception and from nothing closer
            if self._zstd is None or not isinstance(error, self._zstd.ZstdError):
                raise
            self._fail(offset, f"compressed records from here on cannot be unpacked: {error}")

    def _fail(self, offset: int, what: str) -> None:
        self.broken = True
        self._report(Damage(offset, what))

    def _unpack(self, packed: bytes) -> Iterator[bytes]:
        while packed or (self._decoder is not None and not self._decoder.needs_input):
            if self._decoder is None:
                self._decoder = self._zstd.ZstdDecompressor()
            plain = self._decoder.decompress(packed, max_length=_PIECE_BYTES)
            packed = b""
            if self._decoder.eof:
                packed, self._decoder = self._decoder.unused_data, None
            if plain:
                yield plain


def _zstd() -> Any:
    try:
        from compression import zstd  # Python 3.14 and later
    except ImportError:
        from backports import zstd
    return zstd


def _payload(kind: int, record: bytes) -> bytes:
    if kind == RecordType.COMPRESSED:
        return record[HEADER_BYTES:]
    (size,) = struct.unpack_from("<Q", record, HEADER_BYTES)
    if size > len(record) - HEADER_BYTES - 8:
        raise ValueError(f"{size} bytes do not fit into a record of {len(record)}")
    return record[HEADER_BYTES + 8 : HEADER_BYTES + 8 + size]


def _whole_records(data: bytes, size_field: struct.Struct) -> int:
    """Where the last complete record of `data` ends. Raises ValueError where none can be."""
    at, last = 0, len(data) - HEADER_BYTES
    while at <= last:
        (size,) = size_field.unpack_from(data, at + 6)
        if size < HEADER_BYTES:
            raise ValueError(f"a record of size {size} came out")
        if at + size > len(data):
            break
        at += size
    return at
