"""Comparing and testing register values of many samples without reading more than it takes.

Vectors of 65,536 samples are up to 134 MB, and memory is what a filter waits for. One register of
a sample, one cache line, settles nearly all questions; only rows that it leaves open are read on.
"""

from __future__ import annotations

import numpy as np

from perfxmm.snapshots.batch import U64, Bool, RegisterSet

# A column of n samples, or a plain bool where the answer is the same for all.
Mask = Bool | bool
# Rows compared at a time: two sets of 512-bit vectors then stay in the second-level cache.
_CHUNK_ROWS = 128
_HEAD_ROWS = 512
_FOLD_ROWS = 512
# Highest vector number that every width has, plus one.
LOW_VECTORS = 16


def first_register(vectors: U64) -> U64:
    """uint64 [qwords, n], contiguous: register 0 of each sample, which most questions stop at."""
    if not vectors.shape[1]:
        return np.zeros((0, len(vectors)), np.uint64)
    head = np.empty((vectors.shape[2], len(vectors)), np.uint64)
    # By the chunk, so that each line is fetched once for all its words.
    for start in range(0, len(vectors), _HEAD_ROWS):
        some = slice(start, start + _HEAD_ROWS)
        head[:, some] = vectors[some, 0].T
    return head


# Qwords of a register that belong together: XMM, the upper half of YMM, that of ZMM.
PARTS: tuple[tuple[int, int], ...] = ((0, 2), (2, 4), (4, 8))


def parts_used(vectors: U64, head: U64) -> list[Bool]:
    """Per part of PARTS that registers have, Bool [n]: it is not zero in one of registers 0 to 15.

    head: first_register(vectors).
    """
    parts = [(first, end) for first, end in PARTS if end <= vectors.shape[2]]
    used: list[Bool] = [np.bitwise_or.reduce(head[first:end], axis=0) != 0 for first, end in parts]
    left = np.flatnonzero(~np.logical_and.reduce(used)) if used else np.zeros(0, np.intp)
    for start in range(0, len(left), _FOLD_ROWS):
        some = left[start : start + _FOLD_ROWS]
        run = int(some[-1]) - int(some[0]) + 1 == len(some)
        where = slice(int(some[0]), int(some[-1]) + 1) if run else some
        folded = _folded(vectors[where, :LOW_VECTORS])
        for column, (first, end) in zip(used, parts, strict=True):
            column[some] = _columns_or(folded[:, first:end]) != 0
    return used


def _folded(registers: U64) -> U64:
    """uint64 [n, qwords]: all registers of each sample ored together, by halves: long rows are
    what numpy is fast at."""
    while (count := registers.shape[1]) > 1:
        half = count // 2
        folded = registers[:, :half] | registers[:, half : 2 * half]
        if count & 1:
            folded[:, 0] |= registers[:, -1]
        registers = folded
    return registers[:, 0]


def all_zero(values: U64, among: Bool) -> Bool:
    """Bool [n]: samples of `among` in which no word of `values` [n, ...] is set."""
    rows = values.reshape(len(values), -1)
    left = np.flatnonzero(among)
    step = values.shape[2] if values.ndim == 3 else 1
    for place in range(0, rows.shape[1], max(step, 1)):
        if not len(left):
            break
        left = left[rows[left, place] == 0]
    zero = np.zeros(len(rows), np.bool_)
    for start in range(0, len(left), _CHUNK_ROWS):
        some = left[start : start + _CHUNK_ROWS]
        zero[some] = ~rows[some].any(axis=1)
    return zero


def _columns_or(words: U64) -> U64:
    """The columns of `words` [n, k] ored together: faster than a reduction along short rows."""
    found: U64 = words[:, 0]
    for column in range(1, words.shape[1]):
        found = found | words[:, column]
    return found


def differing_rows(one: RegisterSet, two: RegisterSet, among: Mask = True) -> Bool:
    """Bool [n]: samples of `among` in which a register that both sets deliver differs.

    Compares general registers, the qwords that both sets deliver of vectors that both deliver,
    and predicates. Samples of which only one set is there do not differ.
    """
    count = len(one.abi)
    differ = np.zeros(count, np.bool_)
    there = (one.abi != 0) & (two.abi != 0) & among
    shared = one.gpr_mask & two.gpr_mask
    for column, gpr_id in enumerate(one.gpr_ids):
        other = two.gpr(gpr_id)
        if other is not None:
            asked = (shared >> np.uint64(gpr_id) & np.uint64(1)) != 0
            differ |= asked & (one.gprs[:, column] != other)
    qwords = np.minimum(one.delivered_qwords, two.delivered_qwords)
    masks = one.vector_mask & two.vector_mask
    width = min(one.vectors.shape[2], two.vectors.shape[2])
    registers = min(one.vectors.shape[1], two.vectors.shape[1])
    # Samples of one kind are compared as a block; a batch has a handful of kinds at most.
    kinds = masks.astype(np.uint64) << np.uint64(8) | qwords.astype(np.uint64)
    for kind in np.unique(kinds[there]):
        words = min(int(kind & np.uint64(0xFF)), width)
        numbers = [r for r in range(registers) if int(kind) >> (8 + r) & 1]
        if not words or not numbers:
            continue
        rows = np.flatnonzero(there & (kinds == kind))
        pick = slice(0, numbers[-1] + 1) if numbers == list(range(len(numbers))) else numbers
        for start in range(0, len(rows), _CHUNK_ROWS):
            some = rows[start : start + _CHUNK_ROWS]
            # Neighbouring rows are read in place, others through a copy.
            run = int(some[-1]) - int(some[0]) + 1 == len(some)
            where = slice(int(some[0]), int(some[-1]) + 1) if run else some
            unequal = one.vectors[where][:, pick, :words] != two.vectors[where][:, pick, :words]
            differ[where] |= unequal.reshape(len(some), -1).any(axis=1)
    if one.predicates.shape[1] and two.predicates.shape[1]:
        both_have = (one.delivered_predicates != 0) & (two.delivered_predicates != 0)
        differ |= both_have & (one.predicates != two.predicates).any(axis=1)
    differ &= there
    return differ
