"""Recordings with compressed records, made out of plain ones as `perf record -z` would write them.

The data section is cut into pieces without regard to records, each is compressed as a part of one
zstd stream and flushed, and stands in a record of its own: tools/perf/util/zstd.c and
tools/perf/builtin-record.c, Linux 7.3.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.expand import zstd_module

PIECE_BYTES = 60_000
LEVEL = 1
_SECTION = struct.Struct("<QQ")
_HEADER_BYTES = 104
_DATA_AT, _FLAGS_AT = 40, 72
# HEADER_COMPRESSED: version, type (1 is zstd), level, ratio, mmap_len; u32 each.
_FEATURE_COMPRESSED = 27
_ZSTD_TYPE = 1


def pack_recording(plain: str, packed: str, *, kind: int = RecordType.COMPRESSED2) -> int:
    """Writes `plain`, a recording in file mode, with compressed records; bytes of its data
    section.
    """
    with open(plain, "rb") as source, open(packed, "wb") as target:
        header = bytearray(source.read(_HEADER_BYTES))
        data_offset, data_size = _SECTION.unpack_from(header, _DATA_AT)
        source.seek(0)
        target.write(source.read(data_offset))
        _pack_data(source, target, data_size, kind)
        _SECTION.pack_into(header, _DATA_AT, data_offset, target.tell() - data_offset)
        flags = int.from_bytes(header[_FLAGS_AT:], "little")
        bits = [bit for bit in range(256) if flags >> bit & 1]
        source.seek(data_offset + data_size)
        sections = [_SECTION.unpack(source.read(_SECTION.size)) for _ in bits]
        bodies = {}
        for bit, (offset, size) in zip(bits, sections, strict=True):
            source.seek(offset)
            bodies[bit] = source.read(size)
        bodies[_FEATURE_COMPRESSED] = struct.pack("<5I", 1, _ZSTD_TYPE, LEVEL, 2, 1 << 19)
        at = target.tell() + _SECTION.size * len(bodies)
        for _, body in sorted(bodies.items()):
            target.write(_SECTION.pack(at, len(body)))
            at += len(body)
        for _, body in sorted(bodies.items()):
            target.write(body)
        flags |= 1 << _FEATURE_COMPRESSED
        header[_FLAGS_AT:] = flags.to_bytes(32, "little")
        target.seek(0)
        target.write(header)
    return int(data_size)


def _pack_data(source: BinaryIO, target: BinaryIO, size: int, kind: int) -> None:
    zstd: Any = zstd_module()
    stream = zstd.ZstdCompressor(level=LEVEL)
    done = 0
    while done < size:
        piece = source.read(min(PIECE_BYTES, size - done))
        done += len(piece)
        packed = stream.compress(piece, mode=zstd.ZstdCompressor.FLUSH_BLOCK)
        if kind == RecordType.COMPRESSED2:
            packed = struct.pack("<Q", len(packed)) + packed + bytes(-len(packed) % 8)
        target.write(struct.pack("<IHH", kind, 0, 8 + len(packed)) + packed)


def copy_data(plain: str, payload: str) -> None:
    """The data section of `plain` as a file of its own."""
    with open(plain, "rb") as source, open(payload, "wb") as target:
        data_offset, data_size = _SECTION.unpack_from(source.read(_HEADER_BYTES), _DATA_AT)
        source.seek(data_offset)
        while data_size:
            piece = source.read(min(1 << 20, data_size))
            target.write(piece)
            data_size -= len(piece)
