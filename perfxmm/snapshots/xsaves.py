"""Snapshots of the `nmi` source: XSAVE images in a tracepoint's raw data, to register columns.

Where a field lies comes from the recording's own format of the tracepoint, where a component lies
in the image from XCOMP_BV and the recorded component table (xstate.locate). Samples whose image is
of one kind are read together, straight from where they lie in the block.

A record that does not hold what it claims (a location outside it, an image shorter than what its
bits need) is damage and is left out. An image that is whole but contradicts itself is read, and
`snapshot_flags` says so: whether it is believed is for the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from perfxmm.kernel.constants import REGS_ABI_64, REGS_ABI_SIMD, PerfType, SampleType
from perfxmm.kernel.layout import SetPlan, bits_of
from perfxmm.kernel.registers import EGPR_MASK, GPR_ID, GPR_IP, GPR_SSP, SSP_MASK
from perfxmm.kernel.traceformat import TraceFormat, parse_format
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.snapshotinfo import (
    IMAGE_FIELD,
    KNOWN_FLAGS,
    NAME,
    NUMBER_FIELDS,
    SYSTEM,
    TRACEPOINT,
    TYPE_FIELD,
    SnapshotFlag,
    SnapshotInfo,
)
from perfxmm.snapshots.batch import I32, I64, U8, U64, Bool
from perfxmm.snapshots.gather import SetColumns
from perfxmm.snapshots.records import WORD_BYTES, SampledEvent, stride_of
from perfxmm.snapshots.walk import Walk
from perfxmm.xstate.components import (
    APX,
    AVX,
    CET_USER,
    COMPACTED_BIT,
    COMPONENTS,
    EXTENDED_OFFSET,
    HI16_ZMM,
    OPMASK,
    SSE,
    XCOMP_BV_OFFSET,
    XSTATE_BV_OFFSET,
    ZMM_HI256,
)
from perfxmm.xstate.image import Problem, header_problems
from perfxmm.xstate.layout import FLAG_ALIGN64, FLAG_SUPERVISOR, Layout, Place
from perfxmm.xstate.locate import locate

# What is ever taken out of an image. Other supervisor components, PKRU and tile data never are.
SHOWN = (SSE, AVX, OPMASK, ZMM_HI256, HI16_ZMM, CET_USER, APX)
_SP = GPR_ID["SP"]
_FIRST_EGPR = GPR_ID["R16"]
_PROBLEMS = {
    Problem.RESERVED: SnapshotFlag.RESERVED, Problem.XCOMP_BV: SnapshotFlag.XCOMP_BV,
    Problem.BV_BEYOND_XCOMP: SnapshotFlag.BV_BEYOND, Problem.BV_BEYOND_XCR0: SnapshotFlag.BV_BEYOND,
    Problem.MXCSR: SnapshotFlag.MXCSR,
}  # fmt: skip


class NamedEvent(SampledEvent, Protocol):
    """As SampledEvent, with the name in the recording."""

    @property
    def name(self) -> str: ...


def snapshot_layout(metadata: Metadata | None) -> Layout | None:
    """The recorded component table; None where the recording has none."""
    info = SnapshotInfo.from_dict(metadata.snapshots) if metadata is not None else SnapshotInfo()
    if not info.components:
        return None
    return Layout(
        {
            c.number: Place(
                c.offset, c.size_bytes,
                FLAG_ALIGN64 * c.aligned | FLAG_SUPERVISOR * (not c.offset),
            )
            for c in info.components
        },
        info.xcr0, "recording",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """How one event's raw data are read. layout: the recorded component table, or None."""

    format: TraceFormat
    layout: Layout | None

    @property
    def why_not(self) -> str:
        """Why this format cannot be read, "" where it can."""
        fields = self.format.fields
        if lacking := self.format.lacking((*NUMBER_FIELDS, IMAGE_FIELD, TYPE_FIELD)):
            return f"the recorded format lacks {', '.join(lacking)}"
        for name in (*NUMBER_FIELDS, TYPE_FIELD):
            if not fields[name].is_number:
                return f"field {name} of the recorded format is no number"
        image = fields[IMAGE_FIELD]
        if not image.location or image.size_bytes != 4:
            return f"field {IMAGE_FIELD} of the recorded format is no __data_loc or __rel_loc"
        return ""

    @property
    def head_bytes(self) -> int:
        """As much of the raw data as the fields take up, without the image."""
        return max(self.format.fields[n].end for n in (*NUMBER_FIELDS, IMAGE_FIELD, TYPE_FIELD))


def plan_snapshots(
    events: Sequence[NamedEvent], formats: Mapping[int, TraceFormat], metadata: Metadata | None
) -> tuple[dict[int, SnapshotPlan], list[str]]:
    """Event index -> how its images are read, and what there is to say where they cannot be.

    A tracepoint is known by its number in the recording's own tracing data; its name alone does
    not tell where its fields lie.
    """
    plans: dict[int, SnapshotPlan] = {}
    notes: list[str] = []
    if metadata is not None and metadata.source == "sigtrap":
        return plans, notes  # its RAW field is its own
    layout = snapshot_layout(metadata)
    formats = formats or _kept_format(metadata)
    for index, event in enumerate(events):
        attr = event.attr
        if attr.type != PerfType.TRACEPOINT:
            continue
        found = formats.get(attr.config)
        if found is None or found.name != NAME:
            if event.name.partition(":")[0] != SYSTEM or not event.name.startswith(TRACEPOINT):
                continue
            why = "the recording does not keep its format (tracing data)"
        elif not attr.has(SampleType.RAW):
            why = "its samples have no raw data (perf record -R)"
        else:
            plan = SnapshotPlan(found, layout)
            why = plan.why_not
            if not why:
                plans[index] = plan
                continue
        notes.append(f"event {index}: {TRACEPOINT}, but its register images are not read: {why}")
    return plans, notes


def _kept_format(metadata: Metadata | None) -> dict[int, TraceFormat]:
    """The format in our own metadata: tracing data stand at the end of a file, which a recorder
    that was killed has not written."""
    if metadata is None or metadata.source != "nmi":
        return {}
    try:
        found = parse_format(str(metadata.snapshots.get("format", "")).encode(), SYSTEM)
    except ValueError:
        return {}
    return {found.number: found}


@dataclass(slots=True)
class Kind:
    """Snapshots whose images are alike. rows: of `Snapshots`. places: of what is read of them."""

    rows: npt.NDArray[np.intp]
    places: dict[int, Place]


@dataclass(slots=True)
class Snapshots:
    """The sound snapshots of one walk; arrays are [k].

    row: which of the walk's samples. at: byte of the walk's words at which each image begins.
    flags: SnapshotFlag bits. requested: RFBM. components: mask of what the kinds have in all.
    damage: rows of the walk that are not sound, and why.
    """

    row: I64
    at: I64
    flags: U64
    ip: U64
    sp: U64
    requested: U64
    xstate_bv: U64
    kinds: list[Kind] = field(default_factory=list)
    components: int = 0
    damage: list[tuple[I64, str]] = field(default_factory=list)


def set_plan(components: int) -> SetPlan:
    """The columns that a set with these components needs."""
    shown = tuple(n for n in SHOWN if components >> n & 1)
    registers, qwords = 0, 0
    if SSE in shown:
        registers, qwords = 16, 2
        if AVX in shown:
            qwords = 4
            if ZMM_HI256 in shown:
                qwords = 8
                registers = 32 if HI16_ZMM in shown else 16
    gprs = 1 << _SP | 1 << GPR_IP
    gprs |= EGPR_MASK if APX in shown else 0
    gprs |= SSP_MASK if CET_USER in shown else 0
    return SetPlan(
        name="intr", words=0, gpr_ids=bits_of(gprs), gpr_words=(), gpr_mask=gprs, xmm_registers=(),
        xmm_words=(), simd=True, header="none", vec_registers=tuple(range(registers)),
        vec_qwords=qwords, pred_registers=tuple(range(8)) if OPMASK in shown else (), pred_qwords=1,
    )  # fmt: skip


def read_snapshots(words: U64, walk: Walk, plan: SnapshotPlan, pid: I32, tid: I32) -> Snapshots:
    """What the raw data of a walk's samples say, without the registers themselves.

    pid, tid: int32 [k] of the samples, -1 where they carry none.
    """
    octets = words.view(np.uint8)
    raw = walk.at["raw"] * WORD_BYTES + 4
    size = walk.count["raw"]
    damage: list[tuple[I64, str]] = []
    row = np.arange(len(walk))

    def leave(bad: Bool, why: str) -> None:
        nonlocal row
        if bad.any():
            damage.append((row[bad], why))
            row = row[~bad]

    leave(size < plan.head_bytes, "the raw data are shorter than the tracepoint's fields")
    fields = _fields(octets, raw, row, plan)
    leave(
        fields[TYPE_FIELD] != np.uint64(plan.format.number),
        "the raw data are another tracepoint's",
    )
    fields = _fields(octets, raw, row, plan)
    image = plan.format.fields[IMAGE_FIELD]
    place = (fields[IMAGE_FIELD] & np.uint64(0xFFFF)).astype(np.int64)
    room = (fields[IMAGE_FIELD] >> np.uint64(16)).astype(np.int64)
    if image.location == "rel":
        place = place + image.end
    length = np.minimum(fields["len"], np.uint64(1 << 32)).astype(np.int64)
    sizes = size[row]
    outside = (place + room > sizes) | ((room > 0) & (place < image.end))
    why = np.zeros(len(row), np.int8)
    why[length > room] = 1
    why[(length > 0) & (length < EXTENDED_OFFSET)] = 2
    why[outside] = 3
    kept = why == 0
    for number, text in (
        (1, "the image is longer than the room it was given"),
        (2, "the image is shorter than its header"),
        (3, "the image's location leads out of the raw data"),
    ):
        if (why == number).any():
            damage.append((row[why == number], text))
    row, length, at = row[kept], length[kept], (raw[row] + place)[kept]
    fields = {name: column[kept] for name, column in fields.items()}
    found = _images(octets, at, length, fields, plan)
    found.damage = [(row[rows], text) for rows, text in found.damage] + damage
    other = (fields["tid"] != _unsigned(tid[row])) | (fields["tgid"] != _unsigned(pid[row]))
    found.flags[other[found.row]] |= np.uint64(SnapshotFlag.THREAD_DIFFERS)
    found.row = row[found.row]
    return found


def _unsigned(column: I32) -> U64:
    return column.astype(np.uint32).astype(np.uint64)


def _fields(octets: U8, raw: I64, row: I64, plan: SnapshotPlan) -> dict[str, U64]:
    """Every field as uint64 [len(row)], zero-extended; whatever the format's sign says, all are
    masks, numbers of threads or addresses."""
    out: dict[str, U64] = {}
    at = raw[row]
    stride = stride_of(at)
    for name in (*NUMBER_FIELDS, IMAGE_FIELD, TYPE_FIELD):
        one = plan.format.fields[name]
        values = octets_at(octets, at + one.offset, one.size_bytes, stride)
        out[name] = values.view(f"<u{one.size_bytes}")[:, 0].astype(np.uint64)
    return out


def octets_at(octets: U8, at: I64, width: int, stride: int) -> U8:
    """uint8 [len(at), width]: the bytes at each place, which must all exist.

    stride: stride_of(at); where it is not 0 the result is a view of `octets`.
    """
    if not len(at) or not width:
        return np.zeros((len(at), width), np.uint8)
    if stride:
        step = octets.strides[0]
        return np.ndarray(
            (len(at), width), octets.dtype, octets, int(at[0]) * step, (stride * step, step)
        )
    item = np.dtype((np.void, width))
    windows = np.ndarray((len(octets) - width + 1,), item, octets, 0, octets.strides)
    return windows[at].view(octets.dtype).reshape(len(at), width)


def _images(
    octets: U8, at: I64, length: I64, fields: Mapping[str, U64], plan: SnapshotPlan
) -> Snapshots:
    """As read_snapshots, for images whose locations are sound. Rows count these."""
    n = len(at)
    flags = fields["flags"] | np.uint64(SnapshotFlag.PRESENT)
    flags[fields["flags"] & ~np.uint64(KNOWN_FLAGS) != 0] |= np.uint64(SnapshotFlag.RESERVED)
    requested = fields["rfbm"]
    there = np.flatnonzero(length > 0)
    flags[length == 0] |= np.uint64(SnapshotFlag.NO_IMAGE)
    heads = octets_at(octets, at[there], EXTENDED_OFFSET, stride_of(at[there]))
    xstate_bv = np.zeros(n, np.uint64)
    xcomp_bv = np.zeros(n, np.uint64)
    xstate_bv[there] = _word(heads, XSTATE_BV_OFFSET)
    xcomp_bv[there] = _word(heads, XCOMP_BV_OFFSET)
    flags[there] |= _image_flags(
        heads, fields["flags"][there], requested[there], fields["xstate_bv"][there],
        fields["xcomp_bv"][there],
    )  # fmt: skip
    kinds: list[Kind] = []
    damage: list[tuple[I64, str]] = []
    components = 0
    good = np.ones(n, np.bool_)
    for rows in _alike(there, xcomp_bv, requested, length):
        first = rows[0]
        saved, wanted = int(xcomp_bv[first]), int(requested[first])
        bytes_ = int(length[first])
        present = saved & (COMPACTED_BIT - 1) if saved & COMPACTED_BIT else wanted
        places = {
            number: place
            for number, place in locate(saved, wanted, bytes_, plan.layout).items()
            if number in SHOWN and wanted >> number & 1
        }
        sought = sum(1 << n for n in SHOWN) & present & wanted
        if sought & ~sum(1 << n for n in places):
            flags[rows] |= np.uint64(SnapshotFlag.UNPLACED)
        behind = sum(
            1 << n for n, place in places.items() if place.offset + place.size_bytes > bytes_
        )
        short = xstate_bv[rows] & np.uint64(behind) != 0
        if short.any():
            damage.append((rows[short], "the image is shorter than the components in it"))
            good[rows[short]] = False
            rows = rows[~short]
        if len(rows):
            kinds.append(Kind(rows, places))
            components |= sum(1 << n for n in places)
    found = Snapshots(
        np.arange(n), at, flags, fields["ip"], fields["sp"], requested, xstate_bv, kinds,
        components, damage,
    )  # fmt: skip
    return found if good.all() else _without(found, good)


def _image_flags(
    heads: U8, said: U64, requested: U64, said_xstate_bv: U64, said_xcomp_bv: U64
) -> U64:
    """SnapshotFlag bits for what is wrong with images, by their first EXTENDED_OFFSET bytes.

    said: the record's flags. said_xstate_bv, said_xcomp_bv: the record's copies of the header.
    """
    zero = np.uint64(0)
    bits = np.zeros(len(heads), np.uint64)
    problems = header_problems(heads, requested)
    for problem, flag in _PROBLEMS.items():
        bits[problems & np.uint32(problem) != 0] |= np.uint64(flag)
    xstate_bv, xcomp_bv = _word(heads, XSTATE_BV_OFFSET), _word(heads, XCOMP_BV_OFFSET)
    compacted = xcomp_bv & np.uint64(COMPACTED_BIT) != zero
    bits[xstate_bv & ~requested != zero] |= np.uint64(SnapshotFlag.BV_BEYOND)
    # XSAVEC and XSAVES write RFBM into XCOMP_BV (Intel SDM volume 1, 13.10 and 13.11).
    other = compacted & (xcomp_bv != requested | np.uint64(COMPACTED_BIT))
    bits[other] |= np.uint64(SnapshotFlag.NOT_AS_ASKED)
    differs = (xstate_bv != said_xstate_bv) | (xcomp_bv != said_xcomp_bv)
    differs |= (said & np.uint64(SnapshotFlag.COMPACTED) != zero) != compacted
    differs |= (said & np.uint64(SnapshotFlag.XSAVES) != zero) & ~compacted
    bits[differs] |= np.uint64(SnapshotFlag.HEADER_DIFFERS)
    return bits


def _word(heads: U8, offset: int) -> U64:
    return np.ascontiguousarray(heads[:, offset : offset + 8]).view("<u8")[:, 0]


def _alike(
    there: npt.NDArray[np.intp], xcomp_bv: U64, requested: U64, length: I64
) -> list[npt.NDArray[np.intp]]:
    """Rows of `there` by kind of image; a recording has a handful of kinds at most."""
    if not len(there):
        return []
    key = np.stack([xcomp_bv[there], requested[there], length[there].view(np.uint64)], axis=1)
    if (key == key[0]).all():
        return [there]
    different, inverse = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(inverse.reshape(-1), minlength=len(different)))
    return [there[part] for part in np.split(order, ends[:-1])]


def _without(found: Snapshots, good: Bool) -> Snapshots:
    """`found` without the rows that `good` lacks."""
    moved = np.cumsum(good) - 1
    return Snapshots(
        found.row[good], found.at[good], found.flags[good], found.ip[good], found.sp[good],
        found.requested[good], found.xstate_bv[good],
        [Kind(moved[kind.rows], kind.places) for kind in found.kinds], found.components,
        found.damage,
    )  # fmt: skip


def put_snapshots(columns: SetColumns, words: U64, found: Snapshots, rows: I64) -> None:
    """Puts registers into the columns of set `intr`.

    rows: int64 [k], where each of `found` stands in the columns. Samples without an image keep
    abi 0: nothing was delivered.
    """
    octets = words.view(np.uint8)
    for kind in found.kinds:
        _put_kind(columns, octets, found, kind, rows[kind.rows])


def _put_kind(
    columns: SetColumns, octets: U8, found: Snapshots, kind: Kind, rows: I64
) -> None:
    mine, places = kind.rows, kind.places
    components = sum(1 << n for n in places)
    plan = set_plan(components)
    columns.abi[rows] = REGS_ABI_64 | REGS_ABI_SIMD
    columns.gpr_mask[rows] = plan.gpr_mask
    registers, qwords = plan.registers, plan.qwords
    predicates = len(plan.pred_registers)
    columns.delivered_vectors[rows] = registers
    columns.delivered_qwords[rows] = qwords
    columns.vector_mask[rows] = (1 << registers) - 1
    columns.delivered_predicates[rows] = predicates
    columns.predicate_mask[rows] = (1 << predicates) - 1
    columns.header[rows] = (
        registers | qwords << 16 | predicates << 32 | (1 if predicates else 0) << 48
    )
    at, xstate_bv = found.at[mine], found.xstate_bv[mine]

    def live(number: int) -> tuple[I64, U64]:
        """Where values of a component go, and the values [m, words]; what is initial is not in."""
        if number not in places:
            return rows[:0], np.zeros((0, COMPONENTS[number].size_bytes // 8), np.uint64)
        some = xstate_bv >> np.uint64(number) & np.uint64(1) != 0
        here, target = (at, rows) if some.all() else (at[some], rows[some])
        place = places[number]
        read = octets_at(octets, here + place.offset, place.size_bytes, stride_of(here))
        return target, read.view("<u8")

    if columns.gpr_ids and "gprs" in columns.columns:
        gprs = columns.gprs_to_fill()
        where = {number: column for column, number in enumerate(columns.gpr_ids)}
        gprs[rows, where[_SP]] = found.sp[mine]
        gprs[rows, where[GPR_IP]] = found.ip[mine]
        if APX in places:
            target, values = live(APX)
            for number in range(16):
                gprs[target, where[_FIRST_EGPR + number]] = values[:, number]
        if CET_USER in places:
            # MSRs IA32_U_CET and IA32_PL3_SSP, in this order (Intel SDM volume 1, 13.5.9).
            target, values = live(CET_USER)
            gprs[target, where[GPR_SSP]] = values[:, 1]
    if registers and "vectors" in columns.columns:
        vectors = columns.vectors_to_fill()
        for number, least, first, last in (
            (SSE, 2, 0, 2), (AVX, 4, 2, 4), (ZMM_HI256, 8, 4, 8),
        ):  # fmt: skip
            if qwords >= least:
                target, values = live(number)
                vectors[target, :16, first:last] = values.reshape(-1, 16, last - first)
        if registers > 16:
            target, values = live(HI16_ZMM)
            vectors[target, 16:32, :8] = values.reshape(-1, 16, 8)
    if predicates and "predicates" in columns.columns:
        target, values = live(OPMASK)
        columns.predicates_to_fill()[target] = values

