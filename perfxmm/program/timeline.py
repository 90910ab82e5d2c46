"""Timeline: from (time, process, address) to (command, binary, symbol), for many samples at once.

Side-band calls may come slightly out of time order. They are kept until the next `resolve` and
applied by time; one that is older than what has been applied makes its history be replayed.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.program.binaries import (
    KERNEL_PATH,
    VDSO32_PATH,
    VDSO_PATH,
    Binaries,
    Dso,
    Places,
)
from perfxmm.program.demangle import demangle
from perfxmm.program.spaces import ADDRESS_END, NOT_MAPPED, AddressSpace
from perfxmm.program.symbols import SymbolTable

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

UNKNOWN = -1
# PERF_RECORD_MISC_CPUMODE values, include/uapi/linux/perf_event.h, Linux 6.1.
CPUMODE_KERNEL = 1
CPUMODE_USER = 2
KERNEL_PID = -1  # perf gives the kernel's own mappings to this process
_KERNEL_HALF = 1 << 63
_COMPAT_END = 1 << 32
_IDLE_COMM = "swapper"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Columns for n samples; -1 is unknown.

    comm, symbol, dso: int32 [n], indices into Timeline.comms, .symbols, .dsos.
    symbol_offset: uint64 [n], bytes from the symbol's start; 0 where symbol is unknown.
    offset: uint64 [n], file offset in the DSO (address in the kernel); 0 where dso is unknown.
    """

    comm: I32
    symbol: I32
    symbol_offset: U64
    dso: I32
    offset: U64


class _Call(NamedTuple):
    """A side-band call that waits for, or has had, its turn. pids: whose history it touches."""

    time_ns: int
    sequence: int
    pids: tuple[int, ...]
    apply: Callable[..., None]
    arguments: tuple[int, ...]

    def order(self) -> tuple[int, int]:
        return self.time_ns, self.sequence


class Timeline:
    """Who ran what, over time.

    comms, symbols, dsos: string tables; they only grow, indices are stable. A symbol is known
    by its DSO and start, so functions of one name in two binaries stay two symbols.
    symbol_start, symbol_dso: per symbol, its start (file offset or kernel address) and DSO.
    """

    def __init__(self, places: Places | None = None, *, open_binaries: int = 128) -> None:
        self.binaries = Binaries(places or Places(), open_binaries)
        self.comms: list[str] = []
        self.symbols: list[str] = []
        self.symbol_start: list[int] = []
        self.symbol_dso: list[int] = []
        self._comm_index: dict[str, int] = {}
        self._symbol_index: dict[tuple[int, int], int] = {}
        self._map_start: list[int] = []
        self._map_pgoff: list[int] = []
        self._map_dso: list[int] = []
        self._map_columns: tuple[U64, U64, I64] | None = None
        self._kernel_reference: tuple[str, int] | None = None
        self._applied: list[_Call] = []
        self._pending: list[_Call] = []
        self._sequence = 0
        self._spaces: dict[int, AddressSpace] = {}
        self._comm_times: dict[int, list[tuple[int, int, int]]] = {}
        self._comm_sequence = 0

    @property
    def dsos(self) -> list[Dso]:
        return self.binaries.dsos

    @property
    def notes(self) -> list[tuple[Dso, str]]:
        """Why addresses of a DSO stay without symbols, for every DSO that was asked for."""
        return [(self.dsos[index], why) for index, why in sorted(self.binaries.notes.items())]

    def note_build_id(self, path: str, build_id: bytes) -> None:
        """A build id for a path, from the recording's table; to be called before `mmap`."""
        self.binaries.note_build_id(_plain(path), build_id)

    # Side-band. Times in nanoseconds of the recording's clock.

    def comm(self, time_ns: int, pid: int, tid: int, name: str, is_exec: bool) -> None:
        """PERF_RECORD_COMM: a thread's name from now on; an exec empties the address space."""
        index = self._comm(name)
        self._later((pid,), self._apply_comm, time_ns, pid, tid, index, is_exec)

    def mmap(
        self, time_ns: int, pid: int, tid: int, start: int, length: int, pgoff: int, path: str,
        prot: int = 0, build_id: bytes | None = None, maj: int = 0, min: int = 0, ino: int = 0,
        ino_gen: int = 0,
    ) -> None:
        """PERF_RECORD_MMAP or MMAP2: `path` from byte `pgoff` lies at [start, start + length).

        pid -1: the kernel and its modules. prot, maj, min, ino, ino_gen are taken as they come
        in the record; the build id alone decides whether a file is the one that was mapped.
        """
        if pid == KERNEL_PID and path.startswith(KERNEL_PATH) and len(path) > len(KERNEL_PATH):
            # perf appends a symbol's name and puts its address into pgoff.
            self._kernel_reference = (path[len(KERNEL_PATH) :], pgoff)
        if path == VDSO_PATH and start < _COMPAT_END:
            path = VDSO32_PATH
        mapping = len(self._map_start)
        self._map_start.append(start)
        self._map_pgoff.append(pgoff)
        self._map_dso.append(self.binaries.intern(_plain(path), build_id))
        self._map_columns = None
        end = start + length
        if end > ADDRESS_END:
            end = ADDRESS_END
        self._later((pid,), self._apply_mmap, time_ns, pid, tid, start, end, mapping)

    def fork(
        self, time_ns: int, pid: int, ppid: int, tid: int, ptid: int, *, copies_maps: bool = True,
    ) -> None:
        """PERF_RECORD_FORK: a new process (pid != ppid) or thread.

        copies_maps: False for a fork that perf made up for a process that already ran
        (PERF_RECORD_MISC_FORK_EXEC), whose mappings follow by themselves.
        """
        self._later(
            (pid, ppid), self._apply_fork, time_ns, pid, ppid, tid, ptid, copies_maps,
        )

    def exit(self, time_ns: int, pid: int, tid: int) -> None:
        """PERF_RECORD_EXIT. Mappings stay: other threads, or late samples, may still need them."""
        self._later((pid,), self._apply_exit, time_ns, pid, tid)

    # Applying it.

    def _later(
        self, pids: tuple[int, ...], apply: Callable[..., None], time_ns: int, *arguments: int,
    ) -> None:
        self._pending.append(_Call(time_ns, self._sequence, pids, apply, arguments))
        self._sequence += 1

    def _catch_up(self) -> None:
        if not self._pending:
            return
        pending = sorted(self._pending, key=_Call.order)
        self._pending = []
        if any(call.time_ns < self._space(pid).floor_ns for call in pending for pid in call.pids):
            pending = sorted(self._applied + pending, key=_Call.order)
            self._applied = []
            self._spaces = {}
            self._comm_times = {}
        for call in pending:
            for pid in call.pids:
                self._space(pid).floor_ns = call.time_ns
            call.apply(call.time_ns, *call.arguments)
        self._applied += pending

    def _space(self, pid: int) -> AddressSpace:
        space = self._spaces.get(pid)
        if space is None:
            space = self._spaces[pid] = AddressSpace()
        return space

    def _alive(self, time_ns: int, pid: int, tid: int) -> AddressSpace:
        """The space of a process that has just shown a sign of life."""
        space = self._space(pid)
        if space.leader_gone and pid == tid:
            # The fork that reused the id was lost. What is mapped is the dead process's.
            space.clear(time_ns)
            space.leader_gone = False
        return space

    def _apply_comm(self, time_ns: int, pid: int, tid: int, comm: int, is_exec: bool) -> None:
        space = self._alive(time_ns, pid, tid)
        if is_exec:
            space.clear(time_ns)
        self._name(time_ns, tid, comm)

    def _apply_mmap(
        self, time_ns: int, pid: int, tid: int, start: int, end: int, mapping: int,
    ) -> None:
        self._alive(time_ns, pid, tid).map(time_ns, start, end, mapping)

    def _apply_fork(
        self, time_ns: int, pid: int, ppid: int, tid: int, ptid: int, copies_maps: bool,
    ) -> None:
        if pid != ppid:
            space = self._space(pid)
            space.leader_gone = False
            if copies_maps:
                space.copy_from(time_ns, self._space(ppid))
            else:
                space.clear(time_ns)
        self._name(time_ns, tid, self._comm_at(ptid, time_ns))

    def _apply_exit(self, _time_ns: int, pid: int, tid: int) -> None:
        if pid == tid:
            self._space(pid).leader_gone = True

    def _name(self, time_ns: int, tid: int, comm: int) -> None:
        self._comm_sequence += 1
        insort(self._comm_times.setdefault(tid, []), (time_ns, self._comm_sequence, comm))

    def _comm_at(self, tid: int, time_ns: int) -> int:
        names = self._comm_times.get(tid)
        if not names:
            return UNKNOWN
        at = bisect_right(names, (time_ns, self._comm_sequence + 1, 0)) - 1
        return names[at][2] if at >= 0 else UNKNOWN

    def _comm(self, name: str) -> int:
        index = self._comm_index.get(name)
        if index is None:
            index = self._comm_index[name] = len(self.comms)
            self.comms.append(name)
        return index

    # Looking up.

    def resolve(
        self, time_ns: U64, pid: I32, tid: I32, ip: U64, cpumode: npt.NDArray[np.uint8],
    ) -> Resolution:
        """Command, symbol and DSO of n samples, at each sample's own time.

        An ip of 0 and modes other than user and kernel (guests, hypervisor) stay unknown.
        """
        self._catch_up()
        count = len(ip)
        ip = np.asarray(ip, np.uint64)
        dso = np.full(count, UNKNOWN, np.int64)
        offset = np.zeros(count, np.uint64)
        symbol = np.full(count, UNKNOWN, np.int32)
        symbol_offset = np.zeros(count, np.uint64)

        user = (cpumode == CPUMODE_USER) & (ip != 0)
        for process, rows in _groups(pid, user):
            self._locate(process, rows, time_ns, ip, dso, offset)
        kernel = (cpumode == CPUMODE_KERNEL) & (ip >= np.uint64(_KERNEL_HALF))
        rows = np.flatnonzero(kernel)
        if len(rows):
            self._locate(KERNEL_PID, rows, time_ns, ip, dso, offset)
            image = self.binaries.intern(KERNEL_PATH, None)
            dso[rows] = np.where(dso[rows] == UNKNOWN, image, dso[rows])
            offset[rows] = ip[rows]
            table = self.binaries.kernel_symbols(image, self._kernel_reference)
            for index, part in _groups(dso, kernel):
                self._name_symbols(index, table, part, offset, symbol, symbol_offset)
        for index, rows in _groups(dso, user & (dso != UNKNOWN)):
            table = self.binaries.symbols(index)
            self._name_symbols(index, table, rows, offset, symbol, symbol_offset)
        return Resolution(
            self._comms_of(time_ns, pid, tid), symbol, symbol_offset, dso.astype(np.int32), offset,
        )

    def _locate(
        self, process: int, rows: I64, time_ns: U64, ip: U64, dso: I64, offset: U64,
    ) -> None:
        """Fills `dso` and `offset` of the rows of one process."""
        space = self._spaces.get(process)
        if space is None:
            return
        if self._map_columns is None:
            self._map_columns = (
                np.array(self._map_start, np.uint64), np.array(self._map_pgoff, np.uint64),
                np.array(self._map_dso, np.int64),
            )
        start, pgoff, owner = self._map_columns
        mapping = space.lookup(np.asarray(time_ns, np.uint64)[rows], ip[rows])
        rows, mapping = rows[mapping != NOT_MAPPED], mapping[mapping != NOT_MAPPED]
        dso[rows] = owner[mapping]
        offset[rows] = ip[rows] - start[mapping] + pgoff[mapping]

    def _name_symbols(
        self, index: int, table: SymbolTable, rows: I64, offset: U64, symbol: I32,
        symbol_offset: U64,
    ) -> None:
        found = table.lookup(offset[rows])
        rows, found = rows[found >= 0], found[found >= 0]
        if not len(rows):
            return
        distinct, inverse = np.unique(found, return_inverse=True)
        numbers = np.array([self._symbol(index, table, int(row)) for row in distinct], np.int32)
        symbol[rows] = numbers[inverse]
        symbol_offset[rows] = offset[rows] - table.starts[found]

    def _symbol(self, index: int, table: SymbolTable, row: int) -> int:
        start = int(table.starts[row])
        number = self._symbol_index.get((index, start))
        if number is None:
            number = self._symbol_index[index, start] = len(self.symbols)
            self.symbols.append(demangle(table.name(row)))
            self.symbol_start.append(start)
            self.symbol_dso.append(index)
        return number

    def _comms_of(self, time_ns: U64, pid: I32, tid: I32) -> I32:
        comm = np.full(len(tid), UNKNOWN, np.int32)
        for thread, rows in _groups(tid, np.ones(len(tid), np.bool_)):
            names = self._comm_times.get(thread)
            if not names:
                continue
            times = np.array([entry[0] for entry in names], np.uint64)
            values = np.array([UNKNOWN, *(entry[2] for entry in names)], np.int32)
            comm[rows] = values[np.searchsorted(times, time_ns[rows], side="right")]
        idle = (comm == UNKNOWN) & (np.asarray(pid) == 0) & (np.asarray(tid) == 0)
        if idle.any():
            comm[idle] = self._comm(_IDLE_COMM)
        return comm


def _groups(
    keys: npt.NDArray[np.signedinteger], mask: npt.NDArray[np.bool_],
) -> list[tuple[int, I64]]:
    """Rows of each distinct key among the masked ones."""
    rows = np.flatnonzero(mask).astype(np.int64)
    if not len(rows):
        return []
    order = np.argsort(keys[rows], kind="stable")
    rows = rows[order]
    sorted_keys = keys[rows]
    cuts = np.flatnonzero(sorted_keys[1:] != sorted_keys[:-1]) + 1
    return [(int(keys[part[0]]), part) for part in np.split(rows, cuts)]


def _plain(path: str) -> str:
    """The kernel's mapping carries a symbol behind its name; the DSO is the kernel alone."""
    return KERNEL_PATH if path.startswith(KERNEL_PATH) else path
