"""Decoding against `perf script`: columns, JSONL and text, each as a ratio of wall times.

    python scripts/bench/decode.py [--samples N] [--json FILE]

The recordings are written by perfxmm itself: dialect L, 16 XMM registers in each sample, so that
every perf since 5.2 opens them. One has samples of one size, the other call chains of varying
length and side-band every third record (see mixed.py). Columns are decoded in this process; JSONL
and text are whole commands on both sides, start-up included.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, best_of, parser, report
from mixed import write_mixed
from samples import write_recording

from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

# The fields of perf script that a JSON line has, too.
JSON_FIELDS = "comm,pid,tid,cpu,time,period,event,ip,sym,symoff,dso,iregs"
BATCH_SAMPLES = 16_384
FIXED_AT_LEAST, MIXED_AT_LEAST = 40.0, 10.0


def decode_columns(path: str) -> int:
    """Every sample to columns, call chains among them; how many there were."""
    reader = Reader(path)
    decoder = Decoder(reader.events)
    blocks = reader.blocks(block_records=BATCH_SAMPLES)
    return sum(len(decoder.decode(block)) for block in blocks)


def decode_all(path: str) -> tuple[int, int]:
    """As decode_columns, and every side-band record to an object; how many of each."""
    reader = Reader(path)
    decoder = Decoder(reader.events)
    samples = records = 0
    for block in reader.blocks(block_records=BATCH_SAMPLES):
        samples += len(decoder.decode(block))
        records += sum(1 for _ in decoder.sideband(block))
    return samples, records


def mixed_rows(perf: str, directory: str, samples: int, runs: int) -> list[Row]:
    path = str(Path(directory, "mixed.data"))
    size, _ = write_mixed(path, samples=samples)
    decoded, records = decode_all(path)
    if decoded != samples:
        raise SystemExit("samples of the mixed recording were lost in decoding")
    columns: list[float] = []
    everything: list[float] = []
    perf_s, *_ = best_of(
        runs,
        functools.partial(run, [perf, "script", "-F", "ip,sym,iregs", "-i", path]),
        lambda: columns.extend(best_of(5, functools.partial(decode_columns, path))),
        lambda: everything.extend(best_of(3, functools.partial(decode_all, path))),
    )
    columns_s, all_s = min(columns), min(everything)
    return [
        Row("mixed: decode to columns, million samples/s", samples / columns_s / 1e6, "M/s",
            note=f"{samples} samples, {records} side-band records, {size / 2**20:.1f} MiB"),
        Row("mixed: perf script -F ip,sym,iregs / to columns", perf_s / columns_s,
            at_least=MIXED_AT_LEAST, note=f"{perf_s:.2f} s / {columns_s:.3f} s"),
        Row("mixed: the same / to columns and side-band decoded", perf_s / all_s,
            note=f"{perf_s:.2f} s / {all_s:.3f} s"),
    ]  # fmt: skip


def run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=200_000)
    options.add_argument("--runs", type=int, default=3)
    args = options.parse_args()
    perf = shutil.which("perf")
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory, "perf.data"))
        size = write_recording(path, args.samples)
        if decode_columns(path) != args.samples:
            raise SystemExit("samples were lost in decoding")
        columns = functools.partial(decode_columns, path)
        if perf is None:
            raise SystemExit("perf is not installed: there is nothing to compare with")
        perfxmm = [sys.executable, "-c", "from perfxmm.cli.main import run; run()"]
        commands = {
            "perf": [perf, "script", "-F", "ip,sym,iregs", "-i", path],
            "perf, JSON's fields": [perf, "script", "-F", JSON_FIELDS, "-i", path],
            "export": [*perfxmm, "export", "--format", "jsonl", "--keep", "all", "-i", path,
                       "-o", "/dev/null", "--force"],
            "script": [*perfxmm, "script", "--keep", "all", "-F", "ip,sym,iregs", "-i", path],
            "blocks": [*perfxmm, "script", "--keep", "all", "-i", path],
        }  # fmt: skip
        others = [functools.partial(run, command) for command in commands.values()]
        # A run of decoding takes some milliseconds: more of them, for as quiet a moment.
        decoded: list[float] = []
        taken = best_of(args.runs, *others, lambda: decoded.extend(best_of(10, columns)))
        seconds = dict(zip(commands, taken, strict=False))
        columns_s = min(decoded)
        rows = [
            Row("decode to columns, million samples/s", args.samples / columns_s / 1e6, "M/s",
                note=f"{args.samples} samples, {size / 2**20:.1f} MiB"),
        ]  # fmt: skip
        for name, ours, theirs, least in (
            ("perf script -F ip,sym,iregs / decode to columns", columns_s, "perf",
             FIXED_AT_LEAST),
            ("perf script -F ip,sym,iregs / perfxmm script", seconds["script"], "perf", 1.0),
            ("perf script -F ip,sym,iregs / perfxmm script, block form", seconds["blocks"], "perf",
             1.0),
            ("perf script -F ip,sym,iregs / perfxmm export jsonl", seconds["export"], "perf", 1.0),
            ("perf script, JSON's fields / perfxmm export jsonl", seconds["export"],
             "perf, JSON's fields", None),
        ):  # fmt: skip
            rows.append(Row(name, seconds[theirs] / ours, at_least=least,
                            note=f"{seconds[theirs]:.2f} s / {ours:.3f} s"))  # fmt: skip
        rows += mixed_rows(perf, directory, args.samples, args.runs)
        return report("decode", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
