"""Keeping count of what was shown, and of what was not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from perfxmm.analysis.shown import Policy, best_verdict
from perfxmm.coherence.model import VERDICT_CLASSES, Bool, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.rules import ALL_RULES
from perfxmm.coherence.verdicts import Verdict


@dataclass(slots=True)
class Account:
    """Counts over the samples that passed the filters.

    read: all samples, before the filters.
    seen: samples; shown: those with a kept verdict in a class that was asked for.
    kept, not_kept: (set, class, verdict, reasons) -> how often, for classes asked for.
    hidden, as_shown: samples that are not shown, and those that are, by their most useful verdict.
    withheld: classes without values in samples that are shown, by verdict; a class that was
        never delivered (absent) hides nothing and is not counted.
    redacted: shown samples whose values an export was told to leave out.
    lost: records that the kernel or the recorder could not write; throttled: how often sampling
        was stopped because it came too often.
    """

    seen: int = 0
    shown: int = 0
    kept: Counter[tuple[str, str, str, tuple[str, ...]]] = field(default_factory=Counter)
    not_kept: Counter[tuple[str, str, str, tuple[str, ...]]] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    as_shown: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    throttled: int = 0
    read: int = 0
    redacted: int = 0

    def count(
        self, batch: SnapshotBatch, asked: Mapping[str, Bool], policy: Policy, shown: Bool
    ) -> None:
        """Adds a judged batch. asked: bool [n, classes] per set; shown: bool [n]."""
        self.seen += len(batch)
        self.shown += int(np.count_nonzero(shown))
        for name, registers in batch.sets.items():
            visible = policy.visible(registers.verdict)
            for column, class_name in enumerate(VERDICT_CLASSES):
                rows = asked[name][:, column]
                if not rows.any():
                    continue
                verdict = registers.verdict[rows, column]
                reason = registers.reason[rows]
                for code in np.flatnonzero(np.bincount(verdict)).tolist():
                    label = Verdict(code).label
                    book = self.kept if label in policy.keep else self.not_kept
                    bits, counts = np.unique(reason[verdict == code], return_counts=True)
                    for bit, count in zip(bits.tolist(), counts.tolist(), strict=True):
                        book[name, class_name, label, reason_names(bit)] += count
                hidden = rows & shown & ~visible[:, column]
                codes = registers.verdict[hidden, column]
                for code, count in enumerate(np.bincount(codes, minlength=len(Verdict)).tolist()):
                    if count and code != Verdict.ABSENT:
                        self.withheld[Verdict(code).label] += count
        best = best_verdict(
            [r.verdict for r in batch.sets.values()], [asked[name] for name in batch.sets]
        )
        if not batch.sets:
            best = np.full(len(batch), Verdict.ABSENT, np.uint8)
        for book_of, rows in ((self.hidden, ~shown), (self.as_shown, shown)):
            for code, count in enumerate(np.bincount(best[rows], minlength=7).tolist()):
                if count:
                    book_of[Verdict(code).label] += count

    def reasons(self, verdict: str) -> list[tuple[str, int]]:
        """Why classes have `verdict`, the most frequent reason first: (reason, samples).

        Reasons of the rules that give the verdict, each with the largest count that any one
        register class of any set has of it.
        """
        deciding = {
            rule.reason for rule in ALL_RULES
            if rule.verdict is not None and rule.verdict.label == verdict
        }
        counts: Counter[tuple[str, str, str]] = Counter()
        for book in (self.kept, self.not_kept):
            for (name, class_name, label, reasons), count in book.items():
                for reason in reasons if label == verdict else ():
                    if reason in deciding:
                        counts[name, class_name, reason] += count
        most: Counter[str] = Counter()
        for (_, _, reason), count in counts.items():
            most[reason] = max(most[reason], count)
        return most.most_common()

    def as_json(self) -> dict[str, object]:
        """The short form that machine-readable results carry."""
        counts: dict[str, object] = {
            "seen": self.seen, "shown": self.shown, "hidden": dict(self.hidden),
            "withheld": dict(self.withheld), "lost": self.lost, "throttled": self.throttled,
        }  # fmt: skip
        return counts | {"redacted": self.redacted} if self.redacted else counts
