from __future__ import annotations

import io
import json
from collections import Counter
from importlib.resources import files

import jsonschema
import numpy as np
from rich.console import Console
from support.fake_batches import VERDICT, batch, f64, names, register_set

from perfxmm.analysis.account import Account
from perfxmm.analysis.report import Report, ReportBuilder
from perfxmm.analysis.shown import Policy
from perfxmm.views.account import closing_line
from perfxmm.views.report import elements_line, report_json, report_table


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
        report_table(found)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_200_columns() -> None:
    assert drawn(report(), 200) == (
        "  Share       95 % Samples Symbol       Widest    NaN Inf Subn Zero Verdicts\n"
        "60.00 % 23.1..88.2       3 axpy (app)   xmm 100 %   1   1    0  187 "
        "coherent 2, late 1\n"
        "40.00 % 11.8..76.9       2 dot (app)    ymm 50 %    0   0    1  125 coherent"
    )


def test_80_columns_cut_nothing() -> None:
    found = report(symbols=["a_function_with_a_name_that_goes_on_and_on", "dot"])
    text = drawn(found, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    # Folded, not cut: every character of the name is there, and every number on one line.
    column = text.splitlines()[0].index("Symbol")
    width = text.splitlines()[0].index("Widest") - column
    name = "".join(line[column : column + width].strip() for line in text.splitlines()[1:])
    assert name.startswith("a_function_with_a_name_that_goes_on_and_on (app)")
    assert "60.00 % 23.1..88.2       3 " in text
    assert "xmm 100 %   1   1    0  187" in text


def test_hostile_names_in_the_table() -> None:
    text = drawn(report(symbols=["\x1b[31m[bold]x[/bold]", "dot\n"]), 200)
    assert "\x1b" not in text
    assert "\\x1b[31m[bold]x[/bold] (app)" in text
    assert "dot\\x0a" in text


def test_other_sort_keys_have_their_own_column() -> None:
    assert "7/7 app" in drawn(report("tid"), 200)
    assert "0x401000 axpy+0x0 (app)" in drawn(report("ip"), 200)
    assert "/usr/bin/app" in drawn(report("dso"), 200)
    assert "Command" in drawn(report("comm"), 200)


def test_json_follows_its_schema() -> None:
    path = files("perfxmm.exports").joinpath("schema/perfxmm.report.1.json")
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text()))
    for sort in ("symbol", "dso", "comm", "tid", "ip"):
        made = report_json(report(sort, symbols=["x\udcff", "y"]), Account().as_json(),
                           complete=True)  # fmt: skip
        validator.validate(json.loads(json.dumps(made, allow_nan=False)))
    assert made["total"] == 5


def test_which_element_type_was_counted_is_told() -> None:
    assert elements_line(report()) == "lanes counted as f64"
    auto = Report("symbol", "auto", 3, [], {"f32": 2, "f64": 1})
    assert elements_line(auto) == (
        "lanes counted by instruction, f64 where it does not say: f32 2, f64 1 samples"
    )


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
