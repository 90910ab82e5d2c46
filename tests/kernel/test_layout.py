"""The layout plan of a sample, against layouts worked out by hand from the UAPI header."""

from __future__ import annotations

import pytest

from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.kernel.layout import FieldKind, bits_of, plan_layout, plan_set
from perfxmm.kernel.registers import GPR_ID, GPR_NAMES

ALL_FIELDS = (
    "read", "callchain", "raw", "branch_stack", "user", "user_stack", "weight", "data_src",
    "transaction", "intr", "phys_addr", "cgroup", "data_page_size", "code_page_size", "aux",
)  # fmt: skip


def test_every_field_in_the_kernels_order() -> None:
    plan = plan_layout(EventAttr(sample_type=(1 << 25) - 1))
    assert plan.fixed == {
        "identifier": 1, "ip": 2, "tid": 3, "time": 4, "addr": 5, "id": 6, "stream_id": 7,
        "cpu": 8, "period": 9,
    }
    assert plan.fixed_words == 10
    assert tuple(step.name for step in plan.following) == ALL_FIELDS
    assert not plan.open_ended
    assert plan_layout(EventAttr(sample_type=1 << 25)).open_ended


def test_leading_fields_close_up() -> None:
    plan = plan_layout(EventAttr(sample_type=int(SampleType.TID | SampleType.CPU)))
    assert plan.fixed == {"tid": 1, "cpu": 2}
    assert plan.fixed_words == 3
    assert plan.id_word is None


@pytest.mark.parametrize(
    ("bits", "word"),
    [(SampleType.IDENTIFIER | SampleType.ID, 1), (SampleType.IP | SampleType.ID, 2),
     (SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.ADDR | SampleType.ID, 5)],
)  # fmt: skip
def test_where_the_events_id_stands(bits: SampleType, word: int) -> None:
    assert plan_layout(EventAttr(sample_type=int(bits))).id_word == word


def test_the_trailer_counts_from_the_end() -> None:
    bits = SampleType.TID | SampleType.TIME | SampleType.CPU | SampleType.IDENTIFIER
    attr = EventAttr(sample_type=int(bits | SampleType.IP), flags=int(AttrFlag.SAMPLE_ID_ALL))
    assert plan_layout(attr).trailer == {"tid": -4, "time": -3, "cpu": -2, "identifier": -1}
    assert plan_layout(EventAttr(sample_type=int(bits))).trailer == {}
    everything = EventAttr(sample_type=(1 << 25) - 1, flags=int(AttrFlag.SAMPLE_ID_ALL))
    assert list(plan_layout(everything).trailer) == [
        "tid", "time", "id", "stream_id", "cpu", "identifier",
    ]


@pytest.mark.parametrize(
    ("read_format", "kind", "words", "entry_words"),
    [(0, FieldKind.WORDS, 1, 1), (3, FieldKind.WORDS, 3, 1), (31 - 8, FieldKind.WORDS, 5, 1),
     (8, FieldKind.COUNTED, 0, 1), (31, FieldKind.COUNTED, 2, 3), (12, FieldKind.COUNTED, 0, 2)],
)  # fmt: skip
def test_read(read_format: int, kind: FieldKind, words: int, entry_words: int) -> None:
    attr = EventAttr(sample_type=int(SampleType.READ), read_format=read_format)
    (step,) = plan_layout(attr).following
    assert (step.kind, step.words) == (kind, words)
    if kind is FieldKind.COUNTED:
        assert step.entry_words == entry_words


def test_legacy_xmm_stands_behind_the_general_registers() -> None:
    attr = EventAttr(sample_type=int(SampleType.REGS_INTR), sample_regs_intr=0xFFFFFFFF00FF0FFF)
    plan = plan_set(attr, "intr")
    assert plan.words == 52
    assert plan.gpr_words == tuple(range(20))
    assert [GPR_NAMES[i] for i in plan.gpr_ids[-2:]] == ["R14", "R15"]
    assert plan.xmm_registers == tuple(range(16))
    assert plan.xmm_words == tuple(range(20, 52, 2))
    assert (plan.registers, plan.qwords, plan.header) == (16, 2, "none")


@pytest.mark.parametrize(
    ("dialect", "ssp_bit", "header"),
    [(dialects.M, 40, "u64"), (dialects.O1, 40, "u64"), (dialects.R2, 41, "u16")],
)
def test_simd_sets(dialect: dialects.Dialect, ssp_bit: int, header: str) -> None:
    attr = EventAttr(
        sample_type=int(SampleType.REGS_USER), sample_regs_user=1 | 1 << 24 | 1 << ssp_bit,
        dialect=dialect,
        simd=SimdRequest(enabled=1, pred_qwords=1, vec_qwords=8, vec_user=0xFFFFFFFF,
                         pred_user=0xFF, vec_intr=1, pred_intr=0),
    )  # fmt: skip
    plan = plan_set(attr, "user")
    assert plan.words == 3
    assert plan.gpr_ids == (GPR_ID["AX"], GPR_ID["R16"], GPR_ID["SSP"])
    assert plan.gpr_mask == attr.gpr_mask("user")
    assert plan.header == header
    assert plan.vec_registers == tuple(range(32))
    assert plan.pred_registers == tuple(range(8))
    assert (plan.registers, plan.qwords) == (32, 8)
    assert plan_set(attr, "user", header="u16").header == "u16"


def test_the_bit_that_is_not_ssp_in_a_dialect_is_counted_but_has_no_name() -> None:
    attr = EventAttr(
        sample_regs_intr=1 | 1 << 40 | 1 << 41, dialect=dialects.R2, simd=SimdRequest(enabled=1)
    )
    plan = plan_set(attr, "intr")
    assert plan.words == 3
    assert plan.gpr_ids == (GPR_ID["AX"], GPR_ID["SSP"])
    assert plan.gpr_words == (0, 2)


def test_a_plan_without_simd_has_no_vectors_whatever_else_the_attr_says() -> None:
    attr = EventAttr(
        sample_regs_intr=1, dialect=dialects.M, simd=SimdRequest(vec_qwords=8, vec_intr=0xFFFF)
    )
    plan = plan_set(attr, "intr")
    assert (plan.simd, plan.header, plan.vec_registers, plan.qwords) == (False, "none", (), 0)


def test_bits_of() -> None:
    assert bits_of(0) == ()
    assert bits_of(1 << 63 | 5) == (0, 2, 63)
