"""perfxmm report: the ranked summary."""

from __future__ import annotations

from typing import Annotated

import typer

from perfxmm.cli import options

EXAMPLES = """
Examples:

  Where snapshots fell, and how many NaN and subnormal doubles were in the registers:
    perfxmm report

  Threads of one process, lanes counted as floats, for a program to read:
    perfxmm report --sort tid --view f32 --pid 1234 --json
"""
_SORT_KEYS = ("symbol", "dso", "comm", "tid", "ip")
_SYNONYMS = {"sym": "symbol", "object": "dso", "thread": "tid", "pid": "tid"}


def report(
    input: options.Input = options.DEFAULT_INPUT,
    sort: Annotated[
        str,
        typer.Option(
            "-s", "--sort", metavar="KEY", help=f"Rank by {', '.join(_SORT_KEYS)}.",
            autocompletion=lambda incomplete: [k for k in _SORT_KEYS if k.startswith(incomplete)],
        ),
    ] = "symbol",
    view: options.View = "f64",
    comm: options.Comm = "",
    pid: options.Pid = "",
    tid: options.Tid = "",
    symbol: options.Symbol = "",
    dso: options.Dso = "",
    time: options.Time = "",
    verdict: options.OnlyVerdict = "",
    keep: options.Keep = "",
    unsafe_foreign: options.UnsafeForeign = False,
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Rank where snapshots fell and what they held."""
    sort = _SYNONYMS.get(sort, sort)
    if sort not in _SORT_KEYS:
        raise options.unknown_word("sort key", sort, _SORT_KEYS)
    options.check_view(view)
    policy = options.policy_of(keep, verdict, unsafe_foreign)
    filters = options.filters_of(
        comm=comm, pid=pid, tid=tid, symbol=symbol, dso=dso, time=time, verdict=verdict
    )
    recording = options.open_input(input)

    from perfxmm.analysis.report import ReportBuilder
    from perfxmm.cli.console import progress, results, say, write_json
    from perfxmm.views.report import elements_line, report_json, report_table

    builder = ReportBuilder(
        recording.names, policy, sort=sort, view=view,
        element_of=options.element_of(recording, view),
    )  # fmt: skip
    with progress("reading snapshots") as advance:
        for batch in recording.judged(policy, filters=filters):
            builder.add(batch)
            advance(builder.total)
    found = builder.finish(limit)
    if as_json:
        account = recording.account.as_json()
        write_json(report_json(found, account, complete=recording.complete))
    elif found.rows:
        results().print(report_table(found))
        say(f"{found.total:,} snapshots, {elements_line(found)}")
    else:
        say("no snapshot to show")
    options.close(recording, policy)
