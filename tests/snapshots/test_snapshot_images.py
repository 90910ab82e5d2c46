"""Samples of xsaves_nmi:snapshot against what was written into them."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sample_writer
from support import snapshot_writer as sw
from support.xsave_writer import AMD, INTEL, SIZES, Registers, compacted, standard

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.registers import GPR_ID, GPR_IP, GPR_SSP
from perfxmm.kernel.traceformat import parse_format
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.snapshotinfo import ComponentPlace, SnapshotFlag, SnapshotInfo
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.xsaves import SnapshotPlan, plan_snapshots, snapshot_layout

EVENT = replace(
    sample_writer.event_of(attr_codec.decode(sw.attr()), ids=(7,)), name="xsaves_nmi:snapshot"
)
SAID = SnapshotFlag.PRESENT | SnapshotFlag.USER | SnapshotFlag.IN_NMI | sw.IPI
COMPACT = SAID | SnapshotFlag.COMPACTED | SnapshotFlag.XSAVES


def info(*rows: ComponentPlace) -> Metadata:
    return Metadata(source="nmi", snapshots=SnapshotInfo(components=rows).to_dict())


def decoder(layout: sw.Layout = sw.PLAIN, metadata: Metadata | None = None) -> Decoder:
    formats = {layout.number: parse_format(layout.text(), "xsaves_nmi")}
    plans, notes = plan_snapshots([EVENT], formats, metadata)
    assert notes == []
    assert list(plans) == [0]
    return Decoder([EVENT], snapshots=plans)


def decode(
    snapshots: list[sw.Snapshot], layout: sw.Layout = sw.PLAIN, metadata: Metadata | None = None
) -> tuple[SnapshotBatch, Decoder]:
    made = decoder(layout, metadata)
    records = [sw.sample(n, one, layout) for n, one in enumerate(snapshots)]
    batch = made.decode(sample_writer.block_of(records))
    assert len(batch) + sum(made.damaged.values()) == len(snapshots)
    return batch, made


def intr(batch: SnapshotBatch) -> RegisterSet:
    assert list(batch.sets) == ["intr"]
    return batch.sets["intr"]


def flags(batch: SnapshotBatch) -> list[int]:
    assert batch.snapshot_flags is not None
    return [int(word) for word in batch.snapshot_flags]


def check(batch: SnapshotBatch, row: int, regs: Registers, saved: int, bv: int) -> None:
    """Every word of a sound snapshot."""
    found = intr(batch)
    live = saved & bv
    qwords = 2 if saved & 2 else 0
    if qwords and saved & 4:
        qwords = 8 if saved & 64 else 4
    count = 0 if not qwords else 32 if qwords == 8 and saved & 128 else 16
    assert (found.delivered_vectors[row], found.delivered_qwords[row]) == (count, qwords)
    assert int(found.vector_mask[row]) == (1 << count) - 1
    parts = ((2, 0, 2), (4, 2, 4), (64, 4, 8))
    for register in range(count):
        expected = [0] * qwords
        for component, first, last in parts if register < 16 else ((128, 0, 8),):
            if live & component and last <= qwords:
                expected[first:last] = regs.vectors[register][first:last]
        assert found.vectors[row, register, :qwords].tolist() == expected
    opmasks = 8 if saved & 32 else 0
    assert found.delivered_predicates[row] == opmasks
    assert int(found.predicate_mask[row]) == (1 << opmasks) - 1
    if opmasks:
        expected = regs.opmask if live & 32 else [0] * 8
        assert found.predicates[row].tolist() == expected
    assert int(found.xstate_bv[row]) == bv if found.xstate_bv is not None else False
    assert int(found.asked_components[row]) == saved if found.asked_components is not None else 0


def test_every_word_of_an_avx512_image() -> None:
    snapshots = [sw.snapshot(sw.registers(n), ip=0x401000 + n, sp=0x7000 + n) for n in range(1, 9)]
    batch, _ = decode(snapshots)
    for row, seed in enumerate(range(1, 9)):
        check(batch, row, sw.registers(seed), 0xE7, 0xE7)
    found = intr(batch)
    assert found.gprs[:, found.gpr_ids.index(GPR_IP)].tolist() == [
        0x401000 + n for n in range(1, 9)
    ]
    assert found.gprs[:, found.gpr_ids.index(GPR_ID["SP"])].tolist() == [
        0x7000 + n for n in range(1, 9)
    ]
    assert set(flags(batch)) == {int(COMPACT)}
    assert (found.abi == 6).all()
    assert int(found.header[0]) == 32 | 8 << 16 | 8 << 32 | 1 << 48


masks = st.sets(st.sampled_from([0, 1, 2, 5, 6, 7, 9])).map(lambda n: sum(1 << k for k in n))
layouts = st.builds(
    lambda order, gap, number, kind: sw.Layout(
        (*sw.COMMON, *((kind + " u8[]", *sw.FIELDS[i][1:]) if sw.FIELDS[i][1] == "xsave"
                       else sw.FIELDS[i] for i in order), ("u32", "later_field", 4, 0)),
        gap, number,
    ),
    st.permutations(range(len(sw.FIELDS))), st.integers(0, 24), st.integers(1, 0xFFFF),
    st.sampled_from(["__data_loc", "__rel_loc"]),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(layouts, st.lists(st.tuples(masks, masks, st.integers(1, 99)), min_size=1, max_size=12),
       st.integers(0, 255))  # fmt: skip
def test_any_layout_any_components_in_use(
    layout: sw.Layout, chosen: list[tuple[int, int, int]], filler: int
) -> None:
    snapshots, truth = [], []
    for saved, bv, seed in chosen:
        bv &= saved
        regs = sw.registers(seed)
        image = compacted(regs, saved=saved, xstate_bv=bv, filler=filler)
        snapshots.append(sw.Snapshot(rfbm=saved, image=image))
        truth.append((regs, saved, bv))
    event = replace(EVENT, attr=attr_codec.decode(sw.attr(config=layout.number)))
    plans, _ = plan_snapshots(
        [event], {layout.number: parse_format(layout.text(), "xsaves_nmi")}, None
    )
    made = Decoder([event], snapshots=plans)
    batch = made.decode(sample_writer.block_of(
        [sw.sample(n, one, layout) for n, one in enumerate(snapshots)]
    ))  # fmt: skip
    assert not made.damaged
    for row, (regs, saved, bv) in enumerate(truth):
        check(batch, row, regs, saved, bv)
    assert set(flags(batch)) == {int(COMPACT)}


@pytest.mark.parametrize(("offsets", "saved"), [(INTEL, 0xE7), (AMD, 0xE7), (AMD, 0x2E7)])
def test_standard_images(offsets: dict[int, int], saved: int) -> None:
    regs = sw.registers(5)
    images = [
        standard(regs, offsets=offsets, xcr0=saved, xstate_bv=bv, filler=0xAA)
        for bv in (saved, 0x3, 0x27)
    ]
    # XCR0 in the image is ptrace's way; XSAVE leaves these bytes alone.
    images = [image[:464] + bytes(8) + image[472:] for image in images]
    snapshots = [sw.Snapshot(rfbm=saved, image=image) for image in images]
    batch, _ = decode(snapshots)
    for row, bv in enumerate((saved, 0x3, 0x27)):
        check(batch, row, regs, saved, bv)
    assert set(flags(batch)) == {int(SAID)}


def test_samples_of_many_kinds_in_one_block() -> None:
    """Shapes differ from sample to sample; some are damaged, in between."""
    regs = [sw.registers(n) for n in range(1, 5)]
    narrow = sw.snapshot(regs[0], saved=0x7)
    wide = sw.snapshot(regs[1], bv=0x67)
    bare = sw.Snapshot(
        rfbm=0x7, image=standard(regs[2], offsets=AMD, xcr0=0x7, xstate_bv=0x7)
    )
    broken = replace(wide, image=wide.image[:1400])
    batch, made = decode([narrow, wide, broken, bare, narrow])
    assert dict(made.damaged) == {"the image is shorter than the components in it": 1}
    for row, (r, saved, bv) in enumerate(
        [(regs[0], 7, 7), (regs[1], 0xE7, 0x67), (regs[2], 7, 7), (regs[0], 7, 7)]
    ):
        check(batch, row, r, saved, bv)
    assert intr(batch).vectors.shape == (4, 32, 8)


def test_extended_gprs_and_the_shadow_stack_pointer() -> None:
    saved = 0xE7 | 1 << 9 | 1 << 11 | 1 << 19
    image = bytearray(compacted(sw.registers(), saved=saved, xstate_bv=saved))
    at = len(image) - 128 - 16
    struct.pack_into("<QQ", image, at, 0x3, 0x7FFF_F000_1230)
    struct.pack_into("<16Q", image, at + 16, *(0xE000 + n for n in range(16, 32)))
    initial = bytearray(image)
    struct.pack_into("<Q", initial, 512, saved & ~(1 << 11 | 1 << 19))
    batch, _ = decode([sw.Snapshot(rfbm=saved, image=bytes(one)) for one in (image, initial)])
    found = intr(batch)
    names = [GPR_ID[f"R{n}"] for n in range(16, 32)]
    columns = [found.gpr_ids.index(n) for n in (*names, GPR_SSP)]
    assert found.gprs[0, columns].tolist() == [0xE000 + n for n in range(16, 32)] + [0x7FFFF0001230]
    assert found.gprs[1, columns].tolist() == [0] * 17
    wanted = sum(1 << n for n in (*names, GPR_SSP, GPR_IP, GPR_ID["SP"]))
    assert found.gpr_mask.tolist() == [wanted] * 2


def test_the_recorded_table_places_what_is_aligned() -> None:
    saved = 0xE7 | 1 << 9 | 1 << 11
    image = bytearray(
        compacted(sw.registers(), saved=saved, xstate_bv=saved, aligned=frozenset({11}))
    )
    struct.pack_into("<QQ", image, len(image) - 16, 0x3, 0xABCDE0)
    rows = [ComponentPlace(n, SIZES[n], AMD[n]) for n in (2, 5, 6, 7, 9)]
    metadata = info(*rows, ComponentPlace(11, 16, 0, aligned=True))
    one = sw.Snapshot(rfbm=saved, image=bytes(image))
    batch, _ = decode([one], metadata=metadata)
    found = intr(batch)
    assert int(found.gprs[0, found.gpr_ids.index(GPR_SSP)]) == 0xABCDE0
    # Without the table nothing is claimed about it, and said so.
    batch, _ = decode([one])
    assert GPR_SSP not in intr(batch).gpr_ids
    assert flags(batch) == [int(COMPACT | SnapshotFlag.UNPLACED)]
    check(batch, 0, sw.registers(), saved, saved)


def test_supervisor_components_and_tiles_are_never_taken() -> None:
    saved = 0xE7 | 1 << 8 | 1 << 10
    marker = b"\x5e\xc2\xe7\x00\x5e\xc2\xe7\x00"
    image = compacted(sw.registers(), saved=0xE7, xstate_bv=0xE7) + marker * 17
    head = bytearray(image)
    struct.pack_into("<QQ", head, 512, saved, saved | 1 << 63)
    batch, _ = decode([sw.Snapshot(rfbm=saved, image=bytes(head))])
    found = intr(batch)
    secret = int.from_bytes(marker, "little")
    for values in (found.vectors, found.gprs, found.predicates):
        assert secret not in values
    assert found.gpr_ids == (GPR_ID["SP"], GPR_IP)


LONG = sw.snapshot()
DAMAGE = [
    (replace(LONG, said_len=len(LONG.image) + 1), "the image is longer than the room it was given"),
    (replace(LONG, room=0x8000), "the image's location leads out of the raw data"),
    (replace(LONG, place=40_000), "the image's location leads out of the raw data"),
    (replace(LONG, place=8), "the image's location leads out of the raw data"),
    (replace(LONG, said_len=575), "the image is shorter than its header"),
    (replace(LONG, said_len=576), "the image is shorter than the components in it"),
    (replace(LONG, said_len=2431), "the image is shorter than the components in it"),
    (replace(LONG, said_len=0xFFFFFFFF), "the image is longer than the room it was given"),
    (replace(LONG, common_type=sw.NUMBER + 1), "the raw data are another tracepoint's"),
]


@pytest.mark.parametrize(("one", "why"), DAMAGE)
def test_a_record_that_does_not_hold_what_it_says_costs_itself(one: sw.Snapshot, why: str) -> None:
    batch, made = decode([LONG, one, LONG])
    assert dict(made.damaged) == {why: 1}
    assert len(batch) == 2
    first = len(sw.sample(0, LONG))
    assert [(p.file_offset, p.what, p.event) for p in made.problems] == [(first, why, 0)]
    for row in range(2):
        check(batch, row, sw.registers(), 0xE7, 0xE7)


def test_raw_data_too_short_for_the_fields() -> None:
    made = decoder()
    body = sw.sample(0, LONG)
    cut = body[:-len(LONG.image) - 40]
    head = bytearray(cut[: len(cut) // 8 * 8])
    struct.pack_into("<H", head, 6, len(head))
    raw_at = 8 + 8 * 6
    struct.pack_into("<I", head, raw_at, len(head) - raw_at - 4)
    batch = made.decode(sample_writer.block_of([bytes(head), body]))
    assert dict(made.damaged) == {"the raw data are shorter than the tracepoint's fields": 1}
    assert len(batch) == 1


def test_an_image_may_end_behind_what_is_in_use() -> None:
    """XSAVES writes nothing of components in their initial state."""
    regs = sw.registers()
    one = sw.snapshot(regs, bv=0x7)
    batch, made = decode([replace(one, image=one.image[:832])])
    assert not made.damaged
    check(batch, 0, regs, 0xE7, 0x7)


def changed(offset: int, value: int, size: int = 8) -> bytes:
    image = bytearray(LONG.image)
    image[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(image)


FAULTS = {
    "reserved header bytes": (replace(LONG, image=changed(528, 1)), SnapshotFlag.RESERVED),
    "reserved flags": (replace(LONG, flags=1 | 16 | 12 | sw.IPI | 1 << 20), SnapshotFlag.RESERVED),
    "bv beyond": (
        replace(LONG, image=changed(512, 0xE7 | 1 << 17)), SnapshotFlag.BV_BEYOND,
    ),
    "xcomp not as asked": (replace(LONG, rfbm=0x2E7), SnapshotFlag.NOT_AS_ASKED),
    "record's xstate_bv": (replace(LONG, xstate_bv=0x7), SnapshotFlag.HEADER_DIFFERS),
    "record's xcomp_bv": (replace(LONG, xcomp_bv=0), SnapshotFlag.HEADER_DIFFERS),
    "not compacted, it says": (replace(LONG, flags=1 | 16), SnapshotFlag.HEADER_DIFFERS),
    "mxcsr": (replace(LONG, image=changed(24, 0xFFFF0000, 4)), SnapshotFlag.MXCSR),
    "thread": (replace(LONG, sample_tid=102), SnapshotFlag.THREAD_DIFFERS),
    "process": (replace(LONG, sample_pid=102), SnapshotFlag.THREAD_DIFFERS),
    "no thread": (replace(LONG, sample_pid=-1, sample_tid=-1), SnapshotFlag.THREAD_DIFFERS),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAULTS))
def test_what_contradicts_itself_is_read_and_marked(name: str) -> None:
    one, flag = FAULTS[name]
    batch, made = decode([LONG, one])
    assert not made.damaged
    sound, found = flags(batch)
    assert sound == int(COMPACT)
    assert SnapshotFlag(found) & flag
    others = SnapshotFlag(found) & ~SnapshotFlag(0xFFFFFFFF) & ~flag & ~SnapshotFlag.PRESENT
    assert others == 0


def test_an_impossible_xcomp_bv_leaves_no_vectors() -> None:
    batch, _ = decode([replace(LONG, image=changed(520, 0xE7))])
    found = intr(batch)
    assert int(found.vector_mask[0]) == 0
    assert int(found.gpr_mask[0]) == 1 << GPR_IP | 1 << GPR_ID["SP"]
    assert SnapshotFlag(flags(batch)[0]) & SnapshotFlag.XCOMP_BV


def test_an_empty_image_is_one_left_out() -> None:
    batch, made = decode([replace(LONG, image=b""), LONG])
    assert not made.damaged
    assert intr(batch).abi.tolist() == [0, 6]
    assert int(intr(batch).gpr_mask[0]) == 0
    assert SnapshotFlag(flags(batch)[0]) & SnapshotFlag.NO_IMAGE
    check(batch, 1, sw.registers(), 0xE7, 0xE7)


def test_shuffled_samples_come_out_the_same() -> None:
    rng = random.Random(5)
    ones = [sw.snapshot(sw.registers(n), saved=rng.choice([0x7, 0xE7, 0x27]), ip=n)
            for n in range(40)]  # fmt: skip
    order = rng.sample(range(40), 40)
    batch, _ = decode(ones)
    turned, _ = decode([ones[n] for n in order])
    for row, n in enumerate(order):
        assert (turned.sets["intr"].vectors[row] == batch.sets["intr"].vectors[n]).all()
    assert np.array_equal(turned.ip, batch.ip[order])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (tuple(f for f in sw.FIELDS if f[1] != "rfbm"), "the recorded format lacks rfbm"),
        (tuple(("u64[2]", *f[1:]) if f[1] == "ip" else f for f in sw.FIELDS),
         "field ip of the recorded format is no number"),
        (tuple(("u8[4]", *f[1:]) if f[1] == "xsave" else f for f in sw.FIELDS),
         "field xsave of the recorded format is no __data_loc or __rel_loc"),
    ],
)  # fmt: skip
def test_formats_that_are_another(fields: tuple[tuple[str, str, int, int], ...], why: str) -> None:
    layout = sw.Layout((*sw.COMMON, *fields))
    formats = {layout.number: parse_format(layout.text(), "xsaves_nmi")}
    plans, notes = plan_snapshots([EVENT], formats, None)
    assert plans == {}
    assert notes == [f"event 0: xsaves_nmi:snapshot, but its register images are not read: {why}"]


def test_no_format_no_images() -> None:
    plans, notes = plan_snapshots([EVENT], {}, None)
    assert plans == {}
    assert notes == [
        "event 0: xsaves_nmi:snapshot, but its register images are not read: the recording does "
        "not keep its format (tracing data)"
    ]


def test_the_raw_field_of_source_sigtrap_is_its_own() -> None:
    formats = {sw.NUMBER: parse_format(sw.PLAIN.text(), "xsaves_nmi")}
    assert plan_snapshots([EVENT], formats, Metadata(source="sigtrap")) == ({}, [])


def test_a_table_from_the_recording_goes_into_the_layout() -> None:
    made = snapshot_layout(info(ComponentPlace(2, 256, 576), ComponentPlace(11, 16, 0, True)))
    assert made is not None
    assert (made.places[2].offset, made.places[11].flags) == (576, 3)
    assert snapshot_layout(Metadata(source="nmi")) is None
    assert SnapshotPlan(parse_format(sw.PLAIN.text(), "x"), made).why_not == ""
