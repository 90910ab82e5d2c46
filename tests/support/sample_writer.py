"""PERF_RECORD_SAMPLE records of any sample_type and dialect, written field by field.

Written from the layout in the UAPI header's comments, on purpose in another way than
perfxmm.kernel.layout reads it: a loop over one sample's fields with struct.pack.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import ReadFormat, RecordType, SampleType
from perfxmm.perfdata import stopinfo
from perfxmm.perfdata.blocks import RecordBlock
from perfxmm.perfdata.events import Event

NO_SET = None


@dataclass
class SetValues:
    """What a register set holds. gprs: one word for each bit of sample_regs_*, legacy XMM halves
    included. vectors, predicates: by register in mask order.

    said: the header numbers to write instead of the true ones (nr, qwords, nr_pred, pred_qwords).
    """

    abi: int = 2
    gprs: Sequence[int] = ()
    vectors: Sequence[Sequence[int]] = ()
    predicates: Sequence[Sequence[int]] = ()
    said: tuple[int, int, int, int] | None = None


@dataclass
class SampleValues:
    """One sample's contents; what its sample_type lacks is not written."""

    misc: int = 2
    identifier: int = 0
    ip: int = 0
    pid: int = 0
    tid: int = 0
    time_ns: int = 0
    addr: int = 0
    stream_id: int = 0
    cpu: int = 0
    period: int = 0
    read_times: tuple[int, int] = (0, 0)
    read_values: Sequence[tuple[int, int, int]] = ((0, 0, 0),)  # value, id, lost
    chain: Sequence[int] = ()
    raw: bytes = b"\0\0\0\0"
    branches: Sequence[tuple[int, int, int]] = ()
    branch_hw_index: int = 0
    branch_counters: Sequence[int] = ()
    bare_branches: bool = False  # as kernels write an event without a branch stack: nr alone
    user: SetValues | None = None
    stack: bytes = b""
    stack_dyn: int = 0
    weight: int = 0
    data_src: int = 0
    transaction: int = 0
    intr: SetValues | None = None
    phys_addr: int = 0
    cgroup: int = 0
    data_page_size: int = 0
    code_page_size: int = 0
    aux: bytes = b""
    extra_words: Sequence[int] = field(default=())  # beyond what sample_type says


def _q(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def register_set(values: SetValues | None, header: str) -> bytes:
    """The bytes of a set; header "u64" or "u16" as the dialect has it."""
    if values is NO_SET or values.abi == 0:
        return _q(0)
    out = _q(values.abi, *values.gprs)
    if not values.abi & 4:
        return out
    numbers = values.said or (
        len(values.vectors), len(values.vectors[0]) if values.vectors else 0,
        len(values.predicates), len(values.predicates[0]) if values.predicates else 0,
    )
    out += struct.pack("<4H" if header == "u16" else "<4Q", *numbers)
    for register in (*values.vectors, *values.predicates):
        out += _q(*register)
    return out


def read_bytes(values: SampleValues, read_format: int) -> bytes:
    entries = []
    for value, number, lost in values.read_values:
        entry = [value]
        if read_format & ReadFormat.ID:
            entry.append(number)
        if read_format & ReadFormat.LOST:
            entry.append(lost)
        entries.append(entry)
    times = []
    if read_format & ReadFormat.TOTAL_TIME_ENABLED:
        times.append(values.read_times[0])
    if read_format & ReadFormat.TOTAL_TIME_RUNNING:
        times.append(values.read_times[1])
    if read_format & ReadFormat.GROUP:
        return _q(len(entries), *times, *(word for entry in entries for word in entry))
    return _q(entries[0][0], *times, *entries[0][1:])


def sample_body(attr: EventAttr, values: SampleValues) -> bytes:
    """A sample's fields in record order, without the header."""
    header = attr.dialect.header
    out = b""
    if attr.has(SampleType.IDENTIFIER):
        out += _q(values.identifier)
    if attr.has(SampleType.IP):
        out += _q(values.ip)
    if attr.has(SampleType.TID):
        out += struct.pack("<ii", values.pid, values.tid)
    if attr.has(SampleType.TIME):
        out += _q(values.time_ns)
    if attr.has(SampleType.ADDR):
        out += _q(values.addr)
    if attr.has(SampleType.ID):
        out += _q(values.identifier)
    if attr.has(SampleType.STREAM_ID):
        out += _q(values.stream_id)
    if attr.has(SampleType.CPU):
        out += struct.pack("<II", values.cpu, 0)
    if attr.has(SampleType.PERIOD):
        out += _q(values.period)
    if attr.has(SampleType.READ):
        out += read_bytes(values, attr.read_format)
    if attr.has(SampleType.CALLCHAIN):
        out += _q(len(values.chain), *values.chain)
    if attr.has(SampleType.RAW):
        out += struct.pack("<I", len(values.raw)) + values.raw
        out += bytes(-len(out) % 8)
    if attr.has(SampleType.BRANCH_STACK):
        out += _q(len(values.branches))
        if attr.branch_sample_type & 1 << 17 and not values.bare_branches:
            out += _q(values.branch_hw_index)
        out += b"".join(_q(*entry) for entry in values.branches)
        if attr.branch_sample_type & 1 << 19:
            out += _q(*values.branch_counters)
    if attr.has(SampleType.REGS_USER):
        out += register_set(values.user, header)
    if attr.has(SampleType.STACK_USER):
        out += _q(len(values.stack))
        if values.stack:
            out += values.stack + _q(values.stack_dyn)
    if attr.sample_type & (SampleType.WEIGHT | SampleType.WEIGHT_STRUCT):
        out += _q(values.weight)
    if attr.has(SampleType.DATA_SRC):
        out += _q(values.data_src)
    if attr.has(SampleType.TRANSACTION):
        out += _q(values.transaction)
    if attr.has(SampleType.REGS_INTR):
        out += register_set(values.intr, header)
    for bit, value in (
        (SampleType.PHYS_ADDR, values.phys_addr), (SampleType.CGROUP, values.cgroup),
        (SampleType.DATA_PAGE_SIZE, values.data_page_size),
        (SampleType.CODE_PAGE_SIZE, values.code_page_size),
    ):
        if attr.has(bit):
            out += _q(value)
    if attr.has(SampleType.AUX):
        out += _q(len(values.aux)) + values.aux
    return out + _q(*values.extra_words)


def record(kind: int, misc: int, body: bytes) -> bytes:
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def sample_record(attr: EventAttr, values: SampleValues) -> bytes:
    return record(RecordType.SAMPLE, values.misc, sample_body(attr, values))


def stop_payload(
    xstate_bv: int, *, si_perf_flags: int = 0, flags: int = 1, magic: int = stopinfo.MAGIC
) -> bytes:
    """What the sigtrap source puts into RAW."""
    return struct.pack(stopinfo.FORMAT, magic, xstate_bv, si_perf_flags, flags)


def block_of(
    records: Iterable[bytes], *, file_base: int = 0, before: bytes = b"", behind: bytes = b""
) -> RecordBlock:
    """A block of records as they stand behind each other in a file."""
    offsets, sizes, types, miscs = [], [], [], []
    data = bytearray(before)
    for one in records:
        kind, misc, size = struct.unpack_from("<IHH", one)
        offsets.append(len(data))
        sizes.append(size)
        types.append(kind)
        miscs.append(misc)
        data += one
    data += behind
    return RecordBlock(
        np.frombuffer(bytes(data), np.uint8), np.array(offsets, np.int64),
        np.array(sizes, np.uint32), np.array(types, np.uint32), np.array(miscs, np.uint16),
        file_base,
    )


def event_of(attr: EventAttr, *, index: int = 0, ids: tuple[int, ...] = ()) -> Event:
    return Event(index=index, name=f"event{index}", attr=attr, ids=ids, attr_bytes=b"",
                 attr_offset=0)  # fmt: skip
