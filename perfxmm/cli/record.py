"""The `record` verb: options onto `perfxmm.recorder.record`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from perfxmm.cli import complete
from perfxmm.errors import UsageError

if TYPE_CHECKING:
    from perfxmm.sources.base import RecordResult

EXAMPLES = """
Examples:

  Sample a program at 499 Hz with the widest registers this machine delivers:
    perfxmm record -- ./app --its-own options

  Attach to a running process for ten seconds, with call chains, XMM only (a file that every
  perf since 5.2 opens):
    perfxmm record -g -p 1234 --regs xmm --duration 10 -o app.perf.data
"""
# Everything after the command's name belongs to the command.
CONTEXT_SETTINGS = {"allow_interspersed_args": False}

_CLASSES = complete.comma_list(complete.register_classes)
_SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def record(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND [ARG]...", help="Program to run.")
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option("-e", "--event", metavar="EVENT", help="Event to sample by, as in perf.",
                     autocompletion=complete.comma_list(complete.event_names)),
    ] = None,
    frequency: Annotated[
        int | None, typer.Option("-F", "--freq", metavar="HZ", help="Samples per second.")
    ] = None,
    period: Annotated[
        int | None, typer.Option("-c", "--count", metavar="N", help="One sample per N events.")
    ] = None,
    pid: Annotated[
        str, typer.Option("-p", "--pid", metavar="PID,...", help="Sample running processes.")
    ] = "",
    tid: Annotated[
        str, typer.Option("-t", "--tid", metavar="TID,...", help="Sample running threads.")
    ] = "",
    all_cpus: Annotated[
        bool, typer.Option("-a", "--all-cpus", help="Sample the whole machine (source pmu).")
    ] = False,
    cpu: Annotated[
        str, typer.Option("-C", "--cpu", metavar="CPUS", help="Sample these CPUs: 0-3,7.")
    ] = "",
    user: Annotated[
        str | None, typer.Option("-u", "--uid", metavar="USER", help="Sample a user's processes.")
    ] = None,
    callchain: Annotated[
        bool, typer.Option("-g", help="Record call chains (frame pointers).")
    ] = False,
    regs: Annotated[
        str,
        typer.Option("--regs", metavar="auto|CLASS,...",
                     help="Register classes: xmm, ymm, zmm, opmask, gpr, r16, ssp.",
                     autocompletion=_CLASSES),
    ] = "auto",
    user_regs: Annotated[
        str, typer.Option("--user-regs", metavar="CLASS,...", help="Classes of the user set.",
                          autocompletion=_CLASSES)
    ] = "",
    intr_regs: Annotated[
        str, typer.Option("-I", "--intr-regs", metavar="CLASS,...",
                          help="Classes of the set taken at the interrupt.",
                          autocompletion=_CLASSES)
    ] = "",
    source: Annotated[
        str, typer.Option("--source", metavar="auto|pmu|sigtrap|nmi",
                          help="Where snapshots come from.",
                          autocompletion=complete.choice("auto", "pmu", "sigtrap", "nmi"))
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", metavar="auto|perf|interrupt",
                          help="How source sigtrap stops threads.",
                          autocompletion=complete.choice("auto", "perf", "interrupt"))
    ] = "auto",
    no_inherit: Annotated[
        bool, typer.Option("-i", "--no-inherit", help="Do not follow new threads and processes.")
    ] = False,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="File to write; - is a pipe.")
    ] = "perf.data",
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Overwrite the file if it is there.")
    ] = False,
    delay: Annotated[
        float, typer.Option("-D", "--delay", metavar="MS", help="Wait before sampling starts.")
    ] = 0.0,
    duration: Annotated[
        float | None, typer.Option("--duration", metavar="S", help="Stop after S seconds.")
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", metavar="N", help="Stop after N samples.")
    ] = None,
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="N[BKMG]", help="Stop at this file size.")
    ] = "",
    cpu_limit: Annotated[
        float | None,
        typer.Option("--cpu-limit", metavar="PERCENT",
                     help="Sample less often when the target loses more than this."),
    ] = None,
    mmap_pages: Annotated[
        int, typer.Option("-m", "--mmap-pages", metavar="PAGES", help="Ring size, a power of two.")
    ] = 64,
    redact: Annotated[
        str, typer.Option("--redact", metavar="values|crypto",
                          help="Write no values, or none at crypto instructions.",
                          autocompletion=complete.choice("values", "crypto"))
    ] = "",
    unsafe_foreign: Annotated[
        bool, typer.Option("--unsafe-foreign",
                           help="Write values that may belong to the kernel or others.")
    ] = False,
    archive: Annotated[
        bool, typer.Option("--archive", help="Keep copies of the sampled binaries in FILE.archive.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say only what went wrong.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> int:
    """Sample a command, process, thread or CPU into a perf.data file.

    The file is readable by its owner only: vector registers hold keys and private data.
    Ends when the command does, on a limit, or on Ctrl-C; passes on the command's exit status.
    """
    from perfxmm.cli import console
    from perfxmm.recorder import record as run_recording

    if json and output == "-":
        raise UsageError("--json and -o - both want standard output")
    with console.progress("recording", duration) as advance:
        result = run_recording(
            command or (), output=output, events=event or (), frequency_hz=frequency,
            period=period, pids=_numbers(pid, "-p"), tids=_numbers(tid, "-t"), user=user,
            system_wide=all_cpus, cpus=cpu, regs=regs, user_regs=user_regs, intr_regs=intr_regs,
            source=source, engine=engine, callchain=callchain, inherit=not no_inherit,
            duration_s=duration, delay_s=delay / 1000, max_samples=max_samples,
            max_size_bytes=_size(max_size), cpu_limit_percent=cpu_limit, mmap_pages=mmap_pages,
            force=force, redact=redact, unsafe_foreign=unsafe_foreign,
            command_line=("perfxmm", *sys.argv[1:]),
            on_source=None if quiet else console.say,
            progress=lambda samples, seconds: advance(seconds),
        )  # fmt: skip
    for warning in result.warnings:
        console.say(f"warning: {warning}")
    if archive:
        from perfxmm.recorder import archive_binaries

        kept, missing = archive_binaries(result.path)
        if not quiet:
            noun = "binary" if kept == 1 else "binaries"
            console.say(f"archived {kept} {noun} beside {result.path}")
        for path in missing:
            console.say(f"warning: not archived: {path} (no build id, changed or unreadable)")
    if not quiet:
        _say_result(console.say, result, verbose)
    if json:
        from dataclasses import asdict

        console.write_json(asdict(result))
    return result.exit_status or 0


def _say_result(say: Callable[[str], None], result: RecordResult, verbose: bool) -> None:
    size_mib = result.bytes_written / (1 << 20)
    line = f"wrote {size_mib:.2f} MiB to {result.path}: {result.samples:,} samples"
    if result.lost or result.throttled:
        line += f", {result.lost:,} lost, {result.throttled:,} times throttled"
    if result.interrupted:
        line += " (interrupted)"
    say(line)
    if verbose:
        say(f"source {result.source}, {result.elapsed_s:.2f} s")
        for name, value in result.details.items():
            if value not in (0, "", None, [], {}):
                say(f"  {name}: {value}")


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = [part for part in text.split(",") if part]
    for part in parts:
        if not (part.isascii() and part.isdigit() and int(part) > 0):
            raise UsageError(f"{option} takes numbers separated by commas, not '{part}'")
    return tuple(int(part) for part in parts)


def _size(text: str) -> int | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d+)([BKMG]?)", text.upper())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--max-size takes a number with B, K, M or G behind it, not '{text}'")
    return int(match[1]) * _SIZES[match[2]]
