"""Directories of `perf record --threads`: all of their files are one recording."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import either_order as eo
from support import perfdata_writer as w
from support.either_order import EventSpec, Record, Recording, Values, numbers
from support.perfdata_writer import PerfFile

from perfxmm.errors import DamagedInput
from perfxmm.perfdata.directory import part_files
from perfxmm.perfdata.reader import Reader

DIR_FORMAT = {24: struct.pack("<Q", 1), 3: w.string("h")}


def directory(path: Path, main: bytes, parts: dict[str, bytes]) -> Path:
    path.mkdir()
    (path / "data").write_bytes(main)
    for name, data in parts.items():
        (path / name).write_bytes(data)
    return path


def times(source: Reader, **limits: int) -> list[int]:
    return [
        struct.unpack_from("<Q", b.record(i), 24)[0]
        for b in source.ordered_blocks(**limits) for i in range(len(b))
        if b.types[i] == w.SAMPLE
    ]  # fmt: skip


def test_all_files_in_time_order(tmp_path: Path) -> None:
    """Each part is 10 times as long as the window in which records are sorted."""
    count = 30_000
    parts = {
        "data.0": b"".join(w.sample(t) for t in range(1, count, 3)),
        "data.1": b"".join(w.sample(t) for t in range(2, count, 3)),
        "data.2": b"",
        "data.10": b"".join(w.sample(t) for t in range(3, count, 3)),
    }
    rounds = [w.sample(count + 5), w.record(w.FINISHED_ROUND), w.record(w.FINISHED_ROUND)]
    path = directory(
        tmp_path / "d", PerfFile(records=[w.comm(1), *rounds], features=DIR_FORMAT).build(), parts
    )
    assert [one.name for one in part_files(path)] == ["data.0", "data.1", "data.2", "data.10"]
    source = Reader(path)
    assert times(source, window_records=10_000) == [*range(1, count), count + 5]
    assert source.unordered == 0
    assert source.damage == []
    assert source.complete
    assert {b.file_base for b in source.blocks()} == {-1}
    assert sum(len(b) for b in source.blocks()) == count + 1, "rounds are left out"


def test_a_damaged_file_costs_itself(tmp_path: Path) -> None:
    good = b"".join(w.sample(t) for t in range(1, 50))
    bad = b"".join(w.sample(t) for t in range(50, 60)) + w.record(w.SAMPLE, bytes(24), size=0)
    path = directory(
        tmp_path / "d", PerfFile(records=[], features=DIR_FORMAT).build(),
        {"data.0": bad, "data.1": good, "data.2": good[:20], "data.x": b"not one of them"},
    )  # fmt: skip
    source = Reader(path)
    assert times(source) == list(range(1, 60))
    assert sorted(damage.what for damage in source.damage) == [
        "data.0, byte 320: record of size 0; 32 bytes from here on are not read",
        "data.2, byte 0: the last record is cut short: 20 of 32 bytes",
    ]
    assert {damage.offset for damage in source.damage} == {-1}
    assert not source.complete


def test_payload_between_and_behind_records(tmp_path: Path) -> None:
    aux = w.record(w.AUXTRACE, struct.pack("<QQQQQ", 64, 0, 0, 0, 0)) + w.sample(777) * 2
    part = w.sample(1) + aux + w.sample(2) + aux
    path = directory(tmp_path / "d", PerfFile(features=DIR_FORMAT).build(), {"data.0": part * 3})
    assert times(Reader(path)) == [1, 1, 1, 2, 2, 2]


def test_each_file_has_its_own_compressed_stream(tmp_path: Path) -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    parts = {
        f"data.{n}": w.record(w.COMPRESSED, zstd.compress(
            b"".join(w.sample(t) for t in range(n + 1, 200, 2))
        )) for n in range(2)
    }  # fmt: skip
    source = Reader(directory(tmp_path / "d", PerfFile(features=DIR_FORMAT).build(), parts))
    assert times(source) == list(range(1, 200))
    assert source.packed == {w.COMPRESSED: 2}
    assert source.complete


def test_files_of_a_big_endian_machine(tmp_path: Path) -> None:
    event = EventSpec(1 | 2 | 4)
    one, two = (
        b"".join(eo.sample(event, Values(time_ns=t)).encode(">") for t in range(n, 100, 2))
        for n in (1, 2)
    )
    main = Recording([event], [], {3: eo.string("h")}).file(">")
    source = Reader(directory(tmp_path / "d", main, {"data.0": one, "data.1": two}))
    assert times(source) == list(range(1, 100))


def test_a_directory_without_parts_is_its_file(tmp_path: Path) -> None:
    """As perf record --kcore makes one."""
    path = directory(tmp_path / "d", PerfFile(records=[w.sample(3)]).build(), {})
    (path / "kcore_dir").mkdir()
    source = Reader(path)
    assert times(source) == [3]
    assert source.file == str(path / "data")
    assert [b.file_base + int(b.offsets[0]) for b in source.blocks()] == [source.data_start]


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "data.0").write_bytes(w.sample(1))
    with pytest.raises(DamagedInput, match="the recording is a directory"):
        Reader(tmp_path)


def test_perf_finds_the_same_samples(tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    event = EventSpec(1 | 2 | 4)
    parts = {
        f"data.{n}": b"".join(
            eo.sample(event, Values(time_ns=10**9 + t)).encode("<") for t in range(n, 600, 3)
        ) for n in range(3)
    }  # fmt: skip
    comm = Record(3, [*numbers("II", 10, 11), eo.padded("prog"), *eo.trailer(event, Values())])
    main = Recording([event], [comm], {24: [("Q", 1)], 3: eo.string("h")}).file("<")
    path = directory(tmp_path / "d", main, parts)
    done = subprocess.run(
        [perf, "script", "--ns", "-F", "time", "-i", path], capture_output=True, timeout=60,
        check=True, text=True,
    )  # fmt: skip
    said = [int(line.strip(" :").replace(".", "")) for line in done.stdout.split()]
    assert said == times(Reader(path)) == [10**9 + t for t in range(600)]
