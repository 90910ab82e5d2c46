"""Records that are not samples, as small dataclasses: who was running what, and what was lost.

Layouts: the comments of enum perf_event_type in include/uapi/linux/perf_event.h, Linux 7.3.
There are few of these next to samples, so each becomes an object.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perfxmm.kernel.constants import (
    MISC_COMM_EXEC,
    MISC_CPUMODE_MASK,
    MISC_FORK_EXEC,
    MISC_MMAP_BUILD_ID,
    RecordType,
)
from perfxmm.kernel.layout import LayoutPlan
from perfxmm.perfdata.blocks import RecordBlock
from perfxmm.snapshots.records import WORD_BYTES, SampledEvent

HEADER_BYTES = 8
MOST_BUILD_ID_BYTES = 20
# PERF_RECORD_MISC_SWITCH_OUT and _PREEMPT; PERF_RECORD_KSYMBOL_FLAGS_UNREGISTER.
MISC_SWITCH_OUT = 1 << 13
MISC_SWITCH_OUT_PREEMPT = 1 << 14
KSYMBOL_UNREGISTER = 1 << 0
PROT_EXEC = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sideband:
    """What all of them have. time_ns, cpu: None where the record does not say.

    file_offset: byte in the file, -1 where the record came out of something unpacked.
    """

    time_ns: int | None
    cpu: int | None
    file_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comm(Sideband):
    """A thread's name; `is_exec` where it is new because of exec. Bytes that are not UTF-8 are
    surrogate escapes in this and all other names."""

    pid: int
    tid: int
    name: str
    is_exec: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmap(Sideband):
    """A mapping, from MMAP or MMAP2.

    prot, flags: as in mmap(2); MMAP does not know them and says executable unless it is marked as
    data. build_id: None where the record has none (then maj, minor, inode say which file).
    """

    pid: int
    tid: int
    start: int
    length: int
    page_offset: int
    path: str
    prot: int = 0
    flags: int = 0
    build_id: bytes | None = None
    maj: int = 0
    min: int = 0
    inode: int = 0
    inode_generation: int = 0
    cpumode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(Sideband):
    """A new process or thread. `made_up`: by perf, for a process that had been running when the
    recording began; its mappings follow by themselves."""

    pid: int
    parent_pid: int
    tid: int
    parent_tid: int
    made_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit(Sideband):
    pid: int
    parent_pid: int
    tid: int
    parent_tid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Sideband):
    """Records (LOST) or only samples (LOST_SAMPLES) that found no room. event_id: None there."""

    count: int
    event_id: int | None
    samples_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Sideband):
    """The kernel stopped (`on`) or resumed sampling of an event that came too often."""

    event_id: int
    stream_id: int
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ksymbol(Sideband):
    """Kernel code that came (`registered`) or went: BPF programs, ftrace trampolines."""

    start: int
    length: int
    name: str
    kind: int
    registered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch(Sideband):
    """A context switch. pid, tid: the thread that this record is about, as its trailer says.

    other_pid, other_tid: the thread before or after, in CPU-wide recordings.
    """

    pid: int | None
    tid: int | None
    out: bool
    preempted: bool
    other_pid: int | None = None
    other_tid: int | None = None


@dataclass(frozen=True, slots=True)
class SidebandProblem:
    """A record that was left out."""

    file_offset: int
    what: str


class _Short(Exception):
    """The record is too short for what it should hold."""


@dataclass(frozen=True, slots=True)
class _Body:
    """One record between its header and its trailer, and what the trailer said."""

    data: bytes
    misc: int
    time_ns: int | None
    cpu: int | None
    pid: int | None
    tid: int | None
    file_offset: int

    def unpack(self, fmt: str, offset: int = 0) -> tuple[int, ...]:
        try:
            return struct.unpack_from("<" + fmt, self.data, offset)
        except struct.error:
            raise _Short from None

    def text(self, offset: int) -> str:
        if offset >= len(self.data):
            raise _Short
        return self.data[offset:].split(b"\0", 1)[0].decode(errors="surrogateescape")


class SidebandDecoder:
    """Decodes side-band records of a recording.

    problems: records left out; damaged: how many of each kind.
    """

    def __init__(self, events: Sequence[SampledEvent], plans: Sequence[LayoutPlan]) -> None:
        self.problems: list[SidebandProblem] = []
        self.damaged: Counter[str] = Counter()
        self._trailers = [plan.trailer for plan in plans] or [{}]
        alike = all(trailer == self._trailers[0] for trailer in self._trailers)
        ends_with_id = all(trailer.get("identifier") == -1 for trailer in self._trailers)
        # Where trailers differ, the last word tells whose this one is; without it, as in perf,
        # the first event's is taken.
        self._by_id: dict[int, dict[str, int]] = {}
        if not alike and ends_with_id:
            for event, trailer in zip(events, self._trailers, strict=True):
                self._by_id.update(dict.fromkeys(event.ids, trailer))

    def decode(self, block: RecordBlock) -> Iterator[Sideband]:
        """The block's side-band records in its order. Never raises for bad records."""
        for row in np.flatnonzero(np.isin(block.types, _TYPES)):
            start, size = int(block.offsets[row]), int(block.sizes[row])
            file_offset = start + block.file_base if block.file_base >= 0 else -1
            kind = int(block.types[row])
            try:
                record = block.buffer[start : start + size].tobytes()
                if len(record) < size:
                    raise _Short
                yield _DECODERS[kind](self._body(record, int(block.misc[row]), file_offset))
            except _Short:
                what = f"{RecordType(kind).name} record is too short"
                self.damaged[what] += 1
                if len(self.problems) < 1000:
                    self.problems.append(SidebandProblem(file_offset, what))

    def _body(self, record: bytes, misc: int, file_offset: int) -> _Body:
        trailer = self._trailers[0]
        if self._by_id and len(record) >= HEADER_BYTES + WORD_BYTES:
            (number,) = struct.unpack_from("<Q", record, len(record) - WORD_BYTES)
            trailer = self._by_id.get(number, trailer)
        behind = len(record) - len(trailer) * WORD_BYTES
        if behind < HEADER_BYTES:
            raise _Short
        said = {}
        for name, word in trailer.items():
            (said[name],) = struct.unpack_from("<Q", record, len(record) + word * WORD_BYTES)
        thread = said.get("tid")
        return _Body(
            data=record[HEADER_BYTES:behind], misc=misc, time_ns=said.get("time"),
            cpu=None if "cpu" not in said else said["cpu"] & 0xFFFFFFFF,
            pid=None if thread is None else _signed(thread & 0xFFFFFFFF),
            tid=None if thread is None else _signed(thread >> 32), file_offset=file_offset,
        )  # fmt: skip


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 & 1 else number


def _comm(body: _Body) -> Comm:
    pid, tid = body.unpack("ii")
    return Comm(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=pid, tid=tid,
        name=body.text(8), is_exec=bool(body.misc & MISC_COMM_EXEC),
    )  # fmt: skip


def _mmap(body: _Body) -> Mmap:
    pid, tid, start, length, page_offset = body.unpack("iiQQQ")
    # In MMAP records bit 13 marks data mappings (PERF_RECORD_MISC_MMAP_DATA).
    return Mmap(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=pid, tid=tid,
        start=start, length=length, page_offset=page_offset, path=body.text(32),
        prot=0 if body.misc & (1 << 13) else PROT_EXEC, cpumode=body.misc & MISC_CPUMODE_MASK,
    )  # fmt: skip


def _mmap2(body: _Body) -> Mmap:
    pid, tid, start, length, page_offset = body.unpack("iiQQQ")
    prot, flags = body.unpack("II", 56)
    build_id = None
    major = minor = inode = generation = 0
    if body.misc & MISC_MMAP_BUILD_ID:
        size = body.unpack("B", 32)[0]
        build_id = body.data[36 : 36 + min(size, MOST_BUILD_ID_BYTES)]
    else:
        major, minor, inode, generation = body.unpack("IIQQ", 32)
    return Mmap(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=pid, tid=tid,
        start=start, length=length, page_offset=page_offset, path=body.text(64), prot=prot,
        flags=flags, build_id=build_id, maj=major, min=minor, inode=inode,
        inode_generation=generation, cpumode=body.misc & MISC_CPUMODE_MASK,
    )  # fmt: skip


def _fork(body: _Body) -> Fork:
    pid, parent_pid, tid, parent_tid, time_ns = body.unpack("iiiiQ")
    return Fork(
        time_ns=time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=pid,
        parent_pid=parent_pid, tid=tid, parent_tid=parent_tid,
        made_up=bool(body.misc & MISC_FORK_EXEC),
    )  # fmt: skip


def _exit(body: _Body) -> Exit:
    pid, parent_pid, tid, parent_tid, time_ns = body.unpack("iiiiQ")
    return Exit(
        time_ns=time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=pid,
        parent_pid=parent_pid, tid=tid, parent_tid=parent_tid,
    )  # fmt: skip


def _lost(body: _Body) -> Lost:
    event_id, count = body.unpack("QQ")
    return Lost(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, count=count,
        event_id=event_id, samples_only=False,
    )  # fmt: skip


def _lost_samples(body: _Body) -> Lost:
    (count,) = body.unpack("Q")
    return Lost(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, count=count,
        event_id=None, samples_only=True,
    )  # fmt: skip


def _throttle(body: _Body, *, on: bool = True) -> Throttle:
    time_ns, event_id, stream_id = body.unpack("QQQ")
    return Throttle(
        time_ns=time_ns, cpu=body.cpu, file_offset=body.file_offset, event_id=event_id,
        stream_id=stream_id, on=on,
    )  # fmt: skip


def _unthrottle(body: _Body) -> Throttle:
    return _throttle(body, on=False)


def _ksymbol(body: _Body) -> Ksymbol:
    start, length, kind, flags = body.unpack("QIHH")
    return Ksymbol(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, start=start,
        length=length, name=body.text(16), kind=kind, registered=not flags & KSYMBOL_UNREGISTER,
    )  # fmt: skip


def _switch(body: _Body) -> Switch:
    return Switch(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=body.pid,
        tid=body.tid, out=bool(body.misc & MISC_SWITCH_OUT),
        preempted=bool(body.misc & MISC_SWITCH_OUT_PREEMPT),
    )  # fmt: skip


def _switch_cpu_wide(body: _Body) -> Switch:
    other_pid, other_tid = body.unpack("ii")
    return Switch(
        time_ns=body.time_ns, cpu=body.cpu, file_offset=body.file_offset, pid=body.pid,
        tid=body.tid, out=bool(body.misc & MISC_SWITCH_OUT),
        preempted=bool(body.misc & MISC_SWITCH_OUT_PREEMPT),
        other_pid=other_pid, other_tid=other_tid,
    )  # fmt: skip


_DECODERS: dict[int, Callable[[_Body], Sideband]] = {
    RecordType.COMM: _comm, RecordType.MMAP: _mmap, RecordType.MMAP2: _mmap2,
    RecordType.FORK: _fork, RecordType.EXIT: _exit, RecordType.LOST: _lost,
    RecordType.LOST_SAMPLES: _lost_samples, RecordType.THROTTLE: _throttle,
    RecordType.UNTHROTTLE: _unthrottle, RecordType.KSYMBOL: _ksymbol,
    RecordType.SWITCH: _switch, RecordType.SWITCH_CPU_WIDE: _switch_cpu_wide,
}  # fmt: skip
_TYPES = np.array(list(_DECODERS), np.uint32)
