"""One record as a line, in the manner of the heads that `perf report -D` prints.

    0x1be0 [0x48]: PERF_RECORD_COMM user 1234.567890123 cpu 2 4242/4242: exec axpy:4242/4242

Bodies: the comments of enum perf_event_type in include/uapi/linux/perf_event.h, and
tools/lib/perf/include/perf/event.h, Linux 7.3. A record that is too short for its kind says so
instead. Lines are not escaped: what stands in a record may be anyone's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import (
    MISC_COMM_EXEC,
    MISC_CPUMODE_MASK,
    MISC_EXACT_IP,
    MISC_FORK_EXEC,
    MISC_MMAP_BUILD_ID,
    MISC_MMAP_DATA,
    MISC_PROC_MAP_PARSE_TIMEOUT,
    CpuMode,
    RecordType,
)
from perfxmm.kernel.layout import LayoutPlan
from perfxmm.perfdata.blocks import RecordBlock
from perfxmm.perfdata.featuretext import feature_name
from perfxmm.perfdata.swap import mmap2_has_protection
from perfxmm.perfdata.tally import HeadReader

UNKNOWN_PREFIX = "UNKNOWN_"
_FIRST_TOOL_TYPE = 64
_HEADER_BYTES = 8
_NS = 10**9
_MODES = {
    int(CpuMode.KERNEL): "kernel", int(CpuMode.USER): "user",
    int(CpuMode.HYPERVISOR): "hypervisor", int(CpuMode.GUEST_KERNEL): "guest kernel",
    int(CpuMode.GUEST_USER): "guest user",
}  # fmt: skip
# PERF_RECORD_MISC_SWITCH_OUT and _SWITCH_OUT_PREEMPT share bits with others of their kinds.
_SWITCH_OUT, _PREEMPT = 1 << 13, 1 << 14
_NAMESPACES = ("net", "uts", "ipc", "pid", "user", "mnt", "cgroup")


def type_name(kind: int) -> str:
    """A record type's name without its prefix PERF_RECORD_; "UNKNOWN_<n>" where it has none."""
    try:
        return RecordType(kind).name
    except ValueError:
        return f"{UNKNOWN_PREFIX}{kind}"


@dataclass(slots=True)
class _Body:
    """A record's bytes between header and trailer."""

    data: bytes
    misc: int
    size: int

    def take(self, fmt: str, at: int = 0) -> tuple[int, ...]:
        return struct.unpack_from("<" + fmt, self.data, at)

    def text(self, at: int) -> str:
        if at > len(self.data):
            raise struct.error
        return self.data[at:].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


class RecordLines:
    """Lines for blocks of records. events: (attr, ids, name) of each, in the file's order."""

    def __init__(self, events: Sequence[tuple[EventAttr, Sequence[int], str]]) -> None:
        attrs = [attr for attr, _, _ in events]
        ids = [numbers for _, numbers, _ in events]
        self._names = [name for _, _, name in events]
        self._heads = HeadReader(attrs, ids)
        self._plans: list[LayoutPlan] = self._heads.plans
        self._by_id = {number: index for index, row in enumerate(ids) for number in row}

    @staticmethod
    def head(offset: int, kind: int, size: int) -> str:
        """What every line begins with. offset: byte of the file, -1 where that is not known."""
        place = f"{offset:#x}" if offset >= 0 else "?"
        return f"{place} [{size:#x}]: PERF_RECORD_{type_name(kind)}"

    def lines(self, block: RecordBlock, place: Callable[[int], int]) -> Iterator[str]:
        """One line a record, in the block's order. place: from an offset of the block to the
        file's."""
        heads = self._heads.read(block, ("ip", "tid", "time", "cpu"))
        columns = {name: column.tolist() for name, column in heads.fields.items()}
        sample_of = {int(row): at for at, row in enumerate(heads.rows)}
        for row in range(len(block)):
            kind, misc, size = (
                int(block.types[row]), int(block.misc[row]), int(block.sizes[row])
            )  # fmt: skip
            head = self.head(place(block.file_base + int(block.offsets[row])), kind, size)
            at = sample_of.get(row)
            if at is not None:
                said = {name: column[at] for name, column in columns.items()}
                yield head + self._sample(misc, said, int(heads.event[at]))
                continue
            yield head + self._other(block.record(row), kind, misc)

    def _sample(self, misc: int, said: dict[str, int], event: int) -> str:
        word = said.get("tid")
        who = "" if word is None else _who(word & 0xFFFFFFFF, word >> 32)
        text = _said(misc, said.get("time"), said.get("cpu"), who)
        ip = f" ip {said['ip']:#x}" if "ip" in said else ""
        exact = " exact" if misc & MISC_EXACT_IP and ip else ""
        named = self._names[event] if event >= 0 else "no event's id"
        return f"{text}:{ip}{exact} {named}"

    def _other(self, record: bytes, kind: int, misc: int) -> str:
        trailer: dict[str, int] = {}
        if kind < _FIRST_TOOL_TYPE:
            trailer = self._trailer(record)
        said = {
            name: struct.unpack_from("<Q", record, len(record) + 8 * word)[0]
            for name, word in trailer.items()
            if len(record) + 8 * word >= _HEADER_BYTES
        }
        end = max(_HEADER_BYTES, len(record) - 8 * len(trailer))
        body = _Body(record[_HEADER_BYTES:end], misc, len(record))
        word = said.get("tid")
        who = "" if word is None else _who(word & 0xFFFFFFFF, word >> 32)
        mode = misc if kind < _FIRST_TOOL_TYPE else 0
        text = _said(mode, said.get("time"), said.get("cpu"), who)
        tell = _TELLERS.get(kind)
        if tell is None:
            return text
        try:
            return f"{text}: {tell(body)}"
        except (struct.error, IndexError):
            return f"{text}: too short for its kind"

    def _trailer(self, record: bytes) -> dict[str, int]:
        """Where the fields of struct sample_id stand, in words from the record's end."""
        plans = self._plans
        if not plans:
            return {}
        trailer = plans[0].trailer
        if len(plans) > 1 and len(record) >= 16 and trailer.get("identifier") == -1:
            index = self._by_id.get(int.from_bytes(record[-8:], "little"), 0)
            trailer = plans[index].trailer
        return trailer


def _said(misc: int, time_ns: int | None, cpu: int | None, who: str) -> str:
    text = _MODES.get(misc & MISC_CPUMODE_MASK, "")
    text = f" {text}" if text else ""
    if time_ns is not None:
        text += f" {time_ns // _NS}.{time_ns % _NS:09d}"
    if cpu is not None:
        text += f" cpu {cpu & 0xFFFFFFFF}"
    return f"{text} {who}" if who else text


def _who(pid: int, tid: int) -> str:
    return f"{_signed(pid)}/{_signed(tid & 0xFFFFFFFF)}"


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 & 1 else number


# --- what each kind tells


def _comm(body: _Body) -> str:
    pid, tid = body.take("II")
    exec_ = "exec " if body.misc & MISC_COMM_EXEC else ""
    return f"{exec_}{body.text(8)}:{_who(pid, tid)}"


def _range(body: _Body) -> str:
    pid, tid, start, length, offset = body.take("IIQQQ")
    return f"{_who(pid, tid)}: [{start:#x}({length:#x}) @ {offset:#x}]"


def _mmap(body: _Body) -> str:
    kind = "r" if body.misc & MISC_MMAP_DATA else "x"
    return f"{_range(body)}: {kind} {body.text(32)}"


def _mmap2(body: _Body) -> str:
    if len(body.data) >= 60 and not mmap2_has_protection(body.take("I", 56)[0]):
        # The first form, of Linux 3.12: the path stands where the protection came to be.
        major, minor, inode, generation = body.take("IIQQ", 32)
        return f"{_range(body)} {major:02x}:{minor:02x} {inode} {generation}: {body.text(56)}"
    prot, flags = body.take("II", 56)
    bits = "".join(c if prot >> at & 1 else "-" for at, c in enumerate("rwx"))
    if body.misc & MISC_MMAP_BUILD_ID:
        length = min(body.data[32], 20)
        which = f"<{body.data[36 : 36 + length].hex()}>"
    else:
        major, minor, inode, generation = body.take("IIQQ", 32)
        which = f"{major:02x}:{minor:02x} {inode} {generation}"
    late = " (/proc/PID/maps took too long)" if body.misc & MISC_PROC_MAP_PARSE_TIMEOUT else ""
    share = "s" if flags & 1 else "p"
    return f"{_range(body)} {which}: {bits}{share} {body.text(64)}{late}"


def _task(body: _Body) -> str:
    pid, parent, tid, parent_tid = body.take("IIII")
    made_up = " (made up)" if body.misc & MISC_FORK_EXEC else ""
    return f"({_who(pid, tid)}):({_who(parent, parent_tid)}){made_up}"


def _exit(body: _Body) -> str:
    pid, parent, tid, parent_tid = body.take("IIII")
    return f"({_who(pid, tid)}):({_who(parent, parent_tid)})"


def _lost(body: _Body) -> str:
    number, count = body.take("QQ")
    return f"lost {count} records, id {number}"


def _lost_samples(body: _Body) -> str:
    return f"lost {body.take('Q')[0]} samples"


def _throttle(body: _Body) -> str:
    _, number, stream = body.take("QQQ")
    return f"id {number} stream {stream}"


def _switch(body: _Body) -> str:
    if not body.misc & _SWITCH_OUT:
        return "in"
    return "out, preempted" if body.misc & _PREEMPT else "out"


def _switch_wide(body: _Body) -> str:
    pid, tid = body.take("II")
    other = "next" if body.misc & _SWITCH_OUT else "previous"
    return f"{_switch(body)}, {other} {_who(pid, tid)}"


def _aux(body: _Body) -> str:
    offset, size, flags = body.take("QQQ")
    return f"offset {offset:#x} size {size:#x} flags {flags:#x}"


def _itrace_start(body: _Body) -> str:
    return f"{_who(*body.take('II'))}"


def _namespaces(body: _Body) -> str:
    pid, tid, count = body.take("IIQ")
    found = []
    for index in range(min(count, len(_NAMESPACES))):
        device, inode = body.take("QQ", 16 + 16 * index)
        found.append(f"{_NAMESPACES[index]} {device:#x}/{inode:#x}")
    return f"{_who(pid, tid)}: {count}: {', '.join(found)}"


def _ksymbol(body: _Body) -> str:
    start, length, kind, flags = body.take("QIHH")
    gone = " gone" if flags & 1 else ""
    return f"addr {start:#x} len {length:#x} type {kind}{gone} {body.text(16)}"


def _bpf(body: _Body) -> str:
    kind, flags, number = body.take("HHI")
    return f"type {kind} flags {flags:#x} id {number}"


def _cgroup(body: _Body) -> str:
    return f"id {body.take('Q')[0]} {body.text(8)}"


def _text_poke(body: _Body) -> str:
    start, old, new = body.take("QHH")
    return f"addr {start:#x} old {old} new {new} bytes"


def _hw_id(body: _Body) -> str:
    return f"hw id {body.take('Q')[0]:#x}"


def _deferred(body: _Body) -> str:
    cookie, count = body.take("QQ")
    return f"cookie {cookie:#x}, {count} entries"


def _read(body: _Body) -> str:
    pid, tid, value = body.take("IIQ")
    return f"{_who(pid, tid)}: value {value}"


def _attr(body: _Body) -> str:
    kind, size, config = body.take("IIQ")
    ids = max(0, len(body.data) - (size or 64)) // 8
    return f"type {kind} config {config:#x} size {size}, {ids} ids"


def _event_type(body: _Body) -> str:
    return f"id {body.take('Q')[0]} {body.text(8)}"


def _payload(body: _Body) -> str:
    return f"{body.take('I')[0]} bytes follow"


def _build_id(body: _Body) -> str:
    length = body.data[24] if body.misc & 1 << 15 and 0 < body.data[24] <= 20 else 20
    return f"{body.data[4 : 4 + length].hex()} {body.text(28)}"


def _id_index(body: _Body) -> str:
    return f"{body.take('Q')[0]} entries"


def _auxtrace_info(body: _Body) -> str:
    return f"type {body.take('I')[0]}"


def _auxtrace(body: _Body) -> str:
    size, offset, reference, index, tid, cpu = body.take("QQQIII")
    return (
        f"size {size:#x} offset {offset:#x} ref {reference:#x} idx {index} tid {_signed(tid)} "
        f"cpu {_signed(cpu)}"
    )


def _auxtrace_error(body: _Body) -> str:
    kind, code, cpu, pid, tid = body.take("IIIII")
    return f"type {kind} code {code} cpu {_signed(cpu)} {_who(pid, tid)}"


def _threads(body: _Body) -> str:
    return f"{body.take('Q')[0]} threads"


def _cpu_map(body: _Body) -> str:
    return f"kind {body.take('H')[0]}"


def _stat(body: _Body) -> str:
    number, cpu, thread, value = body.take("QIIQ")
    return f"id {number} cpu {_signed(cpu)} thread {thread} value {value}"


def _event_update(body: _Body) -> str:
    what, number = body.take("QQ")
    kinds = {0: "unit", 1: "scale", 2: "name", 3: "cpus"}
    text = f" {body.text(16)}" if what in (0, 2) else ""
    return f"id {number} {kinds.get(what, what)}{text}"


def _time_conv(body: _Body) -> str:
    shift, multiplier, zero = body.take("QQQ")
    return f"shift {shift} mult {multiplier} zero {zero}"


def _feature(body: _Body) -> str:
    (bit,) = body.take("Q")
    return f"{feature_name(bit)}, {len(body.data) - 8} bytes"


def _compressed(body: _Body) -> str:
    return f"{len(body.data)} bytes"


def _compressed2(body: _Body) -> str:
    return f"{body.take('Q')[0]} bytes"


_TELLERS: dict[int, Callable[[_Body], str]] = {
    RecordType.MMAP: _mmap, RecordType.LOST: _lost, RecordType.COMM: _comm,
    RecordType.EXIT: _exit, RecordType.THROTTLE: _throttle, RecordType.UNTHROTTLE: _throttle,
    RecordType.FORK: _task, RecordType.READ: _read, RecordType.MMAP2: _mmap2,
    RecordType.AUX: _aux, RecordType.ITRACE_START: _itrace_start,
    RecordType.LOST_SAMPLES: _lost_samples, RecordType.SWITCH: _switch,
    RecordType.SWITCH_CPU_WIDE: _switch_wide, RecordType.NAMESPACES: _namespaces,
    RecordType.KSYMBOL: _ksymbol, RecordType.BPF_EVENT: _bpf, RecordType.CGROUP: _cgroup,
    RecordType.TEXT_POKE: _text_poke, RecordType.AUX_OUTPUT_HW_ID: _hw_id,
    RecordType.CALLCHAIN_DEFERRED: _deferred, RecordType.HEADER_ATTR: _attr,
    RecordType.HEADER_EVENT_TYPE: _event_type, RecordType.HEADER_TRACING_DATA: _payload,
    RecordType.HEADER_BUILD_ID: _build_id, RecordType.ID_INDEX: _id_index,
    RecordType.AUXTRACE_INFO: _auxtrace_info, RecordType.AUXTRACE: _auxtrace,
    RecordType.AUXTRACE_ERROR: _auxtrace_error, RecordType.THREAD_MAP: _threads,
    RecordType.CPU_MAP: _cpu_map, RecordType.STAT: _stat,
    RecordType.EVENT_UPDATE: _event_update, RecordType.TIME_CONV: _time_conv,
    RecordType.HEADER_FEATURE: _feature, RecordType.COMPRESSED: _compressed,
    RecordType.COMPRESSED2: _compressed2,
}  # fmt: skip
