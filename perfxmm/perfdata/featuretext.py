"""Every feature of a recording decoded, and told in the words of `perf report --header-only -I`.

What the reader itself needs is decoded in `features`; this is for those who want to see it all.
Shapes: the process_* functions of tools/perf/util/header.c, Linux 7.3. Lines are as perf's
print_* functions have them, without the "# " in front.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from perfxmm.kernel.attrtext import CLOCK_NAMES
from perfxmm.perfdata.format import Feature

_NAMED_DOMAINS = 17  # schedstat versions from here on name each domain
_MOST_ENTRIES = 1 << 16
_COMPRESSION = {0: "none", 1: "Zstd"}
# HEADER_BUILD_ID_SIZE, PERF_RECORD_MISC_BUILD_ID_SIZE: the length byte is valid.
_BUILD_ID_SIZED = 1 << 15


def feature_name(bit: int) -> str:
    """perf's name of a feature, lower case; "bit N" for one that has none here."""
    try:
        return Feature(bit).name.lower()
    except ValueError:
        return f"bit {bit}"


def decode(bit: int, body: bytes, order: str = "<", cpus: int = 0) -> Any:
    """A feature's contents as JSON takes them; None where its shape is not known.

    order: "<" or ">", the recording's byte order. cpus: available ones as NRCPUS says, which
    CPU_TOPOLOGY and CPU_DOMAIN_INFO depend on.
    Raises ValueError or struct.error for contents that make no sense.
    """
    take = _DECODERS.get(bit)
    return None if take is None else take(_Cursor(body, order, cpus))


def lines(bit: int, value: Any, size: int, events: Sequence[str] = ()) -> list[str]:
    """A decoded feature in perf's words; raw ones by name and size. Not escaped.

    events: names, which groups of events are told by.
    """
    if bit == Feature.GROUP_DESC and value is not None:
        return [_group_line(group, events) for group in value]
    if bit in _FLAGS:
        return [_FLAGS[bit]]
    if bit in _LABELS:
        return [f"{_LABELS[bit]} : {value}"] if value is not None else []
    tell = _LINES.get(bit)
    if tell is None or value is None:
        return [f"{feature_name(bit)} : {size} bytes"]
    return tell(value)


class _Cursor:
    """Reads fields one behind the other. Raises ValueError where they do not fit."""

    def __init__(self, data: bytes, order: str, cpus: int) -> None:
        self.data = data
        self.order = order
        self.cpus = cpus
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def number(self, kind: str = "I") -> int:
        (value,) = struct.unpack_from(self.order + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def count(self, least_bytes: int) -> int:
        """A u32 that says how many entries of at least so many bytes follow."""
        return self.plausible(self.number(), least_bytes)

    def plausible(self, count: int, least_bytes: int) -> int:
        if count > _MOST_ENTRIES or count * least_bytes > self.left:
            raise ValueError(f"{count} entries do not fit into {self.left} bytes")
        return count

    def string(self) -> str:
        length = self.number()
        if length > self.left:
            raise ValueError(f"a string of {length} bytes does not fit")
        raw = self.data[self.at : self.at + length].split(b"\0", 1)[0]
        self.at += length
        return raw.decode("utf-8", "surrogateescape")

    def strings(self) -> list[str]:
        return [self.string() for _ in range(self.count(4))]

    def skip(self, length: int) -> None:
        if length > self.left:
            raise ValueError(f"{length} bytes do not fit")
        self.at += length


# --- one feature each


def _only_string(cursor: _Cursor) -> str:
    return cursor.string()


def _nrcpus(cursor: _Cursor) -> dict[str, int]:
    available = cursor.number()
    return {"online": cursor.number(), "available": available}


def _total_mem(cursor: _Cursor) -> int:
    return cursor.number("Q")


def _cmdline(cursor: _Cursor) -> list[str]:
    return cursor.strings()


def _build_ids(cursor: _Cursor) -> list[dict[str, Any]]:
    entries = []
    while cursor.left >= 36:
        begin = cursor.at
        _, misc, size, pid = struct.unpack_from(cursor.order + "IHHi", cursor.data, begin)
        if size < 36 or size > cursor.left:
            raise ValueError(f"build id entry at {begin} has size {size}")
        raw = cursor.data[begin + 12 : begin + 36]
        length = raw[20] if misc & _BUILD_ID_SIZED and 0 < raw[20] <= 20 else 20
        path = cursor.data[begin + 36 : begin + size].split(b"\0", 1)[0]
        entries.append({
            "path": path.decode("utf-8", "surrogateescape"), "build_id": raw[:length].hex(),
            "pid": pid,
        })  # fmt: skip
        cursor.at = begin + size
    return entries


def _event_desc(cursor: _Cursor) -> list[dict[str, Any]]:
    events, attr_bytes = cursor.number(), cursor.number()
    cursor.plausible(events, 8 + attr_bytes)
    found = []
    for _ in range(events):
        cursor.skip(attr_bytes)
        ids = cursor.plausible(cursor.number(), 8)
        name = cursor.string()
        found.append({"name": name, "ids": [cursor.number("Q") for _ in range(ids)]})
    return found


def _cpu_topology(cursor: _Cursor) -> dict[str, Any]:
    said: dict[str, Any] = {
        "sibling_sockets": cursor.strings(), "sibling_threads": cursor.strings(),
    }  # fmt: skip
    cpus = cursor.cpus
    if 8 * cpus > cursor.left or not cpus:
        return said  # perf before 2.6.40, or a machine without NRCPUS, says no more
    said["cpus"] = [{"core": cursor.number(), "socket": cursor.number()} for _ in range(cpus)]
    if cursor.left:
        said["sibling_dies"] = cursor.strings()
        for cpu in said["cpus"]:
            cpu["die"] = cursor.number()
    return said


def _numa_topology(cursor: _Cursor) -> list[dict[str, Any]]:
    return [
        {
            "node": cursor.number(), "total_kib": cursor.number("Q"),
            "free_kib": cursor.number("Q"), "cpus": cursor.string(),
        }
        for _ in range(cursor.count(24))
    ]  # fmt: skip


def _pmu_mappings(cursor: _Cursor) -> list[dict[str, Any]]:
    return [{"type": cursor.number(), "name": cursor.string()} for _ in range(cursor.count(8))]


def _group_desc(cursor: _Cursor) -> list[dict[str, Any]]:
    return [
        {"name": cursor.string(), "leader": cursor.number(), "members": cursor.number()}
        for _ in range(cursor.count(12))
    ]


def _auxtrace(cursor: _Cursor) -> list[dict[str, int]]:
    """The index of AUX data: u64 count, then file offset and header.size of that many AUXTRACE
    records (struct auxtrace_index_entry)."""
    found = []
    while cursor.left >= 8:
        for _ in range(cursor.plausible(cursor.number("Q"), 16)):
            found.append({"offset": cursor.number("Q"), "size": cursor.number("Q")})
    return found


def _nothing(cursor: _Cursor) -> bool:
    return True


def _cache(cursor: _Cursor) -> list[dict[str, Any]]:
    _version(cursor.number())
    return [
        {
            "level": cursor.number(), "line_bytes": cursor.number(), "sets": cursor.number(),
            "ways": cursor.number(), "type": cursor.string(), "size": cursor.string(),
            "cpus": cursor.string(),
        }
        for _ in range(cursor.count(28))
    ]  # fmt: skip


def _sample_time(cursor: _Cursor) -> dict[str, int]:
    return {"first_ns": cursor.number("Q"), "last_ns": cursor.number("Q")}


def _mem_topology(cursor: _Cursor) -> dict[str, Any]:
    _version(cursor.number("Q"))
    block, nodes = cursor.number("Q"), []
    for _ in range(cursor.plausible(cursor.number("Q"), 24)):
        number = cursor.number("Q")
        cursor.number("Q")  # bits, told again with the bitmap
        words = cursor.plausible((cursor.number("Q") + 63) // 64, 8)
        mask = int.from_bytes(b"".join(
            cursor.number("Q").to_bytes(8, "little") for _ in range(words)
        ), "little")  # fmt: skip
        nodes.append({"node": number, "blocks": mask.bit_count(), "present": _list_of(mask)})
    return {"block_bytes": block, "nodes": nodes}


def _clockid(cursor: _Cursor) -> dict[str, int]:
    return {"resolution_ns": cursor.number("Q")}


def _dir_format(cursor: _Cursor) -> dict[str, int]:
    return {"version": cursor.number("Q")}


def _bpf_prog_info(cursor: _Cursor) -> list[dict[str, int]]:
    found = []
    for _ in range(cursor.count(16)):
        info_bytes, data_bytes = cursor.number(), cursor.number()
        cursor.number("Q")
        # struct bpf_prog_info begins with type and id (include/uapi/linux/bpf.h).
        kind, number = struct.unpack_from(cursor.order + "II", cursor.data, cursor.at)
        cursor.skip(info_bytes + data_bytes)
        found.append({"type": kind, "id": number})
    return found


def _bpf_btf(cursor: _Cursor) -> list[dict[str, int]]:
    found = []
    for _ in range(cursor.count(8)):
        number, size = cursor.number(), cursor.number()
        cursor.skip(size)
        found.append({"id": number, "bytes": size})
    return found


def _compressed(cursor: _Cursor) -> dict[str, Any]:
    version, kind = cursor.number(), cursor.number()
    return {
        "version": version, "type": _COMPRESSION.get(kind, f"type {kind}"),
        "level": cursor.number(), "ratio": cursor.number(), "mmap_bytes": cursor.number(),
    }  # fmt: skip


def _caps(cursor: _Cursor) -> dict[str, str]:
    return {cursor.string(): cursor.string() for _ in range(cursor.count(8))}


def _pmu_caps(cursor: _Cursor) -> list[dict[str, Any]]:
    found = []
    for _ in range(cursor.count(8)):
        caps = _caps(cursor)
        found.append({"pmu": cursor.string(), "caps": caps})
    return found


def _clock_data(cursor: _Cursor) -> dict[str, int]:
    _version(cursor.number())
    return {
        "clockid": cursor.number(), "wall_ns": cursor.number("Q"), "clock_ns": cursor.number("Q")
    }


def _hybrid_topology(cursor: _Cursor) -> list[dict[str, str]]:
    return [{"pmu": cursor.string(), "cpus": cursor.string()} for _ in range(cursor.count(8))]


def _cpu_domain_info(cursor: _Cursor) -> dict[str, Any]:
    version, most = cursor.number(), cursor.number()
    cpus = []
    while cursor.left >= 8:
        number = cursor.number()
        domains = []
        for _ in range(cursor.count(12)):
            domain: dict[str, Any] = {"domain": cursor.number()}
            if version >= _NAMED_DOMAINS:
                domain["name"] = cursor.string()
            domain["cpu_map"], domain["cpus"] = cursor.string(), cursor.string()
            domains.append(domain)
        cpus.append({"cpu": number, "domains": domains})
    return {"schedstat_version": version, "most_domains": most, "cpus": cpus}


def _e_machine(cursor: _Cursor) -> dict[str, int]:
    return {"e_machine": cursor.number(), "e_flags": cursor.number()}


def _cln_size(cursor: _Cursor) -> int:
    return cursor.number()


def _version(number: int) -> None:
    if number != 1:
        raise ValueError(f"version {number} is not known")


_DECODERS: dict[int, Callable[[_Cursor], Any]] = {
    Feature.BUILD_ID: _build_ids, Feature.HOSTNAME: _only_string, Feature.OSRELEASE: _only_string,
    Feature.VERSION: _only_string, Feature.ARCH: _only_string, Feature.NRCPUS: _nrcpus,
    Feature.CPUDESC: _only_string, Feature.CPUID: _only_string, Feature.TOTAL_MEM: _total_mem,
    Feature.CMDLINE: _cmdline, Feature.EVENT_DESC: _event_desc,
    Feature.CPU_TOPOLOGY: _cpu_topology, Feature.NUMA_TOPOLOGY: _numa_topology,
    Feature.BRANCH_STACK: _nothing, Feature.PMU_MAPPINGS: _pmu_mappings,
    Feature.GROUP_DESC: _group_desc, Feature.AUXTRACE: _auxtrace, Feature.STAT: _nothing,
    Feature.CACHE: _cache, Feature.SAMPLE_TIME: _sample_time,
    Feature.MEM_TOPOLOGY: _mem_topology, Feature.CLOCKID: _clockid,
    Feature.DIR_FORMAT: _dir_format, Feature.BPF_PROG_INFO: _bpf_prog_info,
    Feature.BPF_BTF: _bpf_btf, Feature.COMPRESSED: _compressed, Feature.CPU_PMU_CAPS: _caps,
    Feature.CLOCK_DATA: _clock_data, Feature.HYBRID_TOPOLOGY: _hybrid_topology,
    Feature.PMU_CAPS: _pmu_caps,
    Feature.CPU_DOMAIN_INFO: _cpu_domain_info, Feature.E_MACHINE: _e_machine,
    Feature.CLN_SIZE: _cln_size,
}  # fmt: skip

# --- perf's words

_FLAGS = {
    int(Feature.BRANCH_STACK): "contains samples with branch stack",
    int(Feature.STAT): "contains stat data",
    int(Feature.AUXTRACE): "contains AUX area data (e.g. instruction trace)",
}
_LABELS = {
    int(Feature.HOSTNAME): "hostname", int(Feature.OSRELEASE): "os release",
    int(Feature.VERSION): "perf version", int(Feature.ARCH): "arch",
    int(Feature.CPUDESC): "cpudesc", int(Feature.CPUID): "cpuid",
}  # fmt: skip


def _group_line(group: dict[str, Any], events: Sequence[str]) -> str:
    first = group["leader"]
    members = ",".join(events[first : first + group["members"]])
    name = "" if group["name"] == "{anon_group}" else group["name"]
    return f"group: {name}{{{members}}}"


def _topology_lines(said: dict[str, Any]) -> list[str]:
    out = [f"sibling sockets : {text}" for text in said["sibling_sockets"]]
    out += [f"sibling dies    : {text}" for text in said.get("sibling_dies", ())]
    out += [f"sibling threads : {text}" for text in said["sibling_threads"]]
    if "cpus" not in said:
        out.append("Core ID and Socket ID information is not available")
    for number, cpu in enumerate(said.get("cpus", ())):
        die = f" Die ID {cpu['die']}," if "die" in cpu else ""
        out.append(f"CPU {number}: Core ID {cpu['core']},{die} Socket ID {cpu['socket']}")
    return out


def _numa_lines(nodes: list[dict[str, Any]]) -> list[str]:
    out = []
    for node in nodes:
        begin = f"node{node['node']}"
        out.append(
            f"{begin} meminfo  : total = {node['total_kib']} kB, free = {node['free_kib']} kB"
        )
        out.append(f"{begin} cpu list : {node['cpus']}")
    return out


def _time_lines(said: dict[str, int]) -> list[str]:
    first, last = said["first_ns"], said["last_ns"]
    return [
        f"time of first sample : {_seconds(first)}", f"time of last sample : {_seconds(last)}",
        f"sample duration : {(last - first) / 1e6:10.3f} ms",
    ]  # fmt: skip


def _clock_lines(said: dict[str, int]) -> list[str]:
    name = CLOCK_NAMES.get(said["clockid"], "unknown")
    wall, clock = said["wall_ns"], said["clock_ns"]
    return [
        f"clockid: {name} ({said['clockid']})",
        f"reference time: {_local(wall // 10**9)}.{wall % 10**9 // 1000:06d} = "
        f"{wall // 10**9}.{wall % 10**9 // 1000:06d} (TOD) = "
        f"{clock // 10**9}.{clock % 10**9:09d} ({name})",
    ]


def _local(seconds: int) -> str:
    """Date and time here, as perf tells it; "<error>", like perf, for what is none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "<error>"


def _caps_line(pmu: str, caps: dict[str, str]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in caps.items())
    return f"{pmu} pmu capabilities: {said or 'not available'}"


def _seconds(time_ns: int) -> str:
    return f"{time_ns // 10**9}.{time_ns % 10**9 // 1000:06d}"


def _cache_lines(levels: list[dict[str, Any]]) -> list[str]:
    return ["CPU cache info:"] + [
        f" L{c['level']} {c['type']:<15} {c['size']:>8} [{c['cpus']}]" for c in levels
    ]


def _memory_lines(said: dict[str, Any]) -> list[str]:
    nodes, block = said["nodes"], said["block_bytes"]
    return [f"memory nodes (nr {len(nodes)}, block size {block:#x}):"] + [
        f" {n['node']:>3} [{_short_size(n['blocks'] * block)}]: {n['present']}" for n in nodes
    ]


def _short_size(size: int) -> str:
    unit = 0
    while size // 1024 > 1 and unit < 3:
        size //= 1024
        unit += 1
    return f"{size}{'BKMG'[unit]}"


def _list_of(mask: int) -> str:
    """Numbers of the set bits as the kernel lists them: 0-23,536."""
    said = []
    for run in re.finditer("1+", f"{mask:b}"[::-1]):
        first, last = run.start(), run.end() - 1
        said.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(said)


def _event_lines(events: list[dict[str, Any]]) -> list[str]:
    out = []
    for event in events:
        ids = ", ".join(str(number) for number in event["ids"])
        out.append(f"event : name = {event['name']}, id = {{ {ids} }}")
    return out


_LINES: dict[int, Callable[[Any], list[str]]] = {
    Feature.BUILD_ID: lambda v: [f"build ids : {len(v)}"],
    Feature.NRCPUS: lambda v: [
        f"nrcpus online : {v['online']}", f"nrcpus avail : {v['available']}"
    ],
    Feature.TOTAL_MEM: lambda v: [f"total memory : {v} kB"],
    Feature.CMDLINE: lambda v: [f"cmdline : {' '.join(v)}"],
    Feature.EVENT_DESC: _event_lines,
    Feature.CPU_TOPOLOGY: _topology_lines,
    Feature.NUMA_TOPOLOGY: _numa_lines,
    Feature.PMU_MAPPINGS: lambda v: [
        "pmu mappings: " + ", ".join(f"{p['name']} = {p['type']}" for p in v)
    ],
    Feature.CACHE: _cache_lines,
    Feature.SAMPLE_TIME: _time_lines,
    Feature.MEM_TOPOLOGY: _memory_lines,
    Feature.CLOCKID: lambda v: [
        f"clockid frequency: {1000 // v['resolution_ns'] if v['resolution_ns'] else 0} MHz"
    ],
    Feature.DIR_FORMAT: lambda v: [f"directory data version : {v['version']}"],
    Feature.BPF_PROG_INFO: lambda v: [
        f"bpf_prog_info of id {p['id']}, type {p['type']}" for p in v
    ] or ["bpf_prog_info empty"],
    Feature.BPF_BTF: lambda v: [f"btf info of id {b['id']}" for b in v] or ["btf info empty"],
    Feature.COMPRESSED: lambda v: [
        f"compressed : {v['type']}, level = {v['level']}, ratio = {v['ratio']}"
    ],
    Feature.CPU_PMU_CAPS: lambda v: [_caps_line("cpu", v)],
    Feature.CLOCK_DATA: _clock_lines,
    Feature.HYBRID_TOPOLOGY: lambda v: [
        "hybrid cpu system:", *(f"{n['pmu']} cpu list : {n['cpus']}" for n in v)
    ],
    Feature.PMU_CAPS: lambda v: [_caps_line(p["pmu"], p["caps"]) for p in v],
    Feature.CPU_DOMAIN_INFO: lambda v: [
        f"schedstat version : {v['schedstat_version']}",
        f"Maximum sched domains : {v['most_domains']}", f"sched domains of {len(v['cpus'])} cpus",
    ],
    Feature.E_MACHINE: lambda v: [f"e_machine : {v['e_machine']}, e_flags : {v['e_flags']}"],
    Feature.CLN_SIZE: lambda v: [f"cacheline size : {v}"],
}  # fmt: skip
