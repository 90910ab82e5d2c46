"""Records that are not samples, with and without trailer, whole and cut short."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from support import sample_writer as sw

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, RecordType, SampleType
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
    if isinstance(found, sb.Switch):
        assert (found.pid, found.tid) == (10, -1)


@pytest.mark.parametrize("case", BODIES)
def test_without_a_trailer_there_is_no_time(case: str) -> None:
    kind, misc, body, want = BODIES[case]
    (found,) = Decoder([sw.event_of(BARE)]).sideband(sw.block_of([sw.record(kind, misc, body)]))
    assert {key: getattr(found, key) for key in want} == want
    assert found.cpu is None
    if "time_ns" not in want:
        assert found.time_ns is None
    if isinstance(found, sb.Switch):
        assert (found.pid, found.tid) == (None, None)


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
