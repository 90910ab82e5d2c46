"""The ranked summary as a table."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from perfxmm.analysis.lanes import KINDS
from perfxmm.analysis.report import UNTYPED, Report, ReportRow
from perfxmm.analysis.statistics import COUNTED_AS
from perfxmm.views.escape import escape_control

_UNKNOWN = "[unknown]"
_KEY_TITLES = {
    "symbol": "Symbol", "dso": "Object", "comm": "Command", "pid": "Process", "tid": "Thread",
    "ip": "Address", "srcline": "Line",
}  # fmt: skip
_KINDS = {"NaN": "nan", "Inf": "inf", "Subn": "subnormal", "Zero": "zero"}
# Names are cut to no less than this; on consoles too narrow even for that they are folded.
_LEAST_NAME = 12
_LEAST_OBJECT = 8
_CUT = ".."


def report_table(report: Report, width: int | None = None) -> Table:
    """One row per rank: share with its 95 % interval, width in use, lanes by kind, verdicts.

    width: columns to keep to, with one line a row: numbers lose places and names their middle
    where they must. None, and any width that holds everything, leaves all in full.
    """
    full = _rows(report, narrow=False)
    if width is None or _width(report, full) <= width:
        return _table(report, full)
    rows = _rows(report, narrow=True)
    # Verdicts that are all alike are the first to go: the line below the table tells them.
    if len({row[-1] for row in rows}) == 1:
        for cells in rows:
            cells[-1] = ""
    room = width - _width(report, [[*row[:3], "", *row[4:]] for row in rows]) + _title_width(report)
    for cells, row in zip(rows, report.rows, strict=True):
        cells[3] = _fitted(report.sort, row, max(room, _LEAST_NAME))
    return _table(report, rows)


def _title_width(report: Report) -> int:
    return len(_KEY_TITLES[report.sort])


def _titles(report: Report) -> list[str]:
    return ["Share", "95 %", "Samples", _KEY_TITLES[report.sort], "Widest", *_KINDS, "Verdicts"]


def _width(report: Report, rows: list[list[str]]) -> int:
    columns = zip(*_shown(_titles(report), rows), strict=True)
    return sum(max(map(cell_len, column)) + 1 for column in columns) - 1


def _shown(titles: list[str], rows: list[list[str]]) -> list[list[str]]:
    """Titles and rows; without the last column where no row has anything in it."""
    if rows and not any(row[-1] for row in rows):
        return [titles[:-1], *(row[:-1] for row in rows)]
    return [titles, *rows]


def _table(report: Report, rows: list[list[str]]) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold",
    )  # fmt: skip
    titles, *cells = _shown(_titles(report), rows)
    for number, title in enumerate(titles):
        name = title == _KEY_TITLES[report.sort]
        table.add_column(
            title, justify="right" if number < 3 or title in _KINDS else "left",
            no_wrap=not name, overflow="fold",
        )  # fmt: skip
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def elements_line(report: Report) -> str:
    """Which registers' lanes were counted in which element type, and how many samples were not."""
    if report.recorded:
        return _recorded_line(report)
    if report.lanes == "used" and report.total == report.widths.get("unseen"):
        return (
            "no lanes counted: no known instruction, or no vector registers to show (--lanes all "
            "counts every register)"
        )
    by_instruction = report.view == "auto"
    untyped = report.elements.get(UNTYPED, 0)
    counted = {name: n for name, n in sorted(report.elements.items()) if name != UNTYPED}
    left_out = {"at instructions of no one element type": untyped}
    if report.lanes == "all":
        line = "lanes of all registers, "
    else:
        line = "lanes of the registers each instruction reads, "
        idle, unseen = report.widths.get("none", 0), report.widths.get("unseen", 0)
        rest = report.total - sum(counted.values()) - untyped - idle - unseen
        left_out |= {
            "at instructions that only write vector registers": rest,
            "at instructions without vector registers": idle,
            "without a known instruction or vector registers to show": unseen,
        }
    if by_instruction:
        whose = "its own" if report.lanes == "used" else "each instruction's"
        line += f"counted by {whose} element type"
        line += f" ({', '.join(f'{name} {count:,}' for name, count in counted.items()) or 'none'})"
    else:
        line += f"counted as {report.view}"
    told = ", ".join(f"{count:,} {where}" for where, count in left_out.items() if count)
    return f"{line}; not counted: {told}" if told else line


def _recorded_line(report: Report) -> str:
    """The recorder saw the registers, but not which of them an instruction uses."""
    if report.view not in COUNTED_AS:
        views = ", ".join(f"--view {name}" for name in COUNTED_AS)
        return f"lanes not counted as {report.view} when this was recorded ({views})"
    line = (
        f"statistics of all delivered registers, counted as {report.view} when this was recorded"
    )
    missing = report.total - report.elements.get(report.view, 0)
    return f"{line}; not counted: {missing:,}" if missing else line


def verdicts_line(report: Report) -> str:
    """The verdict of all rows where they have one in common, else ""."""
    verdicts = {name for row in report.rows for name in row.verdicts}
    return f"all {verdicts.pop()}" if len(verdicts) == 1 else ""


def report_json(report: Report, account: dict[str, object], *, complete: bool) -> dict[str, object]:
    """The report as schema perfxmm.report/1."""
    return {
        "schema": "perfxmm.report/1", "sort": report.sort, "view": report.view,
        "lanes": report.lanes, "total": report.total, "widths": report.widths,
        "elements": report.elements, "complete": complete,
        "rows": [_row_json(report.sort, row) for row in report.rows], "account": account,
    }  # fmt: skip


def _row_json(sort: str, row: ReportRow) -> dict[str, object]:
    place: dict[str, object] = {}
    if sort == "srcline":
        place = {"file": _plain(row.file or ""), "line": row.line or None}
    return {
        **place,
        "symbol": _plain(row.symbol), "symbol_offset": row.symbol_offset, "dso": _plain(row.dso),
        "comm": _plain(row.comm), "pid": row.pid, "tid": row.tid,
        "ip": None if row.ip is None else f"{row.ip:#x}", "samples": row.samples,
        "period": row.period, "share": row.share, "share_low": row.low, "share_high": row.high,
        "widest": row.widest, "widths": row.widths, "verdicts": row.verdicts,
        "lanes": {kind: row.lanes.get(kind) for kind in ("lanes", *KINDS)},
    }  # fmt: skip


def _plain(name: str) -> str | None:
    """Undecodable bytes of a file name (PEP 383) as backslash escapes; None where not known."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") or None


def _rows(report: Report, *, narrow: bool) -> list[list[str]]:
    return [_cells(report, row, narrow) for row in report.rows]


def _cells(report: Report, row: ReportRow, narrow: bool) -> list[str]:
    """The text of every column; narrow: with fewer digits and words."""
    places = 0 if narrow else 1
    cells = [
        f"{100 * row.share:.{places + 1}f} %",
        f"{100 * row.low:.{places}f}..{100 * row.high:.{places}f}",
        f"{row.samples:,}", _key(report.sort, row), _widest(row),
    ]  # fmt: skip
    cells += [_short(row.lanes[kind], 999 if narrow else 9_999) for kind in _KINDS.values()]
    if len(row.verdicts) == 1:
        cells.append(next(iter(row.verdicts)))
    elif narrow:
        # The most frequent one, and that there are others.
        cells.append(f"{max(row.verdicts, key=lambda name: row.verdicts[name])}+")
    else:
        cells.append(", ".join(f"{name} {count:,}" for name, count in row.verdicts.items()))
    return cells


def _short(count: int, most: int) -> str:
    """A count in as many digits as `most` has and a unit; --json has it exactly."""
    for unit in ("", "k", "M", "G"):
        if count <= most:
            return f"{count}{unit}"
        count //= 1000
    return f"{count}T"


def _key(sort: str, row: ReportRow) -> str:
    where, owner = _key_parts(sort, row)
    return f"{where} ({owner})" if owner else where


def _key_parts(sort: str, row: ReportRow) -> tuple[str, str]:
    """What a row is about, and the object it is in where that goes with it."""
    if sort in ("pid", "tid"):
        number = f"{row.pid}" if sort == "pid" else f"{row.pid}/{row.tid}"
        return f"{number} {escape_control(row.comm)}".rstrip(), ""
    if sort in ("comm", "dso"):
        return escape_control(getattr(row, sort)) or _UNKNOWN, ""
    if sort == "srcline" and row.file is not None:
        where = escape_control(f"{row.file.rsplit('/', 1)[-1]}:{row.line or '?'}")
    else:
        where = escape_control(row.symbol) or _UNKNOWN
    if sort == "ip":
        offset = f"+{row.symbol_offset:#x}" if row.symbol_offset is not None else ""
        where = f"{row.ip:#x} {where}{offset}"
    return where, escape_control(row.dso.rsplit("/", 1)[-1]) or _UNKNOWN


def _fitted(sort: str, row: ReportRow, room: int) -> str:
    """`_key` in `room` columns: the object's name is shortened first, and left out where little
    of it would be left; then the rest."""
    where, owner = _key_parts(sort, row)
    if sort == "dso" and cell_len(where) > room:
        where = where.rsplit("/", 1)[-1]
    left = room - cell_len(where) - len(" ()")
    if owner and cell_len(owner) > left >= _LEAST_OBJECT:
        owner = shortened(owner, left)
    if owner and cell_len(owner) <= left:
        return f"{where} ({owner})"
    return shortened(where, room)


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns (3 or more): what does not fit is cut from its middle."""
    if cell_len(text) <= width:
        return text
    room = width - len(_CUT)
    tail = room // 2
    back = set_cell_size(text[::-1], tail)[::-1].lstrip()
    return set_cell_size(text, room - tail).rstrip() + _CUT + back


def _widest(row: ReportRow) -> str:
    """The widest class, and in how many of the samples that tell it was in use."""
    if row.widest is None:
        return "-"
    if row.widest == "none":
        return "none"
    seen = row.samples - row.widths.get("unseen", 0)
    share = 100 * row.widths[row.widest] / seen
    # "100 %" is said only of all of them, "0 %" of none.
    told = "100" if row.widths[row.widest] == seen else f"{min(max(share, 1.0), 99.0):.0f}"
    return f"{row.widest} {told} %"
