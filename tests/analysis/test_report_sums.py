from __future__ import annotations

import numpy as np
import pytest
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.account import Account
from perfxmm.analysis.instructions import FACTS, Use, Uses, UsesOf, facts_of, use_of
from perfxmm.analysis.report import WIDTHS, ReportBuilder, widest_in_use
from perfxmm.analysis.shown import Policy
from perfxmm.coherence.reasons import REASONS
from perfxmm.program.code import decode


def four_samples() -> np.ndarray:
    """Samples 0, 2 in axpy (NaN and subnormal), 1, 3 in dot (upper halves dirty in sample 3)."""
    vectors = np.zeros((4, 16, 4), np.uint64)
    vectors[:, 0, 0] = f64(1.0)
    vectors[0, 1, :2] = f64(float("nan"), float("-inf"))
    vectors[2, 2, 1] = 1
    vectors[3, 0, 3] = f64(2.0)[0]
    return vectors


def test_counts_by_symbol_are_exact() -> None:
    builder = ReportBuilder(names(), Policy())
    user = register_set("user", four_samples(), verdict={"ymm": "coherent"})
    for _ in range(2):
        builder.add(batch(user))
    report = builder.finish()
    assert report.total == 8
    assert [(r.symbol, r.dso, r.samples, r.period) for r in report.rows] == [
        ("axpy", "/usr/bin/app", 4, 4000), ("dot", "/usr/bin/app", 4, 4000),
    ]  # fmt: skip
    axpy, dot = report.rows
    assert axpy.lanes == {
        "lanes": 256, "nan": 2, "inf": 2, "subnormal": 2, "zero": 246, "negative_zero": 0,
    }  # fmt: skip
    assert (axpy.widest, axpy.widths) == ("xmm", {"xmm": 4})
    assert (dot.widest, dot.widths) == ("ymm", {"xmm": 2, "ymm": 2})
    assert axpy.share == 0.5
    assert 0.2 < axpy.low < 0.5 < axpy.high < 0.8
    assert axpy.verdicts == {"coherent": 4}


@pytest.mark.parametrize(
    ("sort", "keys"),
    [
        ("dso", [("/usr/bin/app", 4)]), ("comm", [("app", 4)]), ("pid", [((7, None), 4)]),
        ("tid", [((7, 7), 2), ((7, 8), 2)]),
        ("ip", [(0x401000, 1), (0x401004, 1), (0x401008, 1), (0x40100C, 1)]),
    ],
)  # fmt: skip
def test_other_keys(sort: str, keys: list[object]) -> None:
    builder = ReportBuilder(names(), Policy(), sort=sort)
    builder.add(batch(register_set("user", four_samples(), verdict={"ymm": "coherent"})))
    rows = builder.finish().rows
    found = [
        ((r.pid, r.tid) if sort in ("pid", "tid") else getattr(r, sort), r.samples) for r in rows
    ]
    assert sorted(found, key=str) == sorted(keys, key=str)


def test_withheld_and_initial_words_are_not_data() -> None:
    torn = register_set("user", four_samples(), verdict={"ymm": "torn"})
    builder = ReportBuilder(names(), Policy(), sort="dso")
    builder.add(batch(torn))
    (row,) = builder.finish().rows
    assert (row.lanes["lanes"], row.widest) == (4 * 16 * 2, "xmm")
    init = register_set(
        "user", four_samples() * np.array([1, 1, 0, 0], np.uint64), xstate_bv=0b011,
        verdict={"ymm": "coherent"}, reason=REASONS["init-state"].mask,
    )
    builder = ReportBuilder(names(), Policy(), sort="dso")
    builder.add(batch(init))
    assert builder.finish().rows[0].lanes["lanes"] == 4 * 16 * 2


def test_samples_without_visible_vectors_are_unseen() -> None:
    hidden = register_set("user", four_samples(), verdict={"xmm": "foreign", "ymm": "foreign"})
    builder = ReportBuilder(names(), Policy(), sort="dso")
    builder.add(batch(hidden))
    (row,) = builder.finish().rows
    assert row.widest is None
    assert row.widths == {"unseen": 4}
    assert row.lanes["lanes"] == 0


def uses(*found: Use | None) -> UsesOf:
    """What the instructions of the samples of a batch use; None: not known."""
    facts = np.array([facts_of(use) for use in found], FACTS)
    return lambda b: Uses(
        np.arange(len(found)), *(facts[name] for name in (
            "known", "element", "scalar", "operands", "results", "words"
        )),
    )  # fmt: skip


def instruction(code: str) -> Use:
    operation = decode(bytes.fromhex(code))
    assert operation is not None
    return use_of(operation)


ADD_YMM = instruction("c5fd58c1")  # vaddpd ymm0,ymm0,ymm1
ADD_XMM_FLOAT = instruction("0f58c1")  # addps xmm0,xmm1
ADD_SCALAR_FLOAT = instruction("f30f58c1")  # addss xmm0,xmm1
LOAD_YMM = instruction("c5fd1007")  # vmovupd ymm0,[rdi]
ADD_ZMM = instruction("62a1fd4058c9")  # vaddpd zmm17,zmm16,zmm17
CONVERT = instruction("c5fc5ac1")  # vcvtps2pd ymm0,xmm1
NO_TYPE = instruction("c5fdefc1")  # vpxor ymm0,ymm0,ymm1
NOTHING = instruction("4801d8")  # add rax,rbx


@pytest.mark.parametrize(
    ("use", "widths", "lanes", "nan", "elements"),
    [
        (ADD_YMM, {"ymm": 1}, 8, 1, {"f64": 1}), (ADD_XMM_FLOAT, {"xmm": 1}, 8, 1, {"f32": 1}),
        (ADD_SCALAR_FLOAT, {"xmm": 1}, 2, 0, {"f32": 1}), (LOAD_YMM, {"ymm": 1}, 0, 0, {}),
        (ADD_ZMM, {"zmm": 1}, 16, 2, {"f64": 1}), (CONVERT, {"ymm": 1}, 4, 1, {"f32": 1}),
        (NO_TYPE, {"ymm": 1}, 0, 0, {"unknown": 1}), (NOTHING, {"none": 1}, 0, 0, {}),
        (None, {"unseen": 1}, 0, 0, {}),
    ],
)  # fmt: skip
def test_what_the_instruction_reads_counts_in_its_own_type(
    use: Use | None, widths: dict[str, int], lanes: int, nan: int, elements: dict[str, int]
) -> None:
    vectors = np.zeros((1, 32, 8), np.uint64)
    vectors[0, 1, 1] = vectors[0, 5] = vectors[0, 16, 7] = vectors[0, 17, 0] = f64(float("nan"))[0]
    registers = register_set(
        "user", vectors, verdict={"ymm": "coherent", "zmm": "coherent"},
        gprs=np.array([[0, 0, 0, 0x401000, 0]]),
    )
    builder = ReportBuilder(names(), Policy(), view="auto", lanes="used", uses_of=uses(use))
    builder.add(batch(registers))
    report = builder.finish()
    (row,) = report.rows
    assert (row.widths, row.lanes["lanes"], row.lanes["nan"]) == (widths, lanes, nan)
    assert (report.elements, report.widths, report.lanes) == (elements, widths, "used")


def test_parts_that_are_withheld_do_not_count_and_others_ips_say_nothing() -> None:
    torn = register_set("user", four_samples(), verdict={"ymm": "torn"})
    torn.gprs[:, 3] = [0x401000, 0x401004, 0x401008, 0x999]
    builder = ReportBuilder(
        names(), Policy(), sort="dso", view="f64", lanes="used", uses_of=uses(*[ADD_YMM] * 4)
    )
    builder.add(batch(torn))
    (row,) = builder.finish().rows
    assert row.widths == {"unseen": 1, "ymm": 3}
    assert (row.lanes["lanes"], row.lanes["nan"], row.lanes["inf"]) == (3 * 2 * 2, 1, 1)


def test_registers_taken_after_the_instruction_show_its_results() -> None:
    vectors = np.full((1, 16, 4), 1, np.uint64)
    for reason, lanes in ((0, 0), (REASONS["after-instruction"].mask, 4)):
        registers = register_set("user", vectors, verdict={"ymm": "coherent"}, reason=reason,
                                 gprs=np.array([[0, 0, 0, 0x401000, 0]]))  # fmt: skip
        builder = ReportBuilder(
            names(), Policy(), view="auto", lanes="used", uses_of=uses(LOAD_YMM)
        )
        builder.add(batch(registers))
        assert builder.finish().rows[0].lanes["subnormal"] == lanes


def test_all_registers_by_instruction_leave_out_what_has_no_type() -> None:
    builder = ReportBuilder(
        names(), Policy(), sort="dso", view="auto",
        uses_of=uses(ADD_XMM_FLOAT, ADD_XMM_FLOAT, NO_TYPE, None),
    )
    builder.add(batch(register_set("user", four_samples(), verdict={"ymm": "coherent"})))
    report = builder.finish()
    assert report.elements == {"f32": 2, "unknown": 2}
    assert report.rows[0].lanes["lanes"] == 2 * 128


def test_each_part_of_every_register_has_its_width() -> None:
    words = np.zeros((5, 32, 8), np.uint64)
    words[1, 31, 1] = words[2, 16, 3] = words[3, 0, 3] = words[4, 20, 4] = 1
    found = widest_in_use(words, np.ones(words.shape, np.bool_))
    assert [WIDTHS[code] for code in found] == ["none", "xmm", "ymm", "ymm", "zmm"]


def test_the_account_tells_hidden_from_withheld() -> None:
    user = register_set("user", four_samples(), verdict={"ymm": "torn", "zmm": "absent"})
    user.verdict[2:, :2] = VERDICT["entry"]
    user.verdict[2:, 2] = VERDICT["foreign"]
    made = batch(user)
    asked = {"user": np.tile([True, True, True, False, False], (4, 1))}
    policy = Policy()
    account = Account()
    account.count(made, asked, policy, np.array([True, True, False, False]))
    assert (account.seen, account.shown) == (4, 2)
    assert dict(account.hidden) == {"entry": 2}
    assert dict(account.withheld) == {"torn": 2}
    assert account.kept["user", "xmm", "coherent", ()] == 2
    assert account.not_kept["user", "ymm", "foreign", ()] == 2
    assert account.as_json() == {
        "seen": 4, "shown": 2, "hidden": {"entry": 2}, "withheld": {"torn": 2}, "lost": 0,
        "throttled": 0,
    }  # fmt: skip
