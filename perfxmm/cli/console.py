"""How verbs speak: results on stdout, talk on stderr, JSON past all styling.

rich is imported when a console is asked for, not before: many verbs end without one.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from perfxmm.views.escape import escape_control

if TYPE_CHECKING:
    from rich.console import Console

# Off a terminal nothing is cut or wrapped: wide enough for every line, small enough that a
# renderable which fills its line does not fill a disk.
UNBOUNDED_COLUMNS = 4096
DEFAULT_COLUMNS = 80
# Work that ends before this many seconds shows no progress bar.
PROGRESS_AFTER_S = 1.0
_TRAILING = re.compile(r" +(?=\n)")


def width_of(stream: TextIO, environment: Mapping[str, str] | None = None) -> int:
    """Columns to lay out for: COLUMNS if it is set, the terminal's width, else unbounded."""
    wished = (os.environ if environment is None else environment).get("COLUMNS", "")
    if wished.isascii() and wished.isdigit() and int(wished) > 0:
        return int(wished)
    if not stream.isatty():
        return UNBOUNDED_COLUMNS
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError):
        return DEFAULT_COLUMNS


def results() -> Console:
    """The console for results: stdout."""
    return _console(sys.stdout)


def talk() -> Console:
    """The console for everything that is not a result: stderr."""
    return _console(sys.stderr)


def say(message: str) -> None:
    """One line of talk on stderr, in the form of an error's first line. Hostile text is escaped."""
    print(f"perfxmm: {escape_control(message)}", file=sys.stderr)


def write_json(value: Any) -> None:
    """`value` as one JSON document on stdout.

    ASCII only: whatever a command name or path holds, it neither moves the cursor nor fails to
    encode. Raises ValueError for NaN and infinities, which JSON cannot say.
    """
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, on a terminal only, and only once the work has taken a second.

    Gives a function to call with how much of `total` is done. total: None while unknown.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    started_s = time.monotonic()
    bar: Any = None
    task: Any = None

    def advance(done: float) -> None:
        nonlocal bar, task
        if bar is None:
            if time.monotonic() - started_s < PROGRESS_AFTER_S:
                return
            from rich.progress import Progress

            bar = Progress(console=talk(), transient=True)
            task = bar.add_task(escape_control(what), total=total)
            bar.start()
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


class _Trimmed:
    """A stream without the blanks that tables are padded with at the ends of lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        return self._stream.write(_TRAILING.sub("", text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # On a terminal colours may end the line, and nobody sees the blanks.
    file: Any = stream if stream.isatty() else _Trimmed(stream)
    # NO_COLOR and TERM=dumb are rich's own business; the width is set here, because rich takes
    # 80 columns off a terminal and on a dumb one.
    return Console(
        file=file, width=width_of(stream), highlight=False, markup=False, emoji=False,
        force_jupyter=False,
    )  # fmt: skip
