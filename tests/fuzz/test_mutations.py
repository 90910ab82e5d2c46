"""Small recordings cut, flipped and shuffled: what is left is exactly a part of what there was."""

from __future__ import annotations

import io
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzz_seeds as seeds
from support import perfdata_writer as pw
from support.fuzz_targets import read_records, read_snapshots
from support.inprocess import run

from perfxmm.errors import DamagedInput
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

Sample = tuple[int, int, int]
FILES = {
    "plain": seeds.plain_file(), "pipe": seeds.pipe_stream(), "zstd": seeds.zstd_file(),
}  # fmt: skip


def samples_of(data: bytes) -> tuple[list[Sample], list[Damage], bool]:
    """(time, ip, pid of each sample in file order; damage; whether it says that it is complete)."""
    reader = Reader(io.BytesIO(data))
    decoder = Decoder(reader.events)
    found: list[Sample] = []
    for block in reader.blocks():
        batch = decoder.decode(block)
        found += zip(batch.time_ns.tolist(), batch.ip.tolist(), batch.pid.tolist(), strict=True)
    damage = [*reader.damage, *(Damage(p.file_offset, p.what) for p in decoder.problems)]
    return found, damage, reader.complete and not decoder.problems


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_at_any_byte_gives_the_samples_before_the_cut(kind: str) -> None:
    data = FILES[kind]
    whole, none, complete = samples_of(data)
    assert not none
    assert complete
    assert len(whole) in (12, 24)
    counts = set()
    refused: list[tuple[DamagedInput, int]] = []
    for length in range(len(data)):
        cut = data[:length]
        try:
            found, damage, complete = samples_of(cut)
        except DamagedInput as error:
            refused.append((error, length))
            continue
        assert found == whole[: len(found)], length
        assert all(0 <= one.offset <= length for one in damage), (length, damage)
        # A stream that ends between two records may have ended there.
        assert not complete or kind == "pipe", length
        assert damage or complete or len(found) == len(whole), length
        counts.add(len(found))
    assert refused
    for error, length in refused:
        assert error.exit_code == 5
        assert error.offset is None or error.offset <= length
    # Of the zstd stream some records are in pieces that come out together.
    assert counts >= set(range(13)) or kind == "zstd"
    assert max(counts) == len(whole)


def test_the_command_line_says_5_for_what_is_cut(tmp_path: Path) -> None:
    data = FILES["plain"]
    records = data.index(struct.pack("<IHH", pw.SAMPLE, 2, 32))
    expected = {
        0: (5, 0), 50: (5, 0), len(data): (0, 12), records + 33: (5, 1), records + 70: (5, 2),
        len(data) - 1: (5, 12),
    }  # fmt: skip
    for length, (code, lines) in expected.items():
        path = tmp_path / "perf.data"
        path.write_bytes(data[:length])
        ran = run("script", "-i", path, "-F", "ip,time")
        assert (ran.code, len(ran.out.splitlines())) == (code, lines), (length, ran)
        if code:
            assert "Traceback" not in ran.err
            assert "offset" in ran.err or length == 0, ran.err


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bits_are_answered(kind: str, data: st.DataObject) -> None:
    changed = bytearray(FILES[kind])
    for place in data.draw(st.lists(st.integers(0, 8 * len(changed) - 1), min_size=1, max_size=8)):
        changed[place // 8] ^= 1 << place % 8
    found = read_records(bytes(changed))
    assert read_snapshots(bytes(changed)).samples == found.samples


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_fault_in_one_record_costs_that_record(data: st.DataObject) -> None:
    """A bit of a sample's body: every other sample is there, and exactly as it was."""
    records = seeds.plain_records()
    original = pw.PerfFile(records=records).build()
    whole, _, _ = samples_of(original)
    rows = [row for row, record in enumerate(records) if record[0] == pw.SAMPLE]
    chosen = data.draw(st.integers(0, len(rows) - 1))
    record = bytearray(records[rows[chosen]])
    record[data.draw(st.integers(8, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    records[rows[chosen]] = bytes(record)
    found, _, _ = samples_of(pw.PerfFile(records=records).build())
    assert len(found) == len(whole)
    assert [s for row, s in enumerate(found) if row != chosen] == [
        s for row, s in enumerate(whole) if row != chosen
    ]


@pytest.mark.parametrize("size", [9, 12, 15, 17, 24, 31])
def test_an_odd_or_short_sample_costs_itself(size: int) -> None:
    """Size fields that are right for where the next record is, and wrong for a sample."""
    before, behind = pw.sample(1), [pw.sample(2), pw.sample(3)]
    odd = pw.sample(9)[:size]
    odd = odd[:6] + struct.pack("<H", size) + odd[8:]
    data = pw.PerfFile(records=[before, odd, *behind]).build()
    found, damage, complete = samples_of(data)
    assert [time for time, _, _ in found] == [1, 2, 3]
    (one,) = damage
    assert one.offset == data.index(odd)
    assert not complete


SECTION_NUMBERS = (8, 16, 24, 32, 40, 48, 56, 64)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(SECTION_NUMBERS),
        st.one_of(
            st.integers(0, len(FILES["plain"]) + 64), st.integers(0, (1 << 64) - 1),
            st.sampled_from([104, 120, len(FILES["plain"]), 1 << 63, (1 << 64) - 8]),
        ),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_sections_anywhere_are_answered(numbers: dict[int, int]) -> None:
    """The header's sizes and places: overlapping, outside, swapped, too large for 64 bits."""
    changed = bytearray(FILES["plain"])
    for place, number in numbers.items():
        struct.pack_into("<Q", changed, place, number)
    found = read_records(bytes(changed))
    assert found.samples <= 12


@settings(max_examples=200, deadline=None)
@given(st.permutations(range(11)), st.integers(0, 1 << 40))
def test_the_table_of_features_shuffled(order: list[int], lie: int) -> None:
    """Features that are each other's, or lie outside: no sample is lost."""
    data = bytearray(FILES["plain"])
    begin, size = struct.unpack_from("<QQ", data, 40)
    table = begin + size
    entries = [bytes(data[table + 16 * i : table + 16 * i + 16]) for i in range(11)]
    data[table : table + 16 * 11] = b"".join(entries[i] for i in order)
    assert read_records(bytes(data)).samples == 12
    struct.pack_into("<Q", data, table, lie)
    found = read_records(bytes(data))
    assert found.samples == 12


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 16), max_size=40))
def test_records_in_any_order_and_number(order: list[int]) -> None:
    records = seeds.plain_records()
    chosen = [records[i] for i in order]
    found, damage, _ = samples_of(pw.PerfFile(records=chosen).build())
    assert damage == []
    expected, _, _ = samples_of(
        pw.PerfFile(records=[r for r in chosen if r[0] == pw.SAMPLE]).build()
    )
    assert Counter(found) == Counter(expected)
    assert len(found) == sum(record[0] == pw.SAMPLE for record in chosen)


def test_an_id_of_no_event_costs_its_sample() -> None:
    data = bytearray(seeds.two_events())
    whole, _, _ = samples_of(bytes(data))
    at = data.index(struct.pack("<IHHQ", pw.SAMPLE, 2, 48, 7))
    struct.pack_into("<Q", data, at + 8, 999)
    found, (damage,), complete = samples_of(bytes(data))
    assert found == whole[1:]
    assert damage == Damage(at, "the sample's id is no event's")
    assert not complete


@pytest.mark.parametrize("name", ["perf.data.singleprocess-3.8", "lpd.sleep.data"])
def test_real_recordings_cut_here_and_there(shared_data: Path, name: str) -> None:
    data = (shared_data / "perfdata" / name).read_bytes()
    whole, _, _ = samples_of(data)
    for length in range(1, len(data), 97):
        try:
            found, damage, _ = samples_of(data[:length])
        except DamagedInput:
            continue
        assert found == whole[: len(found)], length
        assert all(-1 <= one.offset <= length for one in damage)
