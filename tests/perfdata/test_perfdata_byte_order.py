"""Recordings of big-endian machines, and those in perf's first format, against little-endian ones.

The writer makes both from one description; what the reader gives must be the same bytes.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import either_order as eo
from support.either_order import EventSpec, Record, Recording, Values, numbers, words

from perfxmm.errors import DamagedInput
from perfxmm.kernel.constants import AttrFlag, RecordType
from perfxmm.perfdata.reader import Damage, Reader
from perfxmm.perfdata.swap import swap_attr

# Every field that has bytes or halves in it, with registers in between.
EVERYTHING = (1 << 25) - 1 & ~(1 << 24)
FULL = EventSpec(
    EVERYTHING, regs_user=0b111, regs_intr=0b10101, read_format=4 | 8, flags=(0, 8, 18, 23, 37),
    precise=1,
)  # fmt: skip
PLAIN = EventSpec(1 | 2 | 4 | 1 << 7)
FLAGS = (1, 0, 1, 0, 0xBEEF, 0b1010, 2, 0b0101, 5, 0x12345678)


def read(data: bytes) -> Reader:
    return Reader(io.BytesIO(data))


def records(source: Reader) -> list[tuple[int, bytes]]:
    return [
        (b.file_base + int(b.offsets[i]), b.record(i))
        for b in source.blocks() for i in range(len(b))
    ]  # fmt: skip


def same(recording: Recording, *, whole: bool = True) -> tuple[Reader, Reader]:
    """Reads both orders, as file and as pipe; all that is told of them must be the same."""
    for write in (recording.file, recording.pipe):
        little, big = read(write("<")), read(write(">"))
        assert (little.byte_order, big.byte_order) == ("little", "big")
        assert records(big) == records(little)
        assert [(e.name, e.attr, e.ids, e.attr_bytes) for e in big.events] == [
            (e.name, e.attr, e.ids, e.attr_bytes) for e in little.events
        ]
        assert big.features == little.features
        assert big.damage == little.damage
        assert not whole or little.damage == []
        assert big.complete == little.complete
    return little, big


def kinds(event: EventSpec) -> list[Record]:
    """One record of each type that has a layout here."""
    end = eo.trailer(event, Values(time_ns=99, pid=5, tid=6))
    mmap = numbers("IIQQQ", 5, 6, 0x400000, 0x1000, 0x2000)
    name = [eo.padded("/usr/bin/some program")]
    error = numbers("IIIIIIQQ", 1, 2, 3, 4, 5, 2, 0x1000, 77)
    said = [
        Record(1, [*mmap, *name]), Record(2, words(7, 12)),
        Record(3, [*numbers("II", 5, 6), *name]),
        Record(4, numbers("IIIIQ", 1, 2, 3, 4, 5)), Record(5, words(1, 7, 7)),
        Record(6, words(2, 7, 7)), Record(7, numbers("IIIIQ", 1, 2, 3, 4, 5)),
        Record(8, [*numbers("II", 5, 6), *words(1, 2, 3)]),
        Record(10, [*mmap, *numbers("IIQQII", 8, 1, 4711, 2, 5, 2), *name]),
        Record(10, [*mmap, *numbers("IIQQ", 8, 1, 4711, 2), *name]),  # Linux 3.12 to 3.15
        Record(10, [*mmap, b"\x14\0\0\0" + bytes(range(20)), *numbers("II", 5, 2), *name], 1 << 14),
        Record(11, words(0x10, 0x20, 1)), Record(12, numbers("II", 5, 6)), Record(13, words(9)),
        Record(14), Record(15, numbers("II", 5, 6)),
        Record(16, [*numbers("IIQ", 5, 6, 2), *words(1, 2, 3, 4)]),
        Record(17, [*numbers("QIHH", 0xFFFF, 64, 1, 2), *name]),
        Record(18, [*numbers("HHI", 1, 0, 77), b"abcdefgh"]), Record(19, [*words(3), *name]),
        Record(20, [*numbers("QHH", 0xFFFF, 2, 2), b"\1\2\3\4"]), Record(21, words(5)),
        Record(22, words(0x77, 2, 0x1000, 0x2000)), Record(63, [b"whatever"]),
    ]  # fmt: skip
    kernel = [Record(one.kind, [*one.body, *end], one.misc) for one in said]
    build_id = bytes(range(20)) + b"\x14\0\0\0"
    return [
        *kernel, Record(67, [*numbers("I", 0xFFFFFFFF), build_id, *name], 2 | 1 << 15), Record(68),
        Record(69, words(1, 7, 0, 3, 11)), Record(70, [*numbers("II", 1, 0), *words(1, 2)]),
        Record(71, numbers("QQQIIII", 16, 0, 5, 1, 2, 3, 0), payload=b"0123456789abcdef"),
        Record(66, numbers("II", 5, 0), payload=b"trace\0\0\0"),
        Record(72, [*error, b"message".ljust(64, b"\0"), *numbers("II", 0, 1)]),
        Record(73, [*words(2), *words(5), b"one".ljust(16, b"\0"), *words(6), bytes(16)]),
        Record(74, [*numbers("HHHHH", 0, 3, 0, 1, 2), bytes(6)]),
        Record(74, [*numbers("HHHI", 1, 1, 4, 0b1011), bytes(6)]),
        Record(74, [*numbers("HHH", 1, 1, 8), bytes(4), *words(0b1011), bytes(6)]),
        Record(74, [*numbers("HBBHH", 2, 0, 0, 3, 9)]),
        Record(75, words(1, 2, 3)), Record(76, numbers("QIIQQQ", 7, 1, 2, 3, 4, 5)),
        Record(77, words(0, 55)), Record(78, [*words(2, 7), eo.padded("an event's name")]),
        Record(78, words(1, 7, 0x3FF0000000000000)),
        Record(78, [*words(3, 7), *numbers("HHHHH", 0, 3, 0, 1, 2), bytes(6)]),
        Record(79, [*words(1, 2, 3, 4, 5), bytes(8)]), Record(82), Record(85, [b"12345678"]),
        Record(200, [b"nobody knows"]),
    ]  # fmt: skip


@pytest.mark.parametrize("event", [PLAIN, EventSpec(1 | 2 | 4 | 64 | 1 << 7), FULL])
def test_every_record_type(event: EventSpec) -> None:
    little, _ = same(Recording([event], kinds(event)))
    assert len({kind for _, one in records(little) for kind in one[:1]}) >= 40


def test_a_sample_with_every_field() -> None:
    values = Values(
        group=((5, 7), (6, 8)), chain=(0xFFFFFFFFFFFFFE00, 0x1000, 0x2000), raw=b"odd raw bytes",
        branches=((0x10, 0x20, FLAGS), (0x30, 0x40, (0, 1, *FLAGS[2:]))),
        user=(1, 2, 3), stack=bytes(range(64)), intr=(4, 5, 6), aux=bytes(range(24)),
        weight=0x0102030405060708,
    )  # fmt: skip
    _, big = same(Recording([FULL], [eo.sample(FULL, values), eo.sample(FULL, Values())] * 40))
    event = big.events[0]
    assert event.attr.precise_ip == 1
    assert event.attr.flag(AttrFlag.MMAP2)
    assert event.attr.flag(AttrFlag.SIGTRAP)
    assert not event.attr.flag(AttrFlag.COMM)


VALUES = st.builds(
    Values, ip=st.integers(0, 2**64 - 1), pid=st.integers(0, 2**32 - 1),
    tid=st.integers(0, 2**32 - 1), time_ns=st.integers(0, 2**63), cpu=st.integers(0, 500),
    group=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 99)), min_size=1,
                   max_size=3),
    chain=st.lists(st.integers(0, 2**64 - 1), max_size=4), raw=st.binary(max_size=21),
    branches=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1),
                  st.tuples(*(st.integers(0, (1 << w) - 1) for w in eo.BRANCH_WIDTHS))),
        max_size=3),
    user=st.none() | st.tuples(*[st.integers(0, 2**64 - 1)] * 3),
    intr=st.none() | st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
    stack=st.integers(0, 4).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
    aux=st.integers(0, 3).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
    weight=st.integers(0, 2**64 - 1),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_random_recording_reads_the_same_in_both_orders(data: st.DataObject) -> None:
    bits = data.draw(st.integers(0, EVERYTHING)) & ~(1 << 24)
    first = EventSpec(
        bits, (7,), flags=tuple(data.draw(st.sets(st.sampled_from((0, 8, 18, 23, 24, 36))))),
        precise=data.draw(st.integers(0, 3)), read_format=data.draw(st.sampled_from((0, 12))),
        regs_user=0b1011, regs_intr=0b1001,
    )  # fmt: skip
    # As perf has it: ids stand in the same place in all events of a file, and trailers in all.
    place = 1 << 16 if bits & 1 << 16 else bits & (0b1101111 | 1 << 7 | 1 << 9)
    second = EventSpec(
        (1 << 16 | 1 | 2) if bits & 1 << 16 else place, (8, 9),
        flags=(18,) if 18 in first.flags else (),
    )
    events = [first, second] if bits & (1 << 16 | 1 << 6) else [first]
    out = []
    for values in data.draw(st.lists(VALUES, max_size=12)):
        event = data.draw(st.sampled_from(events))
        values.identifier = event.ids[0]
        out.append(eo.sample(event, values))
        if 18 in event.flags:
            body = [*numbers("II", 1, 2), eo.padded("name")]
            out.append(Record(3, [*body, *eo.trailer(event, values)]))
    same(Recording(events, out))


@pytest.mark.parametrize("long_bytes", [4, 8])
def test_features_and_the_writers_word_size(long_bytes: int) -> None:
    build_id = [
        *numbers("IHHI", 0, 1 | 1 << 15, 52, 0xFFFFFFFF), bytes(range(20)), b"\x14\0\0\0",
        b"[kernel]".ljust(16, b"\0"),
    ]  # fmt: skip
    desc = [
        *numbers("II", 1, 112), *PLAIN.tokens(), ("I", 1), *eo.string("named"), *words(7)
    ]  # fmt: skip
    recording = Recording([PLAIN], [eo.sample(PLAIN, Values())], {
        2: build_id, 3: eo.string("host"), 6: eo.string("ppc64"), 7: numbers("II", 8, 4),
        10: words(1 << 33), 11: [("I", 2), *eo.string("perf"), *eo.string("record")], 12: desc,
        21: words(5, 6), 29: [*numbers("II", 1, 4), *words(7, 8)],
    })  # fmt: skip
    for order in ("<", ">"):
        source = read(recording.file(order, long_bytes=long_bytes))
        assert source.damage == []
        assert source.complete
        assert source.events[0].name == "named"
        (entry,) = source.features.pop("build_ids")
        assert (entry.path, entry.build_id, entry.pid, entry.kernel) == (
            "[kernel]", bytes(range(20)), -1, True
        )  # fmt: skip
        source.features.pop("event_desc")
        assert source.features == {
            "hostname": "host", "arch": "ppc64", "nrcpus": (4, 8), "total_mem_kib": 1 << 33,
            "cmdline": ["perf", "record"], "sample_time": (5, 6), "clock_data": (4, 7, 8),
        }  # fmt: skip


def test_the_machine_of_a_recording() -> None:
    for order, feature, arch in (
        ("<", {}, "x86_64"), (">", {}, "unknown"), ("<", {6: eo.string("arm")}, "arm"),
        ("<", {33: numbers("II", 62, 0)}, "x86_64"), ("<", {33: numbers("II", 3, 0)}, "i686"),
        ("<", {33: numbers("II", 183, 0)}, "e_machine 183"),
        (">", {6: eo.string("s390x")}, "s390x"),
    ):  # fmt: skip
        event = EventSpec(1 | 2 | 4 | 1 << 18, regs_intr=0xFFFFFFFF000003FF)
        source = read(Recording([event], [], {3: eo.string("h"), **feature}).file(order))
        assert source.arch == arch
        assert source.events[0].attr.dialect.name == "L"


def test_a_bitmap_without_the_hosts_name() -> None:
    """Files older than HOSTNAME have build ids at most; other bits are not believed."""
    old = Recording([PLAIN], [], {2: []})
    for long_bytes in (4, 8):
        source = read(old.file(">", long_bytes=long_bytes))
        assert list(source.head.feature_bodies) == [2]
    assert read(Recording([PLAIN], [], {20: []}).file(">")).head.feature_bodies == {}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("header_bytes", [72, 104])
def test_the_first_format(order: eo.Order, header_bytes: int) -> None:
    """PERFFILE: the byte order shows in the size of attr entries; names stand by number."""
    event = EventSpec(1 | 2 | 4, kind=2, config=301)
    recording = Recording(
        [event], [eo.sample(event, Values(time_ns=t)) for t in range(40)],
        event_types={77: "other:one", 301: "sched:sched_switch"},
    )  # fmt: skip
    file = recording.file(order, magic=b"PERFFILE", header_bytes=header_bytes)
    for source in (read(file), read(recording.pipe(order, magic=b"PERFFILE"))):
        assert source.head.magic == "PERFFILE"
        assert source.byte_order == {"<": "little", ">": "big"}[order]
        assert [e.name for e in source.events] == ["sched:sched_switch"]
        samples = [one for _, one in records(source) if one[0] == RecordType.SAMPLE]
        assert samples == [one.encode("<") for one in recording.records]
        assert source.damage == []
        assert source.complete
    head = read(file).head
    assert (head.header_bytes, head.attr_entry_bytes) == (header_bytes, 128)
    assert (head.attrs, head.event_types[1]) == ((header_bytes + 8, 128), 144)


@pytest.mark.parametrize("size", [64, 80, 104])
def test_perf_reads_the_first_format_alike(tmp_path: Path, size: int) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    event = EventSpec(1 | 2 | 4, size=size)
    recording = Recording(
        [event], [eo.sample(event, Values(time_ns=10**9 + t, ip=t + 1)) for t in range(10)]
    )
    for order in ("<", ">"):
        for header_bytes in (72, 104):
            path = tmp_path / "recording"
            path.write_bytes(recording.file(order, magic=b"PERFFILE", header_bytes=header_bytes))
            done = subprocess.run(
                [perf, "script", "--ns", "-F", "time,ip", "-i", path],
                capture_output=True, timeout=60, check=True, text=True,
            )  # fmt: skip
            said = [line.split() for line in done.stdout.splitlines()]
            source = Reader(path)
            assert [
                (int(time.strip(":").replace(".", "")), int(ip, 16)) for time, ip, *_ in said
            ] == [
                (int.from_bytes(one[24:32], "little"), int.from_bytes(one[8:16], "little"))
                for _, one in records(source)
            ]
            assert len(said) == 10
            assert source.complete


def test_damage_is_told_as_in_a_little_endian_file() -> None:
    good = [eo.sample(FULL, Values(raw=b"12345", stack=bytes(16))) for _ in range(20)]
    bad = Record(9, numbers("QQII", 1, 2, 3, 4))
    ends = [
        Record(71, numbers("QQQIIII", 1 << 40, 0, 5, 1, 2, 3, 0)), Record(66, []), Record(1, []),
        Record(10, numbers("IIQ", 1, 2, 3)), Record(74, numbers("H", 1)), Record(78, words(3)),
        Record(9, [b"odd"]), Record(64, numbers("II", 1, 5000)), Record(64, [bytes(200)]),
    ]  # fmt: skip
    for end in ends:
        whole = Recording([FULL], [*good, bad, end, bad])
        same(whole, whole=False)
    little, big = (Recording([FULL], good).file(order) for order in ("<", ">"))
    for cut in range(1, 400, 7):
        sources = read(little[:-cut]), read(big[:-cut])
        assert records(sources[0]) == records(sources[1])
        assert sources[0].damage == sources[1].damage
    zero = big[: -len(good[0].encode(">"))] + struct.pack(">IHHQ", 9, 0, 0, 5)
    source = read(zero.ljust(len(big), b"\0"))
    assert len(records(source)) == 19
    assert "record of size 0" in source.damage[0].what


@pytest.mark.parametrize("size", [0, 3, 7, 0xFFF0, 0xFFFF])
def test_a_wrong_size_costs_its_record_in_both_orders(size: int) -> None:
    samples = [eo.sample(FULL, Values(raw=b"12345", stack=bytes(16))) for _ in range(20)]
    recording = Recording([FULL], samples)
    for write in (recording.file, recording.pipe):
        whole = records(read(write("<")))
        rows = [row for row, (_, one) in enumerate(whole) if one[0] == 9]
        for row in (rows[0], rows[7], rows[17]):
            at = whole[row][0]
            for order in ("<", ">"):
                data = bytearray(write(order))
                struct.pack_into(f"{order}H", data, at + 6, size)
                source = read(bytes(data))
                got = records(source)
                assert [d.offset for d in source.damage] == [at]
                # A little-endian one may be kept; never what was not rewritten.
                assert [one for one in got if one[0] != at] == whole[:row] + whole[row + 1 :]
                assert order == "<" or at not in dict(got)


@pytest.mark.parametrize("more", [1, 3, 7])
def test_samples_of_uneven_sizes_are_the_same_in_both_orders(more: int) -> None:
    """Each but the first begins at an uneven place, too."""
    one = eo.sample(PLAIN, Values())
    little, _ = same(Recording([PLAIN], [Record(9, [*one.body, bytes(more)], one.misc)] * 20))
    assert len(records(little)) == 21


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_of_a_big_endian_file(data: st.DataObject) -> None:
    good = bytearray(Recording(
        [FULL], [*kinds(FULL), eo.sample(FULL, Values(raw=b"123", stack=bytes(8)))] * 2,
        {3: eo.string("host")},
    ).file(">"))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 5))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        source = read(bytes(good))
    except DamagedInput:
        return
    for block in (*source.blocks(), *source.ordered_blocks()):
        assert int((block.offsets + block.sizes).max()) <= len(block.buffer)


def test_the_tail_of_an_attr_stays() -> None:
    little = eo.encode(FULL.tokens(), "<") + b"a tail that nobody knows"
    big = eo.encode(FULL.tokens(), ">") + b"a tail that nobody knows"
    assert swap_attr(big)[:112] == little[:112]
    assert swap_attr(big)[112:] == little[112:]


@pytest.mark.parametrize("kind", [81, 83])
def test_compressed_records_of_a_big_endian_machine(kind: int) -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    samples = [eo.sample(FULL, Values(time_ns=t, raw=b"12345")) for t in range(300)]
    plain = b"".join(one.encode(">") for one in samples)
    packed = zstd.compress(plain)
    pieces = [packed[at : at + 200] for at in range(0, len(packed), 200)]
    outer = [eo.sample(FULL, Values(time_ns=5000))]
    for piece in pieces:
        body: list[eo.Token] = [piece] if kind == 81 else [*words(len(piece)), piece]
        outer.append(Record(kind, body))
    outer.append(Record(68))
    source = read(Recording([FULL], outer, {3: eo.string("h"), 27: [bytes(20)]}).file(">"))
    got = [one for _, one in records(source)]
    assert got[0] == outer[0].encode("<")
    assert got[1:-1] == [one.encode("<") for one in samples]
    assert source.packed == {kind: len(pieces)}
    assert source.damage == []
    assert source.complete
    assert {b.file_base for b in source.blocks()} == {-1}


def test_perf_reads_the_same_samples_in_both_orders(tmp_path: Path) -> None:
    """perf as a witness for the writer: what it reads from one order, it reads from the other."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    event = EventSpec(1 | 2 | 4 | 1 << 5 | 1 << 7 | 1 << 8)
    out = [Record(3, [*numbers("II", 10, 11), eo.padded("prog"), *eo.trailer(event, Values())])]
    out += [
        eo.sample(event, Values(time_ns=10**9 + t, ip=0x1000 + t, cpu=t % 4, chain=(1, 2)))
        for t in range(20)
    ]
    recording = Recording([event], out, {3: eo.string("h")})
    said = []
    for order in ("<", ">"):
        path = tmp_path / "recording"
        path.write_bytes(recording.file(order))
        done = subprocess.run(
            [perf, "script", "--ns", "-F", "comm,pid,tid,cpu,time,ip,period", "-i", path],
            capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        said.append(done.stdout)
    assert said[0].count(b"prog") == 20
    assert said[0] == said[1]


def test_damage_of_a_size_zero_record_keeps_its_place() -> None:
    recording = Recording([PLAIN], [eo.sample(PLAIN, Values()), Record(9, [])])
    data = bytearray(recording.file(">"))
    at = len(data) - 8
    data[at + 6 : at + 8] = b"\0\0"
    source = read(bytes(data))
    assert len(records(source)) == 1
    assert source.damage == [Damage(at, "record of size 0; 8 bytes from here on are not read")]
