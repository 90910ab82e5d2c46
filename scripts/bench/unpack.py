"""Compressed recordings: opening and decoding one, against its parts.

    python scripts/bench/unpack.py [--samples N] [--json FILE]

The recording is a written one, mixed or with samples of one size, put into COMPRESSED2 records
(see packed.py). Opening it and decoding it to columns is measured beside `zstd -dc` of the same
bytes, one plain .zst file of the same level, to /dev/null, plus decoding the uncompressed
recording. Needs the zstd command.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import Row, best_of, parser, report
from decode import decode_columns
from mixed import write_mixed
from packed import LEVEL, copy_data, pack_recording
from samples import write_recording

from perfxmm.perfdata.reader import Reader

AT_MOST = 1.5


def rows_of(kind: str, directory: str, samples: int, runs: int) -> list[Row]:
    plain, packed, payload, archive, unpacked = (
        str(Path(directory, f"{kind}.{end}")) for end in ("data", "z.data", "raw", "zst", "out")
    )
    if kind == "mixed":
        write_mixed(plain, samples=samples)
    else:
        write_recording(plain, samples)
    size = pack_recording(plain, packed)
    copy_data(plain, payload)
    subprocess.run(["zstd", "-q", f"-{LEVEL}", payload, "-o", archive], check=True)
    Path(payload).unlink()
    if decode_columns(packed) != samples or Reader(packed).damage:
        raise SystemExit(f"{kind}: samples were lost in unpacking")
    zstd_s, to_file_s, plain_s, ours_s, open_s = best_of(
        runs,
        functools.partial(_zstd, archive, "/dev/null"),
        functools.partial(_zstd, archive, unpacked),
        functools.partial(decode_columns, plain),
        functools.partial(decode_columns, packed),
        functools.partial(Reader, packed),
    )
    note = f"{ours_s:.3f} s / ({{:.3f}} s + {plain_s:.3f} s)"
    return [
        Row(f"{kind}: unpack and decode / (zstd -dc + decode)", ours_s / (zstd_s + plain_s),
            at_most=AT_MOST, note=note.format(zstd_s)),
        Row(f"{kind}: the same where zstd -dc writes a file", ours_s / (to_file_s + plain_s),
            note=note.format(to_file_s)),
        Row(f"{kind}: opening alone", size / open_s / 2**20, "MiB/s",
            note=f"{size / 2**20:.1f} MiB, {Path(archive).stat().st_size / 2**20:.1f} packed"),
    ]  # fmt: skip


def _zstd(archive: str, output: str) -> None:
    with open(output, "wb") as target:
        subprocess.run(["zstd", "-dcq", archive], stdout=target, check=True)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=400_000)
    options.add_argument("--directory", default=None, help="where to put them for the while")
    options.add_argument("--runs", type=int, default=5)
    args = options.parse_args()
    if shutil.which("zstd") is None:
        raise SystemExit("the zstd command is not installed: there is nothing to compare with")
    rows = []
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        for kind in ("fixed", "mixed"):
            rows += rows_of(kind, directory, args.samples, args.runs)
    return report("unpack", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
