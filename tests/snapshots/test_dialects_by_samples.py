"""Which dialect an event is in, by its attr and its first samples; and what is then decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import sample_writer as sw
from support.attr_bytes import plain_attr

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.kernel.dialects import O1, O2, R2, R6, Dialect, M, SimdRequest
from perfxmm.kernel.layout import bits_of
from perfxmm.snapshots.decode import Decoder

BASE = int(SampleType.IP | SampleType.TID | SampleType.TIME)
FULL = {2: 0xFFFF, 4: 0xFFFF, 8: 0xFFFFFFFF}


def attr_of(
    dialect: Dialect, *, qwords: int = 8, pred: int = 0xFF, both: bool = False, vec: int = -1
) -> EventAttr:
    """An attr that a kernel of `dialect` takes: vectors and opmasks of intr, or of both sets."""
    mask = FULL.get(qwords, 0) if vec < 0 else vec
    union = dialect.enabled_is_pred_qwords
    simd = SimdRequest(
        1, 1 if pred or union else 0, qwords, pred, pred if both else 0, mask, mask if both else 0
    )
    kinds = SampleType.REGS_INTR | (SampleType.REGS_USER if both else 0)
    return EventAttr(
        sample_type=BASE | int(kinds), sample_regs_intr=0x101, sample_regs_user=0x100 * both,
        dialect=dialect, simd=simd, size=176,
    )


def set_of(attr: EventAttr, *, gprs: int = 2, first: int = 1) -> sw.SetValues:
    """A full set; a word is first + 256 * register + qword, an opmask 0xF0 + register."""
    simd = attr.simd
    vectors = bits_of(simd.vec_intr)
    said = (len(vectors), simd.vec_qwords, simd.pred_intr.bit_count(), simd.pred_qwords)
    return sw.SetValues(
        abi=6, gprs=list(range(gprs)), said=said,
        vectors=[[first + 256 * r + q for q in range(simd.vec_qwords)] for r in vectors],
        predicates=[[0xF0 + r] for r in bits_of(simd.pred_intr)],
    )


def sample(attr: EventAttr, **more: object) -> sw.SampleValues:
    values = sw.SampleValues(ip=5, pid=1, tid=1, intr=set_of(attr), user=set_of(attr, gprs=1))
    return replace(values, **more)  # type: ignore[arg-type]


def reread(attr: EventAttr) -> EventAttr:
    """As a reader meets it: by its bytes alone."""
    return attr_codec.decode(attr_codec.encode(attr))


# written in | what is asked for | what the attr alone says | confirmed by the samples
WRITTEN = [
    (M, {}, "M", True), (M, {"qwords": 2, "pred": 0}, "M", True),
    (M, {"qwords": 0, "pred": 0xFF}, "M", True), (M, {"qwords": 0, "pred": 0}, "M", True),
    (M, {"both": True, "qwords": 4}, "M", True),
    (O1, {}, "O1", True), (O1, {"qwords": 4, "pred": 0}, "O1", True),
    (O1, {"qwords": 0}, "O1", True), (O1, {"both": True, "vec": 0xF}, "O1", True),
    (O1, {"qwords": 0, "pred": 0}, "M", False),  # only eGPR or SSP: the union's echo tells
    (O2, {"vec": 0xF0F}, "O2", True), (O2, {"pred": 0x3}, "O2", True),
    (R2, {}, "R2", True), (R2, {"qwords": 0}, "R2", True), (R2, {"both": True}, "R2", True),
    (R2, {"qwords": 0, "pred": 0}, "R2", True), (R2, {"vec": 0x30001, "pred": 1}, "R2", True),
    (R6, {}, "O1", False), (R6, {"qwords": 2, "pred": 0}, "O1", False),
    (R6, {"qwords": 0}, "O1", False), (R6, {"qwords": 0, "pred": 0}, "M", False),
    (R6, {"both": True}, "O1", False),
]  # fmt: skip


@pytest.mark.parametrize(("written", "asked", "claimed", "confirmed"), WRITTEN)
@pytest.mark.parametrize("count", [1, 9])
def test_each_dialect_is_known_by_its_first_samples(
    written: Dialect, asked: dict[str, int], claimed: str, confirmed: bool, count: int
) -> None:
    attr = attr_of(written, **asked)  # type: ignore[arg-type]
    read = reread(attr)
    assert read.dialect.name == claimed
    decoder = Decoder([sw.event_of(read)])
    block = sw.block_of([sw.sample_record(attr, sample(attr))] * count)
    batch = decoder.decode(block)
    said = decoder.settled[0]
    assert (said.dialect.name, said.confirmed) == (written.name, confirmed)
    assert said.attr.simd == attr.simd
    assert not decoder.damaged
    found = batch.sets["intr"]
    assert found.vector_mask.tolist() == [attr.simd.vec_intr] * count
    assert found.predicate_mask.tolist() == [attr.simd.pred_intr] * count
    for register in bits_of(attr.simd.vec_intr):
        assert found.vectors[count - 1, register].tolist() == [
            1 + 256 * register + q for q in range(attr.simd.vec_qwords)
        ]
    for register in bits_of(attr.simd.pred_intr):
        assert found.predicates[count - 1, register] == 0xF0 + register


def test_an_attr_that_reads_as_two_dialects_is_the_samples_to_name() -> None:
    """u16 at 136 and at 144 are 1: M with a config4 that no PMU uses, or R2 with one opmask."""
    raw = bytearray(plain_attr(176, {136: 1, 144: 1, 148: 4, 160: 0xFFFF}))
    raw[24:32] = (BASE | int(SampleType.REGS_USER)).to_bytes(8, "little")
    raw[80:88] = (1).to_bytes(8, "little")
    read = attr_codec.decode(bytes(raw))
    assert read.dialect is M
    as_r2 = attr_codec.decode(bytes(raw), dialect=R2)
    values = sw.SetValues(
        abi=6, gprs=[1], vectors=[[r, 1, 2, 3] for r in range(16)], predicates=[[9]]
    )
    record = sw.sample_record(as_r2, sw.SampleValues(user=values))
    decoder = Decoder([sw.event_of(read)])
    found = decoder.decode(sw.block_of([record] * 3)).sets["user"]
    assert decoder.settled[0].dialect is R2
    assert found.vectors[2, 15].tolist() == [15, 1, 2, 3]
    assert found.predicates[2, 0] == 9


def test_events_of_one_file_may_differ() -> None:
    attrs = [
        replace(attr, sample_type=attr.sample_type | SampleType.IDENTIFIER)
        for attr in (attr_of(M), attr_of(R6, qwords=2, pred=0), attr_of(R2, qwords=4))
    ]
    events = [
        sw.event_of(reread(attr), index=at, ids=(10 + at,)) for at, attr in enumerate(attrs)
    ]
    decoder = Decoder(events)
    records = [
        sw.sample_record(attr, sample(attr, identifier=10 + at)) for at, attr in enumerate(attrs)
    ]
    batch = decoder.decode(sw.block_of(records * 4))
    assert [said.dialect.name for said in decoder.settled] == ["M", "R6", "R2"]
    assert batch.event.tolist() == [0, 1, 2] * 4
    assert batch.sets["intr"].delivered_qwords.tolist() == [8, 2, 4] * 4


def test_no_header_no_opinion() -> None:
    """abi 0 and abi 2 say nothing; the first sample with a header does, whenever it comes."""
    attr = attr_of(R6)
    decoder = Decoder([sw.event_of(reread(attr))])
    empty = sw.sample_record(attr, sample(attr, intr=sw.SetValues(abi=0)))
    plain = sw.sample_record(attr, sample(attr, intr=sw.SetValues(abi=2, gprs=[1, 2])))
    assert len(decoder.decode(sw.block_of([empty, plain] * 50))) == 100
    assert (decoder.settled[0].dialect, decoder.settled[0].confirmed) == (O1, None)
    full = sw.sample_record(attr, sample(attr))
    batch = decoder.decode(sw.block_of([empty, full]))
    assert batch.sets["intr"].delivered_vectors.tolist() == [0, 32]
    assert decoder.settled[0].dialect is R6


def test_given_dialects_are_not_overruled() -> None:
    attr = attr_of(R6)
    record = sw.sample_record(attr, sample(attr))
    decoder = Decoder([sw.event_of(reread(attr))], trust_attrs=True)
    assert len(decoder.decode(sw.block_of([record] * 3))) == 0
    assert decoder.settled[0].dialect is O1
    assert sum(decoder.damaged.values()) == 3
    given = Decoder([sw.event_of(replace(reread(attr), dialect=R6))], trust_attrs=True)
    assert len(given.decode(sw.block_of([record] * 3))) == 3
    assert given.settled[0].confirmed is True


def test_headers_of_no_known_dialect_are_read_but_named_so() -> None:
    """M's attr with u16 headers: nobody writes that, so the rules assume the worst."""
    attr = attr_of(M)
    record = sw.sample_record(replace(attr, dialect=dialects.UNKNOWN), sample(attr))
    decoder = Decoder([sw.event_of(attr)])
    assert len(decoder.decode(sw.block_of([record] * 3))) == 3
    assert decoder.settled[0].dialect.name == "unknown"
    assert decoder.settled[0].confirmed is False


def test_u64_headers_may_say_less_than_was_asked_for() -> None:
    """The UAPI header's comment allows it, though no known kernel does."""
    attr = attr_of(M)
    less = sample(attr)
    assert less.intr is not None
    less.intr = replace(
        less.intr, vectors=less.intr.vectors[:16], said=(16, 8, 8, 1)
    )
    decoder = Decoder([sw.event_of(attr)])
    records = [sw.sample_record(attr, less)] * 3 + [sw.sample_record(attr, sample(attr))]
    batch = decoder.decode(sw.block_of(records))
    assert (decoder.settled[0].dialect, decoder.settled[0].confirmed) == (M, True)
    assert decoder.settled[0].evidence == (
        "the first 4 samples have u64 SIMD headers that fit it, 3 of them with less than was asked "
        "for"
    )
    assert batch.sets["intr"].vector_mask.tolist() == [0xFFFF] * 3 + [0xFFFFFFFF]


def test_an_echo_tells_two_readings_with_headers_of_one_size_apart() -> None:
    """Opmasks without any width: to the attr alone O1's, whose header would say one qword."""
    attr = EventAttr(
        sample_type=BASE | int(SampleType.REGS_INTR), sample_regs_intr=1, dialect=M, size=176,
        simd=SimdRequest(enabled=1, pred_intr=0xFF),
    )
    read = reread(attr)
    assert read.dialect is O1
    quirk = sw.SampleValues(intr=sw.SetValues(abi=6, gprs=[1], said=(0, 0, 8, 0)))
    decoder = Decoder([sw.event_of(read)])
    batch = decoder.decode(sw.block_of([sw.sample_record(attr, quirk)] * 3))
    assert decoder.settled[0].dialect is M
    assert batch.sets["intr"].delivered_predicates.tolist() == [0] * 3


def test_damaged_first_samples_do_not_settle_anything() -> None:
    attr = attr_of(M)
    good = sw.sample_record(attr, sample(attr))
    bad = sample(attr)
    assert bad.intr is not None
    bad.intr = replace(bad.intr, said=(99, 8, 8, 1))
    decoder = Decoder([sw.event_of(reread(attr))])
    assert len(decoder.decode(sw.block_of([sw.sample_record(attr, bad)] * 3))) == 0
    assert decoder.settled[0].confirmed is None
    assert len(decoder.decode(sw.block_of([good] * 3))) == 3
    assert decoder.settled[0].confirmed is True
    assert sum(decoder.damaged.values()) == 3


# attr.size as written by a tool that knows less, or more, than the kernel
SIZES = [(R2, 168), (R2, 176), (R2, 200), (M, 192), (O1, 184)]


@pytest.mark.parametrize(("dialect", "size"), SIZES)
def test_sizes_of_the_struct(dialect: Dialect, size: int) -> None:
    attr = replace(attr_of(dialect), size=size)
    read = reread(attr)
    assert (read.dialect, read.size, read.simd) == (dialect, size, attr.simd)


def test_m_cut_to_168_bytes_has_no_user_vectors() -> None:
    attr = attr_of(M, both=True)
    read = attr_codec.decode(attr_codec.encode(attr)[:4] + (168).to_bytes(4, "little")
                             + attr_codec.encode(attr)[8:168])  # fmt: skip
    assert (read.dialect, read.simd) == (M, replace(attr.simd, vec_user=0))


def test_postings_with_opmasks_only_in_an_old_sized_attr() -> None:
    """144 bytes hold R2's `enabled` and intr opmasks; to the attr alone that is config4."""
    attr = replace(attr_of(R2, qwords=0), size=144)
    raw = attr_codec.encode(replace(attr, size=176))[:144]
    raw = raw[:4] + (144).to_bytes(4, "little") + raw[8:]
    read = attr_codec.decode(raw)
    assert read.dialect is dialects.L
    decoder = Decoder([sw.event_of(read)])
    found = decoder.decode(sw.block_of([sw.sample_record(attr, sample(attr))] * 3)).sets["intr"]
    assert decoder.settled[0].dialect is R2
    assert found.predicates[2].tolist() == [0xF0 + r for r in range(8)]
    assert np.array_equal(found.predicate_mask, [0xFF] * 3)
