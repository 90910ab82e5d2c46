"""What this kernel and CPU can sample, found out by asking.

Each register class is asked for alone, for both sets and every precise_ip, and each positive probe
has a negative twin: the same attr with vec_qwords 3, which no kernel that reads the field takes.
A kernel of another dialect may accept an attr whose SIMD fields lie where it does not look; then
the twin is accepted as well and the class does not count.

Recipe and errno: the merged SIMD series as it ran in an emulator (no precise events there), the
overlay's and the postings' sources for the others. On real hardware it has not run.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from perfxmm.errors import errno_name
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import PERF_FLAG_FD_CLOEXEC, AttrFlag, PerfType, SampleType
from perfxmm.kernel.dialects import O1, Dialect, L, M, SimdRequest
from perfxmm.kernel.registers import (
    CLASSIC_GPR_MASK,
    EGPR_MASK,
    LEGACY_XMM_MASK,
    OPMASK,
    SSP_MASK,
    VECTOR_CLASSES,
)
from perfxmm.kernel.syscalls import Kernel

SETS = ("intr", "user")
PRECISE_LEVELS = (0, 1, 2, 3)
SIMD_CLASSES = ("opmask", "xmm", "ymm", "zmm", "egpr", "ssp")
# A width no kernel takes: what every negative twin asks for.
IMPOSSIBLE_QWORDS = 3
# PMUs with a `cpus` file instead of one `cpu` (hybrid machines), sysfs of Linux 7.3.
HYBRID_PMUS = ("cpu_core", "cpu_atom", "cpu_lowpower")
_SYSFS_PMUS = "sys/bus/event_source/devices"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question and its answer. errno 0: the kernel opened it. attr_hex: what was asked."""

    name: str
    attr_hex: str
    errno: int
    meaning: str

    @property
    def ok(self) -> bool:
        return self.errno == 0

    @property
    def errno_name(self) -> str:
        return errno_name(self.errno) if self.errno else "ok"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "errno_name": self.errno_name}


@dataclass(frozen=True, slots=True)
class CorePmu:
    """One core PMU: config_base is or-ed into attr.config to address it (type << 32)."""

    name: str
    type: int
    config_base: int = 0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one kernel and CPU can sample from one core PMU.

    open_errno: what the plainest event (cycles, user mode, this process) was answered; 0 is
        opened, ENOENT no PMU. Where it is not 0 no class was asked for.
    simd_dialect: "M" or "O1" where SIMD sampling was proven, else "L".
    kernel_attr_size: the kernel's own attr size where an answer showed it (E2BIG), else None.
    delivered: (set, precise_ip) -> classes, "xmm" by either interface.
    legacy_xmm: (set, precise_ip) for which XMM comes in sample_regs_* without the SIMD ABI.
    build_id: MMAP2 records may carry build ids (5.12).
    whole_classes: masks that are not a whole class are refused, as only M does: the overlay of mid
        2026 (O2) answers everything else like M. None where that was not asked.
    """

    pmu: CorePmu
    probes: tuple[Probe, ...]
    open_errno: int
    simd_dialect: str
    kernel_attr_size: int | None = None
    delivered: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    legacy_xmm: frozenset[tuple[str, int]] = frozenset()
    build_id: bool = False
    whole_classes: bool | None = None

    @property
    def dialect(self) -> Dialect:
        return {"M": M, "O1": O1}.get(self.simd_dialect, L)

    @property
    def has_simd(self) -> bool:
        return self.simd_dialect in ("M", "O1")

    def classes_available(self, which: str, precise_ip: int = 0) -> frozenset[str]:
        """Classes of kernel.registers.CLASS_NAMES that set `which` can deliver."""
        return self.delivered.get((which, precise_ip), frozenset())

    @property
    def precise_classes(self) -> frozenset[str]:
        """Classes that some precise event (precise_ip 1) delivers in the interrupt set."""
        return self.classes_available("intr", 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `doctor --json` and a recording's metadata."""
        return {
            "pmu": self.pmu.name,
            "open_errno": self.open_errno,
            "simd_dialect": self.simd_dialect,
            "kernel_attr_size": self.kernel_attr_size,
            "build_id": self.build_id,
            "whole_classes": self.whole_classes,
            "classes": {
                which: {
                    str(level): sorted(self.classes_available(which, level))
                    for level in PRECISE_LEVELS
                }
                for which in SETS
            },
            "legacy_xmm": [list(pair) for pair in sorted(self.legacy_xmm)],
            "probes": [probe.to_dict() for probe in self.probes],
        }


_cache: weakref.WeakKeyDictionary[Kernel, dict[str, tuple[Capabilities, ...]]]
_cache = weakref.WeakKeyDictionary()


def probe_all(kernel: Kernel, root: str | Path = "/") -> tuple[Capabilities, ...]:
    """Capabilities of every core PMU (one, but on hybrid machines), asked once per process."""
    known = _cache.setdefault(kernel, {})
    key = os.fspath(root)
    if key not in known:
        known[key] = tuple(_Prober(kernel, pmu).run() for pmu in core_pmus(root))
    return known[key]


def probe(kernel: Kernel, root: str | Path = "/") -> Capabilities:
    """What every core PMU can do: a task may run on any of them."""
    every = probe_all(kernel, root)
    first = every[0]
    if len(every) == 1:
        return first
    same = all(other.simd_dialect == first.simd_dialect for other in every)
    return replace(
        first,
        pmu=replace(first.pmu, name="+".join(one.pmu.name for one in every)),
        probes=tuple(probe for one in every for probe in one.probes),
        open_errno=next((one.open_errno for one in every if one.open_errno), 0),
        simd_dialect=first.simd_dialect if same else "L",
        delivered={
            key: frozenset.intersection(*(one.classes_available(*key) for one in every))
            for key in first.delivered
        },
        legacy_xmm=frozenset.intersection(*(one.legacy_xmm for one in every)),
        build_id=all(one.build_id for one in every),
    )


def core_pmus(root: str | Path = "/") -> tuple[CorePmu, ...]:
    """The core PMUs below `root`; the generic one where sysfs names no hybrid ones."""
    found = []
    for name in HYBRID_PMUS:
        try:
            number = int((Path(root) / _SYSFS_PMUS / name / "type").read_text())
        except (OSError, ValueError):
            continue
        found.append(CorePmu(name, number, config_base=number << 32))
    return tuple(found) or (CorePmu("cpu", PerfType.RAW),)


def request_simd(dialect: Dialect, classes: frozenset[str], sets: frozenset[str]) -> SimdRequest:
    """The SIMD fields that ask for `classes` in `sets`: the widest width, whole classes."""
    widest = max(
        (VECTOR_CLASSES[name] for name in classes & VECTOR_CLASSES.keys()),
        key=lambda c: c.qwords, default=None,
    )  # fmt: skip
    vec = widest.mask if widest else 0
    pred = OPMASK.mask if "opmask" in classes else 0
    return SimdRequest(
        enabled=1,
        pred_qwords=1 if pred or dialect.enabled_is_pred_qwords else 0,
        vec_qwords=widest.qwords if widest else 0,
        pred_intr=pred if "intr" in sets else 0, pred_user=pred if "user" in sets else 0,
        vec_intr=vec if "intr" in sets else 0, vec_user=vec if "user" in sets else 0,
    )  # fmt: skip


def request_mask(dialect: Dialect, classes: frozenset[str]) -> int:
    """The sample_regs_* mask for the general register classes, SIMD sampling being enabled."""
    mask = CLASSIC_GPR_MASK if "gpr" in classes else 0
    mask |= EGPR_MASK if "egpr" in classes else 0
    return mask | (SSP_MASK if "ssp" in classes else 0)


class _Prober:
    """Asks one PMU everything. Total: an unexpected errno is recorded, not raised."""

    def __init__(self, kernel: Kernel, pmu: CorePmu) -> None:
        self._kernel = kernel
        self._pmu = pmu
        self._probes: list[Probe] = []
        self._attr_size: int | None = None
        self._whole_classes: bool | None = None

    def run(self) -> Capabilities:
        opened = self._ask("cycles", self._base())
        if opened:
            # The size of an attr is judged before any PMU is looked for: E2BIG tells anyway.
            self._ask("M xmm user p0", self._simd(M, "xmm", "user", 0))
            return self._done(opened, "L", {}, frozenset())
        dialect = self._dialect()
        delivered: dict[tuple[str, int], frozenset[str]] = {}
        legacy = set()
        for which in SETS:
            for level in PRECISE_LEVELS:
                classes = set(self._simd_classes(dialect, which, level)) if dialect else set()
                if not self._ask(f"gpr {which} p{level}", self._legacy(which, level, 0)):
                    classes.add("gpr")
                mask = LEGACY_XMM_MASK
                if not self._ask(f"legacy xmm {which} p{level}", self._legacy(which, level, mask)):
                    classes.add("xmm")
                    legacy.add((which, level))
                delivered[which, level] = frozenset(classes)
        return self._done(0, dialect.name if dialect else "L", delivered, frozenset(legacy))

    def _done(
        self, opened: int, dialect: str, delivered: dict[tuple[str, int], frozenset[str]],
        legacy: frozenset[tuple[str, int]],
    ) -> Capabilities:
        tracked = EventAttr(
            type=PerfType.SOFTWARE, config=9, size=128,  # PERF_COUNT_SW_DUMMY
            flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL | AttrFlag.MMAP2 | AttrFlag.BUILD_ID,
        )  # fmt: skip
        build_id = self._ask("mmap2 build ids", tracked) == 0
        return Capabilities(
            self._pmu, tuple(self._probes), opened, dialect, self._attr_size, delivered, legacy,
            build_id, self._whole_classes,
        )

    def _base(self, **values: Any) -> EventAttr:
        return EventAttr(
            type=PerfType.HARDWARE, config=self._pmu.config_base, sample_period=1,
            flags=AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL, **values,
        )

    def _legacy(self, which: str, precise_ip: int, xmm: int) -> EventAttr:
        mask = CLASSIC_GPR_MASK | xmm
        bit = SampleType.REGS_INTR if which == "intr" else SampleType.REGS_USER
        return self._base(
            sample_type=int(bit), precise_ip=precise_ip,
            sample_regs_intr=mask if which == "intr" else 0,
            sample_regs_user=mask if which == "user" else 0,
        )  # fmt: skip

    def _simd(self, dialect: Dialect, name: str, which: str, precise_ip: int) -> EventAttr:
        bit = SampleType.REGS_INTR if which == "intr" else SampleType.REGS_USER
        mask = request_mask(dialect, frozenset({name}))
        return self._base(
            sample_type=int(bit), precise_ip=precise_ip, size=dialect.attr_size, dialect=dialect,
            sample_regs_intr=mask if which == "intr" else 0,
            sample_regs_user=mask if which == "user" else 0,
            simd=request_simd(dialect, frozenset({name}), frozenset({which})),
        )  # fmt: skip

    def _twin(self, attr: EventAttr, which: str) -> EventAttr:
        mask = VECTOR_CLASSES["xmm"].mask
        return replace(attr, simd=replace(
            attr.simd, vec_qwords=IMPOSSIBLE_QWORDS,
            vec_intr=mask if which == "intr" else 0, vec_user=mask if which == "user" else 0,
        ))  # fmt: skip

    def _proven(self, dialect: Dialect, name: str, which: str, precise_ip: int) -> bool:
        attr = self._simd(dialect, name, which, precise_ip)
        label = f"{dialect.name} {name} {which} p{precise_ip}"
        if self._ask(label, attr):
            return False
        return self._ask(f"{label}, vec_qwords 3", self._twin(attr, which)) == errno.EINVAL

    def _dialect(self) -> Dialect | None:
        """M before O1: an attr of the one is EINVAL on kernels of the other. None: neither."""
        for dialect in (M, O1):
            for which in SETS:
                if self._proven(dialect, "xmm", which, 0):
                    if dialect is M:
                        self._whole_classes = self._refuses_subsets(which)
                    return dialect
            if self._attr_size is not None:
                return None
        return None

    def _refuses_subsets(self, which: str) -> bool:
        attr = self._simd(M, "xmm", which, 0)
        one = replace(
            attr.simd, vec_intr=1 if which == "intr" else 0, vec_user=1 if which == "user" else 0
        )
        asked = replace(attr, simd=one)
        return self._ask(f"M xmm0 alone {which} p0", asked) == errno.EINVAL

    def _simd_classes(self, dialect: Dialect, which: str, precise_ip: int) -> Iterator[str]:
        for name in SIMD_CLASSES:
            if self._proven(dialect, name, which, precise_ip):
                yield name

    def _ask(self, name: str, attr: EventAttr) -> int:
        asked = attrs.encode(attr)
        buffer = bytearray(asked)
        try:
            self._kernel.close(
                self._kernel.perf_event_open(buffer, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)
            )
        except OSError as error:
            answer = error.errno or errno.EIO
        else:
            answer = 0
        if answer == errno.E2BIG:
            self._attr_size = int.from_bytes(buffer[4:8], "little")
        hybrid = f"{self._pmu.name} " if self._pmu.config_base else ""
        meaning = _meaning(answer, attr, self._attr_size)
        self._probes.append(Probe(hybrid + name, asked.hex(), answer, meaning))
        return answer


def _meaning(answer: int, attr: EventAttr, attr_size: int | None) -> str:
    impossible = attr.simd.vec_qwords == IMPOSSIBLE_QWORDS
    if answer == 0:
        return "accepted unread: not this dialect" if impossible else "accepted"
    if answer == errno.EINVAL:
        if impossible:
            return "refused, as it should be"
        if attr.precise_ip:
            return "not with this precise_ip"
        return "not in this kernel, PMU or CPU"
    plain = {
        errno.E2BIG: f"the kernel's attr has {attr_size} bytes: no SIMD sampling",
        errno.ENOENT: "no hardware PMU",
        errno.EOPNOTSUPP: "the PMU cannot do this",
        errno.EACCES: "not permitted",
        errno.EPERM: "not permitted (seccomp, lockdown or a security module)",
        errno.ENOSYS: "no perf_event_open",
        errno.ENOMEM: "no memory for the register buffers",
    }
    return plain.get(answer, os.strerror(answer))
