"""The user part of call chains that a kernel wrote later than the samples they belong to.

Such a sample's chain ends in PERF_CONTEXT_USER_DEFERRED, and its `deferred_cookie` is that of the
CALLCHAIN_DEFERRED record which the kernel writes when the thread is about to return to user mode
(Linux 6.19 and later, perf record --call-graph fp,defer).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.records import ragged
from perfxmm.snapshots.sidekinds import CallchainDeferred

COOKIES = "deferred_cookie"


def join_deferred(batch: SnapshotBatch, records: Sequence[CallchainDeferred]) -> None:
    """Puts the chains of `records` in place of the marks of their samples, as perf does.

    Thread and cookie must be the same. The batch needs its chains and the column COOKIES. A sample
    whose record is not among them keeps the mark; one record may belong to many samples.
    """
    if batch.chain is None or batch.chain_start is None or not records:
        return
    cookies = batch.extra[COOKIES]
    waiting = np.flatnonzero(cookies)
    index = {
        (-1 if record.tid is None else record.tid, record.cookie): number
        for number, record in enumerate(records)
    }
    keys = zip(batch.tid[waiting].tolist(), cookies[waiting].tolist(), strict=True)
    number = np.array([index.get(key, -1) for key in keys], np.int64)
    rows, number = waiting[number >= 0], number[number >= 0]
    if not len(rows):
        return
    late = [np.array(record.ips, np.uint64) for record in records]
    lengths = np.array([len(ips) for ips in late], np.int64)
    begins = len(batch.chain) + np.cumsum(lengths) - lengths
    # Two pieces for each sample: its own chain, without the mark where the other piece follows.
    at = np.zeros(2 * len(batch), np.int64)
    count = np.zeros(2 * len(batch), np.int64)
    at[::2], count[::2] = batch.chain_start[:-1], np.diff(batch.chain_start)
    count[2 * rows] -= 1
    at[2 * rows + 1], count[2 * rows + 1] = begins[number], lengths[number]
    starts, chain = ragged(np.concatenate([batch.chain, *late]), at, count)
    batch.chain_start, batch.chain = starts[::2].copy(), chain.reshape(-1)
