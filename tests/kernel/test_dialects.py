"""Which dialect an attr speaks, and which header stands in its samples."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.attr_bytes import plain_attr, r2_attr

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.dialects import (
    DIALECTS,
    canonical_gpr_mask,
    detect,
    merged_release,
    readings,
)
from perfxmm.kernel.header_kind import SimdHeader, confirm_header, read_header
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, EGPR_MASK, SSP_MASK

# what | bytes | dialect
RECOGNITION = [
    ("first version", plain_attr(64), "L"),
    ("7.3 without SIMD", plain_attr(144), "L"),
    ("size 144 with config4", plain_attr(144, {136: 1}), "L"),
    ("176 bytes, all zero from 136 on", plain_attr(176), "L"),
    ("config4 only", plain_attr(176, {136: 7}), "L"),
    ("stray M fields while not enabled", plain_attr(176, {148: 3}), "L"),
    ("R2: enabled at 136", r2_attr(vec_qwords=4, vec_intr=0xFFFF), "R2"),
    ("R2 of the declared size", r2_attr(vec_qwords=8, vec_intr=0xFFFFFFFF, size=168), "R2"),
    ("R2: opmasks of intr", r2_attr(pred_intr=0xFF), "R2"),
    ("R2: opmasks of both sets, ZMM", r2_attr(pred_intr=255, pred_user=255, vec_qwords=8,
                                              vec_intr=0xFFFFFFFF), "R2"),
    ("R2: opmasks of user only", r2_attr(pred_user=0xFF), "R2"),
    ("O1: XMM", plain_attr(176, {144: 1, 146: 2, 160: 0xFFFF}), "O1"),
    ("O1: YMM", plain_attr(176, {144: 1, 146: 4, 160: 0xFFFF}), "O1"),
    ("O1: ZMM", plain_attr(176, {144: 1, 146: 8, 160: 0xFFFF, 162: 0xFFFF}), "O1"),
    ("O1: opmasks only, intr", plain_attr(176, {144: 1, 152: 0xFF}), "O1"),
    ("O1: opmasks only, user", plain_attr(176, {144: 1, 156: 0xFF}), "O1"),
    ("M: XMM", plain_attr(176, {144: 1, 148: 2, 160: 0xFFFF}), "M"),
    ("M: opmasks", plain_attr(176, {144: 1, 146: 1, 152: 0xFF}), "M"),
    ("M: enabled 2 is enabled", plain_attr(176, {144: 2, 148: 4, 160: 0xFFFF}), "M"),
    ("M: SSP or eGPR alone", plain_attr(176, {144: 1}), "M"),
    ("M: cut at 168", plain_attr(168, {144: 1, 148: 2, 160: 0xFFFF}), "M"),
    ("M: newer and longer", plain_attr(192, {144: 1, 148: 2, 160: 0xFFFF, 184: 9}), "M"),
    ("O2: M's layout, a subset of registers",
     plain_attr(176, {26: 4, 144: 1, 148: 4, 160: 0x3}), "O2"),
    ("O2: a subset of opmasks", plain_attr(176, {26: 4, 144: 1, 146: 1, 148: 2, 152: 3}), "O2"),
    ("M: a subset in a set that is not asked for is not looked at",
     plain_attr(176, {26: 4, 144: 1, 148: 4, 160: 0xFFFF, 168: 3}), "M"),
    ("M: 32 registers at 256 bits pass", plain_attr(
        176, {26: 4, 144: 1, 148: 4, 160: 0xFFFF, 162: 0xFFFF}), "M"),
    ("M: or any of the upper 16", plain_attr(
        176, {26: 4, 144: 1, 148: 4, 160: 0xFFFF, 162: 0x1}), "M"),
    ("M: a mask without a width is not looked at", plain_attr(
        176, {26: 4, 144: 1, 148: 4, 152: 0x3, 160: 0xFFFF}), "M"),
    ("M: at 512 bits 16 registers are a subset", plain_attr(
        176, {26: 4, 144: 1, 148: 8, 160: 0xFFFF}), "O2"),
    ("no dialect has 3 at 146", plain_attr(176, {144: 1, 146: 3}), "L"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "expected"), RECOGNITION)
def test_recognition(what: str, data: bytes, expected: str) -> None:
    found = detect(data)
    assert found.dialect.name == expected
    assert found.evidence


# bytes | every dialect that they can be read in, the likeliest first
READINGS = [
    (plain_attr(176, {144: 1, 148: 2, 160: 0xFFFF}), ["M"]),
    (plain_attr(176, {144: 1, 146: 8, 160: 0xFFFF}), ["O1", "R6"]),
    (plain_attr(176, {144: 1, 152: 0xFF}), ["O1", "M", "R6"]),
    (plain_attr(176, {144: 1}), ["M", "O1", "R6"]),
    (r2_attr(vec_qwords=8, vec_intr=0xFFFFFFFF), ["R2"]),
    # As M: config4 is 1 and user opmasks are enabled; as R2: one opmask of the user set.
    (plain_attr(176, {136: 1, 144: 1, 148: 4, 160: 0xFFFF}), ["M", "R2"]),
    (plain_attr(144, {136: 1}), ["R2"]),
    (plain_attr(176, {144: 1, 146: 3}), []),
    (plain_attr(176), []),
]


@pytest.mark.parametrize(("data", "expected"), READINGS)
def test_readings(data: bytes, expected: list[str]) -> None:
    assert [dialect.name for dialect in readings(data)] == expected


# kernel release | whether it is known to have the merged series
RELEASES = [
    ("7.4.0-rc0", True), ("7.4", True), ("7.10.2-1-amd64", True), ("8.0.0", True),
    ("7.3.4-oracle", False), ("6.18.3-intel", False), ("7.3.0-rc2-next-20260909", True),
    ("7.3.0-rc2-next-20260908", False), ("7.3.0-rc3-tip+", False), ("", False),
]  # fmt: skip


@pytest.mark.parametrize(("release", "expected"), RELEASES)
def test_releases_with_the_merged_series(release: str, expected: bool) -> None:
    assert merged_release(release) is expected


# recording | dialects of its attrs, in order
RECORDED = [
    ("a-xmm-intr", ["M"]), ("f-mixed-modes", ["M"]), ("g-two-events", ["L", "M"]),
    ("i-o1-zmm-opmask-egpr-ssp", ["O1"]), ("j-r2-zmm-opmask-egpr-ssp", ["R2"]),
    ("kernel-perf-record-zmm", ["M"]), ("kernel-zmm-opmask-both-user", ["M"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), RECORDED)
def test_recorded_attrs_are_recognised_and_written_back(
    shared_data: Path, name: str, expected: list[str]
) -> None:
    data = (shared_data / "simd" / f"{name}.data").read_bytes()
    entry, offset, size = struct.unpack_from("<QQQ", data, 16)
    found = []
    for at in range(offset, offset + size, entry):
        raw = data[at : at + entry - 16]
        decoded = attrs.decode(raw)
        assert attrs.encode(decoded) == raw
        found.append(decoded.dialect.name)
    assert found == expected


# dialect | enabled | raw mask | canonical
MASKS = [
    ("L", False, 0xFFFFFFFF00FF0FFF, CLASSIC_GPR_MASK),
    ("M", False, 0xFFFFFFFF00FF0FFF, CLASSIC_GPR_MASK),
    ("M", True, 0x1FFFFFF0FFF, CLASSIC_GPR_MASK | EGPR_MASK | SSP_MASK),
    ("O1", True, 0x10000000000, SSP_MASK),
    ("R2", True, 0x2FFFFFF0FFF, CLASSIC_GPR_MASK | EGPR_MASK | SSP_MASK),
    ("R2", True, 0x10000000000, 0),
]


@pytest.mark.parametrize(("name", "enabled", "raw", "canonical"), MASKS)
def test_canonical_masks(name: str, enabled: bool, raw: int, canonical: int) -> None:
    assert canonical_gpr_mask(DIALECTS[name], enabled, raw) == canonical


def u16_slot(*numbers: int) -> int:
    return sum(number << 16 * index for index, number in enumerate(numbers))


ZMM_WORDS = 32 * 8 + 8
# what | words from the header on | last in the record | kind (None: not decided)
HEADERS = [
    ("M: XMM", [16, 2, 0, 0] + [7] * 32, True, "u64"),
    ("M: YMM", [16, 4, 0, 0] + [7] * 64, True, "u64"),
    ("M: ZMM and opmasks", [32, 8, 8, 1] + [7] * ZMM_WORDS, True, "u64"),
    ("M: something follows", [16, 4, 0, 0] + [7] * 80, False, "u64"),
    ("M: opmasks only", [0, 0, 8, 1] + [7] * 8, True, "u64"),
    ("M: mask without a width counts and holds nothing", [16, 0, 8, 1] + [7] * 8, True, "u64"),
    ("M: width without a mask", [0, 8, 0, 1, 9, 9], False, "u64"),
    ("O1: one u16 is both", [16, 4, 0, 1] + [7] * 64, True, "u64"),
    ("M: SSP alone", [0, 0, 0, 0], True, "u64"),
    ("R2: ZMM and opmasks", [u16_slot(32, 8, 8, 1)] + [7] * ZMM_WORDS, True, "u16"),
    ("R2: YMM cut to XMM", [u16_slot(16, 2, 0, 1)] + [7] * 32, True, "u16"),
    ("R2: opmasks only", [u16_slot(0, 0, 8, 1)] + [7] * 8, True, "u16"),
    ("R2: nothing, last", [0], True, "u16"),
    ("nothing, four zero words follow", [0, 0, 0, 0, 0], False, None),
    ("nothing at all", [], True, None),
    ("cut short", [16, 4, 0, 0] + [7] * 63, True, None),
    ("neither", [99, 3, 0, 0] + [7] * 64, True, None),
    ("R2: too many vectors", [u16_slot(33, 8, 0, 0)] + [7] * 300, False, None),
]


@pytest.mark.parametrize(("what", "words", "last", "kind"), HEADERS)
def test_header_kind(what: str, words: list[int], last: bool, kind: str | None) -> None:
    found = confirm_header(words, last=last)
    assert (found.kind if found else None) == kind


def test_fields_that_follow_take_their_room() -> None:
    words = [16, 4, 0, 0] + [7] * 66
    assert confirm_header(words, following_bytes=16) is not None
    assert confirm_header(words, following_bytes=24) is None


def test_read_header_needs_its_words() -> None:
    assert read_header([1, 2, 3, 4], "u64") == SimdHeader("u64", 1, 2, 3, 4)
    assert read_header([u16_slot(1, 2, 3, 4)], "u16") == SimdHeader("u16", 1, 2, 3, 4)
    with pytest.raises(ValueError, match="3 words hold no u64 header"):
        read_header([1, 2, 3], "u64")
    with pytest.raises(ValueError, match="hold no none header"):
        read_header([1, 2, 3, 4], "none")
