"""What sse.c, avx2.c, avx512.c and upper.c hold: integers, chains of exact sums, upper parts."""

from __future__ import annotations

import numpy as np
from truth.regions import U64, WORDS, Bool, Held, Region, Rows, lanes

_ONES = ~np.uint64(0)


def rotated(values: U64, times: U64) -> U64:
    """Columns moved down by 1, so many times: out[:, i] = values[:, i + times]."""
    width = values.shape[1]
    column = (np.arange(width, dtype=np.uint64)[None, :] + times[:, None]) % np.uint64(width)
    return np.take_along_axis(values, column.astype(np.intp), axis=1)


def sse_int(rows: Rows, held: Held) -> None:
    held.add(0, 1, rows.runs("1", "5"))
    held.toggle(2, 3, rows.runs("2", "5"))
    dwords = np.ascontiguousarray(held.vectors[:, 4, :2]).view(np.uint32).astype(np.uint64)
    turned = rotated(dwords, rows.runs("3", "5")).astype(np.uint32)
    held.vectors[:, 4, :2] = np.ascontiguousarray(turned).view(np.uint64)
    held.vectors[:, 5, :2] -= held.vectors[:, 6, :2] * rows.runs("4", "5")[:, None]


def sse_double(rows: Rows, held: Held) -> None:
    done = [rows.runs(label, "6").astype(np.float64) for label in "12345"]
    sign = np.where(done[1] % 2 == 1, -1.0, 1.0)
    held.vectors[:, 0] = (lanes() + 2.0 * lanes() * done[0][:, None]).view(np.uint64)
    held.vectors[:, 1] = (2.0 * lanes()).view(np.uint64)
    held.vectors[:, 2] = (lanes() * (rows.number * sign)[:, None]).view(np.uint64)
    held.set(3, np.float64(-1.0).view(np.uint64))
    held.vectors[:, 4, 0] = (done[2] - 1.0).view(np.uint64)
    held.vectors[:, 5, 0] = (0.5 + 3.0 * done[3]).view(np.uint64)
    held.vectors[:, 6, 0] = np.float64(3.0).view(np.uint64)
    root = np.sqrt(np.maximum(done[4] - 1.0, 0.0)).view(np.uint64)
    held.vectors[:, 7, 0] = np.where(done[4] > 0, root, held.vectors[:, 7, 0])


def avx2_fma(rows: Rows, held: Held) -> None:
    number = np.broadcast_to(rows.number[:, None], (len(rows), WORDS)).copy()
    done = rows.runs("1", "5").astype(np.float64)[:, None]
    held.vectors[:, 0] = (lanes() + 2.0 * lanes() * number * done).view(np.uint64)
    held.vectors[:, 1] = (2.0 * lanes()).view(np.uint64)
    held.vectors[:, 2] = held.vectors[:, 5] = number.view(np.uint64)
    start = np.broadcast_to(lanes() * 0.5, number.shape)
    odd = rows.runs("2", "5")[:, None] % np.uint64(2) == 1
    held.vectors[:, 3] = np.where(odd, number - start, start).view(np.uint64)
    held.set(4, np.float64(-1.0).view(np.uint64))
    held.add(6, 7, rows.runs("3", "5"))
    held.toggle(8, 9, rows.runs("4", "5"))


def avx2_int(rows: Rows, held: Held) -> None:
    runs = [rows.runs(label, "9") for label in "12345678"]
    held.add(0, 1, runs[0])
    held.vectors[:, 2, :4] = rotated(held.vectors[:, 2, :4], runs[1])
    held.add(3, 4, runs[2])
    held.cleared(3, runs[2], 2)
    held.set(5, 0)
    held.vectors[:, 5, 0] = runs[3] - np.uint64(1)
    held.set(6, runs[4] - np.uint64(1))
    held.set(7, 0, runs[5] > 0)
    held.vectors[:, 8] = np.where(runs[7][:, None] > 0, held.vectors[:, 9], held.vectors[:, 8])
    held.set(8, _ONES, rows.within("7", "8"))


def avx512_masks(rows: Rows, held: Held) -> None:
    runs = [rows.runs(label, "7") for label in "123456"]
    live: Bool = 0xA5 >> np.arange(WORDS) & 1 == 1
    held.vectors[:, 0] += held.vectors[:, 1] * live * runs[0][:, None]
    total = np.where(live, held.vectors[:, 3] + held.vectors[:, 1], np.uint64(0))
    held.vectors[:, 2] = np.where(runs[1][:, None] > 0, total, held.vectors[:, 2])
    held.opmasks[:, 2] = np.where(runs[2] > 0, np.uint64(0xFF), held.opmasks[:, 2])
    held.opmasks[:, 3] += held.opmasks[:, 4] * runs[3]
    held.opmasks[:, 5] ^= _ONES * (runs[4] & np.uint64(1))
    low = held.opmasks[:, 6] & np.uint64(0xFFFF)
    held.opmasks[:, 6] = np.where(runs[5] > 0, low, held.opmasks[:, 6])


def avx512_high(rows: Rows, held: Held) -> None:
    runs = [rows.runs(label, "6") for label in "12345"]
    held.add(16, 17, runs[0])
    held.cleared(16, runs[0], 2)
    held.add(18, 19, runs[1])
    held.set(20, runs[2] - np.uint64(1))
    held.add(21, 22, runs[3])
    held.cleared(21, runs[3], 4)
    copied = runs[4][:, None] > 0
    held.vectors[:, 23] = np.where(copied, held.vectors[:, 24], held.vectors[:, 23])


def avx512_vzeroupper(rows: Rows, held: Held) -> None:
    held.add(18, 19, rows.runs("1", "2"))


def upper_clear(rows: Rows, held: Held) -> None:
    held.add(0, 1, rows.runs("1", "2"))


def upper_dirty(rows: Rows, held: Held) -> None:
    held.add(0, 1, rows.runs("1", "3"), slice(2))
    toggled = rows.runs("2", "3") & np.uint64(1)
    held.vectors[:, 2, :2] ^= held.vectors[:, 3, :2] * toggled[:, None]


def upper_flip(rows: Rows, held: Held) -> None:
    for register, loaded in enumerate("1234"):
        held.vectors[~rows.within(loaded, "5"), register, 2:] = 0
    held.vectors[:, 4:16, 2:] = 0
    held.add(4, 5, rows.runs("6", "7"))


def upper_zero(rows: Rows, held: Held) -> None:
    held.vectors[:, :16] = 0


def upper_initial(rows: Rows, held: Held) -> None:
    held.vectors[:] = 0
    held.opmasks[:] = 0


REGIONS: dict[str, tuple[Region, ...]] = {
    "sse": (
        Region("sse_const", 1, words=2, high=False),
        Region("sse_int", 2, sse_int, words=2, high=False),
        Region("sse_double", 3, sse_double, words=2, high=False),
    ),
    "avx2": (
        Region("avx2_const", 4),
        Region("avx2_fma", 5, avx2_fma),
        Region("avx2_int", 6, avx2_int),
    ),
    "avx512": (
        Region("avx512_const", 7, words=8),
        Region("avx512_masks", 8, avx512_masks, words=8),
        Region("avx512_high", 9, avx512_high, words=8),
        Region("avx512_vzeroupper", 10, avx512_vzeroupper, words=2),
    ),
    "upper": (
        Region("upper_clear", 11, upper_clear, words=2),
        Region("upper_dirty", 12, upper_dirty),
        Region("upper_flip", 13, upper_flip),
        Region("upper_zero", 14, upper_zero),
        Region("upper_initial", 15, upper_initial),
    ),
}
