"""What signals.c, syscalls.c, switches.c, jit.c and alike.c hold: the same chains, disturbed."""

from __future__ import annotations

import numpy as np
from truth.regions import Held, Region, Rows

JIT_BASE = 0x2000_0000_0000
JIT_PAGES = 128


def chains(rows: Rows, held: Held) -> None:
    """0 += 1; 2 ^= 3."""
    held.add(0, 1, rows.runs("1", "3"))
    held.toggle(2, 3, rows.runs("2", "3"))


def jit_page(rows: Rows, held: Held) -> None:
    """0 += 1; 3 ^= 4; 2 is its own low word throughout."""
    held.add(0, 1, rows.runs("1", "3"))
    held.toggle(3, 4, rows.runs("2", "3"))
    held.set(2, np.ascontiguousarray(held.vectors[:, 2, 0]))


REGIONS: dict[str, tuple[Region, ...]] = {
    "signals": (
        Region("signals_main", 24, chains),
        Region("signals_handler", 25, chains),
        Region("signals_masked", 26, chains),
    ),
    "syscalls": (
        Region("syscalls_quick", 27, chains),
        Region("syscalls_random", 28, chains),
        Region("syscalls_sleep", 29, chains),
    ),
    "switches": (
        Region("switches_spin", 30, chains),
        Region("switches_yield", 31, chains),
        Region("switches_futex", 32, chains),
    ),
    "alike": (
        Region("alike_const", 33, alike=True),
        Region("alike_chain", 34, chains, alike=True),
    ),
    "jit": (Region("jit_page", 64, jit_page, copies_at=JIT_BASE, pages=JIT_PAGES),),
}
