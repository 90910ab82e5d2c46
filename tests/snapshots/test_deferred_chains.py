"""Call chains whose user part stands in a record of its own."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sample_writer as sw

import perfxmm
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import (
    CONTEXT_KERNEL,
    CONTEXT_USER,
    CONTEXT_USER_DEFERRED,
    AttrFlag,
    RecordType,
    SampleType,
)
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.deferred import join_deferred
from perfxmm.snapshots.sidekinds import CallchainDeferred

ATTR = EventAttr(
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CALLCHAIN),
    flags=int(AttrFlag.SAMPLE_ID_ALL | AttrFlag.DEFER_CALLCHAIN | AttrFlag.DEFER_OUTPUT),
    sample_period=1000,
)  # fmt: skip
KERNEL_PART = [CONTEXT_KERNEL, 0xFFFFFFFF81000000]
USER_PART = [CONTEXT_USER, 0x401000, 0x402000]


def sample(time: int, tid: int, cookie: int | None) -> bytes:
    chain = [*KERNEL_PART, *([] if cookie is None else [CONTEXT_USER_DEFERRED, cookie])]
    return sw.sample_record(
        ATTR, sw.SampleValues(misc=1, ip=time, pid=5, tid=tid, time_ns=time, chain=chain)
    )


def late(time: int, tid: int, cookie: int, ips: list[int]) -> bytes:
    body = struct.pack(f"<QQ{len(ips)}Q", cookie, len(ips), *ips)
    return sw.record(RecordType.CALLCHAIN_DEFERRED, 2, body + struct.pack("<iiQ", 5, tid, time))


def test_the_late_part_takes_the_marks_place(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    with Writer(str(path), [EventSpec("cycles", ATTR, ())], Metadata()) as writer:
        for one in (
            sample(10, 6, 99), sample(11, 7, 99), sample(12, 6, 99), sample(13, 6, None),
            late(14, 6, 99, USER_PART), sample(15, 6, 100), late(16, 7, 98, USER_PART),
            late(17, 6, 100, [CONTEXT_USER]),
        ):  # fmt: skip
            writer.write(one)
        writer.finish({})
    recording = perfxmm.open(path)
    (batch,) = recording.snapshots(columns=("chain", "deferred_cookie"))
    assert batch.chain is not None
    assert batch.chain_start is not None
    chains = [part.tolist() for part in np.split(batch.chain, batch.chain_start[1:-1])]
    assert chains == [
        [*KERNEL_PART, *USER_PART],
        [*KERNEL_PART, CONTEXT_USER_DEFERRED],  # another thread's cookie
        [*KERNEL_PART, *USER_PART],
        KERNEL_PART,
        [*KERNEL_PART, CONTEXT_USER],
    ]
    assert batch.extra["deferred_cookie"].tolist() == [99, 99, 99, 0, 100]
    assert recording.complete
    (again,) = recording.snapshots(columns=("chain",))
    assert again.chain is not None
    assert again.chain.tolist() == batch.chain.tolist()
    assert "deferred_cookie" not in again.extra


def test_without_the_attrs_flag_a_mark_is_an_entry_like_any_other() -> None:
    attr = EventAttr(sample_type=int(SampleType.CALLCHAIN))
    chain = [1, CONTEXT_USER_DEFERRED, 99]
    block = sw.block_of([sw.sample_record(attr, sw.SampleValues(chain=chain))])
    batch = Decoder([sw.event_of(attr)]).decode(block, columns=("chain", "deferred_cookie"))
    assert batch.chain is not None
    assert batch.chain.tolist() == chain
    assert batch.extra["deferred_cookie"].tolist() == [0]


@pytest.mark.parametrize("chain", [[CONTEXT_USER_DEFERRED], [5, CONTEXT_USER_DEFERRED], []])
def test_a_mark_without_a_cookie_is_kept(chain: list[int]) -> None:
    block = sw.block_of([sw.sample_record(ATTR, sw.SampleValues(chain=chain))])
    batch = Decoder([sw.event_of(ATTR)]).decode(block, columns=("chain", "deferred_cookie"))
    assert batch.chain is not None
    assert batch.chain.tolist() == chain
    assert batch.extra["deferred_cookie"].tolist() == [0]


cookies = st.integers(1, 4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.none() | cookies), max_size=12),
    st.dictionaries(st.tuples(st.integers(1, 2), cookies),
                    st.lists(st.integers(0, 2**64 - 1), max_size=4)),
)  # fmt: skip
def test_joining_is_what_it_is_for_each_sample(
    samples: list[tuple[int, int | None]], parts: dict[tuple[int, int], list[int]]
) -> None:
    records = [sample(number, tid, cookie) for number, (tid, cookie) in enumerate(samples)]
    batch = Decoder([sw.event_of(ATTR)]).decode(
        sw.block_of(records), columns=("chain", "deferred_cookie")
    )
    join_deferred(batch, [
        CallchainDeferred(1, 0, 0, 5, tid, cookie, tuple(ips))
        for (tid, cookie), ips in parts.items()
    ])  # fmt: skip
    assert batch.chain is not None
    assert batch.chain_start is not None
    assert len(batch.chain_start) == len(samples) + 1
    for row, (tid, cookie) in enumerate(samples):
        rest = [] if cookie is None else parts.get((tid, cookie), [CONTEXT_USER_DEFERRED])
        found = batch.chain[batch.chain_start[row] : batch.chain_start[row + 1]]
        assert found.tolist() == [*KERNEL_PART, *rest]
