"""Recordings with zstd-compressed records, made here from the format's description."""

from __future__ import annotations

import io
import struct
from itertools import pairwise

import pytest
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.perfdata.expand import zstd_module
from perfxmm.perfdata.reader import Reader

COMPRESSED_FEATURE = {27: struct.pack("<5I", 1, 1, 1, 1, 1)}
PLAIN = [w.sample(t, extra=bytes(8 * (t % 3))) for t in range(1, 200)]


def pieces(records: bytes, cuts: list[int]) -> list[bytes]:
    """One zstd stream over the records, flushed at each cut: what perf makes."""
    zstd = zstd_module()
    stream = zstd.ZstdCompressor()
    edges = [0, *cuts, len(records)]
    out = []
    for begin, end in pairwise(edges):
        out.append(stream.compress(records[begin:end], mode=zstd.ZstdCompressor.FLUSH_BLOCK))
    return out


def compressed(kind: int, piece: bytes) -> bytes:
    if kind == w.COMPRESSED:
        return w.record(kind, piece)
    return w.record(kind, struct.pack("<Q", len(piece)) + piece + b"\0" * (-len(piece) % 8))


def read(data: bytes) -> tuple[list[bytes], Reader]:
    source = Reader(io.BytesIO(data))
    return [b.record(i) for b in source.blocks() for i in range(len(b))], source


@pytest.mark.parametrize("kind", [w.COMPRESSED, w.COMPRESSED2])
@pytest.mark.parametrize("piped", [False, True])
def test_records_come_out_in_place(kind: int, piped: bool) -> None:
    whole = b"".join(PLAIN)
    packed = pieces(whole, [5, 100, 1000, 1001, 3003])  # in the middle of records
    comm = w.comm(3)
    records = [comm, compressed(kind, packed[0]), comm,
               *(compressed(kind, p) for p in packed[1:]), comm]  # fmt: skip
    file = PerfFile(records=records, features=COMPRESSED_FEATURE)
    got, source = read(file.build_pipe() if piped else file.build())
    got = got[len(file.attrs) + len(file.features) :] if piped else got
    assert got == [comm, comm, *PLAIN, comm]
    assert source.damage == []
    assert source.events[0].ids == (7,)
    timed = [b.record(i) for b in source.ordered_blocks() for i in range(len(b))]
    assert len(timed) == len(got) + (2 if piped else 0)


def test_a_killed_recorders_compressed_file() -> None:
    records = [compressed(w.COMPRESSED, p) for p in pieces(b"".join(PLAIN), [700, 1400])]
    data = PerfFile(records=records, data_size=0).build()
    assert read(data)[0] == PLAIN
    got, source = read(data[:-3])
    assert got == PLAIN[: len(got)]
    assert len(got) >= 1400 // 48
    assert not source.complete


def test_a_broken_stream_keeps_what_came_before() -> None:
    packed = pieces(b"".join(PLAIN), [1400, 2800])
    broken = [compressed(w.COMPRESSED, packed[0]), compressed(w.COMPRESSED, b"garbage!" * 9),
              compressed(w.COMPRESSED, packed[2]), w.comm(9)]  # fmt: skip
    got, source = read(PerfFile(records=broken, features=COMPRESSED_FEATURE).build())
    assert got[:-1] == PLAIN[: len(got) - 1]
    assert got[-1] == w.comm(9)
    assert len(got) > 30
    assert [d.what.split(":")[0] for d in source.damage] == [
        "compressed records from here on cannot be unpacked"
    ]
    assert not source.complete


def test_a_payload_that_does_not_fit_its_record() -> None:
    lie = w.record(w.COMPRESSED2, struct.pack("<Q", 1 << 40) + bytes(8))
    got, source = read(PerfFile(records=[lie, w.comm(1)], features=COMPRESSED_FEATURE).build())
    assert got == [w.comm(1)]
    assert len(source.damage) == 1
