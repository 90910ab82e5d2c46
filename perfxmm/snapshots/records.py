"""What a decoder needs to see of an event, and access to records as u64 words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from perfxmm.kernel.attr import EventAttr
from perfxmm.snapshots.batch import I64, U8, U64

WORD_BYTES = 8


class SampledEvent(Protocol):
    """The part of perfdata's Event that decoding looks at."""

    @property
    def attr(self) -> EventAttr: ...
    @property
    def ids(self) -> Sequence[int]: ...


def words_of(buffer: U8, offsets: I64, sizes: I64) -> tuple[U64, I64]:
    """The records as u64 words, and the word at which each starts.

    No byte is copied where all records start at the same place modulo 8, as the kernel's do;
    other records are packed into a buffer of their own. Records must lie inside `buffer`.
    """
    if len(offsets) == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    # Shifts and masks: numpy divides integers ten times slower.
    phase = int(offsets[0]) & 7
    if bool(np.all(offsets & 7 == phase)):
        usable = (len(buffer) - phase) // WORD_BYTES * WORD_BYTES
        return buffer[phase : phase + usable].view("<u8"), offsets >> 3
    room = -(-sizes // WORD_BYTES) * WORD_BYTES
    starts = np.cumsum(room) - room
    packed = np.zeros(int(room.sum()), np.uint8)
    inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    packed[np.repeat(starts, sizes) + inside] = buffer[np.repeat(offsets, sizes) + inside]
    return packed.view("<u8"), starts // WORD_BYTES


def gather(words: U64, at: I64, width: int) -> U64:
    """uint64 [len(at), width]: `width` words from each place in `at`, which must all exist."""
    if len(at) == 0 or width == 0:
        return np.zeros((len(at), width), np.uint64)
    if len(at) > 1:
        stride = int(at[1] - at[0])
        # Equal records behind each other: a strided view copies faster than an index.
        if stride > 0 and bool(np.all(np.diff(at) == stride)):
            step = words.strides[0]
            view = as_strided(
                words[int(at[0]):], (len(at), width), (stride * step, step), writeable=False
            )  # fmt: skip
            return np.array(view)  # a copy even where the view is contiguous
    return sliding_window_view(words, width)[at]


def ragged(words: U64, at: I64, counts: I64, width: int = 1) -> tuple[I64, U64]:
    """Start of each row [n + 1], and the words of all rows behind each other, [total, width]."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    if total == 0:
        return starts, np.zeros((0, width), np.uint64)
    inside = np.arange(total) - np.repeat(starts[:-1], counts)
    return starts, gather(words, np.repeat(at, counts) + inside * width, width)
