"""What is no recording, or is packed, is answered by one line that says what it is, and exit 5."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path

import pytest
from backports import zstd
from support import inprocess
from support import perfdata_writer as w

from perfxmm.errors import DamagedInput
from perfxmm.perfdata.reader import Reader

GOOD = w.PerfFile(records=[w.sample(1), w.sample(2)]).build()
VERBS = (("script", "-i"), ("report", "-i"), ("inspect",), ("export", "--format", "csv", "-i"))
KINDS = {
    "gzip": (gzip.compress(GOOD), "it is a gzip file", "zcat FILE | perfxmm VERB -i -"),
    "xz": (lzma.compress(GOOD), "it is an xz file", "xzcat FILE | perfxmm VERB -i -"),
    "bzip2": (bz2.compress(GOOD), "it is a bzip2 file", "bzcat FILE | perfxmm VERB -i -"),
    "zstd": (zstd.compress(GOOD), "it is a zstd file", "zstdcat FILE | perfxmm VERB -i -"),
    "lz4": (b"\x04\x22\x4d\x18dat", "it is an lz4 file", "lz4cat FILE | perfxmm VERB -i -"),
    "zip": (b"PK\x03\x04rest", "it is a zip archive", "unpack it first"),
    "elf": (b"\x7fELF\2\1\1\0", "it is a program, library or core dump (ELF)",
            "name the recording, not the program"),
    "jitdump": (b"DTiJ\1\0\0\0", "it is a jitdump", "name the recording"),
    "trace-cmd": (b"\x17\x08Dtracing6\0", "it is a trace of trace-cmd", "name a recording"),
    "report": (b"# To display the perf.data header info", "it is text", "name the recording"),
    "script": (b"sleep  4053 [001] 7.5: cycles: 1a2b main", "it looks like text",
               "name the recording that it was made from"),
    "json": (b'{"schema": "perfxmm.snapshot/1"}', "it is JSON", "name the recording"),
    "noise": (bytes(range(128, 200)), "it does not begin with PERFILE2", ""),
    "zeros": (bytes(200), "it does not begin with PERFILE2", ""),
    "nothing": (b"", "the file is empty", "nothing was recorded in it"),
    "a part of the magic": (b"PERFI", "the file ends inside its header", ""),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_is_and_what_to_do(kind: str, verb: tuple[str, ...], tmp_path: Path) -> None:
    data, what, hint = KINDS[kind]
    path = tmp_path / "perf.data"
    path.write_bytes(data)
    ran = inprocess.run(*verb, path)
    assert (ran.code, ran.out) == (5, "")
    first, *rest = ran.err.splitlines()
    assert what in first
    assert str(path) in first
    assert len(rest) == bool(hint)
    assert not hint or hint in rest[0]


def test_a_directory_without_a_recording(tmp_path: Path) -> None:
    ran = inprocess.run("script", "-i", tmp_path)
    assert ran.code == 5
    assert "the recording is a directory" in ran.err
    assert len(ran.err.splitlines()) == 1


class Endless(io.RawIOBase):
    """A stream of one byte value that has no end; counts what is taken of it."""

    def __init__(self, byte: int) -> None:
        self.byte, self.taken = byte, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self.taken += len(buffer)
        assert self.taken < 8 << 20, "it is read on and on"
        buffer[:] = bytes([self.byte]) * len(buffer)
        return len(buffer)


@pytest.mark.parametrize("byte", [0, ord("y"), 0xFF])
def test_a_stream_without_end_is_looked_at_before_it_is_copied(byte: int) -> None:
    stream = Endless(byte)
    with pytest.raises(DamagedInput, match="this is not"):
        Reader(stream)  # type: ignore[arg-type]
    assert stream.taken <= 1 << 20


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_device_without_end(verb: tuple[str, ...]) -> None:
    ran = inprocess.run(*verb, "/dev/zero")
    assert (ran.code, ran.out) == (5, "")
    assert "/dev/zero" in ran.err


class Dripping(io.RawIOBase):
    """A stream that comes byte by byte."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        one, self.rest = self.rest[:1], self.rest[1:]
        return one


@pytest.mark.parametrize(
    "data", [GOOD, w.PerfFile(records=[w.sample(1), w.sample(2)]).build_pipe()]
)
def test_a_stream_that_comes_in_small_pieces(data: bytes) -> None:
    source = Reader(Dripping(data))  # type: ignore[arg-type]
    assert sum(int((block.types == w.SAMPLE).sum()) for block in source.blocks()) == 2
    assert source.damage == []
