"""One traced thread: its events, its ring, and where it stands."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.constants import (
    IOC_DISABLE,
    IOC_ENABLE,
    IOC_SET_OUTPUT,
    PERF_FLAG_FD_CLOEXEC,
)
from perfxmm.kernel.syscalls import Kernel
from perfxmm.sources.sigtrap.events import TracedEvent

# Rings are drained at every stop and every tick: small ones do, and unprivileged users may lock
# little memory.
RING_PAGES = 8
HEAD = 1024 // 8  # data_head and data_tail in the control page, in u64 words
TAIL = 1032 // 8

_EMPTY = np.zeros(0, np.uint64)


@dataclass(slots=True)
class Thread:
    """A thread under ptrace.

    fds: one perf event per requested event, in their order; empty where none could be opened.
    ids: kernel's id of each -> index of the event.
    control, words, quads: the ring's control page, and its data as u64 twice (array for copies,
    memoryview for single words); `size_bytes` 0 where it has no ring.
    listening: in a group stop, held by PTRACE_LISTEN. held: a sample without its stop waits in
    the ring; held_at: where, when the last round ended. blocked: the thread was seen with SIGTRAP
    blocked. cpu_ns: its CPU time at the last look. state_fd, outstanding: of the interrupt engine.
    """

    tid: int
    pid: int
    fds: list[int] = field(default_factory=list)
    ids: dict[int, int] = field(default_factory=dict)
    ring: memoryview | None = None
    control: memoryview = field(default_factory=lambda: memoryview(b""))
    words: npt.NDArray[np.uint64] = field(default_factory=lambda: _EMPTY)
    quads: memoryview = field(default_factory=lambda: memoryview(b""))
    size_bytes: int = 0
    listening: int = 0
    held: bool = False
    held_at: int = -1
    blocked: bool = False
    cpu: int = 0xFFFFFFFF
    active: bool = False
    cpu_ns: int = 0
    state_fd: int = -1
    outstanding: bool = False


def open_events(
    thread: Thread, events: tuple[TracedEvent, ...], kernel: Kernel, *, enabled: bool,
    periods: Sequence[int], fd_ceiling: int = 1 << 30, ring_pages: int = RING_PAGES,
) -> None:
    """Opens every event on the thread and maps one ring for all of them.

    fd_ceiling: the first descriptor number that is too high, so that some stay free.
    Raises OSError from perf_event_open; events opened before that are closed again. A ring that
    may not be mapped (locked memory limit) leaves the thread without one: its stops are then
    recorded without the event's own IP and time.
    """
    try:
        for event, period in zip(events, periods, strict=True):
            attr = event.opened_bytes(enabled=enabled, period=period)
            fd = kernel.perf_event_open(attr, thread.tid, -1, -1, PERF_FLAG_FD_CLOEXEC)
            thread.fds.append(fd)
            if fd >= fd_ceiling:
                raise OSError(errno.EMFILE, "descriptors kept for /proc and the recording")
            thread.ids[kernel.event_id(fd)] = event.index
    except OSError:
        close_events(thread, kernel)
        raise
    pages = ring_pages
    while pages:
        try:
            ring = kernel.map_ring(thread.fds[0], pages)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EAGAIN, errno.ENOMEM):
                close_events(thread, kernel)
                raise
            pages //= 2
            continue
        thread.ring = ring
        thread.control = ring[: kernel.page_bytes].cast("Q")
        thread.size_bytes = pages * kernel.page_bytes
        thread.words = np.frombuffer(ring[kernel.page_bytes :], np.uint64)
        thread.quads = ring[kernel.page_bytes :].cast("Q")
        for fd in thread.fds[1:]:
            kernel.ioctl(fd, IOC_SET_OUTPUT, thread.fds[0])
        return


def close_events(thread: Thread, kernel: Kernel) -> None:
    """Closes events and ring. What is still in the ring is gone: drain it before."""
    for fd in thread.fds:
        with contextlib.suppress(OSError):
            kernel.close(fd)
    thread.fds, thread.ids = [], {}
    if thread.ring is not None:
        ring, thread.ring = thread.ring, None
        thread.words, thread.size_bytes = _EMPTY, 0
        thread.control.release()
        thread.quads.release()
        thread.control = thread.quads = memoryview(b"")
        kernel.unmap_ring(ring)


def switch_events(thread: Thread, kernel: Kernel, *, on: bool) -> None:
    for fd in thread.fds:
        with contextlib.suppress(OSError):
            kernel.ioctl(fd, IOC_ENABLE if on else IOC_DISABLE, 0)


def retime_events(thread: Thread, kernel: Kernel, periods: Sequence[int]) -> None:
    """Gives the thread's events new periods (PERF_EVENT_IOC_PERIOD)."""
    for fd, period in zip(thread.fds, periods, strict=False):
        with contextlib.suppress(OSError):
            kernel.set_period(fd, period)
