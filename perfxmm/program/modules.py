"""Kernel modules: what perf calls them, and where their code lies.

perf (Linux 6.1, tools/perf/util/dso.c) names the module of `/lib/modules/.../aes-x86_64.ko.xz`
"[aes_x86_64]", as /proc/kallsyms does.
"""

from __future__ import annotations

import re

_FILE = re.compile(r"(?:.*/)?([^/]+)\.ko(?:\.(?:gz|xz|lzma|zst|bz2|debug))?$", re.DOTALL)
# In brackets, but no modules.
_OTHERS = ("[kernel.", "[guest.kernel.", "[vdso", "[vsyscall]")


def name_of(path: str) -> str:
    """The module's name in brackets, "" where the path is none of a module."""
    if path.startswith("[") and path.endswith("]"):
        return "" if path.startswith(_OTHERS) else path
    found = _FILE.match(path)
    return f"[{found[1].replace('-', '_')}]" if found else ""
