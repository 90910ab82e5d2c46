"""Side-band on its way into the timeline: who ran what and when, which threads are the kernel's,
what was lost."""

from __future__ import annotations

from collections.abc import Sequence

from perfxmm.kernel.constants import AttrFlag, CpuMode, SampleType
from perfxmm.perfdata.reader import Event
from perfxmm.program.timeline import Timeline
from perfxmm.snapshots import sideband

# A thread made by this one is a kernel thread (kernel/kthread.c names it so).
_KTHREADD_PID, _KTHREADD_COMM = 2, "kthreadd"


class SidebandFeed:
    """Feeds a timeline, each record once, however often a recording is read.

    timed: whether samples carry times; without (perf record --no-timestamp) the place in the file
    says what came first. lost, throttled: counts of what was fed.
    """

    def __init__(self, events: Sequence[Event], timeline: Timeline) -> None:
        self._timeline = timeline
        self.timed = any(event.attr.has(SampleType.TIME) for event in events)
        # Before sample_id_all (Linux 2.6.38) only samples had times, and births and deaths. As in
        # perf, all side-band then holds from where it stands.
        self._sideband_timed = all(event.attr.flag(AttrFlag.SAMPLE_ID_ALL) for event in events)
        self._start_over()

    def _start_over(self) -> None:
        self.lost = self.throttled = 0
        self._fed = self._pass = 0
        self._kthreadd = False
        self._kthreadd_children: set[int] = set()

    def begin(self) -> None:
        """The recording is read from its beginning (again)."""
        if self._timeline.forgot:
            # An earlier pass kept only the last part of who ran what.
            self._timeline.rewind()
            self._start_over()
        self._pass = 0

    @property
    def kernel_tids(self) -> frozenset[int]:
        """Threads that are known to be the kernel's own."""
        # Side-band may name kthreadd only after its children.
        return frozenset({_KTHREADD_PID, *self._kthreadd_children} if self._kthreadd else ())

    def offer(self, record: sideband.Sideband) -> None:
        """The pass's next record: taken where no earlier pass has."""
        self._pass += 1
        if self._pass > self._fed:
            self._take(record)
            self._fed = self._pass

    def _time_ns(self, record: sideband.Sideband) -> int:
        if not self.timed:
            return max(record.file_offset, 0)
        return record.time_ns or 0 if self._sideband_timed else 0

    def _take(self, record: sideband.Sideband) -> None:
        timeline, time_ns = self._timeline, self._time_ns(record)
        match record:
            case sideband.Comm():
                timeline.comm(time_ns, record.pid, record.tid, record.name, record.is_exec)
                if record.tid == _KTHREADD_PID:
                    self._kthreadd = record.name == _KTHREADD_COMM
                elif record.is_exec:
                    self._kthreadd_children.discard(record.tid)
            case sideband.Mmap(cpumode=CpuMode.GUEST_KERNEL | CpuMode.GUEST_USER):
                pass  # a guest's addresses: no sample is looked up among them
            case sideband.Mmap():
                timeline.mmap(
                    time_ns, record.pid, record.tid, record.start, record.length,
                    record.page_offset, record.path, record.prot, record.build_id, record.maj,
                    record.min, record.inode, record.inode_generation,
                )
            case sideband.Fork():
                timeline.fork(
                    time_ns, record.pid, record.parent_pid, record.tid, record.parent_tid,
                    copies_maps=not record.made_up,
                )
                if record.parent_pid == _KTHREADD_PID:
                    self._kthreadd_children.add(record.tid)
                else:
                    self._kthreadd_children.discard(record.tid)
            case sideband.Ksymbol():
                timeline.ksymbol(
                    time_ns, record.start, record.length, record.name, record.registered
                )
            case sideband.Exit():
                timeline.exit(time_ns, record.pid, record.tid)
            case sideband.Lost():
                self.lost += record.count
            case sideband.Throttle(on=True):
                self.throttled += 1
