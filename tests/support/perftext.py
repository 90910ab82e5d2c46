"""What `perf script` prints about side-band and samples, parsed: the other opinion in tests."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from perfxmm.program.timeline import Timeline

_HEAD = re.compile(r"^\s*(?P<comm>.*?)\s+(?P<pid>-?\d+)/(?P<tid>-?\d+)\s+"
                   r"(?P<sec>\d+)\.(?P<nsec>\d{9}):\s+(?P<rest>.*)$")
_MMAP = re.compile(r"PERF_RECORD_MMAP2? (-?\d+)/(-?\d+): \[(\w+)\((\w+)\) @ (\w+)"
                   r"(?: (?:<(\w*)>|[^\]]*))?\]: (\S+) (.*)$")
_COMM = re.compile(r"PERF_RECORD_COMM( exec)?: (.*):(-?\d+)/(-?\d+)$")
_FORK = re.compile(r"PERF_RECORD_FORK\((-?\d+):(-?\d+)\):\((-?\d+):(-?\d+)\)$")
_EXIT = re.compile(r"PERF_RECORD_EXIT\((-?\d+):(-?\d+)\):")
_SAMPLE = re.compile(r"([0-9a-f]+) (.*) \((.*)\)$")


@dataclass(frozen=True)
class Sample:
    time_ns: int
    pid: int
    tid: int
    ip: int
    comm: str
    symbol: str | None
    symbol_offset: int
    dso: str


def script(data: Path) -> list[str]:
    run = subprocess.run(
        ["perf", "script", "-i", str(data), "--show-mmap-events", "--show-task-events", "--ns",
         "-F", "comm,pid,tid,time,ip,sym,symoff,dso"],
        capture_output=True, text=True, timeout=60, check=True,
    )
    return run.stdout.splitlines()


def replay(lines: list[str], timeline: Timeline) -> list[Sample]:
    """Feeds the side-band to `timeline`; the samples as perf saw them."""
    samples = []
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            assert not line.strip(), line
            continue
        time_ns = int(head["sec"]) * 10**9 + int(head["nsec"])
        rest = head["rest"]
        if found := _MMAP.match(rest):
            pid, tid, start, length, pgoff, build_id, prot, path = found.groups()
            timeline.mmap(
                time_ns, int(pid), int(tid), int(start, 16), int(length, 16), int(pgoff, 16), path,
                4 if "x" in prot else 0, bytes.fromhex(build_id) if build_id else None,
            )
        elif found := _COMM.match(rest):
            timeline.comm(time_ns, int(found[3]), int(found[4]), found[2], bool(found[1]))
        elif found := _FORK.match(rest):
            pid, tid, ppid, ptid = map(int, found.groups())
            timeline.fork(time_ns, pid, ppid, tid, ptid)
        elif found := _EXIT.match(rest):
            timeline.exit(time_ns, int(found[1]), int(found[2]))
        elif found := _SAMPLE.match(rest):
            name, _, offset = found[2].rpartition("+0x")
            known = found[2] != "[unknown]"
            samples.append(Sample(
                time_ns, int(head["pid"]), int(head["tid"]), int(found[1], 16), head["comm"],
                name if known else None, int(offset, 16) if known else 0, found[3],
            ))
        else:
            assert "PERF_RECORD" in rest, line
    return samples
