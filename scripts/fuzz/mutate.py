"""Structure-aware changes to a perf.data file: a fuzzer that only flips bytes rarely gets past the
size fields.

`mutate` does one change to the records, the section table, an attr or a count, chosen by a random
generator that the fuzzer seeds. Positions come from what the file itself says, as far as it makes
sense; what does not is changed blindly.
"""

from __future__ import annotations

import random
import struct

from backports import zstd

_MAGIC = b"PERFILE2"
_FILE_HEADER, _PIPE_HEADER = 104, 16
_COMPRESSED, _COMPRESSED2 = 81, 83
_MOST_RECORDS = 400
# Kernel and tool record types that something reads, and a few that do not exist.
_TYPES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
          64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85,
          99, 1 << 20)  # fmt: skip
_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x7F, 0x80, 0xFF, 0x100, 0x3FF,
    0x7FFF, 0x8000, 0xFFF0, 0xFFF8, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFE00, 0xFFFFFFFFFFFFFF80,
    0xFFFFFFFFFFFFFFF8, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
# Offsets in struct perf_event_attr of what decides layouts: sample_type, read_format, flags,
# branch_sample_type, the register masks, and the SIMD fields of any dialect.
_ATTR_WORDS = (4, 24, 24, 24, 32, 40, 72, 80, 88, 96, 96, 104, 112, 128, 136, 144, 152, 160, 168)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """One to four changes; at most `most` bytes come back."""
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        change = rng.choice(_CHANGES)
        out = change(out, rng)
    return bytes(out[:most])


def _data_section(data: bytearray) -> tuple[int, int]:
    """Where the records stand, (first byte, byte behind)."""
    if len(data) < _FILE_HEADER or data[:8] != _MAGIC:
        return min(_PIPE_HEADER, len(data)), len(data)
    if data[8] == _PIPE_HEADER:
        return _PIPE_HEADER, len(data)
    begin, size = struct.unpack_from("<QQ", data, 40)
    if begin > len(data):
        return _FILE_HEADER, len(data)
    return begin, min(begin + size, len(data)) if size else len(data)


def _records(data: bytearray) -> list[tuple[int, int]]:
    """(offset, size) of the records, as far as they follow each other."""
    at, end = _data_section(data)
    found: list[tuple[int, int]] = []
    while at + 8 <= end and len(found) < _MOST_RECORDS:
        size = data[at + 6] | data[at + 7] << 8
        if size < 8 or at + size > end:
            break
        found.append((at, size))
        at += size
    return found


def _resized(data: bytearray, before: int) -> bytearray:
    """After records were put in or taken out: the data section's size follows."""
    if len(data) >= _FILE_HEADER and data[:8] == _MAGIC and data[8] == _FILE_HEADER:
        (size,) = struct.unpack_from("<Q", data, 48)
        if size:
            struct.pack_into("<Q", data, 48, max(0, size + len(data) - before) & (1 << 64) - 1)
    return data


def _number(rng: random.Random) -> int:
    number = rng.choice(_NUMBERS)
    return (number + rng.choice((-1, 0, 0, 0, 1))) & (1 << 64) - 1


def _bytes(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _record_size(data: bytearray, rng: random.Random) -> bytearray:
    records = _records(data)
    if records:
        at, size = rng.choice(records)
        new = rng.choice((0, 1, 7, 8, 9, 12, size - 8, size - 1, size + 1, size + 8, 0xFFF8, 0xFFFF,
                          rng.randrange(1 << 16)))  # fmt: skip
        struct.pack_into("<H", data, at + 6, new & 0xFFFF)
    return data


def _record_type(data: bytearray, rng: random.Random) -> bytearray:
    records = _records(data)
    if records:
        at, _ = rng.choice(records)
        struct.pack_into("<I", data, at, rng.choice(_TYPES))
        if rng.random() < 0.3:
            struct.pack_into("<H", data, at + 4, rng.randrange(1 << 16))
    return data


def _record_word(data: bytearray, rng: random.Random) -> bytearray:
    records = [(at, size) for at, size in _records(data) if size >= 16]
    if records:
        at, size = rng.choice(records)
        word = rng.randrange(1, size // 8)
        width, form = rng.choice(((8, "<Q"), (8, "<Q"), (4, "<I"), (2, "<H")))
        place = at + 8 * word + rng.randrange(0, 8, width)
        struct.pack_into(form, data, place, _number(rng) & (1 << 8 * width) - 1)
    return data


def _shuffle_records(data: bytearray, rng: random.Random) -> bytearray:
    """Takes a record out, puts one in a second time, or swaps two."""
    records = _records(data)
    if not records:
        return data
    before = len(data)
    at, size = rng.choice(records)
    one = data[at : at + size]
    what = rng.randrange(3)
    if what == 0:
        del data[at : at + size]
    else:
        other, other_size = rng.choice(records)
        times = rng.choice((1, 1, 2, 20))
        if what == 1:
            data[other:other] = one * times
        elif at + size <= other:
            data[other : other + other_size] = one
            data[at : at + size] = data[other : other + other_size]
    return _resized(data, before)


def _grow_record(data: bytearray, rng: random.Random) -> bytearray:
    """A record longer or shorter by a few words, its size field right."""
    records = _records(data)
    if not records:
        return data
    before = len(data)
    at, size = rng.choice(records)
    if rng.random() < 0.5 and size >= 16:
        cut = 8 * rng.randrange(1, size // 8)
        del data[at + size - cut : at + size]
        size -= cut
    else:
        more = rng.choice((8, 8, 16, 64, 1024))
        if size + more < 1 << 16:
            data[at + size : at + size] = rng.choice((b"\0", b"\xff", b"A")) * more
            size += more
    struct.pack_into("<H", data, at + 6, size)
    return _resized(data, before)


def _new_record(data: bytearray, rng: random.Random) -> bytearray:
    records = _records(data)
    at = rng.choice(records)[0] if records else len(data)
    before = len(data)
    body = b"".join(
        struct.pack("<Q", _number(rng)) for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 20)))
    )
    data[at:at] = struct.pack("<IHH", rng.choice(_TYPES), rng.randrange(4), 8 + len(body)) + body
    return _resized(data, before)


def _compress(data: bytearray, rng: random.Random) -> bytearray:
    """Some records become a compressed one, or several; sometimes they were compressed before."""
    records = _records(data)
    if not records:
        return data
    before = len(data)
    first = rng.randrange(len(records))
    last = min(len(records), first + rng.choice((1, 3, 10, 100)))
    begin, end = records[first][0], sum(records[last - 1])
    plain = bytes(data[begin:end]) * rng.choice((1, 1, 1, 50))
    packed = zstd.compress(plain)
    pieces = rng.choice((1, 1, 2, 3))
    step = max(1, -(-len(packed) // pieces), len(packed) // (60_000 // 8) // 8)
    out = bytearray()
    for place in range(0, len(packed), min(step, 60_000)):
        piece = packed[place : place + min(step, 60_000)]
        if rng.random() < 0.5:
            out += struct.pack("<IHH", _COMPRESSED, 0, 8 + len(piece)) + piece
        else:
            padded = piece + bytes(-len(piece) % 8)
            out += struct.pack("<IHHQ", _COMPRESSED2, 0, 16 + len(padded), len(piece)) + padded
    data[begin:end] = out
    if len(data) >= _FILE_HEADER and data[8] == _FILE_HEADER and rng.random() < 0.8:
        data[75] |= 8  # HEADER_COMPRESSED, without a section of its own
    return _resized(data, before)


def _section(data: bytearray, rng: random.Random) -> bytearray:
    """A number of the file header, or of the table of features behind the data."""
    if len(data) < _FILE_HEADER:
        return data
    at, end = _data_section(data)
    places = list(range(8, 72, 8)) + list(range(end, min(end + 320, len(data) - 8), 8))
    place = rng.choice(places)
    new = rng.choice((_number(rng), rng.randrange(len(data) + 1), at, end, len(data), 104))
    if rng.random() < 0.4:
        new = struct.unpack_from("<Q", data, place)[0] + rng.choice((-16, -8, -1, 1, 8, 16))
    struct.pack_into("<Q", data, place, new & (1 << 64) - 1)
    return data


def _feature_bit(data: bytearray, rng: random.Random) -> bytearray:
    if len(data) >= _FILE_HEADER:
        bit = rng.choice((*range(1, 40), 248, rng.randrange(256)))
        data[72 + bit // 8] ^= 1 << bit % 8
    return data


def _attr(data: bytearray, rng: random.Random) -> bytearray:
    if len(data) < _FILE_HEADER + 80:
        return data
    if data[8] == _FILE_HEADER:
        entry_bytes, begin, total = struct.unpack_from("<QQQ", data, 16)
        if not 80 <= entry_bytes <= 4096 or begin + total > len(data) or total < entry_bytes:
            return data
        begin += entry_bytes * rng.randrange(min(total // entry_bytes, 64))
    else:
        attrs = [at for at, size in _records(data) if data[at] == 64 and size >= 72]
        if not attrs:
            return data
        begin = rng.choice(attrs) + 8
    place = begin + rng.choice(_ATTR_WORDS)
    if place + 8 > len(data):
        return data
    (old,) = struct.unpack_from("<Q", data, place)
    new = rng.choice((old ^ 1 << rng.randrange(64), old ^ 1 << rng.randrange(26), _number(rng)))
    struct.pack_into("<Q", data, place, new)
    return data


def _word(data: bytearray, rng: random.Random) -> bytearray:
    if len(data) >= 16:
        width, form = rng.choice(((8, "<Q"), (4, "<I"), (2, "<H")))
        place = rng.randrange((len(data) - 8) // 2) * 2
        struct.pack_into(form, data, place, _number(rng) & (1 << 8 * width) - 1)
    return data


_CHANGES = (
    _bytes, _bytes, _truncate, _record_size, _record_type, _record_word, _record_word,
    _record_word, _shuffle_records, _grow_record, _new_record, _compress, _section, _feature_bit,
    _attr, _attr, _attr, _word, _word,
)  # fmt: skip
