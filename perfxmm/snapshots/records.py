"""What a decoder needs to see of an event, and access to records as u64 words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from perfxmm.kernel.attr import EventAttr
from perfxmm.snapshots.batch import I64, U8, U64

WORD_BYTES = 8
ALL_BITS = 0xFFFFFFFFFFFFFFFF


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
    if not int(np.bitwise_or.reduce(offsets ^ phase)) & 7:
        usable = (len(buffer) - phase) // WORD_BYTES * WORD_BYTES
        return buffer[phase : phase + usable].view("<u8"), offsets >> 3
    room = -(-sizes // WORD_BYTES) * WORD_BYTES
    starts = np.cumsum(room) - room
    packed = np.zeros(int(room.sum()), np.uint8)
    inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    packed[np.repeat(starts, sizes) + inside] = buffer[np.repeat(offsets, sizes) + inside]
    return packed.view("<u8"), starts // WORD_BYTES


def stride_of(at: I64) -> int:
    """The distance of places that are all equally far apart, ascending; 0 where they are not."""
    if len(at) < 2:
        return 0
    stride = int(at[1] - at[0])
    even = stride > 0 and bool((at[1:] - at[:-1] == stride).all())
    return stride if even else 0


def gather(words: U64, at: I64, width: int, stride: int | None = None) -> U64:
    """uint64 [len(at), width]: `width` words from each place in `at`, which must all exist.

    stride: stride_of(at) where the caller knows it.
    """
    if len(at) == 0 or width == 0:
        return np.zeros((len(at), width), np.uint64)
    if stride is None:
        stride = stride_of(at)
    if stride:
        # Equal records behind each other: a strided view copies faster than an index.
        return np.array(_strided(words, int(at[0]), len(at), width, stride))
    return _indexed(words, at, width)


def peek(words: U64, at: I64, width: int, stride: int | None) -> U64:
    """As gather, but where it can be a view of `words`: for a few columns out of many."""
    if stride and len(at):
        return _strided(words, int(at[0]), len(at), width, stride)
    return gather(words, at, width, stride)


def all_equal(words: U64, at: I64, shift: int, value: int, mask: int, stride: int) -> bool:
    """Whether the word `shift` behind each place is `value`, as far as `mask` goes.

    stride as for gather.
    """
    if stride:
        found = _strided(words, int(at[0]) + shift, len(at), 1, stride)
    else:
        found = words[at + shift]
    if mask != ALL_BITS:
        found = found & np.uint64(mask)
    return bool((found == np.uint64(value & mask)).all())


def _indexed(words: U64, at: I64, width: int) -> U64:
    # As one element of so many bytes numpy copies each place at once instead of word by word.
    item = np.dtype((np.void, width * WORD_BYTES))
    windows = np.ndarray((len(words) - width + 1,), item, words, 0, words.strides)
    return windows[at].view(words.dtype).reshape(len(at), width)


def _strided(words: U64, first: int, count: int, width: int, stride: int) -> U64:
    step = words.strides[0]
    return np.ndarray(
        (count, width), words.dtype, words, first * step, (stride * step, step)
    )  # fmt: skip


def ragged(words: U64, at: I64, counts: I64, width: int = 1) -> tuple[I64, U64]:
    """Start of each row [n + 1], and the words of all rows behind each other, [total, width]."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    if total == 0:
        return starts, np.zeros((0, width), np.uint64)
    if not counts.all():
        at, counts = at[counts > 0], counts[counts > 0]
    # Steps from each entry to the next, added up: each row's first one leaps there from the end
    # of the row before.
    index = np.full(total, width, np.int64)
    index[0] = at[0]
    index[np.cumsum(counts[:-1])] = at[1:] - at[:-1] - (counts[:-1] - 1) * width
    np.cumsum(index, out=index)
    if width == 1:
        # take() would first copy words that are not aligned, all of them.
        flat = words.take(index) if words.flags.aligned else words[index]
        return starts, flat.reshape(total, 1)
    return starts, _indexed(words, index, width)
