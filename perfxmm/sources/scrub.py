"""Takes register values out of kernel-made samples before they reach a file.

A set that must not be written keeps its place in the sample with abi 0, the ABI's own word for "no
registers here", and its payload is left out: absent is not zero, so nothing is zeroed. The
record's size shrinks accordingly; every other byte stays as the kernel wrote it.

Which sets: of a sample that did not hit user mode, the interrupt set (whose vectors may be the
kernel's, another task's or a guest's); of a sample of a guest or the hypervisor, both; with
redaction, every set of every sample.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import (
    MISC_CPUMODE_MASK,
    REGS_ABI_SIMD,
    AttrFlag,
    CpuMode,
    RecordType,
)
from perfxmm.kernel.header_kind import read_header
from perfxmm.kernel.layout import FieldKind, FieldPlan, LayoutPlan, SetPlan, plan_layout
from perfxmm.kernel.ring import walk

_GUEST_MODES = (CpuMode.GUEST_KERNEL, CpuMode.GUEST_USER, CpuMode.HYPERVISOR)


@dataclass(frozen=True, slots=True)
class SetPlace:
    """One register set inside a sample, in u64 words from the record's start.

    abi_word: where its abi stands. end_word: the first word behind the set.
    """

    name: str
    abi_word: int
    end_word: int


def needs_scrub(attr: EventAttr) -> bool:
    """Whether samples of `attr` may carry values that are nobody's to write.

    Kernels with dialect M withhold them where kernel and guests are excluded. Older ones hand out
    kernel registers when an interrupt arrives late, in kernel mode (fixed in June 2026, in 7.3).
    """
    apart = AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_GUEST
    return attr.dialect.name != "M" or attr.flags & apart != apart


class Scrubber:
    """Rewrites runs of whole records.

    events: (attr, ids) of everything that may be in them. everything: both sets of every sample.
    scrubbed: samples that lost a set. dropped: samples that could not be taken apart and were
    left out whole, because what cannot be found cannot be withheld.
    """

    def __init__(
        self, events: Sequence[tuple[EventAttr, Sequence[int]]], *, everything: bool = False
    ) -> None:
        self._plans = {
            identifier: plan
            for attr, ids in events
            for plan in (plan_layout(attr),)
            for identifier in ids
        }
        self._only = next(iter(self._plans.values())) if len(self._plans) == 1 else None
        self._id_word = next((plan.id_word for plan in self._plans.values()), None)
        self._everything = everything
        self.scrubbed = 0
        self.dropped = 0

    def __call__(self, data: bytes | memoryview) -> bytes | memoryview:
        """`data` itself where nothing had to go, else the rewritten records."""
        return rewrite_samples(data, self._replaced)

    def _replaced(self, record: memoryview, misc: int) -> bytes | None:
        doomed = self._doomed(misc)
        return self._rewrite(record, doomed) if doomed else None

    def _doomed(self, misc: int) -> tuple[str, ...]:
        mode = misc & MISC_CPUMODE_MASK
        if self._everything or mode in _GUEST_MODES:
            return ("user", "intr")
        return () if mode == CpuMode.USER else ("intr",)

    def _rewrite(self, record: memoryview, doomed: tuple[str, ...]) -> bytes | None:
        """The record without the doomed sets; None where it holds none of them."""
        words = record.cast("Q")
        try:
            places = list(locate_sets(words, self._plan(words)))
        except (IndexError, KeyError, ValueError):
            self.dropped += 1
            return b""
        going = [
            place for place in places
            if place.name in doomed and words[place.abi_word] != 0
        ]  # fmt: skip
        if not going:
            return None
        parts: list[bytes] = []
        at = 1
        for place in going:
            parts += [bytes(words[at : place.abi_word]), bytes(8)]
            at = place.end_word
        parts.append(bytes(words[at:]))
        body = b"".join(parts)
        kind, misc, _ = struct.unpack_from("<IHH", record)
        self.scrubbed += 1
        return struct.pack("<IHH", kind, misc, 8 + len(body)) + body

    def _plan(self, words: memoryview) -> LayoutPlan:
        if self._only is not None:
            return self._only
        if self._id_word is None:
            raise KeyError("samples of several events carry no id")
        return self._plans[words[self._id_word]]


def rewrite_samples(
    data: bytes | memoryview, replaced: Callable[[memoryview, int], bytes | None]
) -> bytes | memoryview:
    """Runs of whole records with some samples exchanged; `data` itself where none was.

    replaced: is given a sample's record and its `misc`; says what stands in its place, b"" for
    nothing, None where it stays.
    """
    view = memoryview(data)
    out: bytearray | None = None
    kept_from = 0
    headers = view[: len(view) & ~7].cast("H")
    for offset, size in walk(view):
        if headers[offset >> 1] != RecordType.SAMPLE:
            continue
        instead = replaced(view[offset : offset + size], headers[(offset >> 1) + 2])
        if instead is None:
            continue
        if out is None:
            out = bytearray()
        out += view[kept_from:offset]
        out += instead
        kept_from = offset + size
    if out is None:
        return data
    out += view[kept_from:]
    return bytes(out)


def locate_sets(words: memoryview, plan: LayoutPlan) -> Iterator[SetPlace]:
    """The register sets of one sample, in record order.

    words: the whole record as u64. Raises IndexError or ValueError where a length in the record
    leads out of it.
    """
    at = plan.fixed_words
    for field in plan.following:
        start = at
        at = field_end(words, at, field, plan)
        if at > len(words):
            raise IndexError(f"field {field.name} runs past the record's end")
        if field.kind is FieldKind.REGISTERS:
            yield SetPlace(field.name, start, at)


def field_end(words: memoryview, at: int, field: FieldPlan, plan: LayoutPlan) -> int:
    """The word behind a field of one sample that starts at `at`. Raises IndexError or ValueError
    where the record does not have its length."""
    if field.kind is FieldKind.WORDS:
        return at + field.words
    first = words[at]
    if field.kind is FieldKind.COUNTED:
        return at + 1 + field.words + int(first) * field.entry_words
    if field.kind is FieldKind.RAW:
        return at + ((first & 0xFFFFFFFF) + 4 + 7) // 8
    if field.kind is FieldKind.STACK:
        return at + 1 + (int(first) + 7) // 8 + (1 if first else 0)
    if field.kind is FieldKind.BYTES:
        return at + 1 + (int(first) + 7) // 8
    return _end_of_set(words, at, plan.sets[field.name])


def _end_of_set(words: memoryview, at: int, plan: SetPlan) -> int:
    abi = words[at]
    if not abi:
        return at + 1
    end = at + 1 + plan.words
    if not plan.simd or not abi & REGS_ABI_SIMD:
        return end
    header = read_header(words[end : end + 4].tolist(), plan.header)
    return end + header.block_bytes // 8
