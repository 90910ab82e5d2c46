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
_MOV_R11D = b"\x41\xbb"
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
    second = image.section(".plt.sec") if image.machine in _X86 else None
    called = second or table
    end = called.offset + called.bytes
    rows = _rows(image, ".rela.plt", ".rel.plt")
    # In a static executable those of indirect functions may be among the others.
    found = _by_jump(image, called, entry, ".rela.plt", ".rela.dyn")
    if found:
        # What is in front of the first entry is the header, whatever its size: mold's has two
        # entries' length.
        first = found[0].start
    elif second is not None:
        first = second.offset
    else:
        # As many entries as relocations: bound at start, without a header.
        first = table.offset + (0 if len(rows) * entry == table.bytes else header)
    if not found:
        for at, row in zip(range(first, end - entry + 1, entry), rows, strict=False):
            found.append(row.stub(at, at + entry))
    head = table.offset + table.bytes if second is not None else first
    if head > table.offset:
        # Where there is a second table, the first one only binds.
        found.insert(0, Stub(table.offset, head, b".plt"))
    return found


def _plt_got(image: ElfImage) -> list[Stub]:
    table = image.section(".plt.got")
    if table is None or not 0 < table.entry_bytes <= 64:
        return []
    entry = table.entry_bytes
    known = {s.start: s for s in _by_jump(image, table, entry, ".rela.dyn")}
    count = min(table.bytes // entry, _MOST_ENTRIES)
    starts = range(table.offset, table.offset + count * entry, entry)
    return [known.get(at) or Stub(at, at + entry, _numbered(at)) for at in starts]


def _numbered(offset: int) -> bytes:
    return f"offset_{offset:#x}@plt".encode()


def _by_jump(image: ElfImage, table: Section, entry: int, *sections: str) -> list[Stub]:
    """The entries whose jump goes through a word that is relocated. x86-64 only, else empty."""
    if image.machine != "EM_X86_64":
        return []
    code = bytes(image.content(table))
    starts = range(0, min(len(code), _MOST_ENTRIES * entry) - entry + 1, entry)
    jumps = {
        table.vaddr + at + distance: at
        for at in starts if (distance := _slot(code[at : at + entry]))
    }
    found = {
        jumps[row.slot]: row
        for name in reversed(sections) for row in _rows(image, name, slots=list(jumps))
    }
    return [
        row.stub(table.offset + at, table.offset + at + entry) for at, row in sorted(found.items())
    ]


def _slot(code: bytes) -> int:
    """Distance from the start of an entry to the word that it jumps through, 0 where there is no
    such jump: [endbr64] [mov $imm32, %r11d] [bnd] jmp *disp32(%rip)."""
    at = 0
    for prefix, length in ((_ENDBR64, 4), (_MOV_R11D, 6), (_BND, 1)):
        if code.startswith(prefix, at):
            at += length
    if not code.startswith(_JMP_RIP, at) or at + 6 > len(code):
        return 0
    return at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)


class _Row(NamedTuple):
    """A relocation: the address of the word, its symbol ("" without one), and the file offset of
    the resolver where it is of an indirect function."""

    slot: int
    name: bytes
    resolver: int | None

    def stub(self, start: int, end: int) -> Stub:
        return Stub(
            start, end, self.name + b"@plt" if self.name else _numbered(start), self.resolver)


def _rows(
    image: ElfImage, *sections: str, slots: list[int] | None = None,
) -> list[_Row]:
    """The relocations of the first of these sections that there is, by address on x86: there
    those of indirect functions stand elsewhere in the list than their entries.

    slots: only those of these words; None: all.
    """
    section = next((s for s in map(image.section, sections) if s is not None), None)
    table = None if section is None else _relocations(image, section)
    if section is None or table is None:
        return []
    if slots is not None:
        wanted = np.array([slot for slot in slots if 0 <= slot < 1 << 63], np.uint64)
        table = table[np.isin(table["offset"], wanted)]
    table = table[:_MOST_ENTRIES]
    if image.machine in _X86:
        table = table[np.argsort(table["offset"], kind="stable")]
    names = _Names(image, section)
    shift = 32 if image.bits == 64 else 8
    indirect = image.machine == "EM_X86_64" and "addend" in (table.dtype.names or ())
    resolvers, known = image.offsets_of(
        table["addend"].astype(np.int64).view(np.uint64) if indirect
        else np.zeros(len(table), np.uint64))
    rows = []
    for number, (slot, info) in enumerate(zip(
        table["offset"].tolist(), table["info"].tolist(), strict=True,
    )):
        name = names(info >> shift)
        found = None
        if not name and indirect and info & 0xFFFFFFFF == R_X86_64_IRELATIVE and known[number]:
            found = int(resolvers[number])
        rows.append(_Row(slot, name, found))
    return rows


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
