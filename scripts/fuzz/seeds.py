"""Writes seeds for the harnesses: python scripts/fuzz/seeds.py DIRECTORY [RECORDINGS ...]

Seeds of the test writers: every record type, layouts, pipes, compressed ones. RECORDINGS: files or
directories of perf.data files; of each the first bytes are taken, into DIRECTORY only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import harness  # noqa: F401
from support.fuzz_seeds import recordings

_MOST_BYTES = 16_384


def main(target: Path, sources: list[Path]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, data in recordings().items():
        (target / name).write_bytes(data)
    files = [f for s in sources for f in (sorted(s.iterdir()) if s.is_dir() else [s])]
    for file in files:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
        (target / f"real-{file.name}").write_bytes(data)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(arg) for arg in sys.argv[2:]])
