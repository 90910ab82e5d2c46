"""Symbols that were taken out of a binary: found where they may be, if they are its own."""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

import pytest
from support import elfwriter as ew
from support.elfwriter import Load, Raw, Sym, Text

from perfxmm.program import debugfiles
from perfxmm.program.binaries import Binaries
from perfxmm.program.elf import open_elf
from perfxmm.program.places import Places

ID = bytes(range(1, 21))
HEX = ID.hex()


def debug_file(
    name: str = "split_off", *, build_id: bytes | None = None, at: int = 0x2000,
) -> bytes:
    return ew.elf(
        loads=[Load(0, at, b"", extra_memory_bytes=0x1000)],
        texts=[Text(".text", 0x40, at, 0x1000, nobits=True)],
        symtab=[Sym(name, at + 0x10, 0x20)], build_id=build_id,
    )


def link_to(name: str, debug: bytes, *, checksum: int | None = None) -> Raw:
    text = name.encode() + b"\0"
    text += bytes(-len(text) % 4)
    crc = zlib.crc32(debug) if checksum is None else checksum
    return Raw(".gnu_debuglink", text + struct.pack("<I", crc))


def stripped(*raws: Raw, build_id: bytes | None = None) -> bytes:
    return ew.simple([], symtab=None, build_id=build_id, raws=raws)


def names(root: Path, path: str = "/usr/bin/app", archives: tuple[Path, ...] = ()) -> list[str]:
    binaries = Binaries(Places(symfs=root, archives=archives))
    table = binaries.symbols(binaries.intern(path, None))
    return [table.name(row) for row in range(len(table))]


@pytest.mark.parametrize("where", [
    "usr/bin/app.debug", "usr/bin/.debug/app.debug", "usr/lib/debug/usr/bin/app.debug",
    "usr/lib/debug/bin/app.debug",
])
def test_the_link_leads_into_the_usual_directories(tmp_path: Path, where: str) -> None:
    debug = debug_file()
    ew.write(tmp_path / "usr/bin/app", stripped(link_to("app.debug", debug)))
    assert names(tmp_path) == []
    ew.write(tmp_path / where, debug)
    assert names(tmp_path) == ["split_off"]


def test_a_file_with_another_checksum_is_not_used(tmp_path: Path) -> None:
    ew.write(tmp_path / "usr/bin/app", stripped(link_to("app.debug", debug_file())))
    ew.write(tmp_path / "usr/bin/app.debug", debug_file("of_another_build"))
    assert names(tmp_path) == []


def test_build_ids_decide_where_both_have_one(tmp_path: Path) -> None:
    wrong, right = debug_file("wrong", build_id=bytes(20)), debug_file("right", build_id=ID)
    # The checksum fits the wrong one: it was linked, then the binary was built anew.
    ew.write(tmp_path / "usr/bin/app", stripped(link_to("app.debug", wrong), build_id=ID))
    ew.write(tmp_path / "usr/bin/app.debug", wrong)
    assert names(tmp_path) == []
    ew.write(tmp_path / f"usr/lib/debug/.build-id/{HEX[:2]}/{HEX[2:]}.debug", right)
    assert names(tmp_path) == ["right"]


@pytest.mark.parametrize("where", ["usr/lib/debug/usr/bin/app.debug", "usr/lib/debug/usr/bin/app"])
def test_by_path_only_with_the_same_build_id(tmp_path: Path, where: str) -> None:
    ew.write(tmp_path / "usr/bin/app", stripped(build_id=ID))
    ew.write(tmp_path / where, debug_file())
    assert names(tmp_path) == []
    ew.write(tmp_path / where, debug_file(build_id=ID))
    assert names(tmp_path) == ["split_off"]


def test_beside_the_binary_in_an_archive(tmp_path: Path) -> None:
    kept = tmp_path / "kept/.build-id" / HEX[:2] / HEX[2:]
    ew.write(kept / "elf", stripped(build_id=ID))
    ew.write(kept / "debug", debug_file(build_id=ID))
    binaries = Binaries(Places(symfs=tmp_path / "none", archives=(tmp_path / "kept",)))
    table = binaries.symbols(binaries.intern("/gone", ID))
    assert table.name(0) == "split_off"


def test_names_packed_into_the_binary(tmp_path: Path) -> None:
    packed = Raw(".gnu_debugdata", lzma.compress(debug_file("packed")))
    ew.write(tmp_path / "usr/bin/app", ew.simple(
        [], symtab=None, dynsym=[Sym("exported", 0x2100, 8)], raws=[packed]))
    assert names(tmp_path) == ["packed", "exported"]


@pytest.mark.parametrize("content", [
    b"", b"no xz", lzma.compress(b"no ELF"), lzma.compress(debug_file())[:-20],
])
def test_damaged_packed_names_are_no_names(tmp_path: Path, content: bytes) -> None:
    ew.write(tmp_path / "usr/bin/app", stripped(Raw(".gnu_debugdata", content)))
    assert names(tmp_path) == []


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debugfiles, "MOST_UNPACKED_BYTES", 1 << 16)
    big = debug_file() + bytes(1 << 20)
    ew.write(tmp_path / "usr/bin/app", stripped(Raw(".gnu_debugdata", lzma.compress(big))))
    assert names(tmp_path) == []


def test_a_prelinked_binary_has_moved_away_from_its_debug_file(tmp_path: Path) -> None:
    debug = debug_file(at=0x8000)
    ew.write(tmp_path / "usr/bin/app", stripped(link_to("app.debug", debug)))
    ew.write(tmp_path / "usr/bin/app.debug", debug)
    binaries = Binaries(Places(symfs=tmp_path))
    table = binaries.symbols(binaries.intern("/usr/bin/app", None))
    assert (int(table.starts[0]), int(table.ends[0]), table.name(0)) == (
        0x1010, 0x1030, "split_off")


@pytest.mark.parametrize("content", [
    b"", b"x", b"app.debug", b"../../etc/x\0\0\0\0\0\0\0", b"\0" * 8,
])
def test_damaged_links(tmp_path: Path, content: bytes) -> None:
    path = ew.write(tmp_path / "app", stripped(Raw(".gnu_debuglink", content)))
    assert debugfiles.link_of(open_elf(path)) == ("", 0)
