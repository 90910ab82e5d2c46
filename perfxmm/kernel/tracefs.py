"""Tracepoints: where tracefs is mounted, and the ids it gives."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from perfxmm.errors import NotSupported, PermissionDenied, UsageError

# Documentation/trace/ftrace.rst: the place of its own since 4.1, the one below debugfs before.
PLACES = ("kernel/tracing", "kernel/debug/tracing")


def find_tracefs(sysfs: Path = Path("/sys")) -> Path:
    """The directory that holds `events/`.

    Raises PermissionDenied where it is there but closed to us, NotSupported where it is not.
    """
    refused: Path | None = None
    for place in PLACES:
        root = sysfs / place
        try:
            if next((root / "events").iterdir(), None) is not None:
                return root
        except PermissionError:
            refused = root
        except OSError:
            continue
    if refused is not None:
        raise _closed(refused)
    raise NotSupported(
        "tracepoints need tracefs, which is not mounted", where=str(sysfs / PLACES[0]),
        next_step="mount it: sudo mount -t tracefs tracefs /sys/kernel/tracing",
    )


def tracepoint_id(root: Path, system: str, name: str) -> int | None:
    """The id for perf_event_attr.config, or None where there is no such tracepoint.

    root: as `find_tracefs` gives it. Raises PermissionDenied, or UsageError for names that would
    leave the directory.
    """
    for part in (system, name):
        if not part or "/" in part or part in (".", ".."):
            raise UsageError(f"{system}:{name} is not the name of a tracepoint")
    path = root / "events" / system / name / "id"
    try:
        return int(path.read_text())
    except PermissionError:
        raise _closed(root) from None
    except (OSError, ValueError):
        return None


def read_event_file(root: Path, place: str) -> bytes | None:
    """The bytes of a file below events/, None where it is not there. Raises PermissionDenied.

    root: as `find_tracefs` gives it.
    """
    try:
        return (root / "events" / place).read_bytes()
    except PermissionError:
        raise _closed(root) from None
    except OSError:
        return None


def tracepoints(root: Path) -> Iterator[str]:
    """Every "system:name", sorted."""
    events = root / "events"
    for system in sorted(_directories(events)):
        for name in sorted(_directories(events / system)):
            # ftrace's own events have a format but no id that perf could open.
            if (events / system / name / "id").exists():
                yield f"{system}:{name}"


def _directories(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _closed(root: Path) -> PermissionDenied:
    return PermissionDenied(
        "tracepoints cannot be looked up", call="open", errno=errno.EACCES, where=str(root),
        why="tracefs is closed to this user",
        next_step="let one group read it: sudo mount -o remount,mode=750,gid=$(id -g) " f"{root}",
    )
