"""Recordings of many perfs: sample for sample what `perf script` says, line by line.

perfxmm's text, its columns and its export are all held to it. What perf does in a way of its own
is in perf_opinion.QUIRKS, by name.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import perf_opinion

# What perf 6.1 cannot open, attrs of a newer perf, and how many samples are in it.
COUNTS = {
    "hotspot.perf.data.PerfFormatLost": 34, "lpd.sleep.compressed.data": 8,
    "lpd.sleep.compressed2.data": 7, "lpd.sleep.data": 7,
}  # fmt: skip
CORRUPTED = "perf.data.piped.corrupted.zero_size_sample-3.2"


def shared(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "perfdata").iterdir() if "data" in path.name)


def test_every_shared_recording(shared_data: Path) -> None:
    perf = perf_opinion.perf_or_skip()
    compared, refused = {}, []
    for path in shared(shared_data):
        said = perf_opinion.perf_script(perf, path)
        if said.code and not said.lines:
            refused.append(path.name)
            continue
        perf_opinion.compare(perf, path, said)
        compared[path.name] = len(said.lines)
    # perf 6.1 opens 17 of 22; of later ones each refuses others, of an older or a newer perf.
    assert len(refused) <= 5, refused
    if perf_opinion.perf_version(perf) == (6, 1):
        assert set(refused) == {*COUNTS, CORRUPTED}
    assert len(compared) >= 17
    assert sum(compared.values()) >= 4000


def test_the_corrupted_stream(shared_data: Path) -> None:
    """perf 6.1 and 7.3 stop at the record of size 0, before the first sample; 227 follow it."""
    path = shared_data / "perfdata" / CORRUPTED
    ran = perf_opinion.perfxmm_script(path)
    assert (len(ran.lines), ran.code) == (227, 5)
    assert ran.lines[0] == "perf 5889/5889 596462.113211620: 1849936 cycles: 810a44f3"
    assert "record of size 0; 48 bytes are passed over" in ran.error
    assert perf_opinion.from_columns(path) == ran.lines
    assert perf_opinion.from_export(path) == ran.lines


@pytest.mark.parametrize(("name", "samples"), COUNTS.items())
def test_what_perf_6_1_refuses(shared_data: Path, name: str, samples: int) -> None:
    """Counts by perf 7.3.4 (of 68 lines with group reads in the first one, 34 of the leader)."""
    ran = perf_opinion.perfxmm_script(shared_data / "perfdata" / name)
    assert ran.code == 0
    assert len(ran.lines) == samples
    assert perf_opinion.from_columns(shared_data / "perfdata" / name) == ran.lines
