"""Recordings for the benchmarks, as large as wanted: dialect L, 16 XMM registers a sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, RecordType, SampleType
from perfxmm.kernel.registers import LEGACY_XMM_MASK
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer

CHUNK_SAMPLES = 20_000
FIRST_TIME_NS = 1_000_000_000
PERIOD_NS = 1_000_000
PID = 4242

ATTR = EventAttr(
    type=int(PerfType.HARDWARE), sample_period=10_007,
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
                    | SampleType.PERIOD | SampleType.REGS_INTR),
    flags=int(AttrFlag.SAMPLE_ID_ALL | AttrFlag.EXCLUDE_KERNEL), precise_ip=1,
    sample_regs_intr=LEGACY_XMM_MASK,
)  # fmt: skip
SAMPLE = np.dtype([
    ("type", "<u4"), ("misc", "<u2"), ("size", "<u2"), ("ip", "<u8"), ("pid", "<i4"),
    ("tid", "<i4"), ("time", "<u8"), ("cpu", "<u4"), ("reserved", "<u4"), ("period", "<u8"),
    ("abi", "<u8"), ("xmm", "<u8", (16, 2)),
])  # fmt: skip


def chunk(first: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.void]:
    """Samples first..first+count: doubles near 1 with a few specials, 200 different IPs."""
    made = np.zeros(count, SAMPLE)
    made["type"], made["misc"], made["size"] = RecordType.SAMPLE, 2 | 1 << 14, SAMPLE.itemsize
    made["ip"] = 0x401000 + 4 * rng.integers(0, 200, count)
    made["pid"], made["tid"] = PID, PID + rng.integers(0, 4, count)
    made["time"] = FIRST_TIME_NS + PERIOD_NS * np.arange(first, first + count, dtype=np.uint64)
    made["cpu"], made["period"], made["abi"] = first % 2, 10_007, 2
    values = rng.normal(1.0, 1e-3, (count, 16, 2))
    values[::97, 3, 0], values[::89, 4, 1], values[::83, 5, 0] = np.nan, np.inf, 5e-324
    made["xmm"] = values.view("<u8")
    return made


def write_recording(path: str, samples: int) -> int:
    """Writes so many samples; bytes written. One pattern, its times shifted, repeated."""
    spec = EventSpec("cycles", ATTR, ())
    metadata = Metadata(source="pmu", dialect="L", classes=["xmm"])
    sid = encode.SampleId(
        pid=PID, tid=PID, time_ns=FIRST_TIME_NS - 1, sample_type=ATTR.sample_type
    )
    with Writer(path, [spec], metadata, force=True) as writer:
        writer.write(encode.comm_record(PID, PID, "bench", sid=sid))
        pattern = chunk(0, min(samples, CHUNK_SAMPLES), np.random.default_rng(1))
        for first in range(0, samples, CHUNK_SAMPLES):
            part = pattern[: min(CHUNK_SAMPLES, samples - first)]
            writer.write(memoryview(part.view(np.uint8)))
            pattern["time"] += np.uint64(PERIOD_NS * CHUNK_SAMPLES)
        written = writer.bytes_written
        writer.finish({"samples": samples})
    return written
