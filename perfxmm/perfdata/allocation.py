"""How the C library treats memory that reading a recording frees and soon wants again."""

from __future__ import annotations

import numpy as np

_KEPT_BYTES = 16 * 1024 * 1024


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for the next block, up to twice _KEPT_BYTES.

    By default it hands each large array's pages back and has them zeroed anew for the next one,
    which costs more than decoding does. glibc never does so below the size of the largest mapped
    chunk that was freed (mallopt(3), M_MMAP_THRESHOLD); one never touched costs nothing. No
    effect on other C libraries.
    """
    np.empty(_KEPT_BYTES, np.uint8)
