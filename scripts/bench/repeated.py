"""A recording repeated with its times shifted, to any size: what a long recording looks like.

The base is a recording that perf makes here and now (cpu-clock, call chains, general registers, of
processes that come and go), or a written mixed one (mixed.py) where perf is missing or refused.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from mixed import write_mixed

from perfxmm.kernel.constants import RecordType
from perfxmm.perfdata.order import Clock, time_place
from perfxmm.perfdata.reader import Reader

RECORD_SECONDS = 4
_WORK = (
    "import os, subprocess, sys, time\n"
    f"end = time.monotonic() + {RECORD_SECONDS}\n"
    "while time.monotonic() < end:\n"
    "    subprocess.run([sys.executable, '-S', '-c', 'sum(i * i for i in range(200000))'])\n"
)
_HEADER_BYTES = 104
_DATA_AT, _FLAGS_AT = 40, 72
# Records that hold their time in their body too, and its byte there: FORK and EXIT after pid, ppid,
# tid, ptid; THROTTLE and UNTHROTTLE first (include/uapi/linux/perf_event.h, Linux 7.3).
_BODY_TIMES = {
    RecordType.FORK: 24, RecordType.EXIT: 24, RecordType.THROTTLE: 8, RecordType.UNTHROTTLE: 8,
}  # fmt: skip


def record_base(path: str) -> bool:
    """Records with perf; False where that cannot be done."""
    perf = shutil.which("perf")
    if perf is None:
        return False
    done = subprocess.run(
        [perf, "record", "-q", "-e", "cpu-clock", "-F", "10000", "-g",
         "--intr-regs=ax,bx,cx,dx,si,di,bp,sp,ip", "-o", path, "--", sys.executable, "-c", _WORK],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode == 0 and Path(path).is_file()


def write_base(path: str, *, samples: int) -> None:
    write_mixed(path, samples=samples)


@dataclass
class Lap:
    """The records that every repetition has again, and the words of theirs that hold a time."""

    words: npt.NDArray[np.uint64]
    times: npt.NDArray[np.int64]
    samples: int
    length_ns: int


class Repeated:
    """A file in the making at `path`: everything in `base` once, then laps as often as asked for.

    Records without a time, such as what perf tells of processes that ran before it, are in the
    first round only. Header features are left out. `size`, `samples`: of the file as it is now.
    """

    def __init__(self, base: str, path: str) -> None:
        reader = Reader(base)
        self._lap = _lap(reader)
        with open(base, "rb") as source:
            self._header = bytearray(source.read(_HEADER_BYTES))
            source.seek(0)
            front = source.read(reader.data_start)
            data = source.read(reader.data_end - reader.data_start)
        self._header[_FLAGS_AT:] = bytes(_HEADER_BYTES - _FLAGS_AT)
        self._data_start = reader.data_start
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self._file.write(front)
        self._file.write(data)
        self.samples = self._lap.samples
        self._finish()

    def grow(self, size: int) -> None:
        """Adds laps until the file is no smaller than `size` bytes."""
        lap = self._lap
        while self.size < size:
            lap.words[lap.times] += np.uint64(lap.length_ns)
            self._file.write(memoryview(lap.words).cast("B"))
            self.samples += lap.samples
            self.size += lap.words.nbytes
        self._finish()

    def close(self) -> None:
        self._file.close()

    def _finish(self) -> None:
        self._file.flush()
        end = self._file.tell()
        struct.pack_into("<QQ", self._header, _DATA_AT, self._data_start, end - self._data_start)
        self._file.seek(0)
        self._file.write(self._header)
        self._file.flush()
        self._file.seek(end)
        self.size = end


def _lap(reader: Reader) -> Lap:
    attrs = [event.attr for event in reader.events]
    if len({time_place(attr) for attr in attrs}) != 1:
        raise SystemExit("events that hold their times in different places are not repeated")
    place = time_place(attrs[0])
    clock = Clock(attrs, [event.ids for event in reader.events])
    parts, spots = [], []
    first, last = 1 << 63, 0
    at = samples = 0
    for block in reader.blocks():
        times = clock.times(block)
        is_sample = block.types == RecordType.SAMPLE
        again = (times != 0) | is_sample | (block.types == RecordType.FINISHED_ROUND)
        samples += int(is_sample.sum())
        for row in np.flatnonzero(again):
            record = block.record(int(row))
            kind, size = int(block.types[row]), len(record)
            if kind == RecordType.SAMPLE:
                spots.append(at + place.sample_time)
            elif kind != RecordType.FINISHED_ROUND:
                spots.append(at + size - place.trailer_time)
                if kind in _BODY_TIMES:
                    spots.append(at + _BODY_TIMES[RecordType(kind)])
            parts.append(record)
            at += size
        known = times[times != 0]
        if len(known):
            first, last = min(first, int(known.min())), max(last, int(known.max()))
    words = np.frombuffer(bytearray(b"".join(parts)), np.uint64)
    return Lap(words, np.array(spots, np.int64) // 8, samples, last - first + 1_000_000)
