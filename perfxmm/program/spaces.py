"""Address spaces over time: what was mapped where, at the time of a sample.

A space is a log of changes (map a range, clear everything). For lookups the log becomes sorted
arrays: addresses are cut into segments at every start and end that ever occurred, and each
segment has its own list of (time, mapping). A lookup is then two binary searches, for any number
of samples at once and at any time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

NOT_MAPPED = -1
ADDRESS_END = (1 << 64) - 1


class Piece(NamedTuple):
    """A part of a mapping that is in force: addresses [start, end)."""

    start: int
    end: int
    mapping: int


class _Index(NamedTuple):
    """bounds: uint64 [s + 1]. times: uint64 [t], distinct. keys: int64, sorted: segment and rank
    of the time in one number. mappings: int64, in the order of keys."""

    bounds: U64
    times: U64
    keys: I64
    mappings: I64


@dataclass
class AddressSpace:
    """One process's mappings; changes are fed in time order.

    floor_ns: nothing may be inserted before this time any more.
    leader_gone: the thread that gives the process its id has exited, so a later sign of life of
        that id is another process.
    """

    floor_ns: int = 0
    leader_gone: bool = False
    _pieces: list[Piece] = field(default_factory=list)
    _changes: list[tuple[int, int, int, int]] = field(default_factory=list)
    _index: _Index | None = None

    def map(self, time_ns: int, start: int, end: int, mapping: int) -> None:
        """Maps [start, end) from `time_ns` on; what lay there before is cut away."""
        if end <= start:
            return
        self._cut(start, end)
        self._pieces.insert(bisect_left(self._pieces, (start,)), Piece(start, end, mapping))
        self._changes.append((time_ns, start, end, mapping))
        self._index = None

    def clear(self, time_ns: int) -> None:
        """Nothing is mapped from `time_ns` on (exec, or another process took the id)."""
        if self._pieces:
            self._pieces.clear()
            self._changes.append((time_ns, 0, ADDRESS_END, NOT_MAPPED))
            self._index = None

    def copy_from(self, time_ns: int, parent: AddressSpace) -> None:
        """fork: the parent's mappings as they are now, and none of its own from before."""
        pieces = list(parent._pieces)
        self.clear(time_ns)
        for piece in pieces:
            self.map(time_ns, *piece)

    def lookup(self, time_ns: U64, addresses: U64) -> I64:
        """Mapping in force at each time for each address, NOT_MAPPED where there is none."""
        if not self._changes:
            return np.full(len(addresses), NOT_MAPPED, np.int64)
        if self._index is None:
            self._index = _indexed(self._changes)
        bounds, times, keys, mappings = self._index
        segment = np.searchsorted(bounds, addresses, side="right").astype(np.int64) - 1
        outside = (segment < 0) | (segment >= len(bounds) - 1)
        rank = np.searchsorted(times, time_ns, side="right").astype(np.int64)
        width = len(times) + 1
        position = np.searchsorted(keys, segment * width + rank, side="right").astype(np.int64) - 1
        # The entry found belongs to an earlier segment where this one has none so early.
        known = ~outside & (position >= 0)
        known[known] = keys[position[known]] // width == segment[known]
        return np.where(known, mappings[np.maximum(position, 0)], NOT_MAPPED)

    def _cut(self, start: int, end: int) -> None:
        """Removes [start, end) from the pieces in force."""
        first = bisect_right(self._pieces, (start,)) - 1
        if first < 0 or self._pieces[first].end <= start:
            first += 1
        last = first
        kept = []
        while last < len(self._pieces) and self._pieces[last].start < end:
            piece = self._pieces[last]
            if piece.start < start:
                kept.append(piece._replace(end=start))
            if piece.end > end:
                kept.append(piece._replace(start=end))
            last += 1
        self._pieces[first:last] = kept


def _indexed(changes: list[tuple[int, int, int, int]]) -> _Index:
    edges = {edge for _, start, end, mapping in changes if mapping != NOT_MAPPED
             for edge in (start, end)}
    # Not np.unique: it imports numpy.ma, at a cost of some milliseconds.
    bounds = np.array(sorted(edges), np.uint64)
    times = np.array(sorted({change[0] for change in changes}), np.uint64)
    width = len(times) + 1
    ranks = np.searchsorted(times, np.array([change[0] for change in changes], np.uint64)) + 1
    first = np.searchsorted(bounds, np.array([change[1] for change in changes], np.uint64))
    last = np.searchsorted(bounds, np.array([change[2] for change in changes], np.uint64))

    current = np.full(max(1, len(bounds)), NOT_MAPPED, np.int64)
    keys, mappings = [], []
    for (_, _, _, mapping), rank, low, high in zip(
        changes, ranks.tolist(), first.tolist(), last.tolist(), strict=True,
    ):
        if mapping == NOT_MAPPED:
            touched = np.flatnonzero(current != NOT_MAPPED)
        else:
            touched = np.arange(low, high)
        current[touched] = mapping
        keys.append(touched * width + rank)
        mappings.append(np.full(len(touched), mapping, np.int64))
    all_keys = np.concatenate(keys)
    # Stable: of two changes at one time the later one is found.
    order = np.argsort(all_keys, kind="stable")
    return _Index(bounds, times, all_keys[order], np.concatenate(mappings)[order])
