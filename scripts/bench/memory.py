"""Memory while a large recording is decoded: anonymous memory, and mapped pages given back.

    python scripts/bench/memory.py [--size BYTES] [--json FILE]

A child process decodes the recording to columns and reads its own /proc/self/status after every
batch, for each way of reading: in file order, in time order, and through perfxmm.open with
judging and symbols.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import Row, parser, report
from samples import SAMPLE, write_recording

ANON_AT_MOST_MIB = 400.0
# By how many bytes RssFile grows from the first half of the recording to the second, for each
# byte of it: 0.5 if no page were given back.
FILE_GROWTH_AT_MOST = 0.05
WAYS = {"file": "in file order", "time": "in time order", "open": "perfxmm.open(...).snapshots()"}


def batches(way: str, path: str) -> Iterator[int]:
    """Decodes by one of WAYS; yields each batch's length."""
    if way == "open":
        import perfxmm

        for batch in perfxmm.open(path).snapshots(keep=("coherent", "late", "unknown")):
            yield len(batch)
        return
    from perfxmm.perfdata.reader import Reader
    from perfxmm.snapshots.decode import Decoder

    reader = Reader(path)
    decoder = Decoder(reader.events)
    blocks = reader.blocks() if way == "file" else reader.ordered_blocks()
    for block in blocks:
        yield len(decoder.decode(block))


def resident() -> dict[str, float]:
    """RssAnon and RssFile of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def child(way: str, path: str) -> None:
    seen = []
    samples = 0
    for count in batches(way, path):
        samples += count
        seen.append(resident())
    half = len(seen) // 2
    print(json.dumps({
        "samples": samples,
        "anon": max(at["RssAnon"] for at in seen),
        "file_first": max(at["RssFile"] for at in seen[:half] or seen),
        "file_second": max(at["RssFile"] for at in seen[half:]),
    }))  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", type=float, default=2e9, help="bytes of the recording")
    options.add_argument("--directory", default=None, help="where to put it for the while")
    options.add_argument("--child", nargs=2, metavar=("WAY", "PATH"))
    args = options.parse_args()
    if args.child:
        child(*args.child)
        return 0
    rows = []
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path = str(Path(directory, "perf.data"))
        wanted = int(args.size) // SAMPLE.itemsize
        size = write_recording(path, wanted) / 2**20
        for way, title in WAYS.items():
            command = [sys.executable, __file__, "--child", way, path]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                tail = done.stderr.strip().splitlines()[-1:] or ["no message"]
                rows.append(Row(f"{title}: failed", 1, "", at_most=0, note=tail[0][:80]))
                continue
            said = json.loads(done.stdout)
            if said["samples"] != wanted:
                raise SystemExit(f"{title}: {said['samples']} of {wanted} samples decoded")
            growth = (said["file_second"] - said["file_first"]) / size
            rows += [
                Row(f"{title}: peak RssAnon", said["anon"], "MiB", at_most=ANON_AT_MOST_MIB),
                Row(f"{title}: growth of RssFile / file", growth,
                    at_most=FILE_GROWTH_AT_MOST, note=f"peak {said['file_second']:.0f} MiB"),
                Row(f"{title}: peak RssAnon / file", said["anon"] / size,
                    note=f"{size:.0f} MiB, {wanted} samples"),
            ]  # fmt: skip
    return report("memory", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
