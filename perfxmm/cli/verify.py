"""perfxmm verify: do the registers agree with the code they were sampled at?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from perfxmm.cli import options
from perfxmm.errors import UsageError

EXAMPLES = """
Examples:

  How often registers contradict the code before their IP, by class, event and symbol, and the
  worst places disassembled:
    perfxmm verify perf.data

  The share of contradicted snapshots, with its 95 % interval, for a program to read:
    perfxmm verify --json perf.data | jq .total
"""
_SYMBOLS = 10


def verify(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Recording to read, - for a pipe.", show_default=False),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("-i", "--input", metavar="FILE", help="The same, as other verbs name it."),
    ] = None,
    comm: options.Comm = "",
    pid: options.Pid = "",
    tid: options.Tid = "",
    symbol: options.Symbol = "",
    dso: options.Dso = "",
    time: options.Time = "",
    unordered: options.Unordered = False,
    symfs: options.Symfs = "",
    dialect: options.Dialect = "",
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", min=0, help="Worst places to show.")
    ] = 3,
    limit: Annotated[
        int,
        typer.Option("--limit", "--max-count", metavar="N", min=0, help="At most N symbols."),
    ] = _SYMBOLS,
    as_json: options.AsJson = False,
) -> None:
    """Count how often registers contradict the code they were sampled at.

    The instructions just before the IP leave known values in registers (zeros, constants, copies,
    cleared upper parts), where nothing can have jumped between them and the IP. Each snapshot that
    is believed without that is proved by them, contradicted, or the code is silent about it. Code
    is read only from files that are proved to be the ones that ran. Exits with 5 where the
    recording is damaged.
    """
    if file is not None and input is not None and file != input:
        raise UsageError("two recordings are named", where=f"{file} and -i {input}")
    policy = options.policy_of("all", "", False)
    filters = options.filters_of(
        comm=comm, pid=pid, tid=tid, symbol=symbol, dso=dso, time=time
    )
    recording = options.open_input(file or input or options.DEFAULT_INPUT, symfs, dialect)

    from perfxmm.analysis.verification import Verifier
    from perfxmm.cli.console import progress, say, write_json
    from perfxmm.views.verification import (
        silence_lines,
        summary_line,
        verification_json,
        verification_text,
    )

    verifier = Verifier(
        recording.names, lambda: recording.witness, recording.code_unproved, examples
    )
    with progress("reading snapshots") as advance:
        for batch in recording.judged(policy, filters=filters, ordered=not unordered):
            verifier.add(batch)
            advance(verifier.samples)
    found = verifier.finish(limit)
    if as_json:
        write_json(verification_json(found, complete=recording.complete))
    else:
        sys.stdout.writelines(f"{line}\n" for line in verification_text(found))
        sys.stdout.flush()
        say(summary_line(found))
        for line in silence_lines(found):
            say(line)
    options.close(recording, policy, filters)
