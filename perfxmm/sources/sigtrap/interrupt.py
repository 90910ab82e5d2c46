"""The `interrupt` engine: PTRACE_INTERRUPT on a timer, no perf event needed.

For where perf_event_open is refused. It costs more and knows less: the stop is wherever the thread
happens to be (inside a system call too, which then may return EINTR), there is no event IP, and
with more threads than CPUs the achieved rate falls. Threads that sleep are left alone.
"""

from __future__ import annotations

import ctypes
import errno
import time

from perfxmm.kernel import ptrace
from perfxmm.perfdata import encode
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.perfdata.synthesize import Mapping, parse_maps
from perfxmm.sources.sigtrap import procfs
from perfxmm.sources.sigtrap.events import TracedEvent
from perfxmm.sources.sigtrap.loop import StopBuffers, resume
from perfxmm.sources.sigtrap.state import TraceState
from perfxmm.sources.sigtrap.threads import Thread

COST = (
    "engine interrupt: system calls such as epoll_wait and recv with a time-out may return EINTR, "
    "sleeping threads are skipped, samples have no event IP"
)
TICK_NS = 50_000_000
RESCAN_NS = 100_000_000
PERIOD_FLOOR_NS = 250_000


class Regions:
    """Executable mappings per process: without a ring nobody tells of new ones."""

    def __init__(self, state: TraceState) -> None:
        self._state = state
        self._known: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._scanned: dict[int, int] = {}

    def cover(self, pid: int, ip: int, now_ns: int) -> None:
        """Looks at /proc/PID/maps again where `ip` lies in no known mapping."""
        key = (pid, self._state.generation.get(pid, 0))
        known = self._known.get(key)
        if known is not None:
            if any(start <= ip < end for start, end in known):
                return
            if now_ns - self._scanned[pid] < RESCAN_NS:
                return
        self._scanned[pid] = now_ns
        fresh = [m for m in _executable(pid) if (m.start, m.start + m.length) not in (known or ())]
        self._known[key] = (known or []) + [(m.start, m.start + m.length) for m in fresh]
        if known is None:
            return  # described as a whole at attach or exec
        for m in fresh:
            self._state.assembler.write(encode.mmap2_record(
                pid, pid, m.start, m.length, m.pgoff, m.path or b"//anon", m.prot, m.flags, None,
                m.maj, m.min, m.ino, 0, self._state.sid(pid, pid),
            ))  # fmt: skip


def _executable(pid: int) -> list[Mapping]:
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return [m for m in parse_maps(file.read()) if m.executable]
    except OSError:
        return []


def limits_of(events: tuple[TracedEvent, ...]) -> list[str]:
    """What the user must know before: costs, and where the request is not met."""
    told = [COST]
    first = events[0]
    if not first.clock:
        told.append(f"engine interrupt samples on time, 1000 Hz, not on {first.name}")
    elif first.period() < PERIOD_FLOOR_NS:
        told.append(f"engine interrupt: the period is raised to {PERIOD_FLOOR_NS} ns")
    if len(events) > 1:
        told.append(f"engine interrupt samples one event: {first.name}")
    return told


def period_ns(state: TraceState) -> int:
    """The timer's period: the first event's, if it is one of time."""
    event = state.events[0]
    return max(PERIOD_FLOOR_NS, event.period() if event.clock else 1_000_000)


def run(state: TraceState) -> None:
    """Samples until `state.flags.stop` is set. The interval timer must run at `period_ns`."""
    wait, call = ptrace.wait, ptrace.call
    flags, threads, assembler = state.flags, state.threads, state.assembler
    buffers = StopBuffers(state)
    status, status_at = buffers.status, buffers.status_at
    regions = Regions(state)
    assembler.fixed_periods = [period_ns(state)] * len(state.events)
    interrupt = int(StopFlag.INTERRUPT)
    in_syscall = int(StopFlag.SYSCALL)
    max_samples = state.limits.max_samples or 1 << 62
    housekeeping = 0

    tid = word = 0  # the stop in hand
    try:
        while not flags.stop:
            if flags.tick:
                flags.tick = False
                if state.enabled:
                    _interrupt_running(threads)
                now = time.monotonic_ns()
                if now - housekeeping >= TICK_NS:
                    housekeeping = now
                    state.on_tick()
                continue
            tid = wait(-1, status_at, ptrace.WALL)
            if tid <= 0:
                if ctypes.get_errno() == errno.ECHILD:
                    flags.stop = "ended"
                continue
            word = status[0]
            thread = threads.get(tid)
            if word != ptrace.STATUS_EVENT_STOP or thread is None or not thread.outstanding:
                state.rare(tid, word)
                tid = 0
                continue
            thread.outstanding = False
            whole = (
                call(ptrace.GETREGS, tid, 0, buffers.regs_at) >= 0
                and call(ptrace.GETREGSET, tid, ptrace.NT_X86_XSTATE, buffers.iovec_at) >= 0
            )
            thread.listening = 0
            call(ptrace.CONT, tid, 0, 0)
            tid = 0
            if not whole or not state.enabled:
                continue
            ip = assembler.ip
            regions.cover(thread.pid, ip, time.monotonic_ns())
            note = interrupt | (in_syscall if assembler.in_syscall else 0)
            keep = state.guard is None or not state.handles_keys(thread.pid, ip)
            assembler.sample(thread, 0, 0, 0, note, keep)
            assembler.stops += 1
            if assembler.samples >= max_samples:
                flags.stop = "max-samples"
    except BaseException:
        if tid > 0:
            resume(tid, word)
        raise


def _interrupt_running(threads: dict[int, Thread]) -> None:
    for thread in threads.values():
        if (
            not thread.outstanding and not thread.listening
            and procfs.is_running(thread.state_fd)
        ):  # fmt: skip
            thread.outstanding = ptrace.call(ptrace.INTERRUPT, thread.tid, 0, 0) >= 0
