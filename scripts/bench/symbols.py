"""Names for 100,000 distinct addresses in 50 libraries of this machine, nothing cached before.

    python scripts/bench/symbols.py [--addresses N] [--libraries N] [--json FILE]

The libraries are the largest that lie around; addresses are spread evenly over their code. What
is measured is a Timeline's first `resolve`: opening, build ids, symbol tables, demangling.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Row, parser, report

from perfxmm.errors import DamagedInput
from perfxmm.program.binaries import Places
from perfxmm.program.elf import PF_X, Segment, open_elf
from perfxmm.program.timeline import CPUMODE_USER, Timeline

COLD_AT_MOST_S = 5.0
# Enough for as many distinct addresses as each library gets.
LEAST_CODE_BYTES = 1 << 16
PID = 1000
BASE, STRIDE = 1 << 40, 1 << 32


def libraries(count: int) -> list[tuple[Path, Segment, bytes | None]]:
    """The largest distinct shared objects, each with its largest piece of code and build id."""
    found: dict[tuple[int, int], tuple[int, Path]] = {}
    for directory in ("/usr/lib", "/usr/lib64", sysconfig.get_paths()["platlib"]):
        for path in _shared_objects(directory):
            status = path.stat()
            found[status.st_dev, status.st_ino] = (status.st_size, path)
    chosen = []
    for _, path in sorted(found.values(), reverse=True):
        try:
            image = open_elf(path)
        except DamagedInput:
            continue
        code = [segment for segment in image.segments if segment.flags & PF_X]
        if code and max(s.file_bytes for s in code) >= LEAST_CODE_BYTES:
            chosen.append((path, max(code, key=lambda s: s.file_bytes), image.build_id))
        if len(chosen) == count:
            break
    return chosen


def _shared_objects(directory: str) -> Iterator[Path]:
    for where, _, names in os.walk(directory):
        for name in names:
            path = Path(where, name)
            if ".so" in name and path.is_file() and not path.is_symlink():
                yield path


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--addresses", type=int, default=100_000)
    options.add_argument("--libraries", type=int, default=50)
    args = options.parse_args()
    chosen = libraries(args.libraries)
    if not chosen:
        raise SystemExit("no shared libraries were found")
    each = -(-args.addresses // len(chosen))
    addresses = np.concatenate([
        BASE + number * STRIDE
        + np.linspace(0, code.file_bytes, each, endpoint=False).astype(np.uint64)
        for number, (_, code, _) in enumerate(chosen)
    ])[: args.addresses]

    timeline = Timeline(Places())
    begun = time.perf_counter()
    for number, (path, code, build_id) in enumerate(chosen):
        timeline.mmap(0, PID, PID, BASE + number * STRIDE, code.file_bytes, code.offset,
                      str(path), 5, build_id)
    columns = (
        np.ones(len(addresses), np.uint64), np.full(len(addresses), PID, np.int32),
        np.full(len(addresses), PID, np.int32), addresses,
        np.full(len(addresses), CPUMODE_USER, np.uint8),
    )
    found = timeline.resolve(*columns)
    cold_s = time.perf_counter() - begun
    begun = time.perf_counter()
    timeline.resolve(*columns)
    warm_s = time.perf_counter() - begun
    named = float((found.symbol >= 0).mean())
    distinct = len(np.unique(addresses))
    return report("symbols", [
        Row("cold: names for all addresses", cold_s, "s", at_most=COLD_AT_MOST_S,
            note=f"{distinct} distinct addresses, {len(chosen)} libraries, "
                 f"{len(timeline.symbols)} symbols"),
        Row("warm: the same again, million addresses/s", len(addresses) / warm_s / 1e6, "M/s"),
        Row("addresses that have a name", named),
    ], json_file=args.json)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
