"""The archive beside a recording: what is kept, what is not, and that it is found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.elfwriter import Load, Sym, Text, elf

from perfxmm.errors import OutputError
from perfxmm.program import archive
from perfxmm.program.binaries import Binaries, Places

BUILD_ID = bytes(range(20))


def write_binary(path: Path, build_id: bytes | None = BUILD_ID) -> None:
    path.write_bytes(
        elf(
            loads=[Load(0x1000, 0x1000, bytes(64))], texts=[Text(".text", 0x1000, 0x1000, 64)],
            symtab=[Sym("kernel", 0x1000, 16)], build_id=build_id,
        )
    )  # fmt: skip


def test_kept_binary_serves_when_the_original_is_gone(tmp_path: Path) -> None:
    binary = tmp_path / "app"
    write_binary(binary)
    home = archive.directory_of(str(tmp_path / "perf.data"))
    assert home == tmp_path / "perf.data.archive"
    assert archive.keep([(str(binary), BUILD_ID), ("[vdso]", b"")], home) == (1, [])
    kept = home / ".build-id" / "00" / BUILD_ID.hex()[2:] / "elf"
    assert kept.read_bytes() == binary.read_bytes()
    assert kept.stat().st_mode & 0o777 == 0o600
    made = [home, *(p for p in home.rglob("*") if p.is_dir())]
    assert [p.stat().st_mode & 0o777 for p in made] == [0o700] * 4
    binary.unlink()
    found = Binaries(Places(archives=(home,)))
    table = found.symbols(found.intern(str(binary), BUILD_ID))
    assert len(table) == 1


def test_changed_and_nameless_binaries_are_not_kept(tmp_path: Path) -> None:
    changed, nameless = tmp_path / "changed", tmp_path / "nameless"
    write_binary(changed, bytes(20))
    write_binary(nameless, None)
    home = tmp_path / "archive"
    asked = [(str(changed), BUILD_ID), (str(nameless), b""), (str(tmp_path / "gone"), BUILD_ID)]
    assert archive.keep(asked, home) == (0, [path for path, _ in asked])
    assert not home.exists()


def test_archive_that_cannot_be_written(tmp_path: Path) -> None:
    write_binary(tmp_path / "app")
    (tmp_path / "archive").write_bytes(b"a file in the way")
    with pytest.raises(OutputError, match="the archive cannot be written"):
        archive.keep([(str(tmp_path / "app"), BUILD_ID)], tmp_path / "archive")


def test_a_map_of_code_made_at_run_time_is_kept(tmp_path: Path) -> None:
    home = tmp_path / "perf.data.archive"
    perf_map = Path(f"/tmp/perf-{2**22 + 77}.map")
    assert archive.keep([(str(perf_map), b"")], home) == (0, [str(perf_map)])
    perf_map.write_text("1000 40 made\n")
    try:
        assert archive.keep([(str(perf_map), b"")], home) == (1, [])
    finally:
        perf_map.unlink()
    assert (home / perf_map.name).read_text() == "1000 40 made\n"
    assert (home / perf_map.name).stat().st_mode & 0o777 == 0o600
