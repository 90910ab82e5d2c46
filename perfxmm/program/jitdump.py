"""Reads a jitdump: what code a program made, where, and when.

Layout: tools/perf/Documentation/jitdump-specification.txt, Linux 6.1, version 1. A program marks
the file it writes by mapping it executable, so that its path is in the recording. Nothing in it is
trusted: records that contradict themselves end the reading, and what came before is kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = 0x4A695444  # "JiTD" in the byte order of the writer
VERSION = 1
_HEADER = "IIIIIIQQ"  # magic, version, total_size, elf_mach, pad, pid, timestamp, flags
_RECORD = "IIQ"  # id, total_size, timestamp
_LOAD = "IIQQQQ"  # pid, tid, vma, code_addr, code_size, code_index
_MOVE = "IIQQQQQ"  # pid, tid, vma, old_code_addr, new_code_addr, code_size, code_index
CODE_LOAD, CODE_MOVE, CODE_CLOSE = 0, 1, 3
FLAG_ARCH_TIMESTAMP = 1

MOST_CODES = 1 << 18
MOST_NAME_BYTES = 4096
ADDRESS_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Code:
    """One function as it lay from `time_ns` on. name: index into JitDump.names."""

    time_ns: int
    start: int
    end: int
    name: int


@dataclass(slots=True)
class JitDump:
    """codes: in file order. closed_ns: when the program said it was done, None where it did not.

    time_ns are of CLOCK_MONOTONIC, or of the CPU's counter where `arch_timestamps`.
    problem: why reading stopped early, "" where it did not.
    """

    pid: int
    arch_timestamps: bool
    codes: list[Code] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    closed_ns: int | None = None
    problem: str = ""


def parse(data: bytes | memoryview) -> JitDump | None:
    """The dump in `data`, None where it is none."""
    order = next(
        (o for o in "<>" if len(data) >= struct.calcsize("=" + _HEADER)
         and struct.unpack_from(o + "I", data)[0] == MAGIC), "",
    )
    if not order:
        return None
    _, version, header_bytes, _, _, pid, _, flags = struct.unpack_from(order + _HEADER, data)
    if version != VERSION or header_bytes < struct.calcsize("=" + _HEADER):
        return None
    dump = JitDump(pid, bool(flags & FLAG_ARCH_TIMESTAMP))
    interned: dict[str, int] = {}
    by_index: dict[int, int] = {}
    at = header_bytes
    record_bytes = struct.calcsize("=" + _RECORD)
    while at + record_bytes <= len(data):
        kind, size, time_ns = struct.unpack_from(order + _RECORD, data, at)
        if size < record_bytes or at + size > len(data):
            # The last record of a program that is still writing is often not whole.
            dump.problem = f"record at byte {at} does not fit into the file"
            break
        if len(dump.codes) >= MOST_CODES:
            dump.problem = f"more than {MOST_CODES} functions; the rest was not read"
            break
        body = data[at + record_bytes : at + size]
        if kind == CODE_LOAD:
            _load(dump, order, body, time_ns, interned, by_index)
        elif kind == CODE_MOVE and len(body) >= struct.calcsize("=" + _MOVE):
            fields = struct.unpack_from(order + _MOVE, body)
            _add(dump, time_ns, fields[4], fields[5], by_index.get(fields[6], -1))
        elif kind == CODE_CLOSE:
            dump.closed_ns = time_ns
        at += size
    return dump


def _load(
    dump: JitDump, order: str, body: bytes | memoryview, time_ns: int, interned: dict[str, int],
    by_index: dict[int, int],
) -> None:
    fixed = struct.calcsize("=" + _LOAD)
    if len(body) <= fixed:
        return
    _, _, _, address, size, number = struct.unpack_from(order + _LOAD, body)
    text = bytes(body[fixed : fixed + MOST_NAME_BYTES])
    name = text[: text.find(b"\0")] if b"\0" in text else text
    label = name.decode("utf-8", "backslashreplace")
    found = interned.setdefault(label, len(dump.names))
    if found == len(dump.names):
        dump.names.append(label)
    by_index[number] = found
    _add(dump, time_ns, address, size, found)


def _add(dump: JitDump, time_ns: int, start: int, size: int, name: int) -> None:
    if name >= 0 and size > 0 and start + size < ADDRESS_END:
        dump.codes.append(Code(time_ns, start, start + size, name))
