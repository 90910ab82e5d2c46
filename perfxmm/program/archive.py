"""Keeps the sampled binaries beside a recording, so that it can be read on another machine.

The archive of `app.perf.data` is the directory `app.perf.data.archive`, laid out as perf's own
cache (`.build-id/ab/cdef.../elf`): `binaries.Places.archives` takes it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from perfxmm.errors import OutputError
from perfxmm.program.binaries import Binaries

_MODE = 0o600


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
            raise OutputError(
                "the archive cannot be written", where=str(target), why=error.strerror or "",
                next_step="The recording itself is complete; archive it again with room and "
                "permission to write beside it.",
            ) from error
        kept += 1
    return kept, missing


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
