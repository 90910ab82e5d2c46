"""What `perf script` and perfxmm say about the samples of one recording, in the same words.

A sample is one line, "COMM PID/TID [CPU] SECONDS: PERIOD EVENT: IP" with the fields that perf has
for the recording, and one blank between them.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from support import inprocess

import perfxmm
from perfxmm.kernel.constants import ReadFormat, SampleType

# Where perf's lines are not the samples of the file, one to one: name -> why.
QUIRKS = {
    "group reads": "a sample with the counts of a group is printed once for each member that "
                   "counted something since the sample before, with that count as period",
    "exit": "later than Linux 6.1 a thread's name is forgotten at its EXIT record; samples of its "
            "last way through the kernel come after that",
    "H": "later than Linux 6.12 the name of an unnamed event that leaves guests out ends in :H",
}  # fmt: skip
FIELDS = ("comm", "pid", "tid", "time", "period", "event", "ip")
# perf's names of attributes that a sample may lack, where they are not the field's own.
_LACKS = {"tid": ("pid", "tid")}


@dataclass(frozen=True)
class Said:
    """fields: those of FIELDS that were asked for in the end. error: stderr."""

    lines: list[str]
    fields: tuple[str, ...]
    code: int
    error: str


def perf_or_skip() -> str:
    found = shutil.which("perf")
    if found is None:
        pytest.skip("perf is not installed")
    return found


@cache
def perf_version(perf: str) -> tuple[int, int]:
    said = subprocess.run([perf, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def perf_script(perf: str, data: Path, fields: Sequence[str] = FIELDS) -> Said:
    """perf refuses a field that no sample has: it is left out then.

    -G: the IP in the line, no call chain below it. --no-itrace: no samples made from traces.
    """
    asked = list(fields)
    while True:
        done = subprocess.run(
            [perf, "script", "--ns", "-G", "--no-itrace", "-F", ",".join(asked), "-i", data],
            capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        error = done.stderr.decode("utf-8", "replace")
        lacking = re.search(r"do not have (\w+) attribute set", error)
        if lacking is None or done.stdout:
            lines = done.stdout.decode("utf-8", "backslashreplace").splitlines()
            return Said(_plain(lines), tuple(asked), done.returncode, error)
        name = lacking[1].lower()
        for field in _LACKS.get(name, (name,)):
            asked.remove(field)


def perfxmm_script(data: Path, fields: Sequence[str] = FIELDS) -> Said:
    ran = inprocess.run("script", "--keep", "all", "-F", ",".join(fields), "-i", data)
    return Said(_plain(ran.out.splitlines()), tuple(fields), ran.code, ran.err)


def from_columns(data: Path, fields: Sequence[str] = FIELDS) -> list[str]:
    recording = perfxmm.open(data)
    lines = []
    for batch in recording.snapshots(keep=("all",), columns=()):
        assert batch.comm is not None
        for row in range(len(batch)):
            comm, tid = int(batch.comm[row]), int(batch.tid[row])
            lines.append(_line(fields, {
                "comm": recording.comms[comm] if comm >= 0 else None, "pid": int(batch.pid[row]),
                "tid": tid, "time_ns": int(batch.time_ns[row]), "period": int(batch.period[row]),
                "event": recording.events[int(batch.event[row])].name, "ip": int(batch.ip[row]),
            }))  # fmt: skip
    return lines


def from_export(data: Path, fields: Sequence[str] = FIELDS) -> list[str]:
    ran = inprocess.run("export", "--keep", "all", "--format", "jsonl", "-i", data, "-o", "-")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    for row in rows:
        row["ip"] = int(row["ip"], 16)
        for field in ("pid", "tid"):  # an exiting thread has none
            row[field] = -1 if row[field] is None else row[field]
    return [_line(fields, row) for row in rows]


def _line(fields: Sequence[str], row: dict[str, object]) -> str:
    has = set(fields)
    words = []
    if "comm" in has:
        words.append(f":{row['tid']}" if row["comm"] is None else str(row["comm"]))
    if "pid" in has:
        words.append(f"{row['pid']}/{row['tid']}")
    if "time" in has:
        time_ns = row["time_ns"]
        assert isinstance(time_ns, int)
        words.append(f"{time_ns // 10**9}.{time_ns % 10**9:09}:")
    if "period" in has:
        words.append(str(row["period"]))
    if "event" in has:
        words.append(f"{row['event']}:")
    if "ip" in has:
        words.append(f"{row['ip']:x}")
    return _plain([" ".join(words)])[0]


def _plain(lines: Iterable[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines if line.strip()]


def compare(perf: str, data: Path, said: Said) -> None:
    """perfxmm's text, columns and export say the same of `data` as perf, but for QUIRKS."""
    ours = perfxmm_script(data, said.fields).lines
    assert from_columns(data, said.fields) == ours, data.name
    assert from_export(data, said.fields) == ours, data.name
    theirs = said.lines
    if reads_groups(data):
        ours, theirs = leaders_only(ours, said.fields), leaders_only(theirs, said.fields)
    version = perf_version(perf)
    if version > (6, 1):
        ours = [_unnamed(mine, other) for mine, other in zip(ours, theirs, strict=False)] + (
            ours[len(theirs) :]
        )
    if version > (6, 12):
        ours, theirs = ([x.replace(":H: ", ": ") for x in lines] for lines in (ours, theirs))
    assert ours == theirs, data.name


def comparable(theirs: list[str], ours: list[str], perf: str) -> list[str]:
    """perf's lines with the names that later perfs forget (the quirk "exit"), and without :H."""
    if perf_version(perf) > (6, 1):
        named = {_unnamed(line, f":{_tid(line)} "): line for line in ours}
        theirs = [named.get(line, line) for line in theirs]
    if perf_version(perf) > (6, 12):
        theirs = [line.replace(":H: ", ": ") for line in theirs]
    return theirs


def _tid(line: str) -> str:
    found = re.search(r" -?\d+/(-?\d+) ", line)
    return found[1] if found else ""


def reads_groups(data: Path) -> bool:
    return any(
        event.attr.has(SampleType.READ) and event.attr.read_format & ReadFormat.GROUP
        for event in perfxmm.open(data).events
    )


def leaders_only(lines: list[str], fields: Sequence[str]) -> list[str]:
    """What a group's members share, once."""
    assert fields == FIELDS
    shared = (re.sub(r"(\d:) \d+ .* (\w+)$", r"\1 \2", line) for line in lines)
    return [line for line, _ in itertools.groupby(shared)]


def _unnamed(mine: str, theirs: str) -> str:
    """`mine` without the thread's name where that is all that perf does not know."""
    found = re.match(r"(.*) (-?\d+)/(-?\d+) ", mine)
    if found is None or not theirs.startswith(f":{found[3]} "):
        return mine
    return f":{found[3]}{mine[found.end(1) :]}"
