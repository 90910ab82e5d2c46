"""Fuzz target of the nmi source's decoder: formats, records and images made from a few bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from support import sample_writer
from support import snapshot_writer as sw
from support.fuzz_targets import EVERY_COLUMN, check_batch
from support.xsave_writer import AMD, INTEL, compacted, standard

from perfxmm import coherence
from perfxmm.coherence.context import JudgeContext
from perfxmm.coherence.verdicts import Verdict
from perfxmm.event_context import event_context
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.traceformat import parse_format
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.snapshotinfo import ComponentPlace, SnapshotInfo
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.xsaves import plan_snapshots

_MASKS = (0xE7, 0xE6, 0x7, 0x3, 0x2E7, 0x27, 0x8E7, 0x80AE7, 0x1, 0x0, 0x67, 0xA7)
_SAVED_SIZES = frozenset({1, 2, 5, 6, 7, 9, 11, 19})
_WORDS = (16, 24, 160, 200, 416, 464, 512, 520, 528, 560, 576, 832, 896, 1408, 2424)


class Numbers(Protocol):
    """What `fuzz_decoding.Taker` gives."""

    def number(self, size: int) -> int: ...
    def word(self) -> int: ...
    @property
    def left(self) -> int: ...


def decode_snapshots(taker: Numbers) -> None:
    """Decodes and judges; asserts what must hold whatever the bytes are."""
    layout = _layout(taker)
    event = replace(
        sample_writer.event_of(attr_codec.decode(sw.attr(config=layout.number)), ids=(7,)),
        name="xsaves_nmi:snapshot",
    )
    plans, _ = plan_snapshots(
        [event], {layout.number: parse_format(layout.text(), "xsaves_nmi")}, _metadata(taker)
    )
    assert list(plans) == [0]
    snapshots = []
    while taker.left and len(snapshots) < 12:
        snapshots.append(_snapshot(taker))
    records = [sw.sample(n, one, layout) for n, one in enumerate(snapshots)]
    block = sample_writer.block_of(records)
    decoder = Decoder([event], snapshots=plans)
    batch = decoder.decode(block, columns=EVERY_COLUMN)
    check_batch(batch, 1)
    assert len(batch) + sum(decoder.damaged.values()) == len(snapshots)
    backwards = Decoder([event], snapshots=plans)
    turned = backwards.decode(block.select(np.arange(len(block))[::-1]), columns=EVERY_COLUMN)
    assert (turned.ip == batch.ip[::-1]).all()
    assert (turned.sets["intr"].vectors == batch.sets["intr"].vectors[::-1]).all()
    coherence.judge(
        batch, JudgeContext("", "", (event_context(event.attr, event.name, snapshots=True),))
    )
    _check_believed(batch, snapshots)


def _check_believed(batch: SnapshotBatch, snapshots: list[sw.Snapshot]) -> None:
    """What is called coherent is what the image holds, of a user-mode NMI."""
    registers = batch.sets["intr"]
    for row in range(len(batch)):
        if registers.verdict[row, 1] != Verdict.COHERENT:
            continue
        # Times number the samples.
        one = snapshots[(int(batch.time_ns[row]) - 1_000_000_000) // 1000]
        flags = one.flags
        assert flags is None or flags & 0b110011 == 0b010001
        assert one.misc & 7 == 2
        assert one.tgid
        bv, _ = one.header
        held = np.frombuffer(one.image[160:416], "<u8").reshape(16, 2)
        expected = held if bv & 2 else np.zeros((16, 2), np.uint64)
        assert (registers.vectors[row, :16, :2] == expected).all()


def _layout(taker: Numbers) -> sw.Layout:
    choice, order = taker.number(1), taker.number(2)
    rows = list(sw.FIELDS)
    if choice & 1:
        rows[-1] = ("__rel_loc u8[]", *rows[-1][1:])
    for at in range(len(rows) - 1, 0, -1):
        order, other = divmod(order, at + 1)
        rows[at], rows[other] = rows[other], rows[at]
    return sw.Layout((*sw.COMMON, *rows), choice >> 1 & 15, 1 + (choice >> 5) * 911)


def _metadata(taker: Numbers) -> Metadata | None:
    choice = taker.number(1)
    if choice & 3 == 0:
        return None
    offsets = AMD if choice & 4 else INTEL
    rows = [
        ComponentPlace(n, 256 if n == 2 and choice & 8 else size, offsets.get(n, 0), n == 11)
        for n, size in ((2, 256), (5, 64), (6, 512), (7, 1024), (9, 8), (11, 16), (19, 128))
        if choice >> 4 & 1 or n != 6
    ]
    return Metadata(source="nmi", snapshots=SnapshotInfo(components=tuple(rows)).to_dict())


def _snapshot(taker: Numbers) -> sw.Snapshot:
    shape = taker.number(1)
    saved = _MASKS[taker.number(1) % len(_MASKS)]
    bv = taker.number(1) | (saved & ~0xFF if shape & 1 else 0)
    regs = sw.registers(1 + (shape >> 4))
    if shape & 2:
        offsets = AMD if shape & 4 else INTEL
        present = saved & sum(1 << n for n in offsets) | saved & 3
        image = bytearray(standard(regs, offsets=offsets, xcr0=present, xstate_bv=bv & present))
        image[464:472] = bytes(8)
    else:
        image = bytearray(compacted(regs, saved=saved, xstate_bv=bv & saved, filler=0xA5))
    one = sw.Snapshot(rfbm=saved, image=b"")
    for _ in range(taker.number(1) & 7 if shape & 8 else 0):
        what, value = taker.number(1), taker.word() & (1 << 64) - 1
        kind = what & 15
        if kind == 0:
            at = _WORDS[what >> 4 if what >> 4 < len(_WORDS) else 0]
            image[at : at + 8] = value.to_bytes(8, "little")
        elif kind == 1:
            image = image[: value % (len(image) + 1)]
        elif kind == 2:
            image += bytes(value % 600)
        else:
            one = _lie(one, kind, value)
    return replace(one, image=bytes(image))


def _lie(one: sw.Snapshot, kind: int, value: int) -> sw.Snapshot:
    low = value & 0xFFFFFFFF
    changes: dict[int, dict[str, int]] = {
        3: {"place": value & 0xFFFF}, 4: {"room": value & 0xFFFF}, 5: {"said_len": low},
        6: {"flags": low}, 7: {"rfbm": value}, 8: {"xstate_bv": value}, 9: {"xcomp_bv": value},
        10: {"misc": value & 0xFFFF}, 11: {"sample_tid": low}, 12: {"tid": low, "tgid": low},
        13: {"ip": value}, 14: {"sample_ip": value}, 15: {"common_type": value & 0xFFFF},
    }  # fmt: skip
    return replace(one, **changes[kind])  # type: ignore[arg-type]
