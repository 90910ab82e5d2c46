"""Cuts a recording at every byte and reads what is left: python scripts/fuzz/cuts.py FILE ...

Of each length the reader must answer with its own error or give records; the samples that end
before the cut come out as they do of the whole file, and nothing else. Ends with 1 where that does
not hold. Compressed recordings are held to a beginning of the whole's samples, whichever length it
has: pieces come out together. Needs no fuzzer. Some 200 lengths per second and processor.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.fuzz_targets import stream_of  # noqa: E402

from perfxmm.errors import DamagedInput  # noqa: E402
from perfxmm.kernel.constants import RecordType  # noqa: E402
from perfxmm.perfdata.reader import Reader  # noqa: E402
from perfxmm.snapshots.decode import Decoder  # noqa: E402

Row = tuple[int, int, int, int, int]


@dataclass(slots=True)
class Read:
    """What one length gave. ends: of each sample, the byte behind it; 0 where it was unpacked.
    damaged: that something is missing is told, or cannot be known."""

    rows: list[Row]
    ends: list[int]
    refused: bool = False
    damaged: bool = False


def read(data: bytes) -> Read:
    """Samples in file order."""
    with stream_of(data) as file:
        try:
            reader = Reader(file)
        except DamagedInput:
            return Read([], [], refused=True)
        decoder = Decoder(reader.events)
        rows: list[Row] = []
        ends: list[int] = []
        for block in reader.blocks():
            batch = decoder.decode(block, columns=())
            rows += zip(
                batch.time_ns.tolist(), batch.ip.tolist(), batch.pid.tolist(), batch.tid.tolist(),
                batch.event.tolist(), strict=True,
            )  # fmt: skip
            chosen = block.types == RecordType.SAMPLE
            behind = (block.offsets + block.sizes)[chosen] + block.file_base
            ends += behind.tolist() if block.file_base >= 0 else [0] * int(chosen.sum())
        damaged = bool(reader.damage) or not reader.complete or decoder.damage_count > 0
        # A stream that ends with a record may end there.
        return Read(rows, ends, damaged=damaged or reader.pipe)


def wrong_lengths(data: bytes) -> tuple[list[int], int]:
    """(lengths that are answered wrongly, lengths at which nothing can be opened)."""
    whole = read(data)
    wrong, refused = [], 0
    for length in range(len(data)):
        found = read(data[:length])
        refused += found.refused
        if any(whole.ends):
            expected = 0 if found.refused else sum(end <= length for end in whole.ends)
            good = found.rows == whole.rows[:expected]
        else:
            good = found.rows == whole.rows[: len(found.rows)]
        if not good or (len(found.rows) < len(whole.rows) and not (found.refused or found.damaged)):
            wrong.append(length)
    return wrong, refused


def main(paths: list[Path]) -> int:
    code = 0
    for path in paths:
        data = path.read_bytes()
        wrong, refused = wrong_lengths(data)
        print(
            f"{path.name}: {len(data)} lengths, {refused} refused, {len(wrong)} wrong"
            f"{f', the first at {wrong[0]}' if wrong else ''}"
        )
        code |= bool(wrong)
    return code


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(main([Path(arg) for arg in sys.argv[1:]]))
