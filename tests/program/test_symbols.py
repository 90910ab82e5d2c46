"""Symbol tables from written ELF files: exact starts, ends and names."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import elfwriter as ew
from support.elfwriter import Load, Sym, Text

from perfxmm.errors import DamagedInput
from perfxmm.program import symbols
from perfxmm.program.elf import open_elf, parse_elf
from perfxmm.program.symbols import SymbolTable


def table_of(data: bytes) -> SymbolTable:
    return symbols.from_elf(parse_elf(memoryview(data), "written"))


def rows(table: SymbolTable) -> list[tuple[int, int, str]]:
    return [
        (int(start), int(end), table.name(index))
        for index, (start, end) in enumerate(zip(table.starts, table.ends, strict=True))
    ]


def find(table: SymbolTable, address: int) -> str | None:
    index = int(table.lookup(np.array([address], np.uint64))[0])
    return table.name(index) if index >= 0 else None


def test_addresses_become_file_offsets() -> None:
    data = ew.simple([Sym("b", 0x2100, 0x20), Sym("a", 0x2000, 0x10)])
    assert rows(table_of(data)) == [(0x1000, 0x1010, "a"), (0x1100, 0x1120, "b")]


def test_split_segments_each_have_their_own_distance() -> None:
    # As lld lays files out: code at a distance of 0x1000, data at 0x3000, .bss only in memory.
    data = ew.elf(
        loads=[
            Load(0x200, 0x200, bytes(0x100), flags=4),
            Load(0x400, 0x1400, bytes(0x100), flags=5),
            Load(0x600, 0x3600, bytes(0x100), flags=6, extra_memory_bytes=0x1000),
        ],
        texts=[
            Text(".rodata", 0x200, 0x200, 0x100, flags=2), Text(".text", 0x400, 0x1400, 0x100),
            Text(".data", 0x600, 0x3600, 0x100, flags=3),
            Text(".bss", 0x700, 0x3700, 0x1000, flags=3, nobits=True),
        ],
        symtab=[
            Sym("table", 0x210, 8, ew.OBJECT, section=1), Sym("code", 0x1410, 16, section=2),
            Sym("word", 0x3608, 4, ew.OBJECT, section=3),
            Sym("zeros", 0x3708, 4, ew.OBJECT, section=4),
            Sym("nowhere", 0x9000, 4, section=2),
        ],
    )
    assert rows(table_of(data)) == [
        (0x210, 0x218, "table"), (0x410, 0x420, "code"), (0x608, 0x60C, "word"),
    ]
    image = parse_elf(memoryview(data), "written")
    assert image.vaddr_of(0x410) == 0x1410
    assert image.vaddr_of(0x800) is None
    assert len(image.code_at(0x4F8, 15)) == 8
    assert image.code_at(0x600, 15) == b""


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", [ew.ET_EXEC, ew.ET_DYN])
def test_every_class_and_byte_order(bits: int, big_endian: bool, kind: int) -> None:
    data = ew.simple(
        [Sym("f", 0x2010, 6), Sym("g", 0x2020, 7)], bits=bits, big_endian=big_endian, kind=kind,
        build_id=b"\x01\x02\x03",
    )
    image = parse_elf(memoryview(data), "written")
    assert (image.bits, image.big_endian, image.build_id) == (bits, big_endian, b"\x01\x02\x03")
    assert rows(table_of(data)) == [(0x1010, 0x1016, "f"), (0x1020, 0x1027, "g")]


def test_no_build_id_is_none() -> None:
    assert parse_elf(memoryview(ew.simple([])), "written").build_id is None


def test_a_symbol_without_size_ends_at_the_next_one() -> None:
    data = ew.simple([Sym("a", 0x2000), Sym("b", 0x2040, 0x10), Sym("c", 0x2080)])
    # The last one ends with its section, at offset 0x2000.
    assert rows(table_of(data)) == [
        (0x1000, 0x1040, "a"), (0x1040, 0x1050, "b"), (0x1080, 0x2000, "c"),
    ]


def test_a_symbol_without_size_does_not_reach_into_another_section() -> None:
    data = ew.elf(
        loads=[Load(0x1000, 0x1000, bytes(0x1000))],
        texts=[Text(".init", 0x1000, 0x1000, 0x17), Text(".text", 0x1800, 0x1800, 0x800)],
        symtab=[Sym("_init", 0x1000, section=1), Sym("main", 0x1800, 0x20, section=2)],
    )
    assert rows(table_of(data)) == [(0x1000, 0x1017, "_init"), (0x1800, 0x1820, "main")]


@pytest.mark.parametrize(
    ("candidates", "winner"),
    [
        ([Sym("unsized", 0x2000), Sym("sized", 0x2000, 4, binding=ew.LOCAL)], "sized"),
        ([Sym("weak_and_longer", 0x2000, 4, binding=ew.WEAK),
          Sym("local", 0x2000, 4, binding=ew.LOCAL)], "local"),
        ([Sym("local_and_longer", 0x2000, 4, binding=ew.LOCAL), Sym("global", 0x2000, 4)],
         "global"),
        ([Sym("__underscored", 0x2000, 4), Sym("_plain", 0x2000, 4)], "_plain"),
        ([Sym("short", 0x2000, 4), Sym("much_longer", 0x2000, 4)], "much_longer"),
        ([Sym("one", 0x2000, 4), Sym("two", 0x2000, 8)], "one"),
    ],
)
def test_the_choice_among_symbols_of_one_address(candidates: list[Sym], winner: str) -> None:
    table = table_of(ew.simple(candidates))
    assert len(table) == 1
    assert table.name(0) == winner


def test_what_counts_as_a_symbol() -> None:
    data = ew.simple(
        [
            Sym("imported", 0, 0, section=ew.UNDEF), Sym("absolute", 0x2000, 4, section=ew.ABS),
            Sym("", 0x2010, 4), Sym("thread_local", 0x2020, 4, ew.TLS),
            Sym("file.c", 0x2030, 0, ew.FILE), Sym("label", 0x2040, 0, ew.NOTYPE),
            Sym("hidden_label", 0x2050, 0, ew.NOTYPE, visibility=ew.HIDDEN),
            Sym("resolver", 0x2060, 4, ew.IFUNC), Sym("table", 0x2070, 4, ew.OBJECT),
            Sym("debug_only", 0x2080, 4, section=2),
        ],
        texts=[Text(".text", 0x1000, 0x2000, 0x1000), Text(".comment", 0x1000, 0, 8, flags=0)],
    )
    assert [name for _, _, name in rows(table_of(data))] == ["label", "resolver", "table"]


def test_symtab_and_dynsym_are_joined() -> None:
    data = ew.simple(
        [Sym("inside", 0x2000, 8, binding=ew.LOCAL), Sym("shared", 0x2010, 8)],
        dynsym=[Sym("shared", 0x2010, 8), Sym("only_dynamic", 0x2020, 8)],
    )
    assert [name for _, _, name in rows(table_of(data))] == ["inside", "shared", "only_dynamic"]


def test_a_debug_file_is_read_through_the_segments_of_the_binary() -> None:
    stripped = ew.simple([], symtab=None)
    debug = ew.elf(
        loads=[Load(0, 0x2000, b"", extra_memory_bytes=0x1000)],
        texts=[Text(".text", 0x40, 0x2000, 0x1000, nobits=True)],
        symtab=[Sym("moved_out", 0x2010, 4)],
    )
    table = symbols.from_elf(
        parse_elf(memoryview(stripped), "stripped"), parse_elf(memoryview(debug), "debug"))
    assert rows(table) == [(0x1010, 0x1014, "moved_out")]


def test_the_innermost_of_overlapping_symbols_wins() -> None:
    table = table_of(ew.simple([
        Sym("outer", 0x2000, 0x100), Sym("inner", 0x2020, 0x10), Sym("innermost", 0x2024, 0x4),
        Sym("after", 0x2200, 0x10),
    ]))
    expected = {
        0xFFF: None, 0x1000: "outer", 0x101F: "outer", 0x1020: "inner", 0x1024: "innermost",
        0x1028: "inner", 0x1030: "outer", 0x10FF: "outer", 0x1100: None, 0x1200: "after",
        0x1210: None, 0xFFFFFFFFFFFFFFFF: None,
    }
    assert {address: find(table, address) for address in expected} == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=12),
    st.lists(st.integers(0, 110), min_size=1, max_size=20),
)
def test_lookup_agrees_with_looking_at_every_symbol(
    spans: list[tuple[int, int]], addresses: list[int],
) -> None:
    table = table_of(ew.simple([
        Sym(f"s{number:02}", 0x2000 + start, size) for number, (start, size) in enumerate(spans)
    ]))
    everything = rows(table)
    for address in addresses:
        covering = [row for row in everything if row[0] <= address + 0x1000 < row[1]]
        expected = max(covering)[2] if covering else None
        assert find(table, address + 0x1000) == expected


def test_an_empty_table_finds_nothing() -> None:
    assert symbols.EMPTY.lookup(np.array([0, 5], np.uint64)).tolist() == [-1, -1]


def test_names_that_are_not_utf8_stay_readable() -> None:
    assert rows(table_of(ew.simple([Sym("caf\xe9\x1b", 0x2000, 4)])))[0][2] == "caf\\xe9\x1b"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF", b"not an ELF file at all, but long enough to have a header" * 2,
     b"\x7fELF\x02\x01\x01" + b"\xff" * 200],
)
def test_no_elf_file_is_damaged_input(data: bytes) -> None:
    with pytest.raises(DamagedInput):
        parse_elf(memoryview(data), "written")


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(DamagedInput):
            open_elf(path)


def test_sections_outside_of_the_file() -> None:
    good = ew.simple([Sym("f", 0x2000, 4)])
    for cut in range(16, len(good), 16):
        with contextlib.suppress(DamagedInput):
            assert len(table_of(good[:cut])) == 0


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_give_symbols_or_our_error(data: st.DataObject) -> None:
    good = bytearray(ew.elf(
        loads=[Load(0x100, 0x200, bytes(16))], texts=[Text(".text", 0x100, 0x200, 16)],
        symtab=[Sym("f", 0x200, 4), Sym("g", 0x208, 0)], build_id=b"12345678",
    ))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedInput):
        table_of(bytes(good))
