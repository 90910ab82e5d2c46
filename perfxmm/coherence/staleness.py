"""Vector registers that a sample seems to have from another thread.

Kernels have shown registers of an earlier sample: a buffer that was not cleared before an XSAVES
that failed or was not run, a pointer that was not reset (postings V2 to V7 of the SIMD series, by
the changelogs of V8; ABI notes 5.3). Such a sample's vectors are, bit for bit, those of the sample
that its CPU took before it, though that was of another thread at another place.

Two threads can rightly hold the same values, as workers of one program do. A thread's own samples
tell: what it holds for a while it also has in the sample before or behind. So this is a suspicion,
for samples that have nothing of their own that explains it, and never proof.
"""

from __future__ import annotations

import numpy as np

from perfxmm.coherence.compare import Mask
from perfxmm.snapshots.batch import I32, I64, U64, Bool, RegisterSet, SnapshotBatch

# Registers whose first words are compared before whole blocks are.
_PROBED = (0, 1, 2, 3, 4, 7, 11, 15)
# A block with fewer different non-zero words may be what many programs leave behind.
_LEAST_WORDS = 4
_CHUNK_ROWS = 128


def stale_rows(
    batch: SnapshotBatch, registers: RegisterSet, head: U64, among: Mask = True
) -> Bool:
    """Bool [n]: samples of `among` whose vectors look like those of another thread.

    The vectors equal those of the CPU's sample before (in the batch's order), which is of another
    thread at another IP; they have at least _LEAST_WORDS different words; and neither neighbour
    among the thread's own samples, of which there must be one, has the same values in the
    registers of _PROBED. Samples without CPU, and a CPU's first in the batch, are never suspected.
    head: compare.first_register(registers.vectors).
    """
    count = len(batch)
    none = np.zeros(count, np.bool_)
    if count < 3 or not registers.vectors.shape[1] or int(batch.cpu.max()) < 0:
        return none
    # One thread only: nothing can come from another.
    if bool((batch.tid == batch.tid[0]).all()):
        return none
    order = _by(batch.cpu)
    # Pairs of neighbours on one CPU that are of different threads, at different places.
    now, before = order[1:], order[:-1]
    pairs = batch.tid[now] != batch.tid[before]
    pairs &= batch.cpu[now] == batch.cpu[before]
    now, before = now[pairs], before[pairs]
    pairs = (head[0, now] == head[0, before]) & (batch.ip[now] != batch.ip[before])
    now, before = now[pairs], before[pairs]
    pairs = (
        (batch.cpu[now] >= 0) & (registers.vector_mask[now] != 0)
        & (registers.vector_mask[now] == registers.vector_mask[before])
        & (registers.delivered_qwords[now] == registers.delivered_qwords[before])
    )  # fmt: skip
    if not isinstance(among, bool):
        pairs &= among[now]
    now, before = now[pairs], before[pairs]
    if len(now):
        alike = _same_probe(registers, now, before)
        now, before = now[alike], before[alike]
    if len(now):
        odd = ~_has_of_its_own(batch, registers, now)
        now, before = now[odd], before[odd]
    if len(now):
        none[now[_same_block(registers, now, before)]] = True
    return none


def _by(column: I32) -> I64:
    """Order by a column of small numbers, otherwise as it was."""
    if bool((column == column[0]).all()):
        return np.arange(len(column))
    lowest, highest = int(column.min()), int(column.max())
    # numpy sorts 16-bit numbers by their digits, several times as fast as wider ones.
    if highest - lowest < 1 << 16:
        return np.argsort((column - lowest).astype(np.uint16), kind="stable")
    return np.argsort(column, kind="stable")


def _same_probe(registers: RegisterSet, one: I64, two: I64) -> Bool:
    same = np.ones(len(one), np.bool_)
    vectors = registers.vectors
    for register in _PROBED:
        if register < vectors.shape[1]:
            same &= vectors[one, register, 0] == vectors[two, register, 0]
    return same


def _has_of_its_own(batch: SnapshotBatch, registers: RegisterSet, rows: I64) -> Bool:
    """Bool [len(rows)]: a neighbour among the thread's samples has the same vectors, as far as the
    probed registers tell, or the thread has no other sample that could."""
    order = _by(batch.tid)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    at = place[rows]
    alone = np.ones(len(rows), np.bool_)
    same = np.zeros(len(rows), np.bool_)
    for step in (-1, 1):
        near = order[np.clip(at + step, 0, len(order) - 1)]
        there = (near != rows) & (batch.tid[near] == batch.tid[rows])
        there &= registers.vector_mask[near] != 0
        alone &= ~there
        same |= there & _same_probe(registers, near, rows)
    return same | alone


def _same_block(registers: RegisterSet, one: I64, two: I64) -> Bool:
    """Bool [len(one)]: all vectors and predicates are equal, and not next to nothing."""
    same = np.zeros(len(one), np.bool_)
    vectors, predicates = registers.vectors, registers.predicates
    for start in range(0, len(one), _CHUNK_ROWS):
        mine, others = one[start : start + _CHUNK_ROWS], two[start : start + _CHUNK_ROWS]
        equal = (vectors[mine] == vectors[others]).reshape(len(mine), -1).all(axis=1)
        if predicates.shape[1]:
            equal &= (predicates[mine] == predicates[others]).all(axis=1)
        same[start : start + len(mine)] = equal
    for place in np.flatnonzero(same):
        words = np.unique(vectors[one[place]])
        same[place] = np.count_nonzero(words) >= _LEAST_WORDS
    return same
