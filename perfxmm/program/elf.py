"""One ELF file as data: segments, section headers, notes, bytes. Nothing in it is trusted.

Headers are read by pyelftools. Symbol tables are not: it makes a Python object of every symbol,
and a large library has a hundred thousand of them (see `symbols`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.program import buildid
from perfxmm.program.files import open_regular, why_not

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

U64 = npt.NDArray[np.uint64]

SHF_ALLOC = 0x2
SHT_NOBITS = 8
PF_X = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD program header. All numbers in bytes; `flags` has PF_X (1), PF_W (2), PF_R (4)."""

    offset: int
    vaddr: int
    file_bytes: int
    memory_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header. `kind` is the name pyelftools gives sh_type, or the number as text."""

    name: str
    kind: str
    flags: int
    vaddr: int
    offset: int
    bytes: int
    link: int
    info: int
    entry_bytes: int
    align: int = 0


@dataclass(frozen=True, slots=True)
class ElfImage:
    """An ELF file that has been read so far as its headers.

    path: for messages only. kind: "ET_EXEC", "ET_DYN", ... machine: "EM_X86_64", ...
    bits: 32 or 64. build_id: None where the file has none.
    data: the whole file, mapped read-only; pages come in as they are touched.
    """

    path: str
    kind: str
    machine: str
    bits: int
    big_endian: bool
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    build_id: bytes | None
    data: memoryview

    def section(self, name: str) -> Section | None:
        """The first section of that name, None where there is none."""
        return next((s for s in self.sections if s.name == name), None)

    def section_of_kind(self, kind: str) -> Section | None:
        """The first section of that sh_type, None where there is none."""
        return next((s for s in self.sections if s.kind == kind), None)

    def content(self, section: Section) -> memoryview:
        """Bytes of a section; empty for NOBITS. DamagedInput if they lie outside of the file."""
        if section.kind == "SHT_NOBITS":
            return self.data[:0]
        if section.offset + section.bytes > len(self.data):
            raise DamagedInput(
                "section lies outside of the file", file=self.path, offset=section.offset,
                field=section.name, wanted_bytes=section.bytes,
                available_bytes=max(0, len(self.data) - section.offset),
            )
        return self.data[section.offset : section.offset + section.bytes]

    def code_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes of code at a file offset, cut at the end of its segment.

        Empty where no executable PT_LOAD has that offset.
        """
        for segment in self.segments:
            end = min(segment.offset + segment.file_bytes, len(self.data))
            if segment.flags & PF_X and segment.offset <= offset < end:
                return bytes(self.data[offset : min(end, offset + count)])
        return b""

    def vaddr_of(self, offset: int) -> int | None:
        """Virtual address (before relocation) of a file offset, None outside of all PT_LOADs."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.file_bytes:
                return offset - segment.offset + segment.vaddr
        return None

    def offsets_of(self, vaddr: U64) -> tuple[U64, npt.NDArray[np.bool_]]:
        """File offsets of virtual addresses, and where there is one.

        Addresses that only exist in memory (.bss) have no file offset.
        """
        offsets = np.zeros(len(vaddr), np.uint64)
        known = np.zeros(len(vaddr), np.bool_)
        for segment in self.segments:
            # uint64 arithmetic wraps, so one comparison covers both ends.
            relative = vaddr - np.uint64(segment.vaddr)
            inside = (relative < np.uint64(segment.file_bytes)) & ~known
            offsets[inside] = relative[inside] + np.uint64(segment.offset)
            known |= inside
        return offsets, known


def open_elf(path: Path) -> ElfImage:
    """Reads the headers of a file. DamagedInput if it is no ELF file or cannot be read."""
    try:
        opened = open_regular(path)
    except OSError as error:
        raise DamagedInput(
            "cannot open the binary", file=str(path), why=why_not(error)) from error
    if not len(opened.data):
        raise DamagedInput("not a binary", file=str(path), why="not a file with content in it")
    return parse_elf(opened.data, str(path))


def parse_elf(data: memoryview, path: str) -> ElfImage:
    """Reads the headers of an ELF file in memory. DamagedInput for everything that is none."""
    try:
        return _parse(data, path)
    except DamagedInput:
        raise
    # pyelftools answers damaged files with whatever its parsers stumble over: ELFError,
    # construct errors, UnicodeDecodeError, AssertionError, KeyError, OverflowError.
    except Exception as error:
        raise DamagedInput(
            "not a readable ELF file", file=path, why=f"{type(error).__name__}: {error}",
        ) from error


class _Stream:
    """File methods over a memoryview: io.BytesIO would copy the whole file."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        end = len(self._data) if count < 0 else self._position + count
        chunk = bytes(self._data[self._position : end])
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def _parse(data: memoryview, path: str) -> ElfImage:
    # Thirty milliseconds of imports that a recording without any readable binary does not need.
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(cast(IO[bytes], _Stream(data)))
    header = elf.header
    if elf.num_segments() * header["e_phentsize"] > len(data):
        raise DamagedInput("more program headers than bytes", file=path, field="e_phnum")
    segments = []
    notes = []
    for index in range(elf.num_segments()):
        entry = elf._get_segment_header(index)
        if entry["p_type"] == "PT_LOAD":
            segments.append(Segment(
                entry["p_offset"], entry["p_vaddr"], entry["p_filesz"], entry["p_memsz"],
                entry["p_flags"],
            ))
        elif entry["p_type"] == "PT_NOTE":
            notes.append((entry["p_offset"], entry["p_filesz"]))
    sections = _sections(elf, data, path)
    notes += [(s.offset, s.bytes) for s in sections if s.kind == "SHT_NOTE"]
    found = None
    for offset, count in notes:
        found = buildid.from_notes(data[offset : offset + count], big_endian=not elf.little_endian)
        if found:
            break
    return ElfImage(
        path, str(header["e_type"]), str(header["e_machine"]), int(elf.elfclass),
        not elf.little_endian, tuple(segments), sections, found, data,
    )


def _sections(elf: ELFFile, data: memoryview, path: str) -> tuple[Section, ...]:
    """Section headers with names. Empty where the file was stripped of them."""
    header = elf.header
    if header["e_shoff"] == 0:
        return ()
    count = elf.num_sections()
    if header["e_shoff"] + count * header["e_shentsize"] > len(data):
        raise DamagedInput(
            "section headers lie outside of the file", file=path, offset=header["e_shoff"],
            field="e_shnum", wanted_bytes=count * header["e_shentsize"],
            available_bytes=max(0, len(data) - header["e_shoff"]),
        )
    raw = [elf._get_section_header(index) for index in range(count)]
    names_index = elf.get_shstrndx()
    names = b""
    if names_index < len(raw):
        table = raw[names_index]
        names = bytes(data[table["sh_offset"] : table["sh_offset"] + table["sh_size"]])
    return tuple(
        Section(
            _string(names, entry["sh_name"]), str(entry["sh_type"]), entry["sh_flags"],
            entry["sh_addr"], entry["sh_offset"], entry["sh_size"], entry["sh_link"],
            entry["sh_info"], entry["sh_entsize"], entry["sh_addralign"],
        )
        for entry in raw
    )


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    return table[offset : end if end >= 0 else len(table)].decode("utf-8", "replace")


def symbol_dtype(bits: int, big_endian: bool) -> np.dtype[np.void]:
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
