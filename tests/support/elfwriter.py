"""Writes small ELF files, also ones that no linker would make."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOTYPE, OBJECT, FUNC, SECTION, FILE, TLS, IFUNC = 0, 1, 2, 3, 4, 6, 10
LOCAL, GLOBAL, WEAK = 0, 1, 2
HIDDEN = 2
UNDEF, ABS = 0, 0xFFF1
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
_SHT = {"null": 0, "progbits": 1, "symtab": 2, "strtab": 3, "note": 7, "rela": 4, "nobits": 8,
        "rel": 9, "dynsym": 11}
_MACHINE = {32: 3, 64: 62}  # EM_386, EM_X86_64


@dataclass(frozen=True)
class Load:
    """A PT_LOAD whose bytes are `data`, at file offset `offset` and address `vaddr`."""

    offset: int
    vaddr: int
    data: bytes
    flags: int = 5
    extra_memory_bytes: int = 0


@dataclass(frozen=True)
class Text:
    """A section over bytes that a Load put there. `nobits`: it has a size but no bytes."""

    name: str
    offset: int
    vaddr: int
    bytes: int
    flags: int = 6  # SHF_ALLOC | SHF_EXECINSTR
    nobits: bool = False
    entry_bytes: int = 0


@dataclass(frozen=True)
class Sym:
    """A symbol; `section` is an index into the Texts from 1, or UNDEF or ABS."""

    name: str
    value: int
    size: int = 0
    kind: int = FUNC
    binding: int = GLOBAL
    section: int = 1
    visibility: int = 0


@dataclass(frozen=True)
class Raw:
    """A section of its own bytes, at the end of the file. `link` is the name of another section,
    `vaddr` its address if it has one."""

    name: str
    data: bytes
    kind: str = "progbits"
    flags: int = 0
    link: str = ""
    entry_bytes: int = 0
    vaddr: int = 0


def elf(
    *, loads: Sequence[Load], texts: Sequence[Text], symtab: Sequence[Sym] | None = None,
    dynsym: Sequence[Sym] | None = None, build_id: bytes | None = None, bits: int = 64,
    kind: int = ET_DYN, big_endian: bool = False, raws: Sequence[Raw] = (),
) -> bytes:
    """The file's bytes: header, program headers, loads at their offsets, then the rest."""
    order = ">" if big_endian else "<"
    header_bytes, phent, shent = (64, 56, 64) if bits == 64 else (52, 32, 40)
    body = bytearray(header_bytes)
    for load in loads:
        body += bytes(max(0, load.offset + len(load.data) - len(body)))
        body[load.offset : load.offset + len(load.data)] = load.data

    def append(data: bytes) -> int:
        body.extend(bytes(-len(body) % 16))
        at = len(body)
        body.extend(data)
        return at

    sections: list[tuple[str, int, int, int, int, int, int, int]] = [("", 0, 0, 0, 0, 0, 0, 0)]
    for text in texts:
        sections.append((
            text.name, _SHT["nobits" if text.nobits else "progbits"], text.flags, text.vaddr,
            text.offset, text.bytes, 0, text.entry_bytes,
        ))
    note_at = note_bytes = 0
    if build_id is not None:
        note = struct.pack(f"{order}III4s", 4, len(build_id), 3, b"GNU\0") + build_id
        note += bytes(-len(note) % 4)
        note_at, note_bytes = append(note), len(note)
        sections.append((".note.gnu.build-id", _SHT["note"], 2, 0, note_at, note_bytes, 0, 0))
    for name, table in (("symtab", symtab), ("dynsym", dynsym)):
        if table is None:
            continue
        strings = bytearray(b"\0")
        data = bytes(24 if bits == 64 else 16)
        for sym in table:
            at = 0
            if sym.name:
                at = len(strings)
                strings += sym.name.encode("latin-1") + b"\0"
            info = sym.binding << 4 | sym.kind
            if bits == 64:
                data += struct.pack(
                    f"{order}IBBHQQ", at, info, sym.visibility, sym.section, sym.value, sym.size)
            else:
                data += struct.pack(
                    f"{order}IIIBBH", at, sym.value, sym.size, info, sym.visibility, sym.section)
        link = len(sections) + 1
        sections.append((f".{name}", _SHT[name], 0, 0, append(data), len(data), link,
                         24 if bits == 64 else 16))
        sections.append((".strtab", _SHT["strtab"], 0, 0, append(bytes(strings)), len(strings),
                         0, 0))
    for raw in raws:
        link = next((n for n, section in enumerate(sections) if section[0] == raw.link), 0)
        sections.append((raw.name, _SHT[raw.kind], raw.flags, raw.vaddr, append(raw.data),
                         len(raw.data), link if raw.link else 0, raw.entry_bytes))
    names = bytearray(b"\0")
    name_at = []
    for section in [*sections, (".shstrtab",)]:
        name_at.append(len(names) if section[0] else 0)
        if section[0]:
            names += section[0].encode() + b"\0"
    sections.append((".shstrtab", _SHT["strtab"], 0, 0, append(bytes(names)), len(names), 0, 0))

    word = "Q" if bits == 64 else "I"
    headers = b"".join(
        struct.pack(
            f"{order}II{word}{word}{word}{word}II{word}{word}", at, sh_type, flags, vaddr, offset,
            size, link, 0, 1, entry,
        )
        for at, (_, sh_type, flags, vaddr, offset, size, link, entry) in zip(
            name_at, sections, strict=True)
    )
    sections_at = append(headers)

    segments = [
        (1, load.flags, load.offset, load.vaddr, len(load.data),
         len(load.data) + load.extra_memory_bytes, 0x1000)
        for load in loads
    ]
    if build_id is not None:
        segments.append((4, 4, note_at, 0, note_bytes, note_bytes, 4))
    program = b""
    for p_type, flags, offset, vaddr, file_bytes, memory_bytes, align in segments:
        if bits == 64:
            program += struct.pack(f"{order}IIQQQQQQ", p_type, flags, offset, vaddr, vaddr,
                                   file_bytes, memory_bytes, align)
        else:
            program += struct.pack(f"{order}IIIIIIII", p_type, offset, vaddr, vaddr, file_bytes,
                                   memory_bytes, flags, align)
    program_at = append(program)
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 2 if big_endian else 1, 1)) + bytes(9)
    body[:header_bytes] = ident + struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH", kind, _MACHINE[bits], 1, 0, program_at, sections_at,
        0, header_bytes, phent, len(segments), shent, len(sections), len(sections) - 1,
    )
    return bytes(body)


def simple(symbols: Sequence[Sym], **options: object) -> bytes:
    """A position-independent file: .text of 0x1000 bytes, offset 0x1000, address 0x2000."""
    arguments: dict[str, object] = {
        "loads": [Load(0x1000, 0x2000, b"\x90" * 0x1000)],
        "texts": [Text(".text", 0x1000, 0x2000, 0x1000)],
        "symtab": symbols,
        **options,
    }
    return elf(**arguments)  # type: ignore[arg-type]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
