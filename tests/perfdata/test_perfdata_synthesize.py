"""Records made from /proc, of our own process and of one that the test drew up."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perfxmm.perfdata import buildid
from perfxmm.perfdata.encode import SampleId
from perfxmm.perfdata.format import BuildId
from perfxmm.perfdata.synthesize import (
    Mapping,
    parse_maps,
    synthesize_kernel,
    synthesize_process,
    synthesize_system,
)

MAPS = b"""\
00400000-00401000 r--p 00000000 08:01 1234                               /opt/app
00401000-00403000 r-xp 00001000 08:01 1234                               /opt/app
7f0000000000-7f0000001000 rwxp 00000000 00:00 0 
7f0000002000-7f0000003000 r-xs 00002000 fd:0a 99                         /a b/new\\012line (deleted)
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
nonsense
"""  # noqa: W291


def sid(pid: int, tid: int) -> SampleId:
    return SampleId(pid, tid, 77)


def test_maps_are_parsed() -> None:
    found = list(parse_maps(MAPS))
    assert len(found) == 6
    assert found[0] == Mapping(0x400000, 0x1000, 0, 1, 2, 8, 1, 1234, b"/opt/app")
    assert found[3] == Mapping(
        0x7F0000002000, 0x1000, 0x2000, 5, 1, 0xFD, 10, 99, b"/a b/new\nline (deleted)"
    )
    assert [m.executable for m in found] == [False, True, True, True, True, True]


def test_a_process_drawn_up(tmp_path: Path) -> None:
    for tid, comm in ((50, b"main\n"), (51, b"worker one\n")):
        (tmp_path / "50" / "task" / str(tid)).mkdir(parents=True)
        (tmp_path / "50" / "task" / str(tid) / "comm").write_bytes(comm)
    (tmp_path / "50" / "maps").write_bytes(MAPS)
    out: list[bytes] = []
    synthesize_process(50, out.append, sid, proc=str(tmp_path))
    kinds = [struct.unpack_from("<I", r)[0] for r in out]
    assert kinds == [3, 7, 3, 10, 10, 10, 10]
    assert out[0][8:24] == struct.pack("<II", 50, 50) + b"main\0\0\0\0"
    assert out[1][8:32] == struct.pack("<IIIIQ", 50, 50, 51, 50, 77)
    assert out[2][8:32] == struct.pack("<II", 50, 51) + b"worker one".ljust(16, b"\0")
    assert all(struct.unpack_from("<II", r, len(r) - 32) in ((50, 50), (50, 51)) for r in out)
    first = struct.unpack_from("<iiQQQ", out[3], 8)
    assert first == (50, 50, 0x401000, 0x2000, 0x1000)
    assert struct.unpack_from("<IIQQII", out[3], 40) == (8, 1, 1234, 0, 5, 2)
    assert [r[72:].split(b"\0")[0] for r in out[3:]] == [
        b"/opt/app", b"//anon", b"/a b/new\nline (deleted)", b"[vdso]",
    ]  # fmt: skip


def test_our_own_process() -> None:
    out: list[bytes] = []
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        found = synthesize_process(os.getpid(), out.append, sid)
    finally:
        stop.set()
        thread.join()
    comms = {struct.unpack_from("<I", r, 12)[0] for r in out if r[0] == 3}
    assert {os.getpid(), thread.native_id} <= comms
    names = [r[72:].split(b"\0")[0] for r in out if r[0] == 10]
    assert b"[vdso]" in names
    # The very file that is mapped, whatever links led there.
    executable = os.fsencode(os.path.realpath("/proc/self/exe"))
    assert executable in names
    by_path = {e.path: e.build_id for e in found}
    for entry in found:
        assert len(entry.build_id) in (16, 20)
    assert all(len(r) % 8 == 0 and struct.unpack_from("<H", r, 6)[0] == len(r) for r in out)
    readelf = shutil.which("readelf")
    if readelf and os.fsdecode(executable) in by_path:
        text = subprocess.run(
            [readelf, "-n", executable], capture_output=True, check=True, text=True
        ).stdout
        assert by_path[os.fsdecode(executable)].hex() in text


def test_a_process_that_is_gone() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    out: list[bytes] = []
    assert synthesize_process(child, out.append, sid) == []
    assert out == []


def test_the_whole_system_has_us_in_it() -> None:
    out: list[bytes] = []
    synthesize_system(out.append, lambda pid, tid: None)
    assert os.getpid() in {struct.unpack_from("<I", r, 8)[0] for r in out if r[0] == 3}


def test_processes_of_the_system_have_their_parents(tmp_path: Path) -> None:
    for pid, parent, comm in ((2, 0, b"kthreadd\n"), (9, 2, b"kworker/0:1\n"), (50, 1, b"app\n")):
        (tmp_path / str(pid) / "task" / str(pid)).mkdir(parents=True)
        (tmp_path / str(pid) / "task" / str(pid) / "comm").write_bytes(comm)
        (tmp_path / str(pid) / "status").write_bytes(
            b"Name:\tPPid:\t7\nPid:\t%d\nPPid:\t%d\nTracerPid:\t0\n" % (pid, parent)
        )
    (tmp_path / "50" / "status").unlink()  # it may go away between two reads
    out: list[bytes] = []
    synthesize_system(out.append, sid, proc=str(tmp_path))
    forks = [r for r in out if r[0] == 7]
    assert [struct.unpack_from("<IHH", r)[:2] for r in forks] == [(7, 1 << 13)] * 2
    assert [struct.unpack_from("<IIIIQ", r, 8) for r in forks] == [
        (2, 0, 2, 0, 77), (9, 2, 9, 2, 77),
    ]  # fmt: skip
    assert [r[0] for r in out] == [7, 3, 7, 3, 3]


def test_the_kernel_as_far_as_it_shows_itself(tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    out: list[bytes] = []
    symbols.write_text("0000000000000000 T _text\n0000000000000000 T _etext\n")
    assert synthesize_kernel(out.append, lambda p, t: None, kallsyms=str(symbols)) is None
    assert synthesize_kernel(out.append, lambda p, t: None, kallsyms="/nonexistent") is None
    assert out == []
    symbols.write_text(
        "ffffffff81000000 T _text\nffffffff81000040 T x\nffffffff82000000 T _etext\n"
    )
    entry = synthesize_kernel(out.append, lambda p, t: None, kallsyms=str(symbols))
    assert struct.unpack_from("<IHHiiQQQ", out[0]) == (
        1, 1, 64, -1, 0, 0xFFFFFFFF81000000, 0x1000000, 0xFFFFFFFF81000000,
    )  # fmt: skip
    assert out[0][40:].rstrip(b"\0") == b"[kernel.kallsyms]_text"
    if Path("/sys/kernel/notes").exists():
        assert isinstance(entry, BuildId)
        assert entry.kernel


def note(name: bytes, kind: int, desc: bytes, align: int = 4) -> bytes:
    out = struct.pack("<III", len(name), len(desc), kind) + name
    out += b"\0" * (-len(out) % align) + desc
    return out + b"\0" * (-len(out) % align)


def test_notes() -> None:
    wanted = note(b"GNU\0", 3, bytes(range(20)))
    assert buildid.build_id_from_notes(note(b"Linux\0", 3, b"no") + wanted) == bytes(range(20))
    assert buildid.build_id_from_notes(note(b"GNU\0", 5, bytes(16), 8), 8) is None
    for cut in range(len(wanted)):
        assert buildid.build_id_from_notes(wanted[:cut]) is None
    assert buildid.build_id_from_notes(note(b"GNU\0", 3, b"")) is None


def elf(wide: bool, order: str, notes: bytes) -> bytes:
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    if wide:
        head = struct.pack(order + "HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack(order + "IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    else:
        head = struct.pack(order + "HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack(order + "IIIIIIII", 4, 84, 0, 0, len(notes), len(notes), 4, 4)
    return ident + head + segment + notes


@pytest.mark.parametrize("wide", [True, False])
def test_elf_of_both_widths_and_orders(wide: bool, tmp_path: Path) -> None:
    image = elf(wide, "<", note(b"GNU\0", 3, b"0123456789abcdef"))
    assert buildid.elf_build_id(lambda o, n: image[o : o + n]) == b"0123456789abcdef"
    swapped = elf(wide, ">", struct.pack(">III", 4, 4, 3) + b"GNU\0abcd")
    assert buildid.elf_build_id(lambda o, n: swapped[o : o + n]) == b"abcd"
    for cut in range(len(image)):
        part = image[:cut]
        assert buildid.elf_build_id(lambda o, n, part=part: part[o : o + n]) is None
    path = tmp_path / "elf"
    path.write_bytes(image)
    cache = buildid.BuildIdCache()
    assert cache.of(str(path)) == b"0123456789abcdef"
    assert cache.of(str(path), ino=path.stat().st_ino) == b"0123456789abcdef"
    assert cache.of(str(path), ino=path.stat().st_ino + 1) is None, "another file by now"
    path.write_bytes(image[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    assert cache.of(str(path)) == b"0123456789abcde!"
    assert cache.of(sys.executable + "-missing") is None
    assert cache.of(str(tmp_path)) is None
