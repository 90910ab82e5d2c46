"""Records that are not samples, as small dataclasses: who was running what, and what was lost.

Layouts: the comments of enum perf_event_type in include/uapi/linux/perf_event.h, and of the tool's
own records (64 and up) in tools/lib/perf/include/perf/event.h, both Linux 7.3.

None of them is frozen: a frozen dataclass takes three times as long to make, and a recording may
have as many of these as samples. They are not to be changed all the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sideband:
    """What all of them have. time_ns, cpu: None where the record does not say.

    file_offset: byte in the file, -1 where the record came out of something unpacked.
    """

    time_ns: int | None
    cpu: int | None
    file_offset: int


@dataclass(slots=True)
class Comm(Sideband):
    """A thread's name; `is_exec` where it is new because of exec. Bytes that are not UTF-8 are
    surrogate escapes in this and all other names."""

    pid: int
    tid: int
    name: str
    is_exec: bool


@dataclass(slots=True)
class Mmap(Sideband):
    """A mapping, from MMAP or MMAP2.

    prot, flags: as in mmap(2); MMAP and the first form of MMAP2 do not know them and say
    executable unless they are marked as data. build_id: None where the record has none (then maj,
    minor, inode say which file).
    """

    pid: int
    tid: int
    start: int
    length: int
    page_offset: int
    path: str
    prot: int = 0
    flags: int = 0
    build_id: bytes | None = None
    maj: int = 0
    min: int = 0
    inode: int = 0
    inode_generation: int = 0
    cpumode: int = 0


@dataclass(slots=True)
class Fork(Sideband):
    """A new process or thread. `made_up`: by perf, for a process that had been running when the
    recording began; its mappings follow by themselves."""

    pid: int
    parent_pid: int
    tid: int
    parent_tid: int
    made_up: bool = False


@dataclass(slots=True)
class Exit(Sideband):
    pid: int
    parent_pid: int
    tid: int
    parent_tid: int


@dataclass(slots=True)
class Lost(Sideband):
    """Records (LOST) or only samples (LOST_SAMPLES) that found no room. event_id: None there."""

    count: int
    event_id: int | None
    samples_only: bool


@dataclass(slots=True)
class Throttle(Sideband):
    """The kernel stopped (`on`) or resumed sampling of an event that came too often."""

    event_id: int
    stream_id: int
    on: bool


@dataclass(slots=True)
class Ksymbol(Sideband):
    """Kernel code that came (`registered`) or went: BPF programs, ftrace trampolines."""

    start: int
    length: int
    name: str
    kind: int
    registered: bool


@dataclass(slots=True)
class Switch(Sideband):
    """A context switch. pid, tid: the thread that this record is about, as its trailer says.

    other_pid, other_tid: the thread before or after, in CPU-wide recordings.
    """

    pid: int | None
    tid: int | None
    out: bool
    preempted: bool
    other_pid: int | None = None
    other_tid: int | None = None


@dataclass(slots=True)
class Read(Sideband):
    """Counts of an event at a thread's exit (attr.inherit_stat).

    values: count, id and lost samples of each event of the group (one without PERF_FORMAT_GROUP);
    None in place of an id or a lost count that the event's read_format does not ask for.
    """

    pid: int
    tid: int
    time_enabled_ns: int | None
    time_running_ns: int | None
    values: tuple[tuple[int, int | None, int | None], ...]


@dataclass(slots=True)
class Aux(Sideband):
    """New data in the AUX area: `size` bytes from `offset` of its stream on.

    flags: PERF_AUX_FLAG_* (1 truncated, 2 overwrite, 4 partial, 8 collision).
    """

    offset: int
    size: int
    flags: int


@dataclass(slots=True)
class ItraceStart(Sideband):
    """An instruction trace began in this thread."""

    pid: int
    tid: int


@dataclass(slots=True)
class Namespaces(Sideband):
    """A thread's namespaces as (device, inode), in the order net, uts, ipc, pid, user, mnt, cgroup
    (NET_NS_INDEX and following)."""

    pid: int
    tid: int
    namespaces: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class BpfEvent(Sideband):
    """A BPF program was loaded (kind 1) or unloaded (2). tag: 8 bytes, of the program's code."""

    kind: int
    flags: int
    program_id: int
    tag: bytes


@dataclass(slots=True)
class Cgroup(Sideband):
    """A control group's id (as in samples' `cgroup`) and its path."""

    cgroup_id: int
    path: str


@dataclass(slots=True)
class TextPoke(Sideband):
    """The kernel changed its own code at `address`; new is empty where code was taken away."""

    address: int
    old: bytes
    new: bytes


@dataclass(slots=True)
class AuxOutputHwId(Sideband):
    """The hardware's number of an event that writes to the AUX area."""

    hw_id: int


@dataclass(slots=True)
class CallchainDeferred(Sideband):
    """The user part of call chains that a kernel left out of samples until it could unwind.

    It belongs to the thread's samples whose `deferred_cookie` is the same. ips: with
    PERF_CONTEXT_* markers, as in samples.
    """

    pid: int | None
    tid: int | None
    cookie: int
    ips: tuple[int, ...]


@dataclass(slots=True)
class TimeConv(Sideband):
    """How perf turns the CPU's time stamp counter into its clock.

    time = zero + (tsc * mult >> shift); cycles and mask are 0 before Linux 5.10.
    """

    shift: int
    mult: int
    zero: int
    cycles: int
    mask: int


@dataclass(slots=True)
class IdIndex(Sideband):
    """Which CPU and thread each id counts: (id, index, cpu, tid), -1 for any."""

    entries: tuple[tuple[int, int, int, int], ...]


@dataclass(slots=True)
class ThreadMap(Sideband):
    """The threads that were asked for: (tid, name), -1 for all."""

    threads: tuple[tuple[int, str], ...]


@dataclass(slots=True)
class CpuMap(Sideband):
    """The CPUs that were asked for; -1: any. None where the record's form is not known."""

    cpus: tuple[int, ...] | None


@dataclass(slots=True)
class AuxtraceError(Sideband):
    """The decoder of an instruction trace met an error. pid, tid: -1 where not known."""

    kind: int
    code: int
    pid: int
    tid: int
    ip: int
    message: str
