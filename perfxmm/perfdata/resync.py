"""Finding back to the records behind a header that cannot be one.

A header word alone proves little: registers, stacks and call chains have words that look like one.
What is searched for is a chain: CHAIN records in a row, each of a type that exists, of a size and
misc that such a record can have, each where the one before says; or fewer, at least two, up to the
next damage; or one that ends exactly where the data end. All places of a stretch are looked at
together, so the search costs the same whatever the bytes are, and no place is looked at twice.

What sizes there are: include/uapi/linux/perf_event.h, tools/lib/perf/include/perf/event.h and
tools/perf/util/synthetic-events.c of Linux 7.3, and older ones where they wrote less.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import HEADER_BYTES, I64, U8, U64, gather_u64

CHAIN = 4
# Stretches that are searched together: damage is mostly small, and so is the first of them.
_FIRST_BYTES, _MOST_BYTES = 4096, 1 << 20
_LARGEST = 0xFFFF
_TRAILER = 48  # struct sample_id has six words
_PATH = 4096 + 8 + _TRAILER  # PATH_MAX, filled up to a multiple of 8
_NONE = 1 << 30
_MOST_TRIALS = 64

_R = RecordType
# Type -> least and greatest header.size, without regard to alignment.
_SIZES: dict[int, tuple[int, int]] = {
    _R.MMAP: (40, 40 + _PATH), _R.LOST: (24, 24 + _TRAILER), _R.COMM: (16, 128),
    _R.EXIT: (32, 32 + _TRAILER), _R.THROTTLE: (32, 32 + _TRAILER),
    _R.UNTHROTTLE: (32, 32 + _TRAILER), _R.FORK: (32, 32 + _TRAILER), _R.READ: (16, _LARGEST),
    _R.SAMPLE: (16, _LARGEST), _R.MMAP2: (64, 72 + _PATH), _R.AUX: (32, 32 + _TRAILER),
    _R.ITRACE_START: (16, 16 + _TRAILER), _R.LOST_SAMPLES: (16, 16 + _TRAILER),
    _R.SWITCH: (8, 8 + _TRAILER), _R.SWITCH_CPU_WIDE: (16, 16 + _TRAILER),
    _R.NAMESPACES: (24, 4096), _R.KSYMBOL: (24, 4096), _R.BPF_EVENT: (24, 24 + _TRAILER),
    _R.CGROUP: (16, 16 + _PATH), _R.TEXT_POKE: (24, _LARGEST),
    _R.AUX_OUTPUT_HW_ID: (16, 16 + _TRAILER), _R.CALLCHAIN_DEFERRED: (24, _LARGEST),
    _R.HEADER_ATTR: (72, _LARGEST), _R.HEADER_EVENT_TYPE: (16, 80),
    _R.HEADER_TRACING_DATA: (12, 16), _R.HEADER_BUILD_ID: (36, 64 + _PATH),
    _R.FINISHED_ROUND: (8, 8), _R.ID_INDEX: (16, _LARGEST), _R.AUXTRACE_INFO: (16, _LARGEST),
    _R.AUXTRACE: (48, 48), _R.AUXTRACE_ERROR: (48, 256), _R.THREAD_MAP: (16, _LARGEST),
    _R.CPU_MAP: (16, _LARGEST), _R.STAT_CONFIG: (16, _LARGEST), _R.STAT: (48, 56),
    _R.STAT_ROUND: (24, 24), _R.EVENT_UPDATE: (24, _LARGEST), _R.TIME_CONV: (32, 56),
    _R.HEADER_FEATURE: (16, _LARGEST), _R.COMPRESSED: (9, _LARGEST), _R.FINISHED_INIT: (8, 8),
    _R.COMPRESSED2: (24, _LARGEST), _R.BPF_METADATA: (16, _LARGEST),
    _R.SCHEDSTAT_CPU: (16, _LARGEST), _R.SCHEDSTAT_DOMAIN: (16, _LARGEST),
}  # fmt: skip
# perf writes these without filling them up.
UNEVEN_TYPES = (
    _R.HEADER_TRACING_DATA, _R.HEADER_BUILD_ID, _R.HEADER_FEATURE, _R.COMPRESSED, _R.CPU_MAP,
)  # fmt: skip
# perf until about Linux 4.16 left in their misc what was in memory.
_ANY_MISC_TYPES = (_R.HEADER_ATTR, _R.HEADER_EVENT_TYPE)
PAYLOAD_TYPES = (_R.HEADER_TRACING_DATA, _R.AUXTRACE)
_TYPES = 128  # no type that is known here is as large

_LEAST = np.full(_TYPES, _NONE, np.int64)
_GREATEST = np.zeros(_TYPES, np.int64)
for _kind, (_least, _greatest) in _SIZES.items():
    _LEAST[_kind], _GREATEST[_kind] = _least, _greatest
_UNEVEN = np.zeros(_TYPES, np.bool_)
_UNEVEN[list(UNEVEN_TYPES)] = True
# From here on a header's word is that of a record that is too large; unknown ones never are.
_TOO_LARGE = np.where(
    (_GREATEST == 0) | (_GREATEST == _LARGEST), np.uint64(0xFFFFFFFFFFFFFFFF),
    (_GREATEST.astype(np.uint64) + np.uint64(1)) << np.uint64(48),
)  # fmt: skip
_ANY_MISC = np.zeros(_TYPES, np.bool_)
_ANY_MISC[list(_ANY_MISC_TYPES)] = True

_TYPE = np.uint64(0xFFFFFFFF)
_SIZE_SHIFT = np.uint64(48)
# PERF_RECORD_MISC_* are bits 0 to 2 and 12 to 15.
_MISC_UNUSED = np.uint64(0x0FF8 << 32)
_SURELY_NOT = np.uint64(0xFFFFFFFF & -_TYPES)
_SMALLEST = np.uint64(HEADER_BYTES << 48)


def like_header(word: int) -> bool:
    """Whether type and misc of a header word are some record's; its size may be anything."""
    kind = word & 0xFFFFFFFF
    return kind in _SIZES and (kind in _ANY_MISC_TYPES or not word & int(_MISC_UNUSED))


def oversized(headers: U64) -> npt.NDArray[np.bool_]:
    """bool [n]: records of a known type that are larger than any of it."""
    types = np.minimum(headers & _TYPE, np.uint64(_TYPES - 1)).view(np.int64)
    found: npt.NDArray[np.bool_] = headers >= _TOO_LARGE[types]
    return found


def plausible(headers: U64) -> npt.NDArray[np.bool_]:
    """bool [n]: type, misc and size are those of a record that perf or the kernel writes.

    headers: uint64 [n], header words.
    """
    types = headers & _TYPE
    known = (headers & _SURELY_NOT == 0) & (headers >= _SMALLEST)
    types = np.where(known, types, 0).astype(np.int64)
    sizes = (headers >> _SIZE_SHIFT).astype(np.int64)
    found: npt.NDArray[np.bool_] = (
        (sizes >= _LEAST[types]) & (sizes <= _GREATEST[types])
        & ((sizes & 7 == 0) | _UNEVEN[types])
        & ((headers & _MISC_UNUSED == 0) | _ANY_MISC[types])
    )  # fmt: skip
    return found


class Resync:
    """Searches one data section, data[:end], for chains of records.

    payloads: whether some types have payload outside header.size. big: records are those of a
    big-endian machine, for `find` alone.
    """

    def __init__(
        self, data: U8, end: int, *, payloads: bool = True, big: bool = False
    ) -> None:
        self._big = big
        self._data = data
        self._end = end
        self._payloads = payloads
        # What was searched last: from, to, step, where chains begin, how many records each has.
        self._begin = self._searched = 0
        self._step = 8
        self._found = np.empty(0, np.int64)
        self._lengths = np.empty(0, np.int64)
        self._span = _FIRST_BYTES
        self._none_from: dict[tuple[int, int, int], int] = {}  # by step, rest of it, and least

    def find(self, begin: int, least: int, *, step: int = 8) -> int | None:
        """Where the next chain begins, at or behind `begin` in steps of `step` bytes.

        least: how many records a chain has at least, at most CHAIN.
        None where there is no chain up to there.
        """
        first, key = begin, (step, begin % step, least)
        if begin >= self._none_from.get(key, self._end):
            return None
        while True:
            cached = (
                self._begin <= begin < self._searched and step == self._step
                and (begin - self._begin) % step == 0
            )
            if not cached:
                if begin + HEADER_BYTES > self._end:
                    # Nobody need look there again.
                    self._none_from[key] = first
                    return None
                near = self._searched <= begin < self._searched + self._span
                self._span = min(self._span * 2, _MOST_BYTES) if near else _FIRST_BYTES
                self._search(begin, step)
            row = int(np.searchsorted(self._found, begin))
            enough = np.flatnonzero(self._lengths[row:] >= least)
            if len(enough):
                return int(self._found[row + int(enough[0])])
            begin = self._searched

    def _search(self, begin: int, step: int) -> None:
        count = min(self._span, self._end - HEADER_BYTES - begin + step) // step
        words = self._headers(np.ndarray(max(count, 1), "<u8", self._data, begin, (step,)))
        likely = np.flatnonzero((words & _SURELY_NOT == 0) & (words >= _SMALLEST))
        likely = likely[plausible(words[likely])]
        at = likely * step + begin
        lengths = self.chains(at)
        some = lengths > 0
        self._begin, self._searched, self._step = begin, begin + len(words) * step, step
        self._found, self._lengths = at[some], lengths[some]

    def chains(self, at: I64) -> I64:
        """int64 [n]: how many whole records follow each other from each place on, at most CHAIN.

        One alone counts only where it ends where the data do; else 0.
        """
        lengths = np.zeros(len(at), np.int64)
        rows = np.arange(len(at))
        at = at.copy()
        for count in range(CHAIN):
            if count == 1:
                lengths[rows[at == self._end]] = 1
            elif count:
                lengths[rows] = count
            inside = at <= self._end - HEADER_BYTES
            rows, at = rows[inside], at[inside]
            headers = self._headers(gather_u64(self._data, at))
            good = plausible(headers)
            rows, at, headers = rows[good], at[good], headers[good]
            sizes = (headers >> _SIZE_SHIFT).astype(np.int64)
            after = at + sizes
            good = after <= self._end
            rows, at, headers, after = rows[good], at[good], headers[good], after[good]
            if self._payloads:
                after = self._behind_payload(at, after, headers)
                good = after <= self._end
                rows, after = rows[good], after[good]
            at = after
        lengths[rows] = CHAIN
        return lengths

    def _headers(self, words: U64) -> U64:
        """Header words as on a little-endian machine."""
        if not self._big:
            return words
        words = words.byteswap()
        sixteen, low = np.uint64(16), np.uint64(0xFFFF)
        upper = (words & low) << sixteen | words >> sixteen & low
        return words >> np.uint64(32) | upper << np.uint64(32)

    def _behind_payload(self, at: I64, after: I64, headers: U64) -> I64:
        types = headers & _TYPE
        strange = (types == _R.HEADER_TRACING_DATA) | (types == _R.AUXTRACE)
        rows = np.flatnonzero(strange & (at <= self._end - 2 * HEADER_BYTES))
        if not len(rows):
            return after
        after = after.copy()
        payload = gather_u64(self._data, at[rows] + HEADER_BYTES)
        tracing = types[rows] == _R.HEADER_TRACING_DATA
        first = payload & _TYPE
        if self._big:
            payload = payload.byteswap()
            first = payload >> np.uint64(32)
        # What is larger than the data is all alike; so nothing overflows.
        payload = np.minimum(np.where(tracing, first, payload), np.uint64(1 << 60))
        length = payload.astype(np.int64)
        after[rows] += np.where(tracing, length + (-length & 7), length)
        return after

    def leads(self, at: int, target: int) -> bool:
        """Whether records from `at` on, as their sizes have it, come to exactly `target`."""
        raw = self._data.data
        while at < target:
            size = raw[at + 6] | raw[at + 7] << 8
            if size < HEADER_BYTES:
                return False
            kind = int.from_bytes(raw[at : at + 4], "little")
            if self._payloads and kind in PAYLOAD_TYPES:
                after = np.array([at + size], np.int64)
                header = gather_u64(self._data, np.array([at], np.int64))
                at = int(self._behind_payload(np.array([at], np.int64), after, header)[0])
            else:
                at += size
        return at == target

    def through(self, begin: int, end: int, target: int, *, step: int = 8) -> int | None:
        """Where in data[begin:end] a chain begins that comes to exactly `target` behind `end`.

        None where there is none, or more than a few that do not get there.
        """
        for _ in range(_MOST_TRIALS):
            at = self.find(begin, 1, step=step)
            if at is None or at >= end:
                return None
            if self.leads(at, target):
                return at
            begin = at + step
        return None
