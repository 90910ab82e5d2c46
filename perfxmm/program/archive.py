"""Keeps the sampled binaries beside a recording, so that it can be read on another machine.

The archive of `app.perf.data` is the directory `app.perf.data.archive`, laid out as perf's own
cache (`.build-id/ab/cdef.../elf`): `places.Places.archives` takes it as it is. Maps of code made
at run time (`perf-PID.map`) lie beside that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from perfxmm.errors import OutputError
from perfxmm.program.binaries import Binaries
from perfxmm.program.files import open_regular

_MODE = 0o600
_PERF_MAP = re.compile(r"/tmp/perf-\d+\.map")


def directory_of(recording: str) -> Path:
    """Where the archive of a recording lies; it need not exist."""
    return Path(f"{recording}.archive")


def keep(dsos: Iterable[tuple[str, bytes]], directory: Path) -> tuple[int, list[str]]:
    """Copies the file of every DSO, given as (path, build id or b""), into `directory`.

    A file whose build id is no longer the recorded one is not kept. Returns how many are in the
    archive now, and the paths that could not be kept (without a build id, changed, unreadable).
    Raises OutputError where the archive cannot be written.
    """
    binaries = Binaries()
    kept, missing = 0, []
    for path, build_id in dsos:
        if not path.startswith("/"):
            continue  # [vdso], [kernel.kallsyms] and the like are no files
        if not build_id and _PERF_MAP.fullmatch(path):
            if _keep_map(Path(path), directory):
                kept += 1
            else:
                missing.append(path)
            continue
        image = binaries.image(binaries.intern(path, build_id)) if build_id else None
        if image is None:
            missing.append(path)
            continue
        name = build_id.hex()
        target = directory / ".build-id" / name[:2] / name[2:] / "elf"
        try:
            if not target.exists():
                _private_directories(directory, target.parent)
                _write(image.data, target)
        except OSError as error:
            raise _cannot_write(target, error) from error
        kept += 1
    return kept, missing


def _keep_map(path: Path, directory: Path) -> bool:
    """Copies the perf map of a process, which is the only one to know its functions' names and
    is soon gone. False where there is none that may be believed."""
    try:
        opened = open_regular(path, follow=False)
    except OSError:
        return False
    if opened.status.st_uid not in (0, os.geteuid()):
        return False
    target = directory / path.name
    try:
        _private_directories(directory, directory)
        _write(opened.data, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    return True


def _cannot_write(target: Path, error: OSError) -> OutputError:
    return OutputError(
        "the archive cannot be written", where=str(target), why=error.strerror or "",
        next_step="The recording itself is complete; archive it again with room and "
        "permission to write beside it.",
    )


def _private_directories(top: Path, leaf: Path) -> None:
    """Makes `leaf` and what is missing above it down from `top`, for the owner only."""
    below = leaf.relative_to(top).parts
    for depth in range(len(below) + 1):
        top.joinpath(*below[:depth]).mkdir(mode=0o700, parents=depth == 0, exist_ok=True)


def _write(data: memoryview, target: Path) -> None:
    """Appears under its name only when it is whole."""
    partial = target.with_name(f".elf.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
