"""A recording seen from outside: reader, tally and decoder tied together for `perfxmm inspect`.

One pass over the headers; samples are decoded only as far as CHECK_BYTES go (all of them when
every record is printed), which is what tells damage inside of samples and what the samples' SIMD
headers say of the dialect. What was not looked at is said, not guessed.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from perfxmm.analysis.inspection import Inspection
from perfxmm.errors import DamagedInput
from perfxmm.kernel import attrtext, dialects
from perfxmm.kernel.constants import REGS_ABI_SIMD, RecordType, SampleType
from perfxmm.kernel.layout import KNOWN_SAMPLE_TYPES, X86_ARCHES
from perfxmm.perfdata import featuretext
from perfxmm.perfdata.blocks import Damage, RecordBlock
from perfxmm.perfdata.directory import part_files
from perfxmm.perfdata.events import Event
from perfxmm.perfdata.format import Feature
from perfxmm.perfdata.metadata import FEATURE_BIT
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.recordtext import UNKNOWN_PREFIX, RecordLines, type_name
from perfxmm.perfdata.tally import Span, Tally
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.settle import Settlement
from perfxmm.snapshots.xsaves import plan_snapshots

# How much of the data is decoded, not only counted: small files, and the beginning of large ones.
CHECK_BYTES = 16 << 20
LINE_RECORDS = 4096
_SWAPPER = "swapper"  # the idle tasks' name in the kernel; they have no COMM record
_MOST_DAMAGE = 1000
_NO_MORE = (1 << 63, -1, -1, -1)


class Inspector:
    """One recording under inspection. Call `run` or use up `lines`, then `result`.

    What is left of a damaged head is told, too. Raises what opening a Reader raises, for what is no
    recording at all.
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, *, dialect: str | None = None
    ) -> None:
        self._reader = reader = Reader(source, dialect, lenient=True)
        self._parts = len(part_files(source))
        self._x86 = reader.arch in X86_ARCHES
        attrs, ids = [e.attr for e in reader.events], [e.ids for e in reader.events]
        self._damage: list[Damage] = []  # by offset in the data section as it is read
        self._feature_damage: list[tuple[int, str]] = []
        self._tally = Tally(attrs, ids, self._report)
        sigtrap = reader.metadata is not None and reader.metadata.source == "sigtrap"
        arch = reader.arch
        snapshots, self._snapshot_notes = plan_snapshots(
            reader.events, reader.snapshot_formats, reader.metadata
        )
        self._decoder = Decoder(
            reader.events, stop_info=sigtrap, arch=arch, trust_attrs=reader.dialect_given,
            snapshots=snapshots,
        )
        self._simd: Counter[int] = Counter()
        self._checked_samples = self._checked_bytes = 0
        self._bytes = 0
        self._read = False

    @property
    def total_bytes(self) -> int:
        """Bytes of records that there are to read."""
        return self._reader.data_end - self._reader.data_start

    def run(self, advance: Callable[[int], None] | None = None) -> None:
        """Counts everything. advance: called with the bytes behind us, now and then."""
        for block in self._reader.blocks(placed=False):
            self._count(block, check_all=False)
            if advance is not None:
                advance(self._bytes)
        self._read = True

    def lines(self) -> Iterator[str]:
        """A line for each record, in the file's order, in bounded memory. Not escaped."""
        reader = self._reader
        writer = RecordLines([(e.attr, e.ids, e.name) for e in reader.events])
        packed = reader.packed_records()
        inside, at, kind, size = next(packed, _NO_MORE)
        for block in reader.blocks(block_records=LINE_RECORDS, placed=False):
            self._count(block, check_all=True)
            lines = writer.lines(block, reader.origin)
            for offset, line in zip(block.offsets.tolist(), lines, strict=True):
                # A compressed record stands before what came out of it.
                while inside <= block.file_base + offset:
                    yield writer.head(at, kind, size)
                    inside, at, kind, size = next(packed, _NO_MORE)
                yield line
        while kind >= 0:
            yield writer.head(at, kind, size)
            _, at, kind, size = next(packed, _NO_MORE)
        self._read = True

    def result(self) -> Inspection:
        """What was found out. Runs the pass if that was not done."""
        if not self._read:
            self.run()
        reader, tally = self._reader, self._tally
        features = self._features()
        pmus = {
            one["type"]: one["name"]
            for one in (features.get("pmu_mappings") or {}).get("value") or ()
        }
        damage = self._all_damage()
        records = Counter(tally.records)
        for kind, count in self._reader.packed.items():
            records[kind] += count
        return Inspection(
            file=reader.file, header=self._header(), features=features,
            events=[self._event(event, pmus) for event in reader.events],
            records={type_name(kind): records[kind] for kind in sorted(records)},
            record_total=records.total(), record_bytes=self._bytes,
            time_span=_span(tally), cpus=[
                {"cpu": cpu, "samples": tally.cpus[cpu]} for cpu in sorted(tally.cpus)
            ],
            threads=self._threads(), lost=tally.lost_records + tally.lost_samples,
            lost_records=tally.lost_records, lost_samples=tally.lost_samples,
            throttled=records[RecordType.THROTTLE], unthrottled=records[RecordType.UNTHROTTLE],
            build_ids=self._build_ids(features), unknown=self._unknown(records),
            damage=damage, damage_count=max(self._damage_count(), len(damage)),
            metadata=asdict(reader.metadata) if reader.metadata is not None else None,
            checked={
                "samples": self._checked_samples, "of_samples": tally.samples.total(),
                "bytes": self._checked_bytes, "of_bytes": self._bytes,
            },
            complete=reader.complete and not damage, notes=self._notes(),
        )  # fmt: skip

    # --- the pass

    def _report(self, damage: Damage) -> None:
        if len(self._damage) < _MOST_DAMAGE:
            self._damage.append(damage)

    def _count(self, block: RecordBlock, *, check_all: bool) -> None:
        check = check_all or self._checked_bytes < CHECK_BYTES
        self._tally.add(block, check=not check)
        size = int(block.sizes.sum(dtype=np.int64))
        self._bytes += size
        if not check:
            return
        self._checked_bytes += size
        self._checked_samples += int(np.count_nonzero(block.types == RecordType.SAMPLE))
        for _ in self._decoder.sideband(block):
            pass  # for what is wrong with them
        batch = self._decoder.decode(block, columns=())
        has = np.zeros(len(batch), np.bool_)
        for registers in batch.sets.values():
            has |= (registers.abi & REGS_ABI_SIMD) != 0
        for event, count in Counter(batch.event[has].tolist()).items():
            self._simd[event] += count

    # --- its result, part by part

    def _header(self) -> dict[str, Any]:
        reader, head = self._reader, self._reader.head
        said: dict[str, Any] = {
            "magic": head.magic, "byte_order": reader.byte_order,
            "mode": "pipe" if head.pipe else "file", "file_bytes": reader.file_bytes,
            "header_bytes": head.header_bytes,
        }  # fmt: skip
        if not head.pipe:
            said["attr_entry_bytes"] = head.attr_entry_bytes
            for name in ("attrs", "data", "event_types"):
                offset, size = getattr(head, name)
                said[name] = {"offset": offset, "size": size}
        else:
            behind = reader.file_bytes - head.header_bytes
            said["data"] = {"offset": head.header_bytes, "size": behind}
        said["finished"] = head.finished
        said["compressed"] = bool(self._reader.packed) or head.compressed
        return said

    def _feature_bodies(self) -> list[tuple[int, tuple[int, bytes]]]:
        """perf's features by bit, without perfxmm's own."""
        head = self._reader.head
        bits = sorted(bit for bit in head.feature_bodies if bit != FEATURE_BIT)
        if head.pipe and bits and bits[-1] > Feature.STAT and not head.feature_bodies[bits[-1]][1]:
            # perf ends the features of a stream with an empty one, numbered HEADER_LAST_FEATURE
            # (perf_event__synthesize_features, tools/perf/util/synthetic-events.c, Linux 7.3).
            bits.pop()
        return [(bit, head.feature_bodies[bit]) for bit in bits]

    def _features(self) -> dict[str, dict[str, Any]]:
        head = self._reader.head
        cpus = 0
        found: dict[str, dict[str, Any]] = {}
        names = [event.name for event in self._reader.events]
        for bit, (offset, body) in self._feature_bodies():
            name = featuretext.feature_name(bit)
            size = head.feature_bytes.get(bit, len(body))
            value = None
            try:
                # What was too long to be kept whole is told by its size.
                if size == len(body) and (body or bit in (Feature.BRANCH_STACK, Feature.STAT)):
                    value = featuretext.decode(bit, body, head.order, cpus)
            except (ValueError, struct.error) as error:
                self._feature_damage.append((offset, f"feature {name} cannot be read: {error}"))
            if bit == Feature.NRCPUS and value is not None:
                cpus = value["available"]
            found[name] = {
                "bit": bit, "offset": offset, "bytes": size, "value": value,
                "text": featuretext.lines(bit, value, size, names),
            }  # fmt: skip
        return found

    def _event(self, event: Event, pmus: dict[int, str]) -> dict[str, Any]:
        return {
            "index": event.index, "name": event.name, "ids": list(event.ids),
            "samples": self._tally.samples[event.index], "attr_offset": event.attr_offset,
            "attr": attrtext.describe(
                self._decoder.settled[event.index].attr, x86=self._x86, pmus=pmus
            ),
            "dialect": self._dialect(event),
        }  # fmt: skip

    def _dialect(self, event: Event) -> dict[str, Any]:
        said = self._decoder.settled[event.index]
        spoken = said.dialect
        if not self._x86:
            arch = self._reader.features.get("arch")
            evidence = f"recorded on {arch}, which has no SIMD fields in its attributes"
        elif self._reader.dialect_given:
            evidence = "it was given"
        else:
            evidence = dialects.detect(event.attr_bytes[: event.attr.size]).evidence
        told: dict[str, Any] = {
            "name": spoken.name, "title": spoken.title, "evidence": evidence,
        }  # fmt: skip
        if said.attr.simd_enabled:
            told.update(self._confirmation(event, said))
        return told

    def _confirmation(self, event: Event, said: Settlement) -> dict[str, Any]:
        """Whether the samples' own SIMD headers are what the attribute implies."""
        seen, text = self._simd[event.index], said.evidence
        if said.confirmed is False:
            claimed = event.attr.dialect.name
            text = f"{text}; by its attribute alone it would be {claimed}"
        elif said.confirmed:
            text = f"{seen:,} samples have {said.dialect.header} SIMD headers that fit"
        return {"confirmed": said.confirmed, "confirmation": text}

    def _threads(self) -> list[dict[str, Any]]:
        """Threads with samples or a name, most samples first."""
        tally = self._tally
        samples = dict(tally.threads)
        named = {tid for _, tid in samples}
        for tid, (pid, _) in tally.comms.items():
            if tid not in named:
                samples[pid, tid] = 0
        return [
            {"pid": pid, "tid": tid, "comm": self._comm(tid), "samples": count}
            for (pid, tid), count in sorted(samples.items(), key=lambda one: (-one[1], one[0]))
        ]

    def _comm(self, tid: int) -> str | None:
        """A thread's last name, else that of who made it; None where nothing says."""
        asked = tid
        for _ in range(64):
            if tid in self._tally.comms:
                return self._tally.comms[tid][1].decode("utf-8", "surrogateescape")
            if tid not in self._tally.parents:
                break
            tid = self._tally.parents[tid][1]
        return _SWAPPER if asked == 0 else None

    def _build_ids(self, features: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
        listed = (features.get("build_id") or {}).get("value") or ()
        found = [
            {"path": one["path"], "build_id": one["build_id"], "from": "feature"} for one in listed
        ]
        for path, build_id in self._tally.build_ids:
            found.append({
                "path": path.decode("utf-8", "surrogateescape"), "build_id": build_id.hex(),
                "from": "MMAP2",
            })  # fmt: skip
        return found

    def _unknown(self, records: Counter[int]) -> dict[str, Any]:
        reader = self._reader
        names = {kind: type_name(kind) for kind in records}
        return {
            "record_types": {
                name: records[kind] for kind, name in names.items()
                if name.startswith(UNKNOWN_PREFIX)
            },
            "features": [
                {"bit": bit, "bytes": len(body)}
                for bit, (_, body) in self._feature_bodies()
                if featuretext.feature_name(bit).startswith("bit ")
            ],
            "attr_tails": [
                {"event": e.index, "bytes": len(e.attr.tail), "zero": not e.attr.tail.strip(b"\0")}
                for e in reader.events if e.attr.tail
            ],
            "sample_type_bits": sorted({
                bit for e in reader.events
                for bit in range(len(SampleType), 64)
                if (e.attr.sample_type & ~KNOWN_SAMPLE_TYPES) >> bit & 1
            }),
            "samples_without_event": self._tally.samples[-1],
        }  # fmt: skip

    def _all_damage(self) -> list[dict[str, Any]]:
        place = self._reader.origin
        found = {(d.offset, d.what) for d in self._reader.damage}
        found |= set(self._feature_damage)
        found |= {(place(d.offset), d.what) for d in self._damage}
        found |= {(place(p.file_offset), p.what) for p in self._decoder.problems}
        found |= {(place(p.file_offset), p.what) for p in self._decoder.sideband_problems}
        return [{"offset": offset, "what": what} for offset, what in sorted(found)]

    def _damage_count(self) -> int:
        """All of it, though only so much is listed."""
        return (
            self._reader.damage_count + len(self._feature_damage) + self._tally.damaged
            + self._decoder.damage_count
        )  # fmt: skip

    def _notes(self) -> list[str]:
        notes = [*self._snapshot_notes, *self._decoder.notes]
        checked, total = self._checked_samples, self._tally.samples.total()
        if checked < total:
            notes.append(
                f"only the first {checked:,} of {total:,} samples were decoded; of the others "
                "headers, ids and sizes were checked"
            )
        if self._parts:
            notes.append(
                f"a directory of perf record --threads: records of {self._parts + 1} files, read "
                "as one; rounds are left out, and no record has one place"
            )
        notes += [f"more {what} than are listed" for what in sorted(self._tally.cut)]
        return notes


def first_damage(found: Inspection) -> DamagedInput | None:
    """What to end with where the file is damaged; None where it is sound."""
    if not found.damage:
        return None
    first, more = found.damage[0], found.damage_count - 1
    return DamagedInput(
        f"{first['what']}{f' (and {more:,} more)' if more else ''}", file=found.file,
        offset=first["offset"] if first["offset"] >= 0 else None,
        next_step="Everything that could be read was looked at.",
    )  # fmt: skip


def _span(tally: Tally) -> dict[str, Any] | None:
    if tally.time.first_ns is None:
        return None

    def said(span: Span) -> dict[str, int | None]:
        return {"first_ns": span.first_ns, "last_ns": span.last_ns}

    return {**said(tally.time), "samples": said(tally.sample_time)}
