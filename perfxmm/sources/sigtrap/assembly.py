"""From a stop and a ring record to the record in the file.

The kernel's own sample (event IP, tid, time, cpu, period, call chain) is copied word by word; the
tracer appends RAW (stop information) and the register set. Everything a stop has to say lies in
one array of u64, `scratch`: constants, user_regs_struct, XSAVE image. One precomputed index turns
it into the tail of a record, so a stop allocates nothing and decodes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.constants import (
    REGS_ABI_32,
    REGS_ABI_64,
    REGS_ABI_SIMD,
    CpuMode,
    RecordType,
    SampleType,
)
from perfxmm.kernel.ptrace import USER_CS_COMPAT, USER_REGS, USER_REGS_QWORD
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, gpr_names
from perfxmm.kernel.ring import walk
from perfxmm.perfdata.stopinfo import (
    MAGIC,
    PAYLOAD_BYTES,
    STATISTICS_BYTES,
    STATISTICS_MAGIC,
    StopFlag,
)
from perfxmm.sources.sigtrap.events import TracedEvent, ring_has_period, uses_legacy
from perfxmm.sources.sigtrap.statistics import LaneStatistics
from perfxmm.sources.sigtrap.threads import HEAD, TAIL, Thread
from perfxmm.xstate.components import APX, SSE, XSTATE_BV_OFFSET
from perfxmm.xstate.gather import plan_gather
from perfxmm.xstate.layout import Layout

U64 = npt.NDArray[np.uint64]

OUT_WORDS = 1 << 14  # handed on when this many words have gathered: 128 KiB
# A record's size is a u16; room for the largest one behind OUT_WORDS.
_SPARE_WORDS = 1 << 13
_LOW48 = (1 << 48) - 1
# Words of a ring record in front of PERIOD: header, identifier, ip, tid, time, cpu.
RING_WORDS = 6
IP, TID, TIME, CPU, PERIOD = 2, 3, 4, 5, 6
# Plain integers: operators of enum members cost a microsecond each.
_PRESENT, _COMPAT = int(StopFlag.PRESENT), int(StopFlag.COMPAT)
_INTERRUPT, _UNPAIRED = int(StopFlag.INTERRUPT), int(StopFlag.UNPAIRED)
_LOST, _LOST_SAMPLES = int(RecordType.LOST), int(RecordType.LOST_SAMPLES)
_THROTTLE, _UNTHROTTLE = int(RecordType.THROTTLE), int(RecordType.UNTHROTTLE)
_CALLCHAIN = int(SampleType.CALLCHAIN)
_SAMPLE = int(RecordType.SAMPLE)
_SAMPLE_HEADER = _SAMPLE | int(CpuMode.USER) << 32
# How long a ring's sample may wait for its stop before it is written without registers.
HOLD_NS = 300_000_000

# Words of `scratch`: what the tail takes from it that neither registers nor image hold.
_RAW_HEAD, _RAW_FLAGS, _ABI, _SIMD_HEADER, _STATISTICS = 0, 1, 2, 3, 7
_REGS = 10
REGS_WORDS = len(USER_REGS)


class SampleAssembler:
    """Builds records into one output array and hands it to `sink` when it is full.

    regs_address, image_address, image_bytes: where GETREGS and GETREGSET write.
    redact_values: no register leaves it; lane counts take their place.
    samples: samples with registers (or their counts); lost, throttled, unpaired, bare (samples
        that got no stop).
    """

    def __init__(
        self, layout: Layout, classes: tuple[str, ...], events: tuple[TracedEvent, ...],
        sink: Callable[[memoryview], object], *, redact_values: bool = False,
    ) -> None:
        self.events = events
        self.legacy = uses_legacy(classes)
        self._sink = sink
        plan = plan_gather(layout, ("xmm",) if "xmm" in classes and self.legacy else classes)
        self.image_bytes = plan.image_bytes
        if "egpr" in classes:
            self.image_bytes = max(self.image_bytes, layout.image_bytes(1 << APX | 1 << SSE))
        image = _REGS + REGS_WORDS
        self.scratch: U64 = np.zeros(image + self.image_bytes // 8, np.uint64)
        self._q = self.scratch.data.cast("B").cast("Q")
        self.regs_address = int(self.scratch.ctypes.data) + _REGS * 8
        self.image_address = int(self.scratch.ctypes.data) + image * 8
        self._ip_at = _REGS + USER_REGS_QWORD["IP"]
        self._cs_at = _REGS + USER_REGS_QWORD["CS"]
        self._orig_ax_at = _REGS + USER_REGS_QWORD["ORIG_AX"]
        self._q[_RAW_HEAD] = PAYLOAD_BYTES | MAGIC << 32
        gprs = [_REGS + USER_REGS_QWORD[name] for name in gpr_names(CLASSIC_GPR_MASK)]
        if "egpr" in classes:
            start = image + layout.require(APX).offset // 8
            gprs += range(start, start + 16)
        head = [_RAW_HEAD, image + XSTATE_BV_OFFSET // 8, _RAW_FLAGS, _ABI]
        header: list[int] = []
        self._abi64, self._abi32 = int(REGS_ABI_64), int(REGS_ABI_32)
        if not self.legacy:
            self._abi64 |= REGS_ABI_SIMD
            self._abi32 |= REGS_ABI_SIMD
            header = list(range(_SIMD_HEADER, _SIMD_HEADER + 4))
            self._q[_SIMD_HEADER] = plan.registers
            self._q[_SIMD_HEADER + 1] = plan.qwords
            self._q[_SIMD_HEADER + 2] = plan.predicates
            self._q[_SIMD_HEADER + 3] = 1 if plan.predicates else 0
        self._statistics: LaneStatistics | None = None
        if redact_values:
            self._q[_RAW_HEAD] = STATISTICS_BYTES | STATISTICS_MAGIC << 32
            head[3:3] = range(_STATISTICS, _STATISTICS + 3)
            self._statistics = LaneStatistics(plan, image)
        self._bv_at = image + XSTATE_BV_OFFSET // 8
        self._full = np.array([*head, *gprs, *header, *(plan.index + image)], np.intp)
        self._bare = np.array(head, np.intp)  # abi 0: nothing follows it
        # By event: the period to write where the ring's samples have none, see
        # `events.ring_has_period`; 0 where they have.
        self.fixed_periods = [0 if ring_has_period(e.opened) else e.period() for e in events]
        self.out: U64 = np.zeros(OUT_WORDS + _SPARE_WORDS, np.uint64)
        self._o = self.out.data.cast("B").cast("Q")
        self._at = 0
        self._hand_on = OUT_WORDS
        self._room: int | None = None
        self._on_full: Callable[[], object] | None = None
        self.samples = self.lost = self.throttled = self.unpaired = self.bare = 0
        self.stop_ns = 0
        self.stops = 0
        self.first_ns = self.last_ns = 0

    # --- what the stop says

    @property
    def ip(self) -> int:
        """RIP of the stop in `scratch`."""
        return int(self._q[self._ip_at])

    @property
    def in_syscall(self) -> bool:
        return int(self._q[self._orig_ax_at]) != 0xFFFFFFFFFFFFFFFF

    # --- a stop with registers

    def sample(
        self, thread: Thread, head: int, event: int, perf_flags: int, flags: int,
        keep_values: bool = True,
    ) -> None:
        """Records the stop in `scratch` with the thread's ring sample.

        head: the ring's data_head as it stood while the thread was stopped.
        keep_values: False leaves the register set out (redaction).
        """
        q = self._q
        if q[self._cs_at] == USER_CS_COMPAT:
            flags |= _COMPAT
            abi = self._abi32
        else:
            abi = self._abi64
        keep = keep_values
        if self._statistics is not None:
            keep = False
            q[_STATISTICS], q[_STATISTICS + 1], q[_STATISTICS + 2] = self._statistics.count(
                self.scratch, q[self._bv_at]
            )
        q[_ABI] = abi if keep else 0
        q[_RAW_FLAGS] = perf_flags | (flags | _PRESENT) << 32
        control = thread.control
        if not thread.size_bytes:
            self._unpaired(thread, event, perf_flags, flags, keep)
            return
        tail = control[TAIL]
        start = (tail & (thread.size_bytes - 1)) >> 3
        length = (head - tail) >> 3
        quads = thread.quads
        # The usual case: exactly one record, a sample, not across the ring's end.
        if (
            RING_WORDS <= length <= len(quads) - start
            and quads[start] >> 48 == length << 3
            and quads[start] & 0xFFFFFFFF == _SAMPLE
            and thread.ids.get(quads[start + 1]) == event
        ):
            length = self._copy(thread.words, start, length, event)
            control[TAIL] = head
            self._finish(thread, self._at, length, event, keep)
            return
        self._stop_amid_others(thread, head, event, perf_flags, flags, keep)

    def _copy(self, words: U64, start: int, length: int, event: int) -> int:
        """Copies one ring sample to the output; returns its length there, PERIOD included."""
        at, period = self._at, self.fixed_periods[event]
        if not period:
            self.out[at : at + length] = words[start : start + length]
            return length
        self.out[at : at + RING_WORDS] = words[start : start + RING_WORDS]
        if length > RING_WORDS:
            self.out[at + PERIOD + 1 : at + length + 1] = words[start + RING_WORDS : start + length]
        self._o[at + PERIOD] = period
        return length + 1

    def _finish(self, thread: Thread, at: int, length: int, event: int, keep: bool) -> None:
        """Completes the record whose kernel part of `length` words stands at `at`."""
        out = self._o
        index = self._full if keep else self._bare
        end = at + length + len(index)
        out[at] = out[at] & _LOW48 | (end - at) << 51
        out[at + 1] = event + 1
        np.take(self.scratch, index, out=self.out[at + length : end], mode="clip")
        now = out[at + TIME]
        self.last_ns = now
        if not self.samples:
            self.first_ns = now
        self.samples += 1
        thread.cpu = out[at + CPU]
        thread.active = True
        self._at = end
        if end >= self._hand_on:
            self.flush()

    def _unpaired(
        self, thread: Thread, event: int, perf_flags: int, flags: int, keep: bool
    ) -> None:
        """A stop without a ring sample: IP and time are the stop's own."""
        # A stop of the interrupt engine never has one: that is no finding.
        if not flags & _INTERRUPT:
            flags |= _UNPAIRED
            self.unpaired += 1
        self._q[_RAW_FLAGS] = perf_flags | (flags | _PRESENT) << 32
        at, out = self._at, self._o
        out[at] = _SAMPLE_HEADER
        out[at + IP] = self.ip
        out[at + TID] = thread.pid | thread.tid << 32
        out[at + TIME] = time.monotonic_ns()
        out[at + CPU] = thread.cpu
        out[at + PERIOD] = self.fixed_periods[event]
        length = RING_WORDS + 1
        if self.events[event].opened.sample_type & _CALLCHAIN:  # an empty one
            out[at + length] = 0
            length += 1
        self._finish(thread, at, length, event, keep)

    def _stop_amid_others(
        self, thread: Thread, head: int, event: int, perf_flags: int, flags: int, keep: bool
    ) -> None:
        """The general case: the ring holds something else, nothing, or more than one sample."""
        data = self._take(thread, head)
        chosen = self._choose(thread, data, event)
        if chosen is None:
            self._copy_records(thread, data, None, keep)
            self._unpaired(thread, event, perf_flags, flags, keep)
            return
        self._copy_records(thread, data, chosen, keep)

    def _choose(self, thread: Thread, data: memoryview, event: int) -> int | None:
        """Offset of the ring sample that belongs to this stop: the newest of its event, at the
        stop's IP if there is one there."""
        words = data.cast("Q")
        best: int | None = None
        for offset, _ in walk(data):
            at = offset >> 3
            if words[at] & 0xFFFFFFFF != _SAMPLE:
                continue
            if thread.ids.get(words[at + 1]) == event and (
                best is None or words[at + IP] == self.ip
                or words[(best >> 3) + IP] != self.ip
            ):
                best = offset
        return best

    # --- no stop

    def drain(self, thread: Thread, *, now_ns: int, everything: bool = False) -> None:
        """Copies what waits in the ring of a thread that is not stopped.

        A fresh sample there waits for its stop: copying ends before it unless `everything` is
        asked for. `thread.held` says so afterwards.
        """
        thread.held = False
        if not thread.size_bytes:
            return
        head = thread.control[HEAD]
        if head == thread.control[TAIL]:
            return
        limit = None if everything or thread.blocked else now_ns - HOLD_NS
        self._copy_records(thread, self._take(thread, head, keep_after=limit), None, False)

    def write(self, record: bytes) -> None:
        """Appends a whole record made elsewhere."""
        words = len(record) >> 3
        self.out[self._at : self._at + words] = np.frombuffer(record, np.uint64)
        self._at += words
        if self._at >= self._hand_on:
            self.flush()

    def flush(self) -> None:
        """Hands what has gathered to the sink."""
        if self._at:
            size, self._at = self._at * 8, 0
            self._sink(self.out.data.cast("B")[:size])
            if self._room is not None:
                self._set_room(self._room - size)

    def limit(self, room_bytes: int, on_full: Callable[[], object]) -> None:
        """Calls `on_full` when that much more has been handed on; costs nothing per sample."""
        self._on_full = on_full
        self._set_room(room_bytes)

    def _set_room(self, room: int) -> None:
        self._room = room
        self._hand_on = min(OUT_WORDS, max(1, (room + 7) >> 3))
        if room <= 0 and self._on_full is not None:
            self._on_full()
            self._room, self._hand_on = None, OUT_WORDS

    @property
    def pending_bytes(self) -> int:
        return self._at * 8

    # --- ring records

    def _take(
        self, thread: Thread, head: int, keep_after: int | None = None
    ) -> memoryview:
        """Copies the records before `head` out of the ring and gives their room back.

        keep_after: leaves the first sample that is newer (ns), and all behind it, in the ring.
        """
        mask = thread.size_bytes - 1
        tail = thread.control[TAIL]
        if head - tail > thread.size_bytes:
            thread.control[TAIL] = tail = head
        start, end = (tail & mask) >> 3, (head & mask) >> 3
        words = thread.words
        if start < end or head == tail:
            copy = words[start:end].copy()
        else:
            copy = np.concatenate([words[start:], words[:end]])
        data = copy.data.cast("B")
        used = len(data)
        if keep_after is not None:
            for offset, _ in walk(data):
                at = offset >> 3
                if int(copy[at]) & 0xFFFFFFFF != _SAMPLE:
                    continue
                if int(copy[at + TIME]) > keep_after:
                    used = offset
                    thread.held = True
                    break
        thread.control[TAIL] = tail + used
        return data[:used]

    def _copy_records(
        self, thread: Thread, data: memoryview, chosen: int | None, keep: bool
    ) -> None:
        """Copies ring records to the output; the one at `chosen` gets the stop's registers.

        Another event that overflowed at the very same instruction shares the trap (signals of one
        number do not queue): it gets the registers too. Any other sample has none: abi 0.
        """
        copy = np.frombuffer(data, np.uint64)
        words = data.cast("Q")
        for offset, size in walk(data):
            start, length = offset >> 3, size >> 3
            kind = words[start] & 0xFFFFFFFF
            if kind == _SAMPLE:
                event = thread.ids.get(words[start + 1], 0)
                mine = offset == chosen or (chosen is not None and words[start + IP] == self.ip)
                length = self._copy(copy, start, length, event)
                if mine:
                    self._finish(thread, self._at, length, event, keep)
                else:
                    self._finish_bare(thread, length, event)
                continue
            self.out[self._at : self._at + length] = copy[start : start + length]
            self._adopt(thread, self._at, length, kind)
            self._at += length
            if self._at >= self._hand_on:
                self.flush()

    def _finish_bare(self, thread: Thread, length: int, event: int) -> None:
        """Completes a sample that got no stop: nothing of `scratch` is about it."""
        q = self._q
        places = (_RAW_FLAGS, _ABI, self._bv_at, _STATISTICS, _STATISTICS + 1, _STATISTICS + 2)
        saved = [q[at] for at in places]
        for at in places:
            q[at] = 0
        q[_RAW_FLAGS] = _PRESENT << 32
        self._finish(thread, self._at, length, event, False)
        for at, word in zip(places, saved, strict=True):
            q[at] = word
        self.samples -= 1
        self.bare += 1

    def _adopt(self, thread: Thread, at: int, words: int, kind: int) -> None:
        """Puts the file's event id where the kernel wrote its counter's, and keeps the tallies."""
        out = self._o
        last = at + words - 1  # IDENTIFIER ends the sample_id trailer
        file_id = thread.ids.get(out[last], 0) + 1
        out[last] = file_id
        if kind == _LOST:
            out[at + 1] = file_id
            self.lost += out[at + 2]
        elif kind == _LOST_SAMPLES:
            self.lost += out[at + 1]
        elif kind in (_THROTTLE, _UNTHROTTLE):
            out[at + 2] = out[at + 3] = file_id
            self.throttled += kind == _THROTTLE
