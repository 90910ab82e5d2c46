"""Takes images out of snapshots that must not be written, before they reach a file.

Hits in kernel mode never get this far (exclude_kernel; the module drops them too). What is left
is looked at for doubt: a sample whose own mode, flags or process say that its registers may be
somebody else's keeps its place, without image and stack pointer. Its `len` says 0.
"""

from __future__ import annotations

import struct

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import MISC_CPUMODE_MASK, CpuMode
from perfxmm.kernel.layout import LayoutPlan, plan_layout
from perfxmm.kernel.traceformat import TraceField, TraceFormat
from perfxmm.perfdata.snapshotinfo import IMAGE_FIELD, SnapshotFlag
from perfxmm.sources.scrub import field_end, rewrite_samples

_OWN = SnapshotFlag.USER | SnapshotFlag.IN_NMI
_DOUBT = _OWN | SnapshotFlag.NEED_FPU_LOAD | SnapshotFlag.KERNEL_THREAD


class SnapshotScrubber:
    """Rewrites runs of whole records of one recording by source `nmi`.

    everything: every image goes. scrubbed: samples that lost theirs. dropped: samples that could
    not be taken apart and were left out whole, because what cannot be found cannot be withheld.
    """

    def __init__(
        self, attr: EventAttr, trace_format: TraceFormat, *, everything: bool = False
    ) -> None:
        self._plan: LayoutPlan = plan_layout(attr)
        self._fields = trace_format.fields
        self._everything = everything
        self.scrubbed = 0
        self.dropped = 0

    def __call__(self, data: bytes | memoryview) -> bytes | memoryview:
        """`data` itself where nothing had to go, else the rewritten records."""
        return rewrite_samples(data, self._replaced)

    def _replaced(self, record: memoryview, misc: int) -> bytes | None:
        try:
            return self._rewrite(record, misc)
        except (IndexError, ValueError, struct.error):
            self.dropped += 1
            return b""

    def _rewrite(self, record: memoryview, misc: int) -> bytes | None:
        """The record without its image; None where it may stay."""
        words = record.cast("Q")
        at = self._plan.fixed_words
        for one in self._plan.following:
            if one.name == "raw":
                break
            at = field_end(words, at, one, self._plan)
        begin = 8 * at + 4
        end = begin + (words[at] & 0xFFFFFFFF)
        if end > len(record):
            raise IndexError("RAW runs past the record's end")
        raw = record[begin:end]
        if not self._everything and self._is_own(raw, misc, words):
            return None
        self.scrubbed += 1
        kept = bytearray(raw[: max(field.end for field in self._fields.values())])
        image = self._fields[IMAGE_FIELD]
        place = image.end if image.location == "data" else 0
        for field, value in (
            (self._fields["sp"], 0), (self._fields["len"], 0), (image, place),
        ):  # fmt: skip
            kept[field.offset : field.end] = value.to_bytes(field.size_bytes, "little")
        kept += bytes(-(4 + len(kept)) % 8)
        behind = record[begin + -(-(4 + len(raw)) // 8) * 8 - 4 :]
        body = bytes(record[8 : 8 * at]) + struct.pack("<I", len(kept)) + kept + behind
        kind, _, _ = struct.unpack_from("<IHH", record)
        return struct.pack("<IHH", kind, misc, 8 + len(body)) + body

    def _is_own(self, raw: memoryview, misc: int, words: memoryview) -> bool:
        """Nothing says that the registers are anybody's but the interrupted task's."""
        if misc & MISC_CPUMODE_MASK != CpuMode.USER:
            return False
        if "tid" in self._plan.fixed and words[self._plan.fixed["tid"]] & 0xFFFFFFFF == 0:
            return False
        return _number(raw, self._fields["flags"]) & _DOUBT == _OWN


def _number(raw: memoryview, field: TraceField) -> int:
    if field.end > len(raw):
        raise IndexError(f"RAW ends inside {field.name}")
    return int.from_bytes(raw[field.offset : field.end], "little")
