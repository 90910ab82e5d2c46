"""How files leave the guest: frames written to I/O port 0xe9, found again in what the emulator
wrote for that port (guest/send.c writes them)."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

MAGIC = b"PXVM1 "
END = "END"
HEADER = re.compile(rb"PXVM1 (\S{1,200}) (\d{1,12})\n")


@dataclass(frozen=True)
class Received:
    """files: by name, the last of a name wins. ended: the guest said END. damaged: names of frames
    that were cut off or whose CRC-32 differs; they are not among files."""

    files: dict[str, bytes]
    ended: bool
    damaged: tuple[str, ...]


def unframe(stream: bytes) -> Received:
    """The files of a stream; whatever stands between frames (an emulator's greeting) is skipped."""
    files: dict[str, bytes] = {}
    damaged: list[str] = []
    ended = False
    at = stream.find(MAGIC)
    while at >= 0:
        found = HEADER.match(stream, at)
        if not found:
            at = stream.find(MAGIC, at + 1)
            continue
        name, size = found[1].decode("utf-8", "replace"), int(found[2])
        body = stream[found.end():found.end() + size]
        check = stream[found.end() + size:found.end() + size + 9]
        if name == END and size == 0:
            ended = True
        elif len(body) == size and check == b"%08x\n" % zlib.crc32(body):
            files[name] = body
        else:
            damaged.append(name)
            at = stream.find(MAGIC, found.end())
            continue
        at = stream.find(MAGIC, found.end() + size)
    return Received(files, ended, tuple(damaged))
