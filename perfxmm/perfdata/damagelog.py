"""Damage told once, however often a file is read, and counted to the end in bounded memory."""

from __future__ import annotations

from perfxmm.perfdata.blocks import Damage

MOST_LISTED = 1000
_MOST_REMEMBERED = 1 << 16


class DamageLog:
    """listed: the first MOST_LISTED places, in the order in which they were told. count: all.

    What is told again is not counted again: the first 65,536 places are remembered one by one. Of
    what comes later only places behind all that were counted before are new, as they are in a pass
    from the beginning of a file to its end.
    """

    def __init__(self) -> None:
        self.listed: list[Damage] = []
        self.count = 0
        self._known: set[int] = set()
        self._furthest = -1

    def add(self, damage: Damage) -> None:
        mark = hash(damage)
        if mark in self._known:
            return
        if len(self._known) < _MOST_REMEMBERED:
            self._known.add(mark)
        elif damage.offset <= self._furthest:
            return
        self._furthest = max(self._furthest, damage.offset)
        self.count += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(damage)
