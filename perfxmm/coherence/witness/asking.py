"""Asks the code around the IPs of a batch what it says of the registers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfxmm.coherence.witness.check import U8, Checklist, Shape, shapes_of
from perfxmm.coherence.witness.places import Code, Place
from perfxmm.coherence.witness.skid import downstream
from perfxmm.coherence.witness.statement import Statement, believed_classes
from perfxmm.program.flow import Flow
from perfxmm.program.timeline import Timeline
from perfxmm.snapshots.batch import I32, U64, Bool, RegisterSet, SnapshotBatch
from perfxmm.snapshots.vocabulary import GPR_IP, REGS_ABI_64, CpuMode

I64 = npt.NDArray[np.int64]
# What is kept for places is dropped altogether when it has grown to this.
_MOST_ENTRIES = 200_000
_MOST_CLAIMS = 1_000_000
_OFFSET_BITS = 47
_NEITHER = np.uint8(0)


class Witness:
    """Asks the code of a recording's binaries about its samples."""

    def __init__(self, timeline: Timeline) -> None:
        self.code = Code(Flow(timeline.binaries))
        self._start_over()

    def _start_over(self) -> None:
        self._list = Checklist()
        self._entries: dict[tuple[int, Shape], int] = {}
        self._skids: dict[tuple[int, Shape], list[tuple[int, int]]] = {}

    def testify(
        self, batch: SnapshotBatch, registers: RegisterSet, ip: U64, dso: I32, offset: U64,
    ) -> Statement:
        """What the code at `ip` says of one judged set. ip: uint64 [n], the IP that the snapshot
        counts for; dso, offset: where its code is (timeline.Resolution).

        Only classes that are coherent or late are asked about, and only where the set's own IP is
        `ip`.
        """
        n = len(batch)
        believed = believed_classes(registers)
        rows = np.flatnonzero(_askable(batch, registers, ip) & (believed != 0) & (dso >= 0))
        found = Statement(believed, *(np.zeros(n, np.uint8) for _ in range(3)))
        if not len(rows):
            return found
        entries = max(self._list.size, len(self._entries))
        if entries > _MOST_ENTRIES or self._list.claims > _MOST_CLAIMS:
            self._start_over()
        shapes, shape = shapes_of(registers, believed)
        fits = (offset >> np.uint64(_OFFSET_BITS) == 0) & (dso < 1 << 15)
        rows = rows[fits[rows]]
        places = dso[rows].astype(np.int64) << (_OFFSET_BITS + 1)
        places |= offset[rows].astype(np.int64) << 1 | batch.exact_ip[rows]
        numbers = self._entries_of(places, shapes, shape[rows])
        speaks = self._list.speaks(numbers)
        asked = np.flatnonzero(speaks)
        wrong = np.zeros(len(rows), np.uint8)
        wrong[asked] = self._list.contradicted(registers, ip, rows[asked], numbers[asked])
        found.proved[rows] = speaks & ~wrong
        found.contradicted[rows] = wrong
        bad = np.flatnonzero(wrong)
        if len(bad):
            shape_list = [shapes[s] for s in shape[rows[bad]].tolist()]
            found.skid[rows[bad]] = self._skid(registers, ip, rows[bad], places[bad], shape_list)
        return found

    def _entries_of(self, places: I64, shapes: list[Shape], shape: I64) -> I64:
        """Entry of each row, whose shape is shapes[shape[row]]."""
        different, place = np.unique(places, return_inverse=True)
        pairs, pair = np.unique(place.reshape(-1) * len(shapes) + shape, return_inverse=True)
        known = different.tolist()
        numbers = [
            self._entry(known[both // len(shapes)], shapes[both % len(shapes)])
            for both in pairs.tolist()
        ]
        entries: I64 = np.array(numbers, np.int64)[pair.reshape(-1)]
        return entries

    def _entry(self, place: int, shape: Shape) -> int:
        found = self._entries.get((place, shape))
        if found is None:
            known = self.code.known(_place(place))
            found = self._list.add(known.claims, shape) if known.claims else 0
            self._entries[place, shape] = found
        return found

    def _skid(
        self, registers: RegisterSet, ip: U64, rows: I64, places: I64, shapes: list[Shape],
    ) -> U8:
        """How far on from their IP contradicted samples fit."""
        out = np.zeros(len(rows), np.uint8)
        groups: dict[tuple[int, Shape], list[int]] = {}
        for at, key in enumerate(zip(places.tolist(), shapes, strict=True)):
            groups.setdefault(key, []).append(at)
        for (place, shape), members in groups.items():
            left = np.array(members, np.int64)
            for steps, entry in self._downstream(place, shape):
                if not len(left):
                    break
                wrong = self._list.contradicted(
                    registers, ip, rows[left], np.full(len(left), entry, np.int64)
                )
                out[left[wrong == _NEITHER]] = steps
                left = left[wrong != _NEITHER]
        return out

    def _downstream(self, place: int, shape: Shape) -> list[tuple[int, int]]:
        """(instructions on, entry) of the places that could explain a skid, nearest first."""
        key = (place, shape)
        found = self._skids.get(key)
        if found is None:
            found = self._skids[key] = [
                (there.instructions, self._list.add(there.claims, shape))
                for there in downstream(self.code.known(_place(place)))
                # A path that wrote nothing that can be compared explains nothing.
                if any(shape.can_check(claim) for claim in there.written)
            ]
        return found


def _place(packed: int) -> Place:
    return Place(
        packed >> (_OFFSET_BITS + 1), packed >> 1 & (1 << _OFFSET_BITS) - 1, bool(packed & 1)
    )


def _askable(batch: SnapshotBatch, registers: RegisterSet, ip: U64) -> Bool:
    """Bool [n]: 64-bit user code, and the registers are those of `ip`."""
    found: Bool = (registers.abi & np.uint8(REGS_ABI_64)) != 0
    found &= (batch.cpumode == np.uint8(CpuMode.USER)) | (ip != batch.ip)
    own = registers.gpr(GPR_IP)
    if own is not None:
        told = (registers.gpr_mask >> np.uint64(GPR_IP) & np.uint64(1)) != 0
        found &= ~told | (own == ip)
    return found
