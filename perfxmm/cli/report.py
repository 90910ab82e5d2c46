"""perfxmm report: the ranked summary."""

from __future__ import annotations

from typing import Annotated

import typer

from perfxmm.cli import complete, options

EXAMPLES = """
Examples:

  Where snapshots fell, the width of the vector instructions there, and the NaN and subnormal
  numbers in the registers they read:
    perfxmm report

  The source lines of one function that its snapshots fell on:
    perfxmm report --sort srcline -S axpy

  Threads of one process, all their registers counted as floats, for a program to read:
    perfxmm report --sort tid --lanes all --view f32 --pid 1234 --json
"""
_SORT_KEYS = ("symbol", "dso", "comm", "pid", "tid", "ip", "srcline")
_LANES = ("used", "all")
_SYNONYMS = {
    "sym": "symbol", "object": "dso", "process": "pid", "thread": "tid", "line": "srcline",
}  # fmt: skip


def report(
    input: options.Input = options.DEFAULT_INPUT,
    sort: Annotated[
        str,
        typer.Option(
            "-s", "--sort", metavar="KEY", help=f"Rank by {', '.join(_SORT_KEYS)}.",
            autocompletion=complete.choice(*_SORT_KEYS),
        ),
    ] = "symbol",
    view: Annotated[
        str,
        typer.Option(
            "--view", metavar="TYPE", autocompletion=options.complete_view,
            help=f"Count lanes as {', '.join(options.VIEW_NAMES)} (auto: by the type that the "
            "instruction works on). Default: auto, with --lanes all f64.",
        ),
    ] = "",
    lanes: Annotated[
        str,
        typer.Option(
            "--lanes", metavar="used|all",
            help="What width and lanes are of: the instruction at the registers' IP and the "
            "registers it reads, or all registers that were recorded, which may hold what earlier "
            "code left there.",
            autocompletion=complete.choice(*_LANES),
        ),
    ] = "used",
    comm: options.Comm = "",
    pid: options.Pid = "",
    tid: options.Tid = "",
    symbol: options.Symbol = "",
    dso: options.Dso = "",
    time: options.Time = "",
    verdict: options.OnlyVerdict = "",
    keep: options.Keep = "",
    unsafe_foreign: options.UnsafeForeign = False,
    unordered: options.Unordered = False,
    symfs: options.Symfs = "",
    dialect: options.Dialect = "",
    code_checks: options.CodeChecks = True,
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Rank where snapshots fell and what they held."""
    sort = _SYNONYMS.get(sort, sort)
    if sort not in _SORT_KEYS:
        raise options.unknown_word("sort key", sort, _SORT_KEYS)
    if lanes not in _LANES:
        raise options.unknown_word("choice of lanes", lanes, _LANES)
    view = options.check_view(view or ("auto" if lanes == "used" else "f64"))
    policy = options.policy_of(keep, verdict, unsafe_foreign)
    filters = options.filters_of(
        comm=comm, pid=pid, tid=tid, symbol=symbol, dso=dso, time=time, verdict=verdict
    )
    recording = options.open_input(input, symfs, dialect, code_checks=code_checks)

    from perfxmm.analysis.report import ReportBuilder
    from perfxmm.cli.console import progress, results, say, write_json
    from perfxmm.views.account import account_lines
    from perfxmm.views.report import elements_line, report_json, report_table, verdicts_line

    builder = ReportBuilder(
        recording.names, policy, sort=sort, view=view, lanes=lanes,
        uses_of=recording.instructions.uses if view == "auto" or lanes == "used" else None,
        lines_of=recording.source_lines.of if sort == "srcline" else None,
    )  # fmt: skip
    with progress("reading snapshots") as advance:
        for batch in recording.judged(policy, filters=filters, ordered=not unordered):
            builder.add(batch)
            advance(builder.total)
    found = builder.finish(limit)
    if as_json:
        account = recording.account.as_json()
        write_json(report_json(found, account, complete=recording.complete))
    elif found.rows:
        console = results()
        console.print(report_table(found, console.width))
        verdicts = verdicts_line(found)
        say(f"{found.total:,} snapshots{verdicts and ', '}{verdicts}; {elements_line(found)}")
    if not as_json:
        for line in account_lines(recording.account):
            say(line)
    options.close(recording, policy, filters)
