"""SIMD registers in recordings of the other byte order: fields of the attr, and sample headers.

x86 is little-endian, so no machine writes them; a tool that turns recordings round might.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support import simd_writer as sw
from support.simd_writer import ARCH, GPR_IDS, SetTruth, Shape, Truth, invented

from perfxmm.kernel.attr import BASE_FIELDS, EventAttr
from perfxmm.kernel.dialects import O1, R2, R6, Dialect, M
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

COUNT = 12
HOSTNAME = 3  # perf tells a bitmap's word size by this bit


def big_attr(attr: EventAttr) -> bytes:
    out = bytearray(176)
    for name, (at, kind) in BASE_FIELDS.items():
        if name != "config4":
            struct.pack_into(">" + kind, out, at, getattr(attr, name))
    struct.pack_into(">I", out, 4, 176)
    for name, (at, kind) in attr.dialect.fields.items():
        if not (name == "pred_qwords" and attr.dialect.enabled_is_pred_qwords):
            struct.pack_into(">" + kind, out, at, getattr(attr.simd, name))
    return bytes(out)


def big_set(one: SetTruth, row: int, dialect: Dialect) -> bytes:
    numbers = (*one.vectors.shape[1:], one.predicates.shape[1], 1)
    out = struct.pack(f">{1 + len(GPR_IDS)}Q", int(one.abi[row]), *one.gprs[row].tolist())
    out += struct.pack(">4H" if dialect.header == "u16" else ">4Q", *numbers)
    for values in (one.vectors[row].ravel(), one.predicates[row]):
        out += struct.pack(f">{values.size}Q", *values.tolist())
    return out


def big_file(truth: Truth, dialect: Dialect) -> bytes:
    attr = big_attr(sw.attr_of(truth, dialect))
    data = b""
    for row in range(len(truth)):
        body = struct.pack(
            ">QIIQII", int(truth.ip[row]), truth.pid[row], truth.tid[row],
            int(truth.time_ns[row]), truth.cpu[row], 0,
        )
        for name in ("user", "intr"):
            if name in truth.sets:
                body += big_set(truth.sets[name], row, dialect)
        data += struct.pack(">IHH", 9, 2, 8 + len(body)) + body
    attrs_at, data_at = 112, 112 + len(attr) + 16
    head = b"2ELIFREP" + struct.pack(
        ">8Q", 104, len(attr) + 16, attrs_at, len(attr) + 16, data_at, len(data), 0, 0
    )
    head = head[:72] + struct.pack(">4Q", 1 << HOSTNAME | 1 << ARCH, 0, 0, 0) + struct.pack(">Q", 1)
    texts = [struct.pack(">I", 64) + text.ljust(64, b"\0") for text in (b"host", b"x86_64")]
    at = data_at + len(data) + 32
    features = struct.pack(">4Q", at, 68, at + 68, 68) + b"".join(texts)
    return head + attr + struct.pack(">QQ", 104, 8) + data + features


@pytest.mark.parametrize("dialect", [M, O1, R2, R6], ids=lambda one: one.name)
@pytest.mark.parametrize("names", [("intr",), ("user", "intr")], ids=len)
def test_both_orders_hold_the_same(
    dialect: Dialect, names: tuple[str, ...], tmp_path: Path
) -> None:
    truth = invented(COUNT, Shape(names=names))
    path = tmp_path / "big.data"
    path.write_bytes(big_file(truth, dialect))
    reader = Reader(str(path))
    assert (reader.byte_order, reader.arch) == ("big", "x86_64")
    decoder = Decoder(reader.events)
    (batch,) = [decoder.decode(block) for block in reader.blocks()]
    assert (decoder.settled[0].dialect, decoder.damaged) == (dialect, {})
    assert reader.events[0].attr.simd == sw.attr_of(truth, dialect).simd
    assert (batch.ip == truth.ip).all()
    for name in names:
        found, want = batch.sets[name], truth.sets[name]
        assert np.array_equal(found.vectors, want.vectors)
        assert np.array_equal(found.predicates, want.predicates)
        assert np.array_equal(found.gprs, want.gprs)
