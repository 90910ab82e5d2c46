"""Decoding against `perf script`: columns, JSONL and text, each as a ratio of wall times.

    python scripts/bench/decode.py [--samples N] [--json FILE]

The recording is written by perfxmm itself: dialect L, 16 XMM registers in each sample, so that
every perf since 5.2 opens it. Columns are decoded in this process; JSONL and text are whole
commands on both sides, start-up included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, best_of, parser, report
from samples import write_recording

from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

COLUMNS_AT_LEAST = 30.0
VERBS_AT_LEAST = 1.0
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
        columns_s = best_of(10 * args.runs, lambda: decode_columns(path))
        rows = [
            Row("decode to columns, million samples/s", args.samples / columns_s / 1e6, "M/s",
                note=f"{args.samples} samples, {size / 2**20:.1f} MiB"),
        ]  # fmt: skip
        if perf is None:
            print("perf is not installed: no ratios", file=sys.stderr)
            return report("decode", rows, json_file=args.json)
        script = [perf, "script", "-F", "ip,sym,iregs", "-i", path]
        perf_s = best_of(args.runs, lambda: run(script))
        rows.append(Row(
            "perf script -F ip,sym,iregs / decode to columns", perf_s / columns_s,
            at_least=COLUMNS_AT_LEAST, note=f"{perf_s:.2f} s / {columns_s:.3f} s",
        ))  # fmt: skip
        perfxmm = [sys.executable, "-c", "from perfxmm.cli.main import run; run()"]
        verbs = {
            "export --format jsonl": ["export", "--format", "jsonl", "--keep", "all",
                                      "-i", path, "-o", "/dev/null", "--force"],
            "script": ["script", "--keep", "all", "-F", "ip,sym,regs", "-i", path],
        }  # fmt: skip
        for name, arguments in verbs.items():
            try:
                verb_s = best_of(args.runs, lambda: run([*perfxmm, *arguments]))  # noqa: B023
            except subprocess.CalledProcessError as error:
                rows.append(Row(
                    f"perf script / perfxmm {name}", 0.0, at_least=VERBS_AT_LEAST,
                    note=f"perfxmm failed with status {error.returncode}",
                ))  # fmt: skip
                continue
            rows.append(Row(
                f"perf script / perfxmm {name}", perf_s / verb_s, at_least=VERBS_AT_LEAST,
                note=f"{perf_s:.2f} s / {verb_s:.2f} s",
            ))  # fmt: skip
        return report("decode", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
