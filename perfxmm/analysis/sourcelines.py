"""Which source line each sample is of, and which functions were inlined there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.coherence.model import SnapshotBatch
from perfxmm.program.lines import Found, Frame, Frames, Lines
from perfxmm.program.timeline import Timeline

# Objects that are named in a note before it says how many more there are.
_NAMED = 4

# What a batch's IPs are of; analysis.report takes it.
LinesOf = Callable[[SnapshotBatch], Found]


class SourceLines:
    """Questions about source lines, answered once per address."""

    def __init__(self, timeline: Timeline, lines: Lines | None = None) -> None:
        self._timeline = timeline
        self._lines = lines or Lines(timeline.binaries)

    def of(self, batch: SnapshotBatch) -> Found:
        """Frames at each sample's attributed IP."""
        if batch.dso is None or CODE_OFFSET not in batch.extra:
            return Found(np.zeros(len(batch), np.intp), [()])
        return self.at(batch.dso, batch.extra[CODE_OFFSET])

    def at(self, dso: npt.NDArray[np.int32], offset: npt.NDArray[np.uint64]) -> Found:
        """Frames at places given by DSO index (-1: none) and file offset."""
        return self._lines.look_up(dso, offset)

    @property
    def notes(self) -> list[str]:
        """Of which objects no source lines are known, a line per reason."""
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        for index, why in sorted(self._lines.notes.items()):
            reasons[why].append(self._timeline.dsos[index].path.rsplit("/", 1)[-1])
        notes = []
        for why, names in reasons.items():
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            notes.append(f"no source lines for {', '.join(names[:_NAMED])}{more}: {why}")
        return notes


def place_of(frame: Frame) -> str:
    """`FILE:LINE` with the last part of the file's path, as perf prints it; `?` for no line."""
    return f"{frame.file.rsplit('/', 1)[-1] or '??'}:{frame.line or '?'}"


__all__ = ["Found", "Frame", "Frames", "LinesOf", "SourceLines", "place_of"]
