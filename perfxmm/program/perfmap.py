"""Reads a perf map: the functions that a program made, as it wrote them into a file for perf.

Layout: tools/perf/Documentation/jit-interface.txt, Linux 6.1: lines of "START SIZE name", numbers
in hexadecimal without 0x, the rest of the line is the name. Lines that are not like this are left
out. The file only grows, so of functions that overlap the one written last is the one that lies
there now.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_BYTES = 64 << 20
MOST_LINES = 1 << 18
MOST_NAME_BYTES = 4096
_LINE = re.compile(rb"^(?:0[xX])?([0-9a-fA-F]{1,16})[ \t]+(?:0[xX])?([0-9a-fA-F]{1,16})[ \t]+"
                   rb"([^\r\n]+)", re.MULTILINE)
_ADDRESSES = 1 << 64


class Function(NamedTuple):
    start: int
    end: int
    name: str


def parse(text: bytes) -> list[Function]:
    """Functions in the order of the file; at most MOST_LINES, the last ones."""
    found = []
    for match in _LINE.finditer(text):
        start, size = int(match[1], 16), int(match[2], 16)
        if size and start + size < _ADDRESSES:
            name = match[3][:MOST_NAME_BYTES].decode("utf-8", "backslashreplace")
            found.append(Function(start, start + size, name))
    return found[-MOST_LINES:]


class Layer(NamedTuple):
    """Addresses [start, end) belong to the entry `owner`; `contested`: other entries of another
    name have been there too."""

    start: int
    end: int
    owner: int
    contested: bool


def layers(spans: Sequence[tuple[int, int]], names: Sequence[object]) -> list[Layer]:
    """Who has which addresses, where of overlapping entries [start, end) the last one wins.

    names: one per entry; entries of one name do not contest each other. Layers are sorted and do
    not overlap. O(n log n) for n entries.
    """
    events = sorted(
        [(start, 1, number) for number, (start, _) in enumerate(spans)]
        + [(end, 0, number) for number, (_, end) in enumerate(spans)]
    )
    open_: dict[object, int] = {}
    heap: list[int] = []
    out: list[Layer] = []
    before = 0
    for at, begins, number in events:
        while heap and spans[-heap[0]][1] <= before:
            heapq.heappop(heap)
        if at > before and heap:
            owner, contested = -heap[0], len(open_) > 1
            if out and out[-1][1:] == (before, owner, contested):
                out[-1] = out[-1]._replace(end=at)
            else:
                out.append(Layer(before, at, owner, contested))
        before = at
        name = names[number]
        if begins:
            heapq.heappush(heap, -number)
            open_[name] = open_.get(name, 0) + 1
        elif open_[name] == 1:
            del open_[name]
        else:
            open_[name] -= 1
    return out
