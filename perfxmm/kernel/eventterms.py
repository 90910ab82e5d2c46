"""The small grammar inside event strings: comma lists, `term=value`, numbers, rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from perfxmm.errors import UsageError
from perfxmm.kernel.pmus import CONFIG_FIELDS

# Terms that perf knows inside slashes and that are options of `perfxmm record` here.
RECORD_TERMS = {
    "call-graph": "-g", "max-stack": "-g", "stack-size": "-g", "nr": "-g", "time": "",
    "inherit": "--no-inherit", "no-inherit": "--no-inherit", "overwrite": "", "no-overwrite": "",
    "branch_type": "", "percore": "", "aux-output": "", "aux-sample-size": "", "driver-config": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """name=value; value is None where only the name stands."""

    name: str
    value: str | None


@dataclass(slots=True)
class Draft:
    """An attr in the making. fields: config, config1, ... by name.

    period: sample_period, or the frequency in Hz where is_frequency.
    """

    type: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    name: str = ""
    period: int = 0
    is_frequency: bool = False
    rate_given: bool = False

    def copy(self) -> Draft:
        return Draft(
            self.type, dict(self.fields), self.name, self.period, self.is_frequency,
            self.rate_given,
        )  # fmt: skip


def split_outside(text: str) -> list[str]:
    """`text` at the commas outside slashes and quotes. A breakpoint's slash opens nothing."""
    parts = [""]
    inside = False
    quote = ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif inside and letter in "'\"":
            quote = letter
        elif letter == "/" and not parts[-1].lstrip().startswith("mem:"):
            inside = not inside
        elif letter == "," and not inside:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def parse_terms(text: str, token: str) -> list[Term]:
    """The terms of a comma list; quotes keep commas together. token: for the error's text."""
    terms = []
    for part in _split_quoted(text):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not name:
            if part.strip() or text.strip():
                raise UsageError(f"a term's name is missing in {token!r}")
            continue
        terms.append(Term(name, _unquoted(value.strip()) if equals else None))
    return terms


def parse_number(text: str, token: str, what: str) -> int:
    """An unsigned 64-bit number, decimal or 0x. UsageError otherwise."""
    try:
        if not text.isascii() or not text.isalnum():
            raise ValueError
        value = int(text, 16) if text[:2].lower() == "0x" else int(text, 10)
    except ValueError:
        raise UsageError(
            f"{what}={text} is not a number in {token!r}",
            next_step="write decimal digits, or 0x and hexadecimal ones",
        ) from None
    if value >= 1 << 64:
        raise UsageError(f"{what}={text} does not fit in 64 bits", where=token)
    return value


def take_rate(
    draft: Draft, terms: Iterable[Term], token: str, formats: Collection[str] | None = None
) -> list[Term]:
    """Put the terms that every event has into `draft`: config*, period, freq, name.

    formats: the PMU's own terms, which win over these. None: there is no PMU to ask, so any other
    term is a UsageError. Returns the terms that are left.
    """
    left = []
    for term in terms:
        name, value = term.name, term.value
        if formats is not None and name in formats:
            left.append(term)
        elif name in CONFIG_FIELDS and formats is not None:
            draft.fields[name] = parse_number(value or "", token, name)
        elif name in ("period", "freq"):
            draft.period = parse_number(value or "", token, name)
            draft.is_frequency = name == "freq"
            draft.rate_given = True
            if draft.period == 0:
                raise UsageError(f"{name}=0 samples nothing in {token!r}")
        elif name == "name" and value:
            draft.name = value
        elif name in RECORD_TERMS:
            option = RECORD_TERMS[name]
            raise UsageError(
                f"the term {name!r} is not taken inside an event", where=token,
                next_step=f"see {option} of `perfxmm record`" if option else "leave it out",
            )
        elif formats is None:
            raise UsageError(
                f"{name!r} is not a term of this event", where=token,
                next_step="it takes period=, freq= and name=",
            )
        else:
            left.append(term)
    return left


def _split_quoted(text: str) -> list[str]:
    parts = [""]
    quote = ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == ",":
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
