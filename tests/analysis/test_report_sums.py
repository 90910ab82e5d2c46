from __future__ import annotations

import numpy as np
import pytest
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.account import Account
from perfxmm.analysis.report import ReportBuilder
from perfxmm.analysis.shown import Policy
from perfxmm.coherence.reasons import REASONS


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
        ("dso", [("/usr/bin/app", 4)]), ("comm", [("app", 4)]), ("tid", [((7, 7), 2), ((7, 8), 2)]),
        ("ip", [(0x401000, 1), (0x401004, 1), (0x401008, 1), (0x40100C, 1)]),
    ],
)  # fmt: skip
def test_other_keys(sort: str, keys: list[object]) -> None:
    builder = ReportBuilder(names(), Policy(), sort=sort)
    builder.add(batch(register_set("user", four_samples(), verdict={"ymm": "coherent"})))
    rows = builder.finish().rows
    found = [
        ({"dso": r.dso, "comm": r.comm, "tid": (r.pid, r.tid), "ip": r.ip}[sort], r.samples)
        for r in rows
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


def test_auto_takes_the_instructions_word_and_f64_without_it() -> None:
    builder = ReportBuilder(
        names(), Policy(), sort="dso", view="auto",
        element_of=lambda b: np.array([2, 2, -1, -1]),  # f32, f32, not known
    )
    builder.add(batch(register_set("user", four_samples(), verdict={"ymm": "coherent"})))
    report = builder.finish()
    assert report.elements == {"f32": 2, "f64": 2}
    assert report.rows[0].lanes["lanes"] == 2 * 128 + 2 * 64


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
    }  # fmt: skip
