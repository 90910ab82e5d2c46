"""Recordings made with `perf record -z`: compressed records put back into plain ones.

COMPRESSED and COMPRESSED2 carry pieces of one zstd stream; what comes out is records again, the
last of which may go on in the next piece (tools/perf/util/session.c and zstd.c, Linux 7.3). A
plain record between the two pieces comes before the record that is in both, as in perf.
Everything is written, in order, to an unnamed temporary file, so that the rest of the room sees an
ordinary data section and memory stays at a few pieces. That file takes as much room as the
recording uncompressed, in the directory for temporary files: where that is in memory (tmpfs, as
/tmp is on some systems), so is the file, and TMPDIR should name another.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.allocation import keep_freed_memory
from perfxmm.perfdata.blocks import HEADER_BYTES, U8, Damage, RecordBlock
from perfxmm.perfdata.origins import Origins
from perfxmm.perfdata.resync import Resync
from perfxmm.perfdata.scanner import RecordEnds
from perfxmm.perfdata.source import Mapped, map_file, spool_error

_PIECE_BYTES = 4 << 20
# So much is collected before it is searched for records, and written.
_SETTLE_BYTES = 4 << 20
# Bounds on what comes out, against recordings made to fill a disk: zstd alone would make 30,000
# bytes of one. Recordings unpack to 5 to 50 times their size, and samples of nothing but zero
# registers to 480 times. What is small may have any ratio.
MOST_RATIO = 1000
ANY_RATIO_BYTES = 64 << 20
MOST_UNPACKED_BYTES = 256 << 30
# What a frame may ask for as memory, as a power of two: zstd's highest level (22) asks for this.
WINDOW_LOG_MAX = 27
_CANNOT = "compressed records from here on cannot be unpacked"
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
    keep_freed_memory()
    stream = Stream(report)
    with tempfile.TemporaryFile(prefix="perfxmm-") as spool:
        job = _Job(data, stream, spool, origins)
        try:
            for block in blocks:
                begin = job.block(block, begin)
            job.finish()
            job.copy(begin, end)
            spool.flush()
        except OSError as error:
            raise spool_error(error) from error
        if job.unfinished and not stream.broken:
            report(Damage(len(data), f"{job.unfinished} bytes of an unfinished record are left"))
        return map_file(spool.fileno())


class _Job:
    """Unpacked bytes on their way into the temporary file."""

    def __init__(self, data: Mapped, stream: Stream, spool: BinaryIO, origins: Origins) -> None:
        self._data = data
        self._stream = stream
        self._spool = spool
        self._origins = origins
        self._ends = RecordEnds()
        self._astray = False  # what was written last does not end with a record
        self._written = 0
        # Not written yet; begins with a record. The first of it may be a record's beginning that
        # is already known to be no more than that.
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._known = 0

    def block(self, block: RecordBlock, copied: int) -> int:
        """Everything up to the block's last compressed record; returns where that ends."""
        for row in np.flatnonzero(np.isin(block.types, COMPRESSED_TYPES)):
            begin = block.file_base + int(block.offsets[row])
            if copied < begin:
                self.copy(copied, begin)
            copied = begin + int(block.sizes[row])
            ahead = 0 if self._known == self._waiting_bytes else self._waiting_bytes
            self._origins.add(self._written + ahead, begin, copied=False)
            start = int(block.offsets[row])
            record = block.buffer[start : start + int(block.sizes[row])].data  # not copied
            for plain in self._stream.unpack(int(block.types[row]), record, begin):
                self._waiting.append(plain)
                self._waiting_bytes += len(plain)
                if self._waiting_bytes >= _SETTLE_BYTES:
                    self._settle()
        return copied

    def copy(self, begin: int, end: int) -> None:
        """data[begin:end], which begins with a record, behind the complete records so far."""
        self._settle()
        if begin < end:
            self._origins.add(self._written, begin, copied=True)
        for at in range(begin, end, _PIECE_BYTES):
            self._write(self._data[at : min(at + _PIECE_BYTES, end)])

    @property
    def unfinished(self) -> int:
        """Bytes of a record's beginning that is left, after `finish`."""
        return self._waiting_bytes

    def finish(self) -> None:
        """No more will be unpacked: what looks like a record's beginning and holds records, because
        its size is wrong, is written for whoever scans the result.
        """
        self._settle()
        rest = b"".join(self._waiting)
        search = Resync(np.frombuffer(rest, np.uint8), len(rest), payloads=False)
        if search.find(HEADER_BYTES, 2, step=1) is not None:
            self._write(rest)
            self._waiting, self._waiting_bytes, self._known = [], 0, 0

    def _settle(self) -> None:
        """Writes the complete records that are waiting."""
        if self._waiting_bytes == self._known:
            return
        waiting = b"".join(self._waiting)
        end = self._whole_records(np.frombuffer(waiting, np.uint8))
        self._write(memoryview(waiting)[:end])
        rest = waiting[end:]
        self._waiting = [rest]
        self._waiting_bytes = self._known = len(rest)

    def _whole_records(self, waiting: U8) -> int:
        """Where the last complete record ends; behind everything where records get lost.

        What is between damaged records goes along: whoever scans the result finds, and tells, the
        same again.
        """
        search = Resync(waiting, len(waiting), payloads=False)
        end: int | None = 0
        if self._astray:
            end = search.find(0, 2, step=1)
        while end is not None:
            end += self._ends.last(waiting[end:])
            if len(waiting) - end < HEADER_BYTES or int(waiting[end + 6]) >= HEADER_BYTES:
                break
            if int(waiting[end + 7]):
                break
            end = search.find(end + HEADER_BYTES, 2, step=1)
        self._astray = end is None
        return len(waiting) if end is None else end

    def _write(self, plain: bytes | memoryview) -> None:
        self._spool.write(plain)
        self._written += len(plain)


class Stream:
    """The zstd stream of a recording. rest: the beginning of a record that is not complete.

    Memory: one piece, and at most 1 << WINDOW_LOG_MAX bytes in zstd. What comes out in all is at
    most MOST_RATIO times what went in (from ANY_RATIO_BYTES on), MOST_UNPACKED_BYTES, and one piece
    more. Compressed records among what comes out are not unpacked again.
    order: of the records inside, as `struct` has it.
    """

    def __init__(self, report: Callable[[Damage], None], order: str = "<") -> None:
        self._report = report
        self._size = struct.Struct(f"{order}H")
        self._zstd: Any = None
        self._decoder: Any = None
        self._packed_bytes = self._plain_bytes = 0
        self.rest = b""
        self.broken = False

    def feed(self, kind: int, record: bytes, offset: int) -> Iterator[bytes]:
        """Complete records from one more piece of the stream."""
        for plain in self.unpack(kind, record, offset):
            whole = self.rest + plain
            try:
                end = _whole_records(whole, self._size)
            except ValueError as error:
                self.fail(offset, f"{_CANNOT}: {error}")
                return
            self.rest = whole[end:]
            yield whole[:end]

    def unpack(self, kind: int, record: bytes | memoryview, offset: int) -> Iterator[bytes]:
        """What comes out of one more piece of the stream."""
        if self.broken:
            return
        try:
            if self._zstd is None:
                self._zstd = zstd_module()
            yield from self._unpack(_payload(kind, record))
        except ImportError:
            self.fail(offset, "compressed records need the package backports.zstd")
        except (ValueError, struct.error) as error:
            self.fail(offset, f"{_CANNOT}: {error}")
        except Exception as error:  # ZstdError derives from Exception and from nothing closer
            if self._zstd is None or not isinstance(error, self._zstd.ZstdError):
                raise
            self.fail(offset, f"{_CANNOT}: {error}")

    def fail(self, offset: int, what: str) -> None:
        """Nothing more is read of the stream."""
        if self.broken:
            return
        self.broken = True
        self._report(Damage(offset, what))

    def _unpack(self, packed: bytes | memoryview) -> Iterator[bytes]:
        self._packed_bytes += len(packed)
        while packed or (self._decoder is not None and not self._decoder.needs_input):
            if self._decoder is None:
                self._decoder = self._zstd.ZstdDecompressor(
                    options={self._zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
                )
            plain = self._decoder.decompress(packed, max_length=_PIECE_BYTES)
            packed = b""
            if self._decoder.eof:
                packed, self._decoder = self._decoder.unused_data, None
            if plain:
                self._plain_bytes += len(plain)
                self._check_size()
                yield plain

    def _check_size(self) -> None:
        most = max(ANY_RATIO_BYTES, MOST_RATIO * self._packed_bytes)
        if self._plain_bytes > most:
            raise ValueError(
                f"{self._packed_bytes} bytes unpack to more than {MOST_RATIO} times as many"
            )
        if self._plain_bytes > MOST_UNPACKED_BYTES:
            raise ValueError(f"they unpack to more than {MOST_UNPACKED_BYTES >> 30} GiB")


def zstd_module() -> Any:
    try:
        from compression import zstd  # Python 3.14 and later
    except ImportError:
        from backports import zstd
    return zstd


def _payload(kind: int, record: bytes | memoryview) -> bytes | memoryview:
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
