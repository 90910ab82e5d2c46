"""SnapshotBatch: a bounded number of samples as columns. The one data model of perfxmm.

n is the number of samples. A batch may mix events of different attrs: arrays are as wide as the
widest event of the recording, and per-sample masks say what is really there. Absent is never
zero: read `delivered_*`, `vector_mask`, `gpr_mask`, `abi` and the verdict first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.perfdata.stopinfo import STATISTICS as STATISTICS

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

# Register classes that get a verdict of their own, in column order of `RegisterSet.verdict`.
VERDICT_CLASSES: tuple[str, ...] = ("gpr", "xmm", "ymm", "zmm", "opmask")


@dataclass(slots=True)
class RegisterSet:
    """One set of registers per sample: `intr` (live at the interrupt) or `user`.

    name: "intr" or "user".
    abi: uint8 [n], PERF_SAMPLE_REGS_ABI bitmap as read; 0 where no set was delivered.
    gpr_ids: canonical ids (kernel.registers.GPR_NAMES) of the columns of `gprs`.
    gprs: uint64 [n, len(gpr_ids)]; 0 where `gpr_mask` lacks the bit.
    gpr_mask: uint64 [n], canonical ids delivered.
    vectors: uint64 [n, registers, qwords], indexed by register number, low qword first;
        0 where not delivered.
    vector_mask: uint32 [n], register numbers delivered (bit r = register r).
    delivered_vectors, delivered_qwords: uint8 [n], the sample header's nr_vectors and
        vector_qwords (for legacy XMM: registers with both halves in the mask, and 2).
    predicates: uint64 [n, 8 or 0], opmask registers; delivered_predicates: uint8 [n] (nr_pred,
        and 0 where the header says that a predicate has no qwords).
    xstate_bv: uint64 [n] or None. XSTATE_BV of the image where the source knows it: a clear bit
        of a component that was asked for means "initial state". None: the source cannot tell;
        all ones: this one sample does not tell.
    predicate_mask: uint8 [n], opmask register numbers delivered.
    header: uint64 [n], the SIMD header as read, nr_vectors, vector_qwords, nr_pred and pred_qwords
        from bit 0, 16, 32 and 48 up; 0 where there is none.
    asked_components: uint64 [n] or None. XSAVE components that were asked for (RFBM), where samples
        say so themselves; all ones in rows that do not. None: the event's attr says what was.
    verdict: uint8 [n, len(VERDICT_CLASSES)], coherence.Verdict codes; 0 (unknown) until judged.
    reason: uint64 [n], coherence reason bits; 0 until judged.
    """

    name: str
    abi: U8
    gpr_ids: tuple[int, ...]
    gprs: U64
    gpr_mask: U64
    vectors: U64
    vector_mask: U32
    delivered_vectors: U8
    delivered_qwords: U8
    predicates: U64
    delivered_predicates: U8
    xstate_bv: U64 | None = None
    verdict: U8 = field(default_factory=lambda: np.zeros((0, 5), np.uint8))
    reason: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    predicate_mask: U8 = field(default_factory=lambda: np.zeros(0, np.uint8))
    header: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    asked_components: U64 | None = None

    def gpr(self, gpr_id: int) -> U64 | None:
        """Column of one general register by canonical id; None where no event asked for it."""
        if gpr_id not in self.gpr_ids:
            return None
        return self.gprs[:, self.gpr_ids.index(gpr_id)]


@dataclass(slots=True)
class SnapshotBatch:
    """Columns of n samples, in the order in which the recording is read.

    time_ns, ip, period: uint64 [n]; time_ns is 0 where it was not recorded; period is the event's
        fixed one where samples carry none, and 0 where there is neither.
    pid, tid: int32 [n] (-1 where not recorded); cpu: int32 [n] (-1 where not recorded).
    event: uint16 [n], index into the recording's events.
    misc: uint16 [n] as in the record header; cpumode: uint8 [n]; exact_ip: bool [n].
    file_offset: int64 [n], byte offset of the record in the file (-1: from a stream that was
        unpacked).
    stop_flags: uint32 [n], what the `sigtrap` source says of the stop (perfdata.stopinfo bits);
        0 with other sources.
    snapshot_flags: uint64 [n], what the `nmi` source says of the snapshot (SnapshotFlag bits); 0
        in samples that carry none. None where no event of the recording does.
    chain_start: int64 [n + 1], chain: uint64: call chain of sample i is
        chain[chain_start[i]:chain_start[i + 1]], PERF_CONTEXT_* markers kept; None where the
        caller did not ask for chains.
    sets: the register sets that the recording has, by name.
    extra: uint64 [n] by name, what else a caller asked for (decode.EXTRA_COLUMNS); 0 where the
        sample's event has no such field: read the event's sample_type first. "stats", only of
        recordings made with --redact values: uint64 [n, 11], columns STATISTICS;
        all ones in rows that have none, and `words` 0 where no registers were delivered.
    branch_start: int64 [n + 1], branches: uint64 [m, 3], branch stacks like `chain`; None where
        the caller did not ask for them. branch_counters: uint64 [m], what the counters did between
        two branches, packed as the machine says; 0 where the sample's event does not log them.
    read_start: int64 [n + 1], read_values: uint64 [m, 3], counts read with the sample (one, or
        one of each event of the group): count, id and lost samples, 0 where the event's
        read_format asks for no id or lost samples; None where the caller did not ask for them.
    comm, symbol, dso: int32 [n], index into the recording's string tables, -1 unknown;
        symbol_offset: uint64 [n]. Filled in by the recording (None before that).
    """

    time_ns: U64
    ip: U64
    period: U64
    pid: I32
    tid: I32
    cpu: I32
    event: U16
    misc: U16
    cpumode: U8
    exact_ip: Bool
    file_offset: I64
    stop_flags: U32
    sets: dict[str, RegisterSet]
    chain_start: I64 | None = None
    chain: U64 | None = None
    comm: I32 | None = None
    symbol: I32 | None = None
    symbol_offset: U64 | None = None
    dso: I32 | None = None
    extra: dict[str, U64] = field(default_factory=dict)
    branch_start: I64 | None = None
    branches: U64 | None = None
    branch_counters: U64 | None = None
    read_start: I64 | None = None
    read_values: U64 | None = None
    snapshot_flags: U64 | None = None

    def __len__(self) -> int:
        return len(self.time_ns)
