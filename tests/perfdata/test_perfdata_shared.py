"""Recordings that perf, kernels and others wrote, kept beside the checkout."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.blocks import Damage
from perfxmm.perfdata.reader import Reader

# Case -> dialects of its events.
SIMD = {
    "a-xmm-intr": ["M"], "f-mixed-modes": ["M"], "g-two-events": ["L", "M"],
    "i-o1-zmm-opmask-egpr-ssp": ["O1"], "j-r2-zmm-opmask-egpr-ssp": ["R2"],
    "kernel-cpu-wide-idle": ["M"], "kernel-kernel-fpu-section": ["M"],
    "kernel-not-in-nmi": ["M"], "kernel-perf-record-ymm-kernel": ["M"],
    "kernel-perf-record-zmm": ["M"], "kernel-syscalls-kernel-allowed": ["M"],
    "kernel-syscalls-skid-exclude-kernel": ["M"], "kernel-zmm-opmask-both-user": ["M"],
}  # fmt: skip


def meta(folder: Path, case: str) -> dict[str, Any]:
    plain, packed = (folder / f"{case}.expected.jsonl{end}" for end in ("", ".gz"))
    with gzip.open(packed, "rt") if packed.exists() else plain.open() as lines:
        loaded: dict[str, Any] = json.loads(next(lines))["meta"]
        return loaded


@pytest.mark.parametrize("case", SIMD)
def test_simd_recordings_open(shared_data: Path, case: str) -> None:
    source = Reader(shared_data / "simd" / f"{case}.data")
    said = meta(shared_data / "simd", case)
    assert [e.attr.dialect.name for e in source.events] == SIMD[case]
    assert source.data_start == said["data_offset"]
    for blocks in (source.blocks, source.ordered_blocks):
        assert sum(int((b.types == RecordType.SAMPLE).sum()) for b in blocks()) == said["samples"]
    assert source.complete
    assert source.metadata is None
    for event, attr in zip(source.events, said.get("attrs", ()), strict=False):
        assert event.attr_bytes.hex() == attr["hex"]
        assert event.attr.sample_type == int(attr["sample_type"], 16)
        assert event.attr.precise_ip == attr["precise_ip"]


# What perf 6.1 cannot open (attrs of a newer perf) and how many samples are in it by our own
# count. lpd.sleep.compressed.data holds what lpd.sleep.compressed.pipe.data does, which perf reads.
PERF_REFUSES = {
    "hotspot.perf.data.PerfFormatLost": 34, "lpd.sleep.compressed.data": 8,
    "lpd.sleep.compressed2.data": 7, "lpd.sleep.data": 7,
}  # fmt: skip
DUMPED = re.compile(
    r"^(?:\S+ )*?(0x[0-9a-f]+) \[(0x[0-9a-f]+)\](?: @ [^\]]*\])?: PERF_RECORD_(\w+)", re.M
)
CORRUPTED = "perf.data.piped.corrupted.zero_size_sample-3.2"


def files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "perfdata").iterdir() if "data" in p.name)


def counts(source: Reader) -> Counter[int]:
    seen: Counter[int] = Counter()
    for block in source.blocks():
        seen.update(block.types.tolist())
    return seen


def test_every_foreign_file_opens_whole(shared_data: Path) -> None:
    found = files(shared_data)
    assert len(found) >= 22
    for path in found:
        source = Reader(path)
        seen = counts(source)
        timed = sum(len(b) for b in source.ordered_blocks())
        assert timed == seen.total() - seen[RecordType.FINISHED_ROUND], path.name
        assert source.unordered == 0, path.name
        if path.name == CORRUPTED:
            # The writer itself left 48 bytes that are no record; what follows is whole.
            assert source.damage == [Damage(49104, "record of size 0; 48 bytes are passed over")]
            assert seen[RecordType.COMM] == 101
            assert seen[RecordType.SAMPLE] == 227
            assert seen.total() == 806
            continue
        assert source.damage == [], path.name
        assert source.complete, path.name
        assert all(event.name for event in source.events), path.name
        if path.name in PERF_REFUSES:
            assert seen[RecordType.SAMPLE] == PERF_REFUSES[path.name]


def test_time_order_is_perfs_record_for_record(shared_data: Path) -> None:
    """perf script -D names each record's offset, in the order in which perf takes them up."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    compared = 0
    for path in files(shared_data):
        source = Reader(path)
        if path.name in PERF_REFUSES or source.pipe:
            continue  # of a stream perf prints other offsets
        done = subprocess.run([perf, "script", "-D", "-i", path], capture_output=True, timeout=60)
        said = [
            (int(offset, 16), int(size, 16))
            for offset, size, name in DUMPED.findall(done.stdout.decode("latin-1"))
            if name != "FINISHED_ROUND"
        ]
        if not said:
            continue
        got = [
            (b.file_base + int(offset), int(size))
            for b in source.ordered_blocks()
            for offset, size in zip(b.offsets, b.sizes, strict=True)
        ]
        assert got == said, path.name
        compared += 1
    assert compared >= 14
