"""Recordings made elsewhere decode to what is known to be in them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.expected_rows import decoded_rows, load_rows

from perfxmm.kernel.constants import CpuMode
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import Decoder

GUEST_MODES = (CpuMode.GUEST_KERNEL, CpuMode.GUEST_USER)


def recordings(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "simd").glob("*.data"))


def test_every_recording_with_expectations_is_there(shared_data: Path) -> None:
    assert len(recordings(shared_data)) >= 13


def test_every_value_and_count_is_as_expected(shared_data: Path) -> None:
    for recording in recordings(shared_data):
        expected = load_rows(recording)
        found = decoded_rows(recording, expected)
        assert len(found) == len(expected), recording.name
        for row, (have, want) in enumerate(zip(found, expected, strict=True)):
            assert have == want, f"{recording.name}, sample {row}"


def _printed_values(recording: Path) -> list[list[int]] | None:
    """The vector words of each sample that the patched perf printed, in its order."""
    plain = recording.with_suffix(".perf-script-named.txt")
    packed = plain.with_name(plain.name + ".gz")
    if plain.exists():
        text = plain.read_text()
    elif packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode()
    else:
        return None
    samples: list[list[int]] = []
    for line in text.splitlines():
        if "cycles" in line and "/" in line.split(":")[0]:
            samples.append([])
        for token in line.split():
            name, _, value = token.partition(":0x")
            if value and name.startswith(("XMM[", "YMM[", "ZMM[")):
                samples[-1].append(int(value, 16))
    return samples


def test_vectors_are_what_perf_printed(shared_data: Path) -> None:
    compared = 0
    for recording in recordings(shared_data):
        printed = _printed_values(recording)
        if printed is None:
            continue
        reader = Reader(recording)
        decoder = Decoder(reader.events)
        rows: list[tuple[int, list[int]]] = []
        for block in reader.blocks():
            batch = decoder.decode(block)
            for row in range(len(batch)):
                if batch.cpumode[row] in GUEST_MODES:
                    continue  # perf script leaves guest samples out
                values: list[int] = []
                for name in ("intr", "user"):  # the order of -F iregs,uregs
                    found = batch.sets.get(name)
                    if found is None or not found.abi[row] & 4:
                        continue
                    mask, qwords = int(found.vector_mask[row]), int(found.delivered_qwords[row])
                    for register in range(32):
                        if mask >> register & 1:
                            values += found.vectors[row, register, :qwords].tolist()
                rows.append((int(batch.time_ns[row]), values))
        rows.sort(key=lambda pair: pair[0])
        assert [values for _, values in rows] == printed, recording.name
        compared += len(rows)
    if not compared:
        pytest.skip("no printouts beside the recordings")
    assert compared > 300


def test_foreign_recordings_decode_without_an_error(shared_data: Path) -> None:
    """Old and damaged files of many perf versions: nothing raises, and samples come out."""
    counts = {}
    for recording in sorted((shared_data / "perfdata").glob("*")):
        try:
            reader = Reader(recording)
        except Exception as error:
            counts[recording.name] = type(error).__name__
            continue
        decoder = Decoder(reader.events)
        samples = 0
        for block in reader.blocks():
            samples += len(decoder.decode(block))
            assert all(record.file_offset for record in decoder.sideband(block))
        counts[recording.name] = (samples, dict(decoder.damaged))
    print(counts)
    assert counts
