"""How lists of events, PMUs and register classes look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfxmm.views.escape import escape_control

TITLES = {
    "hw": "Hardware events",
    "sw": "Software events",
    "cache": "Hardware cache events",
    "pmu": "Events and terms of PMUs",
    "vendor": "The CPU vendor's events",
    "tracepoint": "Tracepoints",
    "regs": "Register classes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that can be named on the command line.

    kind: a key of TITLES. name: as -e or --regs takes it. aliases: other names of the same.
    available: whether this machine has it; where not, `text` says why.
    """

    kind: str
    name: str
    text: str = ""
    aliases: tuple[str, ...] = ()
    available: bool = True


def listing(rows: Sequence[Row]) -> RenderableType:
    """`rows` in sections by kind, in TITLES' order."""
    parts: list[RenderableType] = []
    for kind, title in TITLES.items():
        section = [row for row in rows if row.kind == kind]
        if section:
            parts += [Text(title, "bold"), Padding(_table(section), (0, 0, 1, 2), expand=False)]
    return Group(*parts)


def _table(rows: Iterable[Row]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for row in rows:
        names = " or ".join((row.name, *row.aliases))
        grid.add_row(
            Text(escape_control(names), "" if row.available else "bright_black"),
            Text(escape_control(row.text), "bright_black"),
        )
    return grid
