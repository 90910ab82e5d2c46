from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxmm.analysis.lanes import (
    ELEMENTS,
    KINDS,
    active_lanes,
    classify,
    count_lanes,
    lanes_of,
    to_float,
)  # fmt: skip
from perfxmm.analysis.lanetext import lane_rows, lane_text

# Bits by element: (nan, inf, smallest subnormal, largest subnormal, smallest normal, -0.0).
SPECIAL = {
    "f64": (0x7FF0000000000001, 0x7FF0000000000000, 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000,
            0x8000000000000000),
    "f32": (0x7F800001, 0x7F800000, 1, 0x007FFFFF, 0x00800000, 0x80000000),
    "f16": (0x7C01, 0x7C00, 1, 0x03FF, 0x0400, 0x8000),
    "bf16": (0x7F81, 0x7F80, 1, 0x007F, 0x0080, 0x8000),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_the_edges_of_each_kind(name: str) -> None:
    element = ELEMENTS[name]
    nan, inf, low, high, normal, minus_zero = SPECIAL[name]
    sign = element.sign
    lanes = np.array(
        [nan, nan | sign, inf, inf | sign, low, high, high | sign, normal, 0, minus_zero],
        element.dtype,
    )
    found = classify(lanes, element)
    assert {k: np.flatnonzero(v).tolist() for k, v in found.items()} == {
        "nan": [0, 1], "inf": [2, 3], "subnormal": [4, 5, 6], "zero": [8, 9],
        "negative_zero": [9],
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_doubles_are_classified_as_the_language_does(bits: int) -> None:
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    found = classify(np.array([bits], np.uint64), ELEMENTS["f64"])
    assert bool(found["nan"][0]) == math.isnan(value)
    assert bool(found["inf"][0]) == math.isinf(value)
    assert bool(found["zero"][0]) == (value == 0)
    assert bool(found["subnormal"][0]) == (0 < abs(value) < 2**-1022)


def test_lane_zero_is_the_lowest_part_of_the_first_word() -> None:
    words = np.array([0x4444333322221111, 0x8888777766665555], np.uint64)
    assert [hex(v) for v in lanes_of(words, ELEMENTS["u16"])] == [
        f"0x{d}{d}{d}{d}" for d in range(1, 9)
    ]
    assert lanes_of(words, ELEMENTS["f32"]).tolist()[:2] == [0x22221111, 0x44443333]


def test_counts_leave_out_what_is_not_data() -> None:
    words = np.zeros((2, 2, 2), np.uint64)
    words[0, 0] = [0x7FF8000000000000, 1]
    words[1, 1] = [0x7FF0000000000000, 0x8000000000000000]
    present = np.ones((2, 2, 2), np.bool_)
    present[1, 0] = False
    counts = count_lanes(words, present, ELEMENTS["f64"])
    assert {k: v.tolist() for k, v in counts.items()} == {
        "lanes": [4, 2], "nan": [1, 0], "inf": [0, 1], "subnormal": [1, 0], "zero": [2, 1],
        "negative_zero": [0, 1],
    }  # fmt: skip


def test_integers_have_zeros_only() -> None:
    words = np.array([[[0x7FF8000000000000, 0]]], np.uint64)
    counts = count_lanes(words, np.ones((1, 1, 2), np.bool_), ELEMENTS["i32"])
    assert {k: int(counts[k][0]) for k in ("lanes", *KINDS)} == {
        "lanes": 4, "nan": 0, "inf": 0, "subnormal": 0, "zero": 3, "negative_zero": 0,
    }  # fmt: skip


def test_active_lanes_are_set_bits() -> None:
    assert active_lanes(np.array([0, 0xFF, 2**64 - 1], np.uint64)).tolist() == [0, 8, 64]


@pytest.mark.parametrize(
    ("name", "bits", "text"),
    [
        ("f64", 0x3FF0000000000000, "1.0"), ("f64", 0x8000000000000000, "-0.0"),
        ("f64", 0x7FF8000000000000, "nan(0x8000000000000)"),
        ("f64", 0xFFF0000000000001, "-nan(0x1)"), ("f64", 0xFFF0000000000000, "-inf"),
        ("f64", 1, "5e-324d"), ("f32", 0x3DCCCCCD, "0.1"), ("f32", 0x7FC00000, "nan(0x400000)"),
        ("f32", 0x00000001, "1e-45d"), ("f16", 0x3C00, "1.0"), ("f16", 0x2E66, "0.1"),
        ("f16", 0x0001, "6e-08d"), ("bf16", 0x3F80, "1.0"), ("bf16", 0x3DCD, "0.1"),
        ("bf16", 0x8000, "-0.0"), ("bf16", 0x7FC0, "nan(0x40)"), ("hex", 10, "0x000000000000000a"),
        ("i8", 0xFF, "-1"), ("u8", 0xFF, "255"), ("i64", 2**64 - 1, "-1"),
        ("u64", 2**64 - 1, "18446744073709551615"), ("i16", 0x8000, "-32768"),
        ("i32", 0x7FFFFFFF, "2147483647"), ("u32", 0xFFFFFFFF, "4294967295"),
    ],
)  # fmt: skip
def test_lanes_as_text(name: str, bits: int, text: str) -> None:
    assert lane_text(bits, ELEMENTS[name]) == text


def test_lanes_as_json_values() -> None:
    lanes = np.array([0x3FF0000000000000, 0x7FF0000000000000, 1, 0x7FF8000000000001], np.uint64)
    rows = lane_rows(lanes, ELEMENTS["f64"], json=True)
    assert [bytes(r[r != 0]) for r in rows] == [
        b"1.0", b'"inf"', b"5e-324", b'"nan(0x8000000000001)"',
    ]  # fmt: skip
    rows = lane_rows(lanes[:1], ELEMENTS["u64"], json=True)
    assert bytes(rows[0]) == b'"4607182418800017408"'


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["f64", "f32", "f16", "bf16"]), st.integers(0, 2**64 - 1))
def test_finite_text_reads_back_as_the_same_lane(name: str, bits: int) -> None:
    element = ELEMENTS[name]
    bits &= (1 << element.bits) - 1
    lanes = np.array([bits], element.dtype)
    value = float(to_float(lanes, element)[0])
    text = lane_text(bits, element)
    if math.isfinite(value):
        back = float(text.rstrip("d"))
        if name == "f64":
            assert struct.pack("<d", back) == struct.pack("<Q", bits)
        elif name == "f32":
            assert np.float32(back).view(np.uint32) == bits
        elif name == "f16":
            assert np.float16(back).view(np.uint16) == bits
        else:
            word = int(np.float32(back).view(np.uint32))
            assert (word + 0x7FFF + (word >> 16 & 1)) >> 16 == bits
    else:
        assert "nan(" in text or "inf" in text
