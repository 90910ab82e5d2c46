"""Names for the entries of procedure linkage tables: `puts@plt`.

What is named, and how, follows perf since Linux 6.3 (tools/perf/util/symbol-elf.c): `.plt` with its
header, `.plt.sec` (x86 with IBT: the entries that are called; `.plt` then holds only what binds
them), `.plt.got` (functions that are bound at start). perf 6.1 names entries of `.plt` alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.program.elf import ElfImage, Section, symbol_dtype

# Bytes of the header and of each entry of .plt, by e_machine. On x86 the section says them.
_SIZES = {
    "EM_ARM": (20, 12), "EM_AARCH64": (32, 16), "EM_LOONGARCH": (32, 16), "EM_SPARC": (48, 12),
    "EM_SPARCV9": (128, 32), "EM_RISCV": (32, 16),
}
_X86 = ("EM_X86_64", "EM_386")
R_X86_64_IRELATIVE = 37  # <elf.h> of glibc 2.36
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_BND = b"\xf2"
_JMP_RIP = b"\xff\x25"
# A linkage table has an entry for each imported function; nothing has a million of those.
_MOST_ENTRIES = 1 << 20


class Stub(NamedTuple):
    """One entry, at file offsets [start, end). resolver: where the name is that of the indirect
    function whose code begins at that file offset, if there is one."""

    start: int
    end: int
    name: bytes
    resolver: int | None = None


def entries(image: ElfImage) -> list[Stub]:
    """All entries, by start. DamagedInput where sections lie outside of the file."""
    table = image.section(".plt")
    found = _plt_got(image) if image.machine in _X86 else []
    if table is not None:
        found += _plt(image, table)
    return sorted(found, key=lambda stub: stub.start)


def _sizes(image: ElfImage, table: Section) -> tuple[int, int]:
    if image.machine in _X86:
        entry = table.entry_bytes
        if entry not in (8, 16):
            entry = 8 if table.align == 8 else 16
        return entry, entry
    return _SIZES.get(image.machine, (table.entry_bytes, table.entry_bytes))


def _plt(image: ElfImage, table: Section) -> list[Stub]:
    header, entry = _sizes(image, table)
    if entry <= 0 or table.bytes <= 0:
        return []
    relocations = image.section(".rela.plt") or image.section(".rel.plt")
    rows = None if relocations is None else _relocations(image, relocations)
    second = image.section(".plt.sec") if image.machine in _X86 else None
    head = Stub(table.offset, table.offset + header, b".plt")
    if second is not None:
        # The whole of .plt only binds; what is called are the entries of .plt.sec.
        found, at = [head._replace(end=table.offset + table.bytes)], second.offset
        end = second.offset + second.bytes
    else:
        end = table.offset + table.bytes
        # As many entries as relocations: bound at start, without a header.
        eager = rows is not None and len(rows) * entry == table.bytes
        found, at = ([], table.offset) if eager else ([head], table.offset + header)
    if relocations is None or rows is None:
        return found
    names = _Names(image, relocations)
    if image.machine in _X86:
        # Those of indirect functions stand elsewhere in the list.
        rows = rows[np.argsort(rows["offset"], kind="stable")]
    indirect = image.machine == "EM_X86_64" and "addend" in (rows.dtype.names or ())
    for row in rows[:_MOST_ENTRIES]:
        if at + entry > end:
            break
        number = int(row["info"]) >> (32 if image.bits == 64 else 8)
        name = names(number)
        resolver = None
        if not name and indirect and int(row["info"]) & 0xFFFFFFFF == R_X86_64_IRELATIVE:
            offsets, known = image.offsets_of(np.array([row["addend"]], np.int64).view(np.uint64))
            resolver = int(offsets[0]) if known[0] else None
        found.append(Stub(
            at, at + entry, name + b"@plt" if name else f"offset_{at:#x}@plt".encode(), resolver,
        ))
        at += entry
    return found


def _plt_got(image: ElfImage) -> list[Stub]:
    table = image.section(".plt.got")
    if table is None or not 0 < table.entry_bytes <= 64:
        return []
    code = bytes(image.content(table))
    relocations = image.section(".rela.dyn")
    by_slot: dict[int, int] = {}
    if image.machine == "EM_X86_64" and relocations is not None:
        rows = _relocations(image, relocations)
        if rows is not None:
            named = rows[(rows["info"] >> np.uint64(32)) != 0]
            by_slot = dict(zip(
                named["offset"].tolist(), (named["info"] >> np.uint64(32)).tolist(), strict=True))
    names = _Names(image, relocations) if relocations is not None else lambda number: b""
    found = []
    for at in range(0, min(len(code), _MOST_ENTRIES), table.entry_bytes):
        start = table.offset + at
        slot = _slot(code, at)
        number = by_slot.get(table.vaddr + slot) if slot else None
        name = names(number) if number else b""
        found.append(Stub(
            start, start + table.entry_bytes,
            name + b"@plt" if name else f"offset_{start:#x}@plt".encode(),
        ))
    return found


def _slot(code: bytes, at: int) -> int:
    """Distance from the start of .plt.got to the word that the entry at `at` jumps through, 0
    where it is no such jump: [endbr64] [bnd] jmp *disp32(%rip)."""
    for prefix in (_ENDBR64, _BND):
        if code.startswith(prefix, at):
            at += len(prefix)
    if not code.startswith(_JMP_RIP, at) or at + 6 > len(code):
        return 0
    return at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)


def _relocations(image: ElfImage, section: Section) -> npt.NDArray[np.void] | None:
    """Rows of Elf64_Rela, Elf64_Rel or their 32-bit forms; None where the section holds none."""
    if section.kind not in ("SHT_RELA", "SHT_REL"):
        return None
    order = ">" if image.big_endian else "<"
    word = f"{order}u{image.bits // 8}"
    fields = [("offset", word), ("info", word)]
    if section.kind == "SHT_RELA":
        fields.append(("addend", f"{order}i{image.bits // 8}"))
    entry = np.dtype(fields)
    content = image.content(section)
    return np.frombuffer(content[: len(content) - len(content) % entry.itemsize], entry)


class _Names:
    """Symbol names by number, from the table that a relocation section links to."""

    def __init__(self, image: ElfImage, relocations: Section) -> None:
        self._values = np.zeros(0, np.uint32)
        self._strings = b""
        if not 0 < relocations.link < len(image.sections):
            return
        table = image.sections[relocations.link]
        dtype = symbol_dtype(image.bits, image.big_endian)
        if table.entry_bytes != dtype.itemsize or not 0 < table.link < len(image.sections):
            return
        raw = image.content(table)
        rows = np.frombuffer(raw[: len(raw) - len(raw) % dtype.itemsize], dtype)
        self._values = rows["name"]
        self._strings = bytes(image.content(image.sections[table.link]))

    def __call__(self, number: int) -> bytes:
        if not 0 < number < len(self._values):
            return b""
        at = int(self._values[number])
        end = self._strings.find(b"\0", at)
        return self._strings[at:end] if end >= 0 else b""
