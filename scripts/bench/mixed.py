"""Mixed recordings for the benchmarks: every third record is side-band, call chains vary.

Dialect L with 16 XMM registers in each sample, so that every perf since 5.2 opens them. What is
written is one pattern of 20,000 samples, its times shifted, repeated: the repetitions have the
same processes and mappings again, as a long recording of a busy machine has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from samples import ATTR as FIXED_ATTR
from samples import CHUNK_SAMPLES, FIRST_TIME_NS, PERIOD_NS, PID

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, RecordType, SampleType
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer

LEAST_CHAIN, MOST_CHAIN = 2, 40
SIDEBAND_EVERY = 3
THREADS = 8
# FINISHED_ROUND after so many samples, as perf writes one after each turn over its rings.
ROUND_SAMPLES = 400

ATTR = EventAttr(
    type=FIXED_ATTR.type, sample_period=FIXED_ATTR.sample_period,
    sample_type=FIXED_ATTR.sample_type | int(SampleType.CALLCHAIN),
    flags=int(AttrFlag.SAMPLE_ID_ALL | AttrFlag.EXCLUDE_KERNEL), precise_ip=1,
    sample_regs_intr=FIXED_ATTR.sample_regs_intr,
)  # fmt: skip
_PERF_CONTEXT_USER = 2**64 - 512
_HEAD_WORDS = 6  # header, ip, tid, time, cpu, period
_TAIL_WORDS = 33  # abi, 16 registers of two words

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass
class Pattern:
    """Records as words, and the words among them that hold a time."""

    words: U64
    times: I64
    samples: int
    records: int

    def shift(self, nanoseconds: int) -> None:
        self.words[self.times] += np.uint64(nanoseconds)


def pattern(samples: int, seed: int = 1) -> Pattern:
    """So many samples with their side-band, from FIRST_TIME_NS on, PERIOD_NS apart."""
    rng = np.random.default_rng(seed)
    bodies = _samples(samples, rng)
    parts: list[U64] = []
    times: list[int] = []
    at = records = sideband = 0

    def put(words: U64, *where: int) -> None:
        nonlocal at, records
        parts.append(words)
        times.extend(at + place for place in where)
        at += len(words)
        records += 1

    for number, words in enumerate(bodies):
        put(words, 3)
        if number % (SIDEBAND_EVERY - 1) == SIDEBAND_EVERY - 2:
            made, where = _sideband(sideband, int(words[3]))
            put(made, *where)
            sideband += 1
        if number % ROUND_SAMPLES == ROUND_SAMPLES - 1:
            put(_words(encode.finished_round_record()))
    return Pattern(np.concatenate(parts), np.array(times, np.int64), samples, records)


def _samples(count: int, rng: np.random.Generator) -> list[U64]:
    lengths = rng.integers(LEAST_CHAIN, MOST_CHAIN + 1, count)
    ips = 0x401000 + 4 * rng.integers(0, 200, count)
    threads = PID + rng.integers(0, THREADS, count)
    values = rng.normal(1.0, 1e-3, (count, 32))
    values[::97, 6], values[::89, 9], values[::83, 10] = np.nan, np.inf, 5e-324
    callers = 0x400000 + 4 * rng.integers(0, 1 << 16, int(lengths.sum()))
    made = []
    taken = 0
    for number in range(count):
        length = int(lengths[number])
        words = np.empty(_HEAD_WORDS + 1 + length + _TAIL_WORDS, np.uint64)
        words[0] = RecordType.SAMPLE | (2 | 1 << 14) << 32 | 8 * len(words) << 48
        words[1] = ips[number]
        words[2] = PID | int(threads[number]) << 32
        words[3] = FIRST_TIME_NS + PERIOD_NS * number
        words[4], words[5], words[6] = number % 2, 10_007, length
        words[7], words[8] = _PERF_CONTEXT_USER, ips[number]
        words[9 : 7 + length] = callers[taken : taken + length - 2]
        words[7 + length] = 2
        words[8 + length :] = values[number].view("<u8")
        taken += length
        made.append(words)
    return made


def _sideband(number: int, time_ns: int) -> tuple[U64, tuple[int, ...]]:
    """One record, and which of its words hold times."""
    thread = PID + number % THREADS
    child = 5000 + number % 256
    sid = encode.SampleId(
        pid=PID, tid=thread, time_ns=time_ns, cpu=number % 2, sample_type=ATTR.sample_type
    )
    body_time: tuple[int, ...] = ()
    match number % 10:
        case 0 | 1 | 2:
            raw = encode.mmap2_record(
                PID, thread, 0x7F0000000000 + (number % 64 << 21), 0x40000, 0,
                f"/usr/lib/bench/lib{'n' * (number % 23)}{number % 64}.so", maj=8, ino=number % 64,
                sid=sid,
            )  # fmt: skip
        case 3 | 4:
            raw = encode.comm_record(PID, thread, "worker-" + "x" * (number % 8), sid=sid)
        case 5:
            raw, body_time = encode.fork_record(child, PID, child, PID, time_ns, sid), (3,)
        case 6:
            raw, body_time = encode.exit_record(child, PID, child, PID, time_ns, sid), (3,)
        case 7:
            raw = encode.lost_record(0, 1, sid)
        case 8:
            # THROTTLE and UNTHROTTLE: time, id, stream_id.
            kind = RecordType.THROTTLE if number % 20 == 8 else RecordType.UNTHROTTLE
            raw = encode.record(kind, time_ns.to_bytes(8, "little") + bytes(16), sid=sid)
            body_time = (1,)
        case _:
            raw = encode.record(RecordType.SWITCH, b"", misc=number % 2 << 13, sid=sid)
    words = _words(raw)
    return words, (*body_time, len(words) - 2)  # the trailer is tid, time, cpu


def _words(raw: bytes) -> U64:
    return np.frombuffer(bytearray(raw), "<u8")


def write_mixed(path: str, *, samples: int = 0, least_bytes: int = 0) -> tuple[int, int]:
    """Writes so many samples, or patterns until so many bytes are there; (bytes, samples)."""
    spec = EventSpec("cycles", ATTR, ())
    metadata = Metadata(source="pmu", dialect="L", classes=["xmm"])
    sid = encode.SampleId(
        pid=PID, tid=PID, time_ns=FIRST_TIME_NS - 1, sample_type=ATTR.sample_type
    )
    made: Pattern | None = None
    done = 0
    with Writer(path, [spec], metadata, force=True) as writer:
        writer.write(encode.comm_record(PID, PID, "bench", sid=sid))
        while done < samples or writer.bytes_written < least_bytes:
            count = min(CHUNK_SAMPLES, samples - done) if samples else CHUNK_SAMPLES
            if made is None or made.samples != count:
                made = pattern(count)
                made.shift(PERIOD_NS * done)
            writer.write(memoryview(made.words.view(np.uint8)))
            done += count
            made.shift(PERIOD_NS * count)
        written = writer.bytes_written
        writer.finish({"samples": done})
    return written, done
