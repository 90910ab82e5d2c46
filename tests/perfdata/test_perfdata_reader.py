"""The reader on files made by the tests' own writer: right ones, cut ones, and wrong ones."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as w
from support.perfdata_writer import PerfFile

from perfxmm.errors import DamagedInput, PermissionDenied, UsageError
from perfxmm.perfdata.metadata import FEATURE_BIT, GAP_MAGIC, Metadata
from perfxmm.perfdata.reader import Damage, Reader


def reader(data: bytes, dialect: str | None = None) -> Reader:
    return Reader(io.BytesIO(data), dialect)


def records(source: Reader, **limits: int) -> list[bytes]:
    return [b.record(i) for b in source.blocks(**limits) for i in range(len(b))]


def our_gap(metadata: Metadata) -> bytes:
    text = metadata.to_json()
    gap = GAP_MAGIC + struct.pack("<Q", len(text)) + text
    return gap + b"\0" * (-len(gap) % 8)


MIXED = [
    w.comm(1),
    *(w.sample(t) for t in range(2, 40)),
    *(w.sample(t, extra=bytes(8 * (t % 7))) for t in range(40, 120)),
    w.record(w.FINISHED_ROUND),
    *(w.sample(t, extra=bytes(16)) for t in range(120, 300)),
    w.record(w.EXIT, bytes(40)),
]


@pytest.mark.parametrize("limits", [{}, {"block_records": 1}, {"block_records": 17},
                                    {"block_bytes": 1}, {"block_bytes": 333}])  # fmt: skip
def test_every_record_once_and_in_order(limits: dict[str, int]) -> None:
    source = reader(PerfFile(records=MIXED).build())
    assert records(source, **limits) == MIXED
    assert source.complete
    assert source.damage == []


def test_columns_say_what_the_headers_say() -> None:
    source = reader(PerfFile(records=MIXED).build())
    (block,) = source.blocks()
    assert block.types.tolist() == [struct.unpack_from("<I", r)[0] for r in MIXED]
    assert block.misc.tolist() == [struct.unpack_from("<H", r, 4)[0] for r in MIXED]
    assert block.sizes.tolist() == [len(r) for r in MIXED]
    assert [a.dtype for a in (block.offsets, block.sizes, block.types, block.misc)] == [
        np.dtype(t) for t in ("int64", "uint32", "uint32", "uint16")
    ]
    assert block.file_base + block.offsets[0] == source.data_start
    picked = block.select(block.types == w.COMM)
    assert [picked.record(i) for i in range(len(picked))] == [MIXED[0]]


def test_blocks_are_bounded() -> None:
    same = [w.sample(t) for t in range(5000)]
    source = reader(PerfFile(records=same).build())
    assert [len(b) for b in source.blocks(block_records=2048)] == [2048, 2048, 904]
    sizes = [len(b.buffer) for b in source.blocks(block_bytes=32 * 100)]
    # One record more than fits, and up to 7 bytes in front for alignment.
    assert max(sizes) <= 32 * 101 + 7


def test_events_ids_and_names() -> None:
    cycles, raw = w.attr(kind=0, config=0), w.attr(kind=4, config=0x1C2)
    file = PerfFile(attrs=[(cycles, (5, 6)), (raw, (9,))])
    assert [(e.index, e.name, e.ids) for e in reader(file.build()).events] == [
        (0, "cycles", (5, 6)), (1, "raw 0x1c2", (9,)),
    ]  # fmt: skip
    described = b"".join([
        struct.pack("<II", 2, 104), raw, struct.pack("<I", 1), w.string("second"),
        struct.pack("<Q", 9), cycles, struct.pack("<I", 1), w.string("first"),
        struct.pack("<Q", 6),
    ])  # fmt: skip
    file.features[12] = described
    assert [e.name for e in reader(file.build()).events] == ["first", "second"]


def test_features_and_metadata() -> None:
    ours = Metadata(source="sigtrap", dialect="L", result={"samples": 3})
    file = PerfFile(records=MIXED, gap=our_gap(Metadata(source="sigtrap")), features={
        3: w.string("host"), 5: b"", 7: struct.pack("<II", 8, 4),
        11: struct.pack("<I", 2) + w.string("a") + w.string("b c"),
        21: struct.pack("<QQ", 10, 20), 200: b"what is this", FEATURE_BIT: ours.to_json(),
    })  # fmt: skip
    source = reader(file.build())
    assert source.features == {
        "hostname": "host", "nrcpus": (4, 8), "cmdline": ["a", "b c"], "sample_time": (10, 20),
        "bit 200": b"what is this",
    }  # fmt: skip
    assert source.metadata == ours
    assert source.complete


def test_our_file_without_its_features_is_not_complete() -> None:
    ours = Metadata(source="sigtrap")
    source = reader(PerfFile(records=MIXED, gap=our_gap(ours)).build())
    assert source.metadata == ours
    assert not source.complete
    assert records(source) == MIXED


def test_a_killed_recorders_file_goes_by_its_size() -> None:
    data = PerfFile(records=MIXED, data_size=0).build()
    for cut in (0, 1, 7, 8, 20, 32):
        source = reader(data[: len(data) - cut])
        kept = MIXED if cut == 0 else MIXED[:-1]
        assert records(source) == kept
        assert not source.complete


def test_an_empty_data_section_with_features_is_just_empty() -> None:
    source = reader(PerfFile(features={3: w.string("h")}).build())
    assert records(source) == []
    assert source.complete


def test_cut_at_every_byte() -> None:
    """Opens or says DamagedInput; every complete record is delivered, in file and time order."""
    few = [w.comm(1), *(w.sample(t) for t in range(2, 5)), w.record(w.FINISHED_ROUND),
           w.sample(1, extra=b"12345678")]  # fmt: skip
    ours = Metadata(source="sigtrap", result={"samples": 4})
    for gap in (b"", our_gap(ours)):
        file = PerfFile(records=few, gap=gap, features={3: w.string("h"), 4: w.string("r")})
        if gap:
            file.features[FEATURE_BIT] = ours.to_json()
        data = file.build()
        ends = np.cumsum([len(r) for r in few])
        begin = data.index(few[0])
        for cut in range(len(data)):
            if cut < begin:
                with pytest.raises(DamagedInput) as caught:
                    reader(data[:cut])
                assert caught.value.exit_code == 5
                continue
            source = reader(data[:cut])
            whole = int((ends + begin <= cut).sum())
            assert records(source) == few[:whole]
            assert not source.complete
            timed = [b.record(i) for b in source.ordered_blocks() for i in range(len(b))]
            rounds = [r for r in few[:whole] if r[0] == w.FINISHED_ROUND]
            assert sorted(timed + rounds) == sorted(few[:whole])
            if gap:
                assert source.metadata is not None
                assert source.metadata.source == "sigtrap"


def test_cut_pipe_at_every_byte() -> None:
    few = [w.comm(1), w.sample(2), w.sample(3)]
    data = PerfFile(records=few, features={3: w.string("h")}).build_pipe()
    begin = data.index(few[0])
    for cut in range(len(data)):
        try:
            source = reader(data[:cut])
        except DamagedInput:
            assert cut < 16 + 8 + 104 + 8
            continue
        assert [r for r in records(source) if r[0] < 64] == [
            r for i, r in enumerate(few) if begin + sum(map(len, few[: i + 1])) <= cut
        ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_never_break_the_reader(data: st.DataObject) -> None:
    good = bytearray(PerfFile(
        records=MIXED[:30] + MIXED[50:80], gap=our_gap(Metadata()), features={3: w.string("h")}
    ).build())  # fmt: skip
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        source = reader(bytes(good))
    except DamagedInput:
        return
    for block in (*source.blocks(), *source.ordered_blocks()):
        assert int((block.offsets + block.sizes).max()) <= len(block.buffer)
        assert int(block.offsets.min()) >= 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60), st.booleans()), max_size=12),
    st.integers(1, 300), st.integers(1, 20_000),
)  # fmt: skip
def test_any_sequence_of_records_is_found(
    runs: list[tuple[int, int, bool]], block_records: int, block_bytes: int
) -> None:
    """Runs of all lengths and sizes, with payload behind some; the expectation is the list."""
    parts, expected = [], []
    for words, count, payload in runs:
        for number in range(count):
            expected.append(w.record(w.SAMPLE, bytes([number]) * (8 * words)))
            parts.append(expected[-1])
        if payload:
            expected.append(w.record(w.AUXTRACE, struct.pack("<QQ", 8 * words, 0)))
            parts += [expected[-1], w.sample(1)[: 8 * words].ljust(8 * words, b"\0")]
    source = reader(PerfFile(records=parts).build())
    assert records(source, block_records=block_records, block_bytes=block_bytes) == expected
    assert source.damage == []


@pytest.mark.parametrize("count", [1, 40])
def test_a_record_of_size_zero_costs_itself_and_is_named(count: int) -> None:
    good = [w.sample(t) for t in range(count)]
    bad = w.record(w.SAMPLE, bytes(24), size=0)
    source = reader(PerfFile(records=[*good, bad, w.sample(9)]).build())
    assert records(source) == [*good, w.sample(9)]
    at = source.data_start + 32 * count
    assert source.damage == [Damage(at, "record of size 0; 32 bytes are passed over")]
    list(source.blocks())
    assert len(source.damage) == 1, "the same damage is told once"
    assert not source.complete


def test_a_record_of_size_zero_with_none_behind_it() -> None:
    bad = w.record(w.SAMPLE, bytes(24), size=0)
    source = reader(PerfFile(records=[w.sample(1), bad, bad]).build())
    assert records(source) == [w.sample(1)]
    at = source.data_start + 32
    assert source.damage == [Damage(at, "record of size 0; 64 bytes from here on are not read")]


def test_stray_bytes_at_the_end() -> None:
    source = reader(PerfFile(records=[w.sample(1), b"abc"]).build())
    assert records(source) == [w.sample(1)]
    assert [d.what for d in source.damage] == ["3 stray bytes at the end"]


def test_a_last_record_cut_short() -> None:
    source = reader(PerfFile(records=[w.sample(1), w.sample(2)[:20]]).build())
    assert records(source) == [w.sample(1)]
    assert [d.what for d in source.damage] == ["the last record is cut short: 20 of 32 bytes"]


def test_sizes_that_are_no_multiple_of_8() -> None:
    odd = [w.record(w.MMAP2, bytes(n)) for n in (1, 2, 3, 9, 100, 4)] + [w.sample(5)]
    source = reader(PerfFile(records=odd).build())
    assert records(source) == odd
    assert source.complete
    equal = [w.record(w.MMAP2, bytes([n]) * 5) for n in range(100)]
    assert records(reader(PerfFile(records=equal).build())) == equal


@pytest.mark.parametrize("samples", [0, 3, 50])
def test_payload_behind_a_record_is_skipped(samples: int) -> None:
    # The payload looks like records, and like records of size 0.
    for payload in (w.sample(99) * 2, bytes(64)):
        before = [w.sample(t) for t in range(samples)]
        aux = w.record(w.AUXTRACE, struct.pack("<QQQQQ", len(payload), 0, 0, 0, 0))
        source = reader(PerfFile(records=[*before, aux, payload, w.sample(5)]).build())
        assert records(source) == [*before, aux, w.sample(5)]
        assert source.complete
    tracing = w.record(w.HEADER_TRACING_DATA, struct.pack("<II", 5, 0))
    source = reader(PerfFile(records=[tracing, b"12345\0\0\0", w.sample(5)]).build())
    assert records(source) == [tracing, w.sample(5)]


def test_payload_cut_short() -> None:
    aux = w.record(w.AUXTRACE, struct.pack("<QQQQQ", 1 << 63, 0, 0, 0, 0))
    source = reader(PerfFile(records=[w.sample(1), aux, bytes(16)]).build())
    assert records(source) == [w.sample(1)]
    assert source.damage[0].offset == source.data_start + 32
    assert "payload of record type 71 is cut short: 16 of" in source.damage[0].what


def test_bad_ids_and_features_are_damage_and_not_the_end() -> None:
    file = PerfFile(records=MIXED, ids_offset=1 << 40, features={
        3: struct.pack("<I", 1000) + b"short", 4: w.string("release"), FEATURE_BIT: b"no json",
    })  # fmt: skip
    source = reader(file.build())
    assert records(source) == MIXED
    assert source.events[0].ids == ()
    assert source.features == {"osrelease": "release"}
    assert sorted(d.what.split(":")[0] for d in source.damage) == [
        "feature hostname cannot be read", "perfxmm's metadata cannot be read",
        "the ids of an event lie outside the file, or are too many",
    ]  # fmt: skip
    assert not source.complete


@pytest.mark.parametrize(("change", "words"), [
    ({"attr_entry_size": 10}, "impossible size for attr entries"),
    ({"attrs_size": 1 << 40}, "cut off before its first record"),
    ({"attrs_size": 0}, "the file has 0 events"),
    ({"data_offset": 1 << 40, "attrs_size": 0}, "the file has 0 events"),
])  # fmt: skip
def test_impossible_headers(change: dict[str, int], words: str) -> None:
    with pytest.raises(DamagedInput, match=words) as caught:
        reader(PerfFile(records=MIXED, **change).build())
    assert caught.value.offset is not None


@pytest.mark.parametrize("offset", [1 << 40, 3])
def test_data_that_are_not_where_the_header_puts_them(offset: int) -> None:
    """They are found behind the attrs, where perf puts them; or it is no recording."""
    source = reader(PerfFile(records=MIXED, data_offset=offset).build())
    assert records(source) == MIXED
    assert [d.offset for d in source.damage] == [40]
    assert not source.complete
    with pytest.raises(DamagedInput, match="data section lies outside") as caught:
        reader(PerfFile(records=[], data_offset=offset).build())
    assert caught.value.offset == 40


def test_attr_size_beyond_what_is_known_is_kept() -> None:
    raw = w.attr(size=240)
    source = reader(PerfFile(attrs=[(raw, (3,))], records=MIXED).build())
    assert source.events[0].attr_bytes == raw
    assert source.events[0].attr.size == 240
    assert source.events[0].ids == (3,)
    assert records(source) == MIXED


def test_an_attr_that_lies_about_its_size() -> None:
    raw = bytearray(w.attr())
    struct.pack_into("<I", raw, 4, 5000)
    with pytest.raises(DamagedInput, match="impossible size"):
        reader(PerfFile(attrs=[(bytes(raw), ())]).build())


@pytest.mark.parametrize(("head", "words"), [
    (b"", "the file is empty"),
    (b"\x1f\x8b\x08\0", "gzip"),
    (b"\x28\xb5\x2f\xfd\0", "zstd"),
    (b"\xfd7zXZ\0\0", "xz"),
    (b"\x7fELF\2\1\1", "ELF"),
    (b"PERFFILE" + bytes(200), "data section lies outside"),
    (b"2ELIFREP" + bytes(200), "data section lies outside"),
    (b"hello world, this is a text", "does not begin with PERFILE2"),
    (b"PERF", "ends inside its header"),
    (b"PERFILE2", "cut off before its first record"),
    (b"PERFILE2" + struct.pack("<Q", 16), "the stream has no events"),
    (b'{"schema": 1}', "JSON"),
])  # fmt: skip
def test_foreign_files(tmp_path: Path, head: bytes, words: str) -> None:
    for source in (io.BytesIO(head), tmp_path / "f"):
        (tmp_path / "f").write_bytes(head)
        with pytest.raises(DamagedInput, match=words):
            Reader(source)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Reader(tmp_path / "missing")
    with pytest.raises(DamagedInput, match="directory"):
        Reader(tmp_path)
    with pytest.raises(UsageError, match="null"):
        Reader("a\0b")
    with pytest.raises(UsageError, match="no dialect 'X'"):
        reader(PerfFile().build(), "X")


def test_a_file_of_someone_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become someone else here")
    path = tmp_path / "private"
    path.write_bytes(PerfFile().build())
    path.chmod(0o600)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            tmp_path.chmod(0o755)
            os.setuid(65534)
            try:
                Reader(path)
            except PermissionDenied as error:
                code = 0 if error.exit_code == 3 and "0600" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pipe_carries_what_a_file_does() -> None:
    ours = Metadata(source="sigtrap", result={"samples": 1})
    file = PerfFile(
        attrs=[(w.attr(), (7, 8)), (w.attr(config=0), (9,))], records=list(MIXED),
        features={3: w.string("host"), FEATURE_BIT: ours.to_json()},
    )  # fmt: skip
    file.records.append(w.record(w.EVENT_UPDATE, struct.pack("<QQ", 2, 9) + b"named\0\0\0"))
    source = reader(file.build_pipe())
    assert source.pipe
    assert [(e.name, e.ids) for e in source.events] == [("task-clock", (7, 8)), ("named", (9,))]
    assert source.features["hostname"] == "host"
    assert source.metadata == ours
    assert source.complete
    assert records(source)[2 + 2 :] == file.records, "behind 2 attrs and 2 features"


def test_a_stream_from_a_real_pipe() -> None:
    code = (
        "import sys; from perfxmm.perfdata.reader import Reader\n"
        "r = Reader('-'); print(r.file, sum(len(b) for b in r.blocks()), r.complete)"
    )
    data = PerfFile(records=[w.sample(t) for t in range(70_000)]).build_pipe()
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.split() == [b"stdin", b"70001", b"True"]


def test_dialect_can_be_forced_and_is_not_guessed_off_x86() -> None:
    simd = bytearray(w.attr(size=176))
    struct.pack_into("<HHHH", simd, 144, 1, 1, 4, 0)
    file = PerfFile(attrs=[(bytes(simd), ())])
    assert reader(file.build()).events[0].attr.dialect.name == "M"
    assert reader(file.build(), "O1").events[0].attr.dialect.name == "O1"
    file.features[6] = w.string("aarch64")
    assert reader(file.build()).events[0].attr.dialect.name == "L"


def test_pages_are_given_back(tmp_path: Path) -> None:
    """Reading 64 MiB leaves neither anonymous nor mapped pages of that order behind."""
    path = tmp_path / "big"
    body = w.record(w.SAMPLE, bytes(1016), misc=2)
    path.write_bytes(PerfFile(records=[body] * 65_536, data_size=0).build())
    code = f"""
import re
from perfxmm.perfdata.reader import Reader
def kib(key):
    return int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1])
r = Reader({str(path)!r})
before = kib('RssAnon'), kib('RssFile')
most = 0
for block in r.blocks():
    block.buffer.sum()
    most = max(most, kib('RssFile'))
assert most - before[1] < 24 << 10, most - before[1]
assert kib('RssAnon') - before[0] < 16 << 10
for block in r.ordered_blocks(block_records=4096):
    block.buffer.sum()
assert kib('RssFile') - before[1] < 24 << 10
assert kib('RssAnon') - before[0] < 16 << 10
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
