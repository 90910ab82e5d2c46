"""A pass over the headers of a large recording against reading it and doing nothing.

    python scripts/bench/headers.py [--size BYTES] [--directory DIR] [--json FILE]

`perfxmm inspect FILE` beside `cat FILE | wc -c`, whole commands, on a recording with samples of one
size and on a mixed one (see mixed.py). Both read from the page cache: the file has just been
written, and each command is run once before it counts.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, best_of, parser, report
from mixed import write_mixed
from samples import SAMPLE, write_recording

from perfxmm.perfdata.reader import Reader

INSPECT_AT_MOST = 3.0


def count_records(path: str) -> int:
    return sum(len(block) for block in Reader(path).blocks())


def run(command: str) -> None:
    subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=True)


def rows_of(kind: str, path: str, runs: int) -> list[Row]:
    size = Path(path).stat().st_size
    name = shlex.quote(path)
    python = shlex.quote(sys.executable)
    cat = functools.partial(run, f"cat {name} | wc -c")
    inspect = functools.partial(
        run, f"{python} -c 'from perfxmm.cli.main import run; run()' inspect {name}"
    )
    records = count_records(path)
    best_of(1, cat, inspect)
    cat_s, inspect_s, scan_s = best_of(
        runs, cat, inspect, functools.partial(count_records, path)
    )
    return [
        Row(f"{kind}: perfxmm inspect / cat FILE | wc -c", inspect_s / cat_s,
            at_most=INSPECT_AT_MOST, note=f"{inspect_s:.2f} s / {cat_s:.2f} s"),
        Row(f"{kind}: finding the records / cat FILE | wc -c", scan_s / cat_s,
            note=f"{scan_s:.2f} s"),
        Row(f"{kind}: finding the records", scan_s / records * 1e9, "ns/rec",
            note=f"{records} records, {size / 1e9:.2f} GB"),
    ]  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", type=float, default=2e9, help="bytes of each recording")
    options.add_argument("--directory", default=None, help="where to put them for the while")
    options.add_argument("--runs", type=int, default=3)
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        for kind in ("fixed", "mixed"):
            path = str(Path(directory, f"{kind}.data"))
            if kind == "fixed":
                write_recording(path, int(args.size) // SAMPLE.itemsize)
            else:
                write_mixed(path, least_bytes=int(args.size))
            rows += rows_of(kind, path, args.runs)
            Path(path).unlink()
    return report("headers", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
