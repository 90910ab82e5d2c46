"""Fuzz target of the decoders alone: attrs, records and XSAVE images made from a few bytes.

Every input means something, so that a fuzzer's flips land in the decoders and not in checks on the
way to them. `Taker` spells it out.
"""

from __future__ import annotations

import numpy as np
from support import sample_writer as sw
from support.fuzz_snapshots import decode_snapshots
from support.fuzz_targets import EVERY_COLUMN, check_batch

from perfxmm import coherence
from perfxmm.coherence.context import JudgeContext
from perfxmm.event_context import event_context
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, RecordType
from perfxmm.kernel.dialects import O1, R2, Dialect, L, M, SimdRequest
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import Decoder
from perfxmm.xstate.components import XSTATE_BV_OFFSET
from perfxmm.xstate.image import decode_images
from perfxmm.xstate.layout import FLAG_ALIGN64, FLAG_SUPERVISOR, Layout, Place

_NUMBERS = (
    0xFF, 0x100, 0x1000, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFE00, 0xFFFFFFFFFFFFFF80,
    0xFFFFFFFFFFFFFFF8, 0xFFFFFFFFFFFFFFFF, 0x0000000400000010, 0x0001000400080010,
    0x0008000800080020, 0x50455246584D4D31, 0x800000010, 0xFFFF0000FFFF0000,
)  # fmt: skip
_RAW_WORD = 0xFF
_SNAPSHOTS = 0xFC
_TABLE_FROM = 0xC0
_MOST_RECORDS, _MOST_WORDS = 24, 700
_DIALECTS = (L, M, O1, R2)
_QWORDS = (0, 1, 2, 4, 8, 3, 16, 0xFFFF)
_TYPES = (RecordType.SAMPLE,) * 12 + (1, 2, 3, 10)
_CLASSES = ("xmm", "ymm", "zmm", "opmask")
_COMPONENTS = (2, 5, 6, 7, 9, 11, 17, 19)


class Taker:
    """Takes numbers from the front of bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def number(self, size: int) -> int:
        raw = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(raw, "little")

    def word(self) -> int:
        """A u64 in one byte where it is small or well known, in nine where it is not."""
        first = self.number(1)
        if first == _RAW_WORD:
            return self.number(8)
        if first >= _TABLE_FROM:
            return _NUMBERS[(first - _TABLE_FROM) % len(_NUMBERS)]
        return first

    def rest(self) -> bytes:
        raw = self._data[self._at :]
        self._at = len(self._data)
        return raw


def decode_something(data: bytes) -> None:
    """Samples where the first byte is even, images where it is odd, the nmi source's from 0xFC on.
    """
    taker = Taker(data)
    kind = taker.number(1)
    if kind >= _SNAPSHOTS:
        decode_snapshots(taker)
    elif kind & 1:
        _images(taker)
    else:
        _samples(taker)


def _samples(taker: Taker) -> None:
    choice = taker.number(1)
    attrs = [_attr(taker) for _ in range(1 + (choice & 1))]
    events = [
        sw.event_of(attr, index=index, ids=(7 + index,)) for index, attr in enumerate(attrs)
    ]  # fmt: skip
    records = _records(taker)
    block = sw.block_of(records, file_base=8 * (choice >> 6), before=bytes(choice >> 2 & 4))
    options = {
        "stop_info": bool(choice & 2), "arch": "aarch64" if choice & 60 == 60 else "x86_64"
    }  # fmt: skip
    decoder = Decoder(events, **options)
    batch = decoder.decode(block, columns=EVERY_COLUMN)
    check_batch(batch, len(events))
    left_out = sum(decoder.damaged.values())
    samples = int(np.count_nonzero(block.types == RecordType.SAMPLE))
    assert len(batch) + left_out == samples, (len(batch), left_out, samples)
    assert len(decoder.problems) == left_out + decoder.strange
    for _ in decoder.sideband(block):
        pass
    if len(block) % 3 == 2:
        # The samples do not know of each other: in another order the same must come out.
        backwards = Decoder(events, **options)
        turned = block.select(np.arange(len(block))[::-1])
        _same_reversed(batch, backwards.decode(turned, columns=EVERY_COLUMN))
        assert backwards.damaged == decoder.damaged
    coherence.judge(
        batch, JudgeContext(source="", engine="", events=tuple(event_context(a) for a in attrs))
    )


def _attr(taker: Taker) -> EventAttr:
    choice, more = taker.number(1), taker.number(1)
    dialect: Dialect = _DIALECTS[choice & 3]
    enabled = choice >> 2 & 1 if dialect.fields else 0
    simd = SimdRequest()
    sample_type = taker.number(4)
    if not more & 0x80:
        sample_type &= (1 << 25) - 1
    if enabled:
        simd = SimdRequest(
            enabled=1, vec_qwords=_QWORDS[taker.number(1) & 7],
            vec_intr=taker.word() & (1 << 64) - 1, vec_user=taker.word(),
            pred_qwords=_QWORDS[taker.number(1) & 7], pred_intr=taker.number(1),
            pred_user=taker.number(1),
        )  # fmt: skip
    flags = 0
    for bit, flag in enumerate((AttrFlag.SAMPLE_ID_ALL, AttrFlag.FREQ, AttrFlag.DEFER_CALLCHAIN)):
        flags |= int(flag) * (more >> bit & 1)
    return EventAttr(
        type=more >> 3 & 7, sample_period=1000, sample_type=sample_type,
        read_format=taker.number(1), flags=flags, sample_regs_intr=taker.word(),
        sample_regs_user=taker.word(),
        branch_sample_type=(choice >> 3 & 1) << 17 | (choice >> 4 & 1) << 19, dialect=dialect,
        simd=simd,
    )  # fmt: skip


def _records(taker: Taker) -> list[bytes]:
    """Up to _MOST_RECORDS records; one word of the input can be many of a record."""
    records: list[bytes] = []
    again: bytes | None = None
    while taker.left and len(records) < _MOST_RECORDS:
        shape = taker.number(1)
        if shape & 0xF0 == 0xF0 and again is not None:
            records += [again] * (shape & 0xF)  # alike records are decoded in another way
            continue
        count = taker.number(1) * (4 if shape & 0x80 else 1)
        words: list[int] = []
        while taker.left and len(words) < min(count, _MOST_WORDS):
            words.append(taker.word())
        words += [0] * (count - len(words) if shape & 0x40 else 0)
        body = b"".join(word.to_bytes(8, "little") for word in words[:_MOST_WORDS])
        if shape & 0x30 == 0x30:
            body += b"odd"
        again = sw.record(int(_TYPES[shape & 0xF]), taker.number(1), body)
        records.append(again)
    return records[:_MOST_RECORDS]


def _same_reversed(one: SnapshotBatch, other: SnapshotBatch) -> None:
    assert len(one) == len(other)
    for name in ("time_ns", "ip", "pid", "cpu", "event", "file_offset", "stop_flags"):
        assert (getattr(one, name) == getattr(other, name)[::-1]).all(), name
    assert one.sets.keys() == other.sets.keys()
    for name, registers in one.sets.items():
        for column in ("abi", "gprs", "gpr_mask", "vectors", "vector_mask", "predicates",
                       "delivered_vectors", "delivered_qwords", "header"):  # fmt: skip
            mine, theirs = getattr(registers, column), getattr(other.sets[name], column)
            assert (mine == theirs[::-1]).all(), (name, column)


def _images(taker: Taker) -> None:
    choice, classes = taker.number(1), taker.number(1)
    wanted = frozenset(name for bit, name in enumerate(_CLASSES) if classes >> bit & 1)
    layout = _layout(choice, taker)
    count, xcr0 = 1 + (choice >> 2 & 3), taker.number(1)
    length = taker.number(2) % 3000
    state_bv, xcomp_bv = taker.word(), taker.word()
    raw = bytearray((taker.rest() or b"\0") * (count * length + 1))[: count * length]
    images = np.frombuffer(raw, np.uint8).reshape(count, length)
    if choice & 0x10 and length >= 576:  # a header that makes sense
        images[:, 24:32] = np.frombuffer(b"\x80\x1f\0\0\xff\xff\2\0", np.uint8)
        images[:, 512:576] = 0
        head = [value.to_bytes(8, "little") for value in (state_bv, xcomp_bv)]
        images[:, XSTATE_BV_OFFSET : XSTATE_BV_OFFSET + 16] = np.frombuffer(
            b"".join(head), np.uint8
        )
    found = decode_images(images, layout, wanted, xcr0=xcr0 if choice & 0x20 else None)
    assert len(found.vectors) == len(found.problems) == count
    for row in range(count):
        if found.problems[row]:
            assert not found.vectors[row].any()
            assert not found.opmask[row].any()
        elif found.vectors.shape[2] and int(found.xstate_bv[row]) >> 1 & 1:
            saved = images[row, 160:416].tobytes()
            assert found.vectors[row, :16, :2].astype("<u8").tobytes() == saved
        elif found.vectors.shape[2]:
            assert not found.vectors[row, :16, :2].any()


def _layout(choice: int, taker: Taker) -> Layout:
    """An honest one, or places that a recording's metadata could claim."""
    if choice & 3 == 0:
        return Layout({2: Place(576, 256), 5: Place(832, 64), 6: Place(896, 512),
                       7: Place(1408, 1024)})  # fmt: skip
    if choice & 3 == 1:
        return Layout({2: Place(576, 256, FLAG_ALIGN64), 5: Place(1088, 64, FLAG_ALIGN64),
                       6: Place(1152, 512), 7: Place(1664, 1024, FLAG_ALIGN64),
                       11: Place(0, 16, FLAG_SUPERVISOR)})  # fmt: skip
    claimed = {
        str(number): [taker.number(2), taker.number(2)] for number in _COMPONENTS
        if taker.number(1) & 1
    }  # fmt: skip
    try:
        return Layout.from_json(claimed)
    except ValueError:
        return Layout({})
