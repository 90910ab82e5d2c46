"""A fault in one record costs that record, whatever its sample_type, and nothing else."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sample_writer as sw
from test_decode_properties import COUNTERS, EVERYTHING, HW_INDEX, attrs, check_row, sample_values

from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.snapshots.batch import SnapshotBatch
from perfxmm.snapshots.decode import Decoder

RAGGED = {
    "chain": "chain_start", "branches": "branch_start", "branch_counters": "branch_start",
    "read_values": "read_start",
}  # fmt: skip
FILE_BASE = 4096
numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 6, 7, 8, 16, 255, 2**31, 2**32, 2**61, 2**63, 2**64 - 1]),
    st.integers(0, 64), st.integers(0, 2**64 - 1),
)


def samples_of(batch: SnapshotBatch) -> dict[int, Any]:
    """Everything that a batch says of each sample, by the sample's place."""
    out = {}
    for row, at in enumerate(batch.file_offset.tolist()):
        said: dict[str, Any] = {name: column[row].tolist() for name, column in batch.extra.items()}
        for name in batch.__slots__:
            column = getattr(batch, name)
            if name in RAGGED:
                start = getattr(batch, RAGGED[name])
                said[name] = column[start[row] : start[row + 1]].tolist()
            elif isinstance(column, np.ndarray) and name not in RAGGED.values():
                said[name] = column[row].tolist()
        for which, registers in batch.sets.items():
            for name in registers.__slots__:
                column = getattr(registers, name)
                if isinstance(column, np.ndarray):
                    said[f"{which}.{name}"] = column[row].tolist()
        out[at] = said
    return out


def check_others_untouched(
    events: list[Any], records: list[bytes], victim: int, data: st.DataObject
) -> None:
    body = bytearray(records[victim])
    if len(body) < 16:
        return
    word = data.draw(st.integers(1, len(body) // 8 - 1))
    struct.pack_into("<Q", body, 8 * word, data.draw(numbers))
    sound = samples_of(
        Decoder(events).decode(sw.block_of(records, file_base=FILE_BASE), columns=EVERYTHING)
    )
    assert len(sound) == len(records)
    place = FILE_BASE + sum(len(record) for record in records[:victim])
    decoder = Decoder(events)
    found = samples_of(decoder.decode(
        sw.block_of([*records[:victim], bytes(body), *records[victim + 1 :]], file_base=FILE_BASE),
        columns=EVERYTHING,
    ))  # fmt: skip
    del sound[place]
    delivered = found.pop(place, None) is not None
    assert found == sound
    assert [p.file_offset for p in decoder.problems] == ([] if delivered else [place])
    assert sum(decoder.damaged.values()) == len(decoder.problems)


@settings(max_examples=150, deadline=None)
@given(attrs(), st.integers(0, 2**32), st.integers(2, 5), st.data())
def test_one_wrong_word_leaves_all_other_records_alone(
    attr: EventAttr, seed: int, count: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    records = [sw.sample_record(attr, sample_values(attr, rng)) for _ in range(count)]
    victim = data.draw(st.integers(0, count - 1))
    check_others_untouched([sw.event_of(attr)], records, victim, data)


@settings(max_examples=80, deadline=None)
@given(attrs(), st.integers(0, 2**32), st.integers(0, 19), st.data())
def test_one_wrong_word_among_records_of_one_layout(
    attr: EventAttr, seed: int, victim: int, data: st.DataObject
) -> None:
    """The first one's layout is tried on all: neither may a wrong first one spoil the others."""
    record = sw.sample_record(attr, sample_values(attr, random.Random(seed)))
    check_others_untouched([sw.event_of(attr)], [record] * 20, victim, data)


@settings(max_examples=60, deadline=None)
@given(st.lists(attrs(), min_size=2, max_size=3), st.integers(0, 2**32), st.data())
def test_one_wrong_word_among_several_events(
    mixed: list[EventAttr], seed: int, data: st.DataObject
) -> None:
    rng = random.Random(seed)
    made = [replace(a, sample_type=a.sample_type | SampleType.IDENTIFIER) for a in mixed]
    events = [sw.event_of(a, index=i, ids=(100 + i,)) for i, a in enumerate(made)]
    records = []
    for index in (*range(len(made)), *(rng.randrange(len(made)) for _ in range(4))):
        values = replace(sample_values(made[index], rng), identifier=100 + index)
        records.append(sw.sample_record(made[index], values))
    check_others_untouched(events, records, data.draw(st.integers(0, len(records) - 1)), data)


BARE_ATTRS = {
    "alone": EventAttr(
        sample_type=int(SampleType.IP | SampleType.BRANCH_STACK), branch_sample_type=HW_INDEX
    ),
    "with fields behind": EventAttr(
        sample_type=int(SampleType.IP | SampleType.BRANCH_STACK | SampleType.WEIGHT
                        | SampleType.STACK_USER | SampleType.PHYS_ADDR),
        branch_sample_type=HW_INDEX | COUNTERS,
    ),
    "with registers behind": EventAttr(
        sample_type=int(SampleType.IP | SampleType.BRANCH_STACK | SampleType.REGS_USER
                        | SampleType.REGS_INTR),
        branch_sample_type=HW_INDEX | COUNTERS, sample_regs_user=0xFF, sample_regs_intr=0xF,
    ),
    "with short SIMD headers": EventAttr(
        sample_type=int(SampleType.IP | SampleType.BRANCH_STACK | SampleType.REGS_INTR),
        branch_sample_type=HW_INDEX, sample_regs_intr=0xF, dialect=dialects.R2,
        simd=SimdRequest(enabled=1, pred_qwords=1, vec_qwords=8, vec_intr=2**32 - 1, pred_intr=255),
    ),
}  # fmt: skip


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("case", BARE_ATTRS)
def test_a_sample_without_branch_stack_has_no_hardware_index_either(
    case: str, every: int
) -> None:
    """So the kernel writes events whose PMU took no branches: a count of 0 and nothing more."""
    attr = BARE_ATTRS[case]
    rng = random.Random(case)
    written = []
    for number in range(24):
        values = sample_values(attr, rng)
        if values.intr is not None and values.user is not None:
            values.intr.abi, values.user.abi = (6, 2) if attr.simd_enabled else (2, 2)
        values.bare_branches = number % every == 0
        if values.bare_branches:
            values.branches, values.branch_counters = (), ()
        written.append(values)
    block = sw.block_of(sw.sample_record(attr, one) for one in written)
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(block, columns=EVERYTHING)
    assert not decoder.damaged
    assert not decoder.notes
    for row, want in enumerate(written):
        check_row(batch, row, attr, want, block.buffer)


@pytest.mark.parametrize("branches", [0, HW_INDEX])
@pytest.mark.parametrize("count", [3, 30])
def test_longer_samples_without_registers_are_read_as_perf_does(count: int, branches: int) -> None:
    attr = EventAttr(
        sample_type=int(SampleType.IP | SampleType.CALLCHAIN | SampleType.BRANCH_STACK),
        branch_sample_type=branches,
    )
    one = sw.SampleValues(ip=5, chain=[1, 2], branches=[(7, 8, 9)], extra_words=[3, 4])
    records = [sw.sample_record(attr, one)] * count
    records.append(sw.sample_record(attr, replace(one, extra_words=())))
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(sw.block_of(records), columns=EVERYTHING)
    assert batch.ip.tolist() == [5] * (count + 1)
    assert batch.branches is not None
    assert batch.branches.tolist() == [[7, 8, 9]] * (count + 1)
    assert not decoder.damaged
    assert decoder.notes == [
        f"event 0: {count} samples are longer than their fields; what follows them is not read"
    ]


def test_a_stack_that_uses_more_than_was_dumped_is_damage() -> None:
    """As in perf, which gives up the whole file for it."""
    attr = EventAttr(sample_type=int(SampleType.IP | SampleType.STACK_USER))
    good = sw.SampleValues(ip=1, stack=bytes(32), stack_dyn=32)
    records = [sw.sample_record(attr, one) for one in (good, replace(good, stack_dyn=33), good)]
    decoder = Decoder([sw.event_of(attr)])
    batch = decoder.decode(sw.block_of(records, file_base=64), columns=EVERYTHING)
    assert batch.extra["user_stack_dyn_bytes"].tolist() == [32, 32]
    assert dict(decoder.damaged) == {"user_stack claims to use more than was dumped": 1}
    assert [p.file_offset for p in decoder.problems] == [64 + len(records[0])]


@pytest.mark.parametrize(("sample_type", "name"), [
    (SampleType.CALLCHAIN, "callchain"), (SampleType.BRANCH_STACK, "branch_stack"),
    (SampleType.STACK_USER, "user_stack"), (SampleType.AUX, "aux"), (SampleType.READ, "read"),
])  # fmt: skip
@pytest.mark.parametrize("count", [1, 2**29, 2**61, 2**63, 2**64 - 1])
def test_a_count_beyond_the_record_is_named(sample_type: SampleType, name: str, count: int) -> None:
    attr = EventAttr(
        sample_type=int(sample_type | SampleType.IP), read_format=8 | 1, branch_sample_type=COUNTERS
    )
    bad = sw.record(9, 2, struct.pack("<QQ", 5, count))
    good = sw.sample_record(attr, sw.SampleValues(ip=5, read_values=()))
    decoder = Decoder([sw.event_of(attr)])
    assert len(decoder.decode(sw.block_of([bad, good]), columns=EVERYTHING)) == 1
    assert dict(decoder.damaged) == {f"{name} claims to be longer than its record": 1}


@pytest.mark.parametrize("count", [1, 20])
def test_qwords_without_registers(count: int) -> None:
    """Kernels give the attr's qwords in the header also where no vector was asked for."""
    attr = EventAttr(
        sample_type=int(SampleType.REGS_INTR), sample_regs_intr=1, dialect=dialects.M,
        simd=SimdRequest(enabled=1, pred_qwords=1, vec_qwords=8, pred_intr=0xFF),
    )
    values = sw.SampleValues(intr=sw.SetValues(
        abi=6, gprs=[1], predicates=[[r] for r in range(8)], said=(0, 8, 8, 1)
    ))  # fmt: skip
    decoder = Decoder([sw.event_of(attr)])
    found = decoder.decode(sw.block_of([sw.sample_record(attr, values)] * count)).sets["intr"]
    assert not decoder.damaged
    assert found.predicates.tolist() == [list(range(8))] * count
    assert found.vector_mask.tolist() == [0] * count
    assert found.delivered_qwords.tolist() == [8] * count
