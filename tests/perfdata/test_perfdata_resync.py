"""Records with a wrong size cost themselves: what stands behind them is found again.

Every expectation comes from the list of records that a file was made of.
"""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.resync import CHAIN, Resync, plausible
from perfxmm.perfdata.scanner import scan

HEADER = struct.Struct("<IHH")


def found_in(data: bytes, block_records: int = 65_536, block_bytes: int = 1 << 23) -> tuple[
    list[tuple[int, int]], list[Damage]
]:  # fmt: skip
    """(offset, size) of each record, and the damage."""
    damage: list[Damage] = []
    view = np.frombuffer(data, np.uint8)
    found: list[tuple[int, int]] = []
    for block in scan(
        view, 0, len(data), report=damage.append, block_records=block_records,
        block_bytes=block_bytes,
    ):  # fmt: skip
        assert int((block.offsets + block.sizes).max()) <= len(block.buffer)
        found += zip((block.offsets + block.file_base).tolist(), block.sizes.tolist(), strict=True)
    return found, damage


def places(records: list[bytes]) -> list[tuple[int, int]]:
    at, out = 0, []
    for record in records:
        out.append((at, len(record)))
        at += len(record)
    return out


def resized(records: list[bytes], index: int, size: int) -> bytes:
    """All of them, with another size in one header."""
    record = bytearray(records[index])
    record[6:8] = struct.pack("<H", size)
    return b"".join([*records[:index], bytes(record), *records[index + 1 :]])


def varied(count: int, seed: int = 1) -> list[bytes]:
    """Samples of many lengths with random words in them, every third record a COMM."""
    rng = np.random.default_rng(seed)
    return [
        w.comm(number) if number % 3 == 0
        else w.record(w.SAMPLE, rng.bytes(8 * int(rng.integers(3, 30))), misc=2)
        for number in range(count)
    ]  # fmt: skip


EQUAL = [w.sample(t, ip=0xFFFFFFFF81000000 + t) for t in range(100)]
VARIED = varied(100)


@pytest.mark.parametrize("index", [0, 1, 50, 96, 97, 98, 99])
@pytest.mark.parametrize("size", [0, 1, 7, 0xFFF8, 0xFFFF, 0x8001])
@pytest.mark.parametrize("records", [EQUAL, VARIED], ids=["equal", "varied"])
def test_a_size_that_cannot_be_costs_its_record(
    records: list[bytes], size: int, index: int
) -> None:
    known = places(records)
    found, damage = found_in(resized(records, index, size))
    at, length = known[index]
    left = len(b"".join(records)) - at
    assert [d.offset for d in damage] == [at]
    if index == 99 or (size == 0xFFF8 and index == 98):
        # One record behind a last one that may be cut short proves nothing.
        assert found == known[:index]
        said = f"record of size {size}; {left} bytes from here on are not read"
        if size > 8:
            said = f"the last record is cut short: {left} of {size} bytes"
    elif size < 8:
        assert found == known[:index] + known[index + 1 :]
        said = f"record of size {size}; {length} bytes are passed over"
    else:
        assert found == known, "it is what there is up to the next one"
        said = f"record of size {size}, but others begin {length} bytes behind its start"
    assert damage[0].what == said


@pytest.mark.parametrize("records", [EQUAL, VARIED], ids=["equal", "varied"])
@pytest.mark.parametrize("more", [1, 4, 7, 8, 16, 24])
def test_a_size_that_reaches_into_the_next_record(records: list[bytes], more: int) -> None:
    """The record is what there is up to the next one; none is lost."""
    known = places(records)
    for index in (1, 2, 49, 50):
        at, length = known[index]
        if len(records[index + 1]) <= more or len(records[index + 1]) == more + 8:
            continue
        found, damage = found_in(resized(records, index, length + more))
        assert found == known, (index, more)
        assert damage == [Damage(
            at, f"record of size {length + more}, but others begin {length} bytes behind its start"
        )]  # fmt: skip


@pytest.mark.parametrize("times", [2, 3, 33, 50])
def test_a_size_that_covers_whole_records_by_chance(times: int) -> None:
    """Told where no sample of the events can be as long, or no record has the type."""
    known = places(EQUAL)
    damaged = resized(EQUAL, 10, 32 * times)
    source = Reader(io.BytesIO(PerfFile(records=[damaged]).build()))
    begin = source.data_start
    found = [
        (block.file_base - begin + int(at), int(size))
        for block in source.blocks() for at, size in zip(block.offsets, block.sizes, strict=True)
    ]  # fmt: skip
    assert found == known
    assert [d.offset for d in source.damage] == [begin + 320]
    # Of side-band records it is known without the events.
    comm = w.comm(7)
    data = b"".join([*EQUAL[:10], comm[:6], struct.pack("<H", 40 + 32 * 3), comm[8:], *EQUAL[10:]])
    found, damage = found_in(data)
    assert found == places([*EQUAL[:10], comm, *EQUAL[10:]])
    assert [d.offset for d in damage] == [320]
    garbage = HEADER.pack(0x12345678, 0x99, 32 * times)
    at = 10 * 32
    found, damage = found_in(b"".join(EQUAL[:10]) + garbage + EQUAL[10][8:] + b"".join(EQUAL[11:]))
    assert found == known[:10] + known[11:]
    assert [d.offset for d in damage] == [at]
    assert damage[0].what.endswith("; 32 bytes are passed over")


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 99), st.integers(0, 0xFFFF), st.booleans(), st.integers(1, 40),
    st.integers(8, 2000),
)  # fmt: skip
def test_any_size_costs_no_more_than_what_it_covers(
    index: int, size: int, equal: bool, block_records: int, block_bytes: int
) -> None:
    records = EQUAL if equal else VARIED
    known = places(records)
    data = resized(records, index, size)
    found, damage = found_in(data, block_records, block_bytes)
    assert found[:index] == known[:index]
    at, length = known[index]
    if at + size > len(data) or size < 8:
        size = 0
    # As many records as are left to be a chain.
    behind = [place for place in known[index + 1 :] if place[0] >= at + max(size, length)]
    if len(behind) > CHAIN:
        behind = behind[1:]  # the one in which such a size ends
        assert found[-len(behind) :] == behind
    assert (found, damage) == found_in(data), "blocks of any length have the same records"
    if size == length:
        assert (found, damage) == (known, [])


@pytest.mark.parametrize("step", [512, 4096])
def test_a_stretch_of_zeros_or_noise(step: int) -> None:
    """What a crash leaves in a file: whole sectors that were never written."""
    records = varied(3000, 5)
    data = b"".join(records)
    known = places(records)
    begin = len(data) // 3 // step * step
    noise = np.random.default_rng(2).bytes(step)
    for hole in (bytes(step), b"\xff" * step, noise):
        damaged = data[:begin] + hole + data[begin + step :]
        found, damage = found_in(damaged)
        before = [one for one in known if one[0] + one[1] <= begin]
        behind = [one for one in known if one[0] >= begin + step]
        assert found[: len(before)] == before
        assert found[-len(behind) :] == behind
        # The record in which the hole begins has its header: its size still says where it ends.
        assert len(found) - len(before) - len(behind) in (0, 1)
        assert len(damage) == 1


def test_a_record_that_holds_records_is_one_record() -> None:
    """Copies of records on a stack, whole chains of them, are not records."""
    inside = b"".join(w.sample(t) for t in range(20))
    records = [w.sample(1), w.record(w.SAMPLE, inside, misc=2), *EQUAL]
    assert found_in(b"".join(records)) == (places(records), [])
    # Nor where the next header is damaged, and the chain inside ends exactly there.
    records[2] = b"\0" * 32
    found, damage = found_in(b"".join(records))
    known = places(records)
    assert found == [*known[:2], *known[3:]]
    assert damage == [Damage(known[2][0], "record of size 0; 32 bytes are passed over")]


def test_a_last_record_that_is_cut_short_is_not_searched_lightly() -> None:
    whole = w.record(w.SAMPLE, bytes(64) + w.sample(3) + bytes(64), misc=2)
    for length in range(8, len(whole), 8):
        found, damage = found_in(w.sample(1) + whole[:length])
        assert found == [(0, 32)]
        assert damage == [
            Damage(32, f"the last record is cut short: {length} of {len(whole)} bytes")
        ]


def test_payload_is_not_searched_for_records() -> None:
    """Not where its size is right; and where that is damaged only for a chain."""
    inside = b"".join(w.sample(t) for t in range(3))
    trace = w.record(w.AUXTRACE, struct.pack("<QQQIIII", len(inside), 0, 0, 0, 0, 0, 0))
    tracing = w.record(w.HEADER_TRACING_DATA, struct.pack("<I", len(inside)))
    for head in (trace, tracing):
        data = w.sample(1) + head + inside + b"".join(EQUAL)
        found, damage = found_in(data)
        assert found == [
            (0, 32), (32, len(head)),
            *((32 + len(head) + 96 + at, size) for at, size in places(EQUAL)),
        ]  # fmt: skip
        assert damage == []
    cut = w.sample(1) + trace + inside[:-8]
    found, damage = found_in(cut)
    assert found == [(0, 32)]
    assert damage == [Damage(32, "payload of record type 71 is cut short: 88 of 96 bytes")]
    endless = w.record(w.AUXTRACE, struct.pack("<QQQIIII", 1 << 63, 0, 0, 0, 0, 0, 0))
    found, damage = found_in(w.sample(1) + endless + b"".join(EQUAL))
    assert found == [(0, 32), *((80 + at, size) for at, size in places(EQUAL))]
    assert [d.offset for d in damage] == [32]
    assert damage[0].what.endswith("; 48 bytes are passed over")


def test_records_behind_uneven_ones_are_found_again() -> None:
    """perf fills up neither COMPRESSED nor HEADER_FEATURE: what follows stands anywhere."""
    records = [w.record(w.COMPRESSED, b"x" * 5), *EQUAL]
    known = places(records)
    found, damage = found_in(resized(records, 50, 0))
    assert found == known[:50] + known[51:]
    assert [d.offset for d in damage] == [known[50][0]]


def test_types_that_are_not_known_yet_are_passed_over_by_their_size() -> None:
    """Few or many, alone or with others between: only where records go on behind them."""
    new = w.record(1 << 20, bytes(24))
    for records in (
        [new], [new] * 50, [*EQUAL, new, *EQUAL], [*EQUAL, *([new] * 50), *EQUAL],
        [new, w.sample(1)] * 50, [new, w.sample(1), w.sample(2)] * 50,
    ):  # fmt: skip
        assert found_in(b"".join(records)) == (places(records), [])


def test_a_chain_is_looked_at_record_by_record() -> None:
    data = b"".join([*EQUAL[:6], b"\0" * 8])
    search = Resync(np.frombuffer(data, np.uint8), len(data))
    assert search.chains(np.arange(0, 192, 32)).tolist() == [4, 4, 4, 3, 2, 0]
    whole = Resync(np.frombuffer(data, np.uint8), 192)
    assert whole.chains(np.arange(0, 200, 8)).tolist() == [
        4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0,
    ]  # fmt: skip
    assert [whole.find(at, 1) for at in (0, 8, 160, 168)] == [0, 32, 160, None]
    assert whole.find(136, 2) is None
    assert whole.find(128, 2) == 128


@pytest.mark.parametrize(
    "piece",
    [
        bytes(8), b"\xff" * 8, HEADER.pack(9, 0, 0), HEADER.pack(9, 2, 16),
        HEADER.pack(9, 2, 0x7FF8), HEADER.pack(9, 2, 24) + bytes(16) + HEADER.pack(9, 0, 0),
        b"".join(EQUAL[:4]) + bytes(8), b"".join(EQUAL[:5]) + b"\xff" * 8,
        HEADER.pack(14, 0, 8) * 4 + bytes(8), HEADER.pack(68, 0, 8) * 4 + b"\x80\0\0\1\0\0\1\0",
    ],
)  # fmt: skip
def test_the_search_takes_time_by_the_bytes_and_not_more(piece: bytes) -> None:
    """Linear: of four times as much not ten times as long, whatever is searched."""

    def seconds(size: int) -> float:
        data = (piece * (size // len(piece) + 1))[:size]
        begun = time.process_time()
        found_in(data)
        return time.process_time() - begun

    seconds(1 << 16)
    small, large = seconds(1 << 17), seconds(1 << 19)
    assert large < max(10 * small, 1.0), (small, large)


def test_every_record_of_the_shared_recordings_is_plausible(shared_data: Path) -> None:
    """A header that the search would not take for one costs what stands before it."""
    total = 0
    for folder in ("perfdata", "simd"):
        for path in sorted((shared_data / folder).iterdir()):
            if not path.read_bytes().startswith(b"PERFILE2"):
                continue
            for block in Reader(path).blocks():
                good = plausible(block.headers())
                assert good.all(), (path.name, block.types[~good], block.misc[~good])
                total += len(block)
    assert total > 5000
