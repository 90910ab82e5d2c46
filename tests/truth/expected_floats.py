"""What nan.c, subnormal.c and libm.c hold."""

from __future__ import annotations

import numpy as np
from truth.regions import U64, VECTORS, WORDS, Held, Region, Rows

_WORD = np.arange(WORDS, dtype=np.uint64)[None, :]
_QUIET = np.uint64(0x7FF8 << 48)
_SIGN = np.uint64(1 << 63)


def _bits(value: float) -> np.uint64:
    return np.float64(value).view(np.uint64)


def nan_double(rows: Rows, held: Held) -> None:
    payload = rows.thread[:, None] << np.uint64(8) | _WORD | np.uint64(0x10)
    quiet = _QUIET | payload
    held.vectors[:, 0] = held.vectors[:, 3] = held.vectors[:, 5] = quiet
    held.vectors[:, 1] = np.uint64(0xFFF0 << 48) | payload
    held.set(2, _bits(1.0))
    held.vectors[:, 4] = held.vectors[:, 6] = _SIGN | quiet
    held.set(7, _bits(np.inf))
    held.set(8, _SIGN | _QUIET)
    held.set(9, _SIGN)
    for register, label in ((10, "1"), (12, "2")):
        counted = rows.runs(label, "3")[:, None] << np.uint64(8)
        held.vectors[:, register] = (_QUIET | _WORD << np.uint64(4)) + counted
    held.set(11, 0x100)


def nan_single(rows: Rows, held: Held) -> None:
    first = np.uint64(0x7FC00100) | rows.thread[:, None] << np.uint64(4) | _WORD
    second = np.uint64(0xFFC00200) | np.broadcast_to(_WORD, first.shape)
    held.vectors[:, 5] = held.vectors[:, 6] = first << np.uint64(32) | second
    singles = np.stack([second, first], axis=2).reshape(len(rows), 2 * WORDS)[:, :WORDS]
    sign, fraction = singles >> np.uint64(31), singles & np.uint64(0x7FFFFF)
    held.vectors[:, 3] = sign << np.uint64(63) | _QUIET | fraction << np.uint64(29)
    held.set(4, 0xFFC0_0000_FFC0_0000)
    held.set(1, 0xBF80_0000_BF80_0000)
    held.set(2, 0x4000_0000_4000_0000)
    held.set(8, 0x4000_0000_4000_0000)
    held.set(11, 0x1_0000_0001)
    held.set(10, rows.runs("1", "2") * np.uint64(0x1_0000_0001))


def _halvings(rows: Rows, cycle: int) -> U64:
    """Of register 0 since it was last taken anew: `cycle` just before that."""
    total = rows.runs("1", "2")
    done = total % np.uint64(cycle)
    worn = rows.within("1", "3") & (done == 0)
    return np.where(worn, np.uint64(cycle), done)


def subnormal_double(rows: Rows, held: Held) -> None:
    held.set(0, np.uint64(1 << 52) >> _halvings(rows, 52))
    held.set(1, _bits(0.5))
    held.set(2, rows.thread + np.uint64(1))
    held.set(3, _SIGN | (rows.thread + np.uint64(1)))
    held.set(15, 1 << 52)


def subnormal_single(rows: Rows, held: Held) -> None:
    single = np.uint64(1 << 23) >> _halvings(rows, 23)
    held.set(0, single << np.uint64(32) | single)
    held.set(1, 0x3F00_0000_3F00_0000)
    held.set(2, (rows.thread + np.uint64(1)) << np.uint64(32) | np.uint64(0x80000001))
    held.set(15, 1 << 55 | 1 << 23)


def subnormal_flush(rows: Rows, held: Held) -> None:
    held.set(0, 0)
    held.set(1, 1 << 52)
    held.set(2, _bits(0.5))
    held.set(3, 0)
    held.set(4, rows.thread + np.uint64(1))
    held.set(5, _SIGN)
    held.set(6, _SIGN | np.uint64(1 << 52))
    held.add(7, 8, rows.runs("1", "2"))


def _called(rows: Rows, held: Held) -> None:
    """Behind a call nothing is known until the registers are loaded again."""
    loaded = ~rows.within("2", "4")
    held.known = np.repeat(loaded, VECTORS * WORDS).reshape(len(rows), VECTORS, WORDS)
    held.gprs_known = loaded
    # The argument, in the instruction that passes it: 0 = counter, and what 2 has above.
    argued = rows.within("1", "2")
    upper = held.vectors[argued, 2, 1]
    held.set(0, 0, argued)
    held.vectors[argued, 0, 0] = rows.counter[argued].astype(np.float64).view(np.uint64)
    held.vectors[argued, 0, 1] = upper


def _result(rows: Rows, held: Held, of: np.ufunc, *more: float) -> None:
    """0 is the function's value, alone in its register once a move has cleared the rest."""
    held.vectors[:, 1, 0] = _bits(7.25)
    counter = rows.counter.astype(np.float64)
    passed = rows.after("5") | ~rows.after("1")  # the counter is one ahead
    value = of(np.maximum(counter - passed, 0.0), *more)
    held.set(0, 0)
    held.vectors[:, 0, 0] = value.view(np.uint64)
    _called(rows, held)
    assert held.known is not None
    held.known[rows.within("2", "3"), 0, 0] = True
    held.known[rows.within("3", "4"), 0] = True


def libm_sqrt(rows: Rows, held: Held) -> None:
    _result(rows, held, np.sqrt)


def libm_fmod(rows: Rows, held: Held) -> None:
    _result(rows, held, np.fmod, 7.25)


def libm_sin(rows: Rows, held: Held) -> None:
    _called(rows, held)
    assert held.known is not None
    held.known[rows.within("3", "4"), 0] = True


REGIONS: dict[str, tuple[Region, ...]] = {
    "nan": (Region("nan_double", 16, nan_double), Region("nan_single", 17, nan_single)),
    "subnormal": (
        Region("subnormal_double", 18, subnormal_double),
        Region("subnormal_single", 19, subnormal_single),
        Region("subnormal_flush", 20, subnormal_flush),
    ),
    "libm": (
        Region("libm_sqrt", 21, libm_sqrt, high=False),
        Region("libm_fmod", 22, libm_fmod, high=False),
        Region("libm_sin", 23, libm_sin, high=False),
    ),
}
