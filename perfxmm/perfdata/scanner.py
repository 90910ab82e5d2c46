"""Finding the records of a data section, in bounded blocks and without a Python object for each.

Records first, decoding by plan second: this module knows headers and nothing of what is in a
record, except that two types have payload outside header.size.

Most recordings are long runs of equal-sized samples. Such a run is proven by one strided
comparison of the size fields (each header is where the one before says, so equality of all is
proof by induction). Where sizes vary many walks go on at once, see `lanes`; what is left, and
whatever is short or strange, is walked one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    HEADER_BYTES,
    I64,
    U8,
    U64,
    Damage,
    RecordBlock,
    block_of,
    gather_u64,
)
from perfxmm.perfdata.lanes import Kinds, kinds_of, walk_lanes

# The next records are looked for in stretches of at most so many, and of about so many bytes.
_AHEAD_RECORDS = 65_536
_AHEAD_BYTES = 4 * 1024 * 1024

_RUN_PROBE = 16  # shorter runs are walked: a numpy call costs about as much as 20 steps
_RUN_GROWTH = 8
_WALK_LEAST, _WALK_MOST = 32, 4096
# After so many stretches of less than this many records sizes are taken to vary: lanes come
# first then, and only a run longer than that is taken for one.
_SHORT_STRETCHES, _SHORT_RECORDS = 4, 1024
_MAX_RECORD_BYTES = 1 << 16
# The latest headers from which lanes learn what to look for.
_LEARN_RECORDS = 2048
# Their payload lies behind header.size: tools/perf/util/session.c, Linux 7.3.
_WITH_PAYLOAD = (np.uint64(RecordType.HEADER_TRACING_DATA), np.uint64(RecordType.AUXTRACE))
_PAYLOAD_TYPES = (int(_WITH_PAYLOAD[0]), int(_WITH_PAYLOAD[1]))
_TYPE = np.uint64(0xFFFFFFFF)


def scan(
    data: U8, start: int, end: int, *, report: Callable[[Damage], None],
    release: Callable[[int, int], None] | None = None,
    block_records: int = BLOCK_RECORDS, block_bytes: int = BLOCK_BYTES,
) -> Iterator[RecordBlock]:  # fmt: skip
    """Blocks of the records in data[start:end], in file order.

    Stops at the first header that cannot be one and at a last record that is cut short; `report`
    gets each such place. release(lo, hi) is called when the consumer is done with a block's
    bytes.
    """
    scanner = _Scanner(data, end, report)
    position = first = start
    # Found but not yet in a block: stretches are as long as it pays, blocks as long as asked for.
    offsets, headers = np.empty(0, np.int64), np.empty(0, np.uint64)
    while True:
        parts = [(offsets, headers)]
        count = len(offsets)
        while (
            count < block_records and position < end and position - first < block_bytes
            and not scanner.stopped
        ):  # fmt: skip
            found, words, position = scanner.stretch(position, _AHEAD_RECORDS, _AHEAD_BYTES)
            parts.append((found, words))
            count += len(found)
        if not count:
            return
        if len(parts) > 1:
            offsets, headers = (np.concatenate(column) for column in zip(*parts, strict=True))
        taken = min(count, block_records)
        if int(offsets[taken - 1]) - first >= block_bytes:
            taken = max(1, int(np.searchsorted(offsets, first + block_bytes)))
        last = int(offsets[taken - 1]) + int(headers[taken - 1] >> np.uint64(48))
        yield block_of(data, offsets[:taken], headers[:taken], first, last)
        offsets, headers = offsets[taken:], headers[taken:]
        behind = int(offsets[0]) if len(offsets) else position
        if release is not None:
            release(first, behind)
        first = behind

class RecordEnds:
    """Finds where complete records end in one buffer after another of the same recording."""

    def __init__(self) -> None:
        self._learned: tuple[int, Kinds | None] = 0, None

    def last(self, data: U8) -> int:
        """Where the last complete record of `data`, which begins with one, ends.

        What follows is the beginning of a record: less than 64 KiB, or a header whose size is
        below 8. Payload outside header.size is not looked for.
        """
        scanner = _Scanner(data, len(data), lambda damage: None, payloads=False)
        scanner.learned = self._learned
        position = 0
        while not scanner.stopped:
            _, _, position = scanner.stretch(position, _AHEAD_RECORDS, _AHEAD_BYTES)
        self._learned = scanner.learned
        return position


class _Scanner:
    """Stretches of records, by run or by walk. `stopped`: there is nothing to read behind.

    payloads: whether some types have payload outside header.size.
    """

    def __init__(
        self, data: U8, end: int, report: Callable[[Damage], None], *, payloads: bool = True
    ) -> None:
        self._payloads = payloads
        self._data = data
        self._end = end
        self._report = report
        self._walk = _WALK_LEAST
        self._most = _AHEAD_RECORDS
        self._short = 0
        self._kinds: Kinds | None = None
        # Lanes are not tried before here: they got nowhere.
        self._lanes_from = 0
        # Lanes need aligned words; a view of unaligned ones would be copied whole.
        self._words: U64 | None = None
        if data.ctypes.data % 8 == 0:
            self._words = data[: end // 8 * 8].view("<u8")
        self.stopped = False
        # Size fields are u16; one view for records at even offsets and one for the odd ones that
        # only a damaged or foreign file has.
        raw = data[:end].data
        self._halves = [
            raw[odd : odd + (end - odd) // 2 * 2].cast("H") if end > odd else raw[:0].cast("H")
            for odd in (0, 1)
        ]

    @property
    def learned(self) -> tuple[int, Kinds | None]:
        """What to expect, for a scanner of the same recording."""
        return self._short, self._kinds

    @learned.setter
    def learned(self, learned: tuple[int, Kinds | None]) -> None:
        self._short, self._kinds = learned

    def stretch(self, position: int, most: int, room: int) -> tuple[I64, U64, int]:
        """(file offsets of the next records, their header words, where to go on).

        At most `most` records, and about `room` bytes. Empty at the end of the data.
        """
        if self._end - position < HEADER_BYTES:
            if position < self._end:
                self._report(Damage(position, f"{self._end - position} stray bytes at the end"))
            self.stopped = True
            return np.empty(0, np.int64), np.empty(0, np.uint64), position
        size = self._size(position)
        headers = lanes = None
        damage: Damage | None = None
        most = min(most, self._most)
        self._most = min(self._most * _RUN_GROWTH, _AHEAD_RECORDS)
        if size >= HEADER_BYTES:
            headers = self._run(position, size, min(most, room // size + 1))
        if headers is None:
            lanes = self._lanes(position, most, room)
        if headers is not None:
            self._walk = _WALK_LEAST
            offsets = position + size * np.arange(len(headers), dtype=np.int64)
            after = position + size * len(headers)
        elif lanes is not None:
            offsets, headers, after = lanes
        else:
            offsets, after, damage = self._steps(position, min(most, self._walk))
            headers = gather_u64(self._data, offsets)
            self._walk = min(self._walk * 2, _WALK_MOST)
        self._learn(headers)
        strange = self._strange(headers)
        if len(strange):
            count = int(strange[0])
            found, after, damage = self._with_payload(int(offsets[count]))
            offsets = np.concatenate([offsets[:count], np.array(found, np.int64)])
            headers = gather_u64(self._data, offsets)
            # What was found behind the first of them was for nothing.
            self._walk = self._most = _WALK_LEAST
        if damage:
            self._report(damage)
            self.stopped = True
        return offsets, headers, after

    def _strange(self, headers: U64) -> I64:
        if not self._payloads:
            return np.empty(0, np.int64)
        types = headers & _TYPE
        return np.flatnonzero((types == _WITH_PAYLOAD[0]) | (types == _WITH_PAYLOAD[1]))

    def _size(self, position: int) -> int:
        odd = position & 1
        return self._halves[odd][((position - odd) >> 1) + 3]

    def _run(self, position: int, size: int, most: int) -> U64 | None:
        """Header words of the complete records from here that all have this size.

        Up to `most`; None where they are too few to be worth it.
        """
        room = min(most, (self._end - position) // size)
        if room < _RUN_PROBE:
            return None
        headers: U64 = np.ndarray(room, "<u8", self._data, position, (size,))
        proven, probe = 0, _RUN_PROBE
        while proven < room:
            same = headers[proven : proven + probe] >> np.uint64(48) == np.uint64(size)
            if not same.all():
                proven += int(same.argmin())
                break
            proven += len(same)
            probe *= _RUN_GROWTH
        least = _SHORT_RECORDS if self._varied else _RUN_PROBE
        return headers[:proven] if proven >= least else None

    @property
    def _varied(self) -> bool:
        return self._short >= _SHORT_STRETCHES

    def _learn(self, headers: U64) -> None:
        if len(headers) >= _SHORT_RECORDS:
            # A long stretch of any kind; only a run says that the varied part is over.
            if self._kinds is None or not self._varied:
                self._short = 0
        elif len(headers) >= _RUN_PROBE:
            self._short += 1
        if self._varied and len(headers):
            self._kinds = kinds_of(headers[-_LEARN_RECORDS:])

    def _lanes(self, position: int, most: int, room: int) -> tuple[I64, U64, int] | None:
        """As `stretch`, by lanes; None where they would not pay."""
        kinds, words = self._kinds, self._words
        if kinds is None or words is None or position & 7 or position < self._lanes_from:
            return None
        first = position >> 3
        span = min(room >> 3, int(most * kinds.mean_words))
        last = min(first + span, (self._end - _MAX_RECORD_BYTES) >> 3)
        found, headers, after = walk_lanes(words, first, last, kinds)
        if 8 * len(found) * kinds.mean_words < span:
            # Guesses failed early, or the stretch was short: go on one by one for a while.
            self._lanes_from = after * 8 + _WALK_MOST * 8
            if not len(found):
                return None
        if len(found) > most:
            after = int(found[most])
            found, headers = found[:most], headers[:most]
        return found << 3, headers, after << 3

    def _steps(self, position: int, most: int) -> tuple[I64, int, Damage | None]:
        found: list[int] = []
        append = found.append
        end = self._end
        odd = position & 1
        halves = self._halves[odd]
        # In half-words; the last header must fit before `last`.
        at, last = (position - odd) >> 1, (end - odd - HEADER_BYTES) >> 1
        damage = None
        size = HEADER_BYTES
        for _ in range(most):
            if at > last:
                break
            size = halves[at + 3]
            append(at)
            at += size >> 1
            if size < HEADER_BYTES or size & 1:
                break
        offsets = np.array(found, dtype=np.int64) * 2 + odd
        if size & 1 and size > HEADER_BYTES:
            more, size = self._odd_steps(int(offsets[-1]) + size, size, most - len(found))
            offsets = np.concatenate([offsets, np.array(more, np.int64)])
        begun = int(offsets[-1])
        after = begun + size
        if size < HEADER_BYTES:
            damage = Damage(
                begun, f"record of size {size}; {end - begun} bytes from here on are not read"
            )
        elif after > end:
            damage = Damage(begun, f"the last record is cut short: {end - begun} of {size} bytes")
        if damage:
            return offsets[:-1], begun, damage
        return offsets, after, None

    def _odd_steps(self, at: int, size: int, most: int) -> tuple[list[int], int]:
        """As `_steps`, byte by byte, behind a record of an odd `size`; with the last one's size."""
        found: list[int] = []
        raw, last = self._data.data, self._end - HEADER_BYTES
        while at <= last and len(found) < most:
            size = raw[at + 6] | raw[at + 7] << 8
            found.append(at)
            at += size
            if size < HEADER_BYTES:
                break
        return found, size

    def _with_payload(self, position: int) -> tuple[list[int], int, Damage | None]:
        """Records with payload from here on, one behind the other, as `_steps`."""
        found: list[int] = []
        end = self._end - HEADER_BYTES
        while position <= end and len(found) < _WALK_MOST:
            if int.from_bytes(self._data[position : position + 4], "little") not in _PAYLOAD_TYPES:
                break
            after, damage = self._behind_payload(position)
            if damage:
                return found, position, damage
            found.append(position)
            position = after
        return found, position, None

    def _behind_payload(self, position: int) -> tuple[int, Damage | None]:
        size = self._size(position)
        kind = int(self._data[position])
        wide = 8 if kind == RecordType.AUXTRACE else 4
        if size < HEADER_BYTES + wide:
            return position, Damage(position, f"record type {kind} is too short for its payload")
        raw = self._data[position + 8 : position + 8 + wide].tobytes()
        payload = int.from_bytes(raw, "little")
        if kind == RecordType.HEADER_TRACING_DATA:
            payload += -payload % 8
        after = position + size + payload
        if after > self._end:
            have = self._end - position - size
            return position, Damage(
                position, f"payload of record type {kind} is cut short: {have} of {payload} bytes"
            )
        return after, None
