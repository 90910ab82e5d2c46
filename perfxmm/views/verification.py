"""What `perfxmm verify` prints."""

from __future__ import annotations

from collections.abc import Iterator

from perfxmm.analysis.verification import Example, Tally, Verification
from perfxmm.views.codestory import check_lines, code_lines, story_dict
from perfxmm.views.escape import escape_control

SCHEMA = "perfxmm.verify/1"
_UNKNOWN = "[unknown]"
_SYMBOL_WIDTH = 48
_NS = 1_000_000_000
_TITLES = ("Contradicted", "95 %", "of", "Silent")


def verification_text(found: Verification) -> Iterator[str]:
    """The account line by line: by class, event and symbol, then the worst examples."""
    if not found.asked:
        yield "no snapshot holds registers that are believed: there is nothing to verify"
        return
    yield from _table("Class", [(name, t) for name, t in found.classes.items() if _any(t)])
    yield ""
    yield from _table("Event", list(found.events.items()))
    yield ""
    rows = [(_symbol(name, dso), tally) for name, dso, tally in found.symbols]
    yield from _table("Symbol", rows)
    for example in found.examples:
        yield ""
        yield from _example(example)


def summary_line(found: Verification) -> str:
    """One sentence for the end."""
    total = found.total
    if not found.asked:
        return f"{found.samples:,} snapshots, none with registers to verify"
    line = (
        f"{found.asked:,} of {found.samples:,} snapshots verified: the code proves "
        f"{total.proved:,}, contradicts {total.contradicted:,} and says nothing of {total.silent:,}"
    )
    fits = sum(found.skids.values())
    if fits:
        line += f"; {fits:,} of those contradicted fit a few instructions on (skid)"
    return line


def silence_lines(found: Verification) -> Iterator[str]:
    """Why the code said nothing, the most frequent reason first."""
    for why, count in sorted(found.silent_places.items(), key=lambda item: (-item[1], item[0])):
        yield f"silent in {count:,} snapshots: {why}"


def _any(tally: Tally) -> bool:
    return bool(tally.proved or tally.contradicted or tally.silent)


def _symbol(name: str, dso: str) -> str:
    # Only the file's own name: the path is in the JSON form.
    return f"{name or _UNKNOWN} ({dso.rpartition('/')[2] or _UNKNOWN})"


def _table(title: str, rows: list[tuple[str, Tally]]) -> Iterator[str]:
    cells = [(*_cells(tally), escape_control(name)) for name, tally in rows]
    widths = [
        max(len(heading), *(len(row[column]) for row in cells)) if cells else len(heading)
        for column, heading in enumerate(_TITLES)
    ]
    for row in ((*_TITLES, title), *cells):
        numbers = " ".join(f"{cell:>{w}}" for cell, w in zip(row[:-1], widths, strict=True))
        yield f"{numbers}  {row[-1]}"


def _cells(tally: Tally) -> tuple[str, str, str, str]:
    if not tally.spoken:
        return "-", "-", "0", f"{tally.silent:,}"
    low, high = tally.interval
    return (
        _percent(tally.contradicted / tally.spoken), f"{_percent(low)}..{_percent(high)}",
        f"{tally.spoken:,}", f"{tally.silent:,}",
    )  # fmt: skip


def _percent(share: float) -> str:
    """Enough places that what is not zero does not read as zero."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2f} %" if share >= 0.0001 else f"{100 * share:.1g} %"


def _example(example: Example) -> Iterator[str]:
    where = escape_control(f"{example.symbol or _UNKNOWN}+{example.symbol_offset:#x}")
    dso = escape_control(example.dso)
    fits = (
        f"fits {example.skid} instructions on" if example.skid > 1
        else "fits one instruction on" if example.skid else "fits nowhere near"
    )  # fmt: skip
    yield f"{where} ({dso}): {example.samples:,} contradicted, such as sample {example.sample}"
    yield f"  {_time(example.time_ns)}, set {example.set_name}, {fits}"
    yield from check_lines(example.story, only="contradicted")
    yield from code_lines(example.story)


def _time(time_ns: int) -> str:
    return f"at {time_ns // _NS}.{time_ns % _NS:09d}" if time_ns else "time not recorded"


def verification_json(found: Verification, *, complete: bool) -> dict[str, object]:
    """Schema perfxmm.verify/1."""
    return {
        "schema": SCHEMA, "samples": found.samples, "asked": found.asked, "complete": complete,
        "total": found.total.to_dict(),
        "classes": {name: tally.to_dict() for name, tally in found.classes.items()},
        "events": {name: tally.to_dict() for name, tally in found.events.items()},
        "symbols": [
            {"symbol": name or None, "dso": dso or None, **tally.to_dict()}
            for name, dso, tally in found.symbols
        ],
        "skids": {str(steps): count for steps, count in sorted(found.skids.items())},
        "silent": found.silent_places,
        "examples": [_example_dict(example) for example in found.examples],
    }  # fmt: skip


def _example_dict(example: Example) -> dict[str, object]:
    return {
        "sample": example.sample, "time_ns": example.time_ns, "set": example.set_name,
        "event": example.event, "symbol": example.symbol or None,
        "symbol_offset": example.symbol_offset, "dso": example.dso, "ip": f"{example.ip:#x}",
        "samples": example.samples, "skid": example.skid or None,
        "code": story_dict(example.story),
    }  # fmt: skip
