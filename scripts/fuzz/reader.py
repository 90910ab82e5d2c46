"""Fuzzes the way from a file's bytes to columns and text.

    python scripts/fuzz/seeds.py SEEDS [DIRECTORY OF RECORDINGS]
    python scripts/fuzz/reader.py CORPUS SEEDS -runs=2000000 -max_len=16384 -timeout=10 \\
        -rss_limit_mb=2048

Needs atheris. CORPUS is where libFuzzer puts the inputs that reach something new. One execution
reads the records, in file order or in time order, and decodes every column of the samples and the
side-band; one in eight does both orders and compares them, one in sixteen also goes the whole way
of `perfxmm script` and `export` (JSONL and CSV), and one in eight that of `perfxmm inspect`. A
checksum of the input chooses, so that an input always means the same.
Only perfxmm's own errors may come out, and what comes out must hold what
tests/support/fuzz_targets.py says.
"""

from __future__ import annotations

import zlib

import harness

import atheris  # isort: skip

with atheris.instrument_imports(include=["perfxmm"]):
    import perfxmm.exports.csvfile
    import perfxmm.exports.jsonl
    import perfxmm.inspector
    import perfxmm.recording
    import perfxmm.views.inspect
    import perfxmm.views.script  # noqa: F401

from mutate import mutate
from support import fuzz_targets


def one(data: bytes) -> None:
    choice = zlib.crc32(data)
    orders = {0: "both"}.get(choice % 8, ("file", "time")[choice >> 3 & 1])
    found = fuzz_targets.read_records(data, orders)
    if choice >> 4 & 15 == 0:
        whole = fuzz_targets.read_snapshots(data)
        assert (found.error is None) == (whole.error is None)
        assert found.error or found.samples == whole.samples
    if choice >> 8 & 7 == 0:
        seen = fuzz_targets.inspect_all(data, lines=bool(choice >> 11 & 1))
        assert found.error or seen.error is None


if __name__ == "__main__":
    harness.start(one, mutate)
