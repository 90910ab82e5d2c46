"""May this register of this snapshot be believed? Rules, verdicts, reasons."""

from perfxmm.coherence.context import EventContext, JudgeContext
from perfxmm.coherence.evidence import asked_components
from perfxmm.coherence.filter import (
    class_counts,
    init_classes,
    judge,
    kept_rows,
    reason_counts,
    scrub_foreign,
    withhold,
)
from perfxmm.coherence.reasons import REASONS, Reason, reason_names
from perfxmm.coherence.rule import Rule
from perfxmm.coherence.rules import ALL_RULES, RULES
from perfxmm.coherence.verdicts import SHOWN_BY_DEFAULT, VERDICT_TEXT, Verdict, parse_verdicts

__all__ = [
    "ALL_RULES",
    "REASONS",
    "RULES",
    "SHOWN_BY_DEFAULT",
    "VERDICT_TEXT",
    "EventContext",
    "JudgeContext",
    "Reason",
    "Rule",
    "Verdict",
    "asked_components",
    "class_counts",
    "init_classes",
    "judge",
    "kept_rows",
    "parse_verdicts",
    "reason_counts",
    "reason_names",
    "scrub_foreign",
    "withhold",
]
