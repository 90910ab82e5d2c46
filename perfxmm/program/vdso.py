"""The vDSO: a small ELF file that the kernel maps into every process and that no disk holds."""

from __future__ import annotations

import struct

from perfxmm.errors import DamagedInput
from perfxmm.program.elf import ElfImage, parse_elf

AT_SYSINFO_EHDR = 33  # <linux/auxvec.h>, Linux 6.1
_LARGEST_BYTES = 1 << 20


def read_own() -> ElfImage | None:
    """The vDSO of this very process, so of the running kernel. None where it cannot be read."""
    try:
        with open("/proc/self/auxv", "rb") as auxv:
            entries = dict(struct.iter_unpack("@LL", auxv.read()))
        base = entries.get(AT_SYSINFO_EHDR)
        size = _size_of_mapping(base) if base else 0
        if not base or not 0 < size <= _LARGEST_BYTES:
            return None
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(base)
            data = memory.read(size)
        return parse_elf(memoryview(data), "[vdso]")
    except (OSError, struct.error, DamagedInput):
        return None


def _size_of_mapping(base: int) -> int:
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, end = line.split(None, 1)[0].partition("-")
            if int(start, 16) == base:
                return int(end, 16) - base
    return 0
