"""What can be sampled on a machine: from plain answers to a diagnosis.

Nothing here asks the machine. Who gathers hands in what was tried and what came back; this module
says what follows: which sources work, which register classes each delivers, and for every "no" the
reason and the least change that would help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Register classes in the order in which every list shows them, with what they are.
CLASS_MEANING: dict[str, str] = {
    "gpr": "general registers, IP and flags",
    "xmm": "128-bit vectors, 16 of them",
    "ymm": "256-bit vectors, 16 of them",
    "zmm": "512-bit vectors, 32 of them",
    "opmask": "AVX-512 mask registers k0 to k7",
    "egpr": "APX general registers R16 to R31",
    "ssp": "shadow stack pointer",
}
# What a CPU must have for a class; gpr is always there.
CLASS_NEEDS: dict[str, str] = {
    "xmm": "SSE2", "ymm": "AVX", "zmm": "AVX-512", "opmask": "AVX-512", "egpr": "APX",
    "ssp": "user shadow stacks (CET)",
}  # fmt: skip
# sigtrap reads these from the XSAVE image; the others it does not decode. egpr is tested on
# written bytes only: no CPU with APX was at hand.
SIGTRAP_CLASSES = ("gpr", "xmm", "ymm", "zmm", "opmask", "egpr")
# Best first: the order in which `record --source auto` tries them.
SOURCE_ORDER = ("pmu", "nmi", "sigtrap")


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried. answer: "ok" or the errno's name. next_step: what would help."""

    what: str
    call: str
    answer: str
    why: str = ""
    next_step: str = ""
    permission: bool = False

    @property
    def ok(self) -> bool:
        return self.answer == "ok"


@dataclass(frozen=True, slots=True)
class Limit:
    """One setting that decides what is allowed. value "" where it could not be read."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was gathered.

    cpu_classes: classes that /proc/cpuinfo's flags promise. enabled_classes: those whose state
    components the kernel has switched on (XCR0), None where that could not be read.
    pmu_classes: (set, precise_ip) -> classes that probing proved. pmu_dialect: "M", "O1" or "L".
    nmi_trials, nmi_classes, nmi_detail: of source nmi; no classes where its module is not loaded.
    """

    tool_version: str
    machine: Mapping[str, str]
    cpu_classes: frozenset[str]
    enabled_classes: frozenset[str] | None
    pmu_trials: Sequence[Trial]
    pmu_classes: Mapping[tuple[str, int], frozenset[str]]
    pmu_dialect: str
    sigtrap_trials: Sequence[Trial]
    interrupt_trials: Sequence[Trial]
    attach: Limit
    nmi_trials: Sequence[Trial] = ()
    nmi_classes: Sequence[str] = ()
    nmi_detail: str = ""
    limits: Sequence[Limit] = ()
    binding: Mapping[str, str] = field(default_factory=dict)
    probes: Sequence[Mapping[str, Any]] = ()
    xen: bool = False


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source. delivers: class -> where it comes from ("user", "intr", "intr, precise").

    detail: how, where it works. trials: what was tried for it. why, next_step: where it does not.
    """

    name: str
    works: bool
    delivers: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    trials: Sequence[Trial] = ()
    why: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class ClassState:
    """One register class. from_sources: source -> sets. why: where no source delivers it."""

    name: str
    in_cpu: bool
    from_sources: Mapping[str, str]
    why: str = ""

    @property
    def available(self) -> bool:
        return bool(self.from_sources)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The whole answer of `perfxmm doctor`. default_source: what `record` takes, "" for none."""

    facts: Facts
    sources: tuple[SourceState, ...]
    classes: tuple[ClassState, ...]
    default_source: str
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where anything can be sampled; 3 where only a permission is missing; else 4."""
        if self.default_source:
            return 0
        tried = (trial for source in self.sources for trial in source.trials if not trial.ok)
        return 3 if any(trial.permission for trial in tried) else 4

    def to_dict(self) -> dict[str, Any]:
        """Schema perfxmm.doctor/1: plain values only."""
        return {
            "schema": "perfxmm.doctor/1",
            "version": self.facts.tool_version,
            "machine": dict(self.facts.machine),
            "default_source": self.default_source or None,
            "sources": [
                {
                    "name": source.name, "works": source.works,
                    "delivers": dict(source.delivers), "detail": source.detail,
                    "why": source.why, "next_step": source.next_step,
                    "tried": [asdict(trial) for trial in source.trials],
                }
                for source in self.sources
            ],
            "classes": [
                {
                    "name": one.name, "meaning": CLASS_MEANING[one.name], "in_cpu": one.in_cpu,
                    "sources": dict(one.from_sources), "why": one.why,
                }
                for one in self.classes
            ],
            "limits": [asdict(limit) for limit in (self.facts.attach, *self.facts.limits)],
            "python_binding": dict(self.facts.binding),
            "probes": [dict(probe) for probe in self.facts.probes],
            "warnings": list(self.warnings),
        }  # fmt: skip


def diagnose(facts: Facts) -> Diagnosis:
    """What follows from `facts`."""
    sources = (_pmu(facts), _sigtrap(facts), _nmi(facts))
    classes = tuple(_class(name, facts, sources) for name in CLASS_MEANING)
    working = {source.name for source in sources if source.works}
    default = next((name for name in SOURCE_ORDER if name in working), "")
    return Diagnosis(facts, sources, classes, default, tuple(_warnings(facts, working)))


def _pmu(facts: Facts) -> SourceState:
    delivers = {}
    for name in CLASS_MEANING:
        places = []
        for which in ("user", "intr"):
            if name in facts.pmu_classes.get((which, 0), ()):
                places.append(which)
            elif any(name in facts.pmu_classes.get((which, p), ()) for p in (1, 2, 3)):
                places.append(f"{which}, precise")
        if places:
            delivers[name] = "; ".join(places)
    failed = next((trial for trial in facts.pmu_trials if not trial.ok), None)
    if any(name != "gpr" for name in delivers):
        return SourceState(
            "pmu", True, delivers, trials=facts.pmu_trials,
            detail="registers in the sample record"
            + (f", SIMD ABI dialect {facts.pmu_dialect}" if facts.pmu_dialect != "L" else
               ", XMM only: the kernel has no SIMD ABI"),
        )  # fmt: skip
    return SourceState(
        "pmu", False, delivers, trials=facts.pmu_trials,
        why=failed.why if failed else "this kernel, PMU and CPU deliver no vector registers",
        next_step=failed.next_step if failed else "a kernel with SIMD register sampling",
    )


def _sigtrap(facts: Facts) -> SourceState:
    there = facts.cpu_classes if facts.enabled_classes is None else facts.enabled_classes
    delivers = {name: "user" for name in SIGTRAP_CLASSES if name == "gpr" or name in there}
    perf_failed = [trial for trial in facts.sigtrap_trials if not trial.ok]
    trace_failed = [trial for trial in facts.interrupt_trials if not trial.ok]
    trials = (*facts.sigtrap_trials, *facts.interrupt_trials)
    if trace_failed:
        return SourceState("sigtrap", False, {}, trials=trials, why=trace_failed[0].why,
                           next_step=trace_failed[0].next_step)  # fmt: skip
    if perf_failed:
        return SourceState(
            "sigtrap", True, delivers, trials=trials,
            detail="with --engine interrupt only: threads are stopped by a timer, waiting system "
            "calls may return EINTR",
            why=perf_failed[0].why, next_step=perf_failed[0].next_step,
        )  # fmt: skip
    return SourceState(
        "sigtrap", True, delivers, trials=trials,
        detail="a thread stops at its own SIGTRAP; registers and their IP belong together",
    )


def _nmi(facts: Facts) -> SourceState:
    failed = next((trial for trial in facts.nmi_trials if not trial.ok), None)
    if failed is None and facts.nmi_classes:
        return SourceState(
            "nmi", True, dict.fromkeys(facts.nmi_classes, "intr"), facts.nmi_detail,
            facts.nmi_trials,
        )  # fmt: skip
    return SourceState(
        "nmi", False, trials=facts.nmi_trials,
        why=failed.why if failed else "the kernel module xsaves_nmi is not loaded",
        next_step=failed.next_step if failed else "perfxmm module build, then load",
    )


def _class(name: str, facts: Facts, sources: Sequence[SourceState]) -> ClassState:
    in_cpu = name == "gpr" or name in facts.cpu_classes
    found = {s.name: s.delivers[name] for s in sources if s.works and name in s.delivers}
    why = ""
    if not found:
        enabled = facts.enabled_classes
        if not in_cpu:
            why = f"the CPU, or its kernel, has no {CLASS_NEEDS[name]}"
        elif enabled is not None and name not in enabled and name in SIGTRAP_CLASSES:
            why = "the kernel has not switched its state on (XCR0)"
        elif name not in SIGTRAP_CLASSES:
            why = "only a PMU with the SIMD ABI delivers it"
        else:
            why = "no source works here"
    return ClassState(name, in_cpu, found, why)


def _warnings(facts: Facts, working: set[str]) -> list[str]:
    found = []
    if facts.xen and "pmu" in working:
        found.append("under Xen the kernel cannot tell whose registers it sampled: expect unknown")
    if facts.enabled_classes is None:
        found.append("XCR0 could not be read: register classes are by /proc/cpuinfo's flags alone")
    return found
