"""What a rule is: one row of the table that the filter walks through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perfxmm.coherence.compare import Mask
from perfxmm.coherence.evidence import Evidence
from perfxmm.coherence.reasons import REASONS
from perfxmm.coherence.verdicts import Verdict
from perfxmm.snapshots.batch import VERDICT_CLASSES

VECTORS: tuple[str, ...] = ("xmm", "ymm", "zmm", "opmask")
UPPER: tuple[str, ...] = ("ymm", "zmm", "opmask")

# Sources by how their registers come about. "" is a file of perf's own.
PMU: frozenset[str] = frozenset({"pmu", ""})
SIGTRAP: frozenset[str] = frozenset({"sigtrap"})
NMI: frozenset[str] = frozenset({"nmi"})
ANY_SOURCE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row.

    match: which samples the rule speaks of (Evidence -> mask); its docstring is the rule's text.
    reason: name of the reason that is noted in those samples.
    verdict: what it says of each class in `classes`; None only notes the reason.
    classes: of VERDICT_CLASSES. class_match: for rules whose samples differ from class to class,
        (Evidence, class) -> mask; `match` then only says whether the rule speaks at all.
    sets: register sets it applies to. sources: recordings it applies to; empty means all.
    withhold_gprs, withhold_vectors: registers (bits as in gpr_mask and vector_mask) taken out of
        the snapshot where the rule matches.
    reference: where the behaviour comes from.
    """

    name: str
    match: Callable[[Evidence], Mask]
    reason: str
    reference: str
    verdict: Verdict | None = None
    classes: tuple[str, ...] = VERDICT_CLASSES
    class_match: Callable[[Evidence, str], Mask] | None = None
    sets: tuple[str, ...] = ("intr", "user")
    sources: frozenset[str] = PMU
    withhold_gprs: int = 0
    withhold_vectors: int = 0
    columns: tuple[int, ...] = field(init=False)
    reason_mask: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "columns", tuple(VERDICT_CLASSES.index(name) for name in self.classes)
        )
        object.__setattr__(self, "reason_mask", REASONS[self.reason].mask)

    @property
    def text(self) -> str:
        """What the rule says, in words: the docstring of its function on one line."""
        return " ".join((self.match.__doc__ or "").split())

    def applies(self, source: str, set_name: str) -> bool:
        return set_name in self.sets and (not self.sources or source in self.sources)

    def to_dict(self) -> Mapping[str, object]:
        """The machine-readable row of `perfxmm explain --json`."""
        return {
            "name": self.name,
            "text": self.text,
            "reason": self.reason,
            "verdict": None if self.verdict is None else self.verdict.label,
            "classes": list(self.classes) if self.verdict is not None else [],
            "sets": list(self.sets),
            "sources": sorted(self.sources) if self.sources else ["any"],
            "withholds_gprs": f"{self.withhold_gprs:#x}",
            "withholds_vectors": f"{self.withhold_vectors:#x}",
            "reference": self.reference,
        }
