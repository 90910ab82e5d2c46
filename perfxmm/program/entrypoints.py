"""Where code of a binary may be entered by a jump or call from anywhere else in it.

Straight-line reasoning is only as good as the knowledge that nothing jumps into the middle. So
this errs on the safe side: whatever *could* be read as a reference is one, at every byte position,
whether or not an instruction begins there. Short jumps reach 127 bytes and are `flow`'s business.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.program.elf import PF_X, ElfImage

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

PF_W = 2
# SDM volume 2, opcode maps: CALL and JMP rel32; second byte of Jcc rel32; XBEGIN rel32; LEA.
_CALL, _JMP, _TWO_BYTE, _XBEGIN, _LEA = 0xE8, 0xE9, 0x0F, (0xC7, 0xF8), 0x8D
_PIECE_BYTES = 1 << 24
# More code than this in one file is not looked at: its scan would take seconds.
MOST_CODE_BYTES = 1 << 28
_RELA_BYTES = 24


def code_segments(image: ElfImage) -> list[tuple[int, bytes | memoryview]]:
    """(address before relocation, bytes) of each executable PT_LOAD, as far as the file has it."""
    found: list[tuple[int, bytes | memoryview]] = []
    for segment in image.segments:
        if segment.flags & PF_X:
            end = min(segment.offset + segment.file_bytes, len(image.data))
            found.append((segment.vaddr, image.data[segment.offset : max(end, segment.offset)]))
    return found


def entry_points(image: ElfImage) -> I64 | None:
    """Addresses (before relocation) in executable segments that something refers to, sorted;
    some of them more than once.

    Targets of JMP, Jcc, CALL, XBEGIN with 32-bit displacements, addresses that LEA makes, that
    relocations have, or that stand in the code and data of a file with fixed addresses. None where
    code is not as it is in the file (text relocations, writable code), where no section headers
    say what is relocated, or where it is too much.
    """
    segments = code_segments(image)
    if not image.sections or sum(len(data) for _, data in segments) > MOST_CODE_BYTES:
        return None
    if any(s.flags & PF_X and s.flags & PF_W for s in image.segments):
        return None
    ranges = [(vaddr, vaddr + len(data)) for vaddr, data in segments]
    relocated = _relocated(image, ranges)
    if relocated is None:
        return None
    parts = [relocated]
    for vaddr, data in segments:
        whole = np.frombuffer(data, np.uint8)
        for start in range(0, len(whole), _PIECE_BYTES):
            # The overlap lets references that begin at a piece's end be read whole.
            piece = whole[start : start + _PIECE_BYTES + 8]
            parts += [_within(found, ranges) for found in _references(piece, vaddr + start)]
            if image.kind == "ET_EXEC":
                parts += [_within(found, ranges) for found in _immediates(piece)]
    return np.sort(np.concatenate(parts))


def _references(code: U8, vaddr: int) -> list[I64]:
    """Where each possible reference in `code` points, by kind."""
    first = code[:-5] if len(code) > 5 else code[:0]
    found = [_targets(code, np.flatnonzero((first == _CALL) | (first == _JMP)) + 1, vaddr)]
    # Of two opcode bytes: Jcc, XBEGIN.
    second = code[1:-4] if len(code) > 5 else code[:0]
    jcc = (first == _TWO_BYTE) & (second & 0xF0 == 0x80)
    xbegin = (first == _XBEGIN[0]) & (second == _XBEGIN[1])
    # LEA with a ModRM of mod 00, r/m 101: RIP-relative.
    lea = (first == _LEA) & (second & 0xC7 == 0x05)
    found.append(_targets(code, np.flatnonzero(jcc | xbegin | lea) + 2, vaddr))
    return found


def _immediates(code: U8) -> list[I64]:
    """Every four bytes as an address: code that is loaded where it was linked to has them so."""
    found = []
    for start in range(4):
        part = code[start : start + (len(code) - start) // 4 * 4]
        found.append(np.frombuffer(part.tobytes(), "<u4").astype(np.int64))
    return found


def _targets(code: U8, at: I64, vaddr: int) -> I64:
    """Displacements of 32 bits at positions `at`, as addresses: they count from their end."""
    at = at[at + 4 <= len(code)]
    raw = (
        code[at].astype(np.uint32) | code[at + 1].astype(np.uint32) << 8
        | code[at + 2].astype(np.uint32) << 16 | code[at + 3].astype(np.uint32) << 24
    )  # fmt: skip
    return at + (vaddr + 4) + raw.astype(np.int32).astype(np.int64)


def _within(addresses: I64, ranges: list[tuple[int, int]]) -> I64:
    inside = np.zeros(len(addresses), np.bool_)
    for low, high in ranges:
        inside |= (addresses >= low) & (addresses < high)
    return addresses[inside]


def _relocations(image: ElfImage) -> npt.NDArray[np.void]:
    """Elf64_Rela of all sections of that kind, <elf.h>."""
    dtype = np.dtype([("where", "<u8"), ("info", "<u8"), ("addend", "<i8")])
    parts = [np.zeros(0, dtype)]
    for section in image.sections:
        if section.kind == "SHT_RELA" and section.offset + section.bytes <= len(image.data):
            content = image.data[section.offset : section.offset + section.bytes]
            parts.append(np.frombuffer(content[: len(content) // _RELA_BYTES * _RELA_BYTES], dtype))
    return np.concatenate(parts)


def relocation_places(image: ElfImage) -> I64:
    """Addresses whose bytes are changed when the file is loaded, sorted. RELR, which relocates
    nothing but aligned words of writable data, is not among them."""
    return np.sort(_relocations(image)["where"].astype(np.int64))


def _relocated(image: ElfImage, ranges: list[tuple[int, int]]) -> I64 | None:
    """Addends of relocations that lie in code; None where a relocation changes code."""
    if any(section.kind == "SHT_REL" for section in image.sections):
        return None  # x86-64 does not use them: not a file that is understood
    table = _relocations(image)
    if len(_within(table["where"].astype(np.int64), ranges)):
        return None
    addends = _within(table["addend"].astype(np.int64), ranges)
    return np.concatenate([addends, _within(_data_words(image), ranges)])


def _data_words(image: ElfImage) -> I64:
    """Aligned words of data, where addresses stand in it in full without a relocation each: files
    that are loaded where they were linked to, and those that use RELR."""
    fixed = image.kind == "ET_EXEC"
    if not fixed and image.section(".relr.dyn") is None:
        return np.zeros(0, np.int64)
    parts = [np.zeros(0, np.int64)]
    for segment in image.segments:
        if segment.flags & PF_W or (fixed and not segment.flags & PF_X):
            end = min(segment.offset + segment.file_bytes, len(image.data))
            start = segment.offset + -segment.vaddr % 8
            data = image.data[start:end]
            parts.append(np.frombuffer(data[: len(data) // 8 * 8], "<i8").astype(np.int64))
    return np.concatenate(parts)
