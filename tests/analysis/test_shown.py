from __future__ import annotations

import numpy as np
import pytest
from support.fake_batches import VERDICT, batch, register_set

from perfxmm.analysis.shapes import shapes_of
from perfxmm.analysis.shown import (
    Policy,
    attributed_ip,
    best_verdict,
    initial,
    limited,
    present_words,
    primary_set,
    withhold,
)  # fmt: skip
from perfxmm.coherence.reasons import REASONS
from perfxmm.coherence.verdicts import Verdict

ONES = np.full((2, 16, 4), 2**64 - 1, np.uint64)


def test_foreign_needs_more_than_keep() -> None:
    codes = np.array(sorted(Verdict), np.uint8)
    labels = [Verdict(int(c)).label for c in codes]

    def seen(policy: Policy) -> list[str]:
        return [name for name, v in zip(labels, policy.visible(codes), strict=True) if v]

    assert seen(Policy()) == ["coherent", "late"]
    assert seen(Policy.of(["all"])) == ["unknown", "coherent", "late", "entry", "torn"]
    assert seen(Policy.of(["foreign"])) == []
    assert seen(Policy.of(["foreign"], unsafe_foreign=True)) == ["foreign"]
    assert Policy.of(["all"]).kept(codes).all()


def test_a_verdict_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no such verdict: good"):
        Policy.of(["good"])


def test_values_that_are_not_shown_become_zero_word_by_word() -> None:
    torn = register_set(
        "user", ONES.copy(), gprs=np.full((2, 5), 7), verdict={"ymm": "torn", "gpr": "foreign"}
    )
    withhold(torn, Policy())
    assert not torn.gprs.any()
    assert (torn.vectors[:, :, :2] == 2**64 - 1).all()
    assert not torn.vectors[:, :, 2:].any()
    # What was delivered stays told.
    assert torn.delivered_qwords.tolist() == [4, 4]
    assert torn.vector_mask.tolist() == [0xFFFF, 0xFFFF]


def test_high_registers_belong_to_zmm() -> None:
    wide = register_set(
        "user", np.full((1, 32, 8), 1, np.uint64), verdict={"ymm": "coherent", "zmm": "foreign"}
    )
    classes = Policy().visible(wide.verdict)
    present = present_words(wide, classes)
    assert present[0, :16, :4].all()
    assert not present[0, :16, 4:].any()
    assert not present[0, 16:].any()


def test_initial_state_is_known_only_by_xstate_bv() -> None:
    reason = REASONS["init-state"].mask
    told = register_set("user", ONES, verdict={"ymm": "coherent"}, reason=reason, xstate_bv=0b011)
    assert initial(told).tolist() == [[False, False, True, False, False]] * 2
    silent = register_set("user", ONES, verdict={"ymm": "coherent"}, reason=reason)
    assert not initial(silent).any()


def test_late_snapshots_count_for_their_own_ip() -> None:
    gprs = np.zeros((2, 5))
    gprs[:, 3] = 0x500000
    late = batch(register_set("user", ONES, gprs=gprs, verdict={"gpr": "late", "xmm": "late"}))
    assert attributed_ip(late).tolist() == [0x500000, 0x500000]
    coherent = batch(register_set("user", ONES, gprs=gprs))
    assert attributed_ip(coherent).tolist() == coherent.ip.tolist()


def test_the_most_useful_verdict_among_what_was_asked_for() -> None:
    codes = np.array([[VERDICT["foreign"], VERDICT["entry"], 6, 6, 6]], np.uint8)
    everything = np.ones((1, 5), np.bool_)
    gpr_only = np.array([[True, False, False, False, False]])
    assert best_verdict([codes], [everything]).tolist() == [Verdict.ENTRY]
    assert best_verdict([codes], [gpr_only]).tolist() == [Verdict.FOREIGN]


def test_no_register_is_counted_in_two_sets() -> None:
    both = batch(
        register_set("intr", ONES),
        register_set("user", ONES, verdict={"gpr": "entry", "xmm": "entry"}),
    )
    names, chosen = primary_set(both, Policy())
    assert [names[i] for i in chosen] == ["intr", "intr"]
    names, chosen = primary_set(both, Policy.of(["all"]))
    assert [names[i] for i in chosen] == ["user", "user"]


def test_shapes_divide_the_rows() -> None:
    mixed = register_set("user", np.ones((4, 16, 4), np.uint64), verdict={"ymm": "coherent"})
    mixed.verdict[1::2, 2] = VERDICT["torn"]
    shapes = shapes_of(batch(mixed), Policy())
    assert sorted(row for shape in shapes for row in shape.rows) == [0, 1, 2, 3]
    words = {tuple(shape.rows): shape.sets["user"].words for shape in shapes}
    assert words == {(0, 2): (True,) * 4, (1, 3): (True, True, False, False)}


def test_a_limit_cuts_inside_a_batch() -> None:
    batches = [batch(register_set("user", ONES)) for _ in range(3)]
    assert [len(b) for b in limited(iter(batches), 3)] == [2, 1]
    assert [len(b) for b in limited(iter(batches), None)] == [2, 2, 2]
    assert list(limited(iter(batches), 0)) == []
