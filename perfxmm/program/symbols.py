"""Symbol tables as sorted arrays, chosen and mended the way perf does it.

Addresses are file offsets, because a mapping in a recording says which file offset it maps; the
step from virtual address to file offset is made once, per symbol, through the PT_LOAD headers.

What perf does is taken from the behaviour of tools/perf/util/symbol.c and symbol-elf.c of
Linux 6.1 and checked against the perf that is installed (tests/program).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.program.elf import SHF_ALLOC, ElfImage, Section

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

# st_info and st_other fields, <elf.h> of glibc 2.36.
_NOTYPE, _OBJECT, _FUNC, _IFUNC = 0, 1, 2, 10
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_HIDDEN, _INTERNAL = 2, 1
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00

_PAGE_BYTES = 4096
_NO_LIMIT = (1 << 64) - 1
# x86 procedure linkage tables: every entry, and the header of .plt (not of .plt.sec), psABI 5.2.
_PLT_ENTRY_BYTES = 16
_UNDERSCORES_COUNTED = 16


def _symbol_dtype(bits: int, big_endian: bool) -> np.dtype[np.void]:
    """Elf64_Sym or Elf32_Sym of <elf.h>."""
    order = ">" if big_endian else "<"
    if bits == 64:
        fields = [
            ("name", f"{order}u4"), ("info", "u1"), ("other", "u1"), ("shndx", f"{order}u2"),
            ("value", f"{order}u8"), ("size", f"{order}u8"),
        ]
    else:
        fields = [
            ("name", f"{order}u4"), ("value", f"{order}u4"), ("size", f"{order}u4"),
            ("info", "u1"), ("other", "u1"), ("shndx", f"{order}u2"),
        ]
    return np.dtype(fields)


class _Entries(NamedTuple):
    """Symbols before the choice among duplicates.

    limit: where the symbol's section ends. name: offset into the shared strings.
    """

    start: U64
    end: U64
    limit: U64
    binding: U8
    name: I64

    def take(self, chosen: I64 | Bool) -> _Entries:
        return _Entries(
            self.start[chosen], self.end[chosen], self.limit[chosen], self.binding[chosen],
            self.name[chosen],
        )


def _joined(first: _Entries, second: _Entries) -> _Entries:
    return _Entries(
        np.concatenate((first.start, second.start)), np.concatenate((first.end, second.end)),
        np.concatenate((first.limit, second.limit)),
        np.concatenate((first.binding, second.binding)), np.concatenate((first.name, second.name)),
    )


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """n symbols sorted by start.

    starts, ends: uint64 [n], file offsets (kernel addresses for kallsyms), end exclusive.
    names: int64 [n], offsets into `strings`, where each name ends with a zero byte.
    reach: uint64 [n], the largest end among this symbol and those before it.
    """

    starts: U64
    ends: U64
    names: I64
    strings: bytes
    reach: U64

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, index: int) -> str:
        """The raw (mangled) name. Bytes that are not UTF-8 stay as escapes."""
        start = int(self.names[index])
        end = self.strings.find(b"\0", start)
        return self.strings[start : end if end >= 0 else None].decode("utf-8", "backslashreplace")

    def lookup(self, addresses: U64) -> I64:
        """Index of the symbol that covers each address, -1 where none does.

        Where symbols overlap, the one that starts last wins: it is the innermost.
        """
        index: I64 = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        if not len(self):
            return index
        open_ = index >= 0
        open_[open_] = addresses[open_] >= self.ends[index[open_]]
        while open_.any():
            rows = np.flatnonzero(open_)
            # Nothing at or before this one reaches the address: there is no symbol.
            lost = addresses[rows] >= self.reach[index[rows]]
            index[rows] = np.where(lost, -1, index[rows] - 1)
            open_[rows[lost]] = False
            rows = rows[~lost]
            open_[rows] = addresses[rows] >= self.ends[index[rows]]
        return index


EMPTY = SymbolTable(
    np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64), b"",
    np.zeros(0, np.uint64),
)


def from_elf(image: ElfImage, debug: ElfImage | None = None) -> SymbolTable:
    """Symbols of .symtab and .dynsym, and `name@plt` for linkage table entries.

    debug: the file that the symbols were moved to when `image` was stripped. It has no code and
    its own file offsets mean nothing: addresses go through the segments of `image`.

    Functions, indirect functions, objects, and labels in text and data sections count, as in
    perf. DamagedInput where the file contradicts itself.
    """
    strings = bytearray(b"\0")
    entries = _no_entries()
    source = debug or image
    for kind in ("SHT_SYMTAB", "SHT_DYNSYM"):
        section = source.section_of_kind(kind)
        if section is not None:
            # Mended once per table, as perf does: the second pass meets ends that the first
            # one has filled in.
            entries = _mended(
                _joined(entries, _read(source, section, image, strings)), strings)
    if image.machine in ("EM_X86_64", "EM_386"):
        plt = _plt(image, strings)
        taken = np.isin(plt.start, entries.start)
        entries = _sorted(_joined(entries, plt.take(~taken)))
    return _table(entries, bytes(strings))


def from_arrays(starts: U64, binding: U8, names: I64, strings: bytes) -> SymbolTable:
    """Symbols without sizes (kallsyms): each ends where the next one starts.

    binding: 0 local, 1 global, 2 weak, as in st_info.
    """
    limit = np.full(len(starts), _NO_LIMIT, np.uint64)
    return _table(_mended(_Entries(starts, starts.copy(), limit, binding, names), strings), strings)


def _table(entries: _Entries, strings: bytes) -> SymbolTable:
    return SymbolTable(
        entries.start, entries.end, entries.name, strings, np.maximum.accumulate(entries.end),
    )


def _no_entries() -> _Entries:
    return _Entries(
        np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint64),
        np.zeros(0, np.uint8), np.zeros(0, np.int64),
    )


def _read(
    image: ElfImage, section: Section, mapped: ElfImage, strings: bytearray,
) -> _Entries:
    """The symbols of one table that name code or data of `mapped`. Appends to `strings`."""
    dtype = _symbol_dtype(image.bits, image.big_endian)
    content = image.content(section)
    if section.entry_bytes != dtype.itemsize:
        raise DamagedInput(
            "symbols have the wrong size", file=image.path, offset=section.offset,
            field=section.name, wanted_bytes=dtype.itemsize, available_bytes=section.entry_bytes,
        )
    if not 0 < section.link < len(image.sections):
        raise DamagedInput("symbol table without names", file=image.path, field=section.name)
    base = len(strings)
    strings += bytes(image.content(image.sections[section.link]))
    strings += b"\0"
    table = np.frombuffer(content[: len(content) - len(content) % dtype.itemsize], dtype)

    name = table["name"].astype(np.int64)
    if len(name) and int(name.max()) >= len(strings) - base:
        raise DamagedInput("symbol name outside of the string table", file=image.path,
                           field=section.name)
    index = table["shndx"].astype(np.int64)
    # SHN_ABS and friends have no section. Extended numbering (SHN_XINDEX) is not followed.
    keep = (name != 0) & (index != _SHN_UNDEF) & (index < min(_SHN_LORESERVE, len(image.sections)))
    keep &= _wanted(image, table, np.where(keep, index, 0))
    table, name = table[keep], name[keep]

    value = table["value"].astype(np.uint64)
    start, known = mapped.offsets_of(value)
    end = start + table["size"].astype(np.uint64)
    known &= end >= start
    section_end = np.array(
        [(s.vaddr + s.bytes) % (1 << 64) for s in image.sections], np.uint64,
    )[index[keep]]
    limit = np.where(section_end > value, start + (section_end - value), np.uint64(_NO_LIMIT))
    binding = (table["info"] >> 4).astype(np.uint8)
    return _Entries(start, end, limit, binding, name + base).take(known)


def _wanted(image: ElfImage, table: npt.NDArray[np.void], index: I64) -> Bool:
    """perf's choice: functions and objects everywhere, labels where code or data is."""
    sections = image.sections
    allocated = np.array([bool(s.flags & SHF_ALLOC) for s in sections])
    labelled = np.array(["text" in s.name or "data" in s.name for s in sections])
    kind = table["info"] & 0xF
    visibility = table["other"] & 0x3
    sized = (kind == _FUNC) | (kind == _IFUNC) | (kind == _OBJECT)
    label = (kind == _NOTYPE) & (visibility != _HIDDEN) & (visibility != _INTERNAL)
    wanted: Bool = allocated[index] & (sized | (label & labelled[index]))
    return wanted


def _sorted(entries: _Entries) -> _Entries:
    return entries.take(np.argsort(entries.start, kind="stable"))


def _mended(entries: _Entries, strings: bytes | bytearray) -> _Entries:
    """Sorts, gives symbols without size an end, and keeps one symbol per start."""
    entries = _sorted(entries)
    count = len(entries.start)
    if count == 0:
        return entries
    start, end = entries.start, entries.end.copy()
    unsized = end == start
    following = np.empty_like(start)
    following[:-1] = start[1:]
    page = np.uint64(_PAGE_BYTES)
    following[-1] = (start[-1] + page - np.uint64(1)) // page * page + page
    # Unlike perf, not past the section: `_init` is not all of the linkage table behind it.
    end[unsized] = np.minimum(following, entries.limit)[unsized]
    entries = entries._replace(end=end)

    # Among symbols of one start: sized before unsized, strong before weak, global before local,
    # fewer leading underscores, longer name, first in the table.
    underscores, length = _name_measures(entries.name, strings)
    order = np.lexsort((
        np.arange(count), -length, underscores, entries.binding != _GLOBAL,
        entries.binding == _WEAK, end == start, start,
    ))
    entries = entries.take(order)
    first = np.ones(count, np.bool_)
    first[1:] = entries.start[1:] != entries.start[:-1]
    return entries.take(first)


def _name_measures(name: I64, strings: bytes | bytearray) -> tuple[I64, I64]:
    """Leading underscores and length in bytes of each name."""
    text = np.frombuffer(bytes(strings) + b"\0", np.uint8)
    zeros = np.flatnonzero(text == 0)
    length = (zeros[np.searchsorted(zeros, name)] - name).astype(np.int64)
    underscores = np.zeros(len(name), np.int64)
    running = np.ones(len(name), np.bool_)
    for step in range(_UNDERSCORES_COUNTED):
        running &= text[np.minimum(name + step, len(text) - 1)] == ord("_")
        if not running.any():
            break
        underscores += running
    return underscores, length


def _plt(image: ElfImage, strings: bytearray) -> _Entries:
    """One `name@plt` per linkage table entry; the entries are in the order of .rela.plt."""
    relocations = image.section(".rela.plt") or image.section(".rel.plt")
    if relocations is None or not 0 < relocations.link < len(image.sections):
        return _no_entries()
    table = image.sections[relocations.link]
    dtype = _symbol_dtype(image.bits, image.big_endian)
    if table.entry_bytes != dtype.itemsize or not 0 < table.link < len(image.sections):
        return _no_entries()
    order = ">" if image.big_endian else "<"
    word = f"{order}u{image.bits // 8}"
    addend = [("addend", f"{order}i{image.bits // 8}")] if relocations.kind == "SHT_RELA" else []
    entry = np.dtype([("offset", word), ("info", word), *addend])
    content = image.content(relocations)
    rows = np.frombuffer(content[: len(content) - len(content) % entry.itemsize], entry)
    which = (rows["info"] >> (32 if image.bits == 64 else 8)).astype(np.int64)
    raw = image.content(table)
    symbols = np.frombuffer(raw[: len(raw) - len(raw) % dtype.itemsize], dtype)
    base_strings = bytes(image.content(image.sections[table.link]))

    names = []
    for row, number in enumerate(which.tolist()):
        if number >= len(symbols):
            return _no_entries()
        if number == 0:
            # An indirect function of this file: no symbol, only the resolver's address.
            resolver = int(rows["addend"][row]) if addend else 0
            label = f"*ABS*+{resolver:#x}".encode()
        else:
            at = int(symbols["name"][number])
            end = base_strings.find(b"\0", at)
            label = base_strings[at : end if end >= 0 else at]
        names.append(len(strings))
        strings += label + b"@plt\0"

    found = _no_entries()
    for section_name, header_bytes in ((".plt", _PLT_ENTRY_BYTES), (".plt.sec", 0)):
        section = image.section(section_name)
        if section is None:
            continue
        count = min(len(names), max(0, section.bytes - header_bytes) // _PLT_ENTRY_BYTES)
        start = np.uint64(section.offset + header_bytes) + np.arange(
            0, count * _PLT_ENTRY_BYTES, _PLT_ENTRY_BYTES, dtype=np.uint64)
        found = _joined(found, _Entries(
            start, start + np.uint64(_PLT_ENTRY_BYTES), np.full(count, _NO_LIMIT, np.uint64),
            np.full(count, _GLOBAL, np.uint8), np.array(names[:count], np.int64),
        ))
    return found
