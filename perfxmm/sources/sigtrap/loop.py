"""The wait loop of the `perf` engine: one trap, one snapshot.

Per trap: waitpid, GETSIGINFO, GETREGS, GETREGSET, CONT. The thread runs again before its record is
put together. Everything else that a traced program does (signals of its own, group stops, new
threads, execs, exits) goes through `TraceState.rare`.
"""

from __future__ import annotations

import ctypes
import errno
import signal
import time

from perfxmm.kernel import ptrace
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.sources.sigtrap.state import TraceState
from perfxmm.sources.sigtrap.threads import HEAD

_SIGTRAP = int(signal.SIGTRAP)


class StopBuffers:
    """Where the kernel writes a stop's siginfo, registers and XSAVE image; all preallocated."""

    def __init__(self, state: TraceState) -> None:
        self._siginfo = ctypes.create_string_buffer(ptrace.SIGINFO_BYTES)
        view = memoryview(self._siginfo).cast("B")
        self.info_i = view.cast("i")
        self.info_u = view.cast("I")
        self.info_q = view.cast("Q")
        self.info_at = ctypes.addressof(self._siginfo)
        assembler = state.assembler
        self._iovec = ptrace.Iovec(assembler.image_address, assembler.image_bytes)
        self.iovec_at = ctypes.addressof(self._iovec)
        self.regs_at = assembler.regs_address
        self._status = ctypes.c_int()
        self.status = memoryview(self._status).cast("B").cast("i")
        self.status_at = ctypes.addressof(self._status)


def resume(tid: int, word: int) -> None:
    """Lets a thread go on whose stop was taken from waitpid and then, by a mistake, left alone.

    The detach waits for a stop of every thread: one that is in a stop already would never come.
    """
    if word & 0xFF != 0x7F:
        return
    number, event = word >> 8 & 0xFF, word >> 16
    if event == ptrace.EVENT_STOP and number in ptrace.STOP_SIGNALS:
        ptrace.call(ptrace.LISTEN, tid, 0, 0)
        return
    # A SIGTRAP in doubt is not passed on: it would kill where it is one of ours.
    ptrace.call(ptrace.CONT, tid, 0, number if not event and number != _SIGTRAP else 0)


def run(state: TraceState) -> None:
    """Samples until `state.flags.stop` is set. Raises OutputError; the caller detaches."""
    wait, call = ptrace.wait, ptrace.call
    flags, threads, assembler = state.flags, state.threads, state.assembler
    nonce, guard = state.nonce, state.guard
    buffers = StopBuffers(state)
    status, status_at = buffers.status, buffers.status_at
    info_i, info_u, info_q, info_at = (
        buffers.info_i, buffers.info_u, buffers.info_q, buffers.info_at,
    )  # fmt: skip
    regs_at, iovec_at = buffers.regs_at, buffers.iovec_at
    # Globals of another module cost a look-up each at every stop.
    wall, sigtrap_stop, cont = ptrace.WALL, ptrace.STATUS_SIGTRAP, ptrace.CONT
    get_siginfo, get_regs, get_regset = ptrace.GETSIGINFO, ptrace.GETREGS, ptrace.GETREGSET
    xstate_note, trap_perf, code_at = ptrace.NT_X86_XSTATE, ptrace.TRAP_PERF, ptrace.SI_CODE_WORD
    data_at, trap_flags_at = ptrace.SI_PERF_DATA_QWORD, ptrace.SI_PERF_FLAGS_WORD
    sample = assembler.sample
    monotonic_ns, get_errno = time.monotonic_ns, ctypes.get_errno
    blocked_flag = int(StopFlag.SIGTRAP_BLOCKED)
    async_flag = int(StopFlag.ASYNC)
    max_samples = state.limits.max_samples or 1 << 62

    tid = word = 0  # the stop in hand
    try:
        while not flags.stop:
            if flags.tick:
                flags.tick = False
                state.on_tick()
                continue
            tid = wait(-1, status_at, wall)
            if tid <= 0:
                if get_errno() == errno.ECHILD:
                    flags.stop = "ended"
                continue
            word = status[0]
            if word != sigtrap_stop:
                state.rare(tid, word)
                tid = 0
                continue
            thread = threads.get(tid)
            if (
                thread is None
                or call(get_siginfo, tid, 0, info_at) < 0
                or info_i[code_at] != trap_perf
                or info_q[data_at] >> 32 != nonce
            ):
                state.rare(tid, word)
                tid = 0
                continue
            whole = (
                call(get_regs, tid, 0, regs_at) >= 0
                and call(get_regset, tid, xstate_note, iovec_at) >= 0
            )
            head = thread.control[HEAD] if thread.size_bytes else 0
            call(cont, tid, 0, 0)
            tid = 0
            if not whole:
                continue  # killed while stopped
            now = monotonic_ns()
            perf_flags = info_u[trap_flags_at]
            note = blocked_flag if thread.blocked else 0
            if perf_flags & ptrace.TRAP_PERF_ASYNC:
                note |= async_flag
            event = info_q[data_at] & 0xFFFF
            keep = guard is None or not state.handles_keys(thread.pid, assembler.ip)
            sample(thread, head, event, perf_flags, note, keep)
            assembler.stops += 1
            took = now - assembler.last_ns
            if took > 0:
                assembler.stop_ns += took
            if assembler.samples >= max_samples:
                flags.stop = "max-samples"
    except BaseException:
        if tid > 0:
            resume(tid, word)
        raise
