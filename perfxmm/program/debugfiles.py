"""Finds the symbols that a distribution took out of a binary.

They are in a file of their own, found by build id or by the name in `.gnu_debuglink`, or packed
into the binary itself (`.gnu_debugdata`). A file that is not shown to be of the same build, by its
build id or by the checksum in the link, is not used.

Directories: "Separate Debug Files" of the manual of GDB 13, and those that perf (Linux 6.1,
tools/perf/util/dso.c) looks into. The packed table: "MiniDebugInfo" of the same manual.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from perfxmm.errors import DamagedInput
from perfxmm.program import buildid
from perfxmm.program.elf import ElfImage, open_elf, parse_elf
from perfxmm.program.places import Places

_GLOBAL = Path("usr/lib/debug")
# A packed table is a few hundred KiB for the largest libraries there are.
MOST_UNPACKED_BYTES = 64 << 20
_CRC_BYTES = 4


def find(image: ElfImage, places: Places, recorded_path: str = "") -> ElfImage | None:
    """The file that holds the symbol table of a stripped binary; None where there is none, or
    where the binary has its own. recorded_path: see `split_off`."""
    if image.section_of_kind("SHT_SYMTAB") is not None:
        return None
    for debug in split_off(image, places, recorded_path):
        if debug.section_of_kind("SHT_SYMTAB") is not None:
            return debug
    return unpacked(image)


def split_off(
    image: ElfImage, places: Places, recorded_path: str = "",
) -> Iterator[ElfImage]:
    """Files that were split off a binary, each known to belong to it, the likeliest first.

    recorded_path: where the binary lay, without symfs; "": where it was found.
    """
    if not recorded_path:
        inside = Path(image.path).is_relative_to(places.symfs)
        recorded_path = str(Path(image.path).relative_to(places.symfs)) if inside else image.path
    linked, checksum = link_of(image)
    for path, by_link in _candidates(image, recorded_path, linked, places):
        try:
            debug = open_elf(path)
        except DamagedInput:
            continue
        if image.build_id is not None and debug.build_id is not None:
            if image.build_id == debug.build_id:
                yield debug
        elif by_link and zlib.crc32(debug.data) == checksum:
            yield debug


def link_of(image: ElfImage) -> tuple[str, int]:
    """File name and checksum in .gnu_debuglink; ("", 0) without it.

    The name ends with a zero byte, is padded to 4 bytes, and the CRC-32 follows.
    """
    section = image.section(".gnu_debuglink")
    if section is None:
        return "", 0
    try:
        content = bytes(image.content(section))
    except DamagedInput:
        return "", 0
    name, zero, _ = content.partition(b"\0")
    at = (len(name) + 1 + 3) & ~3
    if not zero or not name or b"/" in name or at + _CRC_BYTES > len(content):
        return "", 0
    order = "big" if image.big_endian else "little"
    return (
        name.decode("utf-8", "surrogateescape"),
        int.from_bytes(content[at : at + _CRC_BYTES], order),  # type: ignore[arg-type]
    )


def unpacked(image: ElfImage) -> ElfImage | None:
    """The ELF file in .gnu_debugdata (xz); None where there is none or it is damaged."""
    section = image.section(".gnu_debugdata")
    if section is None:
        return None
    try:
        reader = lzma.LZMADecompressor(memlimit=4 * MOST_UNPACKED_BYTES)
        data = reader.decompress(bytes(image.content(section)), MOST_UNPACKED_BYTES)
        if not reader.eof:
            return None
        debug = parse_elf(memoryview(data), f"{image.path}(.gnu_debugdata)")
    except (DamagedInput, lzma.LZMAError, MemoryError, EOFError):
        return None
    return debug if debug.section_of_kind("SHT_SYMTAB") is not None else None


def _candidates(
    image: ElfImage, recorded_path: str, linked: str, places: Places,
) -> Iterator[tuple[Path, bool]]:
    """Files that may hold the symbols, and whether .gnu_debuglink names them."""
    symfs = places.symfs
    if image.build_id is not None:
        name = image.build_id.hex()
        yield symfs / _GLOBAL / ".build-id" / name[:2] / f"{name[2:]}.debug", False
        for archive in places.archives:
            for path in buildid.archive_paths(archive, image.build_id):
                yield path.with_name("debug") if path.name in ("elf", "vdso") else path, False
    where = PurePosixPath(recorded_path.lstrip("/"))
    if linked:
        yield symfs / where.parent / linked, True
        yield symfs / where.parent / ".debug" / linked, True
        yield symfs / _GLOBAL / where.parent / linked, True
        # A system whose /lib is /usr/lib may have kept its debug files under either name.
        if where.parts[:1] == ("usr",):
            yield symfs / _GLOBAL / Path(*where.parts[1:]).parent / linked, True
        elif where.parts[:1] in (("lib",), ("lib64",), ("bin",), ("sbin",)):
            yield symfs / _GLOBAL / "usr" / where.parent / linked, True
    yield symfs / _GLOBAL / f"{where}.debug", False
    yield symfs / _GLOBAL / where, False
