"""Build ids from notes, and the binary that lives in no file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from perfxmm.program import buildid, kallsyms, symbols, vdso
from perfxmm.program.elf import parse_elf


def note(name: bytes, descriptor: bytes, kind: int, order: str = "<") -> bytes:
    padded = name + bytes(-len(name) % 4)
    return (struct.pack(f"{order}III", len(name), len(descriptor), kind) + padded + descriptor
            + bytes(-len(descriptor) % 4))


ID = bytes(range(20))


def test_found_among_other_notes() -> None:
    notes = note(b"Xen\0", b"12345678", 3) + note(b"GNU\0", b"1234", 1) + note(b"GNU\0", ID, 3)
    assert buildid.from_notes(notes) == ID
    assert buildid.from_notes(note(b"GNU\0", ID, 3, ">"), big_endian=True) == ID


@pytest.mark.parametrize(
    "notes",
    [b"", b"\0" * 11, note(b"GNU\0", b"", 3), note(b"GNU\0", ID, 3)[:-1],
     struct.pack("<III", 4, 0xFFFFFFFF, 3) + b"GNU\0"],
)
def test_none_where_there_is_none(notes: bytes) -> None:
    assert buildid.from_notes(notes) is None


def test_same_ignores_padding_only() -> None:
    assert buildid.same(ID, ID)
    assert buildid.same(b"\x01\x02" + bytes(18), b"\x01\x02")
    assert not buildid.same(b"\x01\x02\x03" + bytes(17), b"\x01\x02")
    assert not buildid.same(ID, None)
    assert not buildid.same(ID, ID[:19])


def test_the_running_kernels_build_id(tmp_path: Path) -> None:
    assert buildid.of_running_kernel(tmp_path) is None
    path = tmp_path / "sys/kernel/notes"
    path.parent.mkdir(parents=True)
    path.write_bytes(note(b"Linux\0", b"\0\0\0\0", 0x101) + note(b"GNU\0", ID, 3))
    assert buildid.of_running_kernel(tmp_path) == ID


def test_the_own_vdso_has_a_clock() -> None:
    image = vdso.read_own()
    if image is None:
        pytest.skip("this process has no vDSO that it may read")
    table = symbols.from_elf(image)
    assert any(table.name(row).endswith("clock_gettime") for row in range(len(table)))


def test_kallsyms_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "proc/kallsyms"
    path.parent.mkdir()
    path.write_bytes(b"\n\nzz T x\nffff8000 T good\xff\n12 3\nffffffffffffffffff T too_big\n")
    table, why = kallsyms.read(tmp_path)
    assert (why, len(table), table.name(0)) == ("", 1, "good\\xff")
    assert kallsyms.address_of(table, "missing") is None
    assert kallsyms.read(tmp_path / "none")[1].startswith(str(tmp_path))


def test_the_test_process_is_an_elf_file() -> None:
    data = Path("/proc/self/exe").read_bytes()
    assert parse_elf(memoryview(data), "self").section(".text") is not None
