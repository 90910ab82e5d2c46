"""How verdicts, reasons and rules look on a screen: plain tables, widest column last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfxmm.coherence.explain import Explanation
from perfxmm.coherence.reasons import REASONS, Reason
from perfxmm.coherence.rule import Rule
from perfxmm.coherence.rules import ALL_RULES
from perfxmm.coherence.verdicts import SHOWN_BY_DEFAULT, VERDICT_TEXT, Verdict

# One colour a verdict, the same in every verb; the word itself always stands there too.
VERDICT_STYLE: dict[Verdict, str] = {
    Verdict.COHERENT: "green",
    Verdict.LATE: "cyan",
    Verdict.ENTRY: "blue",
    Verdict.TORN: "yellow",
    Verdict.FOREIGN: "red",
    Verdict.ABSENT: "bright_black",
    Verdict.UNKNOWN: "magenta",
}
_SOURCE_NAMES = {"": "perf's own files"}


def overview() -> RenderableType:
    """All verdicts, reasons and rules, a line each."""
    return Group(
        _heading("Verdicts", "what can be said of one register class of one snapshot"),
        _verdicts(Verdict),
        _heading("Reasons", "why a verdict is what it is"),
        _pairs((reason.name, Text(reason.text)) for reason in REASONS.values()),
        _heading("Rules", "a later one overrides an earlier one"),
        _rules(ALL_RULES),
        Text(),
        Text("One of them in full: perfxmm explain NAME", style="dim"),
    )


def one(found: Explanation) -> RenderableType:
    """Everything that bears the name `found.name`."""
    parts: list[RenderableType] = []
    if found.word:
        parts += [_heading(found.name, "in place of a value"), _indented(Text(found.word))]
    if found.verdict is not None:
        parts += [_heading(found.name, "a verdict"), *_verdict_lines(found.verdict)]
    if found.reason is not None:
        parts += [_heading(found.reason.name, "a reason"), _indented(Text(found.reason.text))]
    for rule in found.rules:
        parts += list(_rule_lines(rule))
    return Group(*parts)


def _heading(title: str, what: str) -> Text:
    return Text.assemble("\n" if title[0].isupper() else "", (title, "bold"), f": {what}")


def _indented(text: RenderableType) -> Padding:
    return Padding(text, (0, 0, 0, 2), expand=False)


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(columns):
        grid.add_column(no_wrap=column < columns - 1)
    return grid


def _pairs(rows: Iterable[tuple[str | Text, Text]]) -> Padding:
    grid = _grid(2)
    for name, text in rows:
        grid.add_row(name, text)
    return _indented(grid)


def _verdict_name(verdict: Verdict) -> Text:
    return Text(verdict.label, VERDICT_STYLE[verdict])


def _verdicts(verdicts: Iterable[Verdict]) -> Padding:
    return _pairs((_verdict_name(v), Text(VERDICT_TEXT[v])) for v in verdicts)


def _verdict_lines(verdict: Verdict) -> Iterator[RenderableType]:
    yield _indented(Text(VERDICT_TEXT[verdict]))
    shown = (
        "Shown by default."
        if verdict in SHOWN_BY_DEFAULT
        else f"Hidden by default; --keep {verdict.label} shows it."
    )
    if verdict is Verdict.FOREIGN:
        shown = "Hidden by default; its values are shown only with --unsafe-foreign."
    yield _indented(Text(shown))


def _outcome(rule: Rule) -> Text:
    if rule.verdict is not None:
        return _verdict_name(rule.verdict)
    withholds = rule.withhold_gprs or rule.withhold_vectors
    return Text("withhold" if withholds else "note", "dim")


def _rules(rules: Iterable[Rule]) -> Padding:
    grid = _grid(3)
    for rule in rules:
        grid.add_row(rule.name, _outcome(rule), Text(rule.text))
    return _indented(grid)


def _rule_lines(rule: Rule) -> Iterator[RenderableType]:
    yield _heading(rule.name, "a rule")
    yield _indented(Text(rule.text))
    facts: list[tuple[str | Text, Text]] = [("result", _result(rule))]
    if rule.reason != rule.name:
        reason: Reason = REASONS[rule.reason]
        facts.append(("reason", Text(f"{reason.name}: {reason.text}")))
    facts.append(("applies to", Text(_scope(rule))))
    facts.append(("source", Text(rule.reference)))
    yield _indented(_pairs(facts))


def _result(rule: Rule) -> Text:
    parts = []
    if rule.verdict is not None:
        parts.append(_verdict_name(rule.verdict))
        parts.append(Text(f" for {', '.join(rule.classes)}"))
    else:
        parts.append(Text("the verdict stays, the reason is noted"))
    if rule.withhold_gprs or rule.withhold_vectors:
        parts.append(Text("; registers are withheld"))
    return Text().join(parts)


def _scope(rule: Rule) -> str:
    sources = [_SOURCE_NAMES.get(name, name) for name in sorted(rule.sources, reverse=True)]
    sets = " and ".join(rule.sets)
    return f"set {sets}; source {', '.join(sources) if sources else 'any'}"
