"""The questions that rules ask of a batch, each answered once.

A mask is a Bool column of n samples, or a plain bool where the answer is the same for all of
them: most recordings are of one kind from end to end, and then most rules cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from perfxmm.coherence.context import KNOWN_DIALECTS, EventContext, JudgeContext
from perfxmm.snapshots.batch import (
    U64,
    VERDICT_CLASSES,
    Bool,
    RegisterSet,
    SnapshotBatch,
)
from perfxmm.snapshots.vocabulary import (
    EGPR_MASK,
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

Mask = Bool | bool

# Rows compared at a time: two sets of 512-bit vectors then stay in the second-level cache.
_CHUNK_ROWS = 128
# Highest vector number that every width has, plus one.
LOW_VECTORS = 16
LOW_VECTOR_MASK = 0xFFFF


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
        regs = self.registers
        zero = np.ones(len(self.batch), np.bool_)
        for values in (regs.vectors, regs.predicates):
            rows = values.reshape(len(values), -1)
            if rows.shape[1] == 0 or not len(rows):
                continue
            # Nearly every sample is settled by one word; only the rest is read whole.
            left = np.flatnonzero(zero & (rows[:, 0] == 0))
            zero[rows[:, 0] != 0] = False
            zero[left[rows[left].any(axis=1)]] = False
        return uniform(zero)

    @cached_property
    def upper_zero(self) -> Mask:
        """Some upper part that was delivered reads zero in all registers, the low part does not."""
        regs = self.registers
        if regs.vectors.shape[2] < 4 or not len(self.batch):
            return False
        low = _any_word(regs.vectors, 0, 2)
        ymm = both(self.delivered("ymm"), uniform(~_any_word(regs.vectors, 2, 4)))
        zmm: Mask = False
        if regs.vectors.shape[2] >= 8:
            zmm = both(self.delivered("zmm"), uniform(~_any_word(regs.vectors, 4, 8)))
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


def _any_word(vectors: U64, first: int, end: int) -> Bool:
    """Bool [n]: some register has a non-zero word among its qwords first..end-1."""
    part = vectors[:, :LOW_VECTORS, first:end]
    # A sample's first register settles nearly all of them.
    found = np.asarray(part[:, 0].any(axis=1), np.bool_)
    left = np.flatnonzero(~found)
    if len(left):
        found[left] = part[left].reshape(len(left), -1).any(axis=1)
    return found


def differing_rows(one: RegisterSet, two: RegisterSet, among: Mask = True) -> Bool:
    """Bool [n]: samples of `among` in which a register that both sets deliver differs.

    Compares general registers, the qwords that both sets deliver of vectors that both deliver,
    and predicates. Samples of which only one set is there do not differ.
    """
    count = len(one.abi)
    differ = np.zeros(count, np.bool_)
    there = (one.abi != 0) & (two.abi != 0) & among
    shared = one.gpr_mask & two.gpr_mask
    for column, gpr_id in enumerate(one.gpr_ids):
        other = two.gpr(gpr_id)
        if other is not None:
            asked = (shared >> np.uint64(gpr_id) & np.uint64(1)) != 0
            differ |= asked & (one.gprs[:, column] != other)
    qwords = np.minimum(one.delivered_qwords, two.delivered_qwords)
    masks = one.vector_mask & two.vector_mask
    width = min(one.vectors.shape[2], two.vectors.shape[2])
    registers = min(one.vectors.shape[1], two.vectors.shape[1])
    # Samples of one kind are compared as a block; a batch has a handful of kinds at most.
    kinds = masks.astype(np.uint64) << np.uint64(8) | qwords.astype(np.uint64)
    for kind in np.unique(kinds[there]):
        words = min(int(kind & np.uint64(0xFF)), width)
        numbers = [r for r in range(registers) if int(kind) >> (8 + r) & 1]
        if not words or not numbers:
            continue
        rows = np.flatnonzero(there & (kinds == kind))
        pick = slice(0, numbers[-1] + 1) if numbers == list(range(len(numbers))) else numbers
        for start in range(0, len(rows), _CHUNK_ROWS):
            some = rows[start : start + _CHUNK_ROWS]
            # Neighbouring rows are read in place, others through a copy.
            run = int(some[-1]) - int(some[0]) + 1 == len(some)
            where = slice(int(some[0]), int(some[-1]) + 1) if run else some
            unequal = one.vectors[where][:, pick, :words] != two.vectors[where][:, pick, :words]
            differ[where] |= unequal.reshape(len(some), -1).any(axis=1)
    if one.predicates.shape[1] and two.predicates.shape[1]:
        both_have = (one.delivered_predicates != 0) & (two.delivered_predicates != 0)
        differ |= both_have & (one.predicates != two.predicates).any(axis=1)
    differ &= there
    return differ
