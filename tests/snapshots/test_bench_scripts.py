"""The benchmarks of decoding run, decode everything and write their figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def figures(script: str, *arguments: str, to: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench" / script), *arguments, "--json", str(to)],
        capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a figure was missed, as it may be here
    document = json.loads(to.read_text())
    return {row["name"]: row for row in document["figures"]}


def test_memory(tmp_path: Path) -> None:
    rows = figures(
        "memory.py", "--size", "2e6", "--written", "--steps", "1", to=tmp_path / "memory.json"
    )
    assert not any("failed" in name for name in rows)
    assert rows["in file order: peak RssAnon"]["met"]
    assert rows["in time order: peak RssAnon"]["met"]
    assert rows["perfxmm.open(...).snapshots(): peak RssAnon"]["met"]


def test_headers(tmp_path: Path) -> None:
    rows = figures("headers.py", "--size", "1e6", "--runs", "1", to=tmp_path / "headers.json")
    for kind in ("fixed", "mixed"):
        assert rows[f"{kind}: perfxmm inspect / cat FILE | wc -c"]["value"] > 0
        assert rows[f"{kind}: finding the records"]["value"] > 0


def test_unpack(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("the zstd command is not installed")
    rows = figures("unpack.py", "--samples", "3000", "--runs", "1", to=tmp_path / "unpack.json")
    for kind in ("fixed", "mixed"):
        assert rows[f"{kind}: unpack and decode / (zstd -dc + decode)"]["value"] > 0


def test_decode(tmp_path: Path) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    rows = figures("decode.py", "--samples", "3000", "--runs", "1", to=tmp_path / "decode.json")
    assert rows["perf script -F ip,sym,iregs / decode to columns"]["value"] > 1
    assert rows["mixed: perf script -F ip,sym,iregs / to columns"]["value"] > 1


def test_repeated_recordings_are_read_as_one(tmp_path: Path) -> None:
    """Times go on where the lap before ended, and the header says what is there."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from repeated import Repeated, write_base\n"
        "from perfxmm.perfdata.reader import Reader\n"
        "from perfxmm.snapshots.decode import Decoder\n"
        "write_base(sys.argv[2], samples=100)\n"
        "made = Repeated(sys.argv[2], sys.argv[3]); made.grow(200_000); made.close()\n"
        "reader = Reader(sys.argv[3]); decoder = Decoder(reader.events)\n"
        "times = [t for b in reader.blocks() for t in decoder.decode(b).time_ns.tolist()]\n"
        "assert len(times) == made.samples and made.samples % 100 == 0 and made.samples > 300\n"
        "assert times == sorted(set(times)) and not reader.damage\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts" / "bench"), str(tmp_path / "base"),
         str(tmp_path / "made")], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
