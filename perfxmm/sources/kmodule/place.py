"""Where the module's sources, its builds and the kernel's headers are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

MODULE = "xsaves_nmi"
MODULE_FILE = f"{MODULE}.ko"
# Not an import of perfxmm itself: the C sources are data beside the packages.
SOURCES = Path(__file__).resolve().parents[2] / "kmod"


def build_folder(release: str, environment: Mapping[str, str] | None = None) -> Path:
    """Where builds for the kernel `release` go: below XDG_CACHE_HOME, or ~/.cache."""
    values = os.environ if environment is None else environment
    base = values.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    cache = Path(base) if base.startswith("/") else Path(values.get("HOME", "/")) / ".cache"
    return cache / "perfxmm" / "kmod" / release


def headers_folder(release: str, root: Path = Path("/")) -> Path | None:
    """The headers of `release`, None where they are not installed."""
    found = root / "lib/modules" / release / "build"
    return found if (found / "Makefile").is_file() else None


def find_module(
    release: str, root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> Path | None:
    """The module's file for `release`: what was built last, else what DKMS has installed."""
    built = build_folder(release, environment) / MODULE_FILE
    if built.is_file():
        return built
    updates = root / "lib/modules" / release / "updates"
    for folder in (updates / "dkms", updates):
        # Distributions compress what DKMS installs, each in its own way.
        for suffix in ("", ".zst", ".xz", ".gz"):
            installed = folder / (MODULE_FILE + suffix)
            if installed.is_file():
                return installed
    return None
