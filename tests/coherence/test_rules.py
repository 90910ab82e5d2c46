"""Every rule of the table: one case in which it speaks, one in which it must not.

Samples are built column by column; what kernels really write is judged in test_kernel_recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from support.batches import ABI_32_SIMD, ABI_64, ALL_IN_USE, IP, STOPPED, batch, register_set

from perfxmm.coherence import (
    RULES,
    EventContext,
    JudgeContext,
    Verdict,
    class_counts,
    init_classes,
    judge,
    reason_counts,
    reason_names,
)
from perfxmm.coherence.rule import NMI
from perfxmm.coherence.rules_pmu import CALLEE_SAVED
from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.registers import (
    ABI32_GPR_MASK,
    CLASSIC_GPR_MASK,
    EGPR_MASK,
    GPR_ID,
    GPR_IP,
    SSP_MASK,
)
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

YMM_ASKED = frozenset({"gpr", "ymm"})
ZMM_ASKED = frozenset({"gpr", "zmm", "opmask"})
C, LATE, ENTRY, TORN, FOREIGN, ABSENT, UNKNOWN = (
    "coherent", "late", "entry", "torn", "foreign", "absent", "unknown",
)  # fmt: skip
# gpr, xmm, ymm, zmm, opmask of a YMM sample
YMM_ALL = {
    verdict: (verdict, verdict, verdict, ABSENT, ABSENT)
    for verdict in (C, LATE, ENTRY, FOREIGN, UNKNOWN)
}
NO_VECTORS = (C, ABSENT, ABSENT, ABSENT, ABSENT)
NOTHING = (ABSENT,) * 5


def event(dialect: str = "M", **changes: Any) -> EventContext:
    asked = {"user": YMM_ASKED, "intr": YMM_ASKED}
    default = EventContext(dialect, simd_enabled=dialect != "L", classes=asked)
    return replace(default, **changes)


def pmu(one: EventContext | None = None, **changes: Any) -> JudgeContext:
    return JudgeContext("pmu", "", (one or event(),), **changes)


def sigtrap(one: EventContext | None = None) -> JudgeContext:
    return JudgeContext("sigtrap", "perf", (one or event(),))


def intr(**changes: Any) -> RegisterSet:
    return register_set(name="intr", **changes)


def user(**changes: Any) -> RegisterSet:
    return register_set(name="user", **changes)


def zeros(registers: int = 16, qwords: int = 4) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.zeros((1, registers, qwords), np.uint64)


def upper_zero(qwords: int = 4) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = zeros(16, qwords)
    values[:, 3, :2] = 7
    return values


def stop(*flags: StopFlag) -> int:
    return STOPPED | int(np.bitwise_or.reduce([int(flag) for flag in flags] or [0]))


def wide_stop(**changes: Any) -> RegisterSet:
    return user(registers=32, qwords=8, predicates=8, **changes)


@dataclass
class Case:
    """`make` gives the sample, `verdicts` is what its set `of` gets, `context` what is known."""

    make: Callable[[], SnapshotBatch]
    verdicts: tuple[str, ...]
    of: str = "intr"
    context: JudgeContext = field(default_factory=pmu)


def kernel_sample(**changes: Any) -> Callable[[], SnapshotBatch]:
    """Kernel mode, both sets."""
    return lambda: batch(
        intr(ip=0xFFFFFFFF8101A60F), user(**changes), ip=0xFFFFFFFF8101A60F,
        cpumode=CpuMode.KERNEL,
    )  # fmt: skip


def user_sample(**changes: Any) -> Callable[[], SnapshotBatch]:
    """User mode, interrupt set only."""
    return lambda: batch(intr(**changes))


def stopped(flags: int = STOPPED, **changes: Any) -> Callable[[], SnapshotBatch]:
    """A stop of the sigtrap source."""
    return lambda: batch(user(**changes), stop_flags=flags)


def egpr_sample(r16: int) -> Callable[[], SnapshotBatch]:
    """General registers up to R31, of which all but R16 are zero, and nothing else."""
    high = dict.fromkeys(range(24, 40), 0)
    return user_sample(
        gpr_mask=CLASSIC_GPR_MASK | EGPR_MASK, gprs={**high, 24: r16}, registers=0, qwords=0,
        vectors=np.zeros((1, 0, 0), np.uint64),
    )


EGPR_ONLY = pmu(event(classes={"intr": frozenset({"gpr", "egpr"})}))
PRECISE_M = pmu(event(precise_ip=2))
PRECISE_O1 = pmu(event("O1", precise_ip=1))
LEGACY = event("L", classes={"intr": frozenset({"gpr", "xmm"})})
SIGTRAP = sigtrap()
TRACEPOINT = event(in_kernel=True)
REDACTED = pmu(redacted=True)
HIGH = {"classes": {"intr": ZMM_ASKED, "user": ZMM_ASKED}, "high_vectors": frozenset({"user"})}
CUT_R2 = pmu(event("R2", **HIGH))
ZMM_SIGTRAP = sigtrap(event(classes={"user": ZMM_ASKED}))
XMM = {"qwords": 2}
LEGACY_SET = {"qwords": 2, "abi": ABI_64}
XMM_ONLY = (C, C, ABSENT, ABSENT, ABSENT)

# rule -> (a sample it speaks of, a sample it does not speak of)
CASES: dict[str, tuple[Case, Case]] = {
    "intr-user-mode": (
        Case(user_sample(), YMM_ALL[C]),
        Case(kernel_sample(), YMM_ALL[FOREIGN]),
    ),
    "user-user-mode": (
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
        Case(kernel_sample(), YMM_ALL[ENTRY], "user"),
    ),
    "after-instruction": (
        Case(user_sample(), YMM_ALL[C], context=PRECISE_M),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "legacy-any-event": (
        Case(user_sample(**LEGACY_SET), XMM_ONLY, context=pmu(LEGACY)),
        Case(user_sample(**LEGACY_SET), XMM_ONLY, context=pmu(replace(LEGACY, precise_ip=1))),
    ),
    "ip-match": (
        Case(user_sample(), YMM_ALL[C]),
        Case(user_sample(ip=IP + 4), YMM_ALL[LATE]),
    ),
    "ip-differs": (
        Case(user_sample(ip=IP + 4), YMM_ALL[LATE]),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "in-kernel-event": (
        Case(lambda: batch(user()), YMM_ALL[ENTRY], "user", pmu(TRACEPOINT)),
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
    ),
    "user-kernel-entry": (
        Case(kernel_sample(), YMM_ALL[ENTRY], "user"),
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
    ),
    "callee-saved-unknown": (
        Case(kernel_sample(), YMM_ALL[ENTRY], "user"),
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
    ),
    "user-kernel-overlay": (
        Case(
            kernel_sample(), (ENTRY, UNKNOWN, UNKNOWN, ABSENT, ABSENT), "user", pmu(event("O1"))
        ),
        Case(kernel_sample(), YMM_ALL[ENTRY], "user"),
    ),
    "mixed-sources": (
        Case(user_sample(), (C, C, TORN, ABSENT, ABSENT), context=PRECISE_O1),
        Case(user_sample(), YMM_ALL[C], context=replace(PRECISE_O1, arch_pebs=True)),
    ),
    "egpr-torn": (
        Case(
            user_sample(gpr_mask=CLASSIC_GPR_MASK | EGPR_MASK | SSP_MASK),
            (C, C, TORN, ABSENT, ABSENT), context=PRECISE_O1,
        ),
        Case(user_sample(gpr_mask=CLASSIC_GPR_MASK | EGPR_MASK), YMM_ALL[C], context=PRECISE_M),
    ),
    "user-precise-unread": (
        Case(lambda: batch(user()), (C, UNKNOWN, UNKNOWN, ABSENT, ABSENT), "user", PRECISE_O1),
        Case(lambda: batch(user()), YMM_ALL[C], "user", PRECISE_M),
    ),
    "twin-mismatch": (
        Case(
            lambda: batch(intr(), user(vectors=upper_zero())), YMM_ALL[UNKNOWN], "user",
        ),
        Case(lambda: batch(intr(), user()), YMM_ALL[C], "user"),
    ),
    "payload-cut": (
        Case(
            lambda: batch(user(qwords=8, predicates=8)), (C, C, C, C, UNKNOWN), "user", CUT_R2
        ),
        Case(
            lambda: batch(user(qwords=8, registers=32, predicates=8)), (C,) * 5, "user", CUT_R2
        ),
    ),
    "behind-cut-payload": (
        Case(
            lambda: batch(user(qwords=8), intr(qwords=8, predicates=8)), (UNKNOWN,) * 5,
            context=CUT_R2,
        ),
        Case(
            lambda: batch(user(qwords=8, registers=32), intr(qwords=8, predicates=8)), (C,) * 5,
            context=CUT_R2,
        ),
    ),
    "xen-stale": (
        Case(
            user_sample(), (C, UNKNOWN, UNKNOWN, ABSENT, ABSENT),
            context=pmu(event("O1"), xen=True),
        ),
        Case(user_sample(), YMM_ALL[C], context=pmu(xen=True)),
    ),
    "not-collected": (
        Case(user_sample(vectors=zeros()), NO_VECTORS),
        Case(user_sample(vectors=upper_zero()), YMM_ALL[C]),
    ),
    "legacy-zero": (
        Case(user_sample(vectors=zeros(16, 2), abi=ABI_64), NO_VECTORS, context=pmu(LEGACY)),
        Case(user_sample(vectors=upper_zero(2), abi=ABI_64), XMM_ONLY, context=pmu(LEGACY)),
    ),
    "xen-zero": (
        Case(user_sample(vectors=zeros()), NO_VECTORS, context=pmu(xen=True)),
        Case(user_sample(vectors=zeros()), NO_VECTORS),
    ),
    "user-kernel-live": (
        Case(
            kernel_sample(), (ENTRY, FOREIGN, FOREIGN, ABSENT, ABSENT), "user", pmu(event("R2"))
        ),
        Case(kernel_sample(), YMM_ALL[ENTRY], "user"),
    ),
    "dialect-unknown": (
        Case(
            kernel_sample(), (ENTRY, FOREIGN, FOREIGN, ABSENT, ABSENT), "user", pmu(event("?"))
        ),
        Case(
            kernel_sample(), (ENTRY, FOREIGN, FOREIGN, ABSENT, ABSENT), "user", pmu(event("R2"))
        ),
    ),
    "cpumode-unknown": (
        Case(lambda: batch(intr(), cpumode=CpuMode.UNKNOWN), YMM_ALL[UNKNOWN]),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "kernel-mode": (
        Case(kernel_sample(), YMM_ALL[FOREIGN]),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "guest": (
        Case(lambda: batch(user(), cpumode=CpuMode.GUEST_USER), YMM_ALL[FOREIGN], "user"),
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
    ),
    "hypervisor": (
        Case(lambda: batch(user(), cpumode=CpuMode.HYPERVISOR), YMM_ALL[FOREIGN], "user"),
        Case(lambda: batch(user()), YMM_ALL[C], "user"),
    ),
    "idle-task": (
        Case(lambda: batch(intr(), pid=0, tid=0), YMM_ALL[FOREIGN]),
        Case(lambda: batch(intr(), pid=-1, tid=-1), YMM_ALL[C]),
    ),
    "kernel-thread": (
        Case(user_sample(), YMM_ALL[FOREIGN], context=pmu(kernel_tids=frozenset({7, 100}))),
        Case(user_sample(), YMM_ALL[C], context=pmu(kernel_tids=frozenset({7}))),
    ),
    "skid": (
        Case(
            lambda: batch(intr(abi=0), user(), ip=0, cpumode=CpuMode.KERNEL), YMM_ALL[ENTRY],
            "user",
        ),
        Case(
            lambda: batch(intr(abi=0), user(), ip=0, cpumode=CpuMode.KERNEL), YMM_ALL[ENTRY],
            "user", pmu(event(exclude_kernel=False)),
        ),
    ),
    "simd-missing": (
        Case(user_sample(abi=ABI_64), NO_VECTORS),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "upper-zero": (
        Case(user_sample(vectors=upper_zero()), YMM_ALL[C]),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "high-vectors-garbage": (
        Case(
            lambda: batch(intr(registers=32, qwords=8)), (C, C, C, C, ABSENT),
            context=pmu(event("R2", classes={"intr": ZMM_ASKED})),
        ),
        Case(
            lambda: batch(intr(registers=32, qwords=8)), (C, C, C, C, ABSENT),
            context=pmu(event(classes={"intr": ZMM_ASKED})),
        ),
    ),
    "high-vectors-unread": (
        Case(user_sample(registers=32, qwords=4), YMM_ALL[C]),
        Case(user_sample(registers=16, qwords=4), YMM_ALL[C]),
    ),
    "stopped-in-user-mode": (
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
        Case(stopped(0), YMM_ALL[UNKNOWN], "user", SIGTRAP),
    ),
    "stop-ip-match": (
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
        Case(stopped(ip=IP + 3), YMM_ALL[LATE], "user", SIGTRAP),
    ),
    "stop-ip-differs": (
        Case(stopped(ip=IP + 3), YMM_ALL[LATE], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "async-trap": (
        Case(stopped(stop(StopFlag.ASYNC)), YMM_ALL[LATE], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "sigtrap-blocked": (
        Case(stopped(stop(StopFlag.SIGTRAP_BLOCKED)), YMM_ALL[LATE], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "kernel-mode-event": (
        Case(
            lambda: batch(user(), cpumode=CpuMode.KERNEL, stop_flags=STOPPED), YMM_ALL[LATE],
            "user", SIGTRAP,
        ),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "unpaired": (
        Case(stopped(stop(StopFlag.UNPAIRED)), YMM_ALL[LATE], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "group-stop": (
        Case(stopped(stop(StopFlag.GROUP_STOP)), YMM_ALL[LATE], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "interrupt-engine": (
        Case(stopped(stop(StopFlag.INTERRUPT)), YMM_ALL[C], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "in-syscall": (
        Case(
            stopped(stop(StopFlag.INTERRUPT, StopFlag.SYSCALL)), YMM_ALL[ENTRY], "user", SIGTRAP
        ),
        Case(stopped(stop(StopFlag.INTERRUPT)), YMM_ALL[C], "user", SIGTRAP),
    ),
    "ip-not-recorded": (
        Case(stopped(gpr_mask=1), YMM_ALL[UNKNOWN], "user", SIGTRAP),
        Case(stopped(stop(StopFlag.INTERRUPT), gpr_mask=1), YMM_ALL[C], "user", SIGTRAP),
    ),
    "no-stop-info": (
        Case(stopped(0), YMM_ALL[UNKNOWN], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "compat-code": (
        Case(stopped(stop(StopFlag.COMPAT)), YMM_ALL[C], "user", SIGTRAP),
        Case(stopped(), YMM_ALL[C], "user", SIGTRAP),
    ),
    "init-state": (
        Case(stopped(xstate_bv=0b011), YMM_ALL[C], "user", SIGTRAP),
        Case(stopped(xstate_bv=0b111), YMM_ALL[C], "user", SIGTRAP),
    ),
    "ssp-absent": (
        Case(user_sample(gpr_mask=SSP_MASK | 1 << GPR_IP, gprs={GPR_ID["SSP"]: 0}), YMM_ALL[C]),
        Case(user_sample(gpr_mask=SSP_MASK | 1 << GPR_IP), YMM_ALL[C]),
    ),
    "abi32": (
        Case(user_sample(abi=ABI_32_SIMD), YMM_ALL[C]),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "source-unknown": (
        Case(user_sample(), YMM_ALL[UNKNOWN], context=JudgeContext("tarot", "", (event(),))),
        Case(user_sample(), YMM_ALL[C], context=JudgeContext("", "", (event(),))),
    ),
    "egpr-absent": (
        Case(egpr_sample(0), NO_VECTORS, context=EGPR_ONLY),
        Case(egpr_sample(7), NO_VECTORS, context=EGPR_ONLY),
    ),
    "reduced-initial": (
        Case(user_sample(qwords=2), XMM_ONLY, context=pmu(event("R2"))),
        Case(user_sample(qwords=2), XMM_ONLY),
    ),
    "user-copy-unreset": (
        Case(lambda: batch(user()), (C, UNKNOWN, UNKNOWN, ABSENT, ABSENT), of="user",
             context=pmu(event("R6"))),
        Case(lambda: batch(intr(), user()), YMM_ALL[C], of="user", context=pmu(event("R6"))),
    ),
    "not-delivered": (
        Case(user_sample(qwords=2), XMM_ONLY),
        Case(user_sample(), YMM_ALL[C]),
    ),
    "not-asked": (
        Case(user_sample(), YMM_ALL[C]),
        Case(
            lambda: batch(intr(registers=32, qwords=8, predicates=8)), (C,) * 5,
            context=pmu(event(classes={"intr": ZMM_ASKED})),
        ),
    ),
    "abi-none": (
        Case(lambda: batch(intr(abi=0), user()), NOTHING),
        Case(lambda: batch(intr(abi=0), user()), NOTHING, context=REDACTED),
    ),
    "redacted": (
        Case(lambda: batch(intr(abi=0), user()), NOTHING, context=REDACTED),
        Case(lambda: batch(intr(abi=0), user()), NOTHING),
    ),
}  # fmt: skip

RULE_BY_NAME = {rule.name: rule for rule in RULES}


def judged(case: Case) -> RegisterSet:
    samples = case.make()
    judge(samples, case.context)
    return samples.sets[case.of]


def verdicts(registers: RegisterSet, row: int = 0) -> tuple[str, ...]:
    return tuple(Verdict(code).label for code in registers.verdict[row])


def test_egpr_of_zero_is_believed_where_something_else_was_read() -> None:
    def mask(r16: int, **changes: Any) -> int:
        samples = batch(
            intr(gpr_mask=CLASSIC_GPR_MASK | EGPR_MASK,
                 gprs={**dict.fromkeys(range(24, 40), 0), 24: r16}, **changes)
        )  # fmt: skip
        judge(samples, pmu(event(classes={"intr": frozenset({"gpr", "egpr", "ymm"})})))
        return int(samples.sets["intr"].gpr_mask[0])

    everything = CLASSIC_GPR_MASK | EGPR_MASK
    assert mask(0) == everything  # vectors are there, so XSAVES ran: initial state
    assert mask(0, vectors=zeros()) == CLASSIC_GPR_MASK
    assert mask(7, vectors=zeros()) == everything


def test_a_set_without_its_simd_block_has_no_registers_named_by_it() -> None:
    samples = batch(intr(abi=ABI_64, gpr_mask=CLASSIC_GPR_MASK | EGPR_MASK | SSP_MASK))
    judge(samples, pmu())
    assert samples.sets["intr"].gpr_mask.tolist() == [CLASSIC_GPR_MASK]


@pytest.mark.parametrize(
    ("dialect", "proven", "arch_pebs", "ymm"),
    [("M", True, None, C), ("M", False, None, TORN), ("M", False, True, C),
     ("O2", True, None, TORN), ("O2", True, True, C), ("O1", True, None, TORN),
     ("R6", True, None, TORN), ("R2", True, None, TORN), ("unknown", True, None, TORN)],
)  # fmt: skip
def test_precise_events_by_dialect(
    dialect: str, proven: bool, arch_pebs: bool | None, ymm: str
) -> None:
    samples = batch(intr())
    asked = event(dialect, precise_ip=2, merged_proven=proven)
    judge(samples, pmu(asked, arch_pebs=arch_pebs))
    assert verdicts(samples.sets["intr"]) == (C, C, ymm, ABSENT, ABSENT)


@pytest.mark.parametrize(
    ("dialect", "vectors"),
    [("M", ENTRY), ("O2", ENTRY), ("O1", UNKNOWN), ("R6", UNKNOWN), ("R2", FOREIGN),
     ("unknown", FOREIGN)],
)  # fmt: skip
def test_user_sets_of_kernel_mode_by_dialect(dialect: str, vectors: str) -> None:
    samples = kernel_sample()()
    judge(samples, pmu(event(dialect)))
    assert verdicts(samples.sets["user"]) == (ENTRY, vectors, vectors, ABSENT, ABSENT)
    # V4 gives nothing at all there.
    none = kernel_sample(abi=0)()
    judge(none, pmu(event(dialect)))
    assert verdicts(none.sets["user"]) == NOTHING


@pytest.mark.parametrize("dialect", ["M", "O1", "O2", "R2", "R6", "unknown"])
def test_twins_that_differ_are_not_believed_in_any_dialect(dialect: str) -> None:
    samples = batch(intr(), user(vectors=upper_zero()))
    judge(samples, pmu(event(dialect)))
    for registers in samples.sets.values():
        assert verdicts(registers) == YMM_ALL[UNKNOWN]
    precise = batch(intr(), user(vectors=upper_zero()))
    judge(precise, pmu(event(dialect, precise_ip=1)))
    assert "twin-mismatch" not in reason_names(precise.sets["intr"].reason[0])


def test_what_a_posting_cut_is_told_to_be_zero() -> None:
    cases = [
        # qwords, opmasks, vectors -> reduced
        (8, 8, None, False), (4, 8, None, True), (2, 8, None, True), (8, 0, None, True),
        (0, 8, 0, False),
    ]  # fmt: skip
    for qwords, predicates, delivered, reduced in cases:
        samples = batch(
            intr(qwords=qwords, predicates=predicates, delivered_vectors=delivered)
        )
        judge(samples, pmu(event("R2", classes={"intr": ZMM_ASKED})))
        names = reason_names(samples.sets["intr"].reason[0])
        assert ("reduced-initial" in names) == reduced, (qwords, predicates)


def test_every_rule_has_a_case_and_a_counter_example() -> None:
    # Those of source nmi are in test_rules_nmi; staleness takes more than one sample:
    # test_staleness.
    named = {rule.name for rule in RULES if rule.sources != NMI}
    assert set(CASES) | {"stale-suspected"} == named
    assert len(RULE_BY_NAME) == len(RULES)


@pytest.mark.parametrize("name", list(CASES))
def test_rule_speaks(name: str) -> None:
    case, _ = CASES[name]
    registers = judged(case)
    assert verdicts(registers) == case.verdicts
    assert RULE_BY_NAME[name].reason in reason_names(registers.reason[0])


@pytest.mark.parametrize("name", list(CASES))
def test_rule_is_silent_on_its_counter_example(name: str) -> None:
    rule = RULE_BY_NAME[name]
    case = CASES[name][1]
    registers = judged(case)
    assert verdicts(registers) == case.verdicts
    # Two rules may share a reason; a rule of the other kind of source does not count.
    if rule.applies(case.context.source, case.of):
        assert rule.reason not in reason_names(registers.reason[0])


@pytest.mark.parametrize("name", list(CASES))
def test_masks_of_a_mixed_batch_equal_those_of_single_samples(name: str) -> None:
    """A rule that returns one bool for uniform batches must say the same for mixed ones."""
    for case in CASES[name]:
        alone = judged(case)
        samples = case.make()
        sets = {key: pad(value) for key, value in samples.sets.items()}
        mixed = batch(
            *sets.values(),
            ip=np.array([*samples.ip, 0x77, 0], np.uint64),
            pid=np.array([*samples.pid, 0, 9]), tid=np.array([*samples.tid, 0, 9]),
            cpumode=np.array([*samples.cpumode, CpuMode.USER, CpuMode.KERNEL]),
            stop_flags=np.array([*samples.stop_flags, 0, 0xFF]),
            event=np.array([0, 1, 1]),
        )  # fmt: skip
        other = event("L", exclude_kernel=False, precise_ip=1, classes={})
        judge(mixed, replace(case.context, events=(*case.context.events, other)))
        together = mixed.sets[case.of]
        assert verdicts(together) == verdicts(alone)
        assert reason_names(together.reason[0]) == reason_names(alone.reason[0])
        assert together.vector_mask[0] == alone.vector_mask[0]
        assert together.gpr_mask[0] == alone.gpr_mask[0]


def pad(registers: RegisterSet) -> RegisterSet:
    """The set with two more samples: one all zero without registers, one like the first."""
    changes: dict[str, Any] = {}
    for name in (
        "abi", "gprs", "gpr_mask", "vectors", "vector_mask", "delivered_vectors",
        "delivered_qwords", "predicates", "delivered_predicates", "xstate_bv", "predicate_mask",
    ):  # fmt: skip
        column = getattr(registers, name)
        if column is not None:
            changes[name] = np.concatenate([column, np.zeros_like(column), column])
    return replace(registers, **changes)


# What is taken out of a snapshot


def test_callee_saved_registers_are_withheld_at_kernel_entry() -> None:
    case = CASES["callee-saved-unknown"][0]
    assert judged(case).gpr_mask[0] == CLASSIC_GPR_MASK & ~CALLEE_SAVED
    assert CALLEE_SAVED == 1 << 1 | 0b1111 << 20


def test_late_general_registers_are_withheld() -> None:
    assert judged(CASES["egpr-torn"][0]).gpr_mask[0] == CLASSIC_GPR_MASK
    assert judged(CASES["egpr-torn"][1]).gpr_mask[0] == CLASSIC_GPR_MASK | EGPR_MASK


def test_32_bit_code_keeps_eight_vectors_and_its_own_general_registers() -> None:
    for name in ("abi32", "compat-code"):
        registers = judged(CASES[name][0])
        assert registers.vector_mask[0] == 0xFF
        assert registers.gpr_mask[0] == ABI32_GPR_MASK


def test_high_vectors_are_withheld() -> None:
    for name in ("high-vectors-garbage", "high-vectors-unread"):
        assert judged(CASES[name][0]).vector_mask[0] == 0xFFFF


def test_zero_ssp_is_not_a_register() -> None:
    assert judged(CASES["ssp-absent"][0]).gpr_mask[0] == 1 << GPR_IP


def test_absent_classes_have_no_counts_left() -> None:
    registers = judged(CASES["not-collected"][0])
    assert registers.vector_mask[0] == 0
    assert registers.delivered_vectors[0] == 0
    assert registers.delivered_qwords[0] == 0
    zmm = batch(intr(vectors=zeros(32, 8), predicates=np.zeros((1, 8), np.uint64)))
    judge(zmm, pmu(event(classes={"intr": ZMM_ASKED})))
    assert verdicts(zmm.sets["intr"]) == NO_VECTORS
    assert zmm.sets["intr"].delivered_predicates[0] == 0
    assert zmm.sets["intr"].predicate_mask[0] == 0


def test_one_live_opmask_makes_zero_vectors_data() -> None:
    opmasks = np.array([[0, 0, 0, 0, 0, 0, 0, 1]], np.uint64)
    samples = batch(intr(vectors=zeros(32, 8), predicates=opmasks))
    judge(samples, pmu(event(classes={"intr": ZMM_ASKED})))
    assert verdicts(samples.sets["intr"]) == (C,) * 5


# Which rule wins


def test_kernel_values_stay_foreign_even_if_zero_or_skidded() -> None:
    samples = batch(intr(vectors=zeros(), ip=0), ip=0, cpumode=CpuMode.KERNEL)
    judge(samples, pmu())
    assert verdicts(samples.sets["intr"]) == YMM_ALL[FOREIGN]


def test_zero_vectors_at_kernel_entry_are_absent_and_general_registers_are_not() -> None:
    samples = kernel_sample(vectors=zeros())()
    judge(samples, pmu())
    assert verdicts(samples.sets["user"]) == (ENTRY, ABSENT, ABSENT, ABSENT, ABSENT)


def test_a_kernel_thread_is_known_by_its_missing_user_set() -> None:
    samples = batch(intr(ip=1 << 63), user(abi=0), ip=1 << 63, cpumode=CpuMode.KERNEL)
    judge(samples, pmu())
    assert verdicts(samples.sets["intr"]) == YMM_ALL[FOREIGN]
    assert "kernel-thread" in reason_names(samples.sets["intr"].reason[0])
    assert verdicts(samples.sets["user"]) == NOTHING


def test_skid_leaves_no_interrupt_registers() -> None:
    samples = batch(intr(abi=0), user(), ip=0, cpumode=CpuMode.KERNEL)
    judge(samples, pmu())
    assert verdicts(samples.sets["intr"]) == NOTHING
    assert reason_names(samples.sets["intr"].reason[0])[-2:] == ("abi-none", "not-asked")


def test_zero_registers_of_a_stop_are_data() -> None:
    """ptrace reads the thread's own image: zero there is a value or the initial state."""
    samples = batch(user(vectors=zeros(), xstate_bv=0b001), stop_flags=STOPPED)
    judge(samples, SIGTRAP)
    registers = samples.sets["user"]
    assert verdicts(registers) == YMM_ALL[C]
    assert registers.vector_mask[0] == 0xFFFF
    assert init_classes(registers)[0] == 0b00110


def test_a_blocked_or_asynchronous_trap_is_late_even_at_an_equal_ip() -> None:
    for flag in (StopFlag.ASYNC, StopFlag.SIGTRAP_BLOCKED, StopFlag.UNPAIRED):
        samples = batch(user(), stop_flags=stop(flag))
        judge(samples, SIGTRAP)
        assert verdicts(samples.sets["user"]) == YMM_ALL[LATE], flag


def test_an_event_of_the_kernel_is_late_even_at_an_equal_ip_in_user_mode() -> None:
    """At sys_enter AX was the call's number; at the stop, which has the same IP, its result."""
    samples = batch(user(gprs={0: 3}), stop_flags=STOPPED)
    judge(samples, sigtrap(TRACEPOINT))
    assert verdicts(samples.sets["user"]) == YMM_ALL[LATE]
    assert reason_names(samples.sets["user"].reason[0]) == (
        "user-mode", "ip-match", "not-asked", "kernel-mode-event",
    )  # fmt: skip


def test_the_kernel_registers_of_an_event_of_the_kernel_stay_foreign() -> None:
    samples = kernel_sample()()
    judge(samples, pmu(TRACEPOINT))
    assert verdicts(samples.sets["intr"]) == YMM_ALL[FOREIGN]


def test_sixteen_vectors_that_were_asked_for_are_not_cut() -> None:
    for one in (event("R2", classes={"user": ZMM_ASKED}), event("M", **HIGH)):
        samples = batch(user(qwords=8, predicates=8))
        judge(samples, pmu(one))
        assert verdicts(samples.sets["user"]) == (C,) * 5


def test_a_redacted_user_set_does_not_make_a_kernel_thread() -> None:
    samples = batch(intr(abi=0), user(abi=0), ip=1 << 63, cpumode=CpuMode.KERNEL)
    judge(samples, REDACTED)
    for registers in samples.sets.values():
        assert verdicts(registers) == NOTHING
        assert {"redacted"} == set(reason_names(registers.reason[0])) & {
            "redacted", "kernel-thread", "abi-none",
        }  # fmt: skip


def test_an_unpaired_or_interrupted_stop_does_not_claim_an_ip_match() -> None:
    for flag in (StopFlag.UNPAIRED, StopFlag.INTERRUPT):
        samples = batch(user(), stop_flags=stop(flag))
        judge(samples, SIGTRAP)
        assert "ip-match" not in reason_names(samples.sets["user"].reason[0])


def test_a_legacy_file_of_the_sigtrap_source_is_judged_as_a_stop() -> None:
    one = event("L", classes={"intr": frozenset({"gpr", "xmm"})})
    samples = batch(intr(qwords=2, abi=ABI_64, vectors=zeros(16, 2)), stop_flags=STOPPED)
    judge(samples, sigtrap(one))
    assert verdicts(samples.sets["intr"]) == XMM_ONLY
    assert "legacy-zero" not in reason_names(samples.sets["intr"].reason[0])


def test_rows_without_stop_information_have_no_initial_state() -> None:
    samples = batch(user(xstate_bv=0), stop_flags=0)
    judge(samples, SIGTRAP)
    assert init_classes(samples.sets["user"])[0] == 0


def test_zmm_is_initial_only_if_both_its_components_are() -> None:
    bits = [ALL_IN_USE, ALL_IN_USE & ~(1 << 6), ALL_IN_USE & ~(3 << 6), 0]
    sets = register_set(4, registers=32, qwords=8, predicates=8, xstate_bv=bits)
    samples = batch(sets, stop_flags=STOPPED)
    judge(samples, ZMM_SIGTRAP)
    assert init_classes(samples.sets["user"]).tolist() == [0, 0, 0b01000, 0b11110]
    assert [VERDICT_CLASSES[i] for i in (1, 2, 3, 4)] == ["xmm", "ymm", "zmm", "opmask"]


def test_twins_are_compared_where_both_have_registers() -> None:
    narrow = intr(qwords=2, vectors=upper_zero(4)[:, :, :2])
    samples = batch(narrow, user(vectors=upper_zero(4)))
    asked = {"intr": frozenset({"xmm"}), "user": YMM_ASKED}
    judge(samples, pmu(event(classes=asked)))
    assert verdicts(samples.sets["user"]) == YMM_ALL[C]
    differ = intr(predicates=np.full((1, 8), 3, np.uint64))
    samples = batch(differ, user(predicates=np.full((1, 8), 4, np.uint64)))
    judge(samples, pmu())
    assert verdicts(samples.sets["intr"]) == (UNKNOWN, UNKNOWN, UNKNOWN, ABSENT, UNKNOWN)
    gprs = batch(intr(gprs={0: 1}), user(gprs={0: 2}))
    judge(gprs, pmu())
    assert verdicts(gprs.sets["intr"]) == YMM_ALL[UNKNOWN]


def test_counts_by_class_and_by_reason() -> None:
    samples = batch(
        register_set(4, name="intr"),
        cpumode=[CpuMode.USER, CpuMode.KERNEL, CpuMode.USER, CpuMode.GUEST_KERNEL],
    )
    judge(samples, pmu())
    counts = class_counts(samples.sets["intr"])
    assert counts["ymm"] == {Verdict.COHERENT: 2, Verdict.FOREIGN: 2}
    assert counts["zmm"] == {Verdict.ABSENT: 4}
    assert reason_counts(samples.sets["intr"]) == {
        "user-mode": 2, "ip-match": 4, "kernel-mode": 1, "guest": 1, "not-asked": 4,
    }  # fmt: skip


def test_an_empty_batch_is_judged() -> None:
    samples = batch(register_set(0, name="intr"), register_set(0))
    judge(samples, pmu())
    assert samples.sets["intr"].verdict.shape == (0, 5)
    assert reason_counts(samples.sets["intr"]) == {}


@pytest.mark.parametrize("column", ["gprs", "vectors", "predicates"])
def test_a_batch_without_its_values_is_refused(column: str) -> None:
    """Missing values would read as zeros, and zeros decide."""
    registers = intr(predicates=8)
    if column == "gprs":
        registers.gprs, registers.gpr_ids = np.zeros((1, 0), np.uint64), ()
    else:
        setattr(registers, column, np.zeros_like(getattr(registers, column)[..., :0]))
    with pytest.raises(ValueError, match="cannot be judged without its values"):
        judge(batch(registers), pmu())
