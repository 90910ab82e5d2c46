"""The benchmark of the truth runs, with both engines, and writes its figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perfxmm.errors import PermissionDenied

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "truth.py"


def test_the_short_form(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("objcopy") is None:
        pytest.skip("no gcc and binutils to build the programs with")
    if subprocess.run(["grep", "-qw", "avx2", "/proc/cpuinfo"], check=False).returncode:
        pytest.skip("this CPU has no AVX2")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--samples", "400", "--length", "0.4",
         "--programs", "avx2,upper", "--json", str(tmp_path / "figures.json"),
         "--details", str(tmp_path / "details.json")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    if done.returncode == PermissionDenied.exit_code:
        pytest.skip(f"cannot sample here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    rows = {row["name"]: row for row in figures}
    assert rows["false coherent"]["value"] == rows["wrong words among them"]["value"] == 0
    assert rows["coherent samples checked"]["value"] >= 400
    assert rows["false alarms: stale-suspected"]["value"] == 0
    details = json.loads((tmp_path / "details.json").read_text())
    parts = [found for engines in details.values() for found in engines.values()]
    assert {(name, engine) for name, engines in details.items() for engine in engines} == {
        ("avx2", "perf"), ("avx2", "interrupt"), ("upper", "perf"), ("upper", "interrupt"),
    }  # fmt: skip
    assert rows["coherent samples checked"]["value"] == sum(
        part["coherent"]["checked"] for part in parts
    )
    assert rows["register words compared"]["value"] == sum(
        part["coherent"]["words"] for part in parts
    )
