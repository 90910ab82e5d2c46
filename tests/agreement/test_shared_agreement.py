"""Recordings of many perfs: sample for sample what `perf script` says, line by line.

perfxmm's text, its columns and its export are all held to it. What perf does in a way of its own
is in perf_opinion.QUIRKS, by name.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import perf_opinion


def shared(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "perfdata").iterdir() if "data" in path.name)


def test_every_shared_recording(shared_data: Path) -> None:
    perf = perf_opinion.perf_or_skip()
    compared, refused = {}, []
    for path in shared(shared_data):
        said = perf_opinion.perf_script(perf, path)
        if not said.lines and "incompatible file format" in said.error:
            refused.append(path.name)
            continue
        perf_opinion.compare(perf, path, said)
        compared[path.name] = len(said.lines)
    # Those of the newest perfs; perf 6.1 opens 18 of 22, perf 7.3 20 of them.
    assert len(refused) <= 4, refused
    assert len(compared) >= 18
    assert sum(compared.values()) >= 5000


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("hotspot.perf.data.PerfFormatLost", 34), ("lpd.sleep.compressed.data", 8),
        ("lpd.sleep.compressed2.data", 7), ("lpd.sleep.data", 7),
    ],
)  # fmt: skip
def test_what_perf_6_1_refuses(shared_data: Path, name: str, samples: int) -> None:
    """Counts by perf 7.3.4 (of 68 lines with group reads in the first one, 34 of the leader)."""
    ran = perf_opinion.perfxmm_script(shared_data / "perfdata" / name)
    assert ran.code == 0
    assert len(ran.lines) == samples
    assert perf_opinion.from_columns(shared_data / "perfdata" / name) == ran.lines
