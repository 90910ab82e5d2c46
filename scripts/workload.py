#!/usr/bin/env python3
"""A workload whose vector registers are worth looking at; runs for about three seconds.

Five phases in turn on float64 and float32 arrays that stay in the cache: a known constant through
multiply-add, NaNs and infinities passing through, subnormals being made, a matrix product (FMA in
the BLAS) and square roots. NumPy picks AVX2 or AVX-512 kernels by the CPU.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one busy thread: easier to read

import numpy as np

PI = 3.141592653589793
N = 16384


def constants(x: np.ndarray, out: np.ndarray) -> None:
    """Every lane holds pi or a multiple of it."""
    np.multiply(x, 2.0, out=out)
    np.add(out, x, out=out)


def not_numbers(x: np.ndarray, out: np.ndarray) -> None:
    """A quarter of the lanes are NaN, one in sixteen is infinite."""
    np.add(x, 1.0, out=out)
    np.multiply(out, out, out=out)


def subnormals(x: np.ndarray, out: np.ndarray) -> None:
    """Results below the smallest normal number: what makes some CPUs slow."""
    np.multiply(x, 1e-10, out=out)


def matrix_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    np.matmul(a, b, out=out)


def roots(x: np.ndarray, out: np.ndarray) -> None:
    np.sqrt(x, out=out)


def main(seconds: float = 3.0) -> int:
    pis = np.full(N, PI)
    holes = np.full(N, PI)
    holes[::4] = np.nan
    holes[1::16] = np.inf
    tiny = np.full(N, 1e-300, dtype=np.float64)
    singles = np.linspace(1.0, 2.0, N, dtype=np.float32)
    a = np.random.default_rng(1).random((64, 64))
    out, out32, product = np.empty(N), np.empty(N, np.float32), np.empty((64, 64))
    phases = (
        lambda: constants(pis, out),
        lambda: not_numbers(holes, out),
        lambda: subnormals(tiny, out),
        lambda: matrix_product(a, a, product),
        lambda: roots(singles, out32),
    )
    end = time.monotonic() + seconds
    rounds = 0
    with np.errstate(all="ignore"):
        while time.monotonic() < end:
            for phase in phases:
                for _ in range(200):
                    phase()
            rounds += 1
    print(f"{rounds} rounds of {len(phases)} phases", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0))
