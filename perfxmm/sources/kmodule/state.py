"""How far the module is on this machine: loaded, built, or what it would take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfxmm.errors import NotSupported
from perfxmm.sources.kmodule.distribution import read_distribution
from perfxmm.sources.kmodule.place import find_module
from perfxmm.sources.kmodule.status import ModuleStatus, read_status
from perfxmm.sources.kmodule.toolchain import Which, find_toolchain, first_line


@dataclass(frozen=True, slots=True)
class ModuleState:
    """state: "loaded", "built", "buildable", or "missing" (why: what a build lacks).

    file: the module's file, None where it was not built. next_step: what would bring it on.
    """

    state: str
    release: str
    file: Path | None = None
    status: ModuleStatus | None = None
    why: str = ""
    next_step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "state": self.state, "kernel": self.release,
            "file": str(self.file) if self.file else None,
            "why": self.why, "next_step": self.next_step,
            "module": self.status.to_dict() if self.status else None,
        }  # fmt: skip


def read_state(
    root: Path = Path("/"), release: str = "", *, environment: Mapping[str, str] | None = None,
    which: Which = shutil.which,
) -> ModuleState:
    """The state for the running kernel (or `release`). Starts nothing but `gcc --version`."""
    release = release or os.uname().release
    file = find_module(release, root, environment)
    status = read_status(root)
    if status:
        return ModuleState("loaded", release, file, status)
    if file:
        return ModuleState("built", release, file, why="the kernel module is built, but not loaded",
                           next_step="perfxmm module load")  # fmt: skip
    if (root / "proc/self").exists() and not (root / "proc/modules").exists():
        return ModuleState("missing", release, why="this kernel has no loadable modules")
    try:
        find_toolchain(release, read_distribution(root), root=root, which=which,
                       version_of=first_line)  # fmt: skip
    except NotSupported as error:
        step = error.next_step
        if "perfxmm module build" not in step:
            step += ", then perfxmm module build"
        why = f"the kernel module is not built, and {error.what}"
        return ModuleState("missing", release, why=why, next_step=step)
    return ModuleState("buildable", release, why="the kernel module is not built",
                       next_step="perfxmm module build")  # fmt: skip
