"""Large compressed recordings: many lots of many pieces, plain records in between, full disks."""

from __future__ import annotations

import errno
import io
import struct
from typing import Any

import numpy as np
import pytest
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.errors import PerfxmmError
from perfxmm.perfdata import expand
from perfxmm.perfdata.expand import zstd_module
from perfxmm.perfdata.reader import Reader

COMPRESSED_FEATURE = {27: struct.pack("<5I", 1, 1, 1, 1, 1)}


def packed_records(records: bytes, rng: np.random.Generator) -> list[bytes]:
    """COMPRESSED2 records with pieces of one stream, cut anywhere."""
    zstd = zstd_module()
    stream = zstd.ZstdCompressor(level=1)
    made, at = [], 0
    while at < len(records):
        size = int(rng.integers(1, 60_000))
        piece = stream.compress(records[at : at + size], mode=zstd.ZstdCompressor.FLUSH_BLOCK)
        body = struct.pack("<Q", len(piece)) + piece + bytes(-len(piece) % 8)
        made.append(w.record(w.COMPRESSED2, body))
        at += size
    return made


def read(data: bytes) -> tuple[list[bytes], Reader]:
    source = Reader(io.BytesIO(data))
    return [b.record(i) for b in source.blocks() for i in range(len(b))], source


def samples(count: int, *, varied: bool) -> list[bytes]:
    rng = np.random.default_rng(7)
    lengths = rng.integers(0, 40, count) if varied else np.full(count, 16)
    return [
        w.sample(number + 1, extra=rng.bytes(8 * int(length)))
        for number, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("varied", [False, True])
def test_many_lots_with_plain_records_in_between(
    varied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain record comes before the one whose pieces stand on both of its sides."""
    monkeypatch.setattr(expand, "_SETTLE_BYTES", 200_000)
    plain = samples(8000, varied=varied)
    rng = np.random.default_rng(8)
    packed = packed_records(b"".join(plain), rng)
    marks = set(rng.choice(len(packed), 7, replace=False).tolist())
    records: list[bytes] = []
    for number, one in enumerate(packed):
        records.append(one)
        if number in marks:
            records.append(w.comm(number))
    got, source = read(PerfFile(records=records, features=COMPRESSED_FEATURE).build())
    assert [one for one in got if one[0] == w.SAMPLE] == plain
    assert sum(one[0] == w.COMM for one in got) == 7
    assert source.damage == []
    assert source.packed == {w.COMPRESSED2: len(packed)}


@pytest.mark.parametrize("settle", [4 << 20, 100_000, 5_000])
@pytest.mark.parametrize("size", [0, 4, 9, 40_000])
def test_a_size_that_cannot_be_costs_its_record(
    size: int, settle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expand, "_SETTLE_BYTES", settle)
    plain = samples(3000, varied=True)
    impossible = struct.pack("<IHH", w.SAMPLE, 2, size) + bytes(8)
    stream = b"".join(plain[:2000]) + impossible + b"".join(plain[2000:])
    packed = packed_records(stream, np.random.default_rng(9))
    records = [*packed[: len(packed) // 3], w.comm(0), *packed[len(packed) // 3 :], w.comm(1)]
    data = PerfFile(records=records, features=COMPRESSED_FEATURE).build()
    got, source = read(data)
    rest = [one for one in got if one in plain]
    assert rest == plain
    assert [one for one in got if one[0] == w.COMM] == [w.comm(0), w.comm(1)]
    assert len(got) <= 3003
    (damage,) = source.damage
    assert f"size {size}" in damage.what or size == 9  # told by what the odd size leads to
    kind, _, piece = struct.unpack_from("<IHH", data, damage.offset)
    assert kind == w.COMPRESSED2
    assert piece > 8


def test_records_are_found_again_where_pieces_are_nothing_but_noise() -> None:
    plain = samples(3000, varied=True)
    noise = bytes(8) + np.random.default_rng(3).bytes(300_000)
    stream = b"".join(plain[:1000]) + noise + b"".join(plain[1000:])
    packed = packed_records(stream, np.random.default_rng(9))
    got, source = read(PerfFile(records=packed, features=COMPRESSED_FEATURE).build())
    assert got == plain
    assert [d.what for d in source.damage] == [
        f"record of size 0; {len(noise)} bytes are passed over"
    ]


def test_the_beginning_of_a_record_is_left_over() -> None:
    stream = b"".join(samples(500, varied=True))
    packed = packed_records(stream[:-20], np.random.default_rng(10))
    got, source = read(PerfFile(records=packed, features=COMPRESSED_FEATURE).build())
    assert len(got) == 499
    assert [d.what for d in source.damage] == [
        f"{len(stream) - 20 - sum(map(len, got))} bytes of an unfinished record are left"
    ]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    packed = packed_records(b"".join(samples(3000, varied=True)), np.random.default_rng(11))
    data = PerfFile(records=packed, features=COMPRESSED_FEATURE).build()
    path_like = io.BytesIO(data)
    real = expand.tempfile.TemporaryFile
    monkeypatch.setattr(expand, "_SETTLE_BYTES", 100_000)
    made: list[Any] = []

    def temporary(**options: Any) -> Any:
        made.append(real(**options) if not made else Full())
        return made[-1]

    monkeypatch.setattr(expand.tempfile, "TemporaryFile", temporary)
    with pytest.raises(PerfxmmError, match="could not be unpacked"):
        Reader(path_like)
