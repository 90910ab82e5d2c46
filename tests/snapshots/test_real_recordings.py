"""Recordings made elsewhere decode to what is known to be in them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from support.expected_rows import decoded_rows, load_rows

from perfxmm.errors import PerfxmmError
from perfxmm.kernel.constants import CpuMode
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.batch import RegisterSet
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.sidekinds import Mmap

SAMPLE_LINE = re.compile(r"\s*\S+\s+\d+/\d+\s")
VECTOR_WORD = re.compile(r"\b[XYZ]MM[0-9\[\]]+:0x([0-9a-f]+)")
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
        if SAMPLE_LINE.match(line):
            samples.append([])
        for value in VECTOR_WORD.findall(line):
            samples[-1].append(int(value, 16))
    return samples


def _vector_words(found: RegisterSet, row: int) -> list[int]:
    mask, qwords = int(found.vector_mask[row]), int(found.delivered_qwords[row])
    words: list[int] = []
    for register in range(32):
        if mask >> register & 1:
            words += found.vectors[row, register, :qwords].tolist()
    return words


def test_vectors_are_what_perf_printed(shared_data: Path) -> None:
    compared = 0
    for recording in recordings(shared_data):
        printed = _printed_values(recording)
        if printed is None:
            continue
        reader = Reader(recording)
        decoder = Decoder(reader.events)
        both: list[tuple[int, list[int]]] = []
        only_intr: list[tuple[int, list[int]]] = []
        for block in reader.blocks():
            batch = decoder.decode(block)
            for row in range(len(batch)):
                if batch.cpumode[row] in GUEST_MODES:
                    continue  # perf script leaves guest samples out
                time = int(batch.time_ns[row])
                intr = _vector_words(batch.sets["intr"], row)
                user = _vector_words(batch.sets["user"], row) if "user" in batch.sets else []
                both.append((time, intr + user))
                only_intr.append((time, intr))
        both.sort(key=lambda pair: pair[0])
        only_intr.sort(key=lambda pair: pair[0])
        # Made with -F iregs,uregs or with -F iregs alone.
        assert printed in (
            [words for _, words in both], [words for _, words in only_intr]
        ), recording.name
        compared += len(both)
    if not compared:
        pytest.skip("no printouts beside the recordings")
    assert compared > 300


def test_foreign_recordings_decode_without_an_error(shared_data: Path) -> None:
    """Old and damaged files of many perf versions: nothing raises, nothing is thought damaged."""
    samples = {}
    for recording in sorted((shared_data / "perfdata").glob("*")):
        try:
            reader = Reader(recording)
        except PerfxmmError:
            continue
        decoder = Decoder(reader.events)
        count = 0
        for block in reader.blocks():
            count += len(decoder.decode(block))
            seen = list(decoder.sideband(block))
            if "compressed" not in recording.name:
                assert all(record.file_offset > 0 for record in seen)
        samples[recording.name] = count
        assert not decoder.damaged, recording.name
        assert not decoder.sideband_problems, recording.name
    # Counted with perf 6.1 (perf report -D | grep -c PERF_RECORD_SAMPLE).
    assert samples["perf.data.callgraph-3.8"] == 1768
    assert samples["perf.data.raw-3.4"] == 441
    assert samples["perf.data.singleprocess-3.8"] == 13


def test_mmap2_of_the_first_form_has_its_whole_name(shared_data: Path) -> None:
    """A 3.10 kernel with MMAP2 as in Linux 3.12: neither prot nor flags before the name."""
    recording = shared_data / "perfdata" / "hotspot.perf.data.true.v2"
    if not recording.exists():
        pytest.skip("the recording is not there")
    reader = Reader(recording)
    decoder = Decoder(reader.events)
    found = [
        (record.path, record.prot, record.maj, record.inode)
        for block in reader.blocks() for record in decoder.sideband(block)
        if isinstance(record, Mmap) and record.maj
    ]  # fmt: skip
    true, loader, libc = "/usr/bin/true", "/usr/lib64/ld-2.17.so", "/usr/lib64/libc-2.17.so"
    assert found == [
        (true, 4, 0xFD, 0x80BBC51), (true, 0, 0xFD, 0x80BBC51),
        (loader, 4, 0xFD, 0xC000313), (loader, 0, 0xFD, 0xC000313),
        (libc, 4, 0xFD, 0xC00031A), (libc, 0, 0xFD, 0xC00031A), (libc, 0, 0xFD, 0xC00031A),
        (libc, 0, 0xFD, 0xC00031A), (true, 0, 0xFD, 0x80BBC51), (loader, 0, 0xFD, 0xC000313),
    ]  # fmt: skip
