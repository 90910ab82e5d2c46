"""Side-band records of a block to objects, each for about a microsecond.

What all records of a kind have in common (bounds, trailer, time) is done for all of a block's at
once; what is left for each is one unpacking of its fixed part, a look-up of its name, and making
the object. `sidekinds` has the kinds.
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
    MISC_MMAP_DATA,
    ReadFormat,
    RecordType,
)
from perfxmm.kernel.layout import LayoutPlan
from perfxmm.perfdata.blocks import RecordBlock, gather_u64
from perfxmm.snapshots.batch import I64, Bool
from perfxmm.snapshots.records import WORD_BYTES, SampledEvent
from perfxmm.snapshots.sidekinds import (
    Aux,
    AuxOutputHwId,
    AuxtraceError,
    BpfEvent,
    CallchainDeferred,
    Cgroup,
    Comm,
    CpuMap,
    Exit,
    Fork,
    IdIndex,
    ItraceStart,
    Ksymbol,
    Lost,
    Mmap,
    Namespaces,
    Read,
    Sideband,
    Switch,
    TextPoke,
    ThreadMap,
    Throttle,
    TimeConv,
)

__all__ = [
    "Aux", "AuxOutputHwId", "AuxtraceError", "BpfEvent", "CallchainDeferred", "Cgroup", "Comm",
    "CpuMap", "Exit", "Fork", "IdIndex", "ItraceStart", "Ksymbol", "Lost", "Mmap", "Namespaces",
    "Read", "Sideband", "SidebandDecoder", "SidebandProblem", "Switch", "TextPoke", "ThreadMap",
    "Throttle", "TimeConv",
]  # fmt: skip

HEADER_BYTES = 8
MOST_BUILD_ID_BYTES = 20
MOST_PROBLEMS = 1000
# PERF_RECORD_MISC_SWITCH_OUT and _PREEMPT; PERF_RECORD_KSYMBOL_FLAGS_UNREGISTER.
MISC_SWITCH_OUT = 1 << 13
MISC_SWITCH_OUT_PREEMPT = 1 << 14
KSYMBOL_UNREGISTER = 1 << 0
PROT_EXEC = 4
# The first form of MMAP2 (Linux 3.12, still in the 3.10 of enterprise distributions) has its name
# where prot and flags stand since 3.16. The kernel's prot has the three low bits at most; a name
# begins with a character that can be printed.
LEAST_CHARACTER = 0x20
OLD_MMAP2_BYTES = 56
# How many names are remembered, and how long they may be: the same few come again and again.
MOST_NAMES, LONGEST_NAME = 4096, 256
FIRST_TOOL_RECORD = 64
CPU_MAP_CPUS, CPU_MAP_MASK, CPU_MAP_RANGE = 0, 1, 2  # PERF_CPU_MAP__*
AUXTRACE_ERROR_MESSAGE_BYTES = 64


@dataclass(frozen=True, slots=True)
class SidebandProblem:
    """A record that was left out."""

    file_offset: int
    what: str


class _Short(Exception):
    """The record is too short for what it should hold."""


@dataclass(slots=True)
class _Body:
    """Where one record stands between its header and its trailer; used again for each.

    data: the block's bytes. start, end: of the body, in `data`. thread: the trailer's pid and tid
    in one word, None where it has none. event: whose trailer it has, as far as that is known.
    """

    data: memoryview
    start: int = 0
    end: int = 0
    misc: int = 0
    thread: int | None = None
    event: SampledEvent | None = None

    def pid(self) -> int | None:
        return None if self.thread is None else _signed(self.thread & 0xFFFFFFFF)

    def tid(self) -> int | None:
        return None if self.thread is None else _signed(self.thread >> 32)

    def text(self, at: int) -> str:
        """The characters from byte `at` of the block up to a NUL."""
        raw = bytes(self.data[at : self.end])
        found = _names.get(raw)
        if found is None:
            if not raw:
                raise _Short
            found = raw.split(b"\0", 1)[0].decode(errors="surrogateescape")
            if len(raw) <= LONGEST_NAME:
                if len(_names) >= MOST_NAMES:
                    _names.clear()
                _names[raw] = found
        return found

    def words(self, at: int, count: int) -> tuple[int, ...]:
        """`count` u64 from byte `at` of the block on."""
        if count > (self.end - at) // WORD_BYTES:
            raise _Short
        return struct.unpack_from(f"<{count}Q", self.data, at)

    def bytes(self, at: int, count: int) -> bytes:
        if count > self.end - at:
            raise _Short
        return self.data[at : at + count].tobytes()


_names: dict[bytes, str] = {}
_Make = Callable[[_Body, int | None, int | None, int], Sideband]


@dataclass(frozen=True, slots=True)
class _Trailer:
    """Where a trailer has its fields: words from the record's end, None where it lacks them."""

    bytes: int
    time: int | None
    cpu: int | None
    thread: int | None
    event: SampledEvent | None


class SidebandDecoder:
    """Decodes side-band records of a recording.

    problems: the first MOST_PROBLEMS records left out; damaged: how many of each kind, in all.
    """

    def __init__(self, events: Sequence[SampledEvent], plans: Sequence[LayoutPlan]) -> None:
        self.problems: list[SidebandProblem] = []
        self.damaged: Counter[str] = Counter()
        self._trailers = [
            _Trailer(
                len(plan.trailer) * WORD_BYTES, plan.trailer.get("time"), plan.trailer.get("cpu"),
                plan.trailer.get("tid"), event,
            )
            for event, plan in zip(events, plans, strict=True)
        ] or [_Trailer(0, None, None, None, None)]  # fmt: skip
        self._tool_trailer = _Trailer(0, None, None, None, None)
        # Where trailers differ, the last word tells whose this one is; without it, as in perf,
        # the first event's is taken.
        self._ids = np.zeros(0, np.uint64)
        self._owners = np.zeros(0, np.int64)
        if len(plans) > 1 and all(plan.trailer.get("identifier") == -1 for plan in plans):
            pairs = sorted((n, index) for index, event in enumerate(events) for n in event.ids)
            self._ids = np.array([number for number, _ in pairs], np.uint64)
            self._owners = np.array([index for _, index in pairs], np.int64)

    def decode(self, block: RecordBlock) -> Iterator[Sideband]:
        """The block's side-band records in its order. Never raises for bad records."""
        rows = np.flatnonzero(_KNOWN[np.minimum(block.types, len(_KNOWN) - 1)])
        if not len(rows):
            return
        kinds = block.types[rows].astype(np.int64)
        starts = block.offsets[rows].astype(np.int64)
        sizes = block.sizes[rows].astype(np.int64)
        ends = starts + sizes
        inside = (sizes >= HEADER_BYTES) & (ends <= len(block.buffer))
        owners = self._trailers_of(block, kinds, ends, inside & (sizes >= 2 * WORD_BYTES))
        trailers = [*self._trailers, self._tool_trailer]
        behind = ends - np.array([one.bytes for one in trailers])[owners]
        whole = inside & (behind - starts - HEADER_BYTES >= _LEAST[kinds])
        times = self._column(block, "time", owners, ends, whole)
        cpus = self._column(block, "cpu", owners, ends, whole)
        threads = self._column(block, "thread", owners, ends, whole)
        body = _Body(block.buffer.data)
        base = block.file_base
        for kind, sound, start, end, misc, owner, time_ns, cpu, thread in zip(
            kinds.tolist(), whole.tolist(), starts.tolist(), behind.tolist(),
            block.misc[rows].tolist(), owners.tolist(), times, cpus, threads, strict=True,
        ):
            if sound:
                body.start, body.end, body.misc = start + HEADER_BYTES, end, misc
                body.thread, body.event = thread, trailers[owner].event
                try:
                    record = _MAKERS[kind](
                        body, time_ns, None if cpu is None else cpu & 0xFFFFFFFF,
                        start + base if base >= 0 else -1,
                    )
                except _Short:
                    self._leave_out(kind, start, base)
                else:
                    yield record
            else:
                self._leave_out(kind, start, base)

    def _trailers_of(
        self, block: RecordBlock, kinds: I64, ends: I64, has_word: Bool
    ) -> I64:
        """int64 [k]: which event's trailer each record has; one past them for tool records."""
        owners = np.zeros(len(kinds), np.int64)
        if len(self._ids):
            rows = np.flatnonzero(has_word)
            number = gather_u64(block.buffer, ends[rows] - WORD_BYTES)
            at = np.minimum(np.searchsorted(self._ids, number), len(self._ids) - 1)
            owners[rows] = np.where(self._ids[at] == number, self._owners[at], 0)
        owners[kinds >= FIRST_TOOL_RECORD] = len(self._trailers)
        return owners

    def _column(
        self, block: RecordBlock, name: str, owners: I64, ends: I64, whole: Bool
    ) -> list[int | None]:
        """One trailer field of every record; None where its trailer lacks it."""
        out: list[int | None] = [None] * len(owners)
        for owner in np.unique(owners).tolist():
            trailer = self._tool_trailer
            if owner < len(self._trailers):
                trailer = self._trailers[owner]
            word = getattr(trailer, name)
            if word is None:
                continue
            rows = np.flatnonzero(whole & (owners == owner))
            values: list[int | None] = gather_u64(
                block.buffer, ends[rows] + word * WORD_BYTES
            ).tolist()
            if len(rows) == len(out):
                return values
            for row, value in zip(rows.tolist(), values, strict=True):
                out[row] = value
        return out

    def _leave_out(self, kind: int, start: int, base: int) -> None:
        what = f"{RecordType(kind).name} record is too short"
        self.damaged[what] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(SidebandProblem(start + base if base >= 0 else -1, what))


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 & 1 else number


def _signed64(number: int) -> int:
    return number - (1 << 64) if number >> 63 & 1 else number


_THREAD = struct.Struct("<ii")
_MMAP = struct.Struct("<iiQQQ")
_MMAP2 = struct.Struct("<iiQQQIIQQII")
_TASK = struct.Struct("<iiiiQ")
_TWO_WORDS = struct.Struct("<QQ")
_WORD = struct.Struct("<Q")
_THREE_WORDS = struct.Struct("<QQQ")
_KSYMBOL = struct.Struct("<QIHH")
_NAMESPACES = struct.Struct("<iiQ")
_BPF = struct.Struct("<HHI8s")
_TEXT_POKE = struct.Struct("<QHH")
_ERROR = struct.Struct("<IIiiiIQQ")


def _comm(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Comm:
    pid, tid = _THREAD.unpack_from(body.data, body.start)
    return Comm(
        time_ns, cpu, at, pid, tid, body.text(body.start + 8), body.misc & MISC_COMM_EXEC != 0
    )


def _mmap(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Mmap:
    pid, tid, start, length, page_offset = _MMAP.unpack_from(body.data, body.start)
    misc = body.misc
    return Mmap(
        time_ns, cpu, at, pid, tid, start, length, page_offset, body.text(body.start + 32),
        0 if misc & MISC_MMAP_DATA else PROT_EXEC, cpumode=misc & MISC_CPUMODE_MASK,
    )  # fmt: skip


def _mmap2(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Mmap:
    (
        pid, tid, start, length, page_offset, major, minor, inode, generation, prot, flags,
    ) = _MMAP2.unpack_from(body.data, body.start)  # fmt: skip
    misc = body.misc
    build_id = None
    text = body.start + 64
    if misc & MISC_MMAP_BUILD_ID:
        size = min(body.data[body.start + 32], MOST_BUILD_ID_BYTES)
        build_id = body.data[body.start + 36 : body.start + 36 + size].tobytes()
        major = minor = inode = generation = 0
    elif prot & 0xFF >= LEAST_CHARACTER:
        text = body.start + OLD_MMAP2_BYTES
        prot, flags = 0 if misc & MISC_MMAP_DATA else PROT_EXEC, 0
    return Mmap(
        time_ns, cpu, at, pid, tid, start, length, page_offset, body.text(text), prot, flags,
        build_id, major, minor, inode, generation, misc & MISC_CPUMODE_MASK,
    )  # fmt: skip


def _fork(body: _Body, _time: int | None, cpu: int | None, at: int) -> Fork:
    pid, parent_pid, tid, parent_tid, time_ns = _TASK.unpack_from(body.data, body.start)
    made_up = body.misc & MISC_FORK_EXEC != 0
    return Fork(time_ns, cpu, at, pid, parent_pid, tid, parent_tid, made_up)


def _exit(body: _Body, _time: int | None, cpu: int | None, at: int) -> Exit:
    pid, parent_pid, tid, parent_tid, time_ns = _TASK.unpack_from(body.data, body.start)
    return Exit(time_ns, cpu, at, pid, parent_pid, tid, parent_tid)


def _lost(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Lost:
    event_id, count = _TWO_WORDS.unpack_from(body.data, body.start)
    return Lost(time_ns, cpu, at, count, event_id, False)


def _lost_samples(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Lost:
    (count,) = _WORD.unpack_from(body.data, body.start)
    return Lost(time_ns, cpu, at, count, None, True)


def _throttle(body: _Body, _time: int | None, cpu: int | None, at: int) -> Throttle:
    time_ns, event_id, stream_id = _THREE_WORDS.unpack_from(body.data, body.start)
    return Throttle(time_ns, cpu, at, event_id, stream_id, True)


def _unthrottle(body: _Body, _time: int | None, cpu: int | None, at: int) -> Throttle:
    time_ns, event_id, stream_id = _THREE_WORDS.unpack_from(body.data, body.start)
    return Throttle(time_ns, cpu, at, event_id, stream_id, False)


def _ksymbol(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Ksymbol:
    start, length, kind, flags = _KSYMBOL.unpack_from(body.data, body.start)
    return Ksymbol(
        time_ns, cpu, at, start, length, body.text(body.start + 16), kind,
        not flags & KSYMBOL_UNREGISTER,
    )  # fmt: skip


def _switch(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Switch:
    misc = body.misc
    return Switch(
        time_ns, cpu, at, body.pid(), body.tid(), misc & MISC_SWITCH_OUT != 0,
        misc & MISC_SWITCH_OUT_PREEMPT != 0,
    )  # fmt: skip


def _switch_cpu_wide(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Switch:
    other_pid, other_tid = _THREAD.unpack_from(body.data, body.start)
    misc = body.misc
    return Switch(
        time_ns, cpu, at, body.pid(), body.tid(), misc & MISC_SWITCH_OUT != 0,
        misc & MISC_SWITCH_OUT_PREEMPT != 0, other_pid, other_tid,
    )  # fmt: skip


def _read(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Read:
    """Counts by the read_format of the event whose trailer the record has."""
    pid, tid = _THREAD.unpack_from(body.data, body.start)
    read_format = body.event.attr.read_format if body.event else 0
    words = iter(body.words(body.start + 8, (body.end - body.start) // WORD_BYTES - 1))
    group = read_format & ReadFormat.GROUP
    try:
        first = next(words)
        enabled = next(words) if read_format & ReadFormat.TOTAL_TIME_ENABLED else None
        running = next(words) if read_format & ReadFormat.TOTAL_TIME_RUNNING else None
        values: list[tuple[int, int | None, int | None]] = []
        for _ in range(first if group else 1):
            value = next(words) if group else first
            number = next(words) if read_format & ReadFormat.ID else None
            lost = next(words) if read_format & ReadFormat.LOST else None
            values.append((value, number, lost))
    except (StopIteration, OverflowError):
        raise _Short from None
    return Read(time_ns, cpu, at, pid, tid, enabled, running, tuple(values))


def _aux(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Aux:
    return Aux(time_ns, cpu, at, *_THREE_WORDS.unpack_from(body.data, body.start))


def _itrace_start(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> ItraceStart:
    return ItraceStart(time_ns, cpu, at, *_THREAD.unpack_from(body.data, body.start))


def _namespaces(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Namespaces:
    pid, tid, count = _NAMESPACES.unpack_from(body.data, body.start)
    words = body.words(body.start + 16, 2 * count)
    pairs = tuple(zip(words[::2], words[1::2], strict=True))
    return Namespaces(time_ns, cpu, at, pid, tid, pairs)


def _bpf_event(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> BpfEvent:
    return BpfEvent(time_ns, cpu, at, *_BPF.unpack_from(body.data, body.start))


def _cgroup(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> Cgroup:
    (number,) = _WORD.unpack_from(body.data, body.start)
    return Cgroup(time_ns, cpu, at, number, body.text(body.start + 8))


def _text_poke(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> TextPoke:
    address, old_bytes, new_bytes = _TEXT_POKE.unpack_from(body.data, body.start)
    both = body.bytes(body.start + 12, old_bytes + new_bytes)
    return TextPoke(time_ns, cpu, at, address, both[:old_bytes], both[old_bytes:])


def _aux_output_hw_id(
    body: _Body, time_ns: int | None, cpu: int | None, at: int
) -> AuxOutputHwId:
    return AuxOutputHwId(time_ns, cpu, at, *_WORD.unpack_from(body.data, body.start))


def _callchain_deferred(
    body: _Body, time_ns: int | None, cpu: int | None, at: int
) -> CallchainDeferred:
    cookie, count = _TWO_WORDS.unpack_from(body.data, body.start)
    ips = body.words(body.start + 16, count)
    return CallchainDeferred(time_ns, cpu, at, body.pid(), body.tid(), cookie, ips)


def _time_conv(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> TimeConv:
    shift, mult, zero = _THREE_WORDS.unpack_from(body.data, body.start)
    cycles = mask = 0
    if body.end - body.start >= 40:
        cycles, mask = _TWO_WORDS.unpack_from(body.data, body.start + 24)
    return TimeConv(time_ns, cpu, at, shift, mult, zero, cycles, mask)


def _id_index(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> IdIndex:
    (count,) = _WORD.unpack_from(body.data, body.start)
    words = iter(body.words(body.start + 8, 4 * count))
    return IdIndex(time_ns, cpu, at, tuple(
        (number, index, _signed64(entry_cpu), _signed64(tid))
        for number, index, entry_cpu, tid in zip(words, words, words, words, strict=True)
    ))  # fmt: skip


def _thread_map(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> ThreadMap:
    (count,) = _WORD.unpack_from(body.data, body.start)
    if count > (body.end - body.start - 8) // 24:
        raise _Short
    data = body.bytes(body.start + 8, 24 * count)
    return ThreadMap(time_ns, cpu, at, tuple(
        (number, comm.split(b"\0", 1)[0].decode(errors="surrogateescape"))
        for number, comm in struct.iter_unpack("<q16s", data)
    ))  # fmt: skip


def _cpu_map(body: _Body, time_ns: int | None, cpu: int | None, at: int) -> CpuMap:
    data = body.bytes(body.start, body.end - body.start)
    form, first, second, third = struct.unpack_from("<4H", data)
    cpus: tuple[int, ...] | None = None
    if form == CPU_MAP_CPUS:
        if len(data) < 4 + 2 * first:
            raise _Short
        cpus = struct.unpack_from(f"<{first}h", data, 4)
    elif form == CPU_MAP_MASK and second in (4, 8):
        # 64-bit masks have 4 bytes of padding in front.
        start = 6 if second == 4 else 10
        if len(data) < start + first * second:
            raise _Short
        mask = np.frombuffer(data, np.uint8, first * second, start)
        cpus = tuple(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())
    elif form == CPU_MAP_RANGE:
        cpus = ((-1,) if first & 0xFF else ()) + tuple(range(second, third + 1))
    return CpuMap(time_ns, cpu, at, cpus)


def _auxtrace_error(
    body: _Body, _time: int | None, _cpu: int | None, at: int
) -> AuxtraceError:
    kind, code, cpu, pid, tid, form, ip, time_ns = _ERROR.unpack_from(body.data, body.start)
    message = bytes(body.data[body.start + 40 : body.end])
    if form == 0:  # before Linux 4.20 the message stood where the time is now
        message = bytes(body.data[body.start + 32 : body.end])
    message = message[:AUXTRACE_ERROR_MESSAGE_BYTES].split(b"\0", 1)[0]
    return AuxtraceError(
        time_ns if form else None, cpu if cpu >= 0 else None, at, kind, code, pid, tid, ip,
        message.decode(errors="surrogateescape"),
    )  # fmt: skip


# By type: what makes the object, and the least bytes of body that it reads without looking.
_TABLE: dict[int, tuple[_Make, int]] = {
    RecordType.MMAP: (_mmap, 33), RecordType.LOST: (_lost, 16), RecordType.COMM: (_comm, 9),
    RecordType.EXIT: (_exit, 24), RecordType.THROTTLE: (_throttle, 24),
    RecordType.UNTHROTTLE: (_unthrottle, 24), RecordType.FORK: (_fork, 24),
    RecordType.READ: (_read, 16), RecordType.MMAP2: (_mmap2, 64), RecordType.AUX: (_aux, 24),
    RecordType.ITRACE_START: (_itrace_start, 8), RecordType.LOST_SAMPLES: (_lost_samples, 8),
    RecordType.SWITCH: (_switch, 0), RecordType.SWITCH_CPU_WIDE: (_switch_cpu_wide, 8),
    RecordType.NAMESPACES: (_namespaces, 16), RecordType.KSYMBOL: (_ksymbol, 17),
    RecordType.BPF_EVENT: (_bpf_event, 16), RecordType.CGROUP: (_cgroup, 9),
    RecordType.TEXT_POKE: (_text_poke, 12), RecordType.AUX_OUTPUT_HW_ID: (_aux_output_hw_id, 8),
    RecordType.CALLCHAIN_DEFERRED: (_callchain_deferred, 16),
    RecordType.TIME_CONV: (_time_conv, 24), RecordType.ID_INDEX: (_id_index, 8),
    RecordType.THREAD_MAP: (_thread_map, 8), RecordType.CPU_MAP: (_cpu_map, 8),
    RecordType.AUXTRACE_ERROR: (_auxtrace_error, 40),
}  # fmt: skip
_MAKERS = {int(kind): make for kind, (make, _) in _TABLE.items()}
_KNOWN = np.zeros(max(_MAKERS) + 2, np.bool_)
_LEAST = np.zeros(len(_KNOWN), np.int64)
for _kind, (_, _bytes) in _TABLE.items():
    _KNOWN[_kind], _LEAST[_kind] = True, _bytes
