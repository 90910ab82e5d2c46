"""Compares decoded samples with rows of an .expected.jsonl, whatever keys those rows have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.layout import LayoutPlan
from perfxmm.kernel.registers import GPR_NAMES
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch
from perfxmm.snapshots.decode import ALL_COLUMNS, EXTRA_COLUMNS, Decoder

EVERYTHING = (*ALL_COLUMNS, *EXTRA_COLUMNS, "branches")


def load_rows(recording: Path) -> list[dict[str, Any]]:
    """The expected samples of `recording` (NAME.data), without the meta line."""
    plain = recording.with_suffix(".expected.jsonl")
    packed = plain.with_name(plain.name + ".gz")
    text = plain.read_text() if plain.exists() else gzip.decompress(packed.read_bytes()).decode()
    rows = [json.loads(line) for line in text.splitlines()]
    assert "meta" in rows[0]
    return rows[1:]


def decoded_rows(recording: Path, keys_of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every sample of `recording` as a dict with the keys that the expected rows have."""
    reader = Reader(recording)
    decoder = Decoder(reader.events)
    out: list[dict[str, Any]] = []
    for block in reader.blocks():
        batch = decoder.decode(block, columns=EVERYTHING)
        for row in range(len(batch)):
            plan = decoder.plans[int(batch.event[row])]
            wanted = keys_of[len(out)] if len(out) < len(keys_of) else {}
            out.append(_row(batch, row, plan, wanted, reader.data_start, block, len(out)))
    assert not decoder.damaged
    assert not reader.damage
    return out


def _row(
    batch: SnapshotBatch, row: int, plan: LayoutPlan, wanted: dict[str, Any], data_start: int,
    block: Any, number: int,
) -> dict[str, Any]:
    extra = batch.extra
    in_block = int(np.flatnonzero(block.offsets + block.file_base == batch.file_offset[row])[0])
    known = {
        "n": lambda: number,
        "event": lambda: int(batch.event[row]),
        "id": lambda: int(extra["id"][row]),
        "stream_id": lambda: int(extra["stream_id"][row]),
        "time": lambda: int(batch.time_ns[row]),
        "ip": lambda: _hex(batch.ip[row]),
        "pid": lambda: int(batch.pid[row]),
        "tid": lambda: int(batch.tid[row]),
        "cpu": lambda: int(batch.cpu[row]) if "cpu" in plan.fixed else None,
        "cpumode": lambda: CpuMode(int(batch.cpumode[row])).name,
        "exact_ip": lambda: int(batch.exact_ip[row]),
        "period": lambda: int(batch.period[row]) if "period" in plan.fixed else None,
        "addr": lambda: _hex(extra["addr"][row]),
        "callchain": lambda: [_hex(v) for v in _span(batch.chain_start, batch.chain, row)],
        "branch_stack": lambda: [
            [_hex(v) for v in entry] for entry in _span(batch.branch_start, batch.branches, row)
        ],
        "user_stack_size": lambda: int(extra["user_stack_bytes"][row]),
        "user_stack_dyn_size": lambda: int(extra["user_stack_dyn_bytes"][row]),
        "user_stack_head": lambda: block.buffer[int(extra["user_stack_offset"][row]):][
            : min(16, int(extra["user_stack_bytes"][row]))
        ].tobytes().hex(),
        "weight": lambda: int(extra["weight"][row]),
        "data_src": lambda: _hex(extra["data_src"][row]),
        "transaction": lambda: _hex(extra["transaction"][row]),
        "phys_addr": lambda: _hex(extra["phys_addr"][row]),
        "cgroup": lambda: int(extra["cgroup"][row]),
        "data_page_size": lambda: int(extra["data_page_size"][row]),
        "code_page_size": lambda: int(extra["code_page_size"][row]),
        "record_offset": lambda: int(batch.file_offset[row]) - data_start,
        "record_size": lambda: int(block.sizes[in_block]),
    }  # fmt: skip
    out = {}
    for key in wanted:
        if key in ("intr", "user"):
            out[key] = _set(batch.sets[key], row, wanted[key])
        else:
            assert key in known, f"no column stands behind {key}"
            out[key] = known[key]()
    for name in plan.sets:
        assert name in wanted
    return out


def _set(found: RegisterSet, row: int, wanted: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"abi": int(found.abi[row])}
    if not out["abi"]:
        assert not found.gpr_mask[row]
        assert not found.vector_mask[row]
        assert not found.predicate_mask[row]
        return out
    gprs = {
        GPR_NAMES[number]: _hex(found.gprs[row, column])
        for column, number in enumerate(found.gpr_ids) if int(found.gpr_mask[row]) >> number & 1
    }  # fmt: skip
    mask = int(found.vector_mask[row])
    qwords = int(found.delivered_qwords[row])
    if not out["abi"] & 4:
        for register in range(32):
            if mask >> register & 1:
                gprs[f"XMM{register}.0"] = _hex(found.vectors[row, register, 0])
                gprs[f"XMM{register}.1"] = _hex(found.vectors[row, register, 1])
        return {**out, "gprs": gprs}
    header = int(found.header[row])
    out["gprs"] = gprs
    names = ("nr_vectors", "vector_qwords", "nr_pred", "pred_qwords")
    out.update({name: header >> 16 * at & 0xFFFF for at, name in enumerate(names)})
    assert out["nr_vectors"] == found.delivered_vectors[row]
    assert out["vector_qwords"] == qwords
    vectors = [found.vectors[row, r, :qwords] for r in range(32) if mask >> r & 1]
    out["vectors"] = [[_hex(v) for v in register] for register in vectors]
    predicates = int(found.predicate_mask[row])
    out["predicates"] = [
        [_hex(found.predicates[row, r])] for r in range(8) if predicates >> r & 1
    ]
    assert not found.vectors[row, [r for r in range(found.vectors.shape[1])
                                   if not mask >> r & 1]].any()  # fmt: skip
    # Rows may leave out empty lists or headers of classes nobody asked for.
    return {key: value for key, value in out.items() if key in wanted or value}


def _span(starts: Any, values: Any, row: int) -> Any:
    return values[starts[row] : starts[row + 1]]


def _hex(value: Any) -> str:
    return f"{int(value):016x}"
