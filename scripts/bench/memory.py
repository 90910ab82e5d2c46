"""Memory and time while a large recording is read: both as the recording grows.

    python scripts/bench/memory.py [--size BYTES] [--directory DIR] [--json FILE]

A recording is repeated with its times shifted (see repeated.py) to an eighth of the size, a
quarter, half and all of it, each twice the one before. A child process decodes it to columns and
reads its own /proc/self/status after every batch: in file order and in time order. Through
perfxmm.open, with judging, names and symbols, the same is done with an eighth of all sizes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Row, parser, report
from repeated import Repeated, record_base, write_base

ANON_AT_MOST_MIB = 400.0
# By how many bytes RssFile grows from the first half of the recording to the second, for each
# byte of it: 0.5 if no page were given back.
FILE_GROWTH_AT_MOST = 0.05
# Time for each byte of the largest recording against that of the smallest.
SLOWER_AT_MOST = 1.5
STEPS = (8, 4, 2, 1)
WAYS = {"file": "in file order", "time": "in time order", "open": "perfxmm.open(...).snapshots()"}


def batches(way: str, path: str) -> Iterator[int]:
    """Decodes by one of WAYS; yields each batch's length."""
    if way == "open":
        import perfxmm

        for batch in perfxmm.open(path).snapshots(keep=("all",)):
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
    begun = time.perf_counter()
    for count in batches(way, path):
        samples += count
        seen.append(resident())
    seconds = time.perf_counter() - begun
    half = len(seen) // 2
    print(json.dumps({
        "samples": samples,
        "seconds": seconds,
        "anon": max(at["RssAnon"] for at in seen),
        "file_first": max(at["RssFile"] for at in seen[:half] or seen),
        "file_second": max(at["RssFile"] for at in seen[half:]),
    }))  # fmt: skip


def measure(way: str, path: str, samples: int) -> dict[str, Any] | str:
    """What a child said; why it failed, in words."""
    command = [sys.executable, __file__, "--child", way, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines()[-1:] or ["no message"])[0][:80]
    said: dict[str, Any] = json.loads(done.stdout)
    if said["samples"] != samples:
        return f"{said['samples']} of {samples} samples decoded"
    return said


def rows_of(way: str, seen: list[tuple[int, dict[str, Any] | str]]) -> list[Row]:
    """seen: file size and what was measured, from the smallest to the largest."""
    title = WAYS[way]
    rows, told = [], []
    for size, said in seen:
        if isinstance(said, str):
            return [*rows, Row(f"{title}: failed", 1, "", at_most=0, note=said)]
        told.append(said)
        rows.append(Row(f"{title}: {size / 1e9:.2f} GB", said["seconds"] / size * 1e9, "s/GB",
                        note=f"RssAnon {said['anon']:.0f} MiB"))  # fmt: skip
    first, last = told[0], told[-1]
    size = seen[-1][0]
    slower = (last["seconds"] / size) / (first["seconds"] / seen[0][0])
    growth = (last["file_second"] - last["file_first"]) / (size / 2**20)
    return [
        *rows,
        Row(f"{title}: time per byte, largest / smallest", slower, at_most=SLOWER_AT_MOST),
        Row(f"{title}: peak RssAnon", max(said["anon"] for said in told), "MiB",
            at_most=ANON_AT_MOST_MIB, note=f"{size / 1e9:.2f} GB, {last['samples']} samples"),
        Row(f"{title}: growth of RssFile / file", growth, at_most=FILE_GROWTH_AT_MOST,
            note=f"peak {last['file_second']:.0f} MiB"),
    ]  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--size", type=float, default=10e9, help="bytes of the largest recording")
    options.add_argument("--directory", default=None, help="where to put it for the while")
    options.add_argument("--steps", type=int, default=len(STEPS), help="sizes, each the double of "
                         "the one before")  # fmt: skip
    options.add_argument("--written", action="store_true", help="repeat a written recording even "
                         "where perf can make a real one")  # fmt: skip
    options.add_argument("--child", nargs=2, metavar=("WAY", "PATH"))
    args = options.parse_args()
    if args.child:
        child(*args.child)
        return 0
    seen: dict[str, list[tuple[int, dict[str, Any] | str]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        base, path = (str(Path(directory, name)) for name in ("base.data", "perf.data"))
        real = not args.written and record_base(base)
        if not real:
            write_base(base, samples=min(20_000, max(20, int(args.size) // 64 // 600)))
        recording = Repeated(base, path)
        parts = STEPS[-args.steps :]
        stages = [(args.size / part, ("file", "time")) for part in parts]
        stages += [(args.size / part / 8, ("open",)) for part in parts]
        for size, ways in sorted(stages):
            recording.grow(int(size))
            for way in ways:
                seen[way].append((recording.size, measure(way, path, recording.samples)))
        recording.close()
    rows = [Row("recording repeated: 1 perf's, 0 written", float(real), "")]
    for way in WAYS:
        rows += rows_of(way, seen[way])
    return report("memory", rows, json_file=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
