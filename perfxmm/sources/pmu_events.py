"""The descriptors and rings of one recording by source `pmu`.

One event needs a descriptor for each thread and CPU (an inherited event's ring must belong to one
CPU) or for each CPU. All events of a CPU share one ring; without inheritance, all of a thread.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perfxmm.errors import TargetError
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.constants import (
    IOC_DISABLE,
    IOC_ENABLE,
    IOC_SET_OUTPUT,
    PERF_FLAG_FD_CLOEXEC,
)
from perfxmm.kernel.permissions import (
    OpenContext,
    Situation,
    explain_mmap,
    explain_open,
    task_facts,
)
from perfxmm.kernel.ring import RingBuffer
from perfxmm.kernel.syscalls import Kernel
from perfxmm.sources.pmu_attr import PlannedEvent

# What perfxmm itself and the target's start need besides the events.
SPARE_DESCRIPTORS = 64
# What `read` gives with pmu_attr.READ_FORMAT: value, time enabled, time running, id.
_COUNT = struct.Struct("<QQQQ")
_NO_SUCH_CPU = (errno.ENODEV, errno.ENOENT, errno.ENXIO)


@dataclass(slots=True)
class MappedRing:
    memory: memoryview
    ring: RingBuffer
    fd: int


@dataclass(frozen=True, slots=True)
class CountedTime:
    """How long one event was to count, and how long it had a counter of the PMU."""

    enabled_ns: int
    running_ns: int

    @property
    def multiplexed_percent(self) -> float | None:
        """Share of the enabled time without a counter; None where it was never enabled."""
        if not self.enabled_ns:
            return None
        return max(0.0, 100.0 * (1 - self.running_ns / self.enabled_ns))


@dataclass(slots=True)
class OpenEvents:
    """What is open. fds by event index; `ids` likewise, as PERF_EVENT_IOC_ID gave them.

    tids: the thread that each fd was opened for, -1 for a whole CPU.

    live: descriptors that may still deliver; those of ended tasks leave it.
    opened_attrs: the attrs as handed to the kernel. data_pages: the smallest ring's real size.
    """

    kernel: Kernel
    situation: Situation
    fds: list[list[int]] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    tids: dict[int, int] = field(default_factory=dict)
    rings: dict[int, MappedRing] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    opened_attrs: list[bytes] = field(default_factory=list)
    data_pages: int = 0
    warnings: list[str] = field(default_factory=list)

    def open_all(
        self, events: Sequence[PlannedEvent], targets: Sequence[int], cpus: Sequence[int],
        data_pages: int,
    ) -> None:
        """Opens every event for every (target, CPU) and maps the rings.

        targets: tids, or (-1,) for whole CPUs. cpus: CPUs, or (-1,) for any.
        Tasks that ended meanwhile and CPUs that an event's PMU does not cover are left out, as
        long as something is left. Raises the explained error otherwise; nothing stays open then.
        """
        self.data_pages = data_pages
        raise_descriptor_limit(len(events) * len(targets) * len(cpus) + SPARE_DESCRIPTORS)
        try:
            for event in events:
                self._open_event(event, targets, cpus)
        except BaseException:
            self.close()
            raise
        if self.data_pages != data_pages:
            self.warnings.append(
                f"rings have {self.data_pages} pages instead of {data_pages}: more memory may not "
                "be locked (kernel.perf_event_mlock_kb, ulimit -l, or CAP_IPC_LOCK)"
            )

    def _open_event(
        self, event: PlannedEvent, targets: Sequence[int], cpus: Sequence[int]
    ) -> None:
        fds: list[int] = []
        self.fds.append(fds)
        self.ids.append([])
        asked = attr_codec.encode(event.attr)
        self.opened_attrs.append(asked)
        left_out: OSError | None = None
        place = (0, -1)
        for tid in targets:
            for cpu in cpus:
                try:
                    fd = self.kernel.perf_event_open(
                        bytearray(asked), tid, cpu, -1, PERF_FLAG_FD_CLOEXEC
                    )
                except OSError as error:
                    gone = error.errno == errno.ESRCH and tid > 0
                    if gone or (error.errno in _NO_SUCH_CPU and cpu >= 0):
                        left_out, place = left_out or error, (tid, cpu)
                        continue
                    raise self._explained(error, event, tid, cpu) from error
                fds.append(fd)
                self.tids[fd] = tid
                self.live.add(fd)
                self.ids[-1].append(self.kernel.event_id(fd))
                self._attach_ring(fd, cpu if cpu >= 0 else tid)
        if not fds:
            if left_out is None:
                raise TargetError("there is nothing to sample", why="no thread, or no CPU")
            raise self._explained(left_out, event, *place) from left_out

    def _explained(self, error: OSError, event: PlannedEvent, tid: int, cpu: int) -> Exception:
        target = task_facts(tid) if tid > 0 else None
        context = OpenContext(event.name, event.attr, tid, cpu, target)
        return explain_open(error, context, self.situation)

    def _attach_ring(self, fd: int, key: int) -> None:
        shared = self.rings.get(key)
        if shared is not None:
            self.kernel.ioctl(fd, IOC_SET_OUTPUT, shared.fd)
            return
        while True:
            try:
                memory = self.kernel.map_ring(fd, self.data_pages)
                break
            except OSError as error:
                # Over the limit of locked memory: half the ring is better than none.
                if error.errno not in (errno.EPERM, errno.ENOMEM) or self.data_pages == 1:
                    raise explain_mmap(error, self.data_pages, self.situation) from error
                self.data_pages //= 2
        ring = RingBuffer(memory, page_bytes=self.kernel.page_bytes)
        self.rings[key] = MappedRing(memory, ring, fd)

    def switch(self, *, on: bool) -> None:
        for fds in self.fds:
            for fd in fds:
                self.kernel.ioctl(fd, IOC_ENABLE if on else IOC_DISABLE)

    def drain(self, take: Callable[[memoryview], bool]) -> bool:
        """Hands each ring's waiting records to `take` and gives their room back.

        Stops, and is False, where `take` says that no more is wanted.
        """
        for mapped in self.rings.values():
            waiting = mapped.ring.peek()
            wanted = not len(waiting) or take(waiting)
            mapped.ring.consume()
            if not wanted:
                return False
        return True

    @property
    def overruns(self) -> int:
        return sum(mapped.ring.overruns for mapped in self.rings.values())

    def counted_times(self) -> list[CountedTime]:
        """Of each event, over all its threads and CPUs. What cannot be read is left out.

        A thread's event on one CPU is enabled while the thread runs anywhere, but running on its
        own CPU only (__perf_update_times in kernel/events/core.c, Linux 6.18): of a thread's
        descriptors the enabled time counts once, the running times add up.
        """
        return [self._counted(fds) for fds in self.fds]

    def _counted(self, fds: Sequence[int]) -> CountedTime:
        enabled: dict[tuple[int, int], int] = {}
        running = 0
        for fd in fds:
            try:
                _, on_ns, ran_ns, _ = _COUNT.unpack(self.kernel.read(fd, _COUNT.size))
            except (OSError, struct.error):
                continue
            tid = self.tids[fd]
            key = (tid, 0) if tid >= 0 else (tid, fd)
            enabled[key] = max(enabled.get(key, 0), on_ns)
            running += ran_ns
        return CountedTime(sum(enabled.values()), running)

    def wait(self, timeout_s: float) -> None:
        """Until a ring is half full or `timeout_s` is over; notes which tasks are gone."""
        for fd, hung_up in self.kernel.poll(sorted(self.live), timeout_s):
            if hung_up:
                self.live.discard(fd)

    def close(self) -> None:
        for mapped in self.rings.values():
            mapped.ring.close()
            self.kernel.unmap_ring(mapped.memory)
        self.rings.clear()
        for fds in self.fds:
            for fd in fds:
                with contextlib.suppress(OSError):
                    self.kernel.close(fd)
            fds.clear()
        self.live.clear()


def raise_descriptor_limit(wanted: int) -> None:
    """Lifts the soft limit as far as the hard one lets it; what is then missing is explained."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if new > soft:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
