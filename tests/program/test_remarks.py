"""Binaries that changed, or may have, are named; nothing of them is used silently."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from support import elfwriter as ew
from support import inprocess
from support import perfdata_writer as pw
from support.elfwriter import Sym

import perfxmm
from perfxmm.errors import UsageError
from perfxmm.program.places import Places
from perfxmm.program.remarks import remarks
from perfxmm.program.timeline import CPUMODE_USER, Timeline

RECORDED, ANOTHER = b"\xaa" * 20, b"\xbb" * 20


def binary(path: Path, build_id: bytes | None = None, name: str = "work") -> Path:
    return ew.write(path, ew.simple([Sym(name, 0x2000, 0x40)], build_id=build_id))


def symbol(timeline: Timeline, path: Path | str, *, inode: int = 0) -> str | None:
    timeline.mmap(1, 7, 7, 0x10000, 0x1000, 0x1000, str(path), 5, None, ino=inode)
    found = timeline.resolve(
        np.array([2], np.uint64), np.array([7], np.int32), np.array([7], np.int32),
        np.array([0x10010], np.uint64), np.array([CPUMODE_USER], np.uint8),
    )
    number = int(found.symbol[0])
    return timeline.symbols[number] if number >= 0 else None


def test_a_file_changed_after_the_recording_is_not_used(tmp_path: Path) -> None:
    path = binary(tmp_path / "app")
    until_ns = path.stat().st_mtime_ns
    timeline = Timeline(Places(same_machine=True, recorded_until_ns=until_ns))
    assert symbol(timeline, path) == "work"
    assert remarks(timeline) == []
    os.utime(path, ns=(until_ns + 1, until_ns + 1))
    timeline = Timeline(Places(same_machine=True, recorded_until_ns=until_ns))
    assert symbol(timeline, path) is None
    assert remarks(timeline) == [
        f"{path}: {path} was changed after the recording, which has no build id for it; "
        "addresses in it stay numbers"
    ]


def test_another_inode_is_told_and_a_replaced_file_not_used(tmp_path: Path) -> None:
    path = binary(tmp_path / "app")
    status = path.stat()
    later = Places(same_machine=True, recorded_until_ns=status.st_ctime_ns + 10**9)
    timeline = Timeline(later)
    assert symbol(timeline, path, inode=status.st_ino) == "work"
    assert remarks(timeline) == []
    timeline = Timeline(later)
    assert symbol(timeline, path, inode=status.st_ino + 1) == "work"
    assert remarks(timeline) == [
        f"{path} may be another file than the one that was mapped: its inode is {status.st_ino}, "
        f"{status.st_ino + 1} was recorded, and no build id"
    ]
    # Put there after the recording, with an old time of change, as packages do.
    os.utime(path, ns=(0, 0))
    earlier = Places(same_machine=True, recorded_until_ns=path.stat().st_ctime_ns - 1)
    timeline = Timeline(earlier)
    assert symbol(timeline, path, inode=status.st_ino + 1) is None
    assert "was changed after the recording" in remarks(timeline)[0]


def test_binaries_of_this_machine_do_not_stand_in_for_anothers(tmp_path: Path) -> None:
    path = binary(tmp_path / "app")
    timeline = Timeline(Places(same_machine=False))
    assert symbol(timeline, path) is None
    assert "the recording is another's" in remarks(timeline)[0]
    # What the user names for this recording is taken at their word.
    timeline = Timeline(Places(symfs=tmp_path, same_machine=False))
    assert symbol(timeline, "/app") == "work"
    unknown = Places(recorded_until_ns=path.stat().st_ctime_ns + 10**9)
    timeline = Timeline(unknown)
    assert symbol(timeline, path) == "work"
    assert remarks(timeline) == [
        f"nothing shows that {path} is the file that was mapped: the recording names neither its "
        "build id nor the machine"
    ]


def test_many_are_counted(tmp_path: Path) -> None:
    timeline = Timeline(Places(symfs=tmp_path))
    for number in range(20):
        binary(tmp_path / f"app{number}", ANOTHER)
        timeline.note_build_id(f"/app{number}", RECORDED)
        assert symbol(timeline, f"/app{number}") is None
    assert symbol(timeline, "/gone") is None
    assert symbol(timeline, "/gone too") is None
    lines = remarks(timeline)
    assert len(lines) == 10
    assert lines[8] == "and 12 more binaries or processes like these"
    assert lines[9] == (
        "no symbols for /gone (No such file or directory) and 1 more; --symfs DIR takes binaries "
        "from elsewhere"
    )


# The whole way.


def recording(path: Path, recorded: str, build_id: bytes = RECORDED) -> Path:
    name = recorded.encode() + b"\0"
    name += bytes(-len(name) % 8)
    body = struct.pack("<IIQQQBBH20s", 1, 1, 0x10000, 0x1000, 0x1000, 20, 0, 0, build_id)
    mapped = pw.record(
        pw.MMAP2, body + struct.pack("<II", 5, 2) + name + struct.pack("<IIQ", 1, 1, 1),
        misc=2 | 1 << 14)
    records = [pw.comm(1), mapped, *(pw.sample(10 + n, ip=0x10010) for n in range(3))]
    path.write_bytes(pw.PerfFile(records=records).build())
    return path


def run(verb: str, path: Path, *options: str) -> tuple[str, str]:
    done = inprocess.run(verb, "-i", path, "--keep", "all", *options)
    assert done.code == 0
    return done.out, done.err


@pytest.mark.parametrize("verb", ["script", "report"])
def test_a_changed_binary_is_named_at_the_end(tmp_path: Path, verb: str) -> None:
    app = binary(tmp_path / "app\x1b[31m", ANOTHER)
    path = recording(tmp_path / "perf.data", str(app))
    options = ("-F", "ip,sym,dso") if verb == "script" else ()
    out, err = run(verb, path, *options)
    assert "work" not in out
    shown = str(app).replace("\x1b", "\\x1b")
    assert (
        f"perfxmm: {shown}: {shown} is another build (build id {ANOTHER.hex()}, recorded "
        f"{RECORDED.hex()}); addresses in it stay numbers"
    ) in err.splitlines()
    assert "\x1b" not in out + err


def test_symfs_takes_binaries_from_elsewhere(tmp_path: Path) -> None:
    binary(tmp_path / "root/opt/app", RECORDED)
    path = recording(tmp_path / "perf.data", "/opt/app")
    out, err = run("script", path, "-F", "ip,sym")
    assert "work" not in out
    assert "--symfs DIR" in err
    for verb, options in (("script", ("-F", "ip,sym")), ("report", ()), ("export", ())):
        out, err = run(verb, path, "--symfs", str(tmp_path / "root"), *options)
        assert "work" in out
        assert "no symbols" not in err
    opened = perfxmm.open(path, symfs=tmp_path / "root")
    (batch,) = opened.snapshots(keep=("all",))
    assert batch.symbol is not None
    assert [opened.symbols[number] for number in batch.symbol] == ["work"] * 3


def test_a_symfs_that_is_no_directory(tmp_path: Path) -> None:
    path = recording(tmp_path / "perf.data", "/opt/app")
    with pytest.raises(UsageError, match="no such directory"):
        perfxmm.open(path, symfs=tmp_path / "nowhere")
