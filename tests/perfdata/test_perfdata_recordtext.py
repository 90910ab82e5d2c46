"""A line for each record: what it tells of every kind, and of records too short for theirs."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import perfdata_writer as pw
from support.sample_writer import block_of

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.recordtext import RecordLines, type_name

KIND = pw.IP | pw.TID | pw.TIME | pw.CPU
TRAILER = struct.pack("<IIQII", 41, 42, 3_000_000_007, 5, 0)
SAID = " 3.000000007 cpu 5 41/42: "
RANGE = struct.pack("<iiQQQ", 41, 42, 0x1000, 0x2000, 0x30)
RANGE_TEXT = "41/42: [0x1000(0x2000) @ 0x30]"


def lines(*records: bytes) -> list[str]:
    attr = attrs.decode(pw.attr(KIND))
    writer = RecordLines([(attr, (7,), "cycles")])
    return list(writer.lines(block_of(records, file_base=0x100), lambda offset: offset))


# Type, misc, body -> what stands behind the trailer's time, CPU and thread.
KERNEL = [
    ("COMM", 0, struct.pack("<II", 41, 42) + b"app\0\0\0\0\0", "app:41/42"),
    ("COMM", 1 << 13, struct.pack("<II", 41, 42) + b"app\0\0\0\0\0", "exec app:41/42"),
    ("MMAP", 0, RANGE + b"/lib/x\0\0", f"{RANGE_TEXT}: x /lib/x"),
    ("MMAP", 1 << 13, RANGE + b"/lib/x\0\0", f"{RANGE_TEXT}: r /lib/x"),
    ("MMAP2", 0, RANGE + struct.pack("<IIQQII", 8, 1, 99, 3, 5, 2) + b"/lib/x\0\0",
     f"{RANGE_TEXT} 08:01 99 3: r-xp /lib/x"),
    ("MMAP2", 0, RANGE + struct.pack("<IIQQ", 8, 1, 99, 3) + b"/lib/x\0\0",
     f"{RANGE_TEXT} 08:01 99 3: /lib/x"),
    ("MMAP2", 1 << 14, RANGE + bytes([2, 0, 0, 0, 0xAB, 0xCD]) + bytes(18)
     + struct.pack("<II", 3, 1) + b"/lib/x\0\0", f"{RANGE_TEXT} <abcd>: rw-s /lib/x"),
    ("FORK", 0, struct.pack("<IIIIQ", 1, 2, 3, 4, 5), "(1/3):(2/4)"),
    ("FORK", 1 << 13, struct.pack("<IIIIQ", 1, 2, 3, 4, 5), "(1/3):(2/4) (made up)"),
    ("EXIT", 0, struct.pack("<IIIIQ", 1, 2, 3, 4, 5), "(1/3):(2/4)"),
    ("LOST", 0, struct.pack("<QQ", 7, 12), "lost 12 records, id 7"),
    ("LOST_SAMPLES", 0, struct.pack("<Q", 12), "lost 12 samples"),
    ("THROTTLE", 0, struct.pack("<QQQ", 1, 7, 8), "id 7 stream 8"),
    ("UNTHROTTLE", 0, struct.pack("<QQQ", 1, 7, 8), "id 7 stream 8"),
    ("SWITCH", 0, b"", "in"), ("SWITCH", 1 << 13, b"", "out"),
    ("SWITCH", 3 << 13, b"", "out, preempted"),
    ("SWITCH_CPU_WIDE", 0, struct.pack("<II", 8, 9), "in, previous 8/9"),
    ("SWITCH_CPU_WIDE", 1 << 13, struct.pack("<II", 8, 9), "out, next 8/9"),
    ("AUX", 0, struct.pack("<QQQ", 16, 32, 1), "offset 0x10 size 0x20 flags 0x1"),
    ("ITRACE_START", 0, struct.pack("<II", 8, 9), "8/9"),
    ("NAMESPACES", 0, struct.pack("<IIQ4Q", 8, 9, 2, 3, 16, 3, 17),
     "8/9: 2: net 0x3/0x10, uts 0x3/0x11"),
    ("KSYMBOL", 0, struct.pack("<QIHH", 16, 32, 1, 1) + b"bpf_x\0\0\0",
     "addr 0x10 len 0x20 type 1 gone bpf_x"),
    ("BPF_EVENT", 0, struct.pack("<HHI", 1, 0, 6), "type 1 flags 0x0 id 6"),
    ("CGROUP", 0, struct.pack("<Q", 6) + b"/sys\0\0\0\0", "id 6 /sys"),
    ("TEXT_POKE", 0, struct.pack("<QHH", 16, 5, 6), "addr 0x10 old 5 new 6 bytes"),
    ("AUX_OUTPUT_HW_ID", 0, struct.pack("<Q", 6), "hw id 0x6"),
    ("CALLCHAIN_DEFERRED", 0, struct.pack("<QQ", 16, 2), "cookie 0x10, 2 entries"),
    ("READ", 0, struct.pack("<IIQ", 8, 9, 77), "8/9: value 77"),
]  # fmt: skip
TOOL = [
    ("HEADER_ATTR", pw.attr() + struct.pack("<Q", 7), "type 1 config 0x1 size 104, 1 ids"),
    ("HEADER_EVENT_TYPE", struct.pack("<Q", 6) + b"sched:x\0", "id 6 sched:x"),
    ("HEADER_TRACING_DATA", struct.pack("<I", 96), "96 bytes follow"),
    ("ID_INDEX", struct.pack("<Q", 3), "3 entries"),
    ("AUXTRACE_INFO", struct.pack("<II", 1, 0), "type 1"),
    ("AUXTRACE", struct.pack("<QQQIIII", 16, 32, 48, 0, 2**32 - 1, 3, 0),
     "size 0x10 offset 0x20 ref 0x30 idx 0 tid -1 cpu 3"),
    ("AUXTRACE_ERROR", struct.pack("<6I", 1, 2, 3, 4, 5, 0), "type 1 code 2 cpu 3 4/5"),
    ("THREAD_MAP", struct.pack("<Q", 2), "2 threads"), ("CPU_MAP", b"\1\0", "kind 1"),
    ("STAT", struct.pack("<QIIQQQ", 6, 1, 0, 99, 0, 0), "id 6 cpu 1 thread 0 value 99"),
    ("EVENT_UPDATE", struct.pack("<QQ", 2, 6) + b"mine\0\0\0\0", "id 6 name mine"),
    ("TIME_CONV", struct.pack("<QQQ", 31, 5, 9), "shift 31 mult 5 zero 9"),
    ("HEADER_FEATURE", struct.pack("<Q", 3) + b"abcd", "hostname, 4 bytes"),
    ("HEADER_FEATURE", struct.pack("<Q", 200), "bit 200, 0 bytes"),
    ("COMPRESSED", b"abcdefgh", "8 bytes"),
    ("COMPRESSED2", struct.pack("<Q", 5) + b"abcdefgh", "5 bytes"),
    ("HEADER_BUILD_ID", struct.pack("<i", -1) + b"\xaa" * 20 + bytes(4) + b"/lib/x\0\0",
     f"{'aa' * 20} /lib/x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "misc", "body", "told"), KERNEL)
def test_what_the_kernel_writes(name: str, misc: int, body: bytes, told: str) -> None:
    record = pw.record(RecordType[name], body + TRAILER, misc=misc | 2)
    assert lines(record) == [
        f"0x100 [{len(record):#x}]: PERF_RECORD_{name} user{SAID}{told}"
    ]
    short = pw.record(RecordType[name], body[:3] + TRAILER, misc=misc | 2)
    if body:
        assert lines(short)[0].endswith(f"{SAID}too short for its kind")


@pytest.mark.parametrize(("name", "body", "told"), TOOL)
def test_what_perf_writes(name: str, body: bytes, told: str) -> None:
    record = pw.record(RecordType[name], body)
    assert lines(record) == [f"0x100 [{len(record):#x}]: PERF_RECORD_{name}: {told}"]


def test_samples_in_their_order_among_others() -> None:
    sample = struct.pack("<QIIQII", 0xABC, 1, 2, 3_000_000_004, 6, 0)
    got = lines(
        pw.record(pw.FINISHED_ROUND), pw.record(pw.SAMPLE, sample, misc=1 | 1 << 14),
        pw.record(99, b"\0" * 8), pw.record(pw.SAMPLE, b"\0" * 8),
    )  # fmt: skip
    assert got == [
        "0x100 [0x8]: PERF_RECORD_FINISHED_ROUND",
        "0x108 [0x28]: PERF_RECORD_SAMPLE kernel 3.000000004 cpu 6 1/2: ip 0xabc exact cycles",
        "0x130 [0x10]: PERF_RECORD_UNKNOWN_99",
        "0x140 [0x10]: PERF_RECORD_SAMPLE 0.000000000 cpu 0 0/0: ip 0x0 cycles",
    ]


def test_a_sample_of_nobody() -> None:
    attr = attrs.decode(pw.attr(pw.IDENTIFIER | pw.IP))
    writer = RecordLines([(attr, (7,), "one"), (attr, (8,), "two")])
    records = [pw.record(pw.SAMPLE, struct.pack("<QQ", number, 1)) for number in (8, 9)]
    got = list(writer.lines(block_of(records), lambda offset: -1))
    assert got == [
        "? [0x18]: PERF_RECORD_SAMPLE: ip 0x1 two",
        "? [0x18]: PERF_RECORD_SAMPLE: ip 0x1 no event's id",
    ]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100), st.integers(0, 65535), st.binary(max_size=120))
def test_whatever_stands_in_a_record_has_a_line(kind: int, misc: int, body: bytes) -> None:
    (line,) = lines(pw.record(kind, body, misc=misc))
    assert line.startswith(f"0x100 [{8 + len(body):#x}]: PERF_RECORD_{type_name(kind)}")


def test_every_type_has_a_name() -> None:
    assert [type_name(int(kind)) for kind in RecordType] == [kind.name for kind in RecordType]
    assert type_name(0) == "UNKNOWN_0"
