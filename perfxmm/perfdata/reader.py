"""Reading a recording: header, events, features, and its records in bounded blocks.

Total after opening: whatever is wrong behind the header becomes an entry of `Reader.damage`, and
everything before it is delivered.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from perfxmm.errors import DamagedInput, UsageError
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel import dialects
from perfxmm.kernel.constants import PerfType, SampleType
from perfxmm.kernel.dialects import Dialect
from perfxmm.kernel.layout import X86_ARCHES, most_sample_bytes
from perfxmm.kernel.traceformat import TraceFormat
from perfxmm.perfdata import pipe, snapshotinfo
from perfxmm.perfdata.blocks import BLOCK_BYTES, BLOCK_RECORDS, Damage, RecordBlock
from perfxmm.perfdata.damagelog import DamageLog
from perfxmm.perfdata.directory import Part, merge, part_files, quiet
from perfxmm.perfdata.events import Event, event_name
from perfxmm.perfdata.expand import COMPRESSED_TYPES, expand, is_compressed
from perfxmm.perfdata.features import DECODERS, raw
from perfxmm.perfdata.format import Feature
from perfxmm.perfdata.header import AttrEntry, FileHead, parse_metadata, read_head
from perfxmm.perfdata.magic import check_magic
from perfxmm.perfdata.metadata import FEATURE_BIT, OUTPUT_ERROR, Metadata
from perfxmm.perfdata.order import WINDOW_BYTES, WINDOW_RECORDS, Clock, Orderer
from perfxmm.perfdata.origins import Origins
from perfxmm.perfdata.resync import Resync
from perfxmm.perfdata.scanner import scan
from perfxmm.perfdata.source import Mapped, open_input
from perfxmm.perfdata.swap import attr_of_samples, normalise, swap_build_ids
from perfxmm.perfdata.tracing import TracingError, tracepoint_formats, tracepoint_names

__all__ = ["BLOCK_RECORDS", "Damage", "Event", "Reader", "RecordBlock"]

_CUT_WHILE_READ = "the file was cut off here while it was read"
# e_machine of ELF files (elf.h) for feature E_MACHINE: x86 ones have register masks of their own.
_X86_E_MACHINES = {3: "i686", 62: "x86_64"}


class Reader:
    """One recording.

    source: path (of a file, or of a directory that `perf record --threads` made), "-" for stdin,
    or a binary file object. dialect: overrides detection. lenient: what cannot be decoded for want
    of events is opened all the same, with none or with those that can be read, and the reason is
    among the damage.

    head: what the header says. byte_order: "little" or "big", of the file; all that is given here
    is little-endian. events: in file order. metadata: None where perfxmm did not write it.
    features: decoded features by name, others as raw bytes by "bit N". damage,
    damage_count: grow while blocks are read. unordered: records that came too late for time order,
    after `ordered_blocks`.
    snapshot_formats: tracepoint number -> format, of system snapshotinfo.SYSTEM; empty where no
    event is a tracepoint, or the recording does not keep them.
    packed: how many records, by type, were unpacked and do not appear in blocks.
    data_start, data_end: offsets of the data section as far as it can be read; in the file, or
    where it was unpacked, in the unpacked bytes.

    Memory, whatever the bytes say: opening takes the attrs, features (16 MiB), ids (2 million) and
    names, each bounded where it is read (`header`, `pipe`), and the numbers of one block;
    `blocks` a block's columns beside its mapped bytes (BLOCK_RECORDS, BLOCK_BYTES);
    `ordered_blocks` 24 bytes for each waiting record (WINDOW_RECORDS) and three copies of that.
    What is unpacked goes to a temporary file, bounded in `expand`.

    Raises DamagedInput for what is no recording or ends before its first record, UsageError and
    PermissionDenied where it cannot be opened.
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, dialect: Dialect | str | None = None, *,
        lenient: bool = False,
    ) -> None:
        self._lenient = lenient
        self._asked_dialect = _dialect(dialect)
        self._damage = DamageLog()
        self.features: dict[str, Any] = {}
        self.metadata: Metadata | None = None
        self.unordered = 0
        self.snapshot_formats: dict[int, TraceFormat] = {}
        self.packed: Counter[int] = Counter()
        self._origins: Origins | None = None
        self._most_sample_bytes: int | None = None  # not before the events are known
        mapped, self.file = open_input(source)
        if isinstance(mapped, bytes):
            check_magic(mapped, self.file)
            raise AssertionError("empty input passed the magic check")
        self._mapped = self._in_file = mapped
        self.head = head = read_head(mapped, self.file, self._report)
        if head.misplaced is not None:
            self._look_for_data(head, head.misplaced)
        if head.failure is not None:
            self._fail(head.failure)
        self.pipe, self.byte_order = head.pipe, head.byte_order
        self.data_start, self.data_end = head.data_start, head.data_end
        if head.byte_order == "big":
            self._normalise(head)
        names: dict[int, str] = {}
        if head.pipe or not (head.entries or head.failure):
            names = self._collect(head)
        head.compressed |= bool(self.packed)
        # What perfxmm wrote itself has no compressed records, so need not be looked through.
        doubtful = not head.finished and head.gap_metadata is None
        if not self.packed and (
            head.compressed or (doubtful and is_compressed(self._quiet_blocks()))
        ):
            self._expand()
        self._decode_features(head)
        self.events = self._events(head.entries, names)
        self._most_sample_bytes = most_sample_bytes([event.attr for event in self.events])
        if parts := part_files(source):
            self._merge(parts)
        self._header_finished = head.finished
        if self.metadata is None:
            self.metadata = head.gap_metadata
            # Our own files always end with our metadata: perfxmm did not get that far.
            self._header_finished &= head.gap_metadata is None
        else:
            result = self.metadata.result
            self._header_finished &= OUTPUT_ERROR not in result and bool(result or not head.pipe)

    @property
    def damage(self) -> list[Damage]:
        """The first MOST_LISTED places where something is wrong."""
        return self._damage.listed

    @property
    def damage_count(self) -> int:
        """All places met so far, listed or not."""
        return self._damage.count

    @property
    def complete(self) -> bool:
        """False where the recorder was killed or could not write to the end, the file is cut off,
        or damage was met so far.
        """
        return self._header_finished and not self.damage

    @property
    def arch(self) -> str:
        """The recording machine, as in uname -m: what the features say, else x86_64 for
        little-endian recordings and "unknown" for big-endian ones.
        """
        if said := self.features.get("arch"):
            return str(said)
        if self.byte_order == "big":
            return "unknown"
        _, body = self.head.feature_bodies.get(Feature.E_MACHINE, (0, b""))
        if len(body) < 4:
            return "x86_64"
        machine = int.from_bytes(body[:4], "little")
        return _X86_E_MACHINES.get(machine, f"e_machine {machine}")

    def blocks(
        self, *, block_records: int = BLOCK_RECORDS, block_bytes: int = BLOCK_BYTES,
        placed: bool = True,
    ) -> Iterator[RecordBlock]:
        """The records in file order. A block's pages are given back when the next is asked for.

        placed: offsets are the file's, -1 where records were unpacked. Else they are those of the
        data section as it is read; `origin` says where that stands in the file.
        """
        for block in self._scan(
            self._report_inside, self._mapped.release, block_records=block_records,
            block_bytes=block_bytes,
        ):
            yield self._placed(block) if placed else block

    @property
    def file_bytes(self) -> int:
        """Size of the file, or of all that a stream had."""
        return self._in_file.size

    def origin(self, offset: int) -> int:
        """Byte of the file for an offset of `blocks(placed=False)`: where a record stands, or the
        compressed record that it came out of. -1 where that is not known.
        """
        return offset if self._origins is None else self._origins.of(offset)

    def packed_records(self) -> Iterator[tuple[int, int, int, int]]:
        """Records that were unpacked, in file order: offset, as of `blocks(placed=False)`, at
        which their contents begin, byte of the file, type, size.
        """
        sign = "<" if self.byte_order == "little" else ">"
        for inside, at in self._origins.packed() if self._origins is not None else ():
            header = self._in_file[at : at + 8]
            if len(header) == 8:
                kind, _, size = struct.unpack(f"{sign}IHH", header)
                yield inside, at, kind, size

    def ordered_blocks(
        self, *, window_records: int = WINDOW_RECORDS, window_bytes: int = WINDOW_BYTES,
        block_records: int = BLOCK_RECORDS,
    ) -> Iterator[RecordBlock]:
        """The records in time order, FINISHED_ROUND left out; see perfdata.order."""
        clock = Clock([e.attr for e in self.events], [e.ids for e in self.events])
        if not clock.timed:
            yield from self.blocks(block_records=block_records)
            return
        orderer = Orderer(
            self._mapped.view, clock, window_records=window_records, window_bytes=window_bytes,
            block_records=block_records, release=self._mapped.release,
        )
        for block in orderer.run(self._scan(self._report_inside)):
            # Time order looks back: what it hands out may have been lost in between.
            if (now := self._mapped.size_now) < block.file_base + len(block.buffer):
                self._report_inside(Damage(now, _CUT_WHILE_READ))
                break
            yield self._placed(block)
            self.unordered = orderer.unordered
        self.unordered = orderer.unordered

    def _scan(
        self, report: Callable[[Damage], None], release: Callable[[int, int], None] | None = None,
        *, block_records: int = BLOCK_RECORDS, block_bytes: int = BLOCK_BYTES,
    ) -> Iterator[RecordBlock]:  # fmt: skip
        """As `scan` over the data section, as far as the file still has it."""
        end = min(self.data_end, self._mapped.size_now)
        blocks = scan(
            self._mapped.view, self.data_start, end, report=report, release=release,
            block_records=block_records, block_bytes=block_bytes,
            most_sample_bytes=self._most_sample_bytes,
        )
        while (now := self._mapped.size_now) >= end:
            block = next(blocks, None)
            if block is None:
                break
            yield block
        if now < self.data_end:
            report(Damage(now, _CUT_WHILE_READ))

    def _placed(self, block: RecordBlock) -> RecordBlock:
        """The block without file offsets where it does not stand in the file."""
        return block if self._origins is None else replace(block, file_base=-1)

    def _report_inside(self, damage: Damage) -> None:
        """Damage with an offset in the data section as it is read."""
        if self._origins is not None:
            damage = Damage(self._origins.of(damage.offset), damage.what)
        self._report(damage)

    def _report(self, damage: Damage) -> None:
        # Blocks may be read more than once, and a hostile file has damage without end.
        self._damage.add(damage)

    def _fail(self, error: DamagedInput) -> None:
        """Raises it, or goes on without events that can be told apart."""
        if not self._lenient:
            raise error
        why = f": {error.why}" if error.why else ""
        self._report(Damage(error.offset or 0, f"{error.what}{why}"))

    def _look_for_data(self, head: FileHead, error: DamagedInput) -> None:
        """Tells that the data are not where the header puts them. Fails where they are nowhere."""
        search = Resync(self._mapped.view, head.data_end)
        if search.find(head.data_start, 1) is None:
            self._fail(error)
            return
        where = f"records are looked for from {head.data_start:#x} on"
        self._report(Damage(error.offset or 0, f"{error.what}; {where}"))

    def _normalise(self, head: FileHead) -> None:
        """Goes over to a little-endian data section."""
        known = [
            (attr_of_samples(entry.data), entry.ids)
            for entry in head.entries if _is_attr(entry.data)
        ]  # fmt: skip
        if self.data_end > self.data_start:
            made = normalise(self._mapped, self.data_start, self.data_end, known, self._report)
            self._mapped, self._origins, self.packed = made.data, made.origins, made.packed
            self.data_end = made.data.size

    def _collect(self, head: FileHead) -> dict[int, str]:
        """What a stream has as records; a file may have its events there too."""
        found = pipe.collect(self._quiet_blocks(), self._report)
        if not found.entries:
            self._fail(DamagedInput(
                "the stream has no events", file=self.file, offset=head.data_start,
                record_type="HEADER_ATTR", why="it ends, or is damaged, before the first of them",
            ) if head.pipe else DamagedInput(
                "the file has 0 events", file=self.file, offset=32, field="header.attrs.size",
                why="a recording has at least one",
            ))  # fmt: skip
        head.entries = found.entries
        head.tracepoint_names |= found.tracepoint_names
        if found.tracing is not None and any(_is_tracepoint(e.data) for e in found.entries):
            self._name_tracepoints(self._mapped, *found.tracing)
            self._keep_formats(self._mapped, *found.tracing)
        head.compressed |= found.compressed > 0
        head.feature_bodies = found.feature_bodies | head.feature_bodies
        if found.build_ids and Feature.BUILD_ID not in head.feature_bodies:
            entries = bytes(found.build_ids)
            if head.byte_order == "big":  # as in the feature section of such a file
                entries = swap_build_ids(entries)
            head.feature_bodies[Feature.BUILD_ID] = (head.data_start, entries)
        head.feature_bytes = {bit: len(body) for bit, (_, body) in head.feature_bodies.items()}
        return found.names

    def _name_tracepoints(self, data: Mapped, begin: int, end: int) -> None:
        """Takes names from the tracing data in data[begin:end]."""
        try:
            found = tracepoint_names(data, begin, end)
        except TracingError as error:
            found = error.so_far
            inside = data is not self._in_file
            (self._report_inside if inside else self._report)(Damage(error.offset, str(error)))
        self.head.tracepoint_names = found | self.head.tracepoint_names

    def _keep_formats(self, data: Mapped, begin: int, end: int) -> None:
        """Formats of the `nmi` source's tracepoints. Whoever needs one that is missing says so."""
        with suppress(TracingError):
            self.snapshot_formats = tracepoint_formats(data, begin, end, snapshotinfo.SYSTEM)

    def _quiet_blocks(self) -> Iterator[RecordBlock]:
        """For a first look: what is damaged will be met again."""
        return self._scan(lambda damage: None, self._mapped.release)

    def _expand(self) -> None:
        """Goes over to a data section without compressed records."""
        origins = Origins()
        expanded = expand(
            self._mapped, self._counted(self._quiet_blocks()), self.data_start, self.data_end,
            self._report, origins,
        )  # fmt: skip
        self._origins = origins
        if isinstance(expanded, bytes):
            self.data_end = self.data_start
            return
        self._mapped = expanded
        self.data_start, self.data_end = 0, expanded.size

    def _merge(self, paths: list[Path]) -> None:
        """Goes over to the records of all files of a directory."""
        parts = [Part("data", self._mapped, self.data_start, self.data_end)]
        for path in paths:
            mapped, _ = open_input(path)
            if isinstance(mapped, Mapped):
                parts.append(self._part(path.name, mapped))
        clock = Clock([e.attr for e in self.events], [e.ids for e in self.events])
        merged = merge(parts, clock, self._report)
        self._origins = Origins()
        if isinstance(merged, bytes):
            self.data_end = self.data_start
            return
        self._mapped = merged
        self.data_start, self.data_end = 0, merged.size

    def _part(self, name: str, mapped: Mapped) -> Part:
        """One more file's records, unpacked and little-endian. Each has its own zstd stream."""

        def tell(damage: Damage) -> None:
            self._report(Damage(-1, f"{name}, byte {damage.offset}: {damage.what}"))

        begin, end = 0, mapped.size
        if self.byte_order == "big":
            made = normalise(mapped, 0, end, [(e.attr, e.ids) for e in self.events], tell)
            self.packed += made.packed
            return Part(name, made.data, 0, made.data.size)
        whole = Part(name, mapped, begin, end)
        if is_compressed(quiet(whole)):
            expanded = expand(mapped, self._counted(quiet(whole)), 0, end, tell, Origins())
            if isinstance(expanded, Mapped):
                return Part(name, expanded, 0, expanded.size)
        return whole

    def _counted(self, blocks: Iterator[RecordBlock]) -> Iterator[RecordBlock]:
        for block in blocks:
            self.packed.update(block.types[np.isin(block.types, COMPRESSED_TYPES)].tolist())
            yield block

    def _decode_features(self, head: FileHead) -> None:
        for bit, (offset, body) in sorted(head.feature_bodies.items()):
            if bit == FEATURE_BIT:
                self.metadata = parse_metadata(body.rstrip(b"\0"), offset, self._report)
                continue
            if not body:  # perf leaves it so where it found nothing to say
                continue
            key, decode = DECODERS.get(bit, (f"bit {bit}", raw))
            try:
                self.features[key] = decode(body, head.order)
            except (struct.error, ValueError) as error:
                self._report(Damage(offset, f"feature {key} cannot be read: {error}"))

    @property
    def dialect_given(self) -> bool:
        """Whether the caller said which dialect it is, instead of the attrs."""
        return self._asked_dialect is not None

    def _events(self, entries: list[AttrEntry], names: dict[int, str]) -> list[Event]:
        described = self.features.get("event_desc", [])
        dialect = self._asked_dialect
        if dialect is None and self.arch not in X86_ARCHES:
            dialect = dialects.L
        for _, name, ids in described:
            for number in ids:
                names.setdefault(number, name)
        pmus = self.features.get("pmu_mappings")
        tracing = self.head.feature_bodies.get(Feature.TRACING_DATA)
        if tracing is not None and not self.pipe and any(_is_tracepoint(e.data) for e in entries):
            size = self.head.feature_bytes[Feature.TRACING_DATA]
            self._keep_formats(self._in_file, tracing[0], tracing[0] + size)
        events: list[Event] = []
        damage: DamagedInput | None = None
        for index, entry in enumerate(entries):
            try:
                attr = attr_codec.decode(
                    entry.data, dialect=dialect, file=self.file, offset=entry.offset
                )
                if not attr.simd_enabled:
                    # In one file events with and without SIMD registers stand side by side.
                    attr = attr_codec.decode(entry.data, dialect=dialects.L)
            except DamagedInput as error:  # costs that event
                damage = damage or error
                self._report(Damage(entry.offset, f"event {index} cannot be read: {error.what}"))
                continue
            name = next((names[i] for i in entry.ids if i in names), "")
            if not name and len(described) == len(entries):
                name = described[index][1]
            if not name and attr.type == PerfType.TRACEPOINT:
                if tracing is not None and not self.pipe:
                    size = self.head.feature_bytes[Feature.TRACING_DATA]
                    self._name_tracepoints(self._in_file, tracing[0], tracing[0] + size)
                    tracing = None
                name = self.head.tracepoint_names.get(attr.config, "")
            events.append(Event(
                len(events), name or event_name(attr, pmus), attr, entry.ids, entry.data,
                entry.offset,
            ))  # fmt: skip
        told_apart = events and all(map(_samples_have_ids, events))
        if damage is not None and not told_apart and not self._lenient:
            raise damage  # nothing would tell its samples from those of the others
        return events


def _samples_have_ids(event: Event) -> bool:
    return event.attr.has(SampleType.ID) or event.attr.has(SampleType.IDENTIFIER)


def _is_attr(data: bytes) -> bool:
    """Whether decoding them will not fail; where it does is told when the events are made."""
    size = int.from_bytes(data[4:8], "little") or attr_codec.ATTR_SIZE_VER0
    return attr_codec.ATTR_SIZE_VER0 <= size <= len(data)


def _is_tracepoint(data: bytes) -> bool:
    return int.from_bytes(data[:4], "little") == PerfType.TRACEPOINT


def _dialect(asked: Dialect | str | None) -> Dialect | None:
    if asked is None or isinstance(asked, Dialect):
        return asked
    if asked not in dialects.DIALECTS:
        raise UsageError(
            f"there is no dialect {asked!r}", next_step=f"one of {', '.join(dialects.DIALECTS)}"
        )
    return dialects.DIALECTS[asked]
