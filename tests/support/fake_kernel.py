"""A kernel for tests: the fake of perfxmm.kernel.syscalls.Kernel.

It answers perf_event_open from tables: what the dialect's kernels check, in their order, and what
the CPU model has. For dialect M the order is that of the merged series as it ran in an emulator;
the other dialects follow their postings and headers and were not run.

Rings are bytearrays laid out as the kernel's; `feed` puts records into them as the kernel would,
wrapping at the end, and says so where there was no room.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.constants import (
    IOC_DISABLE,
    IOC_ENABLE,
    IOC_SET_OUTPUT,
    AttrFlag,
    PerfType,
    SampleType,
)
from perfxmm.kernel.dialects import DIALECTS, M, SimdRequest, read_simd
from perfxmm.kernel.ring import DATA_HEAD_OFFSET, DATA_OFFSET_OFFSET, DATA_SIZE_OFFSET, walk

LEGACY_XMM = 0xFFFFFFFF00000000
GPRS = 0xFF0FFF
# XFEATURE bits of the components behind the classes.
SSE, YMM, OPMASK, ZMM_HI256, HI16_ZMM, CET_USER, APX = (1 << n for n in (1, 2, 5, 6, 7, 11, 19))


@dataclass
class Model:
    """One machine: CPU, kernel and what stands in the way.

    components: XSAVE components the PMU may sample. pebs: classes its PEBS can record;
    precise_max: largest precise_ip it takes. struct_size: the kernel's own attr size.
    pmu_types: dynamic types that are core PMUs as well (hybrid machines).
    """

    dialect: str = "M"
    components: int = SSE | YMM | OPMASK | ZMM_HI256 | HI16_ZMM | CET_USER
    pebs: frozenset[str] = frozenset()
    precise_max: int = 0
    struct_size: int = 176
    pmu: bool = True
    pmu_types: tuple[int, ...] = ()
    refuse: int = 0  # an errno that every open gets
    refuse_kernel: int = 0  # an errno for exclude_kernel == 0
    fd_limit: int = 0  # 0: none
    mlock_pages: int = 0  # pages a ring may have; 0: any


TIGERLAKE = Model()
SKYLAKE_X = Model(components=SSE | YMM | OPMASK | ZMM_HI256 | HI16_ZMM)
ARROW_LAKE = Model(components=SSE | YMM | CET_USER)
PROBED_MODELS = {
    "tigerlake": TIGERLAKE, "corei7_skylake_x": SKYLAKE_X, "arrow_lake": ARROW_LAKE,
}  # fmt: skip
ICE_LAKE_MERGED = Model(
    components=SSE | YMM | OPMASK | ZMM_HI256 | HI16_ZMM, pebs=frozenset({"gpr", "xmm"}),
    precise_max=3,
)
ICE_LAKE_7_3 = Model(
    dialect="L", struct_size=144, components=SSE, pebs=frozenset({"gpr", "xmm"}), precise_max=3,
)  # fmt: skip
OVERLAY_6_18 = Model(dialect="O1", pebs=frozenset({"gpr", "xmm"}), precise_max=3)
POSTING_V4 = Model(dialect="R2", pebs=frozenset({"gpr", "xmm"}), precise_max=3)
NO_PMU = Model(dialect="L", struct_size=144, pmu=False)


def open_errno(model: Model, raw: bytearray) -> int:
    """The errno of perf_event_open for these attr bytes; 0 where it opens. May write the size."""
    data = bytes(raw)
    size = struct.unpack_from("<I", data, 4)[0] or 64
    if size < 64 or size > 4096 or any(data[model.struct_size : size]):
        struct.pack_into("<I", raw, 4, model.struct_size)
        return errno.E2BIG
    dialect = DIALECTS[model.dialect]
    attr = attrs.decode(data[:size], dialect=dialect)
    simd = read_simd(dialect, data[:size])
    # The generic layer, before any PMU is asked.
    if simd.reserved and model.dialect in ("M", "O1"):
        return errno.EINVAL
    for bit, regs, vec, pred in (
        (SampleType.REGS_USER, attr.sample_regs_user, simd.vec_user, simd.pred_user),
        (SampleType.REGS_INTR, attr.sample_regs_intr, simd.vec_intr, simd.pred_intr),
    ):
        if attr.has(bit):
            wrong = _check_set(model.dialect, regs, simd, vec, pred)
            if wrong:
                return wrong
    if not attr.flags & AttrFlag.EXCLUDE_KERNEL and model.refuse_kernel:
        return model.refuse_kernel
    if model.refuse:
        return model.refuse
    core = attr.type in (PerfType.HARDWARE, PerfType.HW_CACHE, PerfType.RAW, *model.pmu_types)
    if core:
        return _core_pmu(model, attr, simd) if model.pmu else errno.ENOENT
    extended = any(_legacy_xmm(attr)) or (simd.enabled and any(_sets(attr)))
    return errno.EOPNOTSUPP if extended else 0


def _sets(attr: attrs.EventAttr) -> tuple[bool, bool]:
    return attr.has(SampleType.REGS_USER), attr.has(SampleType.REGS_INTR)


def _legacy_xmm(attr: attrs.EventAttr) -> tuple[int, int]:
    user, intr = _sets(attr)
    if attr.simd.enabled:
        return 0, 0
    return (
        attr.sample_regs_user & LEGACY_XMM if user else 0,
        attr.sample_regs_intr & LEGACY_XMM if intr else 0,
    )


def _check_set(name: str, regs: int, simd: SimdRequest, vec: int, pred: int) -> int:
    """Generic checks of one register set."""
    if not simd.enabled:
        if name == "O1" and simd != SimdRequest():
            return errno.EINVAL
        legal = GPRS | LEGACY_XMM
        return errno.EINVAL if not regs or regs & ~legal else 0
    if regs & ~(GPRS | ((1 << (DIALECTS[name].ssp_bit + 1)) - (1 << 24))):
        return errno.EINVAL
    if simd.pred_qwords not in (0, 1) or simd.vec_qwords not in (0, 2, 4, 8):
        return errno.EINVAL
    if not simd.vec_qwords and not simd.pred_qwords and (vec or pred):
        return errno.EINVAL
    if name == "M":
        return _check_masks_merged(simd, vec, pred)
    if simd.vec_qwords and not (simd.vec_intr or simd.vec_user):
        return errno.EINVAL
    return errno.EINVAL if vec >> 32 or pred >> 8 else 0


def _check_masks_merged(simd: SimdRequest, vec: int, pred: int) -> int:
    # A mask is looked at only where its class has a width; without one it counts and holds nothing.
    if simd.pred_qwords and pred not in (0, 0xFF):
        return errno.EINVAL
    if simd.vec_qwords == 8 and vec not in (0, 0xFFFFFFFF):
        return errno.EINVAL
    if simd.vec_qwords in (2, 4) and vec and (vec >> 32 or vec & 0xFFFF != 0xFFFF):
        return errno.EINVAL
    return 0


def _core_pmu(model: Model, attr: attrs.EventAttr, simd: SimdRequest) -> int:
    if attr.precise_ip > model.precise_max:
        return errno.EOPNOTSUPP
    wanted: set[str] = set()
    need = 0
    legacy_user, legacy_intr = _legacy_xmm(attr)
    if legacy_user or legacy_intr:
        if model.dialect != "M" and (legacy_user or not attr.precise_ip):
            return errno.EINVAL
        wanted.add("xmm")
        need |= SSE
    if simd.enabled:
        for on, regs, vec, pred in (
            (attr.has(SampleType.REGS_USER), attr.sample_regs_user, simd.vec_user, simd.pred_user),
            (attr.has(SampleType.REGS_INTR), attr.sample_regs_intr, simd.vec_intr, simd.pred_intr),
        ):
            if not on:
                continue
            for name, bits, hit in (
                ("xmm", SSE, simd.vec_qwords >= 2 and vec),
                ("ymm", YMM, simd.vec_qwords >= 4 and vec),
                ("zmm", ZMM_HI256 | HI16_ZMM, simd.vec_qwords == 8 and vec),
                # Probed: a width without a mask is refused where the CPU has no opmasks, a mask
                # without a width is not.
                ("opmask", OPMASK, simd.pred_qwords if model.dialect == "M" else pred),
                ("egpr", APX, regs & 0xFFFF000000),
                ("ssp", CET_USER, regs >> DIALECTS[model.dialect].ssp_bit & 1),
            ):
                if hit:
                    wanted.add(name)
                    need |= bits
    if need & ~model.components:
        return errno.EINVAL
    # Only the merged kernels insist on one source for a precise event's registers.
    if attr.precise_ip and wanted - model.pebs and model.dialect == "M":
        return errno.EINVAL
    return 0


@dataclass
class OpenedEvent:
    """One descriptor the fake gave out."""

    fd: int
    attr: bytes
    pid: int
    cpu: int
    flags: int
    identifier: int
    ring: bytearray | None = None
    output: int | None = None
    enabled: bool = False
    closed: bool = False
    enabled_ns: int = 0  # what read gives, with read_format of enabled, running and id
    running_ns: int = 0


@dataclass(eq=False)
class FakeKernel:
    """The seam. `opened` and `refused` keep what was asked, for assertions.

    on_poll: called at every poll with the fake, to feed rings or move the clock; returning False
    makes every ring hang up (the tasks are gone).
    """

    model: Model = field(default_factory=Model)
    on_poll: Callable[[FakeKernel], bool | None] | None = None
    page_bytes: int = 4096
    now_ns: int = 1_000_000_000
    poll_step_ns: int = 10_000_000
    opened: list[OpenedEvent] = field(default_factory=list)
    refused: list[tuple[bytes, int]] = field(default_factory=list)
    polls: int = 0
    map_requests: list[int] = field(default_factory=list)
    first_identifier: int = 70_000
    ring_start: int = 0  # where head and tail of new rings stand
    missing_tasks: frozenset[int] = frozenset()  # ESRCH
    missing_cpus: frozenset[int] = frozenset()  # ENODEV

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int = -1, flags: int = 0
    ) -> int:
        asked = bytes(attr)
        number = open_errno(self.model, attr)
        live = sum(not event.closed for event in self.opened)
        if not number and self.model.fd_limit and live >= self.model.fd_limit:
            number = errno.EMFILE
        if not number and (pid in self.missing_tasks or cpu in self.missing_cpus):
            number = errno.ESRCH if pid in self.missing_tasks else errno.ENODEV
        if number:
            self.refused.append((asked, number))
            raise OSError(number, "fake", "perf_event_open")
        fd = 1000 + len(self.opened)
        identifier = self.first_identifier + len(self.opened)
        self.opened.append(OpenedEvent(fd, asked, pid, cpu, flags, identifier))
        return fd

    def event(self, fd: int) -> OpenedEvent:
        found = self.opened[fd - 1000]
        if found.closed:
            raise OSError(errno.EBADF, "fake")
        return found

    @property
    def live(self) -> list[OpenedEvent]:
        return [event for event in self.opened if not event.closed]

    def map_ring(self, fd: int, data_pages: int) -> memoryview:
        self.map_requests.append(data_pages)
        if self.model.mlock_pages and data_pages > self.model.mlock_pages:
            raise OSError(errno.EPERM, "fake", "mmap")
        event = self.event(fd)
        event.ring = bytearray((1 + data_pages) * self.page_bytes)
        struct.pack_into(
            "<QQ", event.ring, DATA_OFFSET_OFFSET, self.page_bytes, data_pages * self.page_bytes
        )
        assert DATA_SIZE_OFFSET == DATA_OFFSET_OFFSET + 8
        struct.pack_into("<QQ", event.ring, DATA_HEAD_OFFSET, self.ring_start, self.ring_start)
        return memoryview(event.ring)

    def unmap_ring(self, ring: memoryview) -> None:
        ring.release()

    def ioctl(self, fd: int, request: int, argument: int = 0) -> None:
        event = self.event(fd)
        if request == IOC_ENABLE:
            event.enabled = True
        elif request == IOC_DISABLE:
            event.enabled = False
        elif request == IOC_SET_OUTPUT:
            if self.event(argument).cpu != event.cpu:
                raise OSError(errno.EINVAL, "fake")
            event.output = argument
        else:
            raise OSError(errno.ENOTTY, "fake")

    def event_id(self, fd: int) -> int:
        return self.event(fd).identifier

    def set_period(self, fd: int, period: int) -> None:
        self.event(fd)

    def read(self, fd: int, size: int) -> bytes:
        event = self.event(fd)
        (read_format,) = struct.unpack_from("<Q", event.attr, 32)
        assert read_format == 7, "the fake knows enabled, running and id only"
        return struct.pack("<QQQQ", 0, event.enabled_ns, event.running_ns, event.identifier)[:size]

    def close(self, fd: int) -> None:
        self.event(fd).closed = True

    def poll(self, fds: Sequence[int], timeout_s: float) -> list[tuple[int, bool]]:
        self.polls += 1
        self.now_ns += min(self.poll_step_ns, max(1, round(timeout_s * 1e9)))
        alive = self.on_poll(self) if self.on_poll else None
        return [(fd, alive is False) for fd in fds]

    def clock_ns(self) -> int:
        return self.now_ns

    def feed(self, fd: int, record: bytes) -> bool:
        """Writes one record into the ring of `fd` as the kernel would; False: no room."""
        ring = self.event(fd).ring
        assert ring is not None, "no ring is mapped here"
        return feed_ring(ring, record, page_bytes=self.page_bytes)

    def feed_all(self, fd: int, data: bytes) -> int:
        """Feeds whole records until the ring is full; bytes taken."""
        taken = 0
        for offset, size in walk(data):
            if not self.feed(fd, data[offset : offset + size]):
                break
            taken = offset + size
        return taken


def feed_ring(ring: bytearray, record: bytes, *, page_bytes: int = 4096) -> bool:
    """Puts `record` at the ring's head, across its end where need be."""
    head, tail, _, size = struct.unpack_from("<QQQQ", ring, DATA_HEAD_OFFSET)
    if head + len(record) - tail > size:
        return False
    start = head % size
    first = record[: size - start]
    ring[page_bytes + start : page_bytes + start + len(first)] = first
    ring[page_bytes : page_bytes + len(record) - len(first)] = record[len(first) :]
    struct.pack_into("<Q", ring, DATA_HEAD_OFFSET, head + len(record))
    return True


def attr_from_row(row: dict[str, int], *, size: int = 176) -> bytearray:
    """The attr bytes of one row of the errno recordings (dialect M)."""
    attr = attrs.EventAttr(
        type=row["type"], sample_period=1, sample_type=row["sample_type"],
        flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL, precise_ip=row["precise_ip"],
        sample_regs_user=row["sample_regs_user"], sample_regs_intr=row["sample_regs_intr"],
        size=size, dialect=M,
        simd=SimdRequest(
            enabled=row["enabled"], pred_qwords=row["pred_qwords"], vec_qwords=row["vec_qwords"],
            reserved=row["reserved_4"], pred_intr=row["pred_intr"], pred_user=row["pred_user"],
            vec_intr=row["vec_intr"], vec_user=row["vec_user"],
        ),
    )  # fmt: skip
    return bytearray(attrs.encode(attr))
