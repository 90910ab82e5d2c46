"""Records and feature sections, byte for byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxmm.kernel.constants import SampleType
from perfxmm.perfdata import encode, features
from perfxmm.perfdata.encode import SampleId
from perfxmm.perfdata.format import BuildId

SID = SampleId(pid=11, tid=12, time_ns=0x1122334455667788, cpu=3, identifier=0x99)
TRAILER = bytes.fromhex("0b0000000c0000008877665544332211") + bytes.fromhex(
    "03000000000000009900000000000000"
)

GOLDEN = {
    "comm": (
        encode.comm_record(1, 2, "abc", True, SID),
        "0300000000203800" "0100000002000000" "6162630000000000" + TRAILER.hex(),
    ),
    "comm of 8 bytes gets its NUL": (
        encode.comm_record(1, 2, "12345678"),
        "0300000000002000" "0100000002000000" "3132333435363738" "0000000000000000",
    ),
    "fork": (
        encode.fork_record(1, 2, 3, 4, 5),
        "0700000000002000" "0100000002000000" "0300000004000000" "0500000000000000",
    ),
    "exit": (
        encode.exit_record(1, 2, 3, 4, 5),
        "0400000000002000" "0100000002000000" "0300000004000000" "0500000000000000",
    ),
    "lost": (encode.lost_record(7, 9), "0200000000001800" "0700000000000000" "0900000000000000"),
    "lost samples": (encode.lost_samples_record(9), "0d00000000001000" "0900000000000000"),
    "finished round": (encode.finished_round_record(), "4400000000000800"),
    "mmap2 by inode": (
        encode.mmap2_record(1, 2, 0x1000, 0x2000, 0x3000, "/a", maj=8, min=1, ino=5, ino_gen=6),
        "0a00000002005000" "0100000002000000" "0010000000000000" "0020000000000000"
        "0030000000000000" "0800000001000000" "0500000000000000" "0600000000000000"
        "0500000002000000" "2f61000000000000",
    ),
    "mmap2 by build id": (
        encode.mmap2_record(1, 2, 0x1000, 0x2000, 0, "/a", build_id=bytes(range(1, 21))),
        "0a00000002405000" "0100000002000000" "0010000000000000" "0020000000000000"
        "0000000000000000" "14000000" "0102030405060708090a0b0c0d0e0f1011121314"
        "0500000002000000" "2f61000000000000",
    ),
    "mmap2 of data": (
        encode.mmap2_record(1, 1, 0, 0, 0, b"", prot=3),
        "0a00000002205000" + "0100000001000000" + "00" * 24 + "00" * 24
        + "0300000002000000" + "00" * 8,
    ),
    "mmap of the kernel": (
        encode.mmap_record(-1, 0, 0x10, 0x20, 0x10, "k"),
        "0100000001003000" "ffffffff00000000" "1000000000000000" "2000000000000000"
        "1000000000000000" "6b00000000000000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_record(name: str) -> None:
    made, expected = GOLDEN[name]
    assert made.hex() == expected
    assert struct.unpack_from("<H", made, 6)[0] == len(made)


def test_trailer_has_only_the_fields_of_sample_type() -> None:
    everything = SampleId(1, 2, 3, 4, 5, sample_type=int(encode.TRAILER_BITS))
    assert struct.unpack("<IIQQQIIQ", everything.encode()) == (1, 2, 3, 5, 5, 4, 0, 5)
    assert SampleId(1, 2, 3, 4, 5, sample_type=int(SampleType.TIME)).encode() == struct.pack(
        "<Q", 3
    )
    assert SampleId(sample_type=0).encode() == b""


def test_names_keep_their_bytes_and_their_bounds() -> None:
    raw = b"\xff\xfe/x"
    assert raw in encode.comm_record(1, 1, raw.decode("utf-8", "surrogateescape"))
    assert encode.comm_record(1, 1, "a\0b") == encode.comm_record(1, 1, "a")
    assert len(encode.mmap2_record(1, 1, 0, 0, 0, "x" * 100_000)) == 72 + 4096


def test_a_record_too_long_for_its_size_field_is_refused() -> None:
    with pytest.raises(ValueError, match="16-bit"):
        encode.sample_record(bytes(0xFFF8))
    assert len(encode.sample_record(bytes(0xFFF0))) == 0xFFF8


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=90)


@settings(max_examples=50)
@given(st.lists(TEXT, max_size=5))
def test_strings_come_back(texts: list[str]) -> None:
    assert features.decode_strings(features.encode_strings(texts)) == texts


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXT, st.binary(min_size=1, max_size=20), st.booleans()), max_size=5))
def test_build_ids_come_back(rows: list[tuple[str, bytes, bool]]) -> None:
    entries = [BuildId(path, build_id, -1, kernel) for path, build_id, kernel in rows]
    assert features.decode_build_ids(features.encode_build_ids(entries)) == entries


@settings(max_examples=50)
@given(st.lists(st.tuples(
    st.binary(min_size=64, max_size=64), TEXT, st.lists(st.integers(0, 2**64 - 1)).map(tuple)
), max_size=4))  # fmt: skip
def test_event_desc_comes_back(events: list[tuple[bytes, str, tuple[int, ...]]]) -> None:
    assert features.decode_event_desc(features.encode_event_desc(events)) == events


def test_nrcpus_order() -> None:
    # perf writes "available" first: write_nrcpus in tools/perf/util/header.c, Linux 7.3.
    assert features.encode_nrcpus(online=3, available=8) == struct.pack("<II", 8, 3)
    assert features.decode_nrcpus(struct.pack("<II", 8, 3)) == (3, 8)
