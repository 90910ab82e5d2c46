"""Inputs that were once answered wrongly, and small ones of every kind, through every target.

The files of corpus/ were found by fuzzing (scripts/fuzz) and reduced; none is anybody's recording.
Names begin with the target: `reader-` or `decode-`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import fuzz_decoding, fuzz_seeds, fuzz_targets

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
SEEDS = fuzz_seeds.recordings()
MOST_CORPUS_BYTES = 200_000


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_every_input_of_the_corpus_is_answered(path: Path) -> None:
    data = path.read_bytes()
    if path.name.startswith("decode-"):
        fuzz_decoding.decode_something(data)
        return
    found = fuzz_targets.read_records(data)
    whole = fuzz_targets.read_snapshots(data)
    in_order = fuzz_targets.read_records(data, "time")
    assert found.samples == whole.samples == in_order.samples
    assert (found.error is None) == (whole.error is None)
    for lines in (False, True):
        seen = fuzz_targets.inspect_all(data, lines=lines)
        assert found.error or (seen.error is None and seen.records >= found.records)


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_sound(name: str) -> None:
    found = fuzz_targets.read_records(SEEDS[name])
    assert found.error is None
    assert found.samples >= 1
    assert found.damage == [] or name in ("types", "attr-every")


def test_the_corpus_is_small() -> None:
    assert {path.name.split("-")[0] for path in CORPUS} == {"reader", "decode"}
    assert sum(path.stat().st_size for path in CORPUS) < MOST_CORPUS_BYTES
