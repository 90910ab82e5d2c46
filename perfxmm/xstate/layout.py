"""Where each component lies in an XSAVE image: what CPUID says, or a vendor table.

Standard format: fixed offsets, one per component. Compacted format (XCOMP_BV bit 63): components
in XCOMP_BV one after the other from byte 576, aligned to 64 where CPUID says so.
Source: Intel SDM volume 1, 13.4 and 13.5; CPUID leaf 0xD in volume 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfxmm.errors import NotSupported
from perfxmm.xstate.components import (
    APX,
    AVX,
    BNDCSR,
    BNDREGS,
    COMPONENTS,
    EXTENDED_OFFSET,
    HI16_ZMM,
    OPMASK,
    PKRU,
    SSE,
    X87,
    XMM_OFFSET,
    XTILE_CFG,
    XTILE_DATA,
    ZMM_HI256,
    component_name,
    component_numbers,
)

FLAG_SUPERVISOR = 1  # as in CPUID.(EAX=0xD,ECX=n):ECX bit 0
FLAG_ALIGN64 = 2  # and bit 1


@dataclass(frozen=True, slots=True)
class Place:
    """One component: standard-format offset (0 for supervisor ones) and size, in bytes."""

    offset: int
    size_bytes: int
    flags: int = 0


LEGACY_PLACES = {X87: Place(0, 160), SSE: Place(XMM_OFFSET, 256)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of all components that a machine has, and where they are known from.

    xcr0: the user components that were enabled; 0 where not known.
    source: "cpuid", "/dev/cpu/0/cpuid", "vendor table", "recording".
    """

    places: Mapping[int, Place]
    xcr0: int = 0
    source: str = ""

    def to_json(self) -> dict[str, list[int]]:
        """Component number -> [offset, size_bytes] in the standard format.

        Supervisor components have no place there and are left out, with them CPUID's flags: a
        layout from a recording reads standard images, which need neither.
        """
        return {
            str(n): [p.offset, p.size_bytes]
            for n, p in sorted(self.places.items())
            if not p.flags & FLAG_SUPERVISOR
        }

    @staticmethod
    def from_json(data: Mapping[str, list[int]], xcr0: int = 0) -> Layout:
        """Raises ValueError where `data` cannot be a layout."""
        places: dict[int, Place] = {}
        for key, row in data.items():
            number = int(key)
            if not 2 <= number < 63 or len(row) != 2 or min(row) < 0:
                raise ValueError(f"component {key!r} has no valid place: {row!r}")
            places[number] = Place(*row)
        return Layout(places, xcr0, "recording")

    def place(self, number: int) -> Place | None:
        """The component's place in the standard format; None where it has none."""
        if number in LEGACY_PLACES:
            return LEGACY_PLACES[number]
        found = self.places.get(number)
        return None if found is None or found.flags & FLAG_SUPERVISOR else found

    def require(self, number: int) -> Place:
        """The component's place, or NotSupported: guessing offsets would invent values."""
        found = self.place(number)
        if found is None:
            raise NotSupported(
                f"the place of {component_name(number)} in an XSAVE image is not known",
                why=f"layout from {self.source or 'nowhere'} lacks component {number}",
                next_step="Ask for narrower registers (--regs xmm), or let perfxmm run CPUID.",
            )
        return found

    def image_bytes(self, mask: int) -> int:
        """Length of a standard image that reaches to the last component in `mask`."""
        ends = [EXTENDED_OFFSET]
        ends += [p.offset + p.size_bytes for n in component_numbers(mask) if (p := self.place(n))]
        return max(ends)

    def compacted(self, xcomp_bv: int) -> dict[int, Place]:
        """Places in a compacted image with this XCOMP_BV.

        Ends before the first component of unknown size: what comes behind it cannot be found.
        """
        places = dict(LEGACY_PLACES)
        at = EXTENDED_OFFSET
        for number in component_numbers(xcomp_bv & ~3):
            known = self.places.get(number)
            size = known.size_bytes if known else getattr(COMPONENTS.get(number), "size_bytes", 0)
            if not size:
                break
            if known and known.flags & FLAG_ALIGN64:
                at = (at + 63) & ~63
            places[number] = Place(at, size)
            at += size
        return places


# Standard-format offsets by vendor where CPUID cannot be asked. Known from the tables of debuggers
# (GDB's i387-tdep), which met the same problem with core files; the AMD row without PKRU agrees
# with CPUID on an EPYC (Zen 5) machine.
_INTEL = {
    AVX: Place(576, 256), BNDREGS: Place(960, 64), BNDCSR: Place(1024, 64),
    OPMASK: Place(1088, 64), ZMM_HI256: Place(1152, 512), HI16_ZMM: Place(1664, 1024),
    PKRU: Place(2688, 8), XTILE_CFG: Place(2752, 64), XTILE_DATA: Place(2816, 8192, FLAG_ALIGN64),
}  # fmt: skip
_AMD = {
    AVX: Place(576, 256), OPMASK: Place(832, 64), ZMM_HI256: Place(896, 512),
    HI16_ZMM: Place(1408, 1024), PKRU: Place(2432, 8),
}  # fmt: skip
# AMD without AVX-512 puts PKRU right behind the upper halves.
_AMD_AVX2 = {AVX: Place(576, 256), PKRU: Place(832, 8)}

_AVX512 = 1 << OPMASK | 1 << ZMM_HI256 | 1 << HI16_ZMM
VENDOR_LAYOUTS: tuple[dict[int, Place], ...] = (_INTEL, _AMD, _AMD_AVX2)


def vendor_layout(xcr0: int, image_bytes: int) -> Layout | None:
    """The one known layout whose enabled components end exactly at `image_bytes`, or None.

    Exactness is the only evidence there is, so two rows that both fit are refused too unless they
    agree on every enabled component.
    """
    wanted = component_numbers(xcr0 & ~3)
    if xcr0 >> APX & 1 or (xcr0 & _AVX512 and xcr0 & _AVX512 != _AVX512):
        return None
    found: list[dict[int, Place]] = []
    for row in VENDOR_LAYOUTS:
        if not all(n in row for n in wanted):
            continue
        places = {n: row[n] for n in wanted}
        end = max((p.offset + p.size_bytes for p in places.values()), default=EXTENDED_OFFSET)
        if end == image_bytes and places not in found:
            found.append(places)
    return Layout(found[0], xcr0, "vendor table") if len(found) == 1 else None
