"""Shared recordings with something appended, cut off or overwritten: at least what perf prints.

perf gives up at the first record that it cannot follow, mostly before it has printed what it had
read by then. perfxmm delivers everything before the damage, and after it all but the one record
that is hit, says where it is and ends with 5.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import perf_opinion

LARGEST_BYTES = 40_000
REFUSED = ("lpd.sleep.compressed.data", "lpd.sleep.compressed2.data", "lpd.sleep.data")
QUIRKS = {
    "zeros": "perf maps the file in whole pages and takes the zeros behind its end for what is "
             "left of the last record",
}  # fmt: skip
HEADER = struct.Struct("<IHH")
SAMPLE, TRACING_DATA, AUXTRACE = 9, 66, 71
COMPRESSED = (81, 83)


def small_files(folder: Path) -> list[Path]:
    paths = sorted(p for p in (folder / "perfdata").iterdir() if "data" in p.name)
    return [p for p in paths if p.stat().st_size <= LARGEST_BYTES]


def is_pipe(data: bytes) -> bool:
    return data[8] == 16


def data_section(data: bytes) -> tuple[int, int]:
    if is_pipe(data):
        return 16, len(data)
    at, size = struct.unpack_from("<QQ", data, 40)
    return at, at + size


def records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Offset, type and header.size of each."""
    at, end = data_section(data)
    while at < end:
        kind, _, size = HEADER.unpack_from(data, at)
        yield at, kind, size
        at += size
        if kind == TRACING_DATA:
            at += -(-struct.unpack_from("<I", data, at - size + 8)[0] // 8) * 8
        elif kind == AUXTRACE:
            at += struct.unpack_from("<Q", data, at - size + 8)[0]


def is_packed(data: bytes) -> bool:
    """A compressed stream cannot be read behind a piece that is lost."""
    return any(kind in COMPRESSED for _, kind, _ in records(data))


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def damaged(data: bytes) -> dict[str, tuple[bytes, int]]:
    """Name -> (the file, how many of its samples are before the damage)."""
    at, end = data_section(data)
    known = list(records(data))
    samples = [place for place, kind, _ in known if kind == SAMPLE]
    sizes = {place: size for place, _, size in known}
    out = {}
    for part in (3, 6, 9):
        cut = at + (end - at) * part // 10 | 1
        whole = sum(place + sizes[place] <= cut for place in samples)
        out[f"cut at {part}/10"] = data[:cut], whole
    place, _, size = known[len(known) * 7 // 10]
    before = sum(one < place for one in samples)
    out["size 0"] = put(data, place + 6, b"\0\0"), before
    out["odd size"] = put(data, place + 6, struct.pack("<H", size | 1)), before
    out["short"] = put(data, place + 6, struct.pack("<H", 8)), before
    return out


@pytest.fixture(scope="module")
def originals(shared_data: Path) -> dict[Path, list[str]]:
    """Each file's samples as they are without damage."""
    return {path: perf_opinion.perfxmm_script(path).lines for path in small_files(shared_data)}


def test_at_least_what_perf_prints(originals: dict[Path, list[str]], tmp_path: Path) -> None:
    perf = perf_opinion.perf_or_skip()
    compared = more = 0
    for path, whole in originals.items():
        if path.name in REFUSED or perf_opinion.reads_groups(path):
            continue
        packed = is_packed(path.read_bytes())
        for name, (data, before) in damaged(path.read_bytes()).items():
            variant = tmp_path / "variant.data"
            variant.write_bytes(data)
            said = perf_opinion.perf_script(perf, variant)
            ours = perf_opinion.perfxmm_script(variant, said.fields)
            missing = Counter(perf_opinion.comparable(said.lines, ours.lines, perf))
            missing -= Counter(ours.lines)
            zeros = name.startswith("cut")  # the quirk: one sample that the file does not have
            assert missing.total() <= zeros, (path.name, name, missing)
            assert len(ours.lines) >= min(before, len(whole)), (path.name, name)
            if not name.startswith("cut") and not packed:
                assert len(ours.lines) >= len(whole) - 1, (path.name, name)
                assert len(said.lines) <= len(whole)
            assert ours.code == 5, (path.name, name, ours.error)
            assert "offset 0x" in ours.error or "unpacked" in ours.error, (path.name, name)
            compared += 1
            more += len(ours.lines) > len(said.lines)
    assert compared >= 40
    assert more >= 20


def test_bytes_behind_the_end(originals: dict[Path, list[str]], tmp_path: Path) -> None:
    """A file ends where its header says; a stream where it ends."""
    perf = perf_opinion.perf_or_skip()
    record = HEADER.pack(SAMPLE, 0, 24) + b"\0" * 16
    for path, whole in originals.items():
        data = path.read_bytes()
        for tail in (b"\0", b"\xff", b"\0" * 100, b"\xff" * 100, record):
            variant = tmp_path / "variant.data"
            variant.write_bytes(data + tail)
            ours = perf_opinion.perfxmm_script(variant)
            assert ours.lines == whole, (path.name, tail)
            assert ours.code == (5 if is_pipe(data) else 0), (path.name, tail, ours.error)
        if path.name not in REFUSED:
            said = perf_opinion.perf_script(perf, variant)
            assert len(said.lines) <= len(whole)
