"""How the kernel module's state and the way to a signature look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfxmm.views.escape import escape_control

_STATE = {
    "loaded": "is loaded",
    "built": "is built, but not loaded",
    "buildable": "is not built; headers and compiler are here",
    "missing": "is not built, and cannot be as things are",
}
# In the order in which they are read; what is not named here comes after.
_FACTS = ("version", "nmi", "hz", "period", "instruction", "rfbm", "xcr0", "length_bytes",
          "listeners", "running", "ssp", "kernel_hits")  # fmt: skip
_WORD = {True: "yes", False: "no", None: "unknown"}


def status(state: Mapping[str, Any]) -> RenderableType:
    """One `perfxmm.module/1` status as a person reads it."""
    head = Text("xsaves_nmi ", "bold") + _plain(_STATE.get(state["state"], state["state"]))
    head.append_text(_plain(f" for kernel {state['kernel']}"))
    parts: list[RenderableType] = [head]
    module = state["module"]
    if module is None:
        grid = _grid()
        if state["file"]:
            grid.add_row("file", _plain(state["file"]))
        if state["why"]:
            grid.add_row("why", _plain(state["why"]))
        if state["next_step"]:
            grid.add_row(Text("→", "bold"), _plain(state["next_step"]))
        return Group(head, _indent(grid))
    grid = _grid()
    for name in _FACTS:
        value = module[name]
        grid.add_row(name, _plain(_WORD[value] if isinstance(value, bool) or value is None
                                  else str(value)))  # fmt: skip
    parts += [_indent(grid), Text("components", "bold"), _indent(_components(module["components"])),
              Text("statistics", "bold"), _indent(_stats(module["stats"]))]  # fmt: skip
    return Group(*parts)


def sign_help(facts: Mapping[str, Any], steps: Sequence[Mapping[str, str]]) -> RenderableType:
    """What this machine wants, and each step with its command on a line of its own."""
    grid = _grid()
    grid.add_row("Secure Boot", _WORD[facts["secure_boot"]])
    grid.add_row("signatures enforced", _WORD[facts["signatures_enforced"]])
    grid.add_row("lockdown", _plain(facts["lockdown"] or "unknown"))
    grid.add_row("signature needed", _WORD[facts["needed"]])
    parts: list[RenderableType] = [Text("This machine", "bold"), _indent(grid), Text()]
    for number, step in enumerate(steps, 1):
        parts.append(_plain(f"{number}. {step['text']}"))
        if step["command"]:
            parts.append(Padding(_plain(step["command"]), (0, 0, 0, 5)))
    return Group(*parts)


def selftest_verdict(found: Mapping[str, Any]) -> RenderableType:
    """A `perfxmm.selftest/1` for a report: everything that says where it holds."""
    compared = found["compared"]
    grid = _grid()
    grid.add_row("perfxmm", found["version"])
    for name, value in found["machine"].items():
        grid.add_row(name, _plain(value or "unknown"))
    grid.add_row("source", _plain(found["source"]))
    if found["module"]:
        module = dict(found["module"])
        stats = module.pop("stats")
        grid.add_row("module", _plain(", ".join(f"{name} {value}" for name, value in module.items()
                                                if value not in (None, False))))  # fmt: skip
        grid.add_row("statistics", _plain(", ".join(f"{name} {value}" for name, value
                                                    in stats.items() if value)))  # fmt: skip
    grid.add_row("held", _plain(found["held"]))
    grid.add_row("snapshots", f"{compared['snapshots']:,} in {found['seconds']:g} s, "
                 f"{compared['in_loop']:,} within the loop, {compared['believed']:,} believed")
    grid.add_row("registers", ", ".join(f"{name} {count:,}" for name, count
                                        in compared["registers"].items()) or "none")  # fmt: skip
    grid.add_row("mismatches", f"{compared['mismatches']:,}")
    for example in compared["examples"]:
        grid.add_row("", _plain(example))
    style = {"passed": "bold green", "failed": "bold red"}.get(found["verdict"], "bold yellow")
    return Group(Text(f"selftest {found['verdict']}", style), _indent(grid))


def _components(components: Sequence[Mapping[str, int]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for name in ("nr", "size", "offset", "alignment"):
        table.add_column(name, justify="right", header_style="bold")
    for one in components:
        table.add_row(*(str(one[name]) for name in ("nr", "size", "offset", "alignment")))
    return table


def _stats(stats: Mapping[str, int]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right")
    for name, value in stats.items():
        grid.add_row(_plain(name), str(value))
    return grid


def _plain(text: str) -> Text:
    return Text(escape_control(text))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    return grid


def _indent(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2))
