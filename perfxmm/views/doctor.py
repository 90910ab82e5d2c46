"""How a diagnosis looks: one screen in full, or a few lines with --short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfxmm.analysis.capability import CLASS_MEANING, Diagnosis, SourceState, Trial
from perfxmm.views.escape import escape_control

GOOD, BAD, QUIET = "green", "red", "bright_black"


def short(found: Diagnosis) -> RenderableType:
    """Machine, one line a source, the classes, what `record` would do."""
    grid = _grid(3)
    for source in found.sources:
        said = source.detail if source.works else source.why
        grid.add_row(source.name, _yes(source.works), _plain(said))
    classes = [one.name for one in found.classes if one.available]
    missing = [one.name for one in found.classes if not one.available]
    line = Text("registers ", "bold") + Text(", ".join(classes) or "none", GOOD if classes else BAD)
    if missing:
        line.append(f"  (not {', '.join(missing)})", QUIET)
    return Group(_headline(found), _indent(grid), line, _verdict(found))


def full(found: Diagnosis, *, verbose: bool = False) -> RenderableType:
    """Everything; `verbose` adds every probe with the bytes that were asked."""
    parts: list[RenderableType] = [_headline(found), Text(), Text("Sources", "bold")]
    parts += [_indent(_source(source)) for source in found.sources]
    parts += [Text(), Text("Register classes", "bold"), _indent(_classes(found))]
    parts += [Text(), Text("What decides", "bold"), _indent(_limits(found))]
    binding = found.facts.binding
    if binding:
        parts += [Text(), Text("python-perf", "bold"), _indent(_binding(binding))]
    parts += [Text(), Text("What the kernel was asked", "bold"),
              _indent(_probes(found.facts.probes, verbose=verbose))]  # fmt: skip
    if found.warnings:
        parts += [Text(), *(Text(f"note: {warning}", "yellow") for warning in found.warnings)]
    parts += [Text(), _verdict(found)]
    return Group(*parts)


def _headline(found: Diagnosis) -> Text:
    machine = found.facts.machine
    where = f"{machine.get('cpu') or 'unknown CPU'}, Linux {machine.get('kernel') or 'unknown'}"
    if machine.get("hypervisor"):
        where += f", virtual machine ({machine['hypervisor']})"
    return Text(f"perfxmm {found.facts.tool_version}", "bold") + _plain(f" on {where}")


def _verdict(found: Diagnosis) -> Text:
    if found.default_source:
        return Text.assemble("perfxmm record takes source ", (found.default_source, "bold green"))
    return Text("nothing can be sampled here as things are", "bold red")


def _source(source: SourceState) -> Table:
    grid = _grid(3)
    grid.add_row(source.name.ljust(8), _yes(source.works),
                 _plain(source.detail if source.works else source.why))  # fmt: skip
    for trial in source.trials:
        grid.add_row("", "", _trial(trial, told="" if source.works else source.why))
    if source.next_step:
        grid.add_row("", "", Text("→ ", "bold") + _plain(source.next_step))
    return grid


def _trial(trial: Trial, *, told: str) -> Text:
    """What was tried and answered; and why, where that is not `told` already."""
    text = Text.assemble(
        (f"{trial.call}: ", QUIET), _plain(trial.what), ": ",
        (trial.answer, GOOD if trial.ok else BAD),
    )  # fmt: skip
    if trial.why and trial.why != told:
        text.append_text(_plain(f", {trial.why}"))
    return text


def _classes(found: Diagnosis) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    names = [source.name for source in found.sources if source.works]
    for title in ("class", "CPU", *names, ""):
        table.add_column(title, no_wrap=bool(title), header_style="bold")
    for one in found.classes:
        table.add_row(
            one.name, _yes(one.in_cpu), *(one.from_sources.get(name, "-") for name in names),
            Text(CLASS_MEANING[one.name] if one.available else one.why,
                 "" if one.available else QUIET),
        )  # fmt: skip
    return table


def _limits(found: Diagnosis) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=28)
    grid.add_column()
    for limit in (found.facts.attach, *found.facts.limits):
        grid.add_row(limit.name, _plain(limit.value or "unknown"), _plain(limit.meaning))
    return grid


def _binding(binding: Mapping[str, str]) -> Table:
    grid = _grid(2)
    grid.add_row("tier", _plain(f"{binding.get('tier')}: {binding.get('meaning')}"))
    for name in ("path", "why"):
        if binding.get(name):
            grid.add_row(name, _plain(binding[name]))
    if binding.get("tier") == "none":
        grid.add_row("", Text("→ ", "bold") + Text("scripts/install-python-perf brings it"))
    return grid


def _probes(probes: Sequence[Mapping[str, Any]], *, verbose: bool) -> RenderableType:
    """One line a probe. Without `verbose` only precise_ip 0, without the negative twins."""
    shown = [p for p in probes if verbose or _is_main(str(p["name"]))]
    grid = _grid(3)
    for probe in shown:
        good = probe["errno"] == 0
        grid.add_row(str(probe["name"]), Text(str(probe["errno_name"]), GOOD if good else BAD),
                     _plain(str(probe["meaning"])))  # fmt: skip
        if verbose:
            grid.add_row("", "", Text(f"attr {probe['attr_hex']}", QUIET))
    if len(shown) == len(probes):
        return grid
    return Group(grid, Text(f"{len(probes) - len(shown)} more with -v", QUIET))


def _is_main(name: str) -> bool:
    return "vec_qwords" not in name and not name.endswith((" p1", " p2", " p3"))


def _yes(good: bool) -> Text:
    return Text("yes", GOOD) if good else Text("no ", BAD)


def _plain(text: str) -> Text:
    return Text(escape_control(text))


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(columns):
        grid.add_column(no_wrap=column < columns - 1)
    return grid


def _indent(renderable: RenderableType) -> Padding:
    return Padding(renderable, (0, 0, 0, 2), expand=False)
