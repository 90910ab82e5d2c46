"""Names of events that a recording does not name: as perf makes them, or from tracing data."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import perf_opinion
from support import perfdata_writer as w

from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.tracing import TracingError, tracepoint_names

TRACING_DATA, PMU_MAPPINGS = 1, 16  # feature bits
NO_USER, NO_KERNEL, NO_HV, NO_HOST, NO_GUEST = 1 << 4, 1 << 5, 1 << 6, 1 << 19, 1 << 20
PRECISE = 1 << 15
# (type, config, flags) -> name.
NAMES = {
    (0, 0, NO_GUEST): "cycles", (0, 9, NO_GUEST): "ref-cycles", (1, 0, NO_GUEST): "cpu-clock",
    (0, 0, NO_USER): "cycles:kh", (0, 0, NO_KERNEL): "cycles:uh", (0, 0, NO_HV): "cycles:ku",
    (0, 0, NO_USER | NO_KERNEL): "cycles:h", (0, 0, NO_KERNEL | NO_HV): "cycles:u",
    (0, 1, NO_KERNEL | NO_HV | NO_GUEST): "instructions:uH", (0, 0, NO_HOST): "cycles:G",
    (0, 0, NO_KERNEL | NO_HOST): "cycles:uhG", (0, 0, 2 * PRECISE): "cycles:pp",
    (0, 0, 3 * PRECISE | NO_KERNEL | NO_HV | NO_GUEST): "cycles:upppH",
    (0, 4 << 32, NO_GUEST): "cpu/cycles/",
    (3, 4 << 32 | 0x10000, NO_GUEST): "L1-dcache-load-misses",
    (3, 0x10001, NO_GUEST): "L1-icache-load-misses", (3, 0x10102, NO_GUEST): "LLC-store-misses",
    (3, 0x203, NO_GUEST): "dTLB-prefetches", (3, 5, NO_GUEST): "branch-loads",
    (4, 0x1A8, NO_GUEST): "raw 0x1a8",
}  # fmt: skip
# Where perf says "unknown" in several ways, type and config say more.
OURS = {
    (0, 10, NO_GUEST): "type0/config=0xa/", (1, 10, NO_GUEST): "bpf-output",
    (1, 11, NO_GUEST): "cgroup-switches", (3, 7, NO_GUEST): "type3/config=0x7/",
    (8, 5, NO_GUEST): "type8/config=0x5/", (8, 5, NO_KERNEL | NO_HV): "type8/config=0x5/:u",
    (2, 316, NO_GUEST): "tracepoint:316",
}  # fmt: skip
BREAKPOINTS = {0: "", 1: "r", 2: "w", 3: "rw", 4: "x", 7: "rwx"}


def recording(attr: bytes, features: dict[int, bytes] | None = None) -> bytes:
    return w.PerfFile(
        attrs=[(attr, (7,))], records=[w.comm(1), w.sample(2)], features=features or {}
    ).build()


def attr_of(kind: int, config: int, flags: int, access: int = 0, address: int = 0) -> bytes:
    made = bytearray(w.attr(kind=kind, config=config, flags=w.SAMPLE_ID_ALL | flags))
    struct.pack_into("<IQ", made, 52, access, address)
    return bytes(made)


def name_of(attr: bytes, features: dict[int, bytes] | None = None) -> str:
    source = Reader(io.BytesIO(recording(attr, features)))
    assert source.damage == []
    return source.events[0].name


def test_names_without_any_in_the_file() -> None:
    assert {key: name_of(attr_of(*key)) for key in NAMES | OURS} == NAMES | OURS
    for access, letters in BREAKPOINTS.items():
        attr = attr_of(5, 0, NO_GUEST, access, 0x401136)
        assert name_of(attr) == f"mem:0x401136:{letters}"


def test_names_of_pmus() -> None:
    mappings = struct.pack("<I", 2)
    for number, name in ((4, "cpu_core"), (8, "intel_pt")):
        mappings += struct.pack("<I", number) + w.string(name)
    features = {PMU_MAPPINGS: mappings}
    assert name_of(attr_of(0, 4 << 32, NO_GUEST), features) == "cpu_core/cycles/"
    assert name_of(attr_of(8, 0x300E601, NO_GUEST), features) == "intel_pt/config=0x300e601/"


def test_names_are_those_of_perf(tmp_path: Path) -> None:
    perf = perf_opinion.perf_or_skip()
    for key, name in NAMES.items():
        if perf_opinion.perf_version(perf) >= (6, 13) and key[2] & NO_GUEST:
            continue  # since then H stands for "no guests" in every name
        path = tmp_path / "file.data"
        path.write_bytes(recording(attr_of(*key)))
        said = perf_opinion.perf_script(perf, path, ("event",)).lines
        assert [line.strip().removesuffix(":") for line in said] == [name], key


def tracing(systems: dict[str, dict[str, int]], *, order: str = "<") -> bytes:
    """Tracing data as perf saves them: systems -> name of a tracepoint -> its number."""

    def sized(data: bytes) -> bytes:
        return struct.pack(order + "Q", len(data)) + data

    made = b"\x17\x08\x44tracing0.6\0" + bytes([order == ">", 8])
    made += struct.pack(order + "I", 4096)
    made += b"header_page\0" + sized(b"\tfield: u64 timestamp;\n")
    made += b"header_event\0" + sized(b"# compressed entry header\n" * 9)
    made += struct.pack(order + "I", 1) + sized(b"name: function\nID: 1\nformat:\n")
    made += struct.pack(order + "I", len(systems))
    for system, events in systems.items():
        made += system.encode() + b"\0" + struct.pack(order + "I", len(events))
        for name, number in events.items():
            made += sized(b"name: %s\nID: %d\nformat:\n" % (name.encode(), number) + b"x" * 700)
    return made + struct.pack(order + "I", 4) + b"syms"


SYSTEMS = {"sched": {"sched_switch": 316, "sched_wakeup": 319}, "irq": {"softirq_entry": 88}}
WANTED = {316: "sched:sched_switch", 319: "sched:sched_wakeup", 88: "irq:softirq_entry"}


@pytest.mark.parametrize("order", "<>")
def test_tracing_data(order: str) -> None:
    data = b"before" + tracing(SYSTEMS, order=order) + b"behind"
    assert tracepoint_names(data, 6, len(data) - 6) == WANTED


def test_tracing_data_name_tracepoints_in_files_and_pipes() -> None:
    attr, data = attr_of(2, 316, 0), tracing(SYSTEMS)
    assert name_of(attr, {TRACING_DATA: data}) == "sched:sched_switch"
    padded = data + b"\0" * (-len(data) % 8)
    records = [
        w.record(w.HEADER_ATTR, attr + struct.pack("<Q", 7)),
        w.record(w.HEADER_TRACING_DATA, struct.pack("<I", len(data))) + padded, w.sample(2),
    ]  # fmt: skip
    pipe = Reader(io.BytesIO(b"PERFILE2" + struct.pack("<Q", 16) + b"".join(records)))
    assert [event.name for event in pipe.events] == ["sched:sched_switch"]
    assert pipe.damage == []


def test_tracing_data_cut_at_every_byte_give_what_was_before() -> None:
    data = tracing(SYSTEMS)
    seen = 0
    for end in range(len(data) - 8):
        with pytest.raises(TracingError) as caught:
            tracepoint_names(data[:end], 0, end)
        found = caught.value.so_far
        assert list(found.items()) == list(WANTED.items())[: len(found)]
        assert caught.value.offset <= end
        seen = max(seen, len(found))
    assert seen == 2
    source = Reader(io.BytesIO(recording(attr_of(2, 319, 0), {TRACING_DATA: data[:-700]})))
    assert source.events[0].name == "sched:sched_wakeup"
    assert [d.what for d in source.damage] == ["the tracing data are cut short"]


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_any_bytes_for_tracing_data(data: bytes, begin: int, end: int) -> None:
    for head in (b"", b"\x17\x08\x44tracing0.6\0\0\x08\0\x10\0\0"):
        with contextlib.suppress(TracingError):
            tracepoint_names(head + data, begin if not head else 0, end)


def test_impossible_counts_are_not_believed() -> None:
    data = bytearray(tracing(SYSTEMS))
    at = data.index(b"sched\0") + 6
    struct.pack_into("<I", data, at, 0xFFFFFFFF)
    with pytest.raises(TracingError, match="claim 4294967295 entries"):
        tracepoint_names(bytes(data), 0, len(data))
