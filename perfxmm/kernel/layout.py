"""The layout of a sample record, derived once from its event's attr.

Everything in PERF_RECORD_SAMPLE stands in units of 8 bytes (RAW's u32 size and its payload add up
to a multiple of 8), so a plan counts u64 words. Fields up to PERIOD lie at fixed places; from READ
on lengths may differ from sample to sample, and a plan gives the order and the kind of each.

Order of the fields and of the sample_id trailer: PERF_RECORD_SAMPLE and struct sample_id in
include/uapi/linux/perf_event.h, Linux 7.3; the register sets: `dialects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, ReadFormat, SampleType
from perfxmm.kernel.dialects import HeaderKind
from perfxmm.kernel.registers import GPR_SSP, LEGACY_XMM_SHIFT, OPMASK, ZMM

# Name -> bit, in record order. One u64 each.
LEADING_FIELDS: tuple[tuple[str, SampleType], ...] = (
    ("identifier", SampleType.IDENTIFIER), ("ip", SampleType.IP), ("tid", SampleType.TID),
    ("time", SampleType.TIME), ("addr", SampleType.ADDR), ("id", SampleType.ID),
    ("stream_id", SampleType.STREAM_ID), ("cpu", SampleType.CPU), ("period", SampleType.PERIOD),
)  # fmt: skip
# struct sample_id at the end of other records (attr flag sample_id_all), in record order.
TRAILER_FIELDS: tuple[tuple[str, SampleType], ...] = (
    ("tid", SampleType.TID), ("time", SampleType.TIME), ("id", SampleType.ID),
    ("stream_id", SampleType.STREAM_ID), ("cpu", SampleType.CPU),
    ("identifier", SampleType.IDENTIFIER),
)  # fmt: skip
KNOWN_SAMPLE_TYPES = (1 << 25) - 1
# PERF_SAMPLE_BRANCH_HW_INDEX and _COUNTERS, bits of branch_sample_type (Linux 5.7 and 6.8).
BRANCH_HW_INDEX = 1 << 17
BRANCH_COUNTERS = 1 << 19
BRANCH_ENTRY_WORDS = 3
# A SIMD header of any kind, 32 registers of 8 qwords, and as many predicates as there are.
_MOST_SIMD_WORDS = 4 + 32 * 8 + 32 * 8
# Machine names (uname -m) whose register masks and blocks are those of asm/perf_regs.h of x86.
X86_ARCHES = frozenset({"x86_64", "amd64", "x86", "i386", "i486", "i586", "i686"})


class FieldKind(Enum):
    """How the length of a field after PERIOD is found."""

    WORDS = "words"  # `words` u64, always
    COUNTED = "counted"  # u64 nr, `words` more, then nr entries of `entry_words`
    RAW = "raw"  # u32 size, then size bytes, filled up to a multiple of 8
    STACK = "stack"  # u64 size, size bytes, and u64 dyn_size where size is not 0
    BYTES = "bytes"  # u64 size, then size bytes, filled up to a multiple of 8
    REGISTERS = "registers"  # u64 abi, and a register set where it is not 0


# Name, bits of which any one puts the field there, kind. READ and BRANCH_STACK depend on more.
FOLLOWING_FIELDS: tuple[tuple[str, int, FieldKind], ...] = (
    ("read", SampleType.READ, FieldKind.WORDS),
    ("callchain", SampleType.CALLCHAIN, FieldKind.COUNTED),
    ("raw", SampleType.RAW, FieldKind.RAW),
    ("branch_stack", SampleType.BRANCH_STACK, FieldKind.COUNTED),
    ("user", SampleType.REGS_USER, FieldKind.REGISTERS),
    ("user_stack", SampleType.STACK_USER, FieldKind.STACK),
    ("weight", SampleType.WEIGHT | SampleType.WEIGHT_STRUCT, FieldKind.WORDS),
    ("data_src", SampleType.DATA_SRC, FieldKind.WORDS),
    ("transaction", SampleType.TRANSACTION, FieldKind.WORDS),
    ("intr", SampleType.REGS_INTR, FieldKind.REGISTERS),
    ("phys_addr", SampleType.PHYS_ADDR, FieldKind.WORDS),
    ("cgroup", SampleType.CGROUP, FieldKind.WORDS),
    ("data_page_size", SampleType.DATA_PAGE_SIZE, FieldKind.WORDS),
    ("code_page_size", SampleType.CODE_PAGE_SIZE, FieldKind.WORDS),
    ("aux", SampleType.AUX, FieldKind.BYTES),
)


@dataclass(frozen=True, slots=True)
class SetPlan:
    """One register set, `user` or `intr`, as the attr asks for it.

    words: u64 between the abi word and the SIMD header (or the end of the set).
    gpr_ids: canonical ids of the general registers; gpr_words: their places in those words.
    gpr_mask: the same as a mask.
    xmm_registers: legacy XMM registers with both halves; xmm_words: place of each low half.
    simd: a SIMD header follows where the sample's abi says so.
    vec_registers, pred_registers: register numbers asked for, ascending, in payload order.
    vec_qwords, pred_qwords: as in the attr, upper bounds for the sample's header.
    Registers and widths that x86 does not have are left out, whatever the attr asks for: no kernel
    grants them, and columns must not grow with a damaged attr.
    """

    name: str
    words: int
    gpr_ids: tuple[int, ...]
    gpr_words: tuple[int, ...]
    gpr_mask: int
    xmm_registers: tuple[int, ...]
    xmm_words: tuple[int, ...]
    simd: bool
    header: HeaderKind
    vec_registers: tuple[int, ...]
    vec_qwords: int
    pred_registers: tuple[int, ...]
    pred_qwords: int

    @property
    def registers(self) -> int:
        """How many register numbers an array indexed by them needs."""
        asked = self.vec_registers or self.xmm_registers
        return asked[-1] + 1 if asked else 0

    @property
    def qwords(self) -> int:
        """The widest register that this set can deliver."""
        if self.vec_registers:
            return self.vec_qwords
        return 2 if self.xmm_registers else 0


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """One field after PERIOD. `words` and `entry_words` as `FieldKind` says."""

    name: str
    kind: FieldKind
    words: int = 1
    entry_words: int = 1


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Where READ has its parts, in words from the field's start; None where it lacks one.

    value, id, lost: of the first event. entry_words: from one event of a group to the next; 0
    without PERF_FORMAT_GROUP, where there is one event.
    """

    enabled: int | None
    running: int | None
    value: int
    id: int | None
    lost: int | None
    entry_words: int


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """Where everything stands in one event's samples, and in its other records' trailers.

    fixed: leading field -> word from the record's start (the header is word 0).
    fixed_words: words up to the first field of `following`.
    following: the fields after PERIOD, in order.
    sets: the register sets by name, in record order.
    trailer: sample_id field -> word from the record's END (-1 is the last); empty without
        sample_id_all.
    open_ended: sample_type has bits newer than this table, so records may be longer.
    read: how READ is made up, None without it.
    branch_hw_index: a word with the hardware's index stands between count and entries. Kernels
        leave it out of a sample without a branch stack (perf_output_sample, Linux 7.3).
    branch_counters: one word for each entry stands behind all of them.
    weight_parts: the weight is three numbers (WEIGHT_STRUCT), not one.
    deferred: call chains may end in PERF_CONTEXT_USER_DEFERRED and a cookie.
    """

    fixed: dict[str, int]
    fixed_words: int
    following: tuple[FieldPlan, ...]
    sets: dict[str, SetPlan]
    trailer: dict[str, int]
    open_ended: bool
    read: ReadPlan | None = None
    branch_hw_index: bool = False
    branch_counters: bool = False
    weight_parts: bool = False
    deferred: bool = False

    @property
    def id_word(self) -> int | None:
        """Word that holds the event's id; None where samples carry none."""
        return self.fixed.get("identifier", self.fixed.get("id"))


def plan_layout(attr: EventAttr, *, header: HeaderKind = "none") -> LayoutPlan:
    """The plan for samples of `attr`, and for the trailer of its other records.

    header: overrides the kind of SIMD header that the attr's dialect has ("none": it does not).
    """
    fixed: dict[str, int] = {}
    for name, bit in LEADING_FIELDS:
        if attr.sample_type & bit:
            fixed[name] = 1 + len(fixed)
    following = tuple(
        _field(name, kind, attr) for name, bits, kind in FOLLOWING_FIELDS if attr.sample_type & bits
    )
    sets = {
        field.name: plan_set(attr, field.name, header=header)
        for field in following if field.kind is FieldKind.REGISTERS
    }  # fmt: skip
    present = [name for name, bit in TRAILER_FIELDS if attr.sample_type & bit]
    trailer = {name: at - len(present) for at, name in enumerate(present)}
    return LayoutPlan(
        fixed=fixed, fixed_words=1 + len(fixed), following=following, sets=sets,
        trailer=trailer if attr.flag(AttrFlag.SAMPLE_ID_ALL) else {},
        open_ended=bool(attr.sample_type & ~KNOWN_SAMPLE_TYPES),
        read=_read_plan(attr.read_format) if attr.has(SampleType.READ) else None,
        branch_hw_index=bool(
            attr.has(SampleType.BRANCH_STACK) and attr.branch_sample_type & BRANCH_HW_INDEX
        ),
        branch_counters=bool(
            attr.has(SampleType.BRANCH_STACK) and attr.branch_sample_type & BRANCH_COUNTERS
        ),
        weight_parts=attr.has(SampleType.WEIGHT_STRUCT),
        deferred=attr.flag(AttrFlag.DEFER_CALLCHAIN),
    )  # fmt: skip


def most_sample_bytes(attrs: Sequence[EventAttr]) -> int | None:
    """No sample of these events is longer, header included; None where one has a field of any
    length, or one that is not known here, and where there are no events.
    """
    most = 0
    for attr in attrs:
        plan = plan_layout(attr)
        words = plan.fixed_words
        for step in plan.following:
            if step.kind is FieldKind.WORDS:
                words += step.words
            elif step.kind is FieldKind.REGISTERS:
                words += 1 + plan.sets[step.name].words + _MOST_SIMD_WORDS
            else:
                return None
        if plan.open_ended:
            return None
        most = max(most, 8 * words)
    return most or None


def plan_set(attr: EventAttr, which: str, *, header: HeaderKind = "none") -> SetPlan:
    """The register set `which` ("user" or "intr") of `attr`."""
    raw = attr.sample_regs_intr if which == "intr" else attr.sample_regs_user
    places = {bit: place for place, bit in enumerate(bits_of(raw))}
    simd = attr.simd_enabled
    named = {}
    for bit, place in places.items():
        if simd and bit == attr.dialect.ssp_bit:
            named[GPR_SSP] = place
        elif bit < (GPR_SSP if simd else LEGACY_XMM_SHIFT):
            named[bit] = place
    xmm = {}
    if not simd:
        for register in range(16):
            low = LEGACY_XMM_SHIFT + 2 * register
            # Half a register is not a register: it stays out, and only its word is counted.
            if low in places and low + 1 in places:
                xmm[register] = places[low]
    ask = attr.simd
    vec, pred = (
        (ask.vec_intr, ask.pred_intr) if which == "intr" else (ask.vec_user, ask.pred_user)
    )
    vec, pred = vec & ZMM.mask, pred & OPMASK.mask
    return SetPlan(
        name=which, words=len(places),
        gpr_ids=tuple(named), gpr_words=tuple(named.values()),
        gpr_mask=sum(1 << number for number in named),
        xmm_registers=tuple(xmm), xmm_words=tuple(xmm.values()),
        simd=simd, header=(header if header != "none" else attr.dialect.header) if simd else "none",
        vec_registers=bits_of(vec) if simd else (),
        vec_qwords=min(ask.vec_qwords, ZMM.qwords) if simd else 0,
        pred_registers=bits_of(pred) if simd else (),
        pred_qwords=min(ask.pred_qwords, OPMASK.qwords) if simd else 0,
    )  # fmt: skip


def bits_of(mask: int) -> tuple[int, ...]:
    """Numbers of the set bits of `mask`, ascending."""
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def _field(name: str, kind: FieldKind, attr: EventAttr) -> FieldPlan:
    if name == "read":
        return _read_field(attr.read_format)
    if name == "branch_stack":
        counters = bool(attr.branch_sample_type & BRANCH_COUNTERS)
        return FieldPlan(
            name, kind, words=1 if attr.branch_sample_type & BRANCH_HW_INDEX else 0,
            # Counters stand in an array of their own behind the entries, one u64 for each.
            entry_words=BRANCH_ENTRY_WORDS + counters,
        )
    return FieldPlan(name, kind, words=0 if kind is FieldKind.COUNTED else 1)


def _read_field(read_format: int) -> FieldPlan:
    """struct read_format: one value, or (PERF_FORMAT_GROUP) nr values behind the times."""
    plan = _read_plan(read_format)
    if plan.entry_words:
        # The count itself is the word that COUNTED has in any case.
        return FieldPlan(
            "read", FieldKind.COUNTED, words=plan.value - 1, entry_words=plan.entry_words
        )
    parts = (plan.enabled, plan.running, plan.value, plan.id, plan.lost)
    return FieldPlan("read", FieldKind.WORDS, words=sum(part is not None for part in parts))


def _read_plan(read_format: int) -> ReadPlan:
    """Order of struct read_format in include/uapi/linux/perf_event.h, Linux 7.3."""
    at = 1  # behind the one value, or the count of a group
    enabled = running = number = lost = None
    if read_format & ReadFormat.TOTAL_TIME_ENABLED:
        enabled, at = at, at + 1
    if read_format & ReadFormat.TOTAL_TIME_RUNNING:
        running, at = at, at + 1
    group = bool(read_format & ReadFormat.GROUP)
    value = at if group else 0
    at += group
    if read_format & ReadFormat.ID:
        number, at = at, at + 1
    if read_format & ReadFormat.LOST:
        lost, at = at, at + 1
    return ReadPlan(enabled, running, value, number, lost, at - value if group else 0)
