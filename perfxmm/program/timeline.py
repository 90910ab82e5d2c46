"""Timeline: from (time, process, address) to (command, binary, symbol), for many samples at once.

What processes did is kept by `history`, which binary is meant by `binaries`, code that was made
while the process ran by `jit`. This joins them.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfxmm.program import modules
from perfxmm.program.binaries import KERNEL_PATH, VDSO32_PATH, VDSO_PATH, Binaries, Dso
from perfxmm.program.demangle import demangle
from perfxmm.program.history import KEPT_CALLS, History
from perfxmm.program.jit import JitCode, is_dump
from perfxmm.program.places import Places
from perfxmm.program.spaces import ADDRESS_END, NOT_MAPPED
from perfxmm.program.symbols import SymbolTable, one_symbol

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
_PROT_EXEC = 4
# Executable memory that no file backs; perf (Linux 6.1, tools/perf/util/map.c) looks for its
# symbols in a map that the program itself writes, and names it after that.
_NO_FILE = re.compile(r"//anon$|/dev/zero|/anon_hugepage|\[stack|/SYSV|\[heap\]$")
# .NET maps its code twice through a memory file; perf keeps this name.
_MEMORY_FILE = "/memfd:"
# Mappings are numbered; numbers that nothing refers to any more are used again from here on.
_LEAST_MAPPINGS = 65536


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


class Timeline:
    """Who ran what, over time.

    comms, symbols, dsos: string tables; they only grow, indices are stable. A symbol is known
    by its DSO and start, so functions of one name in two binaries stay two symbols.
    symbol_start, symbol_dso: per symbol, its start (file offset or kernel address) and DSO.
    """

    def __init__(
        self, places: Places | None = None, *, open_binaries: int = 128,
        kept_calls: int = KEPT_CALLS,
    ) -> None:
        self.binaries = Binaries(places or Places(), open_binaries)
        self.comms: list[str] = []
        self.symbols: list[str] = []
        self.symbol_start: list[int] = []
        self.symbol_dso: list[int] = []
        self._comm_index: dict[str, int] = {}
        self._symbol_index: dict[tuple[int, int], int] = {}
        self._mapping_index: dict[tuple[int, int, int], int] = {}
        # What records said, where it means the same mapping for every process.
        self._said: dict[tuple[object, ...], int] = {}
        # Start address, file offset and DSO of each mapping.
        self._map_start, self._map_pgoff = array("Q"), array("Q")
        self._map_dso = array("q")
        self._map_free: list[int] = []
        self._map_columns: tuple[U64, U64, I64] | None = None
        self._mappings_allowed = _LEAST_MAPPINGS
        self._kernel_reference: tuple[str, int] | None = None
        self._kernel_mapped = False
        self._kernel_symbols: dict[int, SymbolTable] = {}
        self._jit = JitCode(self.binaries.places)
        self._jit_index: dict[tuple[int, int, str], int] = {}
        self._newest_ns = 0
        self._kept_calls = kept_calls
        self._history = History(kept_calls)

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

    @property
    def forgot(self) -> bool:
        """Whether old side-band was dropped: a second pass over the recording needs `rewind`."""
        return self._history.forgot

    @property
    def late(self) -> int:
        """Side-band calls that came too late to be put where they belong, and were left out."""
        return self._history.late

    def rewind(self) -> None:
        """Forgets what processes did, for a second pass that calls everything again."""
        self._history = History(self._kept_calls)
        self._newest_ns = 0

    # Side-band. Times in nanoseconds of the recording's clock; 0 where the record says none: it
    # then holds from where it stands.

    def comm(self, time_ns: int, pid: int, tid: int, name: str, is_exec: bool) -> None:
        """PERF_RECORD_COMM: a thread's name from now on; an exec empties the address space."""
        self._history.comm(time_ns, pid, tid, self._comm(name), is_exec)

    def mmap(
        self, time_ns: int, pid: int, tid: int, start: int, length: int, pgoff: int, path: str,
        prot: int = 0, build_id: bytes | None = None, maj: int = 0, min: int = 0, ino: int = 0,
        ino_gen: int = 0,
    ) -> None:
        """PERF_RECORD_MMAP or MMAP2: `path` from byte `pgoff` lies at [start, start + length).

        pid -1: the kernel and its modules. ino: 0 where the record does not say.
        """
        end = start + length
        if end > ADDRESS_END:
            end = ADDRESS_END
        said = (path, build_id, start, pgoff, prot & _PROT_EXEC, ino)
        known = self._said.get(said) if pid > 0 else None
        if known is not None:
            self._history.mmap(time_ns, pid, tid, start, end, known)
            return
        jit_pid, dump = 0, False
        if pid == KERNEL_PID:
            dso = self._kernel_dso(path, pgoff, build_id)
        else:
            if path == VDSO_PATH and start < _COMPAT_END:
                path = VDSO32_PATH
            if prot & _PROT_EXEC and pid > 0:
                if _NO_FILE.match(path):
                    path, jit_pid = f"/tmp/perf-{pid}.map", pid
                elif path.startswith(_MEMORY_FILE):
                    jit_pid = pid
            dump = is_dump(path)
            if dump:
                # How a program that makes code marks where it writes down what it made.
                self._jit.note_dump(pid, path)
            if jit_pid:
                self._jit.note_process(pid)
                pgoff = start
            dso = self.binaries.intern(path, build_id, jit_pid=jit_pid)
            if ino and build_id is None:
                self.binaries.note_inode(dso, ino)
        mapping = self._mapping(start, pgoff, dso)
        if pid > 0 and not jit_pid and not dump:
            if len(self._said) >= _LEAST_MAPPINGS:
                self._said.clear()
            self._said[said] = mapping
        self._history.mmap(time_ns, pid, tid, start, end, mapping)

    def ksymbol(
        self, time_ns: int, start: int, length: int, name: str, registered: bool,
    ) -> None:
        """PERF_RECORD_KSYMBOL: kernel code of that name came or went. It is its own DSO."""
        mapping = NOT_MAPPED
        if registered:
            dso = self.binaries.intern(name, None)
            self._kernel_symbols[dso] = one_symbol(name)
            mapping = self._mapping(start, 0, dso)
        end = min(start + length, ADDRESS_END)
        self._history.mmap(time_ns, KERNEL_PID, 0, start, end, mapping)

    def fork(
        self, time_ns: int, pid: int, ppid: int, tid: int, ptid: int, *, copies_maps: bool = True,
    ) -> None:
        """PERF_RECORD_FORK: a new process (pid != ppid) or thread.

        copies_maps: False for a fork that perf made up for a process that already ran
        (PERF_RECORD_MISC_FORK_EXEC), whose mappings follow by themselves.
        """
        self._history.fork(time_ns, pid, ppid, tid, ptid, copies_maps)

    def exit(self, time_ns: int, pid: int, tid: int) -> None:
        """PERF_RECORD_EXIT. Mappings stay: other threads, or late samples, may still need them."""
        if pid == tid:
            self._jit.note_exit(pid)
        self._history.exit(time_ns, pid, tid)

    def _kernel_dso(self, path: str, pgoff: int, build_id: bytes | None) -> int:
        if path.startswith(KERNEL_PATH):
            self._kernel_mapped = True
            if len(path) > len(KERNEL_PATH):
                # perf appends a symbol's name and puts its address into pgoff.
                self._kernel_reference = (path[len(KERNEL_PATH) :], pgoff)
            return self.binaries.intern(KERNEL_PATH, build_id)
        # As perf 6.1 prints it: by path where the recording's table of build ids has the path.
        name = "" if self.binaries.has_build_id(path) else modules.name_of(path)
        return self.binaries.intern(name or path, build_id, file=path if name else "")

    def _mapping(self, start: int, pgoff: int, dso: int) -> int:
        key = (start, pgoff, dso)
        found = self._mapping_index.get(key)
        if found is not None:
            return found
        self._map_columns = None
        if len(self._map_start) >= self._mappings_allowed and not self._map_free:
            self._free_mappings()
        if self._map_free:
            found = self._map_free.pop()
            self._map_start[found], self._map_pgoff[found] = start, pgoff
            self._map_dso[found] = dso
        else:
            found = len(self._map_start)
            self._map_start.append(start)
            self._map_pgoff.append(pgoff)
            self._map_dso.append(dso)
        self._mapping_index[key] = found
        return found

    def _free_mappings(self) -> None:
        self._said.clear()
        used = self._history.mappings()
        for key in [key for key, number in self._mapping_index.items() if number not in used]:
            self._map_free.append(self._mapping_index.pop(key))
        self._mappings_allowed = max(_LEAST_MAPPINGS, 2 * len(self._mapping_index))

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
        count = len(ip)
        ip = np.asarray(ip, np.uint64)
        dso = np.full(count, UNKNOWN, np.int64)
        offset = np.zeros(count, np.uint64)
        symbol = np.full(count, UNKNOWN, np.int32)
        symbol_offset = np.zeros(count, np.uint64)
        time_ns = self._times(time_ns)
        if not count:
            return Resolution(symbol, symbol, symbol_offset, symbol, offset)
        self._history.look(int(time_ns.min()), self._newest_ns)

        user = (cpumode == CPUMODE_USER) & (ip != 0)
        for process, rows in _groups(pid, user):
            self._locate(process, rows, time_ns, ip, dso, offset)
        kernel = (cpumode == CPUMODE_KERNEL) & (ip != 0)
        rows = np.flatnonzero(kernel)
        if len(rows):
            self._locate(KERNEL_PID, rows, time_ns, ip, dso, offset)
            image = self.binaries.intern(KERNEL_PATH, None)
            if not self._kernel_mapped:
                # A recorder that may not see where the kernel lies does not say it.
                dso[kernel & (dso == UNKNOWN) & (ip >= np.uint64(_KERNEL_HALF))] = image
            for index, part in _groups(dso, kernel & (dso != UNKNOWN)):
                own = self._kernel_symbols.get(index)
                if own is None:
                    offset[part] = ip[part]
                    own = self.binaries.kernel_symbols(image, self._kernel_reference)
                self._name_symbols(index, own, part, offset, symbol, symbol_offset)
        for index, rows in _groups(dso, user & (dso != UNKNOWN)):
            if self.dsos[index].jit_pid:
                self._name_jit(index, rows, time_ns, ip, symbol, symbol_offset)
                continue
            table = self.binaries.symbols(index)
            self._name_symbols(index, table, rows, offset, symbol, symbol_offset)
        return Resolution(
            self._comms_of(time_ns, tid), symbol, symbol_offset, dso.astype(np.int32), offset,
        )

    def _times(self, time_ns: U64) -> U64:
        """Samples that say no time are of now."""
        time_ns = np.asarray(time_ns, np.uint64)
        if len(time_ns):
            self._newest_ns = max(self._newest_ns, int(time_ns.max()))
        return np.where(time_ns == 0, np.uint64(self._newest_ns), time_ns)

    def _locate(
        self, process: int, rows: I64, time_ns: U64, ip: U64, dso: I64, offset: U64,
    ) -> None:
        """Fills `dso` and `offset` of the rows of one process."""
        space = self._history.space(process, self._newest_ns)
        if space is None:
            return
        if self._map_columns is None:
            self._map_columns = (
                np.array(self._map_start, np.uint64), np.array(self._map_pgoff, np.uint64),
                np.array(self._map_dso, np.int64),
            )
        start, pgoff, owner = self._map_columns
        mapping = space.lookup(time_ns[rows], ip[rows])
        rows, mapping = rows[mapping != NOT_MAPPED], mapping[mapping != NOT_MAPPED]
        dso[rows] = owner[mapping]
        offset[rows] = ip[rows] - start[mapping] + pgoff[mapping]

    def _name_jit(
        self, index: int, rows: I64, time_ns: U64, ip: U64, symbol: I32, symbol_offset: U64,
    ) -> None:
        """Code that the process made: it may be another function at another time."""
        pid = self.dsos[index].jit_pid
        found, start, names = self._jit.lookup(pid, time_ns[rows], ip[rows])
        if why := self._jit.why(pid):
            self.binaries.notes[index] = why
        rows, start, found = rows[found >= 0], start[found >= 0], found[found >= 0]
        if not len(rows):
            return
        symbol_offset[rows] = ip[rows] - start
        pairs = np.empty(len(rows), np.dtype([("name", np.int64), ("start", np.uint64)]))
        pairs["name"], pairs["start"] = found, start
        distinct, inverse = np.unique(pairs, return_inverse=True)
        numbers = []
        for name, begin in distinct.tolist():
            key = (index, begin, names[name])
            number = self._jit_index.get(key)
            if number is None:
                number = self._jit_index[key] = self._add_symbol(index, begin, names[name])
            numbers.append(number)
        symbol[rows] = np.array(numbers, np.int32)[inverse.reshape(-1)]

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
            number = self._symbol_index[index, start] = self._add_symbol(
                index, start, demangle(table.name(row)))
        return number

    def _add_symbol(self, dso: int, start: int, name: str) -> int:
        self.symbols.append(name)
        self.symbol_start.append(start)
        self.symbol_dso.append(dso)
        return len(self.symbols) - 1

    def _comms_of(self, time_ns: U64, tid: I32) -> I32:
        comm = np.full(len(tid), UNKNOWN, np.int32)
        for thread, rows in _groups(tid, np.ones(len(tid), np.bool_)):
            names = self._history.comms(thread, time_ns[rows])
            if names is not None:
                comm[rows] = names
        # Thread 0 is each CPU's idle task. Its pid may be another's when the two are read while
        # they change (seen from Linux 3.8 on 32-bit Arm).
        idle = (comm == UNKNOWN) & (np.asarray(tid) == 0)
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
