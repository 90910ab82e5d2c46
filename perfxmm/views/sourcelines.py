"""Source lines and inlined functions below a line of text, as perf script prints them.

A line's place stands below it, indented by two blanks. Functions that were inlined at an address
stand above the function that has it, innermost first, each marked `(inlined)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text
from perfxmm.analysis.names import CODE_OFFSET
from perfxmm.analysis.sourcelines import Found, Frame, Frames, place_of
from perfxmm.coherence.model import SnapshotBatch
from perfxmm.views.escape import escape_control

U8 = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]


class Source(Protocol):
    """What analysis.sourcelines.SourceLines knows, and a test can say."""

    def of(self, batch: SnapshotBatch) -> Found: ...

    def at(self, dso: npt.NDArray[np.int32], offset: npt.NDArray[np.uint64]) -> Found: ...


@dataclass(slots=True)
class SourceText:
    """srcline, inline: what to print. dso_name: text of a DSO by its index."""

    source: Source
    srcline: bool
    inline: bool
    dso_name: Callable[[int], bytes]
    _places: dict[Frame, bytes] = field(init=False, default_factory=dict)

    def below(
        self, batch: SnapshotBatch, ip: npt.NDArray[np.uint64],
        entry: Callable[[int, int], bytes],
    ) -> Callable[[Rows], U8]:
        """What goes below the lines of samples, for any rows of the batch.

        ip: attributed, uint64 [n]. entry: of row and address, the line of the function there.
        """
        found = self.source.of(batch)
        dso_of = np.full(len(ip), -1, np.int64) if batch.dso is None else batch.dso.astype(np.int64)
        # Places that are not known have one number, and each its own text all the same.
        _, key = np.unique(ip, return_inverse=True)
        key = key.reshape(-1).astype(np.int64) * (int(dso_of.max(initial=-1)) + 2) + dso_of + 1
        key = key * len(found.frames) + found.number
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        offset = batch.extra.get(CODE_OFFSET, ip)
        texts = []
        for row in first.tolist():
            frames = found.frames[int(found.number[row])]
            dso = int(dso_of[row])
            block = self._place(frames[0] if frames else None, dso, int(offset[row]))
            if self.inline and len(frames) > 1:
                at = int(ip[row])
                block += self.expanded(frames, at, entry(row, at), dso, int(offset[row]))
            texts.append(block)
        numbers = inverse.reshape(-1)
        return lambda rows: text.choose(texts, numbers[rows])

    def expanded(self, frames: Frames, address: int, entry: bytes, dso: int, offset: int) -> bytes:
        """`entry`, the line of a function at an address, with what goes above and below it."""
        if not self.inline or len(frames) < 2:
            return entry + self._place(frames[0] if frames else None, dso, offset)
        lines = []
        for frame in frames[:-1]:
            name = _bytes(frame.function) or b"[unknown]"
            lines += [b"\t%16x %s (inlined)\n" % (address, name), self._place(frame, dso, offset)]
        return b"".join([*lines, entry, self._place(frames[-1], dso, offset)])

    def _place(self, frame: Frame | None, dso: int, offset: int) -> bytes:
        """The line of a frame; object and offset where none is known, as perf prints that."""
        if not self.srcline:
            return b""
        if frame is None:
            if dso < 0:
                return b""
            name = self.dso_name(dso).rsplit(b"/", 1)[-1]
            # The kernel's offsets are addresses, and its name has brackets of its own.
            return b"  %s[%x]\n" % (name, offset)
        found = self._places.get(frame)
        if found is None:
            found = self._places[frame] = b"  " + _bytes(place_of(frame)) + b"\n"
        return found


def _bytes(name: str) -> bytes:
    return escape_control(name).encode("utf-8", "backslashreplace")
