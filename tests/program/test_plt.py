"""Names of linkage table entries, from tables as different linkers lay them out."""

from __future__ import annotations

import struct

import pytest
from support import elfwriter as ew
from support.elfwriter import Load, Raw, Sym, Text

from perfxmm.program import plt, symbols
from perfxmm.program.elf import parse_elf

BASE = 0x1000  # file offset and address of the code
GOT = 0x9000
PUSH_AND_JUMP = b"\xff\x35" + bytes(4) + b"\xff\x25" + bytes(4) + b"\x0f\x1f\x40\x00"
ENDBR = b"\xf3\x0f\x1e\xfa"
JUMP_SLOT, GLOB_DAT, IRELATIVE = 7, 6, 37
IMPORTS = [
    Sym(name, 0, section=ew.UNDEF) for name in ("puts", "_ZN1AC1Ev", "rand")
]


def jump(at: int, slot: int, *, prefix: bytes = b"", size: int = 16) -> bytes:
    """An entry at `at` that jumps through the word at `slot`."""
    end = at + len(prefix) + 6
    return (prefix + b"\xff\x25" + struct.pack("<i", slot - end)).ljust(size, b"\xcc")


def rela(*rows: tuple[int, int, int, int]) -> bytes:
    """(slot, symbol, type, addend)"""
    return b"".join(
        struct.pack("<QQq", slot, number << 32 | kind, addend)
        for slot, number, kind, addend in rows
    )


def stubs(
    code: bytes, texts: list[Text], relocations: bytes, *, section: str = ".rela.plt",
    symtab: list[Sym] | None = None, machine_bits: int = 64,
) -> list[tuple[int, int, str]]:
    image = parse_elf(memoryview(ew.elf(
        loads=[Load(BASE, BASE, code)], texts=texts, dynsym=IMPORTS, symtab=symtab,
        bits=machine_bits,
        raws=[Raw(section, relocations, "rela", 2, ".dynsym", 24)],
    )), "written")
    assert plt.entries(image) == sorted(plt.entries(image), key=lambda stub: stub.start)
    table = symbols.from_elf(image)
    return [
        (int(start), int(end), table.name(row))
        for row, (start, end) in enumerate(zip(table.starts, table.ends, strict=True))
    ]


THREE = rela((GOT, 1, JUMP_SLOT, 0), (GOT + 8, 2, JUMP_SLOT, 0), (GOT + 16, 3, JUMP_SLOT, 0))
NAMES = ["puts@plt", "_ZN1AC1Ev@plt", "rand@plt"]


def entries(first: int, *, prefix: bytes = b"") -> bytes:
    return b"".join(
        jump(first + 16 * n, GOT + 8 * n, prefix=prefix) for n in range(3)
    )


def expected(first: int, header: int | None) -> list[tuple[int, int, str]]:
    rows = [(first + 16 * n, first + 16 * n + 16, name) for n, name in enumerate(NAMES)]
    return rows if header is None else [(header, first, ".plt"), *rows]


def test_gnu_ld_has_a_header_of_one_entry() -> None:
    code = PUSH_AND_JUMP + entries(BASE + 16)
    found = stubs(code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], THREE)
    assert found == expected(BASE + 16, BASE)


def test_lld_says_no_entry_size() -> None:
    code = PUSH_AND_JUMP + entries(BASE + 16)
    found = stubs(code, [Text(".plt", BASE, BASE, len(code))], THREE)
    assert found == expected(BASE + 16, BASE)


def test_mold_has_a_header_of_two_entries_and_its_own_code() -> None:
    code = PUSH_AND_JUMP + bytes(16) + entries(BASE + 32, prefix=ENDBR + b"\x41\xbb\1\0\0\0")
    found = stubs(code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], THREE)
    assert found == expected(BASE + 32, BASE)


def test_bound_at_start_without_a_header() -> None:
    code = entries(BASE)
    found = stubs(code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], THREE)
    assert found == expected(BASE, None)


@pytest.mark.parametrize("prefix", [ENDBR, ENDBR + b"\xf2"])
def test_ibt_calls_the_second_table(prefix: bytes) -> None:
    lazy = PUSH_AND_JUMP + 3 * (ENDBR + b"\x68\0\0\0\0\xe9\0\0\0\0\x66\x90")
    second = BASE + len(lazy)
    code = lazy + entries(second, prefix=prefix)
    found = stubs(
        code,
        [Text(".plt", BASE, BASE, len(lazy), entry_bytes=16),
         Text(".plt.sec", second, second, 48, entry_bytes=16)], THREE,
    )
    assert found == expected(second, BASE)


def test_what_is_bound_at_start_lies_in_a_table_of_its_own() -> None:
    code = jump(BASE, GOT + 8, size=8) + jump(BASE + 8, GOT + 64, size=8) + b"\x90" * 8
    found = stubs(
        code, [Text(".plt.got", BASE, BASE, len(code), entry_bytes=8)],
        rela((GOT, 3, GLOB_DAT, 0), (GOT + 8, 1, GLOB_DAT, 0)), section=".rela.dyn",
    )
    assert found == [
        (BASE, BASE + 8, "puts@plt"), (BASE + 8, BASE + 16, "offset_0x1008@plt"),
        (BASE + 16, BASE + 24, "offset_0x1010@plt"),
    ]


def test_code_that_is_not_known_is_named_in_the_order_of_addresses() -> None:
    # As with retpolines: no jump to be read; the relocations' list is in another order.
    code = bytes(16) + b"\x90" * 48
    mixed = rela((GOT + 16, 3, JUMP_SLOT, 0), (GOT, 1, JUMP_SLOT, 0), (GOT + 8, 2, JUMP_SLOT, 0))
    found = stubs(code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], mixed)
    assert found == expected(BASE + 16, BASE)


def test_indirect_functions_have_the_name_of_their_resolver() -> None:
    code = jump(BASE, GOT) + jump(BASE + 16, GOT + 8) + b"\xc3" * 16
    found = stubs(
        code,
        [Text(".plt", BASE, BASE, 32, entry_bytes=16),
         Text(".text", BASE + 32, BASE + 32, 16)],
        rela((GOT + 8, 0, IRELATIVE, 0x5000), (GOT, 0, IRELATIVE, BASE + 32)),
        symtab=[Sym("memcpy", BASE + 32, 16, ew.IFUNC, section=2)],
    )
    assert found == [
        (BASE, BASE + 16, "memcpy@plt"), (BASE + 16, BASE + 32, "offset_0x1010@plt"),
        (BASE + 32, BASE + 48, "memcpy"),
    ]


def test_a_symbol_of_its_own_goes_before() -> None:
    code = PUSH_AND_JUMP + entries(BASE + 16)
    found = stubs(
        code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], THREE,
        symtab=[Sym("puts$plt", BASE + 16, 16)],
    )
    assert [name for _, _, name in found] == [".plt", "puts$plt", *NAMES[1:]]


@pytest.mark.parametrize("damage", [rela((GOT, 99, JUMP_SLOT, 0)), b"", b"short"])
def test_relocations_that_lead_nowhere(damage: bytes) -> None:
    code = PUSH_AND_JUMP + entries(BASE + 16)
    found = stubs(code, [Text(".plt", BASE, BASE, len(code), entry_bytes=16)], damage)
    assert found[0] == (BASE, BASE + 16, ".plt")
    assert all(name.startswith("offset_") for _, _, name in found[1:])
