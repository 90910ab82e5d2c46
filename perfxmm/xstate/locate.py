"""Where the components of one image lie, as far as that is certain.

With the machine's component table (CPUID leaf 0xD) both formats are settled. Without it, as in
files that perf wrote itself, sizes are architectural but two things are not: which components of
a compacted image start at a multiple of 64 bytes, and the offsets of a standard one. Then a
component counts as found only where all that is possible agrees, or the image's own length leaves
one possibility.
Source: Intel SDM volume 1, 13.4.2 and 13.4.3. No CPU is known that aligns a component below XTILE
(Alder Lake: PKRU at 832, CET_U at 840), but CPUID could say so.
"""

from __future__ import annotations

from perfxmm.xstate.components import (
    AVX,
    COMPACTED_BIT,
    COMPONENTS,
    EXTENDED_OFFSET,
    component_numbers,
)
from perfxmm.xstate.layout import FLAG_ALIGN64, LEGACY_PLACES, VENDOR_LAYOUTS, Layout, Place

_ALIGN = 64


def locate(
    xcomp_bv: int, requested: int, image_bytes: int, table: Layout | None = None
) -> dict[int, Place]:
    """Component -> its place in an image of `image_bytes`.

    xcomp_bv: as in the image; bit 63 makes it compacted. requested: RFBM, which says what a
    standard image holds. table: the recording machine's; None where it is not known. Components
    that cannot be found for certain, or whose place reaches behind the image, may be among the
    latter: the caller compares with the image's length. A component missing here is not found.
    """
    if xcomp_bv & COMPACTED_BIT:
        if table is not None:
            return _kept(table.compacted(xcomp_bv), xcomp_bv)
        return _kept(_compacted(xcomp_bv, image_bytes), xcomp_bv)
    if xcomp_bv:
        return {}
    if table is not None:
        found = {n: place for n in component_numbers(requested) if (place := table.place(n))}
        return _kept(found, requested)
    return _kept(_standard(requested, image_bytes), requested)


def _kept(places: dict[int, Place], mask: int) -> dict[int, Place]:
    """Those of `mask` whose size is the component's own: a table may claim anything."""
    return {
        n: place for n, place in places.items()
        if mask >> n & 1 and n in COMPONENTS and place.size_bytes == COMPONENTS[n].size_bytes
    }  # fmt: skip


def _compacted(xcomp_bv: int, image_bytes: int) -> dict[int, Place]:
    packed, packed_end = _walk(xcomp_bv, 0)
    aligned, _ = _walk(xcomp_bv, FLAG_ALIGN64)
    # Any aligned component would make the image longer.
    if image_bytes == packed_end:
        return packed
    return {n: place for n, place in packed.items() if aligned.get(n) == place}


def _walk(xcomp_bv: int, flags: int) -> tuple[dict[int, Place], int]:
    """Places, and the end of the last one; the walk ends before a component of unknown size."""
    places = dict(LEGACY_PLACES)
    at = EXTENDED_OFFSET
    for number in component_numbers(xcomp_bv & ~3):
        size = COMPONENTS[number].size_bytes if number in COMPONENTS else 0
        if not size:
            return places, 0
        if flags & FLAG_ALIGN64:
            at = (at + _ALIGN - 1) & -_ALIGN
        places[number] = Place(at, size)
        at += size
    return places, at


def _standard(requested: int, image_bytes: int) -> dict[int, Place]:
    """By the vendors' tables: those in which everything asked for fits, and the image ends where
    one of their components does."""
    numbers = component_numbers(requested & ~3)
    fitting = []
    for row in VENDOR_LAYOUTS:
        known = [row[n] for n in numbers if n in row]
        need = max((p.offset + p.size_bytes for p in known), default=EXTENDED_OFFSET)
        ends = {p.offset + p.size_bytes for p in row.values()} | {EXTENDED_OFFSET}
        if len(known) == len(numbers) and need <= image_bytes and image_bytes in ends:
            fitting.append(row)
    # All tables agree about AVX, and so do all CPUs: it came first.
    places = {**LEGACY_PLACES, AVX: VENDOR_LAYOUTS[0][AVX]}
    for number in numbers:
        said = {row[number] for row in fitting}
        if len(said) == 1:
            places[number] = said.pop()
    return places
