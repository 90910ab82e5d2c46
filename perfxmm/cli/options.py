"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perfxmm.errors import DamagedInput, UsageError

if TYPE_CHECKING:
    from perfxmm.analysis.filters import Filters
    from perfxmm.analysis.report import ElementOf
    from perfxmm.analysis.shown import Policy
    from perfxmm.recording import Recording

DEFAULT_INPUT = "perf.data"
VIEW_NAMES = (
    "hex", "f64", "f32", "f16", "bf16", "i64", "u64", "i32", "u32", "i16", "u16", "i8", "u8",
    "auto",
)  # fmt: skip
_VERDICTS = ("coherent", "late", "entry", "torn", "foreign", "absent", "unknown")
_NS = 1_000_000_000


def complete_view(incomplete: str) -> list[str]:
    return [name for name in VIEW_NAMES if name.startswith(incomplete)]


def _verdicts(incomplete: str) -> list[str]:
    done, _, last = incomplete.rpartition(",")
    return [f"{done},{v}" if done else v for v in (*_VERDICTS, "all") if v.startswith(last)]


Input = Annotated[
    str, typer.Option("-i", "--input", metavar="FILE", help="Recording to read, - for a pipe.")
]
Comm = Annotated[
    str, typer.Option("-c", "--comm", "--comms", metavar="NAME,...", help="Only these commands.")
]
Pid = Annotated[str, typer.Option("--pid", metavar="PID,...", help="Only these processes.")]
Tid = Annotated[str, typer.Option("--tid", metavar="TID,...", help="Only these threads.")]
Symbol = Annotated[
    str, typer.Option("-S", "--symbol", "--symbols", metavar="NAME,...", help="Only these symbols.")
]
Dso = Annotated[
    str, typer.Option("-d", "--dso", "--dsos", metavar="NAME,...",
                      help="Only these objects, by path or last part of it.")
]  # fmt: skip
Time = Annotated[
    str, typer.Option("--time", metavar="START,STOP",
                      help="Only between these times in seconds, as script prints them.")
]  # fmt: skip
OnlyVerdict = Annotated[
    str, typer.Option("--verdict", metavar="VERDICT,...", autocompletion=_verdicts,
                      help="Only snapshots with one of these verdicts (implies --keep).")
]  # fmt: skip
Keep = Annotated[
    str, typer.Option("--keep", metavar="VERDICT,...|all", autocompletion=_verdicts,
                      help="Verdicts to show (default: coherent,late).")
]  # fmt: skip
UnsafeForeign = Annotated[
    bool, typer.Option("--unsafe-foreign",
                       help="Show values that may belong to the kernel or another task.")
]  # fmt: skip
Unordered = Annotated[
    bool, typer.Option("--unordered",
                       help="In the file's order. Else in time order: what perf's rounds promise, "
                       "and without them within 1,000,000 records or 64 MiB.")
]  # fmt: skip
View = Annotated[
    str, typer.Option("--view", metavar="TYPE", autocompletion=complete_view,
                      help=f"Lanes as {', '.join(VIEW_NAMES)} (auto: by the instruction).")
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option("--limit", "--max-count", metavar="N", min=0, help="At most N.")
]
Symfs = Annotated[
    str, typer.Option("--symfs", metavar="DIR",
                      help="Take binaries from DIR, the root of the recorded machine's files.")
]  # fmt: skip
CodeChecks = Annotated[
    bool, typer.Option("--code-checks/--no-code-checks",
                       help="Withhold registers that contradict the code before their IP.")
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# Names of kernel.dialects.DIALECTS, which would take numpy's time to import.
DIALECT_NAMES = ("L", "M", "O1", "O2", "R2", "R6")


def complete_dialect(incomplete: str) -> list[str]:
    return [name for name in DIALECT_NAMES if name.startswith(incomplete.upper())]


Dialect = Annotated[
    str, typer.Option("--dialect", metavar="NAME", autocompletion=complete_dialect,
                      help=f"Read SIMD registers as {', '.join(DIALECT_NAMES)}, whatever the "
                      "recording looks like (inspect says what it looks like and why).")
]  # fmt: skip


def words(text: str) -> list[str]:
    """The parts of a comma-separated list, without blanks."""
    return [word.strip() for word in text.split(",") if word.strip()]


def check_input(path: str) -> None:
    """Raises UsageError that says how to get a recording where there is none."""
    if path != "-" and not Path(path).exists():
        raise UsageError(
            f"there is no recording {path}",
            next_step="Make one with 'perfxmm record -- COMMAND', or name one with -i FILE.",
        )


def dialect_of(text: str) -> str | None:
    """The dialect asked for, None where none was. Raises UsageError for one that does not exist."""
    name = text.strip().upper()
    if name and name not in DIALECT_NAMES:
        raise unknown_word("dialect", text, DIALECT_NAMES)
    return name or None


def open_input(
    path: str, symfs: str = "", dialect: str = "", *, code_checks: bool = True
) -> Recording:
    """The recording to read. Raises UsageError that says how to get one."""
    spoken = dialect_of(dialect)
    check_input(path)
    from perfxmm.recording import open as open_recording

    return open_recording(path, symfs=symfs or None, dialect=spoken, code_checks=code_checks)


def policy_of(keep: str, verdict: str, unsafe_foreign: bool) -> Policy:
    """What may be shown. Raises UsageError for a verdict that does not exist."""
    _import_numpy()
    from perfxmm.analysis.shown import DEFAULT_KEEP, Policy

    try:
        if verdict:
            Policy.of(words(verdict))
        return Policy.of(words(keep) or words(verdict) or DEFAULT_KEEP, unsafe_foreign)
    except ValueError as error:
        raise UsageError(str(error), next_step="perfxmm explain VERDICT says more.") from None


def filters_of(
    *, comm: str = "", pid: str = "", tid: str = "", symbol: str = "", dso: str = "",
    time: str = "", verdict: str = "",
) -> Filters:
    """Filters from the options' text. Raises UsageError."""
    from perfxmm.analysis.filters import Filters

    start_ns, stop_ns = _window(time)
    return Filters(
        comms=frozenset(words(comm)), pids=_numbers(pid, "--pid"), tids=_numbers(tid, "--tid"),
        symbols=_symbols(symbol), dsos=frozenset(words(dso)), start_ns=start_ns,
        stop_ns=stop_ns, verdicts=frozenset(word.lower() for word in words(verdict)),
    )  # fmt: skip


def check_view(view: str) -> str:
    """Raises UsageError for a view that does not exist."""
    if view not in VIEW_NAMES:
        raise UsageError(
            f"no such view: {view}", next_step=f"There are {', '.join(VIEW_NAMES)}."
        )
    return view


def element_of(recording: Recording, view: str) -> ElementOf | None:
    """How `auto` finds an element type; None for all other views."""
    return recording.instructions.elements if view == "auto" else None


def close(recording: Recording, policy: Policy, filters: Filters | None = None) -> None:
    """The last words on stderr: what was hidden, and what the file lacks.

    Raises DamagedInput where the file is damaged; everything that could be read is out by then.
    """
    import sys

    from perfxmm.cli.console import say
    from perfxmm.views.account import closing_line

    sys.stdout.flush()
    for note in recording.notes:
        say(note)
    line = closing_line(recording.account, policy, filters)
    if line:
        say(line)
    damage = recording.damage
    if damage:
        count = recording.damage_count
        more = f" (and {count - 1:,} more)" if count > 1 else ""
        raise DamagedInput(
            f"{damage[0].what}{more}", file=recording.path,
            offset=damage[0].offset if damage[0].offset >= 0 else None,
            next_step="Everything that could be read was delivered.",
        )
    if not recording.complete:
        say(f"{recording.path}: the recorder did not finish; its complete records were read")


def _import_numpy() -> None:
    """Imports numpy without the threads of its linear algebra, which nothing here uses.

    To start them takes longer than the rest of the import, and a process with threads cannot
    fork safely (see cli.inturn). The environment is as before afterwards.
    """
    _keep_memory()
    wish = "OPENBLAS_NUM_THREADS"
    if wish in os.environ:
        return
    os.environ[wish] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[wish]


def _keep_memory() -> None:
    """Has malloc keep the megabytes that every batch frees and the next one asks for again.

    Otherwise it gives them back, and the kernel clears each page anew: a third of all time. There
    is no mallopt outside of glibc, and none is needed for correct work.
    """
    import ctypes

    # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: malloc.h, glibc 2.36. The first has no larger value.
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)
        libc.mallopt(-1, 64 << 20)


def _numbers(text: str, option: str) -> frozenset[int]:
    try:
        return frozenset(int(word) for word in words(text))
    except ValueError:
        raise UsageError(f"{option} takes numbers, not {text!r}") from None


def _symbols(text: str) -> frozenset[str]:
    """Names at the commas outside of brackets: a C++ signature has commas of its own."""
    names: list[str] = []
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character in "(<[") - (character in ")>]")
        if character == "," and depth <= 0:
            names.append(text[start:at])
            start = at + 1
    names.append(text[start:])
    return frozenset(name.strip() for name in names if name.strip())


def _window(text: str) -> tuple[int | None, int | None]:
    """(start, stop) in nanoseconds; an end that is left out is open."""
    if not text:
        return None, None
    start, comma, stop = text.partition(",")
    if not comma:
        raise UsageError(f"--time takes START,STOP in seconds, not {text!r}")
    bounds = (_nanoseconds(start), _nanoseconds(stop))
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        raise UsageError(f"--time ends before it starts: {text}")
    return bounds


def _nanoseconds(text: str) -> int | None:
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*(\d+)(?:\.(\d{1,9}))?\s*", text, re.ASCII)
    if not match:
        raise UsageError(f"--time takes seconds such as 12.5, not {text!r}")
    return int(match[1]) * _NS + int((match[2] or "").ljust(9, "0"))


def unknown_word(kind: str, word: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"no such {kind}: {word}", next_step=f"There are {', '.join(known)}.")
