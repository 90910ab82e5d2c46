"""Builds SnapshotBatch objects for tests: one keyword per column, defaults that are believable.

The defaults are one kind of sample: user mode, registers' IP equal to the sample's, 256-bit
vectors with distinct non-zero words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, GPR_IP
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch

IP = 0x401136
STOPPED = int(StopFlag.PRESENT)
ABI_64 = 2
ABI_64_SIMD = 6
ABI_32_SIMD = 5
# XSTATE_BV with x87, SSE, AVX, opmask, ZMM_Hi256 and Hi16_ZMM in use.
ALL_IN_USE = 0xE7


def _column(value: Any, count: int, dtype: Any) -> npt.NDArray[Any]:
    return np.array(np.broadcast_to(np.asarray(value).astype(dtype), (count,)))


def vector_values(count: int, registers: int, qwords: int) -> npt.NDArray[np.uint64]:
    """[count, registers, qwords] of distinct non-zero words; word = sample, register, qword."""
    sample, register, word = np.indices((count, registers, qwords), np.uint64)
    return sample << np.uint64(32) | register << np.uint64(8) | word | np.uint64(1 << 60)


def register_set(
    count: int = 1,
    *,
    name: str = "user",
    abi: Any = ABI_64_SIMD,
    gpr_mask: int | Sequence[int] = CLASSIC_GPR_MASK,
    ip: Any = IP,
    gprs: dict[int, Any] | None = None,
    registers: int = 16,
    qwords: int = 4,
    vectors: npt.NDArray[np.uint64] | None = None,
    vector_mask: Any = None,
    delivered_vectors: Any = None,
    delivered_qwords: Any = None,
    predicates: int | npt.NDArray[np.uint64] = 0,
    delivered_predicates: Any = None,
    xstate_bv: Any = None,
    asked_components: Any = None,
) -> RegisterSet:
    """One set of `count` samples. Where abi is 0 nothing is delivered, as a decoder leaves it.

    gprs: canonical id -> value(s), beyond IP. predicates: how many opmasks, or their values.
    """
    abi_column = _column(abi, count, np.uint8)
    there = abi_column != 0
    masks = np.where(there, _column(gpr_mask, count, np.uint64), np.uint64(0))
    everything = int(np.bitwise_or.reduce(masks)) if count else 0
    ids = tuple(bit for bit in range(64) if everything >> bit & 1)
    columns = np.zeros((count, len(ids)), np.uint64)
    for place, gpr_id in enumerate(ids):
        value = ip if gpr_id == GPR_IP else (gprs or {}).get(gpr_id, 0x1000 + gpr_id)
        delivered = (masks >> np.uint64(gpr_id) & np.uint64(1)) != 0
        columns[:, place] = np.where(delivered, _column(value, count, np.uint64), np.uint64(0))
    values = vector_values(count, registers, qwords) if vectors is None else vectors.copy()
    registers, qwords = values.shape[1:]
    full = (1 << registers) - 1
    mask = _column(full if vector_mask is None else vector_mask, count, np.uint32)
    words = _column(qwords if delivered_qwords is None else delivered_qwords, count, np.uint8)
    number = registers if delivered_vectors is None else delivered_vectors
    if isinstance(predicates, int):
        opmasks = np.arange(1, count * predicates + 1, dtype=np.uint64).reshape(count, predicates)
    else:
        opmasks = predicates.copy()
    opmask_count = opmasks.shape[1] if delivered_predicates is None else delivered_predicates
    values[~there] = 0
    opmasks[~there] = 0
    return RegisterSet(
        name=name,
        abi=abi_column,
        gpr_ids=ids,
        gprs=columns,
        gpr_mask=masks,
        vectors=values,
        vector_mask=np.where(there, mask, np.uint32(0)),
        delivered_vectors=np.where(there, _column(number, count, np.uint8), np.uint8(0)),
        delivered_qwords=np.where(there, words, np.uint8(0)),
        predicates=opmasks,
        delivered_predicates=np.where(there, _column(opmask_count, count, np.uint8), np.uint8(0)),
        xstate_bv=None if xstate_bv is None else _column(xstate_bv, count, np.uint64),
        predicate_mask=np.where(there, np.uint8((1 << opmasks.shape[1]) - 1), np.uint8(0)),
        header=np.zeros(count, np.uint64),
        asked_components=(
            None if asked_components is None else _column(asked_components, count, np.uint64)
        ),
    )


def batch(
    *sets: RegisterSet,
    count: int | None = None,
    ip: Any = IP,
    pid: Any = 100,
    tid: Any = 100,
    cpumode: Any = CpuMode.USER,
    exact_ip: Any = False,
    event: Any = 0,
    stop_flags: Any = 0,
    time_ns: Any = None,
    snapshot_flags: Any = None,
) -> SnapshotBatch:
    """A batch of the sets' length (or `count`); scalars are repeated for every sample."""
    n = len(sets[0].abi) if count is None else count
    mode = _column(cpumode, n, np.uint8)
    return SnapshotBatch(
        time_ns=np.arange(1, n + 1, dtype=np.uint64)
        if time_ns is None
        else _column(time_ns, n, np.uint64),
        ip=_column(ip, n, np.uint64),
        period=_column(1, n, np.uint64),
        pid=_column(pid, n, np.int32),
        tid=_column(tid, n, np.int32),
        cpu=_column(0, n, np.int32),
        event=_column(event, n, np.uint16),
        misc=mode.astype(np.uint16),
        cpumode=mode,
        exact_ip=_column(exact_ip, n, np.bool_),
        file_offset=np.arange(n, dtype=np.int64) * 64 + 256,
        stop_flags=_column(stop_flags, n, np.uint32),
        sets={one.name: one for one in sets},
        snapshot_flags=None if snapshot_flags is None else _column(snapshot_flags, n, np.uint64),
    )
