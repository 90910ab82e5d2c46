"""Processes over time from side-band: mappings, names, births and deaths, in bounded memory.

Side-band calls may come slightly out of time order. They are kept until the next lookup and
applied by time; one that is older than what has been applied has the calls since replayed. Only
the last KEPT_CALLS calls can be replayed, and only as far back is everything known: of the time
before, what was still in force when it was forgotten. What is not known is unknown, never a guess.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.program.spaces import ADDRESS_END, NOT_MAPPED, Change, Piece, Pieces, SpaceLog

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]

UNKNOWN = -1
# About 350 bytes each.
KEPT_CALLS = 16384
# Lookups, counted back from the last, whose samples nothing may be forgotten for.
_LOOKUPS_REMEMBERED = 8
# Calls that may wait for a lookup: then they are applied without one.
MOST_PENDING = 16384


class _Call(NamedTuple):
    """A side-band call that waits for, or has had, its turn. pids: whose history it touches.

    apply: an unbound method of `_Moment`.
    """

    time_ns: int
    sequence: int
    pids: tuple[int, ...]
    apply: Callable[..., None]
    arguments: tuple[int, ...]


@dataclass(slots=True)
class _Process:
    """leader_gone: the thread that gives the process its id has exited, so a later sign of life
    of that id is another process. tids: threads that are known to live."""

    pieces: Pieces = field(default_factory=Pieces)
    leader_gone: bool = False
    tids: set[int] = field(default_factory=set)

    @property
    def dead(self) -> bool:
        return self.leader_gone and not self.tids


@dataclass(slots=True)
class _Logs:
    """What samples are looked up in. spaces: by pid. names: by tid, (time, comm) in time order."""

    spaces: dict[int, SpaceLog] = field(default_factory=dict)
    names: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class _Moment:
    """All processes and names at one time. logs: where changes are written down, if anywhere."""

    processes: dict[int, _Process] = field(default_factory=dict)
    names: dict[int, int] = field(default_factory=dict)
    logs: _Logs | None = None

    def copy(self, logs: _Logs) -> _Moment:
        processes = {
            pid: _Process(Pieces(process.pieces.rows), process.leader_gone, set(process.tids))
            for pid, process in self.processes.items()
        }
        return _Moment(processes, dict(self.names), logs)

    def process(self, pid: int) -> _Process:
        found = self.processes.get(pid)
        if found is None:
            found = self.processes[pid] = _Process()
        return found

    def comm(self, time_ns: int, pid: int, tid: int, comm: int, is_exec: int) -> None:
        anew = tid not in self.process(pid).tids
        process = self._alive(time_ns, pid, tid)
        if is_exec:
            self._clear(time_ns, pid, process)
        self._name(time_ns, tid, comm, anew)

    def mmap(
        self, time_ns: int, pid: int, tid: int, start: int, end: int, mapping: int,
    ) -> None:
        process = self._alive(time_ns, pid, tid)
        if process.pieces.map(time_ns, start, end, mapping) and self.logs is not None:
            self._log(pid, Change(time_ns, start, end, mapping))

    def fork(
        self, time_ns: int, pid: int, ppid: int, tid: int, ptid: int, copies_maps: int,
    ) -> None:
        process = self.process(pid)
        if pid != ppid:
            process.leader_gone = False
            process.tids = set()
            rows = list(self.process(ppid).pieces.rows) if copies_maps else []
            self._clear(time_ns, pid, process)
            # Into an empty space: nothing to cut, and the order is the parent's.
            process.pieces.rows = [
                Piece(start, end, mapping, time_ns) for start, end, mapping, _ in rows
            ]
            if self.logs is not None and rows:
                self.logs.spaces.setdefault(pid, SpaceLog()).extend(
                    Change(time_ns, start, end, mapping) for start, end, mapping, _ in rows
                )
        process.tids.add(tid)
        self._name(time_ns, tid, self.names.get(ptid, UNKNOWN), True)

    def exit(self, _time_ns: int, pid: int, tid: int) -> None:
        process = self.process(pid)
        process.tids.discard(tid)
        if pid == tid:
            process.leader_gone = True

    def _alive(self, time_ns: int, pid: int, tid: int) -> _Process:
        """A process that has just shown a sign of life."""
        process = self.process(pid)
        if process.leader_gone and pid == tid:
            # The fork that reused the id was lost. What is mapped is the dead process's.
            self._clear(time_ns, pid, process)
            process.leader_gone = False
            process.tids = set()
        process.tids.add(tid)
        return process

    def _clear(self, time_ns: int, pid: int, process: _Process) -> None:
        if process.pieces.rows:
            process.pieces.rows.clear()
            self._log(pid, Change(time_ns, 0, ADDRESS_END, NOT_MAPPED))

    def _log(self, pid: int, change: Change) -> None:
        if self.logs is not None:
            self.logs.spaces.setdefault(pid, SpaceLog()).add(change)

    def _name(self, time_ns: int, tid: int, comm: int, anew: bool) -> None:
        """anew: an entry of an earlier thread of this id is not enough, it is forgotten first."""
        if anew or self.names.get(tid) != comm:
            self.names[tid] = comm
            if self.logs is not None:
                self.logs.names.setdefault(tid, []).append((time_ns, comm))


class History:
    """Who was where, at any time that is remembered.

    forgot: whether anything has been forgotten, so that samples older than what has been looked
    up may find nothing. late: calls that came too late to be put where they belong.
    kept_calls: see KEPT_CALLS.
    """

    def __init__(self, kept_calls: int = KEPT_CALLS) -> None:
        self.forgot = False
        self.late = 0
        self._kept_calls = kept_calls
        self._pending: list[_Call] = []
        self._applied: list[_Call] = []
        self._sequence = 0
        self._newest_ns = 0
        self._base_ns = -1
        self._unasked = False
        self._looked_up: deque[int] = deque(maxlen=_LOOKUPS_REMEMBERED)
        self._seen: dict[int, int] = {}
        self._touched: dict[int, int] = {}
        self._base = _Moment()
        self._logs = _Logs()
        self._now = _Moment(logs=self._logs)

    # Calls. Times in nanoseconds; 0: the record does not say, it holds from where it stands.

    def comm(self, time_ns: int, pid: int, tid: int, comm: int, is_exec: bool) -> None:
        self._later((pid,), _Moment.comm, time_ns, pid, tid, comm, int(is_exec))

    def mmap(
        self, time_ns: int, pid: int, tid: int, start: int, end: int, mapping: int,
    ) -> None:
        self._later((pid,), _Moment.mmap, time_ns, pid, tid, start, end, mapping)

    def fork(
        self, time_ns: int, pid: int, ppid: int, tid: int, ptid: int, copies_maps: bool,
    ) -> None:
        self._later((pid, ppid), _Moment.fork, time_ns, pid, ppid, tid, ptid, int(copies_maps))

    def exit(self, time_ns: int, pid: int, tid: int) -> None:
        self._later((pid,), _Moment.exit, time_ns, pid, tid)

    # Looking up.

    def look(self, oldest_ns: int, newest_ns: int) -> None:
        """Samples of these times are looked up next: applies what has been called."""
        self._looked_up.append(oldest_ns)
        self._unasked = False
        self._catch_up()
        self._newest_ns = max(self._newest_ns, newest_ns)

    def space(self, pid: int, newest_ns: int) -> SpaceLog | None:
        """The space of a process, None where nothing is known of it."""
        self._seen[pid] = max(self._seen.get(pid, 0), newest_ns)
        return self._logs.spaces.get(pid)

    def comms(self, tid: int, time_ns: U64) -> I32 | None:
        """The name of a thread at each time, UNKNOWN before its first; None: it has none."""
        names = self._logs.names.get(tid)
        if not names:
            return None
        times = np.array([entry[0] for entry in names], np.uint64)
        values = np.array([UNKNOWN, *(entry[1] for entry in names)], np.int32)
        return values[np.searchsorted(times, time_ns, side="right")]

    def mappings(self) -> set[int]:
        """Every mapping that may still be given, or be applied."""
        found: set[int] = set()
        for log in self._logs.spaces.values():
            found |= log.mappings()
        for moment in (self._base, self._now):
            for process in moment.processes.values():
                found.update(piece.mapping for piece in process.pieces.rows)
        for calls in (self._applied, self._pending):
            found.update(c.arguments[4] for c in calls if c.apply is _Moment.mmap)
        return found

    # Applying it.

    def _later(
        self, pids: tuple[int, ...], apply: Callable[..., None], time_ns: int, *arguments: int,
    ) -> None:
        if time_ns == 0:
            time_ns = self._newest_ns
        self._pending.append(_Call(time_ns, self._sequence, pids, apply, arguments))
        self._sequence += 1
        if len(self._pending) >= MOST_PENDING:
            # Nobody looks anything up: what waits says itself how far the recording has come.
            if self._unasked:
                self._looked_up.clear()
            self._unasked = True
            self._looked_up.append(min(call.time_ns for call in self._pending))
            self._catch_up()

    def _catch_up(self) -> None:
        if not self._pending:
            return
        pending = sorted(self._pending, key=_order)
        self._pending = []
        if pending[0].time_ns < self._base_ns:
            first = bisect_left(pending, (self._base_ns,))
            self.late += first
            del pending[:first]
        touched = self._touched
        if any(call.time_ns < touched.get(pid, 0) for call in pending for pid in call.pids):
            pending = sorted(self._applied + pending, key=_order)
            self._applied = []
            self._replay()
            touched = self._touched
        for call in pending:
            for pid in call.pids:
                touched[pid] = call.time_ns
            call.apply(self._now, call.time_ns, *call.arguments)
        self._applied += pending
        if len(self._applied) > 2 * self._kept_calls:
            self._forget()

    def _replay(self) -> None:
        """Back to what was before the first call that is kept."""
        logs = self._logs = _Logs()
        for pid, process in self._base.processes.items():
            log = logs.spaces[pid] = SpaceLog()
            for piece in sorted(process.pieces.rows, key=lambda piece: piece.since_ns):
                log.add(Change(piece.since_ns, piece.start, piece.end, piece.mapping))
        # Since when a name has held is not kept: it is not given for the time before.
        for tid, comm in self._base.names.items():
            logs.names[tid] = [(max(self._base_ns, 0), comm)]
        self._now = self._base.copy(logs)
        self._touched = {}

    def _forget(self) -> None:
        """Moves the base past the oldest calls, as far as samples may still need them."""
        oldest_ns = min(self._looked_up, default=0)
        count = min(
            len(self._applied) - self._kept_calls, bisect_left(self._applied, (oldest_ns,)),
        )
        # All calls of one time together: a late one of that time can then be put among them.
        while count and self._applied[count].time_ns == self._applied[count - 1].time_ns:
            count -= 1
        if not count:
            return
        gone = self._applied[:count]
        self._base_ns = min(self._applied[count].time_ns, oldest_ns)
        del self._applied[:count]
        self.forgot = True
        pids: set[int] = set()
        tids: set[int] = set()
        for call in gone:
            call.apply(self._base, call.time_ns, *call.arguments)
            pids.update(call.pids)
            if call.apply is _Moment.exit:
                # Late samples of a thread may still come, but not as late as this.
                self._base.names.pop(call.arguments[1], None)
            if call.apply is not _Moment.mmap:
                tids.add(call.arguments[2 if call.apply is _Moment.fork else 1])
        for pid in pids:
            self._forget_process(pid)
        for tid in tids:
            self._forget_names(tid)
        for pid in [pid for pid, seen_ns in self._seen.items() if seen_ns < self._base_ns]:
            del self._seen[pid]

    def _forget_process(self, pid: int) -> None:
        process = self._base.processes.get(pid)
        log = self._logs.spaces.get(pid)
        last_ns = max(self._touched.get(pid, 0), self._seen.get(pid, 0))
        if process is not None and process.dead and last_ns < self._base_ns:
            del self._base.processes[pid]
            self._now.processes.pop(pid, None)
            self._logs.spaces.pop(pid, None)
            self._touched.pop(pid, None)
        elif log is not None:
            log.forget(self._base_ns, process.pieces.rows if process is not None else ())

    def _forget_names(self, tid: int) -> None:
        names = self._logs.names.get(tid)
        if names is None:
            return
        first = bisect_left(names, (self._base_ns,))
        if tid in self._base.names:
            first -= 1
        del names[: max(0, first)]
        if not names:
            del self._logs.names[tid]
            self._now.names.pop(tid, None)


def _order(call: _Call) -> tuple[int, int]:
    return call.time_ns, call.sequence
