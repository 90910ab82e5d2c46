"""What a running trace knows, and what it does at everything that is not a sample."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from perfxmm.kernel import ptrace
from perfxmm.kernel.permissions import OpenContext, explain_open, survey
from perfxmm.kernel.syscalls import Kernel
from perfxmm.perfdata import encode
from perfxmm.perfdata.buildid import BuildIdCache
from perfxmm.perfdata.encode import SampleId
from perfxmm.perfdata.synthesize import synthesize_process
from perfxmm.perfdata.writer import Writer
from perfxmm.sources.limits import Governor, StopLimits
from perfxmm.sources.sigtrap import procfs
from perfxmm.sources.sigtrap.assembly import SampleAssembler
from perfxmm.sources.sigtrap.channel import Flags
from perfxmm.sources.sigtrap.events import PERIOD_FLOOR_NS, TracedEvent, ring_has_period
from perfxmm.sources.sigtrap.targets import Target
from perfxmm.sources.sigtrap.threads import (
    RING_PAGES,
    TAIL,
    Thread,
    close_events,
    open_events,
    retime_events,
    switch_events,
)

ROUND_NS = 250_000_000  # between finished rounds, and between looks at the governor
PROGRESS_NS = 250_000_000
# Bounds of the correction for the time that stops take from a clock's period.
TRIM_MAX_NS = 30_000
TRIM_SAMPLES = 50
TRIM_THREADS = 32
# Left free for /proc files and the like when threads use up RLIMIT_NOFILE.
SPARE_DESCRIPTORS = 8


class KeyGuard(Protocol):
    """crypto.CryptoGuard, which is imported only where redaction was asked for."""

    def handles_keys(self, pid: int, generation: int, ip: int, *, bits: int = 64) -> bool: ...


@dataclass(slots=True)
class TraceState:
    """One recording under way.

    engine: "perf" or "interrupt". warn, report: towards the recorder. poll: looks whether the
    recorder has something to say; sets flags.stop. expected: new threads and processes that are
    traced from their birth and have not come to their first stop.
    """

    kernel: Kernel
    engine: str
    events: tuple[TracedEvent, ...]
    nonce: int
    target: Target
    writer: Writer
    assembler: SampleAssembler
    limits: StopLimits
    governor: Governor
    flags: Flags
    warn: Callable[[str], object]
    progress: Callable[[int, float], object]
    poll: Callable[[], object]
    delay_s: float = 0.0
    ring_pages: int = RING_PAGES
    guard: KeyGuard | None = None
    threads: dict[int, Thread] = field(default_factory=dict)
    expected: set[int] = field(default_factory=set)
    generation: dict[int, int] = field(default_factory=dict)
    exit_status: int | None = None
    enabled: bool = False
    started_ns: int = 0
    skipped_threads: int = 0
    trim_ns: int = 0
    _round_ns: int = 0
    _progress_ns: int = 0
    _window_ns: int = 0
    _window_stops: int = 0
    _trim_samples: int = 0
    _warned: set[str] = field(default_factory=set)
    _build_ids: BuildIdCache = field(default_factory=BuildIdCache)
    _fd_ceiling: int = field(
        default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
    )

    # --- the recording's frame

    def begin(self) -> None:
        """Sampling starts: opens the events of attached threads, or lets the command go on."""
        self.started_ns = self._round_ns = self._window_ns = time.monotonic_ns()
        self.enabled = self.delay_s <= 0
        if self.limits.max_size_bytes is not None:
            room = self.limits.max_size_bytes - self.writer.bytes_written
            self.assembler.limit(room, self._full)
        for pid in self.target.stopped:
            self.warn(f"process {pid} is stopped (SIGSTOP): it is sampled when it continues")
        for tid in self.target.tids:
            self.adopt(tid, newborn=False)
        for pid in {t.pid for t in self.threads.values()}:
            self.describe(pid)
        for thread in self.threads.values():
            self._look_at_mask(thread)
        if self.target.root:
            self.target.release()

    def _full(self) -> None:
        self.flags.stop = self.flags.stop or "max-size"

    @property
    def elapsed_s(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1e9

    def on_tick(self) -> None:
        """Housekeeping, some twenty times a second."""
        self.poll()
        now = time.monotonic_ns()
        if not self.enabled and now - self.started_ns >= self.delay_s * 1e9:
            self._enable()
        if now - self._round_ns >= ROUND_NS:
            self._round_ns = now
            self.finish_round(now)
            self._govern(now)
        if now - self._progress_ns >= PROGRESS_NS:
            self._progress_ns = now
            self.progress(self.assembler.samples, self.elapsed_s)
        elapsed = self.elapsed_s - (self.delay_s if self.enabled else 0)
        size = self.writer.bytes_written + self.assembler.pending_bytes
        reached = self.limits.reached(elapsed if self.enabled else 0.0,
                                      self.assembler.samples, size)  # fmt: skip
        if reached and not self.flags.stop:
            self.flags.stop = reached

    def finish_round(self, now_ns: int, *, everything: bool = False) -> None:
        """Drains all rings and ends the round.

        A round promises that nothing older than the round before it follows. A sample that was
        kept back at the last round's end and still is would break that: the round then goes on.
        """
        overdue = False
        for thread in list(self.threads.values()):
            if thread.blocked:
                self._look_again(thread)
            bare = self.assembler.bare
            self.assembler.drain(thread, now_ns=now_ns, everything=everything)
            overdue |= thread.held and thread.held_at == thread.control[TAIL]
            if self.assembler.bare > bare and not thread.blocked and not everything:
                self._look_at_mask(thread)
        self.assembler.flush()
        if not overdue:
            self.writer.finished_round()
            for thread in self.threads.values():
                thread.held_at = thread.control[TAIL] if thread.held else -1

    def _enable(self) -> None:
        self.enabled = True
        for pid in {t.pid for t in self.threads.values()}:
            self.describe(pid)  # a disabled event tells of no mappings
        for thread in self.threads.values():
            switch_events(thread, self.kernel, on=True)

    def _govern(self, now_ns: int) -> None:
        """Stretches the period while stops cost the target too much."""
        active = [t for t in self.threads.values() if t.active]
        window = (now_ns - self._window_ns) * max(1, len(active))
        share = self.assembler.stop_ns / window if window > 0 else 0.0
        if (self.assembler.stops - self._window_stops) * PERIOD_FLOOR_NS > window * 1.2:
            # Faster than the floor lets clocks be: an event that every stop sets off again.
            share = 1.0
        self._window_ns, self.assembler.stop_ns = now_ns, 0
        self._window_stops = self.assembler.stops
        for thread in active:
            thread.active = False
        if active and (self.governor.feed(share) | self._trim(active)):
            self.assembler.fixed_periods = [
                0 if ring_has_period(e.opened) else e.period(self.governor.factor)
                for e in self.events
            ]
            periods = self.periods()
            for thread in self.threads.values():
                retime_events(thread, self.kernel, periods)

    def _trim(self, active: list[Thread]) -> bool:
        """Shortens a clock's period by what every stop adds to it; True where that changed.

        The timer stands still while its thread is switched out and in again around a stop, some
        microseconds that count as the thread's CPU time: 4 kHz would yield 94 % of its samples.
        """
        if len(self.events) > 1 or not self.events[0].clock:
            return False
        samples, self._trim_samples = self.assembler.samples - self._trim_samples, (
            self.assembler.samples
        )
        if len(active) > TRIM_THREADS:
            return False
        spent, whole = 0, True
        for thread in active:
            now = procfs.cpu_time_ns(thread.tid)
            whole &= thread.cpu_ns > 0  # the first look at a thread says nothing of this window
            spent += now - thread.cpu_ns
            thread.cpu_ns = now
        if not whole or samples < TRIM_SAMPLES:
            return False
        period = self.events[0].period(self.governor.factor)
        # A program that is mostly in the kernel has fewer samples for a good reason: the bound
        # keeps that from turning into a higher rate.
        extra = spent // samples - (period - self.trim_ns)
        wanted = min(max(0, extra), TRIM_MAX_NS, period // 10)
        step = (wanted - self.trim_ns) // 2
        if abs(step) * 100 < period:
            return False
        self.trim_ns += step
        return True

    def periods(self) -> list[int]:
        """Each event's period as it is now."""
        return [e.period(self.governor.factor, self.trim_ns) for e in self.events]

    # --- threads

    def adopt(self, tid: int, *, newborn: bool) -> Thread | None:
        """Starts sampling a traced thread; None where it cannot be."""
        self.expected.discard(tid)
        pid = procfs.process_of(tid)
        thread = self.threads[tid] = Thread(tid, pid)
        if self.engine == "interrupt":
            thread.state_fd = procfs.open_state(tid)
            if newborn:
                self._write_fork(thread)
            return thread
        try:
            open_events(thread, self.events, self.kernel, enabled=self.enabled,
                        periods=self.periods(), fd_ceiling=self._fd_ceiling,
                        ring_pages=self.ring_pages)  # fmt: skip
        except OSError as error:
            self._not_sampled(thread, error)
            return None
        if not thread.size_bytes:
            self.warn_once("the locked-memory limit leaves some threads without a ring buffer: "
                           "their samples have the stop's own IP and time (ulimit -l)")  # fmt: skip
        return thread

    def _not_sampled(self, thread: Thread, error: OSError) -> None:
        if error.errno == errno.ESRCH:
            return
        self.skipped_threads += 1
        if error.errno == errno.EMFILE:
            limit = self._fd_ceiling + SPARE_DESCRIPTORS
            self.warn_once(f"some threads are not sampled: the limit of {limit} open files is "
                           "reached (ulimit -n)")  # fmt: skip
            return
        context = OpenContext(self.events[0].name, self.events[0].opened, thread.tid)
        told = explain_open(error, context, survey())
        self.warn_once(f"process {thread.pid} is not sampled: {str(told).splitlines()[0]}")

    def _look_at_mask(self, thread: Thread) -> None:
        thread.blocked = procfs.blocks_sigtrap(thread.tid)

    def _look_again(self, thread: Thread) -> None:
        """A round later: libc blocks all signals for a moment around a thread's start and end."""
        self._look_at_mask(thread)
        if thread.blocked:
            self.warn_once(f"thread {thread.tid} blocks SIGTRAP: its samples come late or without "
                           "registers")  # fmt: skip

    def drop(self, thread: Thread) -> None:
        """The thread is gone: takes over what is left in its ring."""
        self.threads.pop(thread.tid, None)
        self.assembler.drain(thread, now_ns=0, everything=True)
        close_events(thread, self.kernel)
        if thread.state_fd >= 0:
            os.close(thread.state_fd)

    # --- everything that is not a sample

    def rare(self, tid: int, word: int) -> None:
        """Handles one waitpid status. Requests on a thread that was killed meanwhile fail with
        ESRCH, which is no error: its exit status follows."""
        if word & 0xFF != 0x7F:
            self.gone(tid, word)
            return
        number, event = word >> 8 & 0xFF, word >> 16
        call = ptrace.call
        if event == 0:
            if number == signal.SIGTRAP and self._is_own_trap(tid):
                number = 0  # of a thread that is not sampled any more
            call(ptrace.CONT, tid, 0, number)
        elif event == ptrace.EVENT_STOP:
            thread = self.threads.get(tid)
            if thread is None:
                thread = self.adopt(tid, newborn=True)
            if number in ptrace.STOP_SIGNALS:
                if thread is not None:
                    thread.listening = number
                call(ptrace.LISTEN, tid, 0, 0)
            else:
                if thread is not None:
                    thread.listening = 0
                call(ptrace.CONT, tid, 0, 0)
        else:
            if event in ptrace.EVENTS_OF_BIRTH:
                with contextlib.suppress(OSError):
                    child = ptrace.event_message(tid)
                    if child not in self.threads:
                        self.expected.add(child)
            elif event == ptrace.EVENT_EXEC:
                with contextlib.suppress(OSError):
                    self._exec(tid)
            call(ptrace.CONT, tid, 0, 0)

    def _is_own_trap(self, tid: int) -> bool:
        info = ctypes.create_string_buffer(ptrace.SIGINFO_BYTES)
        if ptrace.call(ptrace.GETSIGINFO, tid, 0, ctypes.addressof(info)) < 0:
            return False
        view = memoryview(info).cast("B")
        code = view.cast("i")[ptrace.SI_CODE_WORD]
        return bool(code == ptrace.TRAP_PERF
                    and view.cast("Q")[ptrace.SI_PERF_DATA_QWORD] >> 32 == self.nonce)  # fmt: skip

    def gone(self, tid: int, word: int) -> None:
        """A thread's exit status."""
        self.expected.discard(tid)
        thread = self.threads.get(tid)
        if thread is not None:
            if self.engine == "interrupt":
                sid = self.sid(thread.pid, tid)
                self._write(
                    encode.exit_record(thread.pid, thread.pid, tid, tid, sid.time_ns, sid)
                )
            self.drop(thread)
        if tid == self.target.root:
            self.note_exit(word)
            self.flags.stop = self.flags.stop or "exited"
        elif not self.threads and not self.target.root:
            self.flags.stop = self.flags.stop or "exited"

    def note_exit(self, word: int) -> None:
        """Keeps the command's own exit status (128 + signal where one killed it)."""
        killed = word & 0x7F
        self.exit_status = 128 + killed if killed else word >> 8 & 0xFF

    def _exec(self, tid: int) -> None:
        """A new program: the kernel has removed our events and ended all other threads."""
        for thread in [t for t in self.threads.values() if t.pid == tid]:
            self.drop(thread)
        former = ptrace.event_message(tid)
        if former != tid and former in self.threads:
            self.drop(self.threads[former])
        self.generation[tid] = self.generation.get(tid, 0) + 1
        if procfs.has_foreign_privileges(tid) and os.geteuid() != 0:
            self.warn_once(f"process {tid} executed a set-user-id program, which runs without its "
                           "privileges while it is traced")  # fmt: skip
        name = procfs.raw_command_of(tid)
        self._write(encode.comm_record(tid, tid, name, exec_=True, sid=self.sid(tid, tid)))
        self.describe(tid, threads=False)
        self.adopt(tid, newborn=False)

    # --- records of our own

    def sid(self, pid: int, tid: int) -> SampleId:
        return SampleId(pid, tid, time.monotonic_ns(), 0xFFFFFFFF, self.events[0].file_id)

    def describe(self, pid: int, *, threads: bool = True) -> None:
        """COMM and MMAP2 records of what `pid` is now."""
        for found in synthesize_process(pid, self._write, self.sid, cache=self._build_ids,
                                        threads=threads):  # fmt: skip
            self.writer.note_build_id(found.path, found.build_id)

    def _write(self, record: bytes) -> None:
        self.assembler.write(record)

    def _write_fork(self, thread: Thread) -> None:
        parent = thread.pid if thread.pid != thread.tid else procfs.parent_of(thread.pid)
        sid = self.sid(thread.pid, thread.tid)
        self._write(
            encode.fork_record(thread.pid, parent, thread.tid, parent, sid.time_ns, sid)
        )

    # --- words

    def warn_once(self, text: str) -> None:
        kind = "".join(c for c in text if not c.isdigit())
        if kind not in self._warned:
            self._warned.add(kind)
            self.warn(text)

    def handles_keys(self, pid: int, ip: int) -> bool:
        assert self.guard is not None
        return self.guard.handles_keys(pid, self.generation.get(pid, 0), ip)
