"""Whole recordings with vector registers, in any dialect, from columns of what the registers held.

The columns are the truth; the writer puts them into a perf.data file as a kernel of the dialect
does, as perf's own file (no metadata of perfxmm). Written for many samples: all of one layout are
made at once. Layout: UAPI header's comments, and `dialects` for the attr.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from support import perfdata_writer as pw

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import Dialect, L, SimdRequest
from perfxmm.kernel.layout import bits_of
from perfxmm.kernel.registers import CLASSIC_GPR_MASK

U64s = npt.NDArray[np.uint64]
GPR_IDS = bits_of(CLASSIC_GPR_MASK)
IP_COLUMN = GPR_IDS.index(8)
OSRELEASE, ARCH = 4, 6
BASE = SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
SIMD_ABI, PLAIN_ABI = 6, 2
PERF_RECORD_SAMPLE = 9


@dataclass
class SetTruth:
    """One register set of n samples.

    abi: [n]. gprs: [n, 20], columns GPR_IDS. vectors: [n, registers, qwords]; predicates: [n, 8]
    or [n, 0]. said: [n, 4], the header's numbers, where they are not those of the values.
    """

    abi: U64s
    gprs: U64s
    vectors: U64s
    predicates: U64s
    said: U64s | None = None

    def copy(self) -> SetTruth:
        return SetTruth(
            self.abi.copy(), self.gprs.copy(), self.vectors.copy(), self.predicates.copy(),
            None if self.said is None else self.said.copy(),
        )


@dataclass
class Truth:
    """n samples. misc: cpumode and flags. sets: by name; user stands in front of intr."""

    time_ns: U64s
    ip: U64s
    pid: npt.NDArray[np.int32]
    tid: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    misc: npt.NDArray[np.uint16]
    sets: dict[str, SetTruth]

    def __len__(self) -> int:
        return len(self.ip)

    def copy(self) -> Truth:
        return Truth(
            self.time_ns.copy(), self.ip.copy(), self.pid.copy(), self.tid.copy(),
            self.cpu.copy(), self.misc.copy(),
            {name: one.copy() for name, one in self.sets.items()},
        )

    def with_sets(self, *names: str) -> Truth:
        """A copy in which every set named has what the first set here holds."""
        first = next(iter(self.sets.values()))
        return replace(self.copy(), sets={name: first.copy() for name in names})


def attr_of(
    truth: Truth, dialect: Dialect, *, precise_ip: int = 0, exclude_kernel: bool = False
) -> EventAttr:
    """The attr that asks a kernel of `dialect` for what is there."""
    intr, user = truth.sets.get("intr"), truth.sets.get("user")
    one = next(iter(truth.sets.values()))
    registers, qwords = one.vectors.shape[1:]
    vec, pred = (1 << registers) - 1, 0xFF if one.predicates.shape[1] else 0
    kinds = BASE
    if intr is not None:
        kinds |= SampleType.REGS_INTR
    if user is not None:
        kinds |= SampleType.REGS_USER
    simd, gprs = SimdRequest(), CLASSIC_GPR_MASK
    if dialect is L:
        gprs |= 0xFFFFFFFF00000000
    else:
        simd = SimdRequest(
            enabled=1, pred_qwords=1 if pred or dialect.enabled_is_pred_qwords else 0,
            vec_qwords=qwords, pred_intr=pred * (intr is not None),
            pred_user=pred * (user is not None), vec_intr=vec * (intr is not None),
            vec_user=vec * (user is not None),
        )
    return EventAttr(
        sample_period=1000, sample_type=int(kinds), precise_ip=precise_ip,
        flags=int(AttrFlag.EXCLUDE_KERNEL) if exclude_kernel else 0,
        sample_regs_intr=gprs if intr is not None else 0,
        sample_regs_user=gprs if user is not None else 0, dialect=dialect, simd=simd,
        size=0 if dialect is L else 176,
    )


def sample_records(truth: Truth, dialect: Dialect, *, header: str = "") -> list[bytes]:
    """PERF_RECORD_SAMPLE of each row. header: "u64" or "u16" instead of the dialect's kind."""
    kind = header or dialect.header
    order = [name for name in ("user", "intr") if name in truth.sets]
    n = len(truth)
    keys = np.zeros(n, np.uint64)
    for name in order:
        one = truth.sets[name]
        keys = keys << np.uint64(24) | one.abi
        if one.said is not None:
            # Few different headers occur: their numbers stay small.
            packed = one.said @ np.array([1, 64, 1024, 16384], np.uint64)
            keys = keys | packed << np.uint64(4)
    out: list[bytes] = [b""] * n
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        head = [
            np.zeros(len(rows), np.uint64), truth.ip[rows],
            _pair(truth.pid[rows], truth.tid[rows]), truth.time_ns[rows],
            _pair(truth.cpu[rows], np.zeros(len(rows), np.int32)),
        ]  # fmt: skip
        words = [np.stack(head, axis=1)]
        for name in order:
            words += _set_words(truth.sets[name], rows, kind, dialect)
        table = np.concatenate(words, axis=1)
        size = 8 * table.shape[1]
        table[:, 0] = (
            PERF_RECORD_SAMPLE | truth.misc[rows].astype(np.uint64) << np.uint64(32)
            | np.uint64(size << 48)
        )
        data = table.tobytes()
        for place, row in enumerate(rows.tolist()):
            out[row] = data[place * size : (place + 1) * size]
    return out


def _pair(low: npt.NDArray[np.int32], high: npt.NDArray[np.int32]) -> U64s:
    return np.stack([low, high], axis=1).astype("<i4").view("<u8")[:, 0]


def _set_words(
    one: SetTruth, rows: npt.NDArray[np.intp], kind: str, dialect: Dialect
) -> Iterable[U64s]:
    abi = int(one.abi[rows[0]])
    yield one.abi[rows][:, None]
    if abi == 0:
        return
    yield one.gprs[rows]
    vectors, predicates = one.vectors[rows], one.predicates[rows]
    if dialect is L:
        yield vectors.reshape(len(rows), -1)
        return
    if not abi & 4:
        return
    numbers = (
        [vectors.shape[1], vectors.shape[2], predicates.shape[1], 1 if predicates.size or
         dialect.enabled_is_pred_qwords else 0]
        if one.said is None else one.said[rows[0]].tolist()
    )  # fmt: skip
    if kind == "u16":
        slot = sum(number << 16 * place for place, number in enumerate(numbers))
        yield np.full((len(rows), 1), slot, np.uint64)
    else:
        yield np.tile(np.array(numbers, np.uint64), (len(rows), 1))
    # The payload is what the header says, of what there is.
    yield vectors[:, : numbers[0], : numbers[1]].reshape(len(rows), -1)
    if numbers[3]:
        yield predicates[:, : numbers[2]]


def recording(
    truth: Truth, dialect: Dialect, *, precise_ip: int = 0, exclude_kernel: bool = False,
    release: str = "7.4.0", sideband: Sequence[bytes] = (), attr_bytes: bytes | None = None,
    header: str = "", records: Sequence[bytes] | None = None,
) -> bytes:
    """The file. attr_bytes: instead of the attr that is right. records: instead of truth's."""
    asked = attr_of(truth, dialect, precise_ip=precise_ip, exclude_kernel=exclude_kernel)
    samples = sample_records(truth, dialect, header=header) if records is None else records
    features = {ARCH: _text("x86_64")}
    if release:
        features[OSRELEASE] = _text(release)
    made = pw.PerfFile(
        [(attr_bytes or attr_codec.encode(asked), (1,))], [*sideband, *samples], features
    )
    return made.build()


def _text(text: str) -> bytes:
    raw = text.encode() + b"\0"
    raw += b"\0" * (-len(raw) % 64)
    return struct.pack("<I", len(raw)) + raw


@dataclass
class Shape:
    """Sizes of invented registers."""

    registers: int = 32
    qwords: int = 8
    predicates: int = 8
    threads: int = 4
    cpus: int = 2
    seed: int = 1
    names: tuple[str, ...] = field(default=("user", "intr"))


def invented(count: int, shape: Shape | None = None) -> Truth:
    """Samples of threads in turn on some CPUs, in user mode, every word different."""
    shape = shape or Shape()
    rng = np.random.default_rng(shape.seed)

    def words(*size: int) -> U64s:
        return rng.integers(1, 1 << 63, size, dtype=np.uint64)

    ip = 0x401000 + rng.integers(0, 4096, count, dtype=np.uint64)
    gprs = words(count, len(GPR_IDS))
    gprs[:, IP_COLUMN] = ip
    one = SetTruth(
        np.full(count, PLAIN_ABI if shape.qwords == 2 and not shape.predicates else SIMD_ABI,
                np.uint64),
        gprs, words(count, shape.registers, shape.qwords), words(count, shape.predicates),
    )  # fmt: skip
    tid = (100 + rng.integers(0, shape.threads, count)).astype(np.int32)
    return Truth(
        time_ns=1_000_000_000 + 1000 * np.arange(count, dtype=np.uint64), ip=ip, pid=tid.copy(),
        tid=tid, cpu=rng.integers(0, shape.cpus, count).astype(np.int32),
        misc=np.full(count, 2, np.uint16), sets={name: one.copy() for name in shape.names},
    )
