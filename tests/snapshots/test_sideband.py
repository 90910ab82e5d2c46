"""Records that are not samples, with and without trailer, whole and cut short."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sample_writer as sw

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, ReadFormat, RecordType, SampleType
from perfxmm.snapshots import sideband as sb
from perfxmm.snapshots.decode import Decoder

ATTR = EventAttr(
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
                    | SampleType.IDENTIFIER),
    flags=int(AttrFlag.SAMPLE_ID_ALL),
)  # fmt: skip
TRAILER = struct.pack("<iiQIIQ", 10, -1, 555, 3, 0, 77)
BARE = replace(ATTR, flags=0)


def name(text: bytes) -> bytes:
    return text + bytes(8 - len(text) % 8)


BODIES: dict[str, tuple[int, int, bytes, dict[str, Any]]] = {
    "comm": (RecordType.COMM, 1 << 13, struct.pack("<ii", 10, 11) + name(b"app"),
             {"pid": 10, "tid": 11, "name": "app", "is_exec": True}),
    "comm, odd bytes": (RecordType.COMM, 0, struct.pack("<ii", 10, -1) + name(b"\xff\x1b[2J"),
                        {"pid": 10, "tid": -1, "name": "\udcff\x1b[2J", "is_exec": False}),
    "mmap": (RecordType.MMAP, 2, struct.pack("<iiQQQ", 1, 2, 0x1000, 0x2000, 3) + name(b"/bin/a"),
             {"pid": 1, "tid": 2, "start": 0x1000, "length": 0x2000, "page_offset": 3,
              "path": "/bin/a", "prot": 4, "build_id": None, "cpumode": 2}),
    "mmap of data": (RecordType.MMAP, 1 << 13 | 1,
                     struct.pack("<iiQQQ", 1, 2, 0, 1, 0) + name(b"d"),
                     {"prot": 0, "cpumode": 1, "path": "d"}),
    "mmap2": (RecordType.MMAP2, 2,
              struct.pack("<iiQQQIIQQII", 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 2) + name(b"/lib/x"),
              {"maj": 6, "min": 7, "inode": 8, "inode_generation": 9, "prot": 5, "flags": 2,
               "path": "/lib/x", "build_id": None}),
    "mmap2 with build id": (RecordType.MMAP2, 1 << 14 | 2,
                            struct.pack("<iiQQQBBH20sII", 1, 2, 3, 4, 5, 20, 0, 0,
                                        bytes(range(20)), 5, 2) + name(b"/lib/x"),
                            {"build_id": bytes(range(20)), "maj": 0, "prot": 5, "flags": 2}),
    "mmap2 with a build id too long": (RecordType.MMAP2, 1 << 14 | 2,
                                       struct.pack("<iiQQQBBH20sII", 1, 2, 3, 4, 5, 255, 0, 0,
                                                   bytes(range(20)), 5, 2) + name(b"/lib/x"),
                                       {"build_id": bytes(range(20))}),
    "fork": (RecordType.FORK, 0, struct.pack("<iiiiQ", 5, 4, 6, 3, 999),
             {"pid": 5, "parent_pid": 4, "tid": 6, "parent_tid": 3, "time_ns": 999}),
    "exit": (RecordType.EXIT, 0, struct.pack("<iiiiQ", 5, 4, 6, 3, 999),
             {"pid": 5, "parent_pid": 4, "tid": 6, "parent_tid": 3, "time_ns": 999}),
    "lost": (RecordType.LOST, 0, struct.pack("<QQ", 77, 12),
             {"event_id": 77, "count": 12, "samples_only": False}),
    "lost samples": (RecordType.LOST_SAMPLES, 0, struct.pack("<Q", 12),
                     {"event_id": None, "count": 12, "samples_only": True}),
    "throttle": (RecordType.THROTTLE, 0, struct.pack("<QQQ", 888, 77, 78),
                 {"time_ns": 888, "event_id": 77, "stream_id": 78, "on": True}),
    "unthrottle": (RecordType.UNTHROTTLE, 0, struct.pack("<QQQ", 888, 77, 78),
                   {"time_ns": 888, "event_id": 77, "stream_id": 78, "on": False}),
    "ksymbol": (RecordType.KSYMBOL, 1,
                struct.pack("<QIHH", 0xFFFF << 48, 64, 1, 0) + name(b"bpf_x"),
                {"start": 0xFFFF << 48, "length": 64, "kind": 1, "name": "bpf_x",
                 "registered": True}),
    "ksymbol gone": (RecordType.KSYMBOL, 1, struct.pack("<QIHH", 1, 64, 1, 1) + name(b"bpf_x"),
                     {"registered": False}),
    "switch": (RecordType.SWITCH, 1 << 13, b"",
               {"out": True, "preempted": False, "other_pid": None}),
    "switch cpu wide": (RecordType.SWITCH_CPU_WIDE, 1 << 14 | 1 << 13, struct.pack("<ii", 8, 9),
                        {"out": True, "preempted": True, "other_pid": 8, "other_tid": 9}),
    "old mmap2": (RecordType.MMAP2, 2,
                  struct.pack("<iiQQQIIQQ", 1, 2, 3, 4, 5, 6, 7, 8, 9) + name(b"/usr/bin/true"),
                  {"path": "/usr/bin/true", "prot": 4, "flags": 0, "maj": 6, "min": 7,
                   "inode": 8, "inode_generation": 9, "build_id": None}),
    "old mmap2 of data, short": (RecordType.MMAP2, 1 << 13 | 2,
                                 struct.pack("<iiQQQIIQQ", 1, 2, 3, 4, 5, 0, 0, 0, 0)
                                 + name(b"//anon"),
                                 {"path": "//anon", "prot": 0, "flags": 0}),
    "aux": (RecordType.AUX, 0, struct.pack("<QQQ", 4096, 64, 1),
            {"offset": 4096, "size": 64, "flags": 1}),
    "itrace start": (RecordType.ITRACE_START, 0, struct.pack("<ii", 5, 6), {"pid": 5, "tid": 6}),
    "namespaces": (RecordType.NAMESPACES, 0, struct.pack("<iiQQQQQ", 5, 6, 2, 3, 10, 3, 11),
                   {"pid": 5, "tid": 6, "namespaces": ((3, 10), (3, 11))}),
    "bpf event": (RecordType.BPF_EVENT, 1, struct.pack("<HHI8s", 1, 0, 42, b"12345678"),
                  {"kind": 1, "flags": 0, "program_id": 42, "tag": b"12345678"}),
    "cgroup": (RecordType.CGROUP, 0, struct.pack("<Q", 2**63 + 1) + name(b"/user.slice"),
               {"cgroup_id": 2**63 + 1, "path": "/user.slice"}),
    "text poke": (RecordType.TEXT_POKE, 1, struct.pack("<QHH5s5s2x", 1 << 63, 5, 5, b"abcde",
                                                       b"fghij"),
                  {"address": 1 << 63, "old": b"abcde", "new": b"fghij"}),
    "aux output hw id": (RecordType.AUX_OUTPUT_HW_ID, 0, struct.pack("<Q", 3), {"hw_id": 3}),
    "callchain deferred": (RecordType.CALLCHAIN_DEFERRED, 2,
                           struct.pack("<QQQQ", 99, 2, 2**64 - 512, 0x401000),
                           {"cookie": 99, "ips": (2**64 - 512, 0x401000)}),
    "read": (RecordType.READ, 0, struct.pack("<iiQ", 5, 6, 1000),
             {"pid": 5, "tid": 6, "time_enabled_ns": None, "time_running_ns": None,
              "values": ((1000, None, None),)}),
}  # fmt: skip

# Records of perf's own: they never have a trailer.
TOOL_BODIES: dict[str, tuple[int, bytes, dict[str, Any]]] = {
    "time conv": (RecordType.TIME_CONV, struct.pack("<QQQQQQ", 31, 2, 3, 4, 5, 1),
                  {"shift": 31, "mult": 2, "zero": 3, "cycles": 4, "mask": 5, "time_ns": None}),
    "short time conv": (RecordType.TIME_CONV, struct.pack("<QQQ", 31, 2, 3),
                        {"zero": 3, "cycles": 0, "mask": 0}),
    "id index": (RecordType.ID_INDEX, struct.pack("<QQQQqQQqQ", 2, 70, 0, 3, -1, 71, 1, -1, 9),
                 {"entries": ((70, 0, 3, -1), (71, 1, -1, 9))}),
    "thread map": (RecordType.THREAD_MAP, struct.pack("<Qq16sq16s", 2, 10, b"app", -1, b""),
                   {"threads": ((10, "app"), (-1, ""))}),
    "cpu list": (RecordType.CPU_MAP, struct.pack("<HHhhh6x", 0, 3, -1, 4, 9), {"cpus": (-1, 4, 9)}),
    "cpu mask of 32": (RecordType.CPU_MAP, struct.pack("<HHHII2x", 1, 2, 4, 5, 1),
                       {"cpus": (0, 2, 32)}),
    "cpu mask of 64": (RecordType.CPU_MAP, struct.pack("<HHH4xQ6x", 1, 1, 8, 5 | 1 << 63),
                       {"cpus": (0, 2, 63)}),
    "cpu range": (RecordType.CPU_MAP, struct.pack("<HBBHH", 2, 0, 0, 3, 6), {"cpus": (3, 4, 5, 6)}),
    "any cpu and a range": (RecordType.CPU_MAP, struct.pack("<HBBHH", 2, 1, 0, 3, 3),
                            {"cpus": (-1, 3)}),
    "cpu map of another form": (RecordType.CPU_MAP, struct.pack("<HHHH", 7, 0, 0, 0),
                                {"cpus": None}),
    "auxtrace error": (RecordType.AUXTRACE_ERROR,
                       struct.pack("<IIiiiIQQ64s", 1, 5, 3, 10, -1, 1, 0x401000, 777,
                                   b"bad packet"),
                       {"kind": 1, "code": 5, "cpu": 3, "pid": 10, "tid": -1, "ip": 0x401000,
                        "time_ns": 777, "message": "bad packet"}),
    "auxtrace error of old": (RecordType.AUXTRACE_ERROR,
                              struct.pack("<IIiiiIQ64s", 1, 5, -1, 10, 11, 0, 0,
                                          b"Overflow packet"),
                              {"cpu": None, "time_ns": None, "message": "Overflow packet"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_every_field_with_a_trailer(case: str) -> None:
    kind, misc, body, want = BODIES[case]
    block = sw.block_of([sw.record(kind, misc, body + TRAILER)], file_base=64)
    (found,) = Decoder([sw.event_of(ATTR)]).sideband(block)
    have = {key: getattr(found, key) for key in want}
    assert have == want
    assert found.cpu == 3
    assert found.file_offset == 64
    if "time_ns" not in want:
        assert found.time_ns == 555
    if isinstance(found, sb.Switch | sb.CallchainDeferred):
        assert (found.pid, found.tid) == (10, -1)


@pytest.mark.parametrize("case", BODIES)
def test_without_a_trailer_there_is_no_time(case: str) -> None:
    kind, misc, body, want = BODIES[case]
    (found,) = Decoder([sw.event_of(BARE)]).sideband(sw.block_of([sw.record(kind, misc, body)]))
    assert {key: getattr(found, key) for key in want} == want
    assert found.cpu is None
    if "time_ns" not in want:
        assert found.time_ns is None
    if isinstance(found, sb.Switch | sb.CallchainDeferred):
        assert (found.pid, found.tid) == (None, None)


@pytest.mark.parametrize("case", TOOL_BODIES)
def test_every_field_of_the_tools_own_records(case: str) -> None:
    kind, body, want = TOOL_BODIES[case]
    block = sw.block_of([sw.record(kind, 0, body)], file_base=64)
    (found,) = Decoder([sw.event_of(ATTR)]).sideband(block)
    assert {key: getattr(found, key) for key in want} == want
    assert found.file_offset == 64


@pytest.mark.parametrize("case", TOOL_BODIES)
def test_a_tools_record_cut_anywhere_raises_nothing(case: str) -> None:
    kind, body, _ = TOOL_BODIES[case]
    whole = sw.record(kind, 0, body)
    for size in range(8, len(whole)):
        cut = whole[:6] + struct.pack("<H", size) + whole[8:size]
        decoder = Decoder([sw.event_of(ATTR)])
        found = list(decoder.sideband(sw.block_of([cut, whole])))
        assert len(found) + len(decoder.sideband_problems) == 2
        assert found[-1].file_offset == size


@pytest.mark.parametrize("case", BODIES)
def test_a_record_cut_anywhere_raises_nothing(case: str) -> None:
    kind, misc, body, _ = BODIES[case]
    whole = sw.record(kind, misc, body + TRAILER)
    for size in range(8, len(whole)):
        cut = whole[:6] + struct.pack("<H", size) + whole[8:size]
        decoder = Decoder([sw.event_of(ATTR)])
        found = list(decoder.sideband(sw.block_of([cut, whole])))
        assert len(found) + len(decoder.sideband_problems) == 2
        assert found[-1].file_offset == size
        for problem in decoder.sideband_problems:
            assert problem.file_offset == 0
            assert problem.what == f"{RecordType(kind).name} record is too short"


def test_trailers_that_differ_are_told_apart_by_their_last_word() -> None:
    short = EventAttr(
        sample_type=int(SampleType.TIME | SampleType.IDENTIFIER), flags=int(AttrFlag.SAMPLE_ID_ALL)
    )
    events = [sw.event_of(ATTR, ids=(77,)), sw.event_of(short, index=1, ids=(88,))]
    comm = struct.pack("<ii", 1, 1) + name(b"abc")
    block = sw.block_of([
        sw.record(RecordType.COMM, 0, comm + TRAILER),
        sw.record(RecordType.COMM, 0, comm + struct.pack("<QQ", 666, 88)),
    ])  # fmt: skip
    found = list(Decoder(events).sideband(block))
    assert [(r.time_ns, r.cpu) for r in found] == [(555, 3), (666, None)]


def test_samples_and_unknown_records_are_passed_over() -> None:
    block = sw.block_of([
        sw.record(RecordType.SAMPLE, 2, bytes(48)), sw.record(68, 0, b""),
        sw.record(12345, 0, bytes(8)), sw.record(*BODIES["lost"][:2], BODIES["lost"][2] + TRAILER),
    ])  # fmt: skip
    found = list(Decoder([sw.event_of(ATTR)]).sideband(block))
    assert [type(record) for record in found] == [sb.Lost]


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("read_format", range(32))
def test_a_threads_counts_are_read_by_the_events_format(read_format: int, group: bool) -> None:
    read_format = read_format & ~ReadFormat.GROUP | (ReadFormat.GROUP if group else 0)
    events = [
        sw.event_of(replace(ATTR, read_format=0), ids=(11,)),
        sw.event_of(replace(ATTR, read_format=read_format), index=1, ids=(77,)),
    ]
    written = [(100, 77, 1), (200, 78, 2), (300, 79, 3)][: 3 if group else 1]
    values = sw.SampleValues(read_times=(5, 6), read_values=written)
    body = struct.pack("<ii", 3, 4) + sw.read_bytes(values, read_format) + TRAILER
    block = sw.block_of([sw.record(RecordType.READ, 0, body)])
    (found,) = Decoder(events).sideband(block)
    assert isinstance(found, sb.Read)
    assert found.time_enabled_ns == (5 if read_format & 1 else None)
    assert found.time_running_ns == (6 if read_format & 2 else None)
    assert found.values == tuple(
        (value, number if read_format & 4 else None, lost if read_format & 16 else None)
        for value, number, lost in written
    )
    assert (found.time_ns, found.cpu) == (555, 3)


@pytest.mark.parametrize("count", [3, 2**61, 2**64 - 1])
@pytest.mark.parametrize("case", ["namespaces", "callchain deferred", "id index", "thread map"])
def test_counts_beyond_the_record_cost_that_record(case: str, count: int) -> None:
    kind, body = BODIES[case][::2] if case in BODIES else TOOL_BODIES[case][:2]
    at = 0 if case in TOOL_BODIES else 8
    wrong = body[:at] + struct.pack("<Q", count) + body[at + 8 :]
    trailer = b"" if case in TOOL_BODIES else TRAILER
    block = sw.block_of(
        [sw.record(kind, 0, wrong + trailer), sw.record(kind, 0, body + trailer)], file_base=64
    )
    decoder = Decoder([sw.event_of(ATTR)])
    (found,) = decoder.sideband(block)
    size = 8 + len(body) + len(trailer)
    assert found.file_offset == 64 + size
    assert decoder.sideband_problems == [
        sb.SidebandProblem(64, f"{RecordType(kind).name} record is too short")
    ]


def test_records_at_odd_places_are_read_alike() -> None:
    records = [
        sw.record(kind, misc, body + TRAILER) for kind, misc, body, _ in BODIES.values()
    ]
    decoder = Decoder([sw.event_of(ATTR)])
    even = list(decoder.sideband(sw.block_of(records)))
    odd = list(decoder.sideband(sw.block_of(records, before=bytes(3))))
    assert [replace(one, file_offset=one.file_offset - 3) for one in odd] == even
    assert len(even) == len(BODIES)


def test_the_largest_cpu_mask_is_read_at_once() -> None:
    body = struct.pack("<HHH4x", 1, 8000, 8) + b"\xff" * 64000 + bytes(6)
    (found,) = Decoder([sw.event_of(ATTR)]).sideband(
        sw.block_of([sw.record(RecordType.CPU_MAP, 0, body)])
    )
    assert isinstance(found, sb.CpuMap)
    assert found.cpus == tuple(range(512000))


def test_many_names_are_all_right() -> None:
    """More names than are remembered, and one too long to be."""
    names = [b"thread-%d" % number for number in range(5000)] * 2 + [b"x" * 3000]
    block = sw.block_of([
        sw.record(RecordType.COMM, 0, struct.pack("<ii", 1, 2) + name(text) + TRAILER)
        for text in names
    ])  # fmt: skip
    found = [getattr(one, "name", "") for one in Decoder([sw.event_of(ATTR)]).sideband(block)]
    assert found == [text.decode() for text in names]


KINDS = sorted({int(kind) for kind in RecordType} - {int(RecordType.SAMPLE)})
# Those that become an object; the others are passed over.
KNOWN_KINDS = {case[0] for case in (*BODIES.values(), *TOOL_BODIES.values())}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16 - 1),
                       st.binary(max_size=160)), max_size=12),
    st.booleans(), st.integers(0, 7),
)  # fmt: skip
def test_junk_of_any_kind_is_read_or_named(
    junk: list[tuple[int, int, bytes]], with_trailer: bool, shift: int
) -> None:
    """Whatever is in them, and wherever the block's buffer ends."""
    records = [sw.record(kind, misc, body) for kind, misc, body in junk]
    whole = sw.block_of(records, before=bytes(shift), file_base=8)
    events = [
        sw.event_of(ATTR if with_trailer else BARE, ids=(77,)),
        sw.event_of(replace(ATTR, read_format=31), index=1, ids=(78,)),
    ]
    known = sum(kind in KNOWN_KINDS for kind, _, _ in junk)
    for missing in (0, 1, 40):
        buffer = whole.buffer[: max(len(whole.buffer) - missing, 0)]
        decoder = Decoder(events)
        found = list(decoder.sideband(replace(whole, buffer=buffer)))
        assert len(found) + len(decoder.sideband_problems) == known
        places = [one.file_offset for one in (*found, *decoder.sideband_problems)]
        assert set(places) <= set((whole.offsets + 8).tolist())
        assert len(set(places)) == known
