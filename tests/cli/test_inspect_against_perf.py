"""What perfxmm inspect counts and tells, beside what perf says of the same recording.

perf's own quirks are named here; everything else has to be equal.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from perfxmm.inspector import Inspector

# perf 6.1 does not open what a newer perf wrote with fields it does not know (LOST in
# read_format, COMPRESSED2).
REFUSED = {
    "hotspot.perf.data.PerfFormatLost", "lpd.sleep.compressed.data", "lpd.sleep.compressed2.data",
    "lpd.sleep.data",
}  # fmt: skip
# perf prints no statistics where it stops: at a record of size 0, or at the end of a file, and
# at COMPRESSED in a stream.
NO_STATISTICS = {
    "perf.data.piped.corrupted.zero_size_sample-3.2", "lpd.sleep.compressed.pipe.data"
}
# perf prints some types under another name than the ABI's PERF_RECORD_HEADER_*.
PERF_NAMES = {
    "ATTR": "HEADER_ATTR", "EVENT_TYPE": "HEADER_EVENT_TYPE", "FEATURE": "HEADER_FEATURE",
    "BUILD_ID": "HEADER_BUILD_ID", "TRACING_DATA": "HEADER_TRACING_DATA",
}  # fmt: skip
# In a dump of a stream perf leaves out the event attributes (it is before the first line), and
# one feature, the mark of the features' end.
NOT_DUMPED = {"HEADER_ATTR": 1, "HEADER_FEATURE": 1}
# A 32-bit Arm recording: perf loses its way in the features behind CPUDESC, which is empty there.
LOST_ITS_WAY = {"perf.data.armv7.perf_3.14-3.8"}
# Fields of an attr that may be 1 too.
NO_FLAGS = {
    "type", "config", "size", "precise_ip", "clockid", "sample_max_stack", "wakeup_events",
}  # fmt: skip
ABOUT_THE_FILE = re.compile(
    r"captured on|header version|data offset|data size|feat offset|=====|missing features|^$"
)
DUMPED = re.compile(rb"^(?:-?\d+ )*0x([0-9a-f]+) \[0x([0-9a-f]+)\]: PERF_RECORD_(\w+)", re.M)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "perfdata").iterdir() if "data" in p.name)


def perf(*arguments: str | Path) -> bytes:
    path = shutil.which("perf")
    if path is None:
        pytest.skip("perf is not installed")
    done = subprocess.run(
        [path, "report", *arguments], capture_output=True, timeout=60, check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )  # fmt: skip
    return done.stdout


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """perf tells one moment by the clock on the wall, and so do we."""
    with monkeypatch.context() as here:
        here.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@cache
def inspected(path: Path) -> dict[str, Any]:
    return Inspector(path).result().to_dict()


def statistics(path: Path) -> dict[str, int]:
    """`perf report --stats`, the first part of it: records of all events by type."""
    text = perf("--stats", "-i", path).decode("latin-1")
    body = text.partition("Aggregated stats:")[2].partition(" stats:\n")[0].splitlines()[1:]
    found = {}
    for line in body:
        match = re.match(r"\s*(\w+) events:\s+(\d+)", line)
        if match:
            found[PERF_NAMES.get(match[1], match[1])] = int(match[2])
    return found


def test_records_are_counted_as_perf_counts_them(shared_data: Path) -> None:
    compared = 0
    for path in files(shared_data):
        theirs = statistics(path)
        if path.name in REFUSED | NO_STATISTICS:
            continue
        ours = inspected(path)
        assert ours["record_total"] == theirs.pop("TOTAL"), path.name
        assert ours["records"] == theirs, path.name
        compared += 1
    assert compared >= 16


def test_samples_of_each_event_are_perfs(shared_data: Path) -> None:
    for path in files(shared_data):
        text = perf("--stats", "-i", path).decode("latin-1")
        if path.name in REFUSED | NO_STATISTICS:
            continue
        theirs = re.findall(r"^(\S.*) stats:\n\s+SAMPLE events:\s+(\d+)$", text, re.M)
        ours = [(e["name"], e["samples"]) for e in inspected(path)["events"] if e["samples"]]
        assert ours == [(name, int(count)) for name, count in theirs], path.name


def test_dumped_records_are_the_same(shared_data: Path) -> None:
    """`perf report -D` names every record; of a file also its offset and size."""
    compared = 0
    for path in files(shared_data):
        if path.name in REFUSED | NO_STATISTICS:
            continue
        dumped = DUMPED.findall(perf("-D", "-i", path))
        assert dumped, path.name
        found = inspected(path)
        kinds = Counter(name.decode() for _, _, name in dumped)
        theirs = Counter({PERF_NAMES.get(name, name): n for name, n in kinds.items()})
        ours = Counter(found["records"])
        pipe = found["header"]["mode"] == "pipe"
        if pipe:
            for name, most in NOT_DUMPED.items():
                assert 0 <= ours[name] - theirs[name] <= most, (path.name, name)
                theirs[name] = ours[name]
        assert ours == theirs, path.name
        if not pipe:
            lines = list(Inspector(path).lines())
            said = [re.match(r"0x([0-9a-f]+) \[0x([0-9a-f]+)\]: PERF_RECORD_(\w+)", line)
                    for line in lines]  # fmt: skip
            assert all(said), path.name
            assert {m.groups() for m in said if m} == {
                tuple(part.decode() for part in one) for one in dumped
            }, path.name
        compared += 1
    assert compared >= 16


def test_features_in_perfs_words(shared_data: Path) -> None:
    """Lines of --header-only -I. Ours stand under the feature, perf's in order of their bits."""
    compared = 0
    for path in files(shared_data):
        text = perf("--header-only", "-I", "-i", path).decode("utf-8", "surrogateescape")
        lines = [line[2:].rstrip() for line in text.splitlines() if line.startswith("# ")]
        theirs = [line for line in lines if not ABOUT_THE_FILE.match(line)]
        if path.name in REFUSED | LOST_ITS_WAY or not theirs:
            continue
        found = inspected(path)["features"]
        ours = []
        for name, feature in found.items():
            # perf does not tell build ids here, and BPF programs only with libbpf and some.
            if name not in ("build_id", "bpf_prog_info", "bpf_btf"):
                ours += [line.rstrip() for line in feature["text"]]
        # perf's line of an event goes on with its attr, which we tell under the events.
        theirs, ours = [_event(line) for line in theirs], [_event(line) for line in ours]
        if inspected(path)["header"]["mode"] == "pipe":
            # Of a stream perf tells features in the order in which they come.
            assert sorted(ours) == sorted(theirs), path.name
        else:
            assert ours == theirs, path.name
        compared += 1
    assert compared >= 14


def _event(line: str) -> str:
    """An event's line cut down to its name and ids; other lines as they are."""
    if not line.startswith("event : name = "):
        return line
    name = line.partition("name = ")[2].partition(",")[0]
    ids = re.search(r"id = \{ ([\d, ]*)\}", line)
    return f"{name}: {ids[1].strip() if ids else ''}"


def test_attrs_hold_what_perf_tells_of_them(shared_data: Path) -> None:
    """sample_type and the flags that are set, as perf's event lines have them."""
    compared = 0
    for path in files(shared_data):
        text = perf("--header-only", "-I", "-i", path).decode("utf-8", "surrogateescape")
        lines = [line for line in text.splitlines() if line.startswith("# event : name = ")]
        events = inspected(path)["events"]
        if path.name in REFUSED:
            continue
        for line, event in zip(lines, events, strict=bool(lines)):
            attr = event["attr"]
            names = re.search(r"sample_type = ([A-Z_|]+)", line)
            assert names, line
            assert set(names[1].split("|")) == set(attr["sample_type_names"]), path.name
            flags = {name for name, value in re.findall(r", (\w+) = (\d+)", line) if value == "1"}
            assert flags - NO_FLAGS == set(attr["flag_names"]), (path.name, line)
            for field in ("size", "sample_stack_user"):
                match = re.search(rf", {field} = (\d+)", line)
                assert (int(match[1]) if match else 0) == attr.get(field, 0), path.name
            compared += 1
    assert compared >= 20
