"""Judged snapshot batches made by hand: no file, no kernel, known values."""

from __future__ import annotations

import numpy as np

from perfxmm.analysis.names import NameTables
from perfxmm.kernel.registers import GPR_ID, GPR_NAMES
from perfxmm.snapshots.batch import VERDICT_CLASSES, RegisterSet, SnapshotBatch

CLASSIC = tuple(GPR_ID[name] for name in ("AX", "BX", "SP", "IP", "R8"))
VERDICT = {
    name: code
    for code, name in enumerate(
        ("unknown", "coherent", "late", "entry", "torn", "foreign", "absent")
    )
}


def register_set(
    name: str, vectors: np.ndarray, *, gprs: np.ndarray | None = None,
    gpr_ids: tuple[int, ...] = CLASSIC, predicates: np.ndarray | None = None,
    verdict: dict[str, str] | None = None, reason: int = 0, abi: int = 6,
    xstate_bv: int | None = None,
) -> RegisterSet:
    """A set that delivers all of `vectors` [n, registers, qwords] in every sample."""
    n, registers, qwords = vectors.shape
    if gprs is None:
        gprs = np.zeros((n, len(gpr_ids)), np.uint64)
    if predicates is None:
        predicates = np.zeros((n, 0), np.uint64)
    says = {"gpr": "coherent", "xmm": "coherent", "ymm": "absent", "zmm": "absent",
            "opmask": "absent"} | (verdict or {})  # fmt: skip
    codes = np.array([VERDICT[says[c]] for c in VERDICT_CLASSES], np.uint8)
    return RegisterSet(
        name=name, abi=np.full(n, abi, np.uint8), gpr_ids=gpr_ids, gprs=gprs.astype(np.uint64),
        gpr_mask=np.full(n, sum(1 << g for g in gpr_ids), np.uint64),
        vectors=vectors.astype(np.uint64),
        vector_mask=np.full(n, (1 << registers) - 1, np.uint32),
        delivered_vectors=np.full(n, registers, np.uint8),
        delivered_qwords=np.full(n, qwords, np.uint8), predicates=predicates.astype(np.uint64),
        delivered_predicates=np.full(n, predicates.shape[1], np.uint8),
        xstate_bv=None if xstate_bv is None else np.full(n, xstate_bv, np.uint64),
        verdict=np.tile(codes, (n, 1)), reason=np.full(n, reason, np.uint64),
    )  # fmt: skip


def batch(*sets: RegisterSet, n: int | None = None) -> SnapshotBatch:
    """Samples 0..n-1: time 1 ms apart, IP 0x401000 + 4 i, pid 7, two threads, two symbols."""
    n = len(sets[0].abi) if n is None else n
    index = np.arange(n)
    return SnapshotBatch(
        time_ns=(np.uint64(1_000_000_000) + index.astype(np.uint64) * np.uint64(1_000_000)),
        ip=(0x401000 + 4 * index).astype(np.uint64), period=np.full(n, 1000, np.uint64),
        pid=np.full(n, 7, np.int32), tid=(7 + index % 2).astype(np.int32),
        cpu=np.zeros(n, np.int32), event=np.zeros(n, np.uint16),
        misc=np.full(n, 2, np.uint16), cpumode=np.full(n, 2, np.uint8),
        exact_ip=np.zeros(n, np.bool_), file_offset=index.astype(np.int64),
        stop_flags=np.zeros(n, np.uint32), sets={s.name: s for s in sets},
        comm=np.zeros(n, np.int32), symbol=(index % 2).astype(np.int32),
        symbol_offset=(4 * index).astype(np.uint64), dso=np.zeros(n, np.int32),
    )  # fmt: skip


def names(**change: object) -> NameTables:
    tables: dict[str, object] = {
        "comms": ["app"], "symbols": ["axpy", "dot"], "dsos": ["/usr/bin/app"],
        "build_ids": ["00ff"], "events": ["task-clock:u"], "gpr_names": GPR_NAMES,
        "source": "sigtrap",
    }
    return NameTables(**(tables | change))  # type: ignore[arg-type]


def f64(*values: float) -> np.ndarray:
    """Bits of doubles."""
    return np.array(values, np.float64).view(np.uint64)
