"""Address spaces: what is mapped now, and what was mapped where at the time of a sample.

`Pieces` is a space at one moment. `SpaceLog` is a space over time, a log of changes (map a range,
clear everything). For lookups the log becomes sorted arrays: addresses are cut into segments at
every start and end that occurs in it, and each segment has its own list of (time, mapping). A
lookup is then two binary searches, for any number of samples at once and at any time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

NOT_MAPPED = -1
ADDRESS_END = (1 << 64) - 1
# (segment, time) entries of one space's index, 16 bytes each. Where mappings overlap so much that
# there would be more, the oldest changes are left out: what they said is unknown then.
MOST_ENTRIES = 1 << 21


class Piece(NamedTuple):
    """A part of a mapping that is in force: addresses [start, end), since some time."""

    start: int
    end: int
    mapping: int
    since_ns: int


class Change(NamedTuple):
    """[start, end) belongs to `mapping` from a time on; NOT_MAPPED: to nothing."""

    time_ns: int
    start: int
    end: int
    mapping: int


class Pieces:
    """A space at one moment: pieces that do not overlap, by address."""

    __slots__ = ("rows",)

    def __init__(self, rows: Iterable[Piece] = ()) -> None:
        self.rows: list[Piece] = list(rows)

    def map(self, time_ns: int, start: int, end: int, mapping: int) -> bool:
        """Maps [start, end); what lay there is cut away. False where that changes nothing."""
        if end <= start:
            return False
        at = bisect_left(self.rows, (start,))
        if at < len(self.rows) and self.rows[at][:3] == (start, end, mapping):
            return False
        self._cut(start, end)
        if mapping != NOT_MAPPED:
            at = bisect_left(self.rows, (start,))
            self.rows.insert(at, Piece(start, end, mapping, time_ns))
        return True

    def _cut(self, start: int, end: int) -> None:
        """Removes [start, end)."""
        first = bisect_right(self.rows, (start,)) - 1
        if first < 0 or self.rows[first].end <= start:
            first += 1
        last = first
        kept = []
        while last < len(self.rows) and self.rows[last].start < end:
            piece = self.rows[last]
            if piece.start < start:
                kept.append(piece._replace(end=start))
            if piece.end > end:
                kept.append(piece._replace(start=end))
            last += 1
        self.rows[first:last] = kept


class _Index(NamedTuple):
    """bounds: uint64 [s + 1]. times: uint64 [t], distinct. keys: int64, sorted: segment and rank
    of the time in one number. mappings: int64, in the order of keys."""

    bounds: U64
    times: U64
    keys: I64
    mappings: I64


class SpaceLog:
    """A space over time. Changes are added in time order."""

    __slots__ = ("_changes", "_index")

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._index: _Index | None = None

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: Change) -> None:
        self._changes.append(change)
        self._index = None

    def extend(self, changes: Iterable[Change]) -> None:
        self._changes.extend(changes)
        self._index = None

    def mappings(self) -> set[int]:
        """The mappings that lookups may give."""
        return {change.mapping for change in self._changes}

    def forget(self, before_ns: int, pieces: Sequence[Piece]) -> None:
        """Drops changes before a time. pieces: what was in force then.

        Of an earlier time only that is known afterwards which was still in force.
        """
        first = bisect_left(self._changes, (before_ns,))
        if first <= len(pieces):
            return
        self._changes[:first] = [
            Change(piece.since_ns, piece.start, piece.end, piece.mapping) for piece in pieces
        ]
        self._index = None

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


def _indexed(changes: Sequence[Change]) -> _Index:
    time_ns, start, end = (
        np.array([change[field] for change in changes], np.uint64) for field in range(3)
    )
    mapping = np.array([change.mapping for change in changes], np.int64)
    everything = (start == 0) & (end == np.uint64(ADDRESS_END)) & (mapping == NOT_MAPPED)
    # Not np.unique: it imports numpy.ma, at a cost of some milliseconds.
    bounds = _distinct(np.concatenate((start[~everything], end[~everything])))
    times = _distinct(time_ns)
    width = len(times) + 1
    rank = np.searchsorted(times, time_ns).astype(np.int64) + 1
    low = np.where(everything, 0, np.searchsorted(bounds, start)).astype(np.int64)
    high = np.where(
        everything, max(0, len(bounds) - 1), np.searchsorted(bounds, end)
    ).astype(np.int64)

    count = high - low
    newer = np.cumsum(count[::-1])[::-1]
    kept = newer <= MOST_ENTRIES
    low, count, rank, mapping = low[kept], count[kept], rank[kept], mapping[kept]
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    keys = (low[owner] + within) * width + rank[owner]
    # Stable: of two changes at one time the later one is found.
    order = np.argsort(keys, kind="stable")
    return _Index(bounds, times, keys[order], mapping[owner][order])


def _distinct(values: U64) -> U64:
    values = np.sort(values)
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return values[first]
