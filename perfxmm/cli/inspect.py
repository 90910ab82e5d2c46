"""perfxmm inspect: a recording seen from outside."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Annotated

import typer

from perfxmm.cli import options
from perfxmm.errors import UsageError

EXAMPLES = """
Examples:

  Where a file comes from, what was recorded, how many records of each kind, what is wrong with it:
    perfxmm inspect perf.data

  The places of the records of one kind, and all the counts for a program to read:
    perfxmm inspect --records perf.data | grep MMAP2
    perfxmm inspect --json perf.data | jq .records
"""
_LINES_AT_ONCE = 2048


def inspect(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Recording to read, - for a pipe.", show_default=False),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("-i", "--input", metavar="FILE", help="The same, as other verbs name it."),
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="A line for each record, in the file's order.")
    ] = False,
    dialect: options.Dialect = "",
    as_json: options.AsJson = False,
) -> None:
    """Say what a recording consists of, without reading its samples' contents.

    Header, events with every field of their attributes and the SIMD dialect with the evidence for
    it, records by type, time span, threads, CPUs, losses, build ids, features, what is unknown and
    what is damaged, by byte offset. Samples are counted; only those in the first 16 MiB (with
    --records: all) are decoded to see whether they are sound. Exits with 5 where damage was found.
    """
    if file is not None and input is not None and file != input:
        raise UsageError("two recordings are named", where=f"{file} and -i {input}")
    if records and as_json:
        raise UsageError("--records prints lines and goes without --json")
    path = file or input or options.DEFAULT_INPUT
    spoken = options.dialect_of(dialect)
    options.check_input(path)

    from perfxmm.cli.console import progress, say, write_json
    from perfxmm.inspector import Inspector, first_damage
    from perfxmm.views.escape import escape_control
    from perfxmm.views.inspect import text

    inspector = Inspector(path, dialect=spoken)
    if records:
        lines = inspector.lines()
        while some := list(islice(lines, _LINES_AT_ONCE)):
            sys.stdout.write("".join(f"{escape_control(line)}\n" for line in some))
    else:
        with progress("counting records", inspector.total_bytes) as advance:
            inspector.run(advance)
    found = inspector.result()
    if as_json:
        write_json(found.to_dict())
    elif not records:
        sys.stdout.writelines(f"{line}\n" for line in text(found))
    sys.stdout.flush()
    damage = first_damage(found)
    if damage is not None:
        raise damage
    if not found.complete:
        say(f"{path}: the recorder did not finish; its complete records were looked at")
