"""Records as bytes: what a recorder that is not the kernel has to write itself.

Pure functions. Every record is little-endian, a multiple of 8 bytes long, and ends with the
sample_id trailer where `sid` is given, as the kernel does for events with sample_id_all.
Layouts: include/uapi/linux/perf_event.h and tools/lib/perf/include/perf/event.h, Linux 7.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from perfxmm.kernel.constants import (
    MISC_COMM_EXEC,
    MISC_MMAP_BUILD_ID,
    MISC_MMAP_DATA,
    CpuMode,
    RecordType,
    SampleType,
)

HEADER = struct.Struct("<IHH")
MAX_RECORD_BYTES = 0xFFF8  # header.size is a u16 and records are multiples of 8
PROT_EXEC = 4
MAP_PRIVATE = 2
# A path longer than PATH_MAX cannot come from the kernel.
MAX_NAME_BYTES = 4096
MAX_BUILD_ID_BYTES = 20

TRAILER_BITS = (
    SampleType.TID | SampleType.TIME | SampleType.ID | SampleType.STREAM_ID | SampleType.CPU
    | SampleType.IDENTIFIER
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleId:
    """The sample_id trailer. sample_type decides which fields are written.

    identifier serves for ID, STREAM_ID and IDENTIFIER alike.
    """

    pid: int = 0
    tid: int = 0
    time_ns: int = 0
    cpu: int = 0
    identifier: int = 0
    sample_type: int = int(
        SampleType.TID | SampleType.TIME | SampleType.CPU | SampleType.IDENTIFIER
    )

    def encode(self) -> bytes:
        parts = []
        if self.sample_type & SampleType.TID:
            parts.append(struct.pack("<II", self.pid & 0xFFFFFFFF, self.tid & 0xFFFFFFFF))
        if self.sample_type & SampleType.TIME:
            parts.append(struct.pack("<Q", self.time_ns))
        if self.sample_type & SampleType.ID:
            parts.append(struct.pack("<Q", self.identifier))
        if self.sample_type & SampleType.STREAM_ID:
            parts.append(struct.pack("<Q", self.identifier))
        if self.sample_type & SampleType.CPU:
            parts.append(struct.pack("<II", self.cpu & 0xFFFFFFFF, 0))
        if self.sample_type & SampleType.IDENTIFIER:
            parts.append(struct.pack("<Q", self.identifier))
        return b"".join(parts)


def record(record_type: int, body: bytes, *, misc: int = 0, sid: SampleId | None = None) -> bytes:
    """One record: header, body padded to 8 bytes, trailer. Raises ValueError past 64 KiB."""
    payload = body + b"\0" * (-len(body) % 8) + (sid.encode() if sid else b"")
    size = HEADER.size + len(payload)
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {size} bytes does not fit into perf's 16-bit size")
    return HEADER.pack(record_type, misc, size) + payload


def sample_record(body: bytes, *, misc: int = CpuMode.USER) -> bytes:
    """PERF_RECORD_SAMPLE around fields that the caller laid out by its sample_type."""
    return record(RecordType.SAMPLE, body, misc=misc)


def comm_record(
    pid: int, tid: int, comm: str | bytes, exec_: bool = False, sid: SampleId | None = None,
    *, misc: int = 0,
) -> bytes:
    """PERF_RECORD_COMM. exec_: the name was set by execve."""
    misc |= MISC_COMM_EXEC if exec_ else 0
    return record(RecordType.COMM, struct.pack("<II", pid, tid) + _name(comm), misc=misc, sid=sid)


def mmap2_record(
    pid: int, tid: int, start: int, length: int, pgoff: int, path: str | bytes,
    prot: int = PROT_EXEC | 1, flags: int = MAP_PRIVATE, build_id: bytes | None = None,
    maj: int = 0, min: int = 0, ino: int = 0, ino_gen: int = 0, sid: SampleId | None = None,
    *, misc: int = CpuMode.USER,
) -> bytes:  # fmt: skip
    """PERF_RECORD_MMAP2, with the build id in place of device and inode where it is given.

    The MMAP_DATA bit follows from prot, as in the kernel. Build ids longer than 20 bytes are cut
    to 20: that is all the record holds.
    """
    if build_id:
        build_id = build_id[:MAX_BUILD_ID_BYTES]
        identity = struct.pack("<BBH20s", len(build_id), 0, 0, build_id)
        misc |= MISC_MMAP_BUILD_ID
    else:
        identity = struct.pack("<IIQQ", maj, min, ino, ino_gen)
    if not prot & PROT_EXEC:
        misc |= MISC_MMAP_DATA
    body = struct.pack("<iiQQQ", pid, tid, start, length, pgoff) + identity
    body += struct.pack("<II", prot, flags) + _name(path)
    return record(RecordType.MMAP2, body, misc=misc, sid=sid)


def mmap_record(
    pid: int, tid: int, start: int, length: int, pgoff: int, path: str | bytes,
    sid: SampleId | None = None, *, misc: int = CpuMode.KERNEL,
) -> bytes:  # fmt: skip
    """PERF_RECORD_MMAP; what perf uses for the kernel's own text (pid -1)."""
    body = struct.pack("<iiQQQ", pid, tid, start, length, pgoff) + _name(path)
    return record(RecordType.MMAP, body, misc=misc, sid=sid)


def fork_record(
    pid: int, ppid: int, tid: int, ptid: int, time_ns: int, sid: SampleId | None = None, *,
    misc: int = 0,
) -> bytes:
    """PERF_RECORD_FORK: a process (pid != ppid) or a thread (pid == ppid) began."""
    body = struct.pack("<IIIIQ", pid, ppid, tid, ptid, time_ns)
    return record(RecordType.FORK, body, misc=misc, sid=sid)


def exit_record(
    pid: int, ppid: int, tid: int, ptid: int, time_ns: int, sid: SampleId | None = None
) -> bytes:
    """PERF_RECORD_EXIT of thread `tid`."""
    return record(RecordType.EXIT, struct.pack("<IIIIQ", pid, ppid, tid, ptid, time_ns), sid=sid)


def lost_record(identifier: int, lost: int, sid: SampleId | None = None) -> bytes:
    """PERF_RECORD_LOST: `lost` records of the event `identifier` found no room."""
    return record(RecordType.LOST, struct.pack("<QQ", identifier, lost), sid=sid)


def lost_samples_record(lost: int, sid: SampleId | None = None) -> bytes:
    """PERF_RECORD_LOST_SAMPLES."""
    return record(RecordType.LOST_SAMPLES, struct.pack("<Q", lost), sid=sid)


def finished_round_record() -> bytes:
    """PERF_RECORD_FINISHED_ROUND: a promise about time order, see perfdata.order."""
    return HEADER.pack(RecordType.FINISHED_ROUND, 0, HEADER.size)


def tracing_data_record(data: bytes) -> bytes:
    """HEADER_TRACING_DATA and the data, which stand behind the record and are not in its size."""
    data = data + b"\0" * (-len(data) % 8)
    return record(RecordType.HEADER_TRACING_DATA, struct.pack("<I", len(data))) + data


def _name(text: str | bytes) -> bytes:
    # surrogateescape brings back the very bytes that the kernel gave for a name.
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    raw = raw.split(b"\0", 1)[0][: MAX_NAME_BYTES - 1] + b"\0"
    return raw + b"\0" * (-len(raw) % 8)
