"""The installed package is what it says it is."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import perfxmm

ROOT = Path(__file__).resolve().parent.parent


def test_version_is_said_in_one_voice() -> None:
    assert metadata.version("perfxmm") == perfxmm.__version__


def test_metadata() -> None:
    about = metadata.metadata("perfxmm")
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    (entry,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "perfxmm")
    assert entry.value == "perfxmm.cli.main:run"


def test_types_are_shipped() -> None:
    assert (Path(perfxmm.__file__).parent / "py.typed").is_file()


def test_top_level_is_what_the_layout_says() -> None:
    allowed = {
        "perfxmm", "scripts", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md",
    }  # fmt: skip
    tracked = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in {"build", "dist"}
        and not path.name.endswith((".egg-info", ".data", ".data.archive"))
    }  # fmt: skip
    assert tracked == allowed
