"""An opened recording: reader, decoder, timeline and filter tied together."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from perfxmm import coherence
from perfxmm.analysis.account import Account
from perfxmm.analysis.filters import Filters
from perfxmm.analysis.names import CODE_OFFSET, NameTables
from perfxmm.analysis.shown import DEFAULT_KEEP, Policy, attributed_ip, select, withhold
from perfxmm.analysis.statistics import any_redacted
from perfxmm.coherence.context import EventContext, JudgeContext
from perfxmm.coherence.verdicts import Verdict
from perfxmm.coherence.witness.statement import note_silence
from perfxmm.errors import UsageError
from perfxmm.event_context import asked_table, event_context
from perfxmm.kernel import dialects
from perfxmm.kernel.constants import AttrFlag, CpuMode, SampleType
from perfxmm.kernel.registers import GPR_NAMES
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.order import WINDOW_TEXT
from perfxmm.perfdata.reader import Damage, Event, Reader, RecordBlock
from perfxmm.program import archive
from perfxmm.program.binaries import default_archives
from perfxmm.program.places import Places
from perfxmm.program.remarks import remarks
from perfxmm.program.timeline import Timeline
from perfxmm.sideband_feed import SidebandFeed
from perfxmm.snapshots import sideband
from perfxmm.snapshots.batch import Bool, RegisterSet, SnapshotBatch
from perfxmm.snapshots.decode import EXTRA_COLUMNS, RAGGED_COLUMNS, Decoder
from perfxmm.snapshots.deferred import COOKIES, join_deferred
from perfxmm.snapshots.gather import ALL_COLUMNS
from perfxmm.snapshots.settle import Settlement
from perfxmm.snapshots.xsaves import plan_snapshots

if TYPE_CHECKING:
    import pyarrow

    from perfxmm.analysis.instructions import Instructions
    from perfxmm.analysis.sourcelines import SourceLines
    from perfxmm.coherence.witness.asking import Witness

BATCH_SAMPLES = 8192
# In file order: how far behind a sample its names may stand and still be known.
LOOK_AHEAD_RECORDS = 65_536


class Recording:
    """Snapshots of registers from a perf.data file, judged, with names.

    metadata: what perfxmm wrote about the recording; None for a file of perf's own.
    events: in file order. comms, symbols, dsos, build_ids: string tables for the indices in
    batches; they grow while batches are read. account: counts of the last `snapshots` call.
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, *, dialect: str | None = None,
        symfs: str | os.PathLike[str] | None = None, places: Places | None = None,
        code_checks: bool = True,
    ) -> None:
        self._reader = Reader(source, dialect)
        self.path = self._reader.file
        self.metadata: Metadata | None = self._reader.metadata
        self.events: list[Event] = self._reader.events
        sigtrap = self.metadata is not None and self.metadata.source == "sigtrap"
        arch = self._reader.arch
        snapshots, self._snapshot_notes = plan_snapshots(
            self.events, self._reader.snapshot_formats, self.metadata
        )
        self._decoder = Decoder(
            self.events, stop_info=sigtrap, arch=arch, trust_attrs=self._reader.dialect_given,
            snapshots=snapshots,
        )
        self._sideband = sideband.SidebandDecoder(self.events, self._decoder.plans)
        self._timeline = Timeline(places or _places(self._reader, symfs))
        for path, build_id in _build_ids(self._reader.features):
            self._timeline.note_build_id(path, build_id)
        self._feed = SidebandFeed(self.events, self._timeline)
        self._instructions: Instructions | None = None
        self._source_lines: SourceLines | None = None
        self._code_checks = code_checks
        self._witness: Witness | None = None
        self._settled: list[Settlement] = []
        self._contexts: tuple[EventContext, ...] = ()
        self._take_dialects()
        self.account = Account()
        self._unequal_twins: Counter[int] = Counter()

    @property
    def features(self) -> Mapping[str, Any]:
        """perf's own header features by name: hostname, osrelease, cpudesc, ..."""
        return self._reader.features

    @property
    def damage(self) -> list[Damage]:
        """What was wrong in the file, with its byte offset. Grows while batches are read."""
        samples = [Damage(p.file_offset, p.what) for p in self._decoder.problems]
        others = [Damage(p.file_offset, p.what) for p in self._sideband.problems]
        return [*self._reader.damage, *samples, *others]

    @property
    def damage_count(self) -> int:
        """All that was wrong so far; `damage` has the first 1,000 of each kind."""
        others = self._sideband.damaged.total()
        return self._reader.damage_count + self._decoder.damage_count + others

    @property
    def complete(self) -> bool:
        """False where the recorder was killed, the file is cut off, or damage was met so far."""
        return self._reader.complete and not self.damage

    @property
    def notes(self) -> list[str]:
        """What was found out about the recording as a whole, in words."""
        notes = [*self._snapshot_notes, *self._decoder.notes]
        asking = SampleType.REGS_INTR | SampleType.REGS_USER
        if self.events and not (
            self._decoder.snapshots or any(event.attr.has(asking) for event in self.events)
        ):
            notes.append(
                "the recording holds no register samples (record with perfxmm record, or perf "
                "record -I...)"
            )
        if self._reader.unordered:
            notes.append(
                f"{self._reader.unordered:,} records came too late to be put in time order, which "
                f"waits for {WINDOW_TEXT}: they stand behind newer ones"
            )
        if self.values_redacted:
            notes.append("register values were left out when this was recorded (--redact values)")
        notes += self._dialect_notes()
        notes += remarks(self._timeline)
        if self._source_lines is not None:
            notes += self._source_lines.notes
        return notes

    @property
    def values_redacted(self) -> bool:
        """Whether the recorder wrote lane counts in place of values (--redact values)."""
        return self.metadata is not None and self.metadata.redact == "values"

    @property
    def comms(self) -> Sequence[str]:
        return self._timeline.comms

    @property
    def symbols(self) -> Sequence[str]:
        return self._timeline.symbols

    @property
    def dsos(self) -> Sequence[str]:
        return _DsoColumn(self._timeline, "path")

    @property
    def build_ids(self) -> Sequence[str]:
        """Build id of each DSO in hexadecimal, "" where it is not known."""
        return _DsoColumn(self._timeline, "build_id")

    @property
    def names(self) -> NameTables:
        """All string tables in the form that views and exports take."""
        return NameTables(
            comms=self.comms, symbols=self.symbols, dsos=self.dsos, build_ids=self.build_ids,
            events=[event.name for event in self.events], gpr_names=GPR_NAMES,
            source=self.source,
        )  # fmt: skip

    @property
    def source(self) -> str:
        """Where the snapshots come from: "sigtrap", "pmu", "nmi"; "" where perf itself recorded
        registers that the kernel sampled, or none."""
        if self.metadata is not None:
            return self.metadata.source
        carriers = [context for context in self._contexts if context.classes]
        named = {source for context in carriers for source in context.sources.values()}
        return named.pop() if len(named) == 1 and all(c.sources for c in carriers) else ""

    @property
    def instructions(self) -> Instructions:
        """What the code at a batch's IPs says: element types, cryptography, call chains."""
        if self._instructions is None:
            # A disassembler is a lot to import for those who never look at code.
            from perfxmm.analysis.instructions import Instructions

            self._instructions = Instructions(self._timeline)
        return self._instructions

    @property
    def witness(self) -> Witness:
        """What the code around the samples' IPs proves of their registers."""
        if self._witness is None:
            from perfxmm.coherence.witness.asking import Witness

            self._witness = Witness(self._timeline)
        return self._witness

    def code_unproved(self, dso: int) -> str:
        """Why the code of a DSO (index into `dsos`) is not asked; "" where it is."""
        return self._timeline.binaries.unproved(dso)

    @property
    def source_lines(self) -> SourceLines:
        """Source lines of a batch's IPs, and which functions were inlined there."""
        if self._source_lines is None:
            from perfxmm.analysis.sourcelines import SourceLines

            self._source_lines = SourceLines(self._timeline)
        return self._source_lines

    def snapshots(
        self, *, keep: Collection[str] = DEFAULT_KEEP, columns: Collection[str] | None = None,
        batch_samples: int = BATCH_SAMPLES, filters: Filters | None = None,
        unsafe_foreign: bool = False, ordered: bool = True,
    ) -> Iterator[SnapshotBatch]:
        """The samples as batches, in time order, in bounded memory.

        ordered: False gives them in the file's order. Names are then those of the samples' times
        as far as the side-band stands no more than LOOK_AHEAD_RECORDS behind the samples.

        keep: verdicts to give, or ("all",). A sample is given where any class it was asked for
        has one of them; values of its other classes are taken out, and the masks and delivered
        counts say so. Foreign values are taken out unless unsafe_foreign. Verdicts always stay.
        Samples of a recording made with --redact values are given whatever is kept.
        columns: of "gprs", "vectors", "predicates", "chain", decode.EXTRA_COLUMNS and
        RAGGED_COLUMNS; None means the first four. Columns left out are empty, though all are read
        to be judged.
        `account` counts what was given and what was not; read it after the last batch.
        Raises ValueError for a keep or column that does not exist.
        """
        policy = Policy.of(keep, unsafe_foreign)
        wanted = set(ALL_COLUMNS if columns is None else columns)
        if unknown := wanted - ALL_COLUMNS - {*EXTRA_COLUMNS, *RAGGED_COLUMNS}:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        return self._public(policy, wanted, batch_samples, filters, ordered)

    def judged(
        self, policy: Policy, *, columns: Collection[str] = ("gprs", "vectors", "predicates"),
        batch_samples: int = BATCH_SAMPLES, filters: Filters | None = None, ordered: bool = True,
        decoded: Callable[[SnapshotBatch, JudgeContext], None] | None = None,
    ) -> Iterator[SnapshotBatch]:
        """Like `snapshots`, but masks and counts still say what was *delivered*.

        decoded: is given each batch before it is judged.

        Values that `policy` does not show are zero: ask `policy.visible` before reading one. This
        is what views and exports take, which tell "withheld" from "not delivered".
        """
        filters = filters or Filters()
        self.account = account = Account()
        self._unequal_twins.clear()
        self._feed.begin()
        deferring = "chain" in columns and any(
            event.attr.flag(AttrFlag.DEFER_CALLCHAIN) for event in self.events
        )
        asked_columns = {*columns, COOKIES} if deferring else columns
        for block, late_chains in self._fed_blocks(batch_samples, ordered):
            account.lost, account.throttled = self._feed.lost, self._feed.throttled
            batch = self._decoder.decode(block, columns=asked_columns)
            if not len(batch):
                continue
            if deferring:
                join_deferred(batch, late_chains)
                if COOKIES not in columns:
                    del batch.extra[COOKIES]
            self._take_dialects()
            context = self._context()
            if decoded is not None:
                decoded(batch, context)
            coherence.judge(batch, context)
            self._count_twins(batch)
            self._resolve(batch)
            account.read += len(batch)
            passed = filters.mask(batch, self.names)
            if not passed.all():
                batch = select(batch, passed)
            if self._code_checks:
                self._ask_code(batch)
            shown, asked = self._shown(batch, policy, filters.verdicts)
            account.count(batch, asked, policy, shown)
            if not shown.all():
                batch = select(batch, shown)
            for registers in batch.sets.values():
                withhold(registers, policy)
            if len(batch):
                yield batch

    def to_arrow(
        self, *, keep: Collection[str] = DEFAULT_KEEP, filters: Filters | None = None,
        unsafe_foreign: bool = False,
    ) -> pyarrow.Table:
        """All snapshots as one Arrow table, with the fields of schema perfxmm.snapshot/1.

        Needs the `parquet` extra (pyarrow); raises NotSupported without it.
        """
        from perfxmm.exports.arrow import table_of
        from perfxmm.exports.redaction import Redaction

        policy = Policy.of(keep, unsafe_foreign)
        redaction = Redaction(recorded=self.values_redacted)
        return table_of(self.judged(policy, filters=filters), self.names, policy, redaction)

    def _fed_blocks(
        self, batch_samples: int, ordered: bool
    ) -> Iterator[tuple[RecordBlock, list[sideband.CallchainDeferred]]]:
        """Blocks of at most so many records whose side-band has been taken in, and the call
        chains that came after their samples.
        """
        blocks = (
            self._reader.ordered_blocks(block_records=batch_samples) if ordered
            else self._reader.blocks(block_records=max(batch_samples, LOOK_AHEAD_RECORDS))
        )  # fmt: skip
        for block in blocks:
            late_chains: list[sideband.CallchainDeferred] = []
            for record in self._sideband.decode(block):
                if isinstance(record, sideband.CallchainDeferred):
                    late_chains.append(record)
                self._feed.offer(record)
            if ordered:
                yield block, late_chains
                continue
            for at in range(0, len(block), batch_samples):
                rows = np.arange(at, min(at + batch_samples, len(block)))
                yield block.select(rows), late_chains

    def _public(
        self, policy: Policy, wanted: set[str], batch_samples: int, filters: Filters | None,
        ordered: bool,
    ) -> Iterator[SnapshotBatch]:  # fmt: skip
        columns = wanted | {"gprs", "vectors", "predicates"}
        visible = {Verdict[label.upper()] for label in policy.keep}
        if not policy.unsafe_foreign:
            visible.discard(Verdict.FOREIGN)
        for batch in self.judged(
            policy, columns=columns, batch_samples=batch_samples, filters=filters, ordered=ordered
        ):
            coherence.withhold(batch, visible)
            for registers in batch.sets.values():
                _drop_columns(registers, wanted)
            yield batch

    def _take_dialects(self) -> None:
        """What the events asked for depends on their dialects, which samples may have settled."""
        if self._settled == self._decoder.settled:
            return
        self._settled = list(self._decoder.settled)
        release = str(self.features.get("osrelease") or "")
        proven = (
            self._reader.dialect_given or dialects.merged_release(release)
            # What the recorder asked the kernel itself.
            or (self.metadata is not None and self.metadata.probes.get("whole_classes") is True)
        )
        self._contexts = tuple(
            event_context(
                said.attr, event.name, self._reader.arch,
                snapshots=event.index in self._decoder.snapshots,
                merged_proven=proven,
            )
            for said, event in zip(self._settled, self.events, strict=True)
        )
        self._asked = asked_table(self._contexts)

    def _count_twins(self, batch: SnapshotBatch) -> None:
        """How often the two sets of one sample that must be equal were not, by event."""
        registers = batch.sets.get("intr")
        if registers is None or len(batch.sets) < 2:
            return
        differ = (registers.reason & np.uint64(coherence.REASONS["twin-mismatch"].mask)) != 0
        if differ.any():
            self._unequal_twins.update(batch.event[differ].tolist())

    def _dialect_notes(self) -> Iterator[str]:
        """Which dialect each event with SIMD registers is in and why, and which lie about it."""
        own = self.metadata is not None and self.metadata.source == "sigtrap"
        release = self.features.get("osrelease") or "not recorded"
        texts: dict[str, list[str]] = {}
        for event, said in zip(self.events, self._decoder.settled, strict=True):
            if said.attr.simd_enabled and not own:
                of = texts.setdefault(self._dialect_text(event, said), [])
                of.append(f"event {event.index} ({event.name})")
        for text, some in texts.items():
            more = f" and {len(some) - 3} more events" if len(some) > 3 else ""
            yield f"{', '.join(some[:3])}{more}: {text}"
        for event, said in zip(self.events, self._decoder.settled, strict=True):
            if count := self._unequal_twins[event.index]:
                yield (
                    f"WARNING: in {count:,} user-mode samples of event {event.index} "
                    f"({event.name}) the interrupt and the user registers differ, though both are "
                    f"those of one instant (kernel release {release}, dialect "
                    f"{said.dialect.name}): a broken kernel, file or decoder. None of these is "
                    "believed."
                )

    def _dialect_text(self, event: Event, said: Settlement) -> str:
        """Name and title of a dialect with the evidence for it."""
        name = f"dialect {said.dialect.name} ({said.dialect.title})"
        if self._reader.dialect_given:
            return f"{name}, as given; {said.evidence}"
        if said.confirmed is False:
            return f"{name}: {said.evidence}"
        claim = dialects.detect(event.attr_bytes[: event.attr.size]).evidence
        return f"{name}: {claim}; {said.evidence}"

    def _context(self) -> JudgeContext:
        metadata = self.metadata
        arch_pebs = metadata.probes.get("arch_pebs") if metadata else None
        return JudgeContext(
            source=metadata.source if metadata else "",
            engine=metadata.engine if metadata else "", events=self._contexts,
            xen=metadata is not None and metadata.hypervisor.lower().startswith("xen"),
            arch_pebs=arch_pebs if isinstance(arch_pebs, bool) else None,
            kernel_tids=self._feed.kernel_tids,
            redacted=metadata is not None and metadata.redact != "",
        )  # fmt: skip

    def _resolve(self, batch: SnapshotBatch) -> None:
        ip = attributed_ip(batch)
        mode = np.where(ip == batch.ip, batch.cpumode, np.uint8(CpuMode.USER))
        time_ns = batch.time_ns
        if not self._feed.timed:
            time_ns = np.maximum(batch.file_offset, 0).astype(np.uint64)
        found = self._timeline.resolve(time_ns, batch.pid, batch.tid, ip, mode)
        batch.comm, batch.symbol = found.comm, found.symbol
        batch.symbol_offset, batch.dso = found.symbol_offset, found.dso
        batch.extra[CODE_OFFSET] = found.offset

    def _code_is_known(self, batch: SnapshotBatch) -> bool:
        """Whether any sample has registers and is in code that is proved to be what ran. Without
        one, no disassembler is needed."""
        if batch.dso is None or not any(s.verdict.any() for s in batch.sets.values()):
            return False
        binaries = self._timeline.binaries
        for dso in np.unique(batch.dso[batch.dso >= 0]).tolist():
            if not binaries.unproved(dso):
                return True
        return False

    def _ask_code(self, batch: SnapshotBatch) -> None:
        """Lets the code around the IPs speak for or against what was judged."""
        if batch.dso is None or not self._code_is_known(batch):
            note_silence(batch)
            return
        ip = attributed_ip(batch)
        from perfxmm.coherence.witness.apply import apply

        if apply(
            batch, self._context(), self.witness, ip, batch.dso, batch.extra[CODE_OFFSET]
        ):
            self._resolve(batch)

    def _shown(
        self, batch: SnapshotBatch, policy: Policy, verdicts: frozenset[str]
    ) -> tuple[Bool, dict[str, Bool]]:
        """Which samples to give, and the classes each was asked for, by set."""
        asked = {
            name: self._asked[name][batch.event] & coherence.asked_components(registers)
            for name, registers in batch.sets.items()
        }
        only = Policy.of(verdicts) if verdicts else None
        # A sample that was asked for no register has nothing to be withheld: a plain perf
        # recording is shown as it is.
        shown = np.full(len(batch), only is None or "absent" in verdicts)
        for classes in asked.values():
            shown &= ~classes.any(axis=1)
        for name, registers in batch.sets.items():
            kept = policy.kept(registers.verdict) & asked[name]
            if only is not None:
                kept &= only.kept(registers.verdict)
            shown |= kept.any(axis=1)
        if self.values_redacted and (only is None or "absent" in verdicts):
            # Nor has one whose values were never written: what is left of it is harmless.
            shown |= any_redacted(batch)
        return shown, asked


def open(
    path: str | os.PathLike[str] | BinaryIO, *, dialect: str | None = None,
    symfs: str | os.PathLike[str] | None = None, code_checks: bool = True,
) -> Recording:
    """Opens a recording of perfxmm or perf: a path, "-" for stdin, or a binary file object.

    dialect: a name in kernel.dialects.DIALECTS overrides what attributes and samples look like.
    symfs: directory that holds the binaries of the machine that was recorded, under their paths.
    code_checks: False leaves out what the code around each IP says for or against its registers.
    Raises DamagedInput for what is no recording, UsageError where there is none.
    """
    return Recording(path, dialect=dialect, symfs=symfs, code_checks=code_checks)


def _drop_columns(registers: RegisterSet, wanted: set[str]) -> None:
    n = len(registers.abi)
    if "gprs" not in wanted:
        registers.gprs, registers.gpr_ids = np.zeros((n, 0), np.uint64), ()
    if "vectors" not in wanted:
        registers.vectors = np.zeros((n, 0, 0), np.uint64)
    if "predicates" not in wanted:
        registers.predicates = np.zeros((n, 0), np.uint64)


class _DsoColumn(Sequence[str]):
    """One field of the timeline's DSOs as a live table of strings."""

    def __init__(self, timeline: Timeline, field: str) -> None:
        self._timeline = timeline
        self._field = field

    def __len__(self) -> int:
        return len(self._timeline.dsos)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        value = getattr(self._timeline.dsos[index], self._field)
        return value.hex() if isinstance(value, bytes) else value or ""


def _build_ids(features: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for entry in features.get("build_ids", ()):
        if entry.path and entry.build_id:
            yield entry.path, entry.build_id


def _places(reader: Reader, symfs: str | os.PathLike[str] | None) -> Places:
    """Where the binaries of a recording are looked for."""
    features = reader.features
    machine = os.uname()
    hostname = features.get("hostname")
    beside = archive.directory_of(reader.file)
    kept = (beside,) if beside.is_dir() else ()
    until_ns = None
    with suppress(OSError, ValueError):
        status = os.stat(reader.file)  # noqa: PTH116
        until_ns = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None
    clocks = {
        event.attr.clockid if event.attr.flag(AttrFlag.USE_CLOCKID) else None
        for event in reader.events
    }
    if symfs is not None and not Path(symfs).is_dir():
        raise UsageError(
            f"no such directory: {symfs}",
            next_step="--symfs takes the root of the other machine's files, such as a mounted "
            "image.",
        )
    return Places(
        symfs=Path("/") if symfs is None else Path(symfs), archives=(*kept, *default_archives()),
        beside=beside if kept else None,
        same_kernel=(hostname, features.get("osrelease")) == (machine.nodename, machine.release),
        same_machine=None if hostname is None else hostname == machine.nodename,
        recorded_until_ns=until_ns, monotonic_clock=clocks == {time.CLOCK_MONOTONIC},
    )  # fmt: skip
