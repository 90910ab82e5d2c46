"""One bad record costs that record; what the header says is obeyed within what was asked for."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from support import sample_writer as sw

from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.perfdata.stopinfo import StopFlag
from perfxmm.snapshots.decode import MOST_PROBLEMS, Decoder

BASE = int(SampleType.IP | SampleType.TID | SampleType.TIME)
ZMM_ALL = SimdRequest(
    enabled=1, pred_qwords=1, vec_qwords=8, vec_user=0xFFFFFFFF, vec_intr=0xFFFFFFFF,
    pred_user=0xFF, pred_intr=0xFF,
)  # fmt: skip
M_ATTR = EventAttr(
    sample_type=BASE | SampleType.CALLCHAIN | SampleType.RAW | SampleType.REGS_USER
    | SampleType.STACK_USER | SampleType.REGS_INTR,
    sample_regs_user=0x100, sample_regs_intr=0x100, dialect=dialects.M, simd=ZMM_ALL,
)  # fmt: skip
R2_ATTR = EventAttr(
    sample_type=BASE | SampleType.REGS_INTR, sample_regs_intr=0x101, dialect=dialects.R2,
    simd=replace(ZMM_ALL, vec_user=0, pred_user=0),
)


def zmm_set(registers: int = 32, qwords: int = 8, **more: object) -> sw.SetValues:
    return sw.SetValues(
        abi=6, gprs=[0x401000],
        vectors=[[(r << 8 | q) + 1 for q in range(qwords)] for r in range(registers)],
        predicates=[[0xF0 + r] for r in range(8)], **more,  # type: ignore[arg-type]
    )


def good_sample(ip: int = 0x401000) -> sw.SampleValues:
    return sw.SampleValues(
        ip=ip, pid=1, tid=2, time_ns=3, chain=[1, 2, 3], raw=bytes(20), stack=bytes(16),
        user=zmm_set(), intr=zmm_set(),
    )


def test_a_record_cut_anywhere_is_reported_and_costs_only_itself() -> None:
    whole = sw.sample_record(M_ATTR, good_sample())
    decoder = Decoder([sw.event_of(M_ATTR)])
    records = []
    for size in range(8, len(whole)):
        cut = bytearray(whole[:size])
        struct.pack_into("<H", cut, 6, size)
        records.append(bytes(cut))
        records.append(bytes(-size % 8))  # so that the next one is aligned, as in a real file
    pieces = [(records[i], records[i + 1]) for i in range(0, len(records), 2)]
    data, offsets, sizes = bytearray(), [], []
    for record, pad in pieces:
        offsets.append(len(data))
        sizes.append(len(record))
        data += record + pad
    offsets.append(len(data))
    sizes.append(len(whole))
    data += whole
    block = sw.RecordBlock(
        np.frombuffer(bytes(data), np.uint8), np.array(offsets, np.int64),
        np.array(sizes, np.uint32), np.full(len(sizes), 9, np.uint32),
        np.full(len(sizes), 2, np.uint16), 0,
    )  # fmt: skip
    batch = decoder.decode(block)
    assert batch.file_offset.tolist() == [offsets[-1]]
    assert sum(decoder.damaged.values()) == len(pieces)
    assert len(decoder.problems) == min(len(pieces), MOST_PROBLEMS)
    assert {p.file_offset for p in decoder.problems} <= set(offsets[:-1])


def test_a_buffer_that_ends_inside_the_last_record_loses_only_that() -> None:
    whole = sw.sample_record(M_ATTR, good_sample())
    for missing in (1, 8, len(whole) - 9):
        block = sw.block_of([whole, whole])
        short = replace_buffer(block, block.buffer[: len(block.buffer) - missing])
        decoder = Decoder([sw.event_of(M_ATTR)])
        assert len(decoder.decode(short)) == 1
        assert [p.file_offset for p in decoder.problems] == [len(whole)]


def replace_buffer(block: sw.RecordBlock, buffer: np.ndarray) -> sw.RecordBlock:
    return sw.RecordBlock(
        buffer, block.offsets, block.sizes, block.types, block.misc, block.file_base
    )


@pytest.mark.parametrize(
    "said",
    [(33, 8, 8, 1), (32, 16, 8, 1), (32, 3, 8, 1), (32, 8, 9, 1), (32, 8, 8, 2), (2**63, 8, 8, 1),
     (32, 2**62, 8, 1)],
)  # fmt: skip
def test_a_header_beyond_what_was_asked_is_damage(said: tuple[int, int, int, int]) -> None:
    bad = good_sample()
    bad.user = zmm_set(said=said)
    decoder = Decoder([sw.event_of(M_ATTR)])
    good = sw.sample_record(M_ATTR, good_sample())
    batch = decoder.decode(sw.block_of([good, sw.sample_record(M_ATTR, bad), good]))
    assert len(batch) == 2
    assert dict(decoder.damaged) == {
        "the user registers' SIMD header says more than was asked for": 1
    }
    assert decoder.problems[0].file_offset == len(good)


@pytest.mark.parametrize("abi", [3, 4, 7, 8, 2**40])
def test_an_impossible_abi_is_damage(abi: int) -> None:
    bad = good_sample()
    assert bad.intr is not None
    bad.intr.abi = abi
    decoder = Decoder([sw.event_of(M_ATTR)])
    assert len(decoder.decode(sw.block_of([sw.sample_record(M_ATTR, bad)]))) == 0
    assert dict(decoder.damaged) == {"the intr registers have an impossible abi": 1}


def test_a_simd_set_in_an_event_without_simd_is_damage() -> None:
    attr = EventAttr(sample_type=BASE | SampleType.REGS_INTR, sample_regs_intr=0x100)
    record = sw.sample_record(attr, sw.SampleValues(intr=sw.SetValues(abi=6, gprs=[1])))
    decoder = Decoder([sw.event_of(attr)])
    assert len(decoder.decode(sw.block_of([record]))) == 0
    assert sum(decoder.damaged.values()) == 1


def test_words_left_over_are_damage_where_there_are_registers() -> None:
    long = good_sample()
    long.extra_words = [1]
    decoder = Decoder([sw.event_of(M_ATTR)])
    good = sw.sample_record(M_ATTR, good_sample())
    assert len(decoder.decode(sw.block_of([sw.sample_record(M_ATTR, long), good]))) == 1
    assert dict(decoder.damaged) == {"the record is longer than its fields": 1}


def test_a_sample_type_newer_than_the_table_may_be_longer() -> None:
    attr = replace(M_ATTR, sample_type=M_ATTR.sample_type | 1 << 30)
    values = good_sample()
    values.extra_words = [1, 2]
    decoder = Decoder([sw.event_of(attr)])
    assert len(decoder.decode(sw.block_of([sw.sample_record(attr, values)]))) == 1
    assert not decoder.damaged


def test_an_id_that_is_nobodys_is_reported() -> None:
    attr = EventAttr(sample_type=BASE | SampleType.IDENTIFIER)
    events = [sw.event_of(attr, index=i, ids=(10 + i,)) for i in range(2)]
    ids = (10, 99, 11, 0)
    records = [sw.sample_record(attr, sw.SampleValues(identifier=i)) for i in ids]
    decoder = Decoder(events)
    batch = decoder.decode(sw.block_of(records))
    assert batch.event.tolist() == [0, 1, 0]  # perf, too, gives id 0 to the first event
    assert dict(decoder.damaged) == {"the sample's id is no event's": 1}


def test_fewer_numbers_than_asked_for_are_obeyed() -> None:
    """R2's later postings cut widths and counts where a component was missing."""
    cases = [(32, 8), (16, 8), (16, 4), (16, 2), (0, 8)]
    records = []
    for registers, qwords in cases:
        values = sw.SampleValues(intr=zmm_set(registers, qwords))
        assert values.intr is not None
        values.intr.gprs = [7, 8]
        if registers == 0:
            values.intr.said = (0, 8, 8, 1)
        records.append(sw.sample_record(R2_ATTR, values))
    decoder = Decoder([sw.event_of(R2_ATTR)])
    found = decoder.decode(sw.block_of(records)).sets["intr"]
    assert not decoder.damaged
    assert found.delivered_vectors.tolist() == [n for n, _ in cases]
    assert found.delivered_qwords.tolist() == [q for _, q in cases]
    assert found.vector_mask.tolist() == [(1 << n) - 1 for n, _ in cases]
    for row, (registers, qwords) in enumerate(cases):
        want = np.zeros((32, 8), np.uint64)
        for r in range(registers):
            want[r, :qwords] = [(r << 8 | q) + 1 for q in range(qwords)]
        assert (found.vectors[row] == want).all()
        assert found.predicates[row].tolist() == [0xF0 + r for r in range(8)]


def test_a_cut_count_with_the_whole_payload_is_told_by_the_records_size() -> None:
    """The posting that cut nr_vectors to 16 still wrote every register that was asked for."""
    values = sw.SampleValues(intr=zmm_set(said=(16, 8, 8, 1)))
    assert values.intr is not None
    values.intr.gprs = [7, 8]
    cut = sw.sample_record(R2_ATTR, values)
    plain = sw.SampleValues(intr=zmm_set())
    assert plain.intr is not None
    plain.intr.gprs = [7, 8]
    decoder = Decoder([sw.event_of(R2_ATTR)])
    found = decoder.decode(sw.block_of([cut, sw.sample_record(R2_ATTR, plain)])).sets["intr"]
    assert not decoder.damaged
    assert found.delivered_vectors.tolist() == [16, 32]
    # The upper 16 of such a record are whatever lay behind a 16-entry block: never delivered.
    assert found.vector_mask.tolist() == [0xFFFF, 0xFFFFFFFF]
    assert not found.vectors[0, 16:].any()
    assert found.vectors[0, 15].tolist() == [(15 << 8 | q) + 1 for q in range(8)]
    assert found.predicates[0].tolist() == [0xF0 + r for r in range(8)]


def test_a_cut_count_of_a_subset_keeps_only_the_lower_registers() -> None:
    """24 registers from number 8 up were asked for, 16 came: those of the upper half did not."""
    attr = replace(R2_ATTR, simd=replace(R2_ATTR.simd, vec_intr=0xFFFFFF00))
    values = sw.SampleValues(intr=zmm_set(16))
    assert values.intr is not None
    values.intr.gprs = [7, 8]
    decoder = Decoder([sw.event_of(attr)])
    found = decoder.decode(sw.block_of([sw.sample_record(attr, values)])).sets["intr"]
    assert not decoder.damaged
    assert found.vector_mask.tolist() == [0xFF00]
    assert found.vectors[0, 8].tolist() == [q + 1 for q in range(8)]
    assert not found.vectors[0, 16:].any()


@pytest.mark.parametrize("count", [1, 20])
def test_a_batch_shares_no_memory_with_the_file(count: int) -> None:
    """The file's pages are given back behind a block, and a batch may be changed in place."""
    attr = EventAttr(sample_type=int(SampleType.CALLCHAIN), sample_regs_intr=1)
    attrs = [attr, M_ATTR, EventAttr(sample_type=int(SampleType.REGS_INTR), sample_regs_intr=1)]
    for one in attrs:
        values = replace(good_sample(), intr=zmm_set())
        if one is not M_ATTR:
            values.intr = sw.SetValues(abi=2, gprs=[1])
        block = sw.block_of([sw.sample_record(one, values)] * count)
        batch = Decoder([sw.event_of(one)]).decode(block)
        assert len(batch) == count
        columns = [getattr(batch, name) for name in batch.__slots__]
        for register_set in batch.sets.values():
            columns += [getattr(register_set, name) for name in register_set.__slots__]
        for column in columns:
            if isinstance(column, np.ndarray):
                assert not np.shares_memory(column, block.buffer)
                assert column.size == 0 or column.flags.writeable


def test_counts_without_qwords_deliver_nothing() -> None:
    """Merged kernels accept a mask whose qwords are 0 and echo its weight without any data."""
    attr = EventAttr(
        sample_type=BASE | SampleType.REGS_USER, sample_regs_user=1, dialect=dialects.M,
        simd=SimdRequest(enabled=1, vec_qwords=0, pred_qwords=0, vec_user=0xFFFF, pred_user=0xFF),
    )
    values = sw.SampleValues(user=sw.SetValues(abi=6, gprs=[5], said=(16, 0, 8, 0)))
    decoder = Decoder([sw.event_of(attr)])
    found = decoder.decode(sw.block_of([sw.sample_record(attr, values)])).sets["user"]
    assert not decoder.damaged
    assert int(found.header[0]) == 16 | 8 << 32
    assert found.vector_mask.tolist() == [0]
    assert found.delivered_predicates.tolist() == [0]
    assert found.predicate_mask.tolist() == [0]
    assert found.gprs.tolist() == [[5]]


def test_the_wrong_kind_of_header_is_found_out_on_the_first_samples() -> None:
    values = sw.SampleValues(intr=zmm_set())
    assert values.intr is not None
    values.intr.gprs = [7, 8]
    record = sw.sample_record(R2_ATTR, values)
    # The same attr taken for M, as an override might.
    wrong = replace(R2_ATTR, dialect=dialects.M)
    decoder = Decoder([sw.event_of(wrong)])
    batch = decoder.decode(sw.block_of([record] * 3))
    assert len(batch) == 3
    assert not decoder.damaged
    assert (decoder.settled[0].dialect.name, decoder.settled[0].confirmed) == ("unknown", False)
    assert batch.sets["intr"].vectors[2, 31, 7] == (31 << 8 | 7) + 1


def test_samples_without_registers_do_not_hide_the_headers_kind() -> None:
    """Postings v6 and v7: an attr as in O1, samples with R2's header, some without registers."""
    attr = replace(R2_ATTR, dialect=dialects.O1)
    values = sw.SampleValues(intr=zmm_set())
    assert values.intr is not None
    values.intr.gprs = [7, 8]
    record = sw.sample_record(R2_ATTR, values)
    without = sw.sample_record(R2_ATTR, sw.SampleValues(intr=sw.SetValues(abi=0)))
    decoder = Decoder([sw.event_of(attr)])
    assert len(decoder.decode(sw.block_of([without] * 3))) == 3
    cut = record[:6] + struct.pack("<H", len(record) - 8) + record[8:-8]
    batch = decoder.decode(sw.block_of([without, *[record] * 30, cut, without]))
    assert decoder.settled[0].dialect is dialects.R6
    assert batch.sets["intr"].abi.tolist() == [0, *[6] * 30, 0]
    assert sum(decoder.damaged.values()) == 1
    assert batch.sets["intr"].vectors[30, 31, 7] == (31 << 8 | 7) + 1


def test_damage_alone_does_not_change_the_header_kind() -> None:
    bad = good_sample()
    bad.user = zmm_set(said=(99, 8, 8, 1))
    decoder = Decoder([sw.event_of(M_ATTR)])
    assert len(decoder.decode(sw.block_of([sw.sample_record(M_ATTR, bad)] * 9))) == 0
    assert len(decoder.decode(sw.block_of([sw.sample_record(M_ATTR, good_sample())]))) == 1
    assert decoder.settled[0].dialect is dialects.M


def test_one_bad_first_sample_does_not_change_the_header_kind() -> None:
    bad = good_sample()
    bad.user = zmm_set(said=(99, 8, 8, 1))
    decoder = Decoder([sw.event_of(M_ATTR)])
    records = [sw.sample_record(M_ATTR, bad), sw.sample_record(M_ATTR, good_sample())]
    assert len(decoder.decode(sw.block_of(records))) == 1
    assert not decoder.notes


def test_half_of_a_legacy_register_is_not_a_register() -> None:
    mask = 0x1 | 1 << 32 | 3 << 34 | 1 << 37  # AX, low half of XMM0, XMM1, high half of XMM2
    attr = EventAttr(sample_type=BASE | SampleType.REGS_INTR, sample_regs_intr=mask)
    values = sw.SampleValues(intr=sw.SetValues(abi=2, gprs=[1, 2, 3, 4, 5]))
    decoder = Decoder([sw.event_of(attr)])
    found = decoder.decode(sw.block_of([sw.sample_record(attr, values)])).sets["intr"]
    assert found.vector_mask.tolist() == [2]
    assert found.delivered_vectors.tolist() == [1]
    assert found.vectors[0].tolist() == [[0, 0], [3, 4]]
    assert found.gprs.tolist() == [[1]]


def test_columns_that_nobody_asks_for_are_empty_and_the_rest_is_the_same() -> None:
    block = sw.block_of([sw.sample_record(M_ATTR, good_sample())] * 2)
    decoder = Decoder([sw.event_of(M_ATTR)])
    everything = decoder.decode(block)
    bare = decoder.decode(block, columns=())
    assert bare.chain is None
    assert everything.chain is not None
    assert everything.chain.tolist() == [1, 2, 3, 1, 2, 3]
    for name in ("intr", "user"):
        assert bare.sets[name].vectors.shape == (2, 0, 0)
        assert bare.sets[name].gprs.shape == (2, 0)
        assert bare.sets[name].predicates.shape == (2, 0)
        assert (bare.sets[name].vector_mask == everything.sets[name].vector_mask).all()
        assert (bare.sets[name].gpr_mask == everything.sets[name].gpr_mask).all()
    assert decoder.decode(block, columns=("gprs",)).sets["user"].gprs.tolist() == [[0x401000]] * 2


def test_no_samples_give_an_empty_batch_with_its_sets() -> None:
    decoder = Decoder([sw.event_of(M_ATTR)])
    batch = decoder.decode(sw.block_of([sw.record(68, 0, b"")]))
    assert len(batch) == 0
    assert sorted(batch.sets) == ["intr", "user"]
    assert batch.sets["user"].vectors.shape == (0, 32, 8)


def stop_block(*payloads: bytes) -> sw.RecordBlock:
    attr = stop_attr()
    return sw.block_of(
        sw.sample_record(attr, sw.SampleValues(raw=p, user=sw.SetValues(abi=2, gprs=[1])))
        for p in payloads
    )


def stop_attr() -> EventAttr:
    return EventAttr(
        sample_type=BASE | SampleType.RAW | SampleType.REGS_USER, sample_regs_user=0x100
    )


def test_stop_information_comes_out_of_raw() -> None:
    rng = random.Random(1)
    block = stop_block(
        sw.stop_payload(0xE7, flags=StopFlag.PRESENT | StopFlag.COMPAT),
        sw.stop_payload(0x3, si_perf_flags=1),
        sw.stop_payload(0x3, magic=0x12345678),
        rng.randbytes(28),
        sw.stop_payload(0, si_perf_flags=2, flags=StopFlag.INTERRUPT),
    )
    decoder = Decoder([sw.event_of(stop_attr())], stop_info=True)
    batch = decoder.decode(block)
    everything = 2**64 - 1
    assert batch.stop_flags.tolist() == [
        StopFlag.PRESENT | StopFlag.COMPAT, StopFlag.PRESENT | StopFlag.ASYNC, 0, 0,
        StopFlag.PRESENT | StopFlag.INTERRUPT,
    ]  # fmt: skip
    xstate_bv = batch.sets["user"].xstate_bv
    assert xstate_bv is not None
    assert xstate_bv.tolist() == [0xE7, 0x3, everything, everything, 0]


def test_raw_of_other_sources_is_never_taken_for_stop_information() -> None:
    decoder = Decoder([sw.event_of(stop_attr())])
    batch = decoder.decode(stop_block(sw.stop_payload(0xE7, si_perf_flags=1)))
    assert batch.stop_flags.tolist() == [0]
    assert batch.sets["user"].xstate_bv is None
