"""Kernel symbols from /proc/kallsyms, where it shows addresses to this user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perfxmm.program.symbols import EMPTY, SymbolTable, from_arrays

# Type letters that perf keeps (Linux 6.1, tools/perf/util/symbol.c): text, weak, data, bss.
_KINDS = frozenset(b"TtWwDdBb")
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2


def read(root: Path = Path("/")) -> tuple[SymbolTable, str]:
    """Symbols under `root`/proc/kallsyms by address, and why there are none ("" if there are).

    A module's symbol keeps its plain name; the module is known from the mapping.
    """
    path = root / "proc/kallsyms"
    try:
        text = path.read_bytes()
    except OSError as error:
        return EMPTY, f"{path} cannot be read ({error.strerror})"
    starts: list[int] = []
    bindings: list[int] = []
    names: list[int] = []
    strings = bytearray(b"\0")
    for line in text.splitlines():
        fields = line.split(None, 3)
        if len(fields) < 3 or len(fields[1]) != 1 or fields[1][0] not in _KINDS:
            continue
        try:
            address = int(fields[0], 16)
        except ValueError:
            continue
        if not 0 < address < 1 << 64:
            continue
        starts.append(address)
        letter = fields[1]
        bindings.append(
            _WEAK if letter in b"wW" else _GLOBAL if letter.isupper() else _LOCAL
        )
        names.append(len(strings))
        strings += fields[2] + b"\0"
    if not starts:
        return EMPTY, (
            f"{path} shows no addresses; kernel.kptr_restrict=0 or CAP_SYSLOG would show them"
        )
    table = from_arrays(
        np.array(starts, np.uint64), np.array(bindings, np.uint8), np.array(names, np.int64),
        bytes(strings),
    )
    return table, ""


def address_of(table: SymbolTable, name: str) -> int | None:
    """Address of a symbol by name, None where the table lacks it.

    Several names may share one address and only one of them is kept, so a lookup of `_text`
    may fail although /proc/kallsyms has it.
    """
    needle = b"\0" + name.encode() + b"\0"
    at = table.strings.find(needle)
    if at < 0:
        return None
    found = np.flatnonzero(table.names == at + 1)
    return int(table.starts[found[0]]) if len(found) else None
