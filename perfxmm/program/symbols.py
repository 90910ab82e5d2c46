"""Symbol tables as sorted arrays, chosen and mended the way perf does it.

Addresses are file offsets, because a mapping in a recording says which file offset it maps; the
step from virtual address to file offset is made once, per symbol, through the PT_LOAD headers.

What perf does is taken from the behaviour of tools/perf/util/symbol.c and symbol-elf.c of
Linux 6.1 and checked against the perf that is installed (tests/program).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.program import plt
from perfxmm.program.demangle import demangle
from perfxmm.program.elf import SHF_ALLOC, ElfImage, Section, symbol_dtype

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

# st_info and st_other fields, <elf.h> of glibc 2.36.
_NOTYPE, _OBJECT, _FUNC, _IFUNC = 0, 1, 2, 10
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_HIDDEN, _INTERNAL = 2, 1
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00

# Complete, base and deleting constructors and destructors, Itanium C++ ABI 5.1.4.3.
_VARIANT = re.compile(rb"([CD])[0-9]")
_PAGE_BYTES = 4096
_NO_LIMIT = (1 << 64) - 1


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


def one_symbol(name: str) -> SymbolTable:
    """A table of a single symbol from 0 to the end of the address space."""
    return SymbolTable(
        np.zeros(1, np.uint64), np.full(1, _NO_LIMIT, np.uint64), np.zeros(1, np.int64),
        name.encode("utf-8", "surrogateescape") + b"\0", np.full(1, _NO_LIMIT, np.uint64),
    )


def from_elf(image: ElfImage, debug: ElfImage | None = None) -> SymbolTable:
    """Symbols of .symtab and .dynsym, and names for linkage table entries (see `plt`).

    debug: the file that the symbols were moved to when `image` was stripped. It has no code and
    its own file offsets mean nothing: addresses go through the segments of `image`.

    Functions, indirect functions, objects, and labels in text and data sections count, as in
    perf. DamagedInput where the file contradicts itself.
    """
    strings = bytearray(b"\0")
    entries = _no_entries()
    for kind, source in (("SHT_SYMTAB", debug or image), ("SHT_DYNSYM", image)):
        section = source.section_of_kind(kind)
        if section is not None:
            # Mended once per table, as perf does: the second pass meets ends that the first
            # one has filled in.
            entries = _mended(
                _joined(entries, _read(source, section, image, strings)), strings)
    stubs = plt.entries(image)
    if stubs:
        entries = _with_stubs(entries, stubs, strings)
    return _table(entries, bytes(strings))


def _with_stubs(
    entries: _Entries, stubs: list[plt.Stub], strings: bytearray,
) -> _Entries:
    """Adds linkage table entries where no symbol begins; indirect functions get their name."""
    known = dict(zip(entries.start.tolist(), entries.name.tolist(), strict=True))
    names = []
    for stub in stubs:
        label = stub.name
        if stub.resolver is not None:
            at = known.get(stub.resolver)
            if at is not None:
                label = bytes(strings[at : strings.index(b"\0", at)]) + b"@plt"
        names.append(len(strings))
        strings += label + b"\0"
    start = np.array([stub.start for stub in stubs], np.uint64)
    added = _Entries(
        start, np.array([stub.end for stub in stubs], np.uint64),
        np.full(len(stubs), _NO_LIMIT, np.uint64), np.full(len(stubs), _GLOBAL, np.uint8),
        np.array(names, np.int64),
    )
    first = np.ones(len(start), np.bool_)
    first[1:] = start[1:] != start[:-1]
    return _sorted(_joined(entries, added.take(first & ~np.isin(start, entries.start))))


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
    dtype = symbol_dtype(image.bits, image.big_endian)
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

    value = table["value"].astype(np.uint64) + _moved(image, mapped)[index[keep]]
    start, known = mapped.offsets_of(value)
    end = start + table["size"].astype(np.uint64)
    known &= end >= start
    section_end = np.array(
        [(s.vaddr + s.bytes) % (1 << 64) for s in image.sections], np.uint64,
    )[index[keep]] + _moved(image, mapped)[index[keep]]
    limit = np.where(section_end > value, start + (section_end - value), np.uint64(_NO_LIMIT))
    binding = (table["info"] >> 4).astype(np.uint8)
    return _Entries(start, end, limit, binding, name + base).take(known)


def _moved(image: ElfImage, mapped: ElfImage) -> U64:
    """By how much each section of a debug file lies elsewhere in the binary, modulo 2**64.

    prelink moves the binary and leaves the debug file as it was.
    """
    if image is mapped:
        return np.zeros(len(image.sections), np.uint64)
    there = {s.name: s.vaddr for s in reversed(mapped.sections) if s.flags & SHF_ALLOC}
    return np.array(
        [(there.get(s.name, s.vaddr) - s.vaddr) % (1 << 64) if s.flags & SHF_ALLOC else 0
         for s in image.sections], np.uint64,
    )


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
    rank = np.stack((end == start, entries.binding == _WEAK, entries.binding != _GLOBAL))
    underscores, length = _name_measures(entries.name, strings, start, _tied(start, rank))
    order = np.lexsort((
        np.arange(count), -length, underscores, rank[2], rank[1], rank[0], start,
    ))
    entries = entries.take(order)
    first = np.ones(count, np.bool_)
    first[1:] = entries.start[1:] != entries.start[:-1]
    return entries.take(first)


def _tied(start: U64, rank: Bool) -> Bool:
    """Which symbols share start and rank [k, n] with another, so that their names decide.

    start is sorted. Not exact where three share a start: too many is no harm.
    """
    tied = np.zeros(len(start), np.bool_)
    for distance in range(1, min(4, len(start))):
        same = start[distance:] == start[:-distance]
        same &= (rank[:, distance:] == rank[:, :-distance]).all(axis=0)
        tied[distance:] |= same
        tied[: len(tied) - distance] |= same
    return tied


def _name_measures(
    name: I64, strings: bytes | bytearray, start: U64, tied: Bool,
) -> tuple[I64, I64]:
    """Leading underscores and length in bytes of the readable form of each tied name, 0 of the
    others, and of names that only say which variant of a constructor or destructor they are."""
    underscores = np.zeros(len(name), np.int64)
    length = np.zeros(len(name), np.int64)
    rows = np.flatnonzero(tied)
    cuts = np.flatnonzero(start[rows][1:] != start[rows][:-1]) + 1
    for group in np.split(rows, cuts):
        raws = [
            bytes(strings[at : strings.index(b"\0", at)]) for at in name[group].tolist()
        ]
        if len({_VARIANT.sub(rb"\1", raw) for raw in raws}) == 1:
            continue
        for row, raw in zip(group.tolist(), raws, strict=True):
            text = demangle(raw.decode("utf-8", "replace")) if raw[:1] == b"_" else None
            size = len(raw) if text is None else len(text)
            bare = raw.lstrip(b"_") if text is None else text.lstrip("_")
            underscores[row], length[row] = size - len(bare), size
    return underscores, length
