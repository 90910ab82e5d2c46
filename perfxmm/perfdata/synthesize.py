"""Records about what was there before the recording began: threads, names and mappings from /proc.

What perf record synthesizes too: a FORK and a COMM for each thread, and a MMAP2 for each
executable mapping of the process. A process that goes away meanwhile yields what could be read.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perfxmm.kernel.constants import MISC_FORK_EXEC, CpuMode
from perfxmm.perfdata import encode
from perfxmm.perfdata.buildid import BuildIdCache, elf_build_id, kernel_build_id
from perfxmm.perfdata.encode import SampleId
from perfxmm.perfdata.format import BuildId

# (pid, tid) -> the trailer for a record about them, None without sample_id_all.
SidFactory = Callable[[int, int], SampleId | None]
Write = Callable[[bytes], object]

KERNEL_NAME = "[kernel.kallsyms]"
ANON_NAME = "//anon"  # as the kernel's own MMAP records call it
_PROT = {"r": 1, "w": 2, "x": 4}
_MAP_SHARED, _MAP_PRIVATE = 1, 2
_PARENT = re.compile(rb"^PPid:\s*(\d+)$", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps. path: bytes as they are in the file system, b"" if anonymous."""

    start: int
    length: int
    pgoff: int
    prot: int
    flags: int
    maj: int
    min: int
    ino: int
    path: bytes

    @property
    def executable(self) -> bool:
        return bool(self.prot & encode.PROT_EXEC)


def parse_maps(text: bytes) -> Iterator[Mapping]:
    """The mappings of a /proc/PID/maps text; lines that are none are left out.

    Format: Documentation/filesystems/proc.rst, Linux 7.3.
    """
    for line in text.splitlines():
        words = line.split(None, 5)
        if len(words) < 5:
            continue
        try:
            start, end = (int(w, 16) for w in words[0].split(b"-"))
            major, minor = (int(w, 16) for w in words[3].split(b":"))
            pgoff, ino = int(words[2], 16), int(words[4])
        except ValueError:
            continue
        mode = words[1].decode("ascii", "replace")
        path = words[5] if len(words) > 5 else b""
        yield Mapping(
            start, end - start, pgoff, sum(_PROT.get(c, 0) for c in mode[:3]),
            _MAP_SHARED if mode[3:4] == "s" else _MAP_PRIVATE, major, minor, ino,
            _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 0xFF]), path),
        )  # fmt: skip


def synthesize_process(
    pid: int, write: Write, sid_factory: SidFactory, *, cache: BuildIdCache | None = None,
    threads: bool = True, parents: bool = False, proc: str = "/proc",
) -> list[BuildId]:  # fmt: skip
    """Writes FORK and COMM for each thread of `pid` and MMAP2 for its executable mappings.

    parents: also a FORK of the process itself, from its parent (/proc/PID/status).
    Returns the build ids found, for `Writer.note_build_id`. A process that is gone, or whose
    mappings may not be read, yields fewer records and no error.
    """
    cache = cache or BuildIdCache()
    home = f"{proc}/{pid}"
    for tid in _threads(home, pid) if threads else [pid]:
        comm = _read(f"{home}/task/{tid}/comm")
        if comm is None:
            continue
        sid = sid_factory(pid, tid)
        time_ns = sid.time_ns if sid else 0
        if tid != pid:
            write(encode.fork_record(pid, pid, tid, pid, time_ns, sid))
        elif parents and (parent := _parent(home)) is not None:
            # Without the mark a reader would take the parent's mappings for this process's too.
            write(encode.fork_record(
                pid, parent, pid, parent, time_ns, sid, misc=MISC_FORK_EXEC
            ))  # fmt: skip
        # The exec flag would make a reader drop the mappings known so far.
        write(encode.comm_record(pid, tid, comm.rstrip(b"\n"), sid=sid))
    sid = sid_factory(pid, pid)
    found = []
    for mapping in parse_maps(_read(f"{home}/maps") or b""):
        if not mapping.executable or mapping.path == b"[vsyscall]":
            continue
        build_id = _build_id(mapping, home, cache)
        name = mapping.path or ANON_NAME.encode()
        write(encode.mmap2_record(
            pid, pid, mapping.start, mapping.length, mapping.pgoff, name, mapping.prot,
            mapping.flags, build_id, mapping.maj, mapping.min, mapping.ino, 0, sid,
        ))  # fmt: skip
        if build_id:
            found.append(BuildId(os.fsdecode(name), build_id))
    return found


def synthesize_system(
    write: Write, sid_factory: SidFactory, *, cache: BuildIdCache | None = None,
    proc: str = "/proc",
) -> list[BuildId]:
    """`synthesize_process` for every process that is there now, with its parent: that tells
    kernel threads (kthreadd's children) from programs."""
    cache = cache or BuildIdCache()
    found: dict[str, BuildId] = {}
    for pid in sorted(int(p.name) for p in Path(proc).iterdir() if p.name.isdecimal()):
        for entry in synthesize_process(
            pid, write, sid_factory, cache=cache, parents=True, proc=proc
        ):
            found[entry.path] = entry
    return list(found.values())


def synthesize_kernel(
    write: Write, sid_factory: SidFactory, *, kallsyms: str = "/proc/kallsyms"
) -> BuildId | None:
    """Writes the MMAP of the kernel's own text.

    Returns its build id; None, and nothing is written, where kernel addresses are hidden
    (kptr_restrict) or there is no build id.
    """
    bounds = {}
    try:
        with open(kallsyms, "rb") as symbols:
            for line in symbols:
                words = line.split()
                if len(words) >= 3 and words[2] in (b"_text", b"_etext"):
                    bounds[words[2]] = int(words[0], 16)
                    if len(bounds) == 2:
                        break
    except (OSError, ValueError):
        return None
    start, end = bounds.get(b"_text", 0), bounds.get(b"_etext", 0)
    if not start or end <= start:
        return None
    # pgoff and the suffix of the name tell a reader where the reference symbol was.
    write(encode.mmap_record(
        -1, 0, start, end - start, start, KERNEL_NAME + "_text", sid_factory(-1, 0),
        misc=CpuMode.KERNEL,
    ))  # fmt: skip
    build_id = kernel_build_id()
    return BuildId(KERNEL_NAME, build_id, kernel=True) if build_id else None


def _threads(home: str, pid: int) -> list[int]:
    try:
        tids = sorted(int(p.name) for p in Path(home, "task").iterdir())
    except (OSError, ValueError):
        return []
    # The leader first: the others are forked from it.
    return [pid, *(t for t in tids if t != pid)] if pid in tids else tids


def _parent(home: str) -> int | None:
    found = _PARENT.search(_read(f"{home}/status") or b"")
    return int(found[1]) if found else None


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _build_id(mapping: Mapping, home: str, cache: BuildIdCache) -> bytes | None:
    if mapping.path == b"[vdso]":
        # Ours is the same as that of any other 64-bit process of this boot.
        return _own_vdso_build_id() if mapping.start >> 32 else None
    if not mapping.path.startswith(b"/") or mapping.path.endswith(b" (deleted)"):
        return None
    # Through the process's own root: in a container the same path is another file.
    path = os.fsdecode(mapping.path)
    return cache.of(f"{home}/root{path}", ino=mapping.ino) or cache.of(path, ino=mapping.ino)


@functools.cache
def _own_vdso_build_id() -> bytes | None:
    for mapping in parse_maps(_read("/proc/self/maps") or b""):
        if mapping.path == b"[vdso]":
            return elf_build_id(functools.partial(_own_memory, mapping.start))
    return None


def _own_memory(base: int, offset: int, size: int) -> bytes:
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(base + offset)
            return memory.read(size)
    except OSError:
        return b""
