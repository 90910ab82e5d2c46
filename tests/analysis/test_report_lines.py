"""The ranked summary by source line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from support.fake_batches import batch, f64, names, register_set

import perfxmm
from perfxmm.analysis.report import Report, ReportBuilder
from perfxmm.analysis.shown import Policy
from perfxmm.analysis.sourcelines import Found, Frame
from perfxmm.views.report import report_json, report_table

A3, A12 = Frame("inner", "/src/a.h", 3), Frame("outer", "/src/a.c", 12)
FRAMES = [(A3, A12), (A12,), (), (Frame("o", "/other/a.h", 3),), (Frame("x", "/src/a.c", 0),)]
# Per sample: which of FRAMES. Sample i is of symbol i % 2.
WHERE = [0, 0, 1, 0, 2, 2, 2, 3, 4, 1, 0]


def report(limit: int | None = None) -> Report:
    builder = ReportBuilder(
        names(dsos=["/usr/bin/app", "/lib/b.so"]), Policy(), sort="srcline",
        lines_of=lambda made: Found(np.array(WHERE[:len(made)], np.intp), FRAMES),
    )  # fmt: skip
    n = len(WHERE)
    made = batch(register_set("user", np.zeros((n, 1, 2), np.uint64) + f64(1.0)))
    made.dso[10] = 1
    builder.add(made)
    first = batch(register_set("user", np.zeros((3, 1, 2), np.uint64) + f64(1.0)))
    builder.add(first)
    return builder.finish(limit)


def test_samples_are_added_up_by_file_and_line() -> None:
    rows = [(r.file, r.line, r.symbol, r.dso, r.samples) for r in report().rows]
    app = "/usr/bin/app"
    assert [row[4] for row in rows] == [5, 3, 2, 1, 1, 1, 1]
    assert {(row[0], row[1], row[2], row[3]): row[4] for row in rows} == {
        ("/src/a.h", 3, "", app): 5, ("/src/a.c", 12, "", app): 3,
        # Without a line: by symbol.
        (None, None, "axpy", app): 2, (None, None, "dot", app): 1,
        ("/src/a.h", 3, "", "/lib/b.so"): 1, ("/other/a.h", 3, "", app): 1,
        ("/src/a.c", 0, "", app): 1,
    }  # fmt: skip
    assert sum(row[4] for row in rows) == report().total == len(WHERE) + 3


def test_the_table_has_the_last_part_of_the_file() -> None:
    table = report_table(report())
    (column,) = (c for c in table.columns if c.header == "Line")
    cells = [str(cell) for cell in column.cells]
    assert cells[:3] == ["a.h:3 (app)", "a.c:12 (app)", "axpy (app)"]
    assert sorted(cells[3:]) == ["a.c:? (app)", "a.h:3 (app)", "a.h:3 (b.so)", "dot (app)"]


def test_json_has_the_whole_path() -> None:
    account = {"seen": 1, "shown": 1, "hidden": {}, "withheld": {}, "lost": 0, "throttled": 0}
    found = report_json(report(), account, complete=True)
    schema = Path(perfxmm.__file__).parent / "exports/schema/perfxmm.report.1.json"
    jsonschema.validate(found, json.loads(schema.read_text()))
    rows = found["rows"]
    assert [(r["file"], r["line"], r["symbol"]) for r in rows[:3]] == [
        ("/src/a.h", 3, None), ("/src/a.c", 12, None), (None, None, "axpy"),
    ]  # fmt: skip
    assert ("/src/a.c", None) in [(r["file"], r["line"]) for r in rows]


def test_other_reports_have_no_lines() -> None:
    builder = ReportBuilder(names(), Policy())
    builder.add(batch(register_set("user", np.zeros((1, 1, 2), np.uint64))))
    (row,) = report_json(builder.finish(), {}, complete=True)["rows"]
    assert "file" not in row
    assert "line" not in row


def test_lines_have_to_come_from_somewhere() -> None:
    with pytest.raises(ValueError, match="lines_of"):
        ReportBuilder(names(), Policy(), sort="srcline")


def test_a_limit_counts_rows() -> None:
    assert [(r.file, r.samples) for r in report(1).rows] == [("/src/a.h", 5)]
    assert report(1).total == len(WHERE) + 3
