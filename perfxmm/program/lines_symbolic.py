"""Runs as a program of its own: source lines through the symbolic package, a line per request.

Request, a line of JSON: {"path": file with debug information, "key": of this state of the file,
"base": its lowest PT_LOAD address, "addresses": [virtual addresses]}. Answer, a line of JSON:
{"frames": [per address [[function, file, line], ...], innermost first]} or {"error": why}.

It imports nothing of perfxmm: it is started by its file name, in a process that may be killed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import OrderedDict
from typing import Any

# Look-up tables of so many files are kept; the one of a file with 60 MB of debug information
# takes some 60 MB of memory.
_KEPT = 4


def answer(request: dict[str, Any], tables: OrderedDict[tuple[str, str], Any]) -> list[object]:
    """Frames of each address. Raises whatever symbolic raises."""
    place = request["path"], request["key"]
    table = tables.get(place)
    if table is None:
        debuginfo = importlib.import_module("symbolic.debuginfo")
        # An archive of one object, as every ELF file is to symbolic.
        table = next(debuginfo.Archive.open(os.fsencode(place[0])).iter_objects()).make_symcache()
        tables[place] = table
        while len(tables) > _KEPT:
            tables.popitem(last=False)
    tables.move_to_end(place)
    base = request["base"]
    return [
        [[frame.symbol, frame.full_path or "", frame.line] for frame in table.lookup(each - base)]
        for each in request["addresses"]
    ]


def main() -> None:
    tables: OrderedDict[tuple[str, str], Any] = OrderedDict()
    for line in sys.stdin:
        try:
            reply: dict[str, object] = {"frames": answer(json.loads(line), tables)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    main()
