"""The questions that rules ask of a batch, each answered once.

A mask is a Bool column of n samples, or a plain bool where the answer is the same for all of
them: most recordings are of one kind from end to end, and then most rules cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from perfxmm.coherence import compare
from perfxmm.coherence.compare import LOW_VECTORS, Mask, differing_rows
from perfxmm.coherence.context import KNOWN_DIALECTS, EventContext, JudgeContext
from perfxmm.coherence.staleness import stale_rows
from perfxmm.snapshots.batch import (
    U64,
    VERDICT_CLASSES,
    Bool,
    RegisterSet,
    SnapshotBatch,
)
from perfxmm.snapshots.vocabulary import (
    EGPR_MASK,
    GPR_ID,
    GPR_IP,
    GPR_SSP,
    REGS_ABI_32,
    REGS_ABI_64,
    REGS_ABI_SIMD,
    SSP_MASK,
    CpuMode,
    SnapshotFlag,
    StopFlag,
)

LOW_VECTOR_MASK = 0xFFFF
EGPR_IDS = tuple(GPR_ID[f"R{number}"] for number in range(16, 32))


def uniform(column: Bool) -> Mask:
    """`column`, or a plain bool where all samples agree."""
    if not column.any():
        return False
    return True if column.all() else column


def both(*masks: Mask) -> Mask:
    """The samples that are in every mask."""
    result: Mask = True
    for mask in masks:
        if isinstance(mask, bool):
            if not mask:
                return False
        else:
            result = mask if isinstance(result, bool) else result & mask
    return result


def either(*masks: Mask) -> Mask:
    """The samples that are in at least one mask."""
    result: Mask = False
    for mask in masks:
        if isinstance(mask, bool):
            if mask:
                return True
        else:
            result = mask if isinstance(result, bool) else result | mask
    return result


def outside(mask: Mask) -> Mask:
    """The samples that are not in `mask`."""
    return not mask if isinstance(mask, bool) else ~mask


class Evidence:
    """What is known of one register set of one batch. Everything is computed at most once."""

    def __init__(
        self, batch: SnapshotBatch, registers: RegisterSet, context: JudgeContext,
        shared: dict[str, Mask] | None = None,
    ) -> None:
        """shared: answers that hold for both sets of a batch, handed from one to the other."""
        self.shared = {} if shared is None else shared
        self.batch = batch
        self.registers = registers
        self.context = context
        self._of_sources: dict[frozenset[str], Mask] = {}

    # What the events asked for

    def events(self, test: Callable[[EventContext], bool]) -> Mask:
        """The samples of events for which `test` holds."""
        answers = [test(event) for event in self.context.events]
        if all(answers):
            return bool(answers)
        if not any(answers):
            return False
        return np.asarray(answers, np.bool_)[self.batch.event]

    def dialect(self, *names: str) -> Mask:
        return self.events(lambda event: event.dialect in names)

    @cached_property
    def dialect_unknown(self) -> Mask:
        return self.events(lambda event: event.dialect not in KNOWN_DIALECTS)

    @cached_property
    def precise(self) -> Mask:
        return self.events(lambda event: event.precise_ip > 0)

    @cached_property
    def in_kernel(self) -> Mask:
        return self.events(lambda event: event.in_kernel)

    def asked(self, register_class: str) -> Mask:
        by_event = self.events(lambda event: event.asks(self.registers.name, register_class))
        components, said = XSTATE_COMPONENTS.get(register_class), self.registers.asked_components
        if by_event is False or components is None or said is None:
            return by_event
        return both(by_event, uniform((said & np.uint64(components)) != 0))

    def of_sources(self, sources: frozenset[str]) -> Mask:
        """The samples whose set comes from one of `sources`; all where there are none named."""
        if not sources:
            return True
        if sources not in self._of_sources:
            name, usual = self.registers.name, self.context.source
            self._of_sources[sources] = self.events(
                lambda event: event.sources.get(name, usual) in sources
            )
        return self._of_sources[sources]

    # Where the CPU was

    def cpumode(self, mode: CpuMode) -> Mask:
        return uniform(self.batch.cpumode == np.uint8(mode))

    @cached_property
    def user_mode(self) -> Mask:
        return self.cpumode(CpuMode.USER)

    @cached_property
    def kernel_mode(self) -> Mask:
        return self.cpumode(CpuMode.KERNEL)

    def stopped(self, flag: StopFlag) -> Mask:
        """The samples whose stop has `flag`."""
        return uniform((self.batch.stop_flags & np.uint32(flag)) != 0)

    def snapshot(self, flag: SnapshotFlag) -> Mask:
        """The samples whose snapshot has one of the bits in `flag`."""
        if self.batch.snapshot_flags is None:
            return False
        return uniform((self.batch.snapshot_flags & np.uint64(flag)) != 0)

    # What was delivered

    def abi_has(self, bit: int) -> Mask:
        return uniform((self.registers.abi & np.uint8(bit)) != 0)

    @cached_property
    def abi_none(self) -> Mask:
        """abi 0, or an abi word that names no task mode: nothing to rely on."""
        return outside(either(self.abi_has(REGS_ABI_32), self.abi_has(REGS_ABI_64)))

    @cached_property
    def abi_simd(self) -> Mask:
        return self.abi_has(REGS_ABI_SIMD)

    def delivered(self, register_class: str) -> Mask:
        """The samples whose header has registers of `register_class`."""
        regs = self.registers
        if register_class == "gpr":
            return uniform(regs.gpr_mask != 0)
        if register_class == "opmask":
            return uniform(regs.delivered_predicates != 0)
        wanted_qwords = {"xmm": 2, "ymm": 4, "zmm": 8}[register_class]
        return both(
            uniform(regs.delivered_vectors != 0),
            uniform(regs.delivered_qwords >= np.uint8(wanted_qwords)),
        )

    def cut_vectors(self, set_name: str) -> Mask:
        """Vectors 16 to 31 of the set were asked for, and its header counts 16 registers."""
        registers = self.batch.sets.get(set_name)
        if registers is None:
            return False
        asked = self.events(lambda event: set_name in event.high_vectors)
        return both(asked, uniform(registers.delivered_vectors == np.uint8(LOW_VECTORS)))

    @cached_property
    def any_vectors(self) -> Mask:
        return either(self.delivered("xmm"), self.delivered("opmask"))

    # What the values say

    @cached_property
    def ip_delivered(self) -> Mask:
        if GPR_IP not in self.registers.gpr_ids:
            return False
        return uniform((self.registers.gpr_mask & np.uint64(1 << GPR_IP)) != 0)

    @cached_property
    def ip_equal(self) -> Mask:
        """The set's own IP equals the sample's; False where the set has none."""
        column = self.registers.gpr(GPR_IP)
        if column is None:
            return False
        return both(self.ip_delivered, uniform(column == self.batch.ip))

    @cached_property
    def ssp_zero(self) -> Mask:
        column = self.registers.gpr(GPR_SSP)
        if column is None:
            return False
        there = uniform((self.registers.gpr_mask & np.uint64(SSP_MASK)) != 0)
        return both(there, uniform(column == 0))

    @cached_property
    def late_gprs(self) -> Mask:
        """The samples that carry R16..R31 or SSP."""
        return uniform((self.registers.gpr_mask & np.uint64(EGPR_MASK | SSP_MASK)) != 0)

    @cached_property
    def high_vectors(self) -> Mask:
        """The samples that carry vectors 16..31."""
        return uniform(self.registers.vector_mask > np.uint32(LOW_VECTOR_MASK))

    @cached_property
    def all_zero(self) -> Mask:
        """Every vector and predicate register of the set reads zero."""
        zero = np.ones(len(self.batch), np.bool_)
        if len(self.head):
            # Nearly every sample is settled by one word; only the rest is read whole.
            zero = self.head[0] == 0
            if zero.any():
                zero &= ~np.logical_or.reduce(self.parts_used)
        for values in (self.registers.vectors, self.registers.predicates):
            if zero.any():
                zero = compare.all_zero(values, zero)
        return uniform(zero)

    @cached_property
    def head(self) -> U64:
        """uint64 [qwords, n]: vector register 0."""
        return compare.first_register(self.registers.vectors)

    @cached_property
    def parts_used(self) -> list[Bool]:
        """Per part (XMM, upper half of YMM, of ZMM): some register has a bit set there."""
        return compare.parts_used(self.registers.vectors, self.head)

    @cached_property
    def upper_zero(self) -> Mask:
        """Some upper part that was delivered reads zero in all registers, the low part does not."""
        regs = self.registers
        if regs.vectors.shape[2] < 4 or not len(self.batch):
            return False
        low, *upper = self.parts_used
        ymm = both(self.delivered("ymm"), uniform(~upper[0]))
        zmm: Mask = False
        if len(upper) > 1:
            zmm = both(self.delivered("zmm"), uniform(~upper[1]))
        return both(uniform(low), either(ymm, zmm))

    @cached_property
    def twins_differ(self) -> Mask:
        """In user mode: the other set of the sample holds another value in a register both have."""
        if "twins_differ" not in self.shared:
            intr, user = self.batch.sets.get("intr"), self.batch.sets.get("user")
            answer: Mask = False
            if intr is not None and user is not None:
                answer = uniform(differing_rows(intr, user, self.user_mode))
            self.shared["twins_differ"] = answer
        return self.shared["twins_differ"]

    @cached_property
    def twins_equal(self) -> Mask:
        """In user mode: both sets deliver the same registers with the same values."""
        intr, user = self.batch.sets.get("intr"), self.batch.sets.get("user")
        if intr is None or user is None:
            return False
        alike = (
            (intr.abi != 0) & (intr.abi == user.abi) & (intr.vector_mask == user.vector_mask)
            & (intr.delivered_qwords == user.delivered_qwords)
            & (intr.predicate_mask == user.predicate_mask)
        )  # fmt: skip
        return both(self.user_mode, uniform(alike), outside(self.twins_differ))

    @cached_property
    def stale(self) -> Mask:
        """In user mode: the vectors are what another thread had at the CPU's sample before."""
        if not isinstance(self.user_mode, bool) or self.user_mode:
            return uniform(stale_rows(self.batch, self.registers, self.head, self.user_mode))
        return False

    def cut_width(self, register_class: str) -> Mask:
        """`register_class` was asked for, and the header's width, or count of predicates, ends
        right below it while other vectors came."""
        regs = self.registers
        there = uniform(regs.delivered_vectors != 0)
        asked = self.asked(register_class)
        if register_class == "opmask":
            return both(asked, there, uniform(regs.delivered_predicates == 0))
        below = {"ymm": 2, "zmm": 4}[register_class]
        return both(asked, there, uniform(regs.delivered_qwords == np.uint8(below)))

    @cached_property
    def only_egpr_zero(self) -> Mask:
        """R16 to R31 are there and zero, and no vector, predicate or SSP shows that any extended
        state was read."""
        columns = [self.registers.gpr(number) for number in EGPR_IDS]
        there = uniform((self.registers.gpr_mask & np.uint64(EGPR_MASK)) != 0)
        if there is False or all(column is None for column in columns):
            return False
        zero = np.ones(len(self.batch), np.bool_)
        for column in (*columns, self.registers.gpr(GPR_SSP)):
            if column is not None:
                zero &= column == 0
        return both(there, uniform(zero), self.all_zero)

    @cached_property
    def no_user_state(self) -> Mask:
        """Registers in kernel mode, but none for the user although they were asked for."""
        user = self.batch.sets.get("user")
        if user is None or self.context.redacted:
            return False
        asked = self.events(lambda event: bool(event.classes.get("user")))
        return both(self.kernel_mode, asked, uniform(user.abi == 0), uniform(self.batch.ip != 0))

    @cached_property
    def kernel_tid(self) -> Mask:
        if not self.context.kernel_tids:
            return False
        known = np.fromiter(self.context.kernel_tids, np.int64, len(self.context.kernel_tids))
        return uniform(np.isin(self.batch.tid, known))

    @cached_property
    def initial_classes(self) -> dict[str, Mask]:
        """Per vector class: delivered, and XSTATE_BV says initial state."""
        bv = self.registers.xstate_bv
        if bv is None:
            return {}
        return {
            name: both(self.delivered(name), uniform(in_initial_state(bv, name)))
            for name in XSTATE_COMPONENTS
        }


# XSAVE state components by register class (Intel SDM volume 1, 13.1; arch/x86 fpu/types.h of
# Linux 7.3): SSE 1, YMM 2, opmask 5, ZMM_Hi256 6, Hi16_ZMM 7. zmm is initial only if both are.
XSTATE_COMPONENTS: dict[str, int] = {
    "xmm": 1 << 1,
    "ymm": 1 << 2,
    "zmm": 1 << 6 | 1 << 7,
    "opmask": 1 << 5,
}


def in_initial_state(xstate_bv: U64, register_class: str) -> Bool:
    """Bool [n]: no state component of the class is set in `xstate_bv` (uint64 [n])."""
    clear: Bool = (xstate_bv & np.uint64(XSTATE_COMPONENTS[register_class])) == 0
    return clear


def asked_components(registers: RegisterSet) -> Bool:
    """Bool [n, classes]: classes of which a sample's own request (RFBM) has all components that
    say so; True everywhere where samples do not say what was asked for."""
    out = np.ones((len(registers.abi), len(VERDICT_CLASSES)), np.bool_)
    if registers.asked_components is not None:
        for name, components in XSTATE_COMPONENTS.items():
            column = VERDICT_CLASSES.index(name)
            out[:, column] = (registers.asked_components & np.uint64(components)) != 0
    return out
