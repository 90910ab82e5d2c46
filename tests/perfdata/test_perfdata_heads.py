"""Heads as other writers leave them, damaged ones, and files that change while they are read."""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import either_order as eo
from support import perfdata_writer as w
from support.either_order import EventSpec, Recording, Values, numbers, words
from support.perfdata_writer import PerfFile

from perfxmm.errors import DamagedInput
from perfxmm.kernel.attr import SIZE_VERSIONS
from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.features import decode_build_ids
from perfxmm.perfdata.format import Feature
from perfxmm.perfdata.origins import Origins
from perfxmm.perfdata.reader import Damage, Reader

SAMPLES = [w.sample(t) for t in range(1, 30)]
# perf leaves these bits in the header of a file that it did not finish: what it meant to write.
MEANT = 0b1111111111101100


def read(data: bytes) -> Reader:
    return Reader(io.BytesIO(data))


def records(source: Reader) -> list[bytes]:
    return [b.record(i) for b in source.blocks() for i in range(len(b))]


def whats(source: Reader) -> list[str]:
    return [damage.what for damage in source.damage]


def with_bits(data: bytes, bits: int) -> bytes:
    return data[:72] + bits.to_bytes(32, "little") + data[104:]


def test_a_killed_recorder_may_have_written_its_bitmap() -> None:
    data = with_bits(PerfFile(records=SAMPLES, data_size=0).build(), MEANT)
    source = read(data)
    assert records(source) == SAMPLES
    assert source.features == {}
    assert not source.complete
    assert source.damage == []


@pytest.mark.parametrize("size", [*SIZE_VERSIONS, 100, 152, 160, 168, 176, 184, 400, 4096])
def test_attrs_of_every_size(size: int) -> None:
    """As the first of three events, in sections and in a stream; beyond what is known kept."""
    tail = bytes(range(1, 9)) if size >= 192 else b""
    raw = w.attr(size=size)[: size - len(tail)] + tail
    file = PerfFile(attrs=[(raw, (3, 4)), (w.attr(size=size, config=2), (5,)),
                           (w.attr(size=size), ())], records=SAMPLES)  # fmt: skip
    for data in (file.build(), file.build_pipe()):
        source = read(data)
        assert [(e.attr.size, e.ids) for e in source.events] == [
            (size, (3, 4)), (size, (5,)), (size, ())
        ]  # fmt: skip
        assert source.events[0].attr_bytes == raw
        assert source.events[0].attr.tail.endswith(tail)
        assert source.events[1].attr.config == 2
        assert records(source)[-len(SAMPLES) :] == SAMPLES
        assert source.damage == []


def test_an_attr_of_size_0_is_the_first_version() -> None:
    raw = bytearray(w.attr(size=64))
    struct.pack_into("<I", raw, 4, 0)
    file = PerfFile(attrs=[(bytes(raw), (3,))], records=SAMPLES)
    for data in (file.build(), file.build_pipe()):
        assert read(data).events[0].ids == (3,)


def test_ids_behind_a_shorter_attr_than_the_entry_has_room_for() -> None:
    """Where the section stands behind attr.size bytes and the entry is longer."""
    raw = w.attr(size=64) + struct.pack("<QQ", 104, 16) + b"\xff" * 32
    source = read(PerfFile(attrs=[(raw, (21, 22))], ids_offset=1 << 50, records=SAMPLES).build())
    assert source.events[0].ids == (21, 22)


def test_a_file_with_its_events_as_records() -> None:
    attr = w.record(w.HEADER_ATTR, w.attr() + struct.pack("<QQ", 3, 4))
    source = read(PerfFile(attrs=[], records=[attr, *SAMPLES], features={3: w.string("h")}).build())
    assert [(e.attr.size, e.ids) for e in source.events] == [(104, (3, 4))]
    assert source.features == {"hostname": "h"}
    assert source.complete
    with pytest.raises(DamagedInput, match="the file has 0 events"):
        read(PerfFile(attrs=[], records=SAMPLES).build())


def patched(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<Q", value) + data[at + 8 :]


@pytest.mark.parametrize(("at", "value", "words_"), [
    (8, 96, "the header says that it has 96 bytes, not 104"),
    (8, 1 << 63, "not 104"),
    (24, 96, "the attrs section overlaps the header"),
    (32, 120 + 104, "the attrs section overlaps the data section"),
    (56, (1 << 64) - 8, "the event types section lies outside the file"),
    (64, 1 << 62, "the event types section lies outside the file"),
])  # fmt: skip
def test_sections_that_cannot_be(at: int, value: int, words_: str) -> None:
    """Told, and what can be read is read."""
    data = PerfFile(records=SAMPLES).build()
    data = patched(data, at, value)
    if at == 56:
        data = patched(data, 64, 72)
    try:
        source = read(data)
    except DamagedInput:
        assert at == 24  # the attr is not where the header puts it
        return
    assert any(words_ in what for what in whats(source))
    if at != 32:
        assert records(source) == SAMPLES
    assert not source.complete


@pytest.mark.parametrize("at", [16, 24, 32, 40, 48, 72])
def test_numbers_that_overflow(at: int) -> None:
    data = PerfFile(records=SAMPLES, features={3: w.string("h")}).build()
    for value in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 16, len(data), 0xFFFF):
        try:
            source = read(patched(data, at, value))
        except DamagedInput:
            continue
        assert all(one in SAMPLES for one in records(source)[:1])


def test_features_too_large_to_be_read_and_those_of_which_the_beginning_is_enough() -> None:
    big = bytes(5 << 20)
    file = PerfFile(records=SAMPLES, features={
        1: big, 3: w.string("h"), 100: big, 101: big, 102: big, 103: big, 104: b"small",
    })  # fmt: skip
    source = read(file.build())
    assert source.head.feature_bytes[Feature.TRACING_DATA] == len(big)
    assert len(source.head.feature_bodies[Feature.TRACING_DATA][1]) == 4096
    assert source.features["bit 104"] == b"small"
    assert whats(source) == ["feature 103 of 5242880 bytes is too large to be read"]


def test_more_ids_than_are_believed() -> None:
    """Many events that all claim the whole file as their ids."""
    attrs = [(w.attr(size=64), (1,) * 2)] * 3
    data = bytearray(PerfFile(attrs=attrs, records=[]).build())
    data += bytes((5 << 20) - len(data))
    table = struct.unpack_from("<Q", data, 24)[0]
    for row in range(3):
        struct.pack_into("<QQ", data, table + 80 * row + 64, 0, 4 << 20)
    source = read(bytes(data))
    assert [len(event.ids) for event in source.events] == [1 << 19, 1 << 19, 0]
    assert "too many" in whats(source)[0]


def test_an_event_that_cannot_be_read_costs_its_samples() -> None:
    bad = bytearray(w.attr(w.IP | w.TIME | w.IDENTIFIER))
    struct.pack_into("<I", bad, 4, 5000)
    good = [w.attr(w.IP | w.TIME | w.IDENTIFIER, config=n) for n in (1, 2)]
    file = PerfFile(attrs=[(good[0], (1,)), (bytes(bad), (2,)), (good[1], (3,))])
    source = read(file.build())
    assert [(e.index, e.ids, e.attr.config) for e in source.events] == [(0, (1,), 1), (1, (3,), 2)]
    assert whats(source) == ["event 1 cannot be read: an event attribute has an impossible size"]
    assert not source.complete
    # Where samples do not say whose they are, the others' cannot be told from its.
    file.attrs[0] = (w.attr(w.IP | w.TIME), (1,))
    with pytest.raises(DamagedInput, match="impossible size"):
        read(file.build())


@pytest.mark.parametrize("order", ["<", ">"])
def test_many_different_events(order: eo.Order) -> None:
    """Work grows with their number, not with its square."""
    events = [
        EventSpec(1 << 16 | 1 << 12 | 1 << 2 | (n & 1) << 1, (n,), regs_user=n, size=96)
        for n in range(4000)
    ]
    values = [Values(identifier=n, time_ns=n + 1, user=range(n.bit_count())) for n in range(4000)]
    samples = [eo.sample(e, v) for e, v in zip(events, values, strict=True)]
    desc: list[eo.Token] = [*numbers("II", 4000, 0)]
    for n in range(4000):
        desc += [("I", 1), *eo.string(f"event{n}"), *words(n)]
    source = read(Recording(events, samples, {3: eo.string("h"), 12: desc}).file(order))
    assert [e.name for e in source.events] == [f"event{n}" for n in range(4000)]
    assert records(source) == [one.encode("<") for one in samples]
    assert sum(len(b) for b in source.ordered_blocks()) == 4000
    assert source.damage == []


def test_streams_with_more_behind_their_end() -> None:
    good = PerfFile(records=SAMPLES).build_pipe()
    for extra, what in (
        (b"\0", "1 stray bytes at the end"),
        (b"\x2a" * 5, "5 stray bytes at the end"),
        (bytes(400), "record of size 0; 400 bytes from here on are not read"),
        (b"\xff" * 100, "the last record is cut short: 100 of 65535 bytes"),
    ):
        source = read(good + extra)
        assert records(source)[1:] == SAMPLES
        assert source.damage == [Damage(len(good), what)]
        assert not source.complete


def test_a_stream_that_says_the_same_without_end() -> None:
    """Features of impossible numbers, and names, cannot fill the memory."""
    many = [
        *(w.record(w.HEADER_FEATURE, struct.pack("<Q", n) + b"x") for n in (256, 1 << 63)),
        *(w.record(w.EVENT_UPDATE, struct.pack("<QQ", 2, n) + b"n\0") for n in range(70_000)),
    ]
    source = read(PerfFile(records=many).build_pipe())
    assert source.features == {}
    assert "HEADER_FEATURE" in source.damage[0].what
    assert source.damage[-1].what == "a EVENT_UPDATE record of 26 bytes makes no sense"


def test_build_ids_of_the_first_writers() -> None:
    """Before Linux 2.6.35 an entry had no pid."""
    def entries(order: eo.Order) -> bytes:
        return b"".join(
            eo.encode([*numbers("IHH", 0, misc, 32 + len(name)), bytes(range(20)), bytes(4),
                       name], order)
            for misc, name in ((2, b"/bin/true".ljust(16, b"\0")),
                               (1, b"[kernel.kallsyms]".ljust(24, b"\0")))
        )  # fmt: skip

    for order in ("<", ">"):
        found = decode_build_ids(entries(order), order)
        assert [(e.path, e.build_id, e.pid, e.kernel) for e in found] == [
            ("/bin/true", bytes(range(20)), -1, False),
            ("[kernel.kallsyms]", bytes(range(20)), -1, True),
        ]


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    many = [w.sample(t) for t in range(40_000)]
    path.write_bytes(PerfFile(records=many).build())
    for ordered in (False, True):
        for before in (0, 1):
            path.write_bytes(PerfFile(records=many).build())
            source = Reader(path)
            blocks: Iterator[object] = (
                source.ordered_blocks(block_records=1000) if ordered
                else source.blocks(block_records=1000)
            )  # fmt: skip
            got = [len(next(blocks)) for _ in range(before)]  # type: ignore[arg-type]
            os.truncate(path, 8192)
            got += [len(block) for block in blocks]  # type: ignore[arg-type]
            assert sum(got) in ((8192 - source.data_start) // 32, 1000 * before)
            assert "the file was cut off here while it was read" in whats(source)
            assert not source.complete


def test_origins() -> None:
    origins = Origins()
    origins.add(100, 500, copied=True)
    origins.add(120, 520, copied=False)
    origins.add(170, 600, copied=True)
    assert [origins.of(at) for at in (0, 99, 100, 119, 120, 169, 170, 175)] == [
        -1, -1, 500, 519, 520, 520, 600, 605
    ]  # fmt: skip


def test_damage_in_unpacked_records_is_told_by_the_record_they_came_from() -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    packer = zstd.ZstdCompressor()
    flush = zstd.ZstdCompressor.FLUSH_BLOCK
    good = packer.compress(b"".join(SAMPLES), flush)
    bad = packer.compress(w.record(w.SAMPLE, bytes(24), size=0) + SAMPLES[0], flush)
    pieces = [w.record(w.COMPRESSED, good), w.record(w.COMPRESSED, bad), SAMPLES[1]]
    for data in (PerfFile(records=pieces, features={27: bytes(20)}).build(),
                 PerfFile(records=pieces).build_pipe()):  # fmt: skip
        source = read(data)
        assert [one for one in records(source) if one[0] == w.SAMPLE][: len(SAMPLES)] == SAMPLES
        place = data.index(pieces[1])
        assert place in {damage.offset for damage in source.damage}


def test_events_named_by_tracepoint_number_only_where_nothing_better_is_known() -> None:
    event = EventSpec(1 | 2 | 4, kind=2, config=301)
    recording = Recording(
        [event], [eo.sample(event, Values())],
        {12: [*numbers("II", 1, 112), *event.tokens(), ("I", 1), *eo.string("better"), *words(7)]},
        {301: "sched:sched_switch"},
    )  # fmt: skip
    assert read(recording.file("<")).events[0].name == "better"
    recording.features.clear()
    assert read(recording.file("<")).events[0].name == "sched:sched_switch"


def test_every_record_type_and_feature_of_perf_has_a_name() -> None:
    """Linux 7.3: enum perf_event_type, enum perf_user_event_type, HEADER_*; none left out."""
    assert sorted(RecordType) == [*range(1, 23), *range(64, 87)]
    assert sorted(Feature) == list(range(1, 35))
    assert RecordType(22).name == "CALLCHAIN_DEFERRED"
    assert [RecordType(n).name for n in (81, 82, 83, 84, 85, 86)] == [
        "COMPRESSED", "FINISHED_INIT", "COMPRESSED2", "BPF_METADATA", "SCHEDSTAT_CPU",
        "SCHEDSTAT_DOMAIN",
    ]  # fmt: skip


def test_sections_in_another_order() -> None:
    """Attrs and ids behind the data, features that share their bytes."""
    plain = PerfFile(records=SAMPLES).build()
    attr, data = w.attr(), b"".join(SAMPLES)
    table_at = 104 + len(data)
    body_at = table_at + 2 * 16
    body = w.string("shared")
    attrs_at = body_at + len(body)
    ids_at = attrs_at + len(attr) + 16
    head = plain[:16] + struct.pack(
        "<7Q", 120, attrs_at, 120, 104, len(data), 0, 0
    ) + ((1 << 3) | (1 << 4)).to_bytes(32, "little")  # fmt: skip
    sections = struct.pack("<QQ", body_at, len(body)) * 2
    tail = attr + struct.pack("<QQ", ids_at, 16) + struct.pack("<QQ", 5, 6)
    source = read(head + data + sections + body + tail)
    assert records(source) == SAMPLES
    assert source.events[0].ids == (5, 6)
    assert source.features == {"hostname": "shared", "osrelease": "shared"}
    assert source.complete
