"""Feature sections: what perf.data says of the machine and the recording.

Encoding and decoding stand side by side, one pair for each shape; decoders take the byte order of
the recording as `struct` has it. A feature that cannot be decoded is reported by ValueError or
struct.error; the reader turns that into damage. Here is what reading itself needs; `featuretext`
has all of them.
Source of the shapes: tools/perf/util/header.c, Linux 7.3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from perfxmm.kernel.constants import CpuMode
from perfxmm.perfdata.format import NAME_ALIGN, BuildId, Feature

# perf's own flag in a build id entry: the length byte is valid.
MISC_BUILD_ID_SIZE = 1 << 15
BUILD_ID_ENTRY = struct.Struct("<IHHi20sBBH")
# Before Linux 2.6.35 an entry had no pid. Read with one, the kernel's name has lost its beginning.
_ENTRY_WITHOUT_PID = struct.Struct("<IHH20sI")
_SHORTENED_KERNEL = "nel.kallsyms]"

_MOST_STRINGS = 1 << 16
_MOST_ENTRIES = 1 << 17
_CLOCK_DATA_VERSION = 1


def encode_string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") + b"\0"
    raw += b"\0" * (-len(raw) % NAME_ALIGN)
    return struct.pack("<I", len(raw)) + raw


def decode_string(data: bytes, offset: int = 0, order: str = "<") -> tuple[str, int]:
    """The string at `offset` and the offset behind it."""
    (length,) = struct.unpack_from(f"{order}I", data, offset)
    end = offset + 4 + length
    if end > len(data):
        raise ValueError(f"a string of {length} bytes does not fit")
    raw = data[offset + 4 : end].split(b"\0", 1)[0]
    return raw.decode("utf-8", "surrogateescape"), end


def encode_strings(texts: Sequence[str]) -> bytes:
    return struct.pack("<I", len(texts)) + b"".join(encode_string(t) for t in texts)


def decode_strings(data: bytes, order: str = "<") -> list[str]:
    (count,) = struct.unpack_from(f"{order}I", data)
    if count > _MOST_STRINGS:
        raise ValueError(f"{count} strings are not plausible")
    offset, texts = 4, []
    for _ in range(count):
        text, offset = decode_string(data, offset, order)
        texts.append(text)
    return texts


def encode_nrcpus(online: int, available: int) -> bytes:
    return struct.pack("<II", available, online)


def decode_nrcpus(data: bytes, order: str = "<") -> tuple[int, int]:
    """(online, available)"""
    available, online = struct.unpack_from(f"{order}II", data)
    return online, available


def encode_build_ids(entries: Sequence[BuildId]) -> bytes:
    out = []
    for entry in entries:
        name = entry.path.encode("utf-8", "surrogateescape")[:4095] + b"\0"
        name += b"\0" * (-len(name) % NAME_ALIGN)
        build_id = entry.build_id[:20]
        misc = MISC_BUILD_ID_SIZE | (CpuMode.KERNEL if entry.kernel else CpuMode.USER)
        size = BUILD_ID_ENTRY.size + len(name)
        out.append(
            BUILD_ID_ENTRY.pack(0, misc, size, entry.pid, build_id, len(build_id), 0, 0) + name
        )
    return b"".join(out)


def decode_build_ids(data: bytes, order: str = "<") -> list[BuildId]:
    entries = list(_build_ids(data, struct.Struct(order + BUILD_ID_ENTRY.format[1:])))
    if any(entry.path == _SHORTENED_KERNEL for entry in entries):
        entries = list(_build_ids(data, struct.Struct(order + _ENTRY_WITHOUT_PID.format[1:])))
    return entries


def _build_ids(data: bytes, form: struct.Struct) -> Iterator[BuildId]:
    offset = count = 0
    while offset + form.size <= len(data):
        _, misc, size, *rest = form.unpack_from(data, offset)
        if size < form.size or offset + size > len(data) or count >= _MOST_ENTRIES:
            raise ValueError(f"build id entry {count} at {offset} has size {size}")
        if form.size == BUILD_ID_ENTRY.size:
            pid, build_id, length = rest[:3]
        else:
            pid, build_id, length = -1, rest[0], 0
        if not misc & MISC_BUILD_ID_SIZE or not 0 < length <= 20:
            length = 20
        path = data[offset + form.size : offset + size].split(b"\0", 1)[0]
        yield BuildId(
            path.decode("utf-8", "surrogateescape"), build_id[:length], pid,
            misc & 7 in (CpuMode.KERNEL, CpuMode.GUEST_KERNEL),
        )  # fmt: skip
        offset += size
        count += 1


def encode_event_desc(events: Sequence[tuple[bytes, str, Sequence[int]]]) -> bytes:
    """events: (attr bytes, all of the same length; name; ids)."""
    out = [struct.pack("<II", len(events), len(events[0][0]) if events else 0)]
    for attr, name, ids in events:
        out.append(attr + struct.pack("<I", len(ids)) + encode_string(name))
        out.append(struct.pack(f"<{len(ids)}Q", *ids))
    return b"".join(out)


def decode_event_desc(
    data: bytes, order: str = "<"
) -> list[tuple[bytes, str, tuple[int, ...]]]:
    """(attr in the recording's byte order, name, ids) of each event."""
    count, attr_bytes = struct.unpack_from(f"{order}II", data)
    if count > _MOST_STRINGS or attr_bytes > 1 << 16:
        raise ValueError(f"{count} events with attrs of {attr_bytes} bytes are not plausible")
    offset, events = 8, []
    for _ in range(count):
        attr = data[offset : offset + attr_bytes]
        (ids_count,) = struct.unpack_from(f"{order}I", data, offset + attr_bytes)
        name, offset = decode_string(data, offset + attr_bytes + 4, order)
        if ids_count > (len(data) - offset) // 8:
            raise ValueError(f"{ids_count} ids do not fit")
        ids = struct.unpack_from(f"{order}{ids_count}Q", data, offset)
        offset += 8 * ids_count
        events.append((attr, name, ids))
    return events


def decode_sample_time(data: bytes, order: str = "<") -> tuple[int, int]:
    """(first, last) time of a sample, ns."""
    first, last = struct.unpack_from(f"{order}QQ", data)
    return first, last


def encode_clock_data(clockid: int, wall_ns: int, clock_ns: int) -> bytes:
    """The same instant by the wall clock and by the clock of the recording."""
    return struct.pack("<IIQQ", _CLOCK_DATA_VERSION, clockid, wall_ns, clock_ns)


def decode_clock_data(data: bytes, order: str = "<") -> tuple[int, int, int]:
    """(clockid, wall_ns, clock_ns)"""
    version, clockid, wall_ns, clock_ns = struct.unpack_from(f"{order}IIQQ", data)
    if version != _CLOCK_DATA_VERSION:
        raise ValueError(f"version {version} is not known")
    return clockid, wall_ns, clock_ns


def decode_pmu_mappings(data: bytes, order: str = "<") -> dict[int, str]:
    """PMU number (attr.type) -> its name, on the machine of the recording."""
    (count,) = struct.unpack_from(f"{order}I", data)
    if count > _MOST_STRINGS:
        raise ValueError(f"{count} PMUs are not plausible")
    offset, names = 4, {}
    for _ in range(count):
        (number,) = struct.unpack_from(f"{order}I", data, offset)
        names[number], offset = decode_string(data, offset + 4, order)
    return names


def _only_string(data: bytes, order: str) -> str:
    return decode_string(data, 0, order)[0]


def _total_mem(data: bytes, order: str) -> int:
    return int(struct.unpack_from(f"{order}Q", data)[0])


def raw(data: bytes, order: str) -> bytes:
    """For a feature that has no decoder here."""
    return data


# Feature -> (key in Reader.features, decoder). What is not here is kept raw, by bit number.
DECODERS: dict[int, tuple[str, Callable[[bytes, str], Any]]] = {
    Feature.HOSTNAME: ("hostname", _only_string),
    Feature.OSRELEASE: ("osrelease", _only_string),
    Feature.VERSION: ("version", _only_string),
    Feature.ARCH: ("arch", _only_string),
    Feature.CPUDESC: ("cpudesc", _only_string),
    Feature.CPUID: ("cpuid", _only_string),
    Feature.NRCPUS: ("nrcpus", decode_nrcpus),
    Feature.TOTAL_MEM: ("total_mem_kib", _total_mem),
    Feature.CMDLINE: ("cmdline", decode_strings),
    Feature.BUILD_ID: ("build_ids", decode_build_ids),
    Feature.PMU_MAPPINGS: ("pmu_mappings", decode_pmu_mappings),
    Feature.EVENT_DESC: ("event_desc", decode_event_desc),
    Feature.SAMPLE_TIME: ("sample_time", decode_sample_time),
    Feature.CLOCK_DATA: ("clock_data", decode_clock_data),
}


def machine_features(command_line: Sequence[str], version: str) -> dict[int, bytes]:
    """What can be said of this machine, by feature. Facts that cannot be read are left out."""
    name = os.uname()
    found = {
        int(Feature.HOSTNAME): encode_string(name.nodename),
        int(Feature.OSRELEASE): encode_string(name.release),
        int(Feature.VERSION): encode_string(version),
        int(Feature.ARCH): encode_string(name.machine),
    }
    online, available = os.cpu_count() or 0, os.sysconf("SC_NPROCESSORS_CONF")
    if online:
        found[Feature.NRCPUS] = encode_nrcpus(online, available)
    cpu = _cpuinfo()
    if "model name" in cpu:
        found[Feature.CPUDESC] = encode_string(cpu["model name"])
    if {"vendor_id", "cpu family", "model", "stepping"} <= cpu.keys():
        cpuid = "{vendor_id},{cpu family},{model},{stepping}".format_map(cpu)
        found[Feature.CPUID] = encode_string(cpuid)
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    if pages > 0 and page > 0:
        found[Feature.TOTAL_MEM] = struct.pack("<Q", pages * page // 1024)
    if command_line:
        found[Feature.CMDLINE] = encode_strings(command_line)
    return found


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; {} where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
