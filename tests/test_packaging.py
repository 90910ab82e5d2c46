"""The installed package is what it says it is."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import perfxmm

ROOT = Path(__file__).resolve().parent.parent


def test_version_is_said_in_one_voice() -> None:
    assert metadata.version("perfxmm") == perfxmm.__version__


def test_metadata() -> None:
    about = metadata.metadata("perfxmm")
    assert about["License-Expression"] == "MIT AND GPL-2.0-only"  # the kernel module
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


def test_the_kernel_module_is_shipped_as_source() -> None:
    folder = Path(perfxmm.__file__).parent / "kmod"
    names = {path.name for path in folder.iterdir() if path.suffix in (".c", ".h", ".conf", ".md")}
    assert names == {
        "README.md", "dkms.conf", "xsaves_nmi.h", "xsaves_nmi_compat.h", "xsaves_nmi_hit.c",
        "xsaves_nmi_main.c", "xsaves_nmi_save.c", "xsaves_nmi_source.c", "xsaves_nmi_sysfs.c",
        "xsaves_nmi_trace.c", "xsaves_nmi_trace.h",
    }  # fmt: skip
    assert {"Kbuild", "Makefile", "COPYING"} <= {path.name for path in folder.iterdir()}
    # Nothing of it is left out of the wheel by a rule for what is not tracked.
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not any(rule.endswith((".c", ".h", ".conf", "kmod/")) for rule in ignored)


def test_the_kernel_module_has_one_version() -> None:
    folder = Path(perfxmm.__file__).parent / "kmod"
    header = (folder / "xsaves_nmi.h").read_text()
    version = re.search(r'#define XSAVES_NMI_VERSION\s+"(.*)"', header)
    dkms = (folder / "dkms.conf").read_text()
    assert version is not None
    assert f'PACKAGE_VERSION="{version[1]}"' in dkms
    assert f"xsaves_nmi/{version[1]}" in dkms
    assert f"xsaves_nmi/{version[1]}" in (folder / "README.md").read_text()
