"""Records of many sizes are found as a plain walk finds them, whatever looks like a header."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as w

from perfxmm.perfdata import lanes, scanner
from perfxmm.perfdata.blocks import Damage, RecordBlock
from perfxmm.perfdata.scanner import scan

HEADER = struct.Struct("<IHH")
CALLCHAIN_DEFERRED = 22  # of any length, as samples are
DECOY = HEADER.pack(w.SAMPLE, 2, 48)


def walked(data: bytes, end: int) -> list[tuple[int, int, int, int]]:
    """(offset, type, misc, size) of each whole record, one after the other."""
    found, at = [], 0
    while at + 8 <= end:
        kind, misc, size = HEADER.unpack_from(data, at)
        if size < 8 or at + size > end:
            break
        found.append((at, kind, misc, size))
        at += size
    return found


def scanned(
    data: bytes, *, block_records: int = 65_536, block_bytes: int = 1 << 23
) -> tuple[list[tuple[int, int, int, int]], list[Damage], list[RecordBlock]]:
    damage: list[Damage] = []
    view = np.frombuffer(data, np.uint8)
    found, made = [], []
    for block in scan(view, 0, len(data), report=damage.append, block_records=block_records,
                      block_bytes=block_bytes):  # fmt: skip
        made.append(block)
        found += zip(
            (block.offsets + block.file_base).tolist(), block.types.tolist(),
            block.misc.tolist(), block.sizes.tolist(), strict=True,
        )  # fmt: skip
    return found, damage, made


def mixed(count: int, seed: int, *, decoys: float = 0.0) -> list[bytes]:
    """Samples of many lengths, every third record another type, payload like headers here and
    there."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = int(rng.integers(2, 40))
        body = bytearray(rng.bytes(8 * words))
        if rng.random() < decoys:
            at = 8 * int(rng.integers(0, words))
            body[at : at + 8] = DECOY
        kind = w.SAMPLE if number % 3 else CALLCHAIN_DEFERRED
        made.append(w.record(kind, bytes(body), misc=2))
    return made


@pytest.mark.parametrize("decoys", [0.0, 0.3, 1.0])
def test_lanes_find_what_a_walk_finds(decoys: float) -> None:
    data = b"".join(mixed(20_000, 1, decoys=decoys))
    found, damage, _ = scanned(data)
    assert found == walked(data, len(data))
    assert damage == []


def test_lanes_prove_most_records_of_a_mixed_stretch() -> None:
    data = b"".join(mixed(20_000, 2)) + bytes(1 << 16)
    words = np.frombuffer(data, "<u8")
    expected = [record[0] >> 3 for record in walked(data, len(data) - (1 << 16))]
    kinds = lanes.kinds_of(words[np.array(expected[:2000])])
    assert kinds.key == w.SAMPLE | 2 << 32
    positions, headers, after = lanes.walk_lanes(words, 0, expected[-1], kinds)
    assert positions.tolist() == expected[:-1]
    assert headers.tolist() == words[positions].tolist()
    assert after == expected[-1]


def test_a_short_stretch_is_not_for_lanes() -> None:
    data = b"".join(mixed(100, 3)) + bytes(1 << 16)
    words = np.frombuffer(data, "<u8")
    kinds = lanes.Kinds(np.uint64(w.SAMPLE | 2 << 32), 30.0, 20.0)
    positions, headers, after = lanes.walk_lanes(words, 0, 100, kinds)
    assert (len(positions), len(headers), after) == (0, 0, 0)


@pytest.mark.parametrize("size", [0, 4, 13, 20])
def test_an_impossible_or_uneven_size_among_mixed_records(size: int) -> None:
    records = mixed(12_000, 4)
    before = b"".join(records[:9000])
    odd = HEADER.pack(w.SAMPLE, 2, size) + bytes(max(0, size - 8))
    data = before + odd + b"".join(records[9000:])
    found, damage, _ = scanned(data)
    if size >= 8:
        assert found == walked(data, len(data))
        assert damage == []
        return
    behind = walked(data[len(before) + 8 :], len(data) - len(before) - 8)
    assert found == walked(data, len(before)) + [
        (at + len(before) + 8, *rest) for at, *rest in behind
    ]
    assert damage == [Damage(len(before), f"record of size {size}; 8 bytes are passed over")]


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 100])
def test_a_mixed_file_that_is_cut_off(cut: int) -> None:
    data = b"".join(mixed(9_000, 5))[:-cut]
    found, damage, _ = scanned(data)
    assert found == walked(data, len(data))
    last = found[-1]
    assert [d.offset for d in damage] == [last[0] + last[3]]


def test_payload_behind_a_record_among_mixed_ones() -> None:
    records = mixed(12_000, 6)
    trace = w.record(w.AUXTRACE, struct.pack("<QQQIIII", 64, 0, 0, 0, 0, 0, 0)) + DECOY * 8
    data = b"".join(records[:9000]) + trace + b"".join(records[9000:])
    found, damage, _ = scanned(data)
    assert damage == []
    assert len(found) == len(records) + 1
    assert [record[1] for record in found].count(w.AUXTRACE) == 1
    assert found[9001][0] == found[9000][0] + len(trace)


@pytest.mark.parametrize("block_records", [1, 100, 8192])
@pytest.mark.parametrize("block_bytes", [1000, 1 << 20])
def test_blocks_are_as_large_as_asked_for(block_records: int, block_bytes: int) -> None:
    data = b"".join(mixed(3000, 7))
    found, _, made = scanned(data, block_records=block_records, block_bytes=block_bytes)
    assert found == walked(data, len(data))
    edges = [0, *np.cumsum([len(block) for block in made]).tolist()]
    for begin, end in pairwise(edges):
        assert 0 < end - begin <= block_records
        assert found[end - 1][0] - found[begin][0] < block_bytes


def test_pages_are_given_back_up_to_the_next_block() -> None:
    data = b"".join(mixed(3000, 8))
    given: list[tuple[int, int]] = []
    view = np.frombuffer(data, np.uint8)
    for block in scan(view, 0, len(data), report=lambda damage: None, block_records=500,
                      release=lambda begin, end: given.append((begin, end))):  # fmt: skip
        first = int(block.offsets[0]) + block.file_base
        assert not given or given[-1][1] == first
    assert given[0][0] == 0
    assert given[-1][1] == len(data)
    assert all(one[1] == two[0] for one, two in pairwise(given))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_mixture(data: st.DataObject) -> None:
    """Small lanes, so that small inputs have many, and bits changed anywhere but in headers."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    records = mixed(data.draw(st.integers(1, 900)), seed, decoys=data.draw(st.floats(0, 1)))
    run = w.sample(1) * data.draw(st.integers(0, 1500))
    raw = bytearray(b"".join(records) + run + b"".join(records[:300]))
    expected = walked(bytes(raw), len(raw))
    headers = {at + byte for at, *_ in expected for byte in range(8)}
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] ^= (place not in headers) << data.draw(st.integers(0, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "_LANE_RECORDS", 4)
        patch.setattr(lanes, "_LEAST_LANES", 2)
        patch.setattr(scanner, "_LEARN_RECORDS", 64)
        patch.setattr(scanner, "_MAX_RECORD_BYTES", 1 << 16)
        found, damage, _ = scanned(bytes(raw))
    assert found == expected
    assert damage == []
