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
import numpy.typing as npt

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
from perfxmm.perfdata.resync import (
    CHAIN,
    PAYLOAD_TYPES,
    UNEVEN_TYPES,
    Resync,
    like_header,
    oversized,
)

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
_TYPE = np.uint64(0xFFFFFFFF)
_LAST = "the last record is cut short"
# Bits of a header of which a record of the kernel, up to type 63, has none.
_WEIRD = 7 << 48 | 0xFFFFFFC0
# Types from here on are not likely ever to exist.
_MOST_LIKELY_TYPE = np.uint64(128)
_NO_LIMIT = 1 << 16
# So often a record before damage is looked into; it costs more than finding what is behind.
_MOST_BLAMES = 1000


def _doubtful(words: U64) -> npt.NDArray[np.bool_]:
    """bool [n]: headers of types that are none, or of a size that no record of the type has."""
    types = words & _TYPE
    uneven = (words >> np.uint64(48) & np.uint64(7)) != 0
    for kind in UNEVEN_TYPES:
        uneven &= types != np.uint64(kind)
    found: npt.NDArray[np.bool_] = (types >= _MOST_LIKELY_TYPE) | (types == 0) | uneven
    return found | oversized(words)


def scan(
    data: U8, start: int, end: int, *, report: Callable[[Damage], None],
    release: Callable[[int, int], None] | None = None, most_sample_bytes: int | None = None,
    block_records: int = BLOCK_RECORDS, block_bytes: int = BLOCK_BYTES,
) -> Iterator[RecordBlock]:  # fmt: skip
    """Blocks of the records in data[start:end], in file order.

    Goes on behind headers that cannot be one where it finds records again (see `resync`); `report`
    gets each such place, with the bytes that are passed over, and a last record that is cut short.
    release(lo, hi) is called when the consumer is done with a block's bytes. most_sample_bytes: no
    sample of the recording is longer; None where that is not known.
    """
    scanner = _Scanner(data, end, report, most_sample_bytes=most_sample_bytes)
    position = first = start
    # Found but not yet in a block: stretches are as long as it pays, blocks as long as asked for.
    offsets, headers = np.empty(0, np.int64), np.empty(0, np.uint64)
    while True:
        parts = [(offsets, headers)]
        count = len(offsets)
        while (
            count < block_records and position < end
            and (position - first < block_bytes or not count) and not scanner.stopped
        ):  # fmt: skip
            found, words, position = scanner.stretch(position, _AHEAD_RECORDS, _AHEAD_BYTES)
            parts.append((found, words))
            count += len(found)
        if not count:
            return
        if len(parts) > 1:
            offsets, headers = (np.concatenate(column) for column in zip(*parts, strict=True))
        begin = int(offsets[0])
        taken = min(count, block_records)
        if int(offsets[taken - 1]) - begin >= block_bytes:
            taken = max(1, int(np.searchsorted(offsets, begin + block_bytes)))
        last = int(offsets[taken - 1]) + int(headers[taken - 1] >> np.uint64(48))
        yield block_of(data, offsets[:taken], headers[:taken], begin, last)
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
        scanner = _Scanner(data, len(data), lambda damage: None, payloads=False, whole=False)
        scanner.learned = self._learned
        position = 0
        while not scanner.stopped:
            _, _, position = scanner.stretch(position, _AHEAD_RECORDS, _AHEAD_BYTES)
        self._learned = scanner.learned
        return position


class _Scanner:
    """Stretches of records, by run or by walk. `stopped`: there is nothing to read behind.

    payloads: whether some types have payload outside header.size. whole: data[:end] are all there
    is; else nothing is doubted, and it stops at the first header that cannot be one.
    """

    def __init__(
        self, data: U8, end: int, report: Callable[[Damage], None], *, payloads: bool = True,
        whole: bool = True, most_sample_bytes: int | None = None,
    ) -> None:
        # From here on a header's word is that of a record that is too long for a sample.
        self._too_long = (_NO_LIMIT if most_sample_bytes is None else most_sample_bytes + 1) << 48
        self._payloads = payloads
        self._whole = whole
        self._resync = Resync(data, end, payloads=payloads)
        # Doubtful headers before here have been looked at.
        self._trusted = 0
        self._blames = 0
        self._step = 8  # records have begun at other places, too: 1
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
        if len(headers) and self._any_weird(headers):
            weird = (headers & np.uint64(_WEIRD) != 0) | (headers & _TYPE == 0) | oversized(headers)
            if self._too_long < 1 << 64:
                weird |= headers >= np.uint64(self._too_long)
            offsets, headers, after, damage = self._look_closer(
                offsets, headers, after, damage, np.flatnonzero(weird)
            )
        if damage is None and self._whole and self._doubtful(after):
            damage = self._damage_at(after)
        if damage is not None:
            return self._go_on(offsets, headers, damage)
        return offsets, headers, after

    def _any_weird(self, headers: U64) -> bool:
        if int(np.bitwise_or.reduce(headers)) & _WEIRD:
            return True
        # Of a run, which is a view of the file, the first tells: all are of one size.
        some = headers if headers.flags.c_contiguous else headers[:1]
        if self._too_long < 1 << 64 and int(some.max()) >= self._too_long:
            return True
        # Type 0 is none; floating-point numbers look like it.
        return not bool((some & _TYPE).all()) or bool(oversized(some).any())

    def _look_closer(
        self, offsets: I64, headers: U64, after: int, damage: Damage | None, rows: I64
    ) -> tuple[I64, U64, int, Damage | None]:
        """A stretch as far as it can be believed. rows: its headers that are not of the kernel's
        types, or of a size that is no multiple of 8.
        """
        words = headers[rows]
        if self._step > 1 and int(np.bitwise_or.reduce(words)) >> 48 & 7:
            uneven = words[(words >> np.uint64(48) & np.uint64(7)) != 0]
            if bool(np.isin(uneven & _TYPE, UNEVEN_TYPES).any()):
                self._step = 1
        strange = np.empty(0, np.int64)
        if self._payloads:
            types = words & _TYPE
            strange = np.flatnonzero((types == _WITH_PAYLOAD[0]) | (types == _WITH_PAYLOAD[1]))
        if self._whole:
            # Behind payload nothing is known yet.
            until = int(strange[0]) if len(strange) else len(rows)
            doubtful = offsets[rows[:until][self._doubts(words[:until])]]
            for at in doubtful[doubtful >= self._trusted].tolist():
                if at >= self._trusted and (found := self._damage_at(at)) is not None:
                    count = int(np.searchsorted(offsets, at))
                    return offsets[:count], headers[:count], at, found
        if len(strange):
            count = int(rows[strange[0]])
            more, after, damage = self._with_payload(int(offsets[count]))
            offsets = np.concatenate([offsets[:count], np.array(more, np.int64)])
            headers = gather_u64(self._data, offsets)
            # What was found behind the first of them was for nothing.
            self._walk = self._most = _WALK_LEAST
        return offsets, headers, after, damage

    def _doubtful(self, at: int) -> bool:
        """Whether the header at `at`, if there is room for one, needs to be looked at."""
        if at < self._trusted or self._end - at < HEADER_BYTES:
            return False
        word = self._word(at)
        size = word >> 48
        if size < HEADER_BYTES or at + size > self._end:
            return True
        return bool(self._doubts(np.array([word], np.uint64))[0])

    def _word(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + HEADER_BYTES].tobytes(), "little")

    def _damage_at(self, at: int) -> Damage | None:
        """What is wrong with the header at `at`; None where it can be believed.

        A header that is only unlikely is believed where records go on behind it, or nowhere else.
        """
        word = self._word(at)
        kind, size = word & 0xFFFFFFFF, word >> 48
        if size < HEADER_BYTES:
            return Damage(at, f"record of size {size}")
        after = at + size
        if self._payloads and kind in PAYLOAD_TYPES:
            after, damage = self._behind_payload(at)
            if damage is not None:
                return damage
        if after > self._end:
            return Damage(at, f"{_LAST}: {self._end - at} of {size} bytes")
        if not self._doubts(np.array([word], np.uint64))[0]:
            return None
        what = f"no record has type {kind} and size {size}, or none is behind it"
        if after == self._end or int(self._resync.chains(np.array([after], np.int64))[0]):
            # By chance, where what it covers is records up to its end.
            if self._resync.through(at + 8, after, after, step=self._step) is not None:
                return Damage(at, what)
            self._trust(after, at)
            if self._doubts_length(np.array([word], np.uint64))[0]:
                self._too_long = size + 1 << 48
            return None
        found = self._search(at, 1)
        if found is None:
            self._trusted = self._end
            return None
        if self._resync.leads(at, found):
            self._trust(found, at)
            return None
        if found >= after and like_header(word):
            self._trust(after, at)  # what is wrong is behind it
            return None
        return Damage(at, what)

    def _doubts(self, words: U64) -> npt.NDArray[np.bool_]:
        return _doubtful(words) | self._doubts_length(words)

    def _doubts_length(self, words: U64) -> npt.NDArray[np.bool_]:
        """bool [n]: samples that are longer than any so far and than they should be."""
        sample: npt.NDArray[np.bool_] = words & _TYPE == np.uint64(RecordType.SAMPLE)
        if self._too_long >= 1 << 64:
            return sample & False
        return sample & (words >= np.uint64(self._too_long))

    def _search(self, at: int, least: int) -> int | None:
        """Where records begin again behind the damaged header at `at`.

        Where they may stand at any byte, words put together of two others look like headers now
        and then: a whole chain counts first.
        """
        if self._step > 1:
            found = self._resync.find(at + self._step, least, step=self._step)
            if found is not None:
                return found
        found = self._resync.find(at + 1, CHAIN, step=1)
        if found is None:
            found = self._resync.find(at + 1, max(least, 2) if self._step > 1 else least, step=1)
        if found is not None:
            self._step = 1
        return found

    def _trust(self, until: int, at: int) -> None:
        self._trusted = until
        if (until | at) & 7:
            self._step = 1

    def _go_on(self, offsets: I64, headers: U64, damage: Damage) -> tuple[I64, U64, int]:
        """A stretch up to what cannot be a record, and where records begin again.

        The size of the record before it may be what is wrong: that record then ends where a chain
        begins that comes to the next records, too.
        """
        at = damage.offset
        self._walk = self._most = _WALK_LEAST
        if not self._whole:
            self._report(damage)
            self.stopped = True
            return offsets, headers, at
        word = self._word(at)
        size = word >> 48
        known = like_header(word)
        if at & 7 or word & 0xFFFFFFFF in UNEVEN_TYPES:
            self._step = 1
        # A last record that is cut short may hold whatever looks like a record; payload all the
        # more.
        cut = known and size >= HEADER_BYTES and not size & 7
        least = CHAIN if word & 0xFFFFFFFF in PAYLOAD_TYPES else 2 if cut else 1
        found = self._search(at, least)
        if found is None:
            what = damage.what
            if size < HEADER_BYTES:
                what += f"; {self._end - at} bytes from here on are not read"
            self._report(Damage(at, what))
            self.stopped = True
            return offsets, headers, at
        if len(offsets) and self._blames < _MOST_BLAMES:
            self._blames += 1
            before = int(offsets[-1])
            inside = self._resync.through(before + 8, at, found, step=self._step)
            if inside is not None:
                headers = headers.copy()
                headers[-1] = self._cut(before, int(headers[-1]), inside)
                return offsets, headers, inside
        if known and HEADER_BYTES <= found - at < size:
            offsets = np.append(offsets, at)
            headers = np.append(headers, np.uint64(self._cut(at, word, found)))
            return offsets, headers, found
        what = damage.what
        if what.startswith(_LAST):
            what = f"record of size {size}, but {self._end - at} bytes are left"
        self._report(Damage(at, f"{what}; {found - at} bytes are passed over"))
        return offsets, headers, found

    def _cut(self, at: int, word: int, end: int) -> int:
        """The header word of a record whose size is too large, with the size that it can have."""
        self._report(Damage(
            at, f"record of size {word >> 48}, but others begin {end - at} bytes behind its start"
        ))  # fmt: skip
        return word & (1 << 48) - 1 | end - at << 48

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
            damage = Damage(begun, f"record of size {size}")
        elif after > end:
            damage = Damage(begun, f"{_LAST}: {end - begun} of {size} bytes")
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
            if int.from_bytes(self._data[position : position + 4], "little") not in PAYLOAD_TYPES:
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
