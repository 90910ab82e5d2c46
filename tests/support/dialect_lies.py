"""Files whose attr and samples do not speak the same dialect, or not quite.

Whatever the reader makes of one of them, no word may be shown as coherent that is not the truth's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from support import simd_writer as sw
from support.lie_check import fitted
from support.simd_writer import Truth

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.dialects import O1, O2, R2, R6, Dialect, L, M

PAIRS = [(one, two) for one in (M, O1, O2, R2, R6, L) for two in (M, O1, O2, R2, R6, L)]
Change = Callable[[EventAttr], EventAttr]


def foreign_attr(truth: Truth, written: Dialect, claimed: Dialect) -> bytes:
    """Samples of one dialect under the attr of another that asks for the same."""
    told = fitted(truth, written, tuple(truth.sets))
    attr = attr_codec.encode(sw.attr_of(told, claimed))
    return sw.recording(told, written, attr_bytes=attr)


def changed_attr(truth: Truth, written: Dialect, change: Change) -> bytes:
    """The right attr with one thing wrong in it."""
    attr = change(sw.attr_of(truth, written))
    return sw.recording(truth, written, attr_bytes=attr_codec.encode(attr))


def _simd(**values: int) -> Change:
    return lambda attr: replace(attr, simd=replace(attr.simd, **values))


CHANGES: dict[str, Change] = {
    "narrower": _simd(vec_qwords=4),
    "narrowest": _simd(vec_qwords=2),
    "fewer-registers": _simd(vec_intr=0xFFFF, vec_user=0xFFFF),
    "shifted-registers": _simd(vec_intr=0xFFFFFFFE, vec_user=0xFFFFFFFE),
    "no-opmasks": _simd(pred_intr=0, pred_user=0),
    "one-set-only": _simd(vec_user=0),
    "fewer-gprs": lambda attr: replace(attr, sample_regs_intr=0xFF0FFE),
    "more-gprs": lambda attr: replace(attr, sample_regs_user=attr.sample_regs_user | 1 << 24),
    "disabled": _simd(enabled=0),
}


def shifted_header(truth: Truth, written: Dialect, words: int) -> bytes:
    """So many words too many (or, negative, too few) in front of the interrupt set."""
    records = []
    for record in sw.sample_records(truth, written):
        kind, misc, _ = struct.unpack_from("<IHH", record)
        body = record[8:]
        at = 32  # behind ip, tid, time, cpu
        body = body[:at] + bytes(8 * words) + body[at:] if words > 0 else (
            body[:at] + body[at - 8 * words :]
        )
        records.append(struct.pack("<IHH", kind, misc, 8 + len(body)) + body)
    return sw.recording(truth, written, records=records)


def damaged_headers(truth: Truth, written: Dialect, rng: np.random.Generator) -> bytes:
    """One of the header's numbers of each sample is anything at all; the payload stays."""
    told = truth.copy()
    for one in told.sets.values():
        registers, qwords = one.vectors.shape[1:]
        said = np.tile(
            np.array([registers, qwords, one.predicates.shape[1], 1], np.uint64), (len(told), 1)
        )
        one.said = said
    records = []
    kind = 32 if written.header == "u64" else 8
    for record in sw.sample_records(told, written):
        data = bytearray(record)
        # Behind header, four fields, abi and 20 general registers of the first set.
        at = 8 + 32 + 8 + 160 + int(rng.integers(0, 4)) * (kind // 4)
        value = int(rng.integers(0, 40))
        struct.pack_into("<Q" if kind == 32 else "<H", data, at, value)
        records.append(bytes(data))
    return sw.recording(truth, written, records=records)
