"""perf_event_attr as bytes: golden tables, round trips, short and long attrs."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attr_bytes import r2_attr

from perfxmm.errors import DamagedInput
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import O1, O2, R2, L, M, SimdRequest
from perfxmm.kernel.header_kind import SimdHeader
from perfxmm.kernel.registers import EGPR_MASK, SSP_MASK

# request | SIMD fields | bytes 144..175 of dialect M | expected block sizes (intr, user)
GOLDEN = [
    ("XMM, intr only", SimdRequest(1, 0, 2, vec_intr=0xFFFF),
     "0100000002000000 0000000000000000 ffff000000000000 0000000000000000", (288, 0)),
    ("YMM, intr and user", SimdRequest(1, 0, 4, vec_intr=0xFFFF, vec_user=0xFFFF),
     "0100000004000000 0000000000000000 ffff000000000000 ffff000000000000", (544, 544)),
    ("ZMM + OPMASK, intr only", SimdRequest(1, 1, 8, pred_intr=0xFF, vec_intr=0xFFFFFFFF),
     "0100010008000000 ff00000000000000 ffffffff00000000 0000000000000000", (2144, 0)),
    ("OPMASK, user only", SimdRequest(1, 1, 0, pred_user=0xFF),
     "0100010000000000 00000000ff000000 0000000000000000 0000000000000000", (0, 96)),
    ("SSP only", SimdRequest(1),
     "0100000000000000 0000000000000000 0000000000000000 0000000000000000", (32, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "simd", "expected", "_sizes"), GOLDEN)
def test_golden_bytes_of_dialect_m(
    name: str, simd: SimdRequest, expected: str, _sizes: tuple[int, int]
) -> None:
    encoded = attrs.encode(EventAttr(dialect=M, simd=simd))
    assert len(encoded) == 176
    assert struct.unpack_from("<I", encoded, 4) == (176,)
    assert encoded[144:] == bytes.fromhex(expected)
    decoded = attrs.decode(encoded)
    assert (decoded.dialect, decoded.simd) == (M, simd)


@pytest.mark.parametrize(("name", "simd", "_bytes", "sizes"), GOLDEN)
def test_expected_simd_block_sizes(
    name: str, simd: SimdRequest, _bytes: str, sizes: tuple[int, int]
) -> None:
    per_set = (
        SimdHeader("u64", simd.vec_intr.bit_count(), simd.vec_qwords,
                   simd.pred_intr.bit_count(), simd.pred_qwords),
        SimdHeader("u64", simd.vec_user.bit_count(), simd.vec_qwords,
                   simd.pred_user.bit_count(), simd.pred_qwords),
    )  # fmt: skip
    for header, expected in zip(per_set, sizes, strict=True):
        if expected:
            assert header.block_bytes == expected


def test_base_fields_lie_where_the_header_says() -> None:
    attr = EventAttr(
        type=4, config=0x11, sample_period=3, sample_type=0x40007, read_format=4,
        flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL, precise_ip=2, wakeup_events=5,
        bp_type=6, config1=7, config2=8, branch_sample_type=9, sample_regs_user=10,
        sample_stack_user=11, clockid=-1, sample_regs_intr=12, aux_watermark=13,
        sample_max_stack=14, aux_sample_size=15, aux_action=16, sig_data=17, config3=18,
        config4=19,
    )  # fmt: skip
    b = attrs.encode(attr)
    assert len(b) == 144
    expected = bytearray(144)
    struct.pack_into("<IIQQQQ", expected, 0, 4, 144, 0x11, 3, 0x40007, 4)
    struct.pack_into("<QII", expected, 40, 1 | 1 << 5 | 2 << 15, 5, 6)
    struct.pack_into("<QQQQ", expected, 56, 7, 8, 9, 10)
    struct.pack_into("<IiQIHH", expected, 88, 11, -1, 12, 13, 14, 0)
    struct.pack_into("<IIQQQ", expected, 112, 15, 16, 17, 18, 19)
    assert b == bytes(expected)


SIZES = [
    (EventAttr(), 64),
    (EventAttr(config2=1), 72),
    (EventAttr(branch_sample_type=1), 80),
    (EventAttr(sample_type=SampleType.REGS_USER), 96),
    (EventAttr(sample_type=SampleType.REGS_INTR), 104),
    (EventAttr(sample_regs_intr=1), 104),
    (EventAttr(sample_max_stack=1), 112),
    (EventAttr(aux_sample_size=1), 120),
    (EventAttr(sig_data=1), 128),
    (EventAttr(config3=1), 136),
    (EventAttr(config4=1), 144),
    (EventAttr(dialect=M, simd=SimdRequest(1)), 176),
    (EventAttr(dialect=O1, simd=SimdRequest(1, 1)), 176),
    (EventAttr(dialect=R2, simd=SimdRequest(1, 1)), 168),
    (EventAttr(dialect=M), 64),
]


@pytest.mark.parametrize(("attr", "size"), SIZES)
def test_smallest_size_that_holds_the_request(attr: EventAttr, size: int) -> None:
    assert attrs.smallest_size(attr) == size
    assert len(attrs.encode(attr)) == size


def test_a_size_too_small_for_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attr.size 64 is too small"):
        attrs.encode(EventAttr(size=64, sample_regs_intr=1))
    with pytest.raises(ValueError, match=r"attr.size 144 is too small"):
        attrs.encode(EventAttr(size=144, dialect=M, simd=SimdRequest(1)))
    with pytest.raises(ValueError, match=r"attr.size 180 is too small for 8 bytes of tail"):
        attrs.encode(EventAttr(size=180, dialect=M, simd=SimdRequest(1), tail=b"12345678"))


def test_tail_of_a_larger_attr_is_kept() -> None:
    long = attrs.encode(EventAttr(dialect=M, simd=SimdRequest(1, 0, 2, vec_user=0xFFFF)))
    long = long + bytes(range(1, 17))
    long = long[:4] + struct.pack("<I", 192) + long[8:]
    decoded = attrs.decode(long)
    assert decoded.tail == bytes(range(1, 17))
    assert attrs.encode(decoded) == long
    assert len(attrs.encode(EventAttr(dialect=M, tail=b"12345678"))) == 184


def test_bytes_beyond_attr_size_are_not_the_attr() -> None:
    encoded = attrs.encode(EventAttr(config=5))
    assert attrs.decode(encoded + b"\xff" * 40) == attrs.decode(encoded)


def test_size_zero_means_the_first_version() -> None:
    data = bytearray(attrs.encode(EventAttr(config=5)))
    data[4:8] = bytes(4)
    assert attrs.decode(bytes(data)).size == 64


@pytest.mark.parametrize("length", range(64))
def test_shorter_than_any_attr(length: int) -> None:
    with pytest.raises(DamagedInput, match="cut short") as caught:
        attrs.decode(bytes(length), file="f", offset=104)
    assert (caught.value.wanted_bytes, caught.value.available_bytes) == (64, length)
    assert caught.value.offset == 104


def test_truncation_at_every_byte_is_one_error() -> None:
    whole = attrs.encode(
        EventAttr(dialect=M, simd=SimdRequest(1, 1, 8, 0xFF, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF))
    )
    for length in range(len(whole)):
        with pytest.raises(DamagedInput):
            attrs.decode(whole[:length])


def test_impossible_size() -> None:
    data = bytearray(64)
    struct.pack_into("<I", data, 4, 63)
    with pytest.raises(DamagedInput, match="impossible size") as caught:
        attrs.decode(bytes(data), offset=16)
    assert caught.value.offset == 20


def test_masks_mean_other_registers_by_dialect() -> None:
    simd = SimdRequest(1, 1)
    merged = EventAttr(dialect=M, simd=simd, sample_regs_intr=0x18001010003)
    assert merged.gpr_mask("intr") == 0x18001010003  # AX BX R8 R16 R31 SSP
    posting = EventAttr(dialect=R2, simd=simd, sample_regs_user=1 << 41)
    assert posting.gpr_mask("user") == SSP_MASK
    legacy = EventAttr(sample_regs_intr=0xFFFFFFFF00FF0FFF, sample_regs_user=3 << 34)
    assert (legacy.gpr_mask("intr"), legacy.legacy_xmm_mask("intr")) == (0xFF0FFF, 0xFFFFFFFF)
    assert (legacy.gpr_mask("user"), legacy.legacy_xmm_mask("user")) == (0, 0b1100)
    assert merged.legacy_xmm_mask("intr") == 0
    assert EventAttr(dialect=M, simd=simd, sample_regs_user=EGPR_MASK).gpr_mask("user") == EGPR_MASK


U16, U32, U64 = (st.integers(0, (1 << n) - 1) for n in (16, 32, 64))
BASE = {
    "type": U32, "config": U64, "sample_period": U64, "sample_type": U64, "read_format": U64,
    "wakeup_events": U32, "bp_type": U32, "config1": U64, "config2": U64,
    "branch_sample_type": U64, "sample_regs_user": U64, "sample_stack_user": U32,
    "clockid": st.integers(-(1 << 31), (1 << 31) - 1), "sample_regs_intr": U64,
    "aux_watermark": U32, "sample_max_stack": U16, "aux_sample_size": U32, "aux_action": U32,
    "sig_data": U64, "config3": U64, "precise_ip": st.integers(0, 3),
    "flags": U64.map(lambda word: word & ~(3 << 15)),
}  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.fixed_dictionaries(BASE), U64)
def test_round_trip_of_dialect_l(values: dict[str, int], config4: int) -> None:
    attr = EventAttr(**values, config4=config4, size=144)
    decoded = attrs.decode(attrs.encode(attr))
    assert decoded == attr
    smallest = EventAttr(**values, config4=config4)
    encoded = attrs.encode(smallest)
    again = attrs.decode(encoded)
    assert attrs.encode(again) == encoded
    assert again == EventAttr(**values, config4=config4, size=len(encoded))


@settings(max_examples=80, deadline=None)
@given(
    st.fixed_dictionaries(BASE), st.integers(0, 1), st.sampled_from((0, 2, 4, 8)),
    st.sampled_from((0, 0xFF)), st.sampled_from((0, 0xFF)), U64, U64, st.binary(max_size=16),
)  # fmt: skip
def test_round_trip_of_dialect_m(
    values: dict[str, int], pq: int, vq: int, pi: int, pu: int, vi: int, vu: int, tail: bytes
) -> None:
    # A predicate mask without any width is what O1 writes for opmasks alone: not M's to ask for.
    pi, pu = (pi, pu) if pq or vq else (0, 0)
    simd = SimdRequest(1, pq, vq, pi, pu, vi, vu)
    attr = EventAttr(**values, size=176 + len(tail), dialect=M, simd=simd, tail=tail)
    encoded = attrs.encode(attr)
    decoded = attrs.decode(encoded)
    # Masks that are not a whole class are the overlay's, which has the same layout.
    assert decoded.dialect in (M, O2)
    assert replace(decoded, dialect=M) == attr
    assert attrs.encode(decoded) == encoded


@settings(max_examples=80, deadline=None)
@given(st.fixed_dictionaries(BASE), st.sampled_from((0, 2, 4, 8)), U32, U32, U64, U64)
def test_round_trip_of_dialect_o1(
    values: dict[str, int], vq: int, pi: int, pu: int, vi: int, vu: int
) -> None:
    simd = SimdRequest(1, 1, vq, pi, pu, vi, vu)
    attr = EventAttr(**values, size=176, dialect=O1, simd=simd)
    assert attrs.decode(attrs.encode(attr), dialect=O1) == attr
    if vq or pi or pu:
        assert attrs.decode(attrs.encode(attr)) == attr


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from((0, 0xFF, 3)), st.sampled_from((0, 0xFF)), st.sampled_from((0, 2, 4, 8)),
    st.sampled_from((0xFFFF, 0xFFFFFFFF, 0x3)), U64, st.sampled_from((168, 176)),
)  # fmt: skip
def test_r2_is_read(pi: int, pu: int, vq: int, vi: int, vu: int, size: int) -> None:
    data = r2_attr(
        pred_intr=pi, pred_user=pu, vec_qwords=vq, vec_intr=vi, vec_user=vu, size=size
    )  # fmt: skip
    decoded = attrs.decode(data)
    assert decoded.dialect is R2
    assert decoded.simd == SimdRequest(1, 1, vq, pi, pu, vi, vu)
    assert decoded.config4 == 0
    assert attrs.encode(decoded) == data


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=64, max_size=200))
def test_any_bytes_decode_or_are_damaged(data: bytes) -> None:
    try:
        decoded = attrs.decode(data)
    except DamagedInput:
        return
    assert decoded.dialect in (L, R2, O1, O2, M)
