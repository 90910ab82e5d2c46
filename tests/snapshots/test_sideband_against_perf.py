"""Side-band records of real recordings are what `perf report -D` says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots import sideband as sb
from perfxmm.snapshots.decode import Decoder

Said = tuple[Any, ...]


def number(text: str) -> int:
    return int(text, 16)


# A line of perf's dump, and what of it is compared.
LINES: tuple[tuple[str, Callable[..., Said]], ...] = (
    (r"PERF_RECORD_MMAP2? (-?\d+)/(-?\d+): \[(\w+)\((\w+)\) @ (\w+)[^\]]*\]: [-rwxps]+ (.*)",
     lambda pid, tid, start, length, offset, path: (
         "mmap", int(pid), int(tid), number(start), number(length), number(offset), path)),
    (r"PERF_RECORD_COMM( exec)?: (.*):(-?\d+)/(-?\d+)",
     lambda exec_, name, pid, tid: ("comm", bool(exec_), name, int(pid), int(tid))),
    (r"PERF_RECORD_(FORK|EXIT)\((-?\d+):(-?\d+)\):\((-?\d+):(-?\d+)\)",
     lambda kind, *ids: (kind.lower(), *map(int, ids))),
    (r"PERF_RECORD_SWITCH(?:_CPU_WIDE)?\s+(IN|OUT).*", lambda way: ("switch", way)),
    (r"PERF_RECORD_NAMESPACES (\d+)/(\d+) - nr_namespaces: (\d+).*",
     lambda pid, tid, count: ("namespaces", int(pid), int(tid), int(count))),
    (r"PERF_RECORD_ITRACE_START pid: (\d+) tid: (\d+)",
     lambda pid, tid: ("itrace", int(pid), int(tid))),
    (r"PERF_RECORD_AUX offset: (\w+) size: (\w+) flags: (\w+).*",
     lambda offset, size, flags: ("aux", number(offset), number(size), number(flags))),
    (r"PERF_RECORD_LOST_SAMPLES: id:\d+: lost samples :(\d+)",
     lambda count: ("lost samples", int(count))),
)  # fmt: skip
COMPILED = [(re.compile(pattern + "$"), make) for pattern, make in LINES]


def printed(text: str) -> Counter[Said]:
    found: Counter[Said] = Counter()
    for line in text.splitlines():
        at = line.find("PERF_RECORD_")
        for pattern, make in COMPILED if at >= 0 else ():
            if match := pattern.match(line, at):
                found[make(*match.groups())] += 1
                break
    return found


def as_perf_says(one: sb.Sideband) -> Said | None:
    match one:
        case sb.Mmap():
            return "mmap", one.pid, one.tid, one.start, one.length, one.page_offset, one.path
        case sb.Comm():
            return "comm", one.is_exec, one.name, one.pid, one.tid
        case sb.Fork():
            return "fork", one.pid, one.tid, one.parent_pid, one.parent_tid
        case sb.Exit():
            return "exit", one.pid, one.tid, one.parent_pid, one.parent_tid
        case sb.Switch():
            return "switch", "OUT" if one.out else "IN"
        case sb.Namespaces():
            return "namespaces", one.pid, one.tid, len(one.namespaces)
        case sb.ItraceStart():
            return "itrace", one.pid, one.tid
        case sb.Aux():
            return "aux", one.offset, one.size, one.flags
        case sb.Lost(samples_only=True):
            return "lost samples", one.count
    return None


def decoded(recording: Path) -> Counter[Said]:
    reader = Reader(recording)
    decoder = Decoder(reader.events)
    return Counter(
        said for block in reader.blocks() for one in decoder.sideband(block)
        if (said := as_perf_says(one)) is not None
    )  # fmt: skip


def test_side_band_is_what_perf_dumps(shared_data: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    compared = 0
    for recording in sorted((shared_data / "perfdata").glob("*")):
        dump = subprocess.run([perf, "report", "-D", "-i", str(recording)], capture_output=True)
        theirs = printed(dump.stdout.decode(errors="surrogateescape"))
        if not theirs:
            continue  # newer than this perf
        ours = decoded(recording)
        if recording.name == "hotspot.perf.data.true.v2":
            # MMAP2 of the first form: perf takes its names for longer records' and cuts them off.
            theirs = Counter({said: n for said, n in theirs.items() if said[0] != "mmap"})
            ours = Counter({said: n for said, n in ours.items() if said[0] != "mmap"})
        if "corrupted" in recording.name:
            # perf stops at a record of size 0, perfxmm goes on behind it.
            assert not theirs - ours
            assert (ours - theirs).total() == 7
            continue
        assert ours == theirs, recording.name
        compared += ours.total()
    if not compared:
        pytest.skip("there is no recording that this perf can read")
    assert compared > 1000
