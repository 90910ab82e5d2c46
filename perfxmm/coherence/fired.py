"""Which rules spoke of one sample, and what each said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.context import JudgeContext
from perfxmm.coherence.evidence import Evidence, both
from perfxmm.coherence.rule import Rule
from perfxmm.coherence.rules import RULES
from perfxmm.snapshots.batch import SnapshotBatch


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that matched. classes: those that it gave its verdict to, () where it has none and
    only noted its reason. Later rules may have overridden it."""

    rule: Rule
    classes: tuple[str, ...]


def fired(batch: SnapshotBatch, context: JudgeContext, row: int) -> dict[str, list[Fired]]:
    """The rules that match sample `row`, by set, in the order in which the filter applies them.

    batch: as it was decoded; `filter.judge` takes out what rules look at.
    """
    shared: dict[str, Mask] = {}
    found: dict[str, list[Fired]] = {}
    for name, registers in batch.sets.items():
        evidence = Evidence(batch, registers, context, shared)
        found[name] = [
            one for rule in RULES if name in rule.sets
            and (one := _match(evidence, rule, row)) is not None
        ]
    return found


def _match(evidence: Evidence, rule: Rule, row: int) -> Fired | None:
    spoken_of = evidence.of_sources(rule.sources)
    if spoken_of is False:
        return None
    mask = both(spoken_of, rule.match(evidence))
    if not _in(mask, row):
        return None
    if rule.class_match is None:
        return Fired(rule, rule.classes if rule.verdict is not None else ())
    classes = tuple(
        name for name in rule.classes if _in(rule.class_match(evidence, name), row)
    )
    return Fired(rule, classes) if classes else None


def _in(mask: Mask, row: int) -> bool:
    return mask if isinstance(mask, bool) else bool(np.asarray(mask)[row])
