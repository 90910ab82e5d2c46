"""Whatever a writer puts into samples comes out of the decoder, for any sample_type and dialect."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sample_writer as sw

from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import CONTEXT_USER_DEFERRED, AttrFlag, ReadFormat, SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.kernel.layout import bits_of
from perfxmm.kernel.registers import GPR_SSP
from perfxmm.snapshots.decode import ALL_COLUMNS, EXTRA_COLUMNS, RAGGED_COLUMNS, Decoder

EVERYTHING = (*ALL_COLUMNS, *EXTRA_COLUMNS, *RAGGED_COLUMNS)
HW_INDEX, COUNTERS = 1 << 17, 1 << 19
CLASSIC = 0xFF0FFF
words = st.integers(0, 2**64 - 1)


@st.composite
def attrs(draw: st.DrawFn, dialect: dialects.Dialect | None = None) -> EventAttr:
    spoken = dialect or draw(st.sampled_from(list(dialects.DIALECTS.values())))
    sample_type = draw(st.integers(0, (1 << 25) - 1))
    simd = SimdRequest()
    gpr_masks = []
    for which in ("user", "intr"):
        mask = draw(st.integers(0, 2**24 - 1)) & CLASSIC
        if spoken is not dialects.L:
            mask |= draw(st.sampled_from([0, 0xFFFF000000]))
            mask |= draw(st.sampled_from([0, 1 << spoken.ssp_bit]))
        elif which == "intr":
            # Pairs of bits: whole registers. A lone bit is a test of its own.
            pairs = draw(st.integers(0, 0xFFFF))
            mask |= sum(3 << 32 + 2 * r for r in bits_of(pairs))
        gpr_masks.append(mask)
    if spoken is not dialects.L:
        qwords = draw(st.sampled_from([0, 2, 4, 8]))
        full = 0xFFFFFFFF if qwords == 8 else 0xFFFF
        subset = st.integers(1, full) if spoken.subset_masks else st.just(full)
        masks = [draw(st.one_of(st.just(0), subset)) if qwords else 0 for _ in range(2)]
        pred_subset = st.integers(1, 0xFF) if spoken.subset_masks else st.just(0xFF)
        preds = [draw(st.one_of(st.just(0), pred_subset)) for _ in range(2)]
        simd = SimdRequest(
            enabled=1, pred_qwords=1, vec_qwords=qwords, vec_user=masks[0], vec_intr=masks[1],
            pred_user=preds[0], pred_intr=preds[1],
        )
    return EventAttr(
        sample_type=sample_type, read_format=draw(st.integers(0, 31)),
        branch_sample_type=draw(st.sampled_from([0, HW_INDEX, COUNTERS, HW_INDEX | COUNTERS])),
        flags=draw(st.sampled_from([0, int(AttrFlag.DEFER_CALLCHAIN)])),
        sample_regs_user=gpr_masks[0], sample_regs_intr=gpr_masks[1], dialect=spoken, simd=simd,
    )


def set_values(attr: EventAttr, which: str, rng: random.Random) -> sw.SetValues:
    raw = attr.sample_regs_user if which == "user" else attr.sample_regs_intr
    abi = rng.choice([0, 1, 2] if not attr.simd_enabled else [0, 2, 5, 6])
    vec = attr.simd.vec_user if which == "user" else attr.simd.vec_intr
    pred = attr.simd.pred_user if which == "user" else attr.simd.pred_intr

    def word() -> int:
        return rng.getrandbits(64)

    return sw.SetValues(
        abi=abi, gprs=[word() for _ in bits_of(raw)],
        vectors=[[word() for _ in range(attr.simd.vec_qwords)] for _ in bits_of(vec)],
        predicates=[[word()] for _ in bits_of(pred)],
    )


def sample_values(attr: EventAttr, rng: random.Random) -> sw.SampleValues:
    """Random contents that a kernel could write for `attr`."""

    def word() -> int:
        return rng.getrandbits(64)

    branches = [(word(), word(), word()) for _ in range(rng.randrange(4))]
    group = bool(attr.read_format & ReadFormat.GROUP)
    chain = [word() for _ in range(rng.randrange(6))]
    if attr.flag(AttrFlag.DEFER_CALLCHAIN) and rng.random() < 0.5:
        chain += [CONTEXT_USER_DEFERRED, word()]
    stack = rng.randbytes(8 * rng.randrange(4))
    return sw.SampleValues(
        misc=rng.choice([1, 2, 4, 5]) | rng.choice([0, 1 << 14]), identifier=7, ip=word(),
        pid=rng.randrange(-1, 1 << 22), tid=rng.randrange(-1, 1 << 22), time_ns=word(),
        addr=word(), stream_id=word(), cpu=rng.randrange(512), period=word(),
        read_times=(word(), word()),
        read_values=[(word(), word(), word()) for _ in range(rng.randrange(4) if group else 1)],
        chain=chain,
        raw=rng.randbytes(4 + 8 * rng.randrange(4)), branches=branches, branch_hw_index=word(),
        branch_counters=[word() for _ in branches], user=set_values(attr, "user", rng),
        stack=stack, stack_dyn=rng.randrange(len(stack) + 1), weight=word(),
        data_src=word(), transaction=word(), intr=set_values(attr, "intr", rng),
        phys_addr=word(), cgroup=word(), data_page_size=word(), code_page_size=word(),
        aux=rng.randbytes(8 * rng.randrange(4)),
    )


def check_set(found: Any, row: int, attr: EventAttr, which: str, want: sw.SetValues) -> None:
    raw = attr.sample_regs_user if which == "user" else attr.sample_regs_intr
    assert found.abi[row] == want.abi
    if want.abi == 0:
        assert not found.gpr_mask[row]
        assert not found.vector_mask[row]
        assert not found.predicate_mask[row]
        assert not found.gprs[row].any()
        assert not found.vectors[row].any()
        return
    gprs, legacy = {}, {}
    for bit, value in zip(bits_of(raw), want.gprs, strict=True):
        if attr.simd_enabled or bit < 32:
            gprs[GPR_SSP if attr.simd_enabled and bit == attr.dialect.ssp_bit else bit] = value
        else:
            legacy[bit - 32] = value
    have = {
        number: int(found.gprs[row, column]) for column, number in enumerate(found.gpr_ids)
        if int(found.gpr_mask[row]) >> number & 1
    }
    assert have == gprs
    vec = attr.simd.vec_user if which == "user" else attr.simd.vec_intr
    pred = attr.simd.pred_user if which == "user" else attr.simd.pred_intr
    mask = int(found.vector_mask[row])
    if legacy:
        for half, value in legacy.items():
            assert mask >> (half >> 1) & 1
            assert found.vectors[row, half >> 1, half & 1] == value
        return
    if not want.abi & 4:
        assert mask == 0
        return
    assert mask == vec
    for register, value in zip(bits_of(vec), want.vectors, strict=True):
        assert found.vectors[row, register, : len(value)].tolist() == list(value)
    assert found.predicate_mask[row] == pred
    for register, value in zip(bits_of(pred), want.predicates, strict=True):
        assert [found.predicates[row, register]] == list(value)


def check_read(batch: Any, row: int, attr: EventAttr, want: sw.SampleValues) -> None:
    read, how = attr.sample_type & SampleType.READ, attr.read_format
    for name, bit, value in (
        ("time_enabled_ns", ReadFormat.TOTAL_TIME_ENABLED, want.read_times[0]),
        ("time_running_ns", ReadFormat.TOTAL_TIME_RUNNING, want.read_times[1]),
    ):
        assert batch.extra[name][row] == (value if read and how & bit else 0)
    found = batch.read_values[batch.read_start[row] : batch.read_start[row + 1]].tolist()
    assert found == [
        [value, number if how & ReadFormat.ID else 0, lost if how & ReadFormat.LOST else 0]
        for value, number, lost in (want.read_values if read else ())
    ]


def check_row(batch: Any, row: int, attr: EventAttr, want: sw.SampleValues, buffer: Any) -> None:
    def expect(bit: int, have: Any, value: Any, otherwise: Any = 0) -> None:
        assert have == (value if attr.sample_type & bit else otherwise)

    t, extra = SampleType, batch.extra
    assert batch.misc[row] == want.misc
    assert batch.cpumode[row] == want.misc & 7
    assert batch.exact_ip[row] == bool(want.misc & 1 << 14)
    expect(t.IP, batch.ip[row], want.ip)
    expect(t.TID, batch.pid[row], want.pid, -1)
    expect(t.TID, batch.tid[row], want.tid, -1)
    expect(t.TIME, batch.time_ns[row], want.time_ns)
    expect(t.CPU, batch.cpu[row], want.cpu, -1)
    expect(t.PERIOD, batch.period[row], want.period)
    expect(t.ADDR, extra["addr"][row], want.addr)
    expect(t.STREAM_ID, extra["stream_id"][row], want.stream_id)
    expect(t.IDENTIFIER | t.ID, extra["id"][row], want.identifier)
    expect(t.WEIGHT | t.WEIGHT_STRUCT, extra["weight"][row], want.weight)
    for part, (shift, bits) in enumerate(((0, 32), (32, 16), (48, 16)), 1):
        value = want.weight >> shift & (1 << bits) - 1
        expect(t.WEIGHT_STRUCT, extra[f"weight_var{part}"][row], value)
    expect(t.DATA_SRC, extra["data_src"][row], want.data_src)
    expect(t.TRANSACTION, extra["transaction"][row], want.transaction)
    expect(t.PHYS_ADDR, extra["phys_addr"][row], want.phys_addr)
    expect(t.CGROUP, extra["cgroup"][row], want.cgroup)
    expect(t.DATA_PAGE_SIZE, extra["data_page_size"][row], want.data_page_size)
    expect(t.CODE_PAGE_SIZE, extra["code_page_size"][row], want.code_page_size)
    chain = batch.chain[batch.chain_start[row] : batch.chain_start[row + 1]].tolist()
    written, cookie = list(want.chain), 0
    deferring = attr.flags & AttrFlag.DEFER_CALLCHAIN
    if deferring and len(written) > 1 and written[-2] == CONTEXT_USER_DEFERRED:
        cookie = written.pop()
    expect(t.CALLCHAIN, chain, written, [])
    expect(t.CALLCHAIN, extra["deferred_cookie"][row], cookie)
    check_read(batch, row, attr, want)
    span = slice(batch.branch_start[row], batch.branch_start[row + 1])
    counting = attr.branch_sample_type & COUNTERS
    counters = list(want.branch_counters) if counting else [0] * len(want.branches)
    expect(t.BRANCH_STACK, batch.branch_counters[span].tolist(), counters, [])
    index = 2**64 - 1 if want.bare_branches else want.branch_hw_index
    if not attr.branch_sample_type & HW_INDEX:
        index = 0
    expect(t.BRANCH_STACK, extra["branch_hw_index"][row], index)
    stack = batch.branches[batch.branch_start[row] : batch.branch_start[row + 1]].tolist()
    expect(t.BRANCH_STACK, stack, [list(entry) for entry in want.branches], [])
    for bit, name, value in ((t.RAW, "raw", want.raw), (t.STACK_USER, "user_stack", want.stack),
                             (t.AUX, "aux", want.aux)):  # fmt: skip
        expect(bit, extra[f"{name}_bytes"][row], len(value))
        if attr.sample_type & bit:
            at = int(extra[f"{name}_offset"][row])
            assert buffer[at : at + len(value)].tobytes() == value
    has_dyn = attr.sample_type & t.STACK_USER and want.stack
    assert extra["user_stack_dyn_bytes"][row] == (want.stack_dyn if has_dyn else 0)
    for which, bit in (("user", t.REGS_USER), ("intr", t.REGS_INTR)):
        assert (which in batch.sets) == bool(attr.sample_type & bit)
        if which in batch.sets:
            check_set(batch.sets[which], row, attr, which, getattr(want, which))


@settings(max_examples=120, deadline=None)
@given(attrs(), st.integers(0, 2**32), st.integers(1, 6))
def test_decoding_gives_back_what_was_written(attr: EventAttr, seed: int, count: int) -> None:
    rng = random.Random(seed)
    written = [sample_values(attr, rng) for _ in range(count)]
    block = sw.block_of((sw.sample_record(attr, v) for v in written), file_base=4096)
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    assert len(batch) == count
    assert batch.file_offset.tolist() == (block.offsets + 4096).tolist()
    for row, want in enumerate(written):
        check_row(batch, row, attr, want, block.buffer)


def varied(values: sw.SampleValues, rng: random.Random) -> sw.SampleValues:
    """Other contents of the same lengths."""

    def words_like(old: Any) -> list[int]:
        return [rng.getrandbits(64) for _ in old]

    def other_set(old: sw.SetValues | None) -> sw.SetValues:
        assert old is not None
        return replace(
            old, gprs=words_like(old.gprs), vectors=[words_like(v) for v in old.vectors],
            predicates=[words_like(v) for v in old.predicates],
        )

    return replace(
        values, ip=rng.getrandbits(64), time_ns=rng.getrandbits(64), chain=words_like(values.chain),
        raw=rng.randbytes(len(values.raw)), user=other_set(values.user),
        intr=other_set(values.intr), stack=rng.randbytes(len(values.stack)),
    )


@settings(max_examples=60, deadline=None)
@given(attrs(), st.integers(0, 2**32), st.booleans())
def test_samples_of_one_layout_and_one_that_is_not(
    attr: EventAttr, seed: int, odd_one: bool
) -> None:
    """Many equal layouts are decoded from the first one's; one of another layout is noticed."""
    rng = random.Random(seed)
    first = sample_values(attr, rng)
    written = [first, *(varied(first, rng) for _ in range(19))]
    if odd_one:
        written[11] = sample_values(attr, rng)
    block = sw.block_of(sw.sample_record(attr, v) for v in written)
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    assert len(batch) == 20
    for row, want in enumerate(written):
        check_row(batch, row, attr, want, block.buffer)


@settings(max_examples=40, deadline=None)
@given(st.lists(attrs(), min_size=2, max_size=4), st.integers(0, 2**32), st.integers(0, 7))
def test_events_of_different_layout_mix(
    mixed: list[EventAttr], seed: int, shift: int
) -> None:
    rng = random.Random(seed)
    made = [replace(a, sample_type=a.sample_type | SampleType.IDENTIFIER) for a in mixed]
    events = [sw.event_of(a, index=i, ids=(100 + i, 200 + i)) for i, a in enumerate(made)]
    order = [rng.randrange(len(made)) for _ in range(9)]
    written = []
    for index in order:
        values = sample_values(made[index], rng)
        values.identifier = rng.choice((100, 200)) + index
        written.append(values)
    block = sw.block_of(
        [sw.sample_record(made[i], v) for i, v in zip(order, written, strict=True)],
        before=bytes(shift),  # records need not be aligned in the buffer
    )
    decoder = Decoder(events)
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    assert batch.event.tolist() == order
    for row, (index, values) in enumerate(zip(order, written, strict=True)):
        present = {
            which: batch.sets[which] for which, bit in
            (("user", SampleType.REGS_USER), ("intr", SampleType.REGS_INTR))
            if made[index].has(bit)
        }
        check_row(replace(batch, sets=present), row, made[index], values, block.buffer)


PAIRS = list(combinations_with_replacement(SampleType, 2))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(bit.name for bit in pair))
def test_each_bit_and_each_pair_of_bits(pair: tuple[SampleType, SampleType]) -> None:
    """Alone, so that nothing else in the record can make up for an error in them."""
    rng = random.Random(f"{pair}")
    for branches in (0, HW_INDEX, COUNTERS, HW_INDEX | COUNTERS):
        attr = EventAttr(
            sample_type=int(pair[0] | pair[1]), read_format=rng.randrange(32),
            branch_sample_type=branches, flags=rng.choice((0, int(AttrFlag.DEFER_CALLCHAIN))),
            sample_regs_user=CLASSIC, sample_regs_intr=0x1FF | 0xF << 32,
        )
        written = [sample_values(attr, rng) for _ in range(5)]
        block = sw.block_of(sw.sample_record(attr, v) for v in written)
        decoder = Decoder([sw.event_of(attr)])
        batch = decoder.decode(block, columns=EVERYTHING)
        assert not decoder.damaged
        assert not decoder.notes
        assert len(batch) == 5
        for row, want in enumerate(written):
            check_row(batch, row, attr, want, block.buffer)


@pytest.mark.parametrize("bit", list(SampleType), ids=lambda bit: bit.name)
def test_each_bit_has_its_field(bit: SampleType) -> None:
    """Each bit alone between IP and registers, so that a field of wrong length shows."""
    attr = EventAttr(
        sample_type=int(bit | SampleType.IP | SampleType.REGS_INTR | SampleType.REGS_USER),
        sample_regs_intr=CLASSIC, sample_regs_user=0x1FF, read_format=31,
        branch_sample_type=HW_INDEX | COUNTERS,
    )
    rng = random.Random(int(bit))
    written = [sample_values(attr, rng) for _ in range(20)]
    block = sw.block_of(sw.sample_record(attr, v) for v in written)
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    assert len(batch) == 20
    for row, want in enumerate(written):
        check_row(batch, row, attr, want, block.buffer)


@pytest.mark.parametrize("read_format", range(32))
def test_read_format_decides_the_length_of_read(read_format: int) -> None:
    attr = EventAttr(
        sample_type=int(SampleType.READ | SampleType.REGS_USER), sample_regs_user=1,
        read_format=read_format,
    )
    rng = random.Random(read_format)
    written = [sample_values(attr, rng) for _ in range(4)]
    for values in written:
        values.user = sw.SetValues(abi=2, gprs=[rng.getrandbits(64)])
    decoder = Decoder([sw.event_of(attr)])
    block = sw.block_of(sw.sample_record(attr, v) for v in written)
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    for row, want in enumerate(written):
        check_row(batch, row, attr, want, block.buffer)
    assert batch.sets["user"].gprs[:, 0].tolist() == [v.user.gprs[0] for v in written]


@settings(max_examples=60, deadline=None)
@given(attrs(), st.integers(0, 2**32), st.binary(min_size=1, max_size=4), st.data())
def test_flipped_bytes_raise_nothing(
    attr: EventAttr, seed: int, junk: bytes, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    records = [sw.sample_record(attr, sample_values(attr, rng)) for _ in range(3)]
    body = bytearray(records[1])
    if len(body) > 8 + len(junk):
        at = data.draw(st.integers(8, len(body) - len(junk)))
        body[at : at + len(junk)] = junk
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(sw.block_of([records[0], bytes(body), records[2]]), columns=EVERYTHING)
    assert len(batch) + sum(decoder.damaged.values()) == 3
    assert len(batch) >= 2
    assert all(isinstance(column, np.ndarray) for column in batch.extra.values())
