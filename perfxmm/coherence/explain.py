"""What `perfxmm explain` knows: verdicts, reasons and rules as plain data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from perfxmm.coherence.reasons import REASONS, Reason
from perfxmm.coherence.rule import Rule
from perfxmm.coherence.rules import ALL_RULES
from perfxmm.coherence.verdicts import SHOWN_BY_DEFAULT, VERDICT_TEXT, Verdict
from perfxmm.errors import UsageError

SCHEMA = "perfxmm.explain/1"
# Words that views print in place of values: what they mean, and the reason behind them if there
# is one.
WORDS: dict[str, tuple[str, str | None]] = {
    "init": (
        "Stands in place of a register's value: the part is in its architectural initial state, "
        "all zero, and the program has not touched it.", "init-state",
    ),
    "withheld": (
        "Stands in place of a register's value: it was delivered, but its class has a verdict "
        "that is not among those shown (--keep), or it is foreign (--unsafe-foreign).", None,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that bears one name. `name` may be a verdict, a reason and a rule at once.

    rules: the rule of that name and those that give the verdict or the reason, in precedence
        order (a later one overrides an earlier one).
    word: what it means where a view prints it in place of a value, else "".
    """

    name: str
    verdict: Verdict | None
    reason: Reason | None
    rules: tuple[Rule, ...]
    word: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "word": self.word or None,
            "verdict": None if self.verdict is None else verdict_dict(self.verdict),
            "reason": None if self.reason is None else reason_dict(self.reason),
            "rules": [rule.to_dict() for rule in self.rules],
        }


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.label,
        "code": int(verdict),
        "text": VERDICT_TEXT[verdict],
        "shown_by_default": verdict in SHOWN_BY_DEFAULT,
    }


def reason_dict(reason: Reason) -> dict[str, Any]:
    return {"name": reason.name, "bit": reason.bit, "text": reason.text}


def everything() -> dict[str, Any]:
    """All three tables, machine-readable."""
    return {
        "schema": SCHEMA,
        "verdicts": [verdict_dict(verdict) for verdict in Verdict],
        "reasons": [reason_dict(reason) for reason in REASONS.values()],
        "rules": [rule.to_dict() for rule in ALL_RULES],
    }


def explain(name: str) -> Explanation:
    """What `name` means. Raises UsageError with the nearest names where it means nothing."""
    word = name.strip().lower().replace("_", "-")
    verdict = next((v for v in Verdict if v.label == word), None)
    meaning, behind = WORDS.get(word, ("", word))
    reason = REASONS.get(behind or "")
    rules = tuple(
        rule
        for rule in ALL_RULES
        if rule.name == word
        or rule.reason == behind
        or (verdict is not None and rule.verdict is verdict)
    )
    if verdict is None and reason is None and not rules and not meaning:
        known = sorted(known_names())
        near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
        raise UsageError(
            f"nothing is called {name!r}",
            why=f"did you mean {', '.join(near)}?" if near else "no verdict, reason or rule is",
            next_step="'perfxmm explain' lists every name.",
        )
    return Explanation(word, verdict, reason, rules, meaning)


def known_names() -> set[str]:
    """Every name that `explain` takes, for tab completion too."""
    rules = {rule.name for rule in ALL_RULES}
    return {v.label for v in Verdict} | set(REASONS) | rules | set(WORDS)
