"""perfxmm list: events, PMUs and register classes of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfxmm.errors import PerfxmmError, UsageError

if TYPE_CHECKING:
    from perfxmm.kernel.events import Catalogue
    from perfxmm.kernel.pybinding import PerfBinding
    from perfxmm.views.listing import Row

EXAMPLES = """
Examples:
  perfxmm list                    everything but tracepoints
  perfxmm list tracepoint 'sched:*'
"""
KINDS = ("hw", "sw", "cache", "tracepoint", "pmu", "regs")
SOFTWARE_TEXT = {
    "cpu-clock": "samples on time, by a CPU's clock; needs no PMU",
    "task-clock": "samples on time, while the task runs; needs no PMU",
    "context-switches": "happens in the kernel only",
    "cpu-migrations": "happens in the kernel only",
    "cgroup-switches": "happens in the kernel only",
    "bpf-output": "happens in the kernel only",
}
NO_PMU = "not here: this machine has no core PMU"


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="hw, sw, cache, tracepoint, pmu or regs.",
                       autocompletion=_kinds),
    ] = None,
    pattern: Annotated[
        str | None, typer.Argument(metavar="GLOB", help="Only names that match, as in a shell.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the events, PMUs and register classes that this machine knows.

    Every name is one that `perfxmm record -e` (or --regs) takes. Modifiers follow a colon:
    u k h (levels), p pp ppp P (precise), G H (guest, host), I (not idle).
    """
    from perfxmm.cli.console import results, say, write_json

    if kind is not None and kind not in KINDS:
        if pattern is not None:
            raise UsageError(
                f"{kind!r} is not a kind of event", next_step="use " + ", ".join(KINDS)
            )
        kind, pattern = None, kind
    rows, notes = collect(kind, pattern)
    if as_json:
        write_json(to_dict(rows, notes))
        return
    if kind is None and pattern is None:
        hidden = [row for row in rows if not row.available and row.kind in ("hw", "cache")]
        rows = [row for row in rows if row not in hidden]
        if hidden:
            notes.append(
                f"{len(hidden)} hardware and cache events need a core PMU, which this machine does "
                "not have (perfxmm list hw, perfxmm list cache)"
            )
    for note in notes:
        say(note)
    if not rows:
        raise UsageError(
            f"nothing here matches {pattern!r}" if pattern else f"there is no {kind} event here",
            next_step="see `perfxmm list` for everything",
        )
    from perfxmm.views.listing import listing

    results().print(listing(rows))


def collect(
    kind: str | None, pattern: str | None = None, *, catalogue: Catalogue | None = None,
    binding: PerfBinding | None = None, classes: frozenset[str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Rows of one kind (None: all, tracepoints only if a pattern narrows them), and notes.

    catalogue, binding and classes (register classes of the CPU) are the machine's own unless given.
    """
    from fnmatch import fnmatchcase

    from perfxmm.kernel.events import Catalogue
    from perfxmm.kernel.pybinding import HERE

    catalogue = catalogue or Catalogue()
    rows: list[Row] = []
    notes: list[str] = []
    if kind in (None, "hw", "sw", "cache"):
        rows += [row for row in _generic(catalogue) if kind in (None, row.kind)]
    if kind in (None, "pmu"):
        rows += _pmus(catalogue)
        rows += _vendor(HERE if binding is None else binding)
    if kind == "tracepoint" or (kind is None and pattern is not None):
        try:
            rows += _tracepoints(catalogue)
        except PerfxmmError as error:
            if kind is not None:
                raise
            notes.append(str(error).splitlines()[0])
    if kind in (None, "regs"):
        rows += _classes(classes)
    if pattern is not None:
        rows = [r for r in rows if any(fnmatchcase(n, pattern) for n in (r.name, *r.aliases))]
    return rows, notes


def to_dict(rows: list[Row], notes: list[str]) -> dict[str, Any]:
    """Schema perfxmm.list/1."""
    return {
        "schema": "perfxmm.list/1",
        "entries": [
            {
                "kind": row.kind, "name": row.name, "aliases": list(row.aliases),
                "available": row.available, "text": row.text,
            }
            for row in rows
        ],
        "notes": notes,
    }  # fmt: skip


def _generic(catalogue: Catalogue) -> list[Row]:
    from perfxmm.kernel import eventnames
    from perfxmm.views.listing import Row

    cores = [pmu.name for pmu in catalogue.cores]
    here = bool(cores)
    # With one core PMU there is nothing to say; with two an event is opened on both.
    text = ("on " + " and ".join(cores) if len(cores) > 1 else "") if here else NO_PMU
    rows = []
    for kind, table in (("hw", eventnames.HARDWARE), ("sw", eventnames.SOFTWARE)):
        names: dict[int, list[str]] = {}
        for name, number in table.items():
            names.setdefault(number, []).append(name)
        for first, *others in names.values():
            if kind == "hw":
                rows.append(Row(kind, first, text, tuple(others), here))
            else:
                rows.append(Row(kind, first, SOFTWARE_TEXT.get(first, ""), tuple(others)))
    rows += [Row("cache", name, text, available=here) for name in eventnames.cache_names()]
    return rows


def _pmus(catalogue: Catalogue) -> list[Row]:
    from perfxmm.views.listing import Row

    rows = []
    for pmu in catalogue.pmus.values():
        rows += [Row("pmu", f"{pmu.name}/{name}/", text) for name, text in pmu.events().items()]
        for name, layout in pmu.formats().items():
            rows.append(
                Row("pmu", f"{pmu.name}/{name}=.../", f"{layout.field}, {len(layout.bits)} bits")
            )
        rows += [Row("pmu", f"{pmu.name}/rNNN/", "a raw code, hexadecimal")] * pmu.is_core
    return rows


def _vendor(binding: PerfBinding) -> list[Row]:
    from perfxmm.views.listing import Row

    return [
        Row("vendor", name, " ".join(texts)) for name, texts in sorted(binding.events().items())
    ]


def _tracepoints(catalogue: Catalogue) -> list[Row]:
    from perfxmm.kernel.tracefs import find_tracefs, tracepoints
    from perfxmm.views.listing import Row

    return [Row("tracepoint", name) for name in tracepoints(find_tracefs(catalogue.sysfs))]


def _classes(classes: frozenset[str] | None) -> list[Row]:
    from perfxmm.analysis.capability import CLASS_MEANING, CLASS_NEEDS
    from perfxmm.kernel.cpuinfo import read_cpuinfo
    from perfxmm.views.listing import Row

    there = frozenset(read_cpuinfo().classes) if classes is None else classes
    rows = []
    for name, meaning in CLASS_MEANING.items():
        here = name in there
        missing = f"not here: the CPU, or its kernel, has no {CLASS_NEEDS.get(name)}"
        rows.append(Row("regs", name, meaning if here else missing, available=here))
    return rows
