"""Builds the module against a kernel's headers, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfxmm.errors import NotSupported, OutputError, PerfxmmError, UsageError
from perfxmm.sources.kmodule.place import MODULE, MODULE_FILE, SOURCES
from perfxmm.sources.kmodule.toolchain import Toolchain

BUILD_TIMEOUT_S = 600
LOG_NAME = "build.log"
SHOWN_LINES = 6
_TELLING = re.compile(r"\berror: |: not found$|ERROR: |No such file")
# A folder with this file is one of ours, and may be emptied.
_MARK = f"{MODULE}_main.c"
_NOT_SOURCES = shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*", "modules.order", "*.symvers")
# Make takes these apart, wherever they stand in a path.
_UNBUILDABLE = (" ", ":", "\t", "#", "$", "%")


@dataclass(frozen=True, slots=True)
class Built:
    """A module that was built. vermagic: for which kernel, as the kernel will compare it."""

    file: Path
    vermagic: str
    release: str


def _run(command: Sequence[str], log: Path) -> int:
    """Runs `command` with its output in `log`; its exit status. Raises OSError."""
    with log.open("wb") as output:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, timeout=BUILD_TIMEOUT_S, check=False,
        ).returncode  # fmt: skip


def build(
    toolchain: Toolchain, folder: Path, *, sources: Path = SOURCES,
    run: Callable[[Sequence[str], Path], int] = _run,
) -> Built:
    """Copies the sources to `folder` and builds there; an earlier build is replaced.

    Raises NotSupported where the build fails (its last lines are told, all of it is in build.log),
    UsageError for a folder that make cannot build in, OutputError where it cannot be written.
    """
    for name in (str(folder), str(toolchain.headers)):
        if any(sign in name for sign in _UNBUILDABLE):
            raise UsageError(f"make cannot build with {name!r} in a command",
                             next_step="choose a folder without spaces and colons: --output")
    log = folder / LOG_NAME
    file = folder / MODULE_FILE
    try:
        _copy(sources, folder)
        status = run(
            ["make", "-C", str(toolchain.headers), f"M={folder}",
             # Type information for BPF would need pahole and the kernel's image.
             "CONFIG_DEBUG_INFO_BTF_MODULES=", *toolchain.make_arguments, "modules"],
            log,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PerfxmmError(f"the build has not ended in {BUILD_TIMEOUT_S} s",
                           where=str(log)) from None  # fmt: skip
    except OSError as error:
        raise OutputError(f"cannot build in {str(folder)!r}", why=error.strerror or str(error),
                          next_step="choose another folder: --output") from None  # fmt: skip
    if status != 0 or not file.is_file():
        raise NotSupported("the module does not build", where=str(log), why=_end_of(log))
    return Built(file, read_vermagic(file), toolchain.release)


def read_vermagic(file: Path) -> str:
    """The vermagic string of a module's file ("6.1.0-50-amd64 SMP preempt mod_unload modversions ")
    without blanks at its end; "" where there is none (a compressed file, another kind of file)."""
    data = file.read_bytes()
    at = data.find(b"\0vermagic=")
    if at < 0:
        return ""
    return data[at + 10 : data.index(b"\0", at + 1)].decode(errors="replace").strip()


def _copy(sources: Path, folder: Path) -> None:
    """Fresh sources, and nothing of an earlier build: objects of other headers would be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = (folder / _MARK).is_file() and folder.resolve() != sources.resolve()
    if any(folder.iterdir()) and not ours:
        raise UsageError(f"{str(folder)!r} holds other things than a build of this module",
                         next_step="choose an empty folder: --output")  # fmt: skip
    shutil.rmtree(folder)
    shutil.copytree(sources, folder, ignore=_NOT_SOURCES)


def _end_of(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    # The compiler's and the shell's words before those of make, which only say where it ended.
    told = [line for line in lines if _TELLING.search(line)]
    errors = told or [line for line in lines if "error" in line.lower()] or lines
    return "\n".join(errors[:SHOWN_LINES])
