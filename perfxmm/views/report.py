"""The ranked summary as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from perfxmm.analysis.report import Report, ReportRow
from perfxmm.views.escape import escape_control

_UNKNOWN = "[unknown]"
_KEY_TITLES = {
    "symbol": "Symbol", "dso": "Object", "comm": "Command", "tid": "Thread",
    "ip": "Address",
}  # fmt: skip


def report_table(report: Report) -> Table:
    """One row per rank: share with its 95 % interval, width in use, lanes by kind, verdicts."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold",
    )  # fmt: skip
    table.add_column("Share", justify="right", no_wrap=True)
    table.add_column("95 %", justify="right", no_wrap=True)
    table.add_column("Samples", justify="right", no_wrap=True)
    table.add_column(_KEY_TITLES[report.sort], overflow="fold", min_width=12)
    table.add_column("Widest", no_wrap=True)
    for title in ("NaN", "Inf", "Subn", "Zero"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Verdicts", overflow="fold", min_width=8)
    for row in report.rows:
        table.add_row(*_cells(report, row))
    return table


def elements_line(report: Report) -> str:
    """Which element type lanes were counted in; with "auto", for how many samples each."""
    if report.view != "auto":
        return f"lanes counted as {report.view}"
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(report.elements.items()))
    return f"lanes counted by instruction, f64 where it does not say: {told} samples"


def report_json(report: Report, account: dict[str, object], *, complete: bool) -> dict[str, object]:
    """The report as schema perfxmm.report/1."""
    return {
        "schema": "perfxmm.report/1", "sort": report.sort, "view": report.view,
        "total": report.total, "elements": report.elements, "complete": complete,
        "rows": [_row_json(row) for row in report.rows], "account": account,
    }  # fmt: skip


def _row_json(row: ReportRow) -> dict[str, object]:
    return {
        "symbol": _plain(row.symbol), "symbol_offset": row.symbol_offset, "dso": _plain(row.dso),
        "comm": _plain(row.comm), "pid": row.pid, "tid": row.tid,
        "ip": None if row.ip is None else f"{row.ip:#x}", "samples": row.samples,
        "period": row.period, "share": row.share, "share_low": row.low, "share_high": row.high,
        "widest": row.widest, "widths": row.widths, "lanes": row.lanes, "verdicts": row.verdicts,
    }  # fmt: skip


def _plain(name: str) -> str | None:
    """Undecodable bytes of a file name (PEP 383) as backslash escapes; None where not known."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") or None


def _cells(report: Report, row: ReportRow) -> list[Text | str]:
    interval = f"{100 * row.low:.1f}..{100 * row.high:.1f}"
    cells: list[Text | str] = [f"{100 * row.share:.2f} %", interval, f"{row.samples:,}"]
    cells.append(Text(_key(report.sort, row)))
    cells.append(_widest(row))
    cells += [_short(row.lanes[kind]) for kind in ("nan", "inf", "subnormal", "zero")]
    if len(row.verdicts) == 1:
        cells.append(next(iter(row.verdicts)))
    else:
        cells.append(", ".join(f"{name} {count:,}" for name, count in row.verdicts.items()))
    return cells


def _short(count: int) -> str:
    """A count in five characters at most; --json has it exactly."""
    for unit in ("", "k", "M", "G"):
        if count < 10_000:
            return f"{count}{unit}"
        count //= 1000
    return f"{count}T"


def _key(sort: str, row: ReportRow) -> str:
    if sort == "tid":
        return f"{row.pid}/{row.tid} {escape_control(row.comm)}".rstrip()
    if sort in ("comm", "dso"):
        return escape_control(getattr(row, sort)) or _UNKNOWN
    where = escape_control(row.symbol) or _UNKNOWN
    if sort == "ip":
        offset = f"+{row.symbol_offset:#x}" if row.symbol_offset is not None else ""
        where = f"{row.ip:#x} {where}{offset}"
    return f"{where} ({escape_control(row.dso.rsplit('/', 1)[-1]) or _UNKNOWN})"


def _widest(row: ReportRow) -> str:
    """The widest class, and in how many of the samples that show vectors it was in use."""
    if row.widest is None:
        return "-"
    if row.widest == "none":
        return "none"
    seen = row.samples - row.widths.get("unseen", 0)
    share = 100 * row.widths[row.widest] / seen
    # "100 %" is said only of all of them.
    told = "100" if row.widths[row.widest] == seen else f"{min(share, 99.0):.0f}"
    return f"{row.widest} {told} %"
