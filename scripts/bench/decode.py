"""Decoding against `perf script`: columns, JSONL and text, each as a ratio of wall times.

    python scripts/bench/decode.py [--samples N] [--json FILE]

The recording is written by perfxmm itself: dialect L, 16 XMM registers in each sample, so that
every perf since 5.2 opens it. Columns are decoded in this process; JSONL and text are whole
commands on both sides, start-up included.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, best_of, parser, report
from samples import write_recording

from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

# The fields of perf script that a JSON line has, too.
JSON_FIELDS = "comm,pid,tid,cpu,time,period,event,ip,sym,symoff,dso,iregs"
# As many samples in a batch as Recording.snapshots yields: they fit in the cache.
BATCH_SAMPLES = 8192


def decode_columns(path: str) -> int:
    """Every sample to columns; how many there were."""
    reader = Reader(path)
    decoder = Decoder(reader.events)
    blocks = reader.blocks(block_records=BATCH_SAMPLES)
    return sum(len(decoder.decode(block)) for block in blocks)


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
            ("perf script -F ip,sym,iregs / decode to columns", columns_s, "perf", 30.0),
            ("perf script -F ip,sym,iregs / perfxmm script", seconds["script"], "perf", 1.0),
            ("perf script -F ip,sym,iregs / perfxmm script, block form", seconds["blocks"], "perf",
             1.0),
            ("perf script -F ip,sym,iregs / perfxmm export jsonl", seconds["export"], "perf", 1.0),
            ("perf script, JSON's fields / perfxmm export jsonl", seconds["export"],
             "perf, JSON's fields", None),
        ):  # fmt: skip
            rows.append(Row(name, seconds[theirs] / ours, at_least=least,
                            note=f"{seconds[theirs]:.2f} s / {ours:.3f} s"))  # fmt: skip
        return report("decode", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
