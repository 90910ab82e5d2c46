"""perfxmm export: snapshots as data."""

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from perfxmm.cli import complete, options
from perfxmm.cli.inturn import write_all
from perfxmm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfxmm.analysis.shown import Policy
    from perfxmm.exports.redaction import Redaction
    from perfxmm.recording import Recording
    from perfxmm.snapshots.batch import SnapshotBatch

EXAMPLES = """
Examples:

  One JSON object a snapshot, with lanes decoded as doubles beside the raw words:
    perfxmm export --view f64 -o snapshots.jsonl

  Columns for pandas or DuckDB, without the values of cryptographic code:
    perfxmm export --format parquet --redact crypto -o snapshots.parquet
"""
_FORMATS = ("jsonl", "csv", "parquet")
_REDACTIONS = ("values", "crypto")


def export(
    input: options.Input = options.DEFAULT_INPUT,
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help="File to write, - for stdout."),
    ] = "-",
    format: Annotated[
        str,
        typer.Option(
            "-f", "--format", metavar="FORMAT",
            help=f"{', '.join(_FORMATS)} (default: by the output's name, else jsonl).",
            autocompletion=complete.choice(*_FORMATS),
        ),
    ] = "",
    view: Annotated[
        str,
        typer.Option(
            "--view", metavar="TYPE", help="jsonl: add decoded lanes of this type to the words."
        ),
    ] = "",
    redact: Annotated[
        str,
        typer.Option(
            "--redact", metavar="values|crypto",
            help="Leave out all values, or those of samples in cryptographic code.",
            autocompletion=complete.choice(*_REDACTIONS),
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
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
) -> None:
    """Write snapshots as JSON lines, CSV or Parquet."""
    chosen = _format(format, output)
    if view:
        options.check_view(view)
        if chosen != "jsonl":
            raise UsageError(f"--view goes with jsonl, not with {chosen}")
    if redact and redact not in _REDACTIONS:
        raise options.unknown_word("redaction", redact, _REDACTIONS)
    if chosen == "parquet" and output == "-" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", next_step="Name a file with -o.")
    policy = options.policy_of(keep, verdict, unsafe_foreign)
    filters = options.filters_of(
        comm=comm, pid=pid, tid=tid, symbol=symbol, dso=dso, time=time, verdict=verdict
    )
    recording = options.open_input(input, symfs, dialect, code_checks=code_checks)

    from perfxmm.analysis.shown import limited
    from perfxmm.exports.redaction import Redaction

    redaction = Redaction(
        redact, recording.instructions.crypto if redact == "crypto" else None,
        recorded=recording.values_redacted,
    )  # fmt: skip
    judged = recording.judged(policy, filters=filters, ordered=not unordered)
    batches = redaction.noted(limited(judged, limit), policy)
    # Of a few samples, a second process would make text in vain.
    alone = limit is not None
    _write(chosen, output, force, recording, batches, policy, redaction, view, alone=alone)
    recording.account.redacted = redaction.removed
    options.close(recording, policy, filters)


def _write(
    chosen: str, output: str, force: bool, recording: Recording,
    batches: Iterator[SnapshotBatch], policy: Policy, redaction: Redaction, view: str,
    *, alone: bool,
) -> None:
    from perfxmm.exports.output import open_output

    names = recording.names
    with open_output(output, force=force) as file:
        if chosen == "parquet":
            from perfxmm.exports.arrow import write_parquet

            write_parquet(file, batches, names, policy, redaction)
        elif chosen == "csv":
            from perfxmm.exports.csvfile import CsvLines

            csv = CsvLines(names, policy, redaction)
            for batch in batches:
                file.write(csv.header(batch))
                write_all(chain([batch], batches), csv.lines, file, alone=alone)
        else:
            from perfxmm.exports.jsonl import JsonLines

            element_of = options.element_of(recording, view)
            json = JsonLines(names, policy, view, element_of, redaction)
            write_all(batches, json.lines, file, alone=alone)


def _format(asked: str, output: str) -> str:
    if not asked:
        ending = output.rpartition(".")[2].lower()
        return ending if ending in _FORMATS else "jsonl"
    if asked not in _FORMATS:
        raise options.unknown_word("format", asked, _FORMATS)
    return asked
