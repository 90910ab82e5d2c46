"""A liar: takes true samples and puts into them, at known places, what kernels have got wrong.

Each lie says which register classes of which set it made untrue and in which rows, so that recall
and precision of the rules can be counted. What a rule goes by (mode, pid, abi, zero fill) is
changed as the kernel in question changes it; what nothing in a sample gives away (another thread's
vectors alone, a skewed IP) is changed without a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from support.simd_writer import GPR_IDS, IP_COLUMN, SIMD_ABI, SetTruth, Truth

from perfxmm.kernel.constants import CpuMode
from perfxmm.kernel.dialects import O1, O2, R2, R6, Dialect, L, M
from perfxmm.snapshots.batch import VERDICT_CLASSES

Rows = npt.NDArray[np.intp]
KERNEL_IP = 0xFFFFFFFF81000000
KERNEL_MARKER = 0x4B45524E454C5F21  # "KERNEL_!" backwards: values of a kernel FPU section
ALL = VERDICT_CLASSES
VECTORS = ("xmm", "ymm", "zmm", "opmask")
UPPER = ("ymm", "zmm", "opmask")
SETS = ("user", "intr")
CALLEE_SAVED = [GPR_IDS.index(number) for number in (1, 20, 21, 22, 23)]
KERNEL_THREAD = 7


@dataclass(frozen=True)
class Claim:
    """In `rows` the `classes` of set `set` do not hold what the sample says they hold."""

    set: str
    classes: tuple[str, ...]
    rows: Rows


@dataclass
class Lies:
    """A copy of the truth with lies in it."""

    told: Truth
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """One kind of lie.

    group: ownership, absence, zero fill, torn, stale, shifted, other; limits are by group.
    tell: (truth, rows, rng) -> Lies. dialect, precise_ip, exclude_kernel: of the recording that
    it is told in. traceless: nothing in the sample gives it away, only code can.
    release: kernel release named in the file.
    """

    name: str
    group: str
    tell: Callable[[Truth, Rows, np.random.Generator], Lies]
    dialect: Dialect = M
    precise_ip: int = 0
    exclude_kernel: bool = False
    traceless: bool = False
    sets: tuple[str, ...] = SETS
    release: str = "7.4.0"
    least_predicates: int = 0


def _enter_kernel(told: Truth, rows: Rows) -> None:
    """What an interrupt in the kernel looks like: mode, IP, and a user set of kernel entry."""
    told.misc[rows] = CpuMode.KERNEL
    told.ip[rows] = KERNEL_IP + rows.astype(np.uint64)
    user = told.sets.get("user")
    if user is not None:
        user.gprs[np.ix_(rows, CALLEE_SAVED)] = np.uint64(0xFFFFFFFFFFFFFFFF)


def _kernels_own(one: SetTruth, rows: Rows, ip: npt.NDArray[np.uint64]) -> None:
    one.vectors[rows] = KERNEL_MARKER
    one.predicates[rows] = KERNEL_MARKER
    one.gprs[rows] = KERNEL_MARKER
    one.gprs[rows, IP_COLUMN] = ip[rows]


def kernel_mode(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """A hit inside kernel_fpu_begin: intr is the kernel's, user the task's of its entry."""
    told = truth.copy()
    _enter_kernel(told, rows)
    _kernels_own(told.sets["intr"], rows, told.ip)
    # The user set is the task's, but not at the sample's IP: it is no lie to show it as `entry`.
    return Lies(told, [Claim("intr", ALL, rows), Claim("user", ALL, rows)])


def kernel_live_as_user(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """As V2 and V3: the user set has the kernel's live vectors too."""
    lies = kernel_mode(truth, rows, rng)
    user = lies.told.sets["user"]
    user.vectors[rows] = KERNEL_MARKER
    user.predicates[rows] = KERNEL_MARKER
    return lies


def skid_leak(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """exclude_kernel, but the interrupt came in the kernel; kernels before 7.3 show its registers,
    with the IP taken out."""
    lies = kernel_mode(truth, rows, rng)
    lies.told.ip[rows] = 0
    return lies


def idle(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """The idle task, with what the task before left in the CPU; no user set."""
    told = truth.copy()
    _enter_kernel(told, rows)
    told.pid[rows] = told.tid[rows] = 0
    told.sets["user"].abi[rows] = 0
    _from(told.sets["intr"], truth.sets["intr"], rows, np.maximum(rows - 1, 0), gprs=False)
    told.sets["intr"].gprs[rows, IP_COLUMN] = told.ip[rows]
    return Lies(told, [Claim(name, ALL, rows) for name in SETS])


def idle_in_user_mode(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """pid 0 though the mode says user: no such thing."""
    told = truth.copy()
    told.pid[rows] = told.tid[rows] = 0
    return Lies(told, [Claim(name, ALL, rows) for name in SETS])


def kernel_thread(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """A kernel thread: another task's vectors, ABI_32 by its lack of user registers."""
    lies = idle(truth, rows, rng)
    lies.told.pid[rows] = lies.told.tid[rows] = KERNEL_THREAD
    lies.told.sets["intr"].abi[rows] = 5
    return lies


def _mode(mode: CpuMode) -> Callable[[Truth, Rows, np.random.Generator], Lies]:
    def tell(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
        told = truth.copy()
        told.misc[rows] = mode
        return Lies(told, [Claim(name, ALL, rows) for name in SETS])

    return tell


def no_registers(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """abi 0, in every other row of one set only."""
    told = truth.copy()
    told.sets["intr"].abi[rows] = 0
    told.sets["user"].abi[rows[::2]] = 0
    return Lies(told, [Claim("intr", ALL, rows), Claim("user", ALL, rows[::2])])


def no_simd_block(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """SIMD enabled, but the abi word lacks its bit and nothing follows the general registers."""
    told = truth.copy()
    for one in told.sets.values():
        one.abi[rows] = 2
    return Lies(told, [Claim(name, VECTORS, rows) for name in SETS])


def not_in_nmi(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Full counts, all zero."""
    told = truth.copy()
    for one in told.sets.values():
        one.vectors[rows] = 0
        one.predicates[rows] = 0
    return Lies(told, [Claim(name, VECTORS, rows) for name in told.sets])


def _from(one: SetTruth, other: SetTruth, rows: Rows, source: Rows, *, gprs: bool) -> None:
    one.vectors[rows] = other.vectors[source]
    one.predicates[rows] = other.predicates[source]
    if gprs:
        one.gprs[rows] = other.gprs[source]


def _on_cpu_before(truth: Truth, rows: Rows) -> Rows:
    """The sample of the CPU before each row; -1 where it has none."""
    found = np.full(len(truth), -1)
    for cpu in np.unique(truth.cpu):
        mine = np.flatnonzero(truth.cpu == cpu)
        found[mine[1:]] = mine[:-1]
    return found[rows]


def stale(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """All sets have the vectors of the CPU's sample before, of another thread. Rows whose sample
    before is of the same thread, or has the same values, are no place for this lie."""
    told = truth.copy()
    source = _on_cpu_before(truth, rows)
    fit = (source >= 0) & (truth.tid[source] != truth.tid[rows])
    changed = []
    # One after the other: the sample before may itself show what is older still.
    for row, before in zip(rows[fit].tolist(), source[fit].tolist(), strict=True):
        differs = False
        for one in told.sets.values():
            differs |= bool((one.vectors[row] != one.vectors[before]).any())
            one.vectors[row], one.predicates[row] = one.vectors[before], one.predicates[before]
        if differs:
            changed.append(row)
    at = np.array(changed, np.intp)
    return Lies(told, [Claim(name, VECTORS, at) for name in told.sets])


def stale_in_one_set(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """The user set has another thread's vectors (a pointer that was not reset), intr its own."""
    lies = stale(truth, rows, rng)
    lies.told.sets["intr"] = truth.sets["intr"].copy()
    # Neither is to be believed: nothing says which of the two is wrong.
    lies.claims = [claim for claim in lies.claims if claim.set == "user"]
    return lies


def _differs(one: SetTruth, rows: Rows, source: Rows) -> npt.NDArray[np.bool_]:
    return np.asarray((one.vectors[rows] != one.vectors[source]).any(axis=(1, 2)))


def other_thread(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """All registers are another thread's, its IP among them; the sample's IP is right."""
    told = truth.copy()
    source = rng.permutation(len(truth))[: len(rows)]
    fit = (truth.tid[source] != truth.tid[rows]) & (truth.ip[source] != truth.ip[rows])
    rows, source = rows[fit], source[fit]
    for name in told.sets:
        _from(told.sets[name], truth.sets[name], rows, source, gprs=True)
    return Lies(told, [Claim(name, ALL, rows) for name in told.sets])


def torn_precise(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Precise event of a kernel that mixes sources: low 128 bits right, the rest of later."""
    told = truth.copy()
    one, other = told.sets["intr"], truth.sets["intr"]
    source = np.minimum(rows + 1, len(truth) - 1)
    # Where both happen to be equal nothing is torn.
    fit = (one.vectors[rows, :, 2:] != other.vectors[source, :, 2:]).any(axis=(1, 2))
    rows, source = rows[fit], source[fit]
    one.vectors[rows, :, 2:] = other.vectors[source, :, 2:]
    one.predicates[rows] = other.predicates[source]
    return Lies(told, [Claim("intr", UPPER, rows)])


def torn_twin(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Upper halves of the interrupt set are another sample's, in a recording with both sets."""
    return torn_precise(truth, rows, rng)


def rotated_twin(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """The interrupt set's registers stand one place further on."""
    told = truth.copy()
    turned = np.roll(truth.sets["intr"].vectors[rows], 1, axis=1)
    fit = (turned != truth.sets["intr"].vectors[rows]).any(axis=(1, 2))
    rows = rows[fit]
    told.sets["intr"].vectors[rows] = turned[fit]
    return Lies(told, [Claim("intr", VECTORS[:3], rows)])


def garbage_high(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """V4: ZMM16 to 31 are read from beyond their buffer, in every sample."""
    told = truth.copy()
    for one in told.sets.values():
        one.vectors[:, 16:] = rng.integers(1, 1 << 63, one.vectors[:, 16:].shape, dtype=np.uint64)
    return Lies(told, [])


def cut_payload(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """V4: the header counts 16 of 32 vectors, the record has room for 16, all 32 are written: where
    opmasks belong stands vector 16."""
    told = truth.copy()
    for one in told.sets.values():
        said = np.tile(np.array([32, one.vectors.shape[2], 8, 1], np.uint64), (len(truth), 1))
        said[rows, 0] = 16
        one.said = said
        one.predicates[rows] = one.vectors[rows, 16]
    return Lies(told, [Claim(name, ("opmask",), rows) for name in told.sets])


def traceless_stale(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Vectors of the thread's own sample before, in both sets: only code can tell."""
    told = truth.copy()
    source = np.full(len(truth), -1)
    for tid in np.unique(truth.tid):
        mine = np.flatnonzero(truth.tid == tid)
        source[mine[1:]] = mine[:-1]
    source = source[rows]
    one = next(iter(truth.sets.values()))
    fit = (source >= 0) & _differs(one, rows, source)
    rows, source = rows[fit], source[fit]
    for name in told.sets:
        _from(told.sets[name], truth.sets[name], rows, source, gprs=False)
    return Lies(told, [Claim(name, VECTORS, rows) for name in told.sets])


def traceless_rotation(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Registers one place further on in both sets: only code can tell."""
    told = truth.copy()
    first = next(iter(truth.sets.values())).vectors[rows]
    rows = rows[(np.roll(first, 1, axis=1) != first).any(axis=(1, 2))]
    for one in told.sets.values():
        one.vectors[rows] = np.roll(one.vectors[rows], 1, axis=1)
    return Lies(told, [Claim(name, VECTORS[:3], rows) for name in told.sets])


def traceless_torn(truth: Truth, rows: Rows, rng: np.random.Generator) -> Lies:
    """Upper halves of another sample in both sets: only code can tell."""
    told = truth.copy()
    source = rng.integers(0, len(truth), len(rows))
    first = next(iter(truth.sets.values())).vectors
    fit = (first[rows, :, 2:] != first[source, :, 2:]).any(axis=(1, 2))
    rows, source = rows[fit], source[fit]
    for name, one in told.sets.items():
        one.vectors[rows, :, 2:] = truth.sets[name].vectors[source, :, 2:]
    return Lies(told, [Claim(name, ("ymm", "zmm"), rows) for name in told.sets])


KINDS: tuple[Kind, ...] = (
    Kind("kernel-mode", "ownership", kernel_mode),
    Kind("kernel-mode-overlay", "ownership", kernel_mode, O1),
    Kind("live-as-user", "ownership", kernel_live_as_user, R2),
    Kind("live-as-user-v6", "ownership", kernel_live_as_user, R6),
    Kind("skid-leak", "ownership", skid_leak, O1, exclude_kernel=True),
    Kind("skid-leak-legacy", "ownership", skid_leak, L, precise_ip=1, exclude_kernel=True),
    Kind("idle-task", "ownership", idle),
    Kind("idle-in-user-mode", "ownership", idle_in_user_mode),
    Kind("kernel-thread", "ownership", kernel_thread),
    Kind("guest-user", "ownership", _mode(CpuMode.GUEST_USER)),
    Kind("guest-kernel", "ownership", _mode(CpuMode.GUEST_KERNEL)),
    Kind("hypervisor", "ownership", _mode(CpuMode.HYPERVISOR)),
    Kind("mode-unknown", "ownership", _mode(CpuMode.UNKNOWN)),
    Kind("other-thread", "ownership", other_thread),
    Kind("stale-in-one-set", "ownership", stale_in_one_set),
    Kind("stale-in-one-set-v6", "ownership", stale_in_one_set, R6),
    Kind("no-registers", "absence", no_registers),
    Kind("no-simd-block", "absence", no_simd_block),
    Kind("not-in-nmi", "zero fill", not_in_nmi),
    Kind("not-in-nmi-postings", "zero fill", not_in_nmi, R2),
    Kind("no-xmm-in-pebs", "zero fill", not_in_nmi, L, precise_ip=1, sets=("intr",)),
    Kind("torn-precise-o1", "torn", torn_precise, O1, precise_ip=2, sets=("intr",)),
    Kind("torn-precise-r2", "torn", torn_precise, R2, precise_ip=1, sets=("intr",)),
    Kind("torn-precise-r6", "torn", torn_precise, R6, precise_ip=1, sets=("intr",)),
    Kind("torn-precise-o2", "torn", torn_precise, O2, precise_ip=2, sets=("intr",),
         release="7.1.0-intel"),
    Kind("torn-twin", "torn", torn_twin),
    Kind("torn-cut-payload", "torn", cut_payload, R2, least_predicates=8),
    Kind("rotated-twin", "shifted", rotated_twin),
    Kind("stale", "stale", stale),
    Kind("traceless-stale", "other", traceless_stale, traceless=True),
    Kind("traceless-torn", "other", traceless_torn, traceless=True),
    Kind("traceless-rotation", "other", traceless_rotation, traceless=True),
)  # fmt: skip


def places(count: int, share: float, rng: np.random.Generator) -> Rows:
    """So many rows, ascending."""
    chosen: Rows = np.sort(rng.choice(count, max(1, int(count * share)), replace=False))
    return chosen


__all__ = ["KINDS", "SIMD_ABI", "Claim", "Kind", "Lies", "places"]
