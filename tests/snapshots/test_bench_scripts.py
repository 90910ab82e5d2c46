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
    rows = figures("memory.py", "--size", "2e6", to=tmp_path / "memory.json")
    assert not any("failed" in name for name in rows)
    assert rows["in file order: peak RssAnon"]["met"]
    assert rows["in time order: peak RssAnon"]["met"]


def test_decode(tmp_path: Path) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    rows = figures("decode.py", "--samples", "3000", "--runs", "1", to=tmp_path / "decode.json")
    assert rows["perf script -F ip,sym,iregs / decode to columns"]["value"] > 1
