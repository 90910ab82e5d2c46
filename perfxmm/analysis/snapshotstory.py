"""The whole story of one snapshot: asked for, delivered, judged, and what its code says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from perfxmm.analysis.names import CODE_OFFSET, CPUMODE_NAMES, NameTables
from perfxmm.analysis.shown import IP_ID, Policy, attributed_ip, initial, select
from perfxmm.coherence.context import EventContext, JudgeContext
from perfxmm.coherence.fired import Fired, fired
from perfxmm.coherence.model import VERDICT_CLASSES, RegisterSet, SnapshotBatch
from perfxmm.coherence.reasons import reason_names
from perfxmm.coherence.rules_code import CODE_RULES
from perfxmm.coherence.verdicts import Verdict
from perfxmm.coherence.witness.asking import Witness
from perfxmm.coherence.witness.statement import Statement
from perfxmm.coherence.witness.story import Checked, CodeStory, code_story


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one set of the sample brought, before anything was judged.

    abi: PERF_SAMPLE_REGS_ABI bits. header: nr_vectors, vector_qwords, nr_pred, pred_qwords as
    read, None where the set has no SIMD header. gprs: names. vectors, opmasks: register numbers.
    vector_bits: 128, 256, 512, or 0 where there are none. xstate_bv: None where not told. ip: the
    set's own, None where not delivered.
    """

    abi: int
    header: tuple[int, int, int, int] | None
    gprs: tuple[str, ...]
    vectors: tuple[int, ...]
    vector_bits: int
    opmasks: tuple[int, ...]
    xstate_bv: int | None
    ip: int | None


@dataclass(frozen=True, slots=True)
class SetStory:
    """One register set. asked: classes. rules: those that matched, a later one overrides an
    earlier one. verdicts: by class. init: classes in their architectural initial state. skid: how
    many instructions on from the IP the registers fit, 0 where they are not contradicted or fit
    nowhere near. code: what the code says; its claims have no values where they are withheld.
    """

    name: str
    asked: tuple[str, ...]
    delivered: Delivered
    rules: tuple[Fired, ...]
    verdicts: dict[str, str]
    reasons: tuple[str, ...]
    init: tuple[str, ...]
    skid: int
    code: CodeStory


@dataclass(frozen=True, slots=True)
class SnapshotStory:
    """One sample. index: among all samples, in reading order. The rest as in SnapshotBatch and
    NameTables; names are "" where they are not known. event: what it asked the kernel for."""

    index: int
    time_ns: int
    pid: int
    tid: int
    cpu: int
    comm: str
    event_number: int
    event: EventContext
    event_name: str
    period: int
    ip: int
    cpumode: str
    exact_ip: bool
    symbol: str
    symbol_offset: int
    dso: str
    build_id: str
    source: str
    file_offset: int
    sets: tuple[SetStory, ...]


@dataclass(slots=True)
class StoryTeller:
    """Finds one sample in a pass over a recording and tells its story.

    index: number of the sample in reading order; or start_ns and stop_ns: the first one in
    [start_ns, stop_ns). Give `decoded` to Recording.judged, and each batch to `judged`.
    """

    names: NameTables
    policy: Policy
    index: int | None = None
    start_ns: int = 0
    stop_ns: int = 0
    seen: int = 0
    _row: int = -1
    _decoded: SnapshotBatch | None = None
    _fired: Mapping[str, list[Fired]] = field(default_factory=dict)
    _context: JudgeContext | None = None

    def decoded(self, batch: SnapshotBatch, context: JudgeContext) -> None:
        """A batch before it is judged."""
        self._row = self._find(batch)
        self.seen += len(batch)
        if self._row >= 0:
            self._fired = fired(batch, context, self._row)
            self._context = context
            self._decoded = select(batch, np.arange(len(batch)) == self._row)

    def _find(self, batch: SnapshotBatch) -> int:
        if self.index is not None:
            row = self.index - self.seen
            return row if 0 <= row < len(batch) else -1
        times = batch.time_ns
        inside = np.flatnonzero(
            (times >= np.uint64(self.start_ns)) & (times < np.uint64(self.stop_ns))
        )
        return int(inside[0]) if len(inside) else -1

    def judged(self, batch: SnapshotBatch, witness: Witness) -> SnapshotStory | None:
        """The story, once the batch that has the sample is judged; None before."""
        if self._row < 0 or self._decoded is None or self._context is None:
            return None
        row, names = self._row, self.names
        event = int(batch.event[row])
        symbol = _of(batch.symbol, row)
        dso = _of(batch.dso, row)
        comm = _of(batch.comm, row)
        sets = tuple(
            self._set(batch, name, row, witness, self._context.events[event])
            for name in batch.sets
        )
        return SnapshotStory(
            index=self.seen - len(batch) + row, time_ns=int(batch.time_ns[row]),
            pid=int(batch.pid[row]), tid=int(batch.tid[row]), cpu=int(batch.cpu[row]),
            comm=names.comms[comm] if comm >= 0 else "", event_number=event,
            event=self._context.events[event], event_name=names.events[event],
            period=int(batch.period[row]), ip=int(batch.ip[row]),
            cpumode=CPUMODE_NAMES[int(batch.cpumode[row]) & 7],
            exact_ip=bool(batch.exact_ip[row]),
            symbol=names.symbols[symbol] if symbol >= 0 else "",
            symbol_offset=0 if batch.symbol_offset is None else int(batch.symbol_offset[row]),
            dso=names.dsos[dso] if dso >= 0 else "",
            build_id=names.build_ids[dso] if dso >= 0 else "", source=names.source,
            file_offset=int(batch.file_offset[row]), sets=sets,
        )  # fmt: skip

    def _set(
        self, batch: SnapshotBatch, name: str, row: int, witness: Witness, event: EventContext,
    ) -> SetStory:
        assert self._decoded is not None
        registers = batch.sets[name]
        verdicts = {
            class_name: Verdict(int(registers.verdict[row, column])).label
            for column, class_name in enumerate(VERDICT_CLASSES)
        }
        reasons = reason_names(int(registers.reason[row]))
        rules = list(self._fired.get(name, ()))
        rules += [
            Fired(rule, VERDICT_CLASSES if rule.verdict is not None else ())
            for rule in CODE_RULES if rule.reason in reasons
        ]
        statement = Statement.of(batch, name)
        init = initial(registers)[row]
        return SetStory(
            name=name,
            asked=tuple(c for c in (*VERDICT_CLASSES, "egpr", "ssp") if event.asks(name, c)),
            delivered=_delivered(self._decoded.sets[name], self.names.gpr_names),
            rules=tuple(rules), verdicts=verdicts, reasons=reasons,
            init=tuple(c for c, there in zip(VERDICT_CLASSES, init, strict=True) if there),
            skid=int(statement.skid[row]), code=self._code(batch, name, row, witness, statement),
        )  # fmt: skip

    def _code(
        self, batch: SnapshotBatch, name: str, row: int, witness: Witness, statement: Statement,
    ) -> CodeStory:
        registers = batch.sets[name]
        ip = attributed_ip(batch)
        own = registers.gpr(IP_ID)
        told = int(registers.gpr_mask[row]) >> IP_ID & 1
        if own is not None and told and own[row] != ip[row]:
            return CodeStory(silence="the set is of another IP than the one shown")
        dso = _of(batch.dso, row)
        offset = int(batch.extra[CODE_OFFSET][row]) if CODE_OFFSET in batch.extra else 0
        if not statement.asked[row]:
            return CodeStory(silence="no class is believed without it: there is nothing to ask")
        story = code_story(
            witness.code, batch, registers, row, ip, dso, offset,
            believed=int(statement.asked[row]),
        )  # fmt: skip
        visible = self.policy.visible(registers.verdict)[row]
        return replace(story, checks=tuple(
            check if visible[VERDICT_CLASSES.index(check.register_class)] else _hidden(check)
            for check in story.checks
        ))  # fmt: skip


def _hidden(check: Checked) -> Checked:
    return replace(check, found=None)


def _of(column: object, row: int) -> int:
    return -1 if column is None else int(column[row])  # type: ignore[index]


def _delivered(registers: RegisterSet, gpr_names: tuple[str, ...]) -> Delivered:
    """Of a set of one sample."""
    header = int(registers.header[0]) if len(registers.header) else 0
    gpr_mask, vector_mask = int(registers.gpr_mask[0]), int(registers.vector_mask[0])
    predicates = registers.predicate_mask
    opmask = int(predicates[0]) if len(predicates) else 0
    if not registers.delivered_predicates[0]:
        opmask = 0
    bv = None if registers.xstate_bv is None else int(registers.xstate_bv[0])
    ip = registers.gpr(IP_ID)
    return Delivered(
        abi=int(registers.abi[0]),
        header=None if not header else (
            header & 0xFFFF, header >> 16 & 0xFFFF, header >> 32 & 0xFFFF, header >> 48),
        gprs=tuple(name for bit, name in enumerate(gpr_names) if gpr_mask >> bit & 1),
        vectors=tuple(bit for bit in range(32) if vector_mask >> bit & 1),
        vector_bits=64 * int(registers.delivered_qwords[0]) if vector_mask else 0,
        opmasks=tuple(bit for bit in range(8) if opmask >> bit & 1),
        xstate_bv=None if bv == (1 << 64) - 1 else bv,
        ip=int(ip[0]) if ip is not None and gpr_mask >> IP_ID & 1 else None,
    )  # fmt: skip
