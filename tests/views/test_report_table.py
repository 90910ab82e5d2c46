from __future__ import annotations

import io
import json
from collections import Counter
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from rich.console import Console
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.account import Account
from perfxmm.analysis.filters import Filters
from perfxmm.analysis.report import Report, ReportBuilder, ReportRow
from perfxmm.analysis.shown import Policy
from perfxmm.views.account import closing_line
from perfxmm.views.report import (
    elements_line,
    report_json,
    report_table,
    shortened,
    verdicts_line,
)  # fmt: skip


def report(sort: str = "symbol", **tables: object) -> Report:
    vectors = np.zeros((5, 16, 4), np.uint64)
    vectors[:, 0, 0] = f64(1.0)[0]
    vectors[0, 1, :2] = f64(float("nan"), float("-inf"))
    vectors[3, 0, 3] = 1
    user = register_set("user", vectors, verdict={"ymm": "coherent"})
    user.verdict[4, :3] = VERDICT["late"]
    builder = ReportBuilder(names(**tables), Policy(), sort=sort)
    builder.add(batch(user))
    return builder.finish()


def drawn(found: Report, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False, emoji=False).print(
        report_table(found, width)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_200_columns() -> None:
    assert drawn(report(), 200) == (
        "  Share       95 % Samples Symbol     Widest    NaN Inf Subn Zero Verdicts\n"
        "60.00 % 23.1..88.2       3 axpy (app) xmm 100 %   1   1    0  187 "
        "coherent 2, late 1\n"
        "40.00 % 11.8..76.9       2 dot (app)  ymm 50 %    0   0    1  125 coherent"
    )


LONG = "a_function_with_a_name_that_goes_on_and_on"


def test_80_columns_hold_one_line_a_row() -> None:
    dsos = ["/usr/lib/libscipy_openblas64_-32a4b2a6.so"]
    assert drawn(report(symbols=[LONG, "dot"], dsos=dsos), 80) == (
        " Share   95 % Samples Symbol               Widest    NaN Inf Subn Zero Verdicts\n"
        "60.0 % 23..88       3 a_functio..on_and_on xmm 100 %   1   1    0  187 coherent+\n"
        "40.0 % 12..77       2 dot (libsci..2a6.so) ymm 50 %    0   0    1  125 coherent"
    )


@pytest.mark.parametrize("sort", ["symbol", "dso", "comm", "pid", "tid", "ip"])
@pytest.mark.parametrize("width", [80, 100, 132])
def test_every_row_is_one_line(sort: str, width: int) -> None:
    found = report(sort, symbols=[LONG, LONG], dsos=["/opt/" + LONG + ".so.6"], comms=[LONG])
    lines = drawn(found, width).splitlines()
    assert len(lines) == 1 + len(found.rows)
    assert max(map(len, lines)) <= width


def test_without_a_width_names_stay_whole() -> None:
    found = report(symbols=[LONG, "dot"])
    out = io.StringIO()
    Console(file=out, width=4096).print(report_table(found))
    assert f" {LONG} (app) " in out.getvalue()


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("short", 5, "short"), ("0123456789", 8, "012..789"), ("0123456789", 7, "012..89"),
     ("関数関数関数", 8, "関..数"), ("0123456789", 3, "0..")],
)  # fmt: skip
def test_names_lose_their_middle(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown


def test_hostile_names_in_the_table() -> None:
    text = drawn(report(symbols=["\x1b[31m[bold]x[/bold]", "dot\n"]), 200)
    assert "\x1b" not in text
    assert "\\x1b[31m[bold]x[/bold] (app)" in text
    assert "dot\\x0a" in text


def test_other_sort_keys_have_their_own_column() -> None:
    assert "7/7 app" in drawn(report("tid"), 200)
    assert " 5 7 app " in drawn(report("pid"), 200)
    assert "0x401000 axpy+0x0 (app)" in drawn(report("ip"), 200)
    assert "/usr/bin/app" in drawn(report("dso"), 200)
    assert "Command" in drawn(report("comm"), 200)


def test_json_follows_its_schema() -> None:
    path = files("perfxmm.exports").joinpath("schema/perfxmm.report.1.json")
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text()))
    for sort in ("symbol", "dso", "comm", "pid", "tid", "ip"):
        made = report_json(report(sort, symbols=["x\udcff", "y"]), Account().as_json(),
                           complete=True)  # fmt: skip
        validator.validate(json.loads(json.dumps(made, allow_nan=False)))
    assert made["total"] == 5


def test_which_lanes_were_counted_is_told() -> None:
    assert elements_line(report()) == "lanes of all registers, counted as f64"
    auto = Report("symbol", "auto", 4, [], {"f32": 2, "f64": 1, "unknown": 1})
    assert elements_line(auto) == (
        "lanes of all registers, counted by each instruction's element type (f32 2, f64 1); not "
        "counted: 1 at instructions of no one element type"
    )
    used = Report("symbol", "auto", 1010, [], {"f64": 3, "unknown": 1}, "used",
                  {"unseen": 1, "none": 1004, "ymm": 5})  # fmt: skip
    assert elements_line(used) == (
        "lanes of the registers each instruction reads, counted by its own element type (f64 3); "
        "not counted: 1 at instructions of no one element type, 1 at instructions that only write "
        "vector registers, 1,004 at instructions without vector registers, 1 without a known "
        "instruction or vector registers to show"
    )
    fixed = Report("symbol", "f32", 3, [], {"f32": 3}, "used", {"ymm": 3})
    assert elements_line(fixed) == "lanes of the registers each instruction reads, counted as f32"
    nothing = Report("symbol", "auto", 3, [], {}, "used", {"unseen": 3})
    assert elements_line(nothing) == (
        "no lanes counted: no known instruction, or no vector registers to show (--lanes all "
        "counts every register)"
    )


def test_a_verdict_that_all_rows_share_is_told_once() -> None:
    assert verdicts_line(report()) == ""
    one = Report("symbol", "f64", 1, [ReportRow(verdicts={"late": 1})])
    assert verdicts_line(one) == "all late"


def test_the_closing_line() -> None:
    account = Account(seen=5000, shown=3797, hidden=Counter(entry=900, foreign=303))
    assert closing_line(account, Policy()) == (
        "1,203 of 5,000 snapshots hidden (900 entry, 303 foreign); --keep entry,foreign shows "
        "them, their foreign values only with --unsafe-foreign"
    )
    kept = Account(seen=10, shown=10, withheld=Counter(foreign=5))
    assert closing_line(kept, Policy.of(["all"])) == (
        "register classes withheld in shown snapshots: 5 foreign; the foreign values need "
        "--unsafe-foreign"
    )
    assert closing_line(Account(seen=3, shown=3), Policy()) == ""
    assert closing_line(Account(seen=3, shown=3, lost=7, throttled=2), Policy()) == (
        "7 records lost while recording; sampling throttled 2 times"
    )


def test_foreign_values_are_never_promised_by_keep() -> None:
    only = Account(seen=10, shown=7, hidden=Counter(foreign=3))
    assert closing_line(only, Policy()) == (
        "3 of 10 snapshots hidden (3 foreign); --keep foreign --unsafe-foreign shows them and "
        "their values"
    )
    asked = Account(seen=10, shown=3, hidden=Counter(coherent=7), withheld=Counter(foreign=9))
    foreign = Filters(verdicts=frozenset(["foreign"]))
    assert closing_line(asked, Policy.of(["foreign"]), foreign) == (
        "7 of 10 snapshots have other verdicts (7 coherent); register classes withheld in shown "
        "snapshots: 9 foreign; the foreign values need --unsafe-foreign"
    )
    other = Account(seen=10, shown=0, hidden=Counter(coherent=7, foreign=3))
    assert closing_line(other, Policy.of(["late"]), Filters(verdicts=frozenset(["late"]))) == (
        "10 of 10 snapshots have other verdicts (3 foreign, 7 coherent)"
    )


def test_why_there_is_nothing_to_show() -> None:
    assert closing_line(Account(), Policy()) == "the recording holds no samples"
    assert closing_line(Account(read=7), Policy()) == "no snapshot matches the filters"


def test_redacted_values_are_counted() -> None:
    account = Account(seen=3000, shown=3000, redacted=1200)
    assert closing_line(account, Policy()) == (
        "values of 1,200 of 3,000 snapshots removed (--redact)"
    )
    assert account.as_json()["redacted"] == 1200
