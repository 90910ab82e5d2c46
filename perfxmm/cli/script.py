"""perfxmm script: each snapshot as text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from perfxmm.cli import options
from perfxmm.cli.inturn import write_all
from perfxmm.errors import UsageError

if TYPE_CHECKING:
    from perfxmm.exports.jsonl import JsonLines
    from perfxmm.views.lanes import Selection
    from perfxmm.views.script import ScriptText

EXAMPLES = """
Examples:

  Each snapshot with its vector registers as doubles, of one function:
    perfxmm script --view f64 -S axpy

  The values that the instructions of a function worked on, in their own type:
    perfxmm script -S axpy --limit 3 --view auto --regs used

  One line a snapshot, as perf script prints it:
    perfxmm script -F ip,sym,uregs --regs xmm

  Callers of each snapshot with their source lines and what was inlined into them:
    perfxmm script -F ip,sym,chain,srcline,inline
"""
_FIELDS = (
    "comm", "pid", "tid", "cpu", "time", "event", "period", "ip", "sym", "symoff", "dso",
    "build_id", "verdict", "reason", "insn", "iregs", "uregs", "regs", "vec", "chain",
    "srcline", "inline",
)  # fmt: skip
_DEFAULT_FIELDS = "comm,pid,tid,cpu,time,event,ip,sym,symoff,dso,verdict,vec"
_USED = "used"
_SYNONYMS = {
    "callchain": "chain", "disasm": "insn", "verdicts": "verdict", "reasons": "reason",
    "buildid": "build_id",
}  # fmt: skip


def _complete_fields(incomplete: str) -> list[str]:
    done, _, last = incomplete.rpartition(",")
    return [f"{done},{f}" if done else f for f in _FIELDS if f.startswith(last)]


def script(
    input: options.Input = options.DEFAULT_INPUT,
    fields: Annotated[
        str,
        typer.Option(
            "-F", "--fields", metavar="FIELD,...", autocompletion=_complete_fields,
            help=f"What to print: {', '.join(_FIELDS)}. iregs and uregs stand in the line, regs "
            "(general) and vec (vectors and opmasks) below it; insn is the instruction at the IP, "
            "srcline its source line, inline the functions that were inlined there.",
        ),
    ] = _DEFAULT_FIELDS,
    view: options.View = "hex",
    regs: Annotated[
        str,
        typer.Option(
            "--regs", metavar="REG,...|used",
            help="Registers to print: xmm0, ymm, k1, opmask, gpr, ax. used: only those that the "
            "instruction at the IP reads or writes, which is printed too (general registers with "
            "-F regs, uregs or iregs).",
        ),
    ] = "",
    msb_first: Annotated[
        bool, typer.Option("--msb-first", help="Highest lane and bit first (default: lane 0).")
    ] = False,
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
    """Print each snapshot as text."""
    options.check_view(view)
    wanted = _fields(fields)
    policy = options.policy_of(keep, verdict, unsafe_foreign)
    filters = options.filters_of(
        comm=comm, pid=pid, tid=tid, symbol=symbol, dso=dso, time=time, verdict=verdict
    )
    recording = options.open_input(input, symfs, dialect, code_checks=code_checks)

    from perfxmm.analysis.shown import limited
    names = recording.names
    used = regs.strip().lower() == _USED
    selection = None if used else _selection(regs, names.gpr_names)
    element_of = options.element_of(recording, view)
    writer: JsonLines | ScriptText
    columns = {"gprs", "vectors", "predicates"}
    if as_json:
        from perfxmm.exports.jsonl import JsonLines
        from perfxmm.exports.redaction import Redaction

        redaction = Redaction(recorded=recording.values_redacted)
        writer = JsonLines(names, policy, "" if view == "hex" else view, element_of, redaction)
    else:
        if selection is not None and selection.gprs and "regs" not in wanted:
            wanted = [*wanted, "regs"]
        if used and "insn" not in wanted:
            wanted = [*wanted, "insn"]
        from perfxmm.views.script import ScriptText

        writer = ScriptText(
            names, policy, wanted, view, msb_first, selection, element_of,
            recording.instructions.chain_names if "chain" in wanted else None,
            recording.instructions if "insn" in wanted else None, used,
            recording.source_lines if {"srcline", "inline"} & set(wanted) else None,
        )  # fmt: skip
        if "chain" in wanted:
            columns.add("chain")
    out = sys.stdout.buffer
    sys.stdout.flush()
    batches = recording.judged(
        policy, columns=columns, filters=filters, ordered=not unordered
    )
    write_all(limited(batches, limit), writer.lines, out, alone=limit is not None)
    out.flush()
    options.close(recording, policy, filters)


def _fields(text: str) -> list[str]:
    wanted = [_SYNONYMS.get(word, word) for word in options.words(text)]
    for word in wanted:
        if word not in _FIELDS:
            raise options.unknown_word("field", word, _FIELDS)
    if not wanted:
        raise UsageError("-F names no field", next_step=f"There are {', '.join(_FIELDS)}.")
    return wanted


def _selection(text: str, gpr_names: tuple[str, ...]) -> Selection | None:
    if not text:
        return None
    from perfxmm.views.lanes import Selection

    try:
        return Selection.of(options.words(text), gpr_names)
    except ValueError as error:
        raise UsageError(
            str(error),
            next_step="There are xmm, ymm, zmm, opmask, gpr, egpr, ssp, and registers such as "
            "ymm3, k1, ax, r8; or used, alone.",
        ) from None
