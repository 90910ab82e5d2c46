"""Names for code that programs made while they ran, from jitdumps and perf maps.

A jitdump says what lay where at what time. A perf map has no times: it says what lay there last.
Where the two are there, the dump is asked first.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perfxmm.program import jitdump, perfmap
from perfxmm.program.files import (
    Opened,
    open_regular,
    owner_of_process,
    started_ns,
    why_not,
)
from perfxmm.program.places import Places
from perfxmm.program.spaces import NOT_MAPPED, Change, SpaceLog

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

UNKNOWN = -1
# Processes whose maps are held at a time; maps of others are read again when they are asked for.
OPEN_PROCESSES = 32
# Files are written a moment after what they tell of, and clocks of file systems are coarse.
_SLACK_NS = 2_000_000_000
_DUMP = re.compile(r"(?:.*/)?jit-\d+\.dump$", re.DOTALL)


def is_dump(path: str) -> bool:
    """Whether a mapping of this path says that it is a jitdump."""
    return path.endswith(".dump") and _DUMP.match(path) is not None


def map_name(pid: int) -> str:
    """File name of a process's perf map."""
    return f"perf-{pid}.map"


@dataclass(slots=True)
class _Made:
    """What one process made. names: the readers' names, by number.

    log: numbers of codes over time; code_start, code_name: by that number.
    starts, ends, origins, owners: the perf map's (or undated dump's) layers; `origins` is where
    the function of a layer begins, `owners` the number of its name.
    """

    names: list[str] = field(default_factory=list)
    log: SpaceLog | None = None
    code_start: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    code_name: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    layers: list[tuple[U64, U64, U64, I64]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


class JitCode:
    """Code made at run time, by process."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._dumps: dict[int, str] = {}
        self._pids: set[int] = set()
        self._exited: set[int] = set()
        self._made: OrderedDict[int, _Made] = OrderedDict()

    def note_process(self, pid: int) -> None:
        """A process has executable memory that no file backs."""
        self._pids.add(pid)
        self._exited.discard(pid)

    def note_dump(self, pid: int, path: str) -> None:
        """A process mapped its jitdump."""
        if self._dumps.get(pid) != path:
            self._dumps[pid] = path
            self._made.pop(pid, None)

    def note_exit(self, pid: int) -> None:
        """The process ended within the recording: it writes nothing any more."""
        if pid in self._pids:
            self._exited.add(pid)

    def why(self, pid: int) -> str:
        """Why some or all code of a process has no names, "" where nothing is wrong."""
        return "; ".join(self._load(pid).why)

    def lookup(self, pid: int, time_ns: U64, ip: U64) -> tuple[I64, U64, Sequence[str]]:
        """(name, start, names): number in `names` of the function at each address and time,
        UNKNOWN where there is none, and the address where it begins."""
        made = self._load(pid)
        found = np.full(len(ip), UNKNOWN, np.int64)
        start = np.zeros(len(ip), np.uint64)
        if made.log is not None:
            code = made.log.lookup(time_ns, ip)
            known = code != NOT_MAPPED
            found[known] = made.code_name[code[known]]
            start[known] = made.code_start[code[known]]
        for starts, ends, origins, owners in made.layers:
            rows = np.flatnonzero(found == UNKNOWN)
            at = np.searchsorted(starts, ip[rows], side="right").astype(np.int64) - 1
            inside = at >= 0
            inside[inside] = ip[rows[inside]] < ends[at[inside]]
            rows, at = rows[inside], at[inside]
            found[rows], start[rows] = owners[at], origins[at]
        return found, start, made.names

    def _load(self, pid: int) -> _Made:
        made = self._made.get(pid)
        if made is None:
            made = self._made[pid] = _Made()
            self._read_dump(pid, made)
            self._read_map(pid, made)
            while len(self._made) > OPEN_PROCESSES:
                self._made.popitem(last=False)
        self._made.move_to_end(pid)
        return made

    def _read_dump(self, pid: int, made: _Made) -> None:
        path = self._dumps.get(pid)
        if path is None:
            return
        opened = self._first(pid, path, self._dump_paths(path), made)
        if opened is None:
            return
        dump = jitdump.parse(opened.data)
        if dump is None:
            made.why.append(f"{path} is no jitdump of version {jitdump.VERSION}")
            return
        if dump.problem and "fit" not in dump.problem:
            made.why.append(f"{path}: {dump.problem}")
        base = len(made.names)
        made.names += dump.names
        codes = dump.codes
        if self._places.monotonic_clock and not dump.arch_timestamps:
            made.log = SpaceLog()
            for number in sorted(range(len(codes)), key=lambda n: codes[n].time_ns):
                code = codes[number]
                made.log.add(Change(code.time_ns, code.start, code.end, number))
            made.code_start = np.array([code.start for code in codes], np.uint64)
            made.code_name = np.array([base + code.name for code in codes], np.int64)
            return
        # Nothing says which of two functions at one address a sample met.
        spans = [(code.start, code.end) for code in codes]
        found = perfmap.layers(spans, [code.name for code in codes])
        contested = sum(layer.contested for layer in found)
        if contested:
            made.why.append(
                f"{path} has other times than the recording: addresses that it names more than "
                "once stay without names (record with perfxmm record, or perf record -k mono)"
            )
        self._add_layers(
            made, [layer for layer in found if not layer.contested], spans,
            [base + code.name for code in codes],
        )

    def _read_map(self, pid: int, made: _Made) -> None:
        path = f"/tmp/{map_name(pid)}"
        opened = self._first(pid, path, self._map_paths(pid), made)
        if opened is None:
            return
        if len(opened.data) > perfmap.MOST_BYTES:
            made.why.append(f"only the last {perfmap.MOST_BYTES >> 20} MiB of {path} were read")
        functions = perfmap.parse(bytes(opened.data[-perfmap.MOST_BYTES :]))
        if not functions:
            made.why.append(f"{path} names no functions")
            return
        base = len(made.names)
        made.names += [function.name for function in functions]
        spans = [(function.start, function.end) for function in functions]
        self._add_layers(
            made, perfmap.layers(spans, range(len(spans))), spans,
            range(base, base + len(functions)),
        )

    def _add_layers(
        self, made: _Made, found: Sequence[perfmap.Layer], spans: Sequence[tuple[int, int]],
        names: Sequence[int],
    ) -> None:
        made.layers.append((
            np.array([layer.start for layer in found], np.uint64),
            np.array([layer.end for layer in found], np.uint64),
            np.array([spans[layer.owner][0] for layer in found], np.uint64),
            np.array([names[layer.owner] for layer in found], np.int64),
        ))

    # Which file, and may it be believed?

    def _dump_paths(self, path: str) -> Iterator[tuple[Path, bool]]:
        if self._places.beside is not None:
            yield self._places.beside / Path(path).name, True
        yield self._places.symfs / path.lstrip("/"), not self._places.own_root

    def _map_paths(self, pid: int) -> Iterator[tuple[Path, bool]]:
        """Candidates, and whether they are known to belong to the recording.

        As in perf (Linux 6.1, tools/perf/util/symbol.c), a process in another mount namespace is
        asked there first, by the number that it has itself.
        """
        places = self._places
        if places.beside is not None:
            yield places.beside / map_name(pid), True
        if not places.own_root:
            yield places.symfs / "tmp" / map_name(pid), True
        elif places.same_machine is not False:
            if self._still_runs(pid) and _other_namespace(pid):
                yield Path(f"/proc/{pid}/root/tmp") / map_name(_own_pid(pid)), False
            yield Path("/tmp") / map_name(pid), False

    def _still_runs(self, pid: int) -> bool:
        if pid in self._exited:
            return False
        began_ns = started_ns(pid)
        until_ns = self._places.recorded_until_ns
        return began_ns is not None and (until_ns is None or began_ns <= until_ns)

    def _first(
        self, pid: int, name: str, candidates: Iterator[tuple[Path, bool]], made: _Made,
    ) -> Opened | None:
        """The first file that there is; None (and why) where it must not be used."""
        for path, kept in candidates:
            try:
                opened = open_regular(path, follow=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                made.why.append(f"{path} cannot be read ({why_not(error)})")
                return None
            why = "" if kept else self._distrust(pid, opened)
            if why:
                made.why.append(f"{path} is not used: {why}")
                return None
            return opened
        if not name.startswith("/tmp/perf-") or not (made.log or made.layers):
            made.why.append(f"there is no {name}")
        return None

    def _distrust(self, pid: int, opened: Opened) -> str:
        owner = opened.status.st_uid
        runs = self._still_runs(pid)
        allowed = {0, os.geteuid()} | ({owner_of_process(pid)} if runs else set())
        if owner not in allowed:
            return "it belongs neither to you, nor to root, nor to the owner of the process"
        until_ns = self._places.recorded_until_ns
        if not runs and until_ns is not None and opened.status.st_mtime_ns > until_ns + _SLACK_NS:
            return "it was written after the recording, by another process of that number"
        return ""


def _other_namespace(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
    except OSError:
        return False


def _own_pid(pid: int) -> int:
    """The number of a process in its own pid namespace; proc(5), NSpid of /proc/PID/status."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NStgid:"):
                return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return pid
