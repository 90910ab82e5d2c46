"""Names for code made at run time, from perf maps and jitdumps of the tests' own."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxmm.program import jitdump, perfmap
from perfxmm.program.files import Opened
from perfxmm.program.jit import JitCode, is_dump
from perfxmm.program.perfmap import Function, Layer
from perfxmm.program.places import Places
from perfxmm.program.remarks import remarks
from perfxmm.program.timeline import CPUMODE_USER, Timeline

CODE = 0x7F0000001000
PID = 4242


def load(time_ns: int, start: int, name: str, size: int = 0x40, number: int = 0) -> bytes:
    body = struct.pack("<IIQQQQ", PID, PID, start, start, size, number)
    body += name.encode() + b"\0" + b"\x90" * size
    return struct.pack("<IIQ", 0, 16 + len(body), time_ns) + body


def move(time_ns: int, old: int, new: int, size: int, number: int) -> bytes:
    body = struct.pack("<IIQQQQQ", PID, PID, new, old, new, size, number)
    return struct.pack("<IIQ", 1, 16 + len(body), time_ns) + body


def other(kind: int, time_ns: int, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", kind, 16 + len(body), time_ns) + body


def dump(*records: bytes, flags: int = 0, magic: int = jitdump.MAGIC, version: int = 1) -> bytes:
    head = struct.pack("<IIIIIIQQ", magic, version, 40, 62, 0, PID, 1, flags)
    return head + b"".join(records)


# Perf maps.


def test_lines_of_a_perf_map() -> None:
    text = (
        b"7f00 10 plain\n"
        b"0x8000 0x20 LazyCompile:~a b /x.js:1:2\n"
        b"\n# a comment\nzz 10 no number\n9000 0 no size\n9100 10\n"
        b"ffffffffffffffff 10 beyond\n12345678123456781 10 too long\n"
        b"a000 8 caf\xff\r\nb000 8 no newline"
    )
    assert perfmap.parse(text) == [
        Function(0x7F00, 0x7F10, "plain"), Function(0x8000, 0x8020, "LazyCompile:~a b /x.js:1:2"),
        Function(0xA000, 0xA008, "caf\\xff"), Function(0xB000, 0xB008, "no newline"),
    ]


def test_only_the_last_lines_and_the_beginning_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfmap, "MOST_LINES", 2)
    monkeypatch.setattr(perfmap, "MOST_NAME_BYTES", 3)
    assert [f.name for f in perfmap.parse(b"1 1 aaaaa\n2 1 b\n3 1 ccccc\n")] == ["b", "ccc"]


def test_the_last_of_overlapping_functions_wins() -> None:
    assert perfmap.layers([(0, 10), (4, 6), (5, 20), (30, 31)], "abcd") == [
        Layer(0, 4, 0, False), Layer(4, 5, 1, True), Layer(5, 10, 2, True),
        Layer(10, 20, 2, False), Layer(30, 31, 3, False),
    ]
    assert perfmap.layers([(0, 4), (0, 4)], "aa") == [Layer(0, 4, 1, False)]
    assert perfmap.layers([], []) == []


@settings(max_examples=80, deadline=None)
@given(st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 6), st.sampled_from("ab")), max_size=9))
def test_layers_agree_with_painting(entries: list[tuple[int, int, str]]) -> None:
    spans = [(start, start + size) for start, size, _ in entries]
    names = [name for _, _, name in entries]
    painted: dict[int, int] = {}
    seen: dict[int, set[str]] = {}
    for number, (start, end) in enumerate(spans):
        for at in range(start, end):
            painted[at] = number
            seen.setdefault(at, set()).add(names[number])
    found = perfmap.layers(spans, names)
    assert {at: layer.owner for layer in found for at in range(layer.start, layer.end)} == painted
    assert {
        at for layer in found if layer.contested for at in range(layer.start, layer.end)
    } == {at for at, who in seen.items() if len(who) > 1}
    assert found == sorted(found)


# Jitdumps.


def test_records_of_a_jitdump() -> None:
    found = jitdump.parse(dump(
        load(10, CODE, "a", number=1), other(2, 11, bytes(40)), load(12, CODE + 64, "b", number=2),
        move(13, CODE, CODE + 256, 64, 1), load(14, CODE, "a", number=3), other(4, 15, bytes(32)),
        other(77, 16), other(3, 17),
    ))
    assert found is not None
    assert found.names == ["a", "b"]
    assert [(c.time_ns, c.start - CODE, c.end - CODE, c.name) for c in found.codes] == [
        (10, 0, 64, 0), (12, 64, 128, 1), (13, 256, 320, 0), (14, 0, 64, 0),
    ]
    assert (found.pid, found.closed_ns, found.problem) == (PID, 17, "")


def test_a_dump_in_the_other_byte_order() -> None:
    body = struct.pack(">IIQQQQ", PID, PID, 8, 8, 4, 0) + b"f\0"
    data = struct.pack(">IIIIIIQQ", jitdump.MAGIC, 1, 40, 21, 0, PID, 1, 0)
    found = jitdump.parse(data + struct.pack(">IIQ", 0, 16 + len(body), 5) + body)
    assert found is not None
    assert [(c.start, c.end, c.time_ns) for c in found.codes] == [(8, 12, 5)]


@pytest.mark.parametrize("data", [b"", b"JiTD", dump(magic=1), dump(version=2), bytes(40)])
def test_what_is_no_jitdump(data: bytes) -> None:
    assert jitdump.parse(data) is None


def test_a_dump_that_is_cut_off_anywhere() -> None:
    whole = dump(load(1, CODE, "first"), load(2, CODE + 64, "second"))
    for cut in range(40, len(whole)):
        found = jitdump.parse(whole[:cut])
        assert found is not None
        assert [found.names[c.name] for c in found.codes] == ["first"][: cut >= 40 + 126]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_never_raise(data: st.DataObject) -> None:
    raw = bytearray(dump(load(1, CODE, "x"), move(2, CODE, CODE + 64, 64, 0), other(3, 4)))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    found = jitdump.parse(bytes(raw))
    assert found is None or all(code.start < code.end for code in found.codes)


# Both through a timeline.


def timeline_of(beside: Path, **known: Any) -> Timeline:
    return Timeline(Places(symfs=Path("/nowhere"), beside=beside, **known))


def mapped(timeline: Timeline, path: str = "//anon") -> Timeline:
    timeline.mmap(1, PID, PID, CODE, 0x1000, 0, path, 7)
    return timeline


def names(timeline: Timeline, *samples: tuple[int, int]) -> list[tuple[str | None, int, str]]:
    """(symbol, offset, dso) of samples given as (time, address)."""
    found = timeline.resolve(
        np.array([s[0] for s in samples], np.uint64), np.full(len(samples), PID, np.int32),
        np.full(len(samples), PID, np.int32), np.array([s[1] for s in samples], np.uint64),
        np.full(len(samples), CPUMODE_USER, np.uint8),
    )
    return [
        (timeline.symbols[s] if s >= 0 else None, o, timeline.dsos[d].path if d >= 0 else "")
        for s, o, d in zip(found.symbol, found.symbol_offset.tolist(), found.dso, strict=True)
    ]


@pytest.mark.parametrize("path", [
    "//anon", "/dev/zero (deleted)", "/anon_hugepage (deleted)", "[heap]", "[stack]", "/SYSV00",
])
def test_memory_without_a_file_is_named_after_its_map(tmp_path: Path, path: str) -> None:
    (tmp_path / f"perf-{PID}.map").write_text(f"{CODE:x} 40 made\n")
    timeline = mapped(timeline_of(tmp_path), path)
    dso = f"/tmp/perf-{PID}.map"
    assert names(timeline, (5, CODE + 4), (5, CODE + 0x40)) == [("made", 4, dso), (None, 0, dso)]
    # Data is not code.
    timeline.mmap(6, PID, PID, CODE, 0x1000, 0, path, 3)
    assert names(timeline, (7, CODE + 4)) == [(None, 0, path)]


def test_dotnets_memory_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / f"perf-{PID}.map").write_text(f"{CODE:x} 40 void [app] Main()\n")
    path = "/memfd:doublemapper (deleted)"
    timeline = mapped(timeline_of(tmp_path), path)
    assert names(timeline, (5, CODE)) == [("void [app] Main()", 0, path)]


def test_a_dump_tells_functions_of_one_address_apart_by_time(tmp_path: Path) -> None:
    (tmp_path / f"jit-{PID}.dump").write_bytes(dump(
        load(100, CODE, "early"), load(200, CODE, "late"), load(100, CODE + 64, "steady"),
    ))
    timeline = mapped(timeline_of(tmp_path, monotonic_clock=True))
    timeline.mmap(1, PID, PID, 0x1000, 0x1000, 0, f"/srv/jit-{PID}.dump", 5)
    samples = (99, CODE), (100, CODE + 1), (199, CODE), (200, CODE + 2), (300, CODE + 65)
    assert [found[:2] for found in names(timeline, *samples)] == [
        (None, 0), ("early", 1), ("early", 0), ("late", 2), ("steady", 1),
    ]
    assert len(timeline.symbols) == 3


@pytest.mark.parametrize(("monotonic", "flags"), [(False, 0), (True, jitdump.FLAG_ARCH_TIMESTAMP)])
def test_without_common_times_only_what_is_certain_is_named(
    tmp_path: Path, monotonic: bool, flags: int,
) -> None:
    (tmp_path / f"jit-{PID}.dump").write_bytes(dump(
        load(100, CODE, "early"), load(200, CODE, "late", 32), load(100, CODE + 64, "steady"),
        load(300, CODE + 64, "steady"), flags=flags,
    ))
    timeline = mapped(timeline_of(tmp_path, monotonic_clock=monotonic))
    timeline.mmap(1, PID, PID, 0x1000, 0x1000, 0, f"/srv/jit-{PID}.dump", 5)
    samples = (5, CODE), (5, CODE + 40), (5, CODE + 65)
    assert [found[:2] for found in names(timeline, *samples)] == [
        (None, 0), ("early", 40), ("steady", 1)]
    assert "stay without names" in remarks(timeline)[0]


def test_the_dump_goes_before_the_map(tmp_path: Path) -> None:
    (tmp_path / f"jit-{PID}.dump").write_bytes(dump(load(100, CODE, "by_dump")))
    (tmp_path / f"perf-{PID}.map").write_text(f"{CODE:x} 40 by_map\n{CODE + 64:x} 40 more\n")
    timeline = mapped(timeline_of(tmp_path, monotonic_clock=True))
    timeline.mmap(1, PID, PID, 0x1000, 0x1000, 0, f"/x/jit-{PID}.dump", 5)
    assert [f[0] for f in names(timeline, (200, CODE), (50, CODE), (200, CODE + 64))] == [
        "by_dump", "by_map", "more"]


def test_no_map_is_told_once(tmp_path: Path) -> None:
    timeline = mapped(timeline_of(tmp_path))
    assert names(timeline, (5, CODE))[0][0] is None
    assert remarks(timeline) == [
        f"code made by process {PID}: there is no /tmp/perf-{PID}.map"]


# Whose file is it?


def judged(tmp_path: Path, until_ns: int | None = None, **status: int) -> str:
    """Why a map of a process that is gone is not used; status: of the file."""
    path = tmp_path / "map"
    path.write_text("1 1 f\n")
    real = path.stat()
    fields = {"st_uid": os.geteuid(), "st_mtime": 0} | status

    class Status:
        st_uid = fields["st_uid"]
        st_mtime_ns = fields["st_mtime"] * 10**9
        st_size = real.st_size

    code = JitCode(Places(recorded_until_ns=until_ns))
    return code._distrust(2**22 + 5, Opened(memoryview(b""), Status()))  # type: ignore[arg-type]


def test_a_map_of_another_user_is_not_used(tmp_path: Path) -> None:
    assert judged(tmp_path) == ""
    assert judged(tmp_path, st_uid=0) == ""
    assert "belongs neither" in judged(tmp_path, st_uid=12345)


def test_a_map_written_after_the_recording_is_another_process(tmp_path: Path) -> None:
    assert judged(tmp_path, 100 * 10**9, st_mtime=101) == ""
    assert "after the recording" in judged(tmp_path, 100 * 10**9, st_mtime=103)


def test_a_link_or_a_fifo_is_no_map(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(f"{CODE:x} 40 f\n")
    (tmp_path / f"perf-{PID}.map").symlink_to("real")
    timeline = mapped(timeline_of(tmp_path))
    assert names(timeline, (5, CODE))[0][0] is None
    assert "cannot be read" in remarks(timeline)[0]
    (tmp_path / f"perf-{PID}.map").unlink()
    os.mkfifo(tmp_path / f"perf-{PID}.map")
    timeline = mapped(timeline_of(tmp_path))
    assert names(timeline, (5, CODE))[0][0] is None


def test_another_machines_recording_takes_no_map_from_here(tmp_path: Path) -> None:
    places = Places(same_machine=False)
    assert list(JitCode(places)._map_paths(PID)) == []
    assert [str(path) for path, _ in JitCode(Places())._map_paths(2**22 + 5)] == [
        f"/tmp/perf-{2**22 + 5}.map"]


def test_few_processes_are_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perfxmm.program.jit.OPEN_PROCESSES", 1)
    code = JitCode(Places(symfs=Path("/nowhere"), beside=tmp_path))
    for pid in (1, 2):
        (tmp_path / f"perf-{pid}.map").write_text(f"10 10 f{pid}\n")
    for pid in (1, 2, 1):
        found, start, strings = code.lookup(
            pid, np.array([1], np.uint64), np.array([0x18], np.uint64))
        assert (strings[int(found[0])], int(start[0])) == (f"f{pid}", 0x10)
        assert len(code._made) == 1


def test_which_paths_are_dumps() -> None:
    paths = ["/x/jit-12.dump", "jit-1.dump", "/x/jit-.dump", "/x/jit-1.dump2", "/x/a-1.dump"]
    assert [is_dump(path) for path in paths] == [True, True, False, False, False]
