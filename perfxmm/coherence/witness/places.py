"""From places in code to claims, each found once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import iced_x86 as iced
import numpy as np

from perfxmm.coherence.witness.claims import Claim, claims_of
from perfxmm.errors import DamagedInput
from perfxmm.program.effects import apply, interrupted
from perfxmm.program.elf import ElfImage
from perfxmm.program.entrypoints import PF_W, relocation_places
from perfxmm.program.flow import Flow, Function
from perfxmm.program.values import ReadConstant, Values

_KEPT_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Place:
    """A boundary between instructions. after: behind the instruction at `offset`, not before it."""

    dso: int
    offset: int
    after: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is known at a place.

    function, address: None and 0 where nothing can be said, and `silence` is why.
    values: not to be changed. claims: what they say.
    """

    claims: tuple[Claim, ...] = ()
    function: Function | None = None
    address: int = 0
    values: Values | None = None
    silence: str = ""


class Code:
    """What the code of a recording's binaries proves."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._constants: OrderedDict[int, ReadConstant] = OrderedDict()

    def known(self, place: Place) -> Known:
        """What surely holds at `place`, and the state it follows from."""
        try:
            return self._known(place)
        # Addresses and sizes of a hostile file may overflow numpy's integers or the decoder's.
        except (ValueError, OverflowError, IndexError, MemoryError, DamagedInput) as error:
            return Known(silence=f"its code cannot be read: {error}")

    def _known(self, place: Place) -> Known:
        function, silence = self.flow.function(place.dso, place.offset)
        address = self.flow.address(place.dso, place.offset)
        if function is None or address is None:
            return Known(silence=silence)
        values = Values(self.constants(place.dso))
        for instruction in function.decode(function.line(address), address):
            apply(values, instruction)
        instruction = function.decode(address).decode()
        if place.after:
            after(values, instruction)
        else:
            interrupted(values, instruction)
        return Known(tuple(claims_of(values, address)), function, address, values)

    def constants(self, dso: int) -> ReadConstant:
        """Reads data of the DSO's file that nothing can change while the program runs."""
        found = self._constants.get(dso)
        if found is None:
            image = self.flow.image(dso)
            assert image is not None
            found = self._constants[dso] = _reader(image)
            while len(self._constants) > _KEPT_IMAGES:
                self._constants.popitem(last=False)
        return found


def after(values: Values, instruction: iced.Instruction) -> None:
    """What is known when `instruction` has retired, wherever it went."""
    flow = instruction.flow_control
    apply(values, instruction)
    if flow in _ELSEWHERE:
        values.forget_everything()


# Others ran before the next instruction does, or may have.
_ELSEWHERE = frozenset((
    iced.FlowControl.INTERRUPT, iced.FlowControl.EXCEPTION, iced.FlowControl.XBEGIN_XABORT_XEND,
))


def _reader(image: ElfImage) -> ReadConstant:
    fixed = [
        (segment.vaddr, segment.vaddr + segment.file_bytes, segment.offset - segment.vaddr)
        for segment in image.segments
        if not segment.flags & PF_W
    ]
    writable = [
        (segment.vaddr, segment.vaddr + segment.memory_bytes)
        for segment in image.segments if segment.flags & PF_W
    ]  # fmt: skip
    relocated = relocation_places(image)

    def read(address: int, count: int) -> bytes | None:
        for low, high, shift in fixed:
            if low <= address and address + count <= high:
                # Parts of a page that a writable segment shares may be written to.
                if any(address < end and begin < address + count for begin, end in writable):
                    return None
                first, last = np.searchsorted(relocated, [address - 7, address + count])
                if first != last:
                    return None
                data = bytes(image.data[address + shift : address + shift + count])
                return data if len(data) == count else None
        return None

    return read
