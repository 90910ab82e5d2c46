"""Which instructions surely ran just before an address: straight lines of code.

A function is swept from its symbol's start to its end. A straight line begins behind everything
that control may leave or enter: a jump's target, a call, a return. Nothing is claimed of functions
that cannot be read through: indirect jumps (where do they go?), bytes that are no instructions,
jumps into the middle of an instruction.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache

import iced_x86 as iced
import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.program.binaries import Binaries
from perfxmm.program.elf import PF_X, ElfImage
from perfxmm.program.entrypoints import entry_points

# Longer functions (and lines) are not looked at: work for one address stays bounded.
MOST_FUNCTION_BYTES = 1 << 18
MOST_LINE_INSTRUCTIONS = 96
# Furthest that a short jump reaches from its own first byte.
_SHORT_REACH_BYTES = 130
_CACHED_FUNCTIONS = 512
_CACHED_ENTRIES = 32
_LOCK_PREFIX = 0xF0
_PADDING = frozenset((iced.Mnemonic.NOP, iced.Mnemonic.INT3, iced.Mnemonic.FNOP))
_ENTRY_MARKS = frozenset((iced.Mnemonic.ENDBR64, iced.Mnemonic.ENDBR32))
# Not decoded as a call, but the kernel runs in between and gives back what it likes.
_KERNEL = frozenset((iced.Mnemonic.SYSCALL, iced.Mnemonic.SYSENTER, iced.Mnemonic.INT))
_Flow = iced.FlowControl


@dataclass(frozen=True, slots=True)
class Function:
    """A function that could be read through. Addresses are those before relocation.

    starts: every instruction's first byte, ascending. fresh: those of them before which nothing is
    known to have run. code: bytes of [start, end).
    """

    start: int
    end: int
    code: bytes
    starts: array[int]
    fresh: array[int]

    def at(self, address: int) -> bool:
        """Whether an instruction begins there."""
        index = bisect_left(self.starts, address)
        return index < len(self.starts) and self.starts[index] == address

    def line(self, address: int) -> int:
        """Where the straight line that leads to `address` begins; the address itself where none
        does. At most MOST_LINE_INSTRUCTIONS long."""
        begin = self.fresh[bisect_right(self.fresh, address) - 1]
        index = bisect_left(self.starts, address)
        return max(begin, self.starts[max(0, index - MOST_LINE_INSTRUCTIONS)])

    def decode(self, start: int, end: int | None = None) -> iced.Decoder:
        """Instructions from `start` up to `end` (the function's end)."""
        stop = self.end if end is None else end
        return iced.Decoder(64, self.code[start - self.start : stop - self.start], ip=start)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """starts, fresh: as in Function, without what other code refers to. targets: of direct jumps
    and calls. why: "" where it could be read through."""

    starts: array[int]
    fresh: set[int]
    targets: set[int]
    only_padding: bool
    why: str = ""


class Flow:
    """Functions of a recording's binaries by DSO and file offset, each swept once."""

    def __init__(self, binaries: Binaries) -> None:
        self._binaries = binaries
        self._references = lru_cache(maxsize=_CACHED_ENTRIES)(self._references_of)
        self._functions = lru_cache(maxsize=_CACHED_FUNCTIONS)(self._read)
        self._sweeps = lru_cache(maxsize=_CACHED_FUNCTIONS)(self._sweep_of)

    def trusted(self, dso: int) -> str:
        """"" where the DSO's file is proved to be what was mapped, else why it is not."""
        if dso < 0:
            return "no file is known for this address"
        return self._binaries.unproved(dso)

    def image(self, dso: int) -> ElfImage | None:
        """The DSO's file, where it is proved and 64-bit x86 code; else None."""
        if self.trusted(dso):
            return None
        image = self._binaries.image(dso)
        if image is None or image.machine != "EM_X86_64" or image.bits != 64:
            return None
        return image

    def address(self, dso: int, offset: int) -> int | None:
        """Address before relocation of code at a file offset; None where none is."""
        image = self.image(dso)
        if image is None:
            return None
        for segment in image.segments:
            inside = segment.offset <= offset < segment.offset + segment.file_bytes
            if segment.flags & PF_X and inside:
                return offset - segment.offset + segment.vaddr
        return None

    def function(self, dso: int, offset: int) -> tuple[Function | None, str]:
        """The function around a file offset; None, and why, where nothing is claimed of it."""
        if why := self.trusted(dso):
            return None, why
        try:
            return self._function(dso, offset)
        # Offsets and counts of a hostile file may overflow numpy's integers or the decoder's.
        except (ValueError, OverflowError, IndexError, MemoryError, DamagedInput) as error:
            return None, f"its code cannot be read: {error}"

    def _function(self, dso: int, offset: int) -> tuple[Function | None, str]:
        image = self.image(dso)
        address = self.address(dso, offset)
        if image is None or address is None:
            return None, "its bytes are not known"
        table = self._binaries.symbols(dso)
        row = int(table.lookup(np.array([offset], np.uint64))[0])
        if row < 0:
            return None, "no symbol says where the function begins"
        found, why = self._functions(dso, row)
        if found is not None and not found.at(address):
            return None, "no instruction of the function begins there"
        return found, why

    def _references_of(self, dso: int) -> npt.NDArray[np.int64] | None:
        image = self.image(dso)
        return None if image is None else entry_points(image)

    def _read(self, dso: int, row: int) -> tuple[Function | None, str]:
        image = self.image(dso)
        assert image is not None
        references = self._references(dso)
        if references is None:
            return None, "its code may be changed while it is loaded"
        swept = self._sweeps(dso, row)
        if swept is None:
            return None, "the function is too long, or lies outside of the code"
        start, code, own = swept
        if own.why:
            return None, own.why
        end = start + len(code)
        targets = {t for t in own.targets if start <= t < end}
        low, high = np.searchsorted(references, [start, end])
        targets.update(references[low:high].tolist())
        targets.update(self._others(dso, row))
        jumped = self._from_neighbours(dso, row, image, start, end)
        known = set(own.starts)
        for target in {*targets, *jumped}:
            if target in known:
                continue
            # A jump past a LOCK prefix is still one to that instruction.
            if target - 1 in known and code[target - 1 - start] == _LOCK_PREFIX:
                own.fresh.add(target - 1)
            elif target in own.targets:
                return None, "a jump leads into the middle of an instruction"
            # Other references are guesses: where no instruction begins, they are wrong ones.
        fresh = array("q", sorted(own.fresh | ((targets | jumped) & known)))
        return Function(start, end, code, own.starts, fresh), ""

    def _others(self, dso: int, row: int) -> set[int]:
        """Addresses in the function at which other symbols begin."""
        table = self._binaries.symbols(dso)
        first = int(np.searchsorted(table.starts, table.starts[row], side="right"))
        last = int(np.searchsorted(table.starts, table.ends[row]))
        found = (self.address(dso, int(offset)) for offset in table.starts[first:last])
        return {address for address in found if address is not None}

    def _sweep_of(self, dso: int, row: int) -> tuple[int, bytes, _Sweep] | None:
        """(address, code, sweep) of a symbol; None where it has no code or too much of it."""
        image = self.image(dso)
        if image is None:
            return None
        table = self._binaries.symbols(dso)
        offset, end = int(table.starts[row]), int(table.ends[row])
        start = self.address(dso, offset)
        if start is None or not 0 < end - offset <= MOST_FUNCTION_BYTES:
            return None
        code = image.code_at(offset, end - offset)
        if len(code) < end - offset:
            return None
        return start, code, sweep(code, start)

    def _from_neighbours(
        self, dso: int, row: int, image: ElfImage, start: int, end: int,
    ) -> set[int]:
        """Where short jumps just outside of the function may lead into it."""
        table = self._binaries.symbols(dso)
        first = int(np.searchsorted(
            table.reach, max(0, int(table.starts[row]) - _SHORT_REACH_BYTES), side="right"))
        last = int(np.searchsorted(table.starts, int(table.ends[row]) + _SHORT_REACH_BYTES))
        covered: list[tuple[int, int]] = [(start, end)]
        found: set[int] = set()
        for other in range(first, last):
            if other == row:
                continue
            swept = self._sweeps(dso, other)
            if swept is None or swept[2].why == _NO_CODE:
                continue
            covered.append((swept[0], swept[0] + len(swept[1])))
            found.update(t for t in swept[2].targets if start <= t < end)
        for low, high in _gaps(start - _SHORT_REACH_BYTES, end + _SHORT_REACH_BYTES, covered):
            found.update(_short_jumps(image, low, high, start, end))
        return found


_NO_CODE = "bytes in it are no instructions"


def sweep(code: bytes, start: int) -> _Sweep:
    """Instructions of a function one after the other."""
    starts = array("q")
    fresh: set[int] = {start}
    targets: set[int] = set()
    only_padding = True
    why = ""
    for instruction in iced.Decoder(64, code, ip=start):
        if instruction.is_invalid:
            return _Sweep(starts, fresh, targets, False, _NO_CODE)
        address = instruction.ip
        starts.append(address)
        only_padding = only_padding and instruction.mnemonic in _PADDING
        flow = instruction.flow_control
        if flow == _Flow.NEXT:
            if instruction.mnemonic in _ENTRY_MARKS:
                fresh.add(address)
            elif instruction.mnemonic in _KERNEL:
                fresh.add(instruction.next_ip)
            elif instruction.is_ip_rel_memory_operand and (
                instruction.mnemonic == iced.Mnemonic.LEA
            ):
                # The address of a label: somebody may jump there.
                targets.add(instruction.ip_rel_memory_address)
            continue
        if flow == _Flow.CONDITIONAL_BRANCH:
            targets.add(instruction.near_branch_target)
            continue
        fresh.add(instruction.next_ip)
        if flow in (_Flow.UNCONDITIONAL_BRANCH, _Flow.CALL):
            targets.add(instruction.near_branch_target)
        elif flow == _Flow.INDIRECT_BRANCH and not instruction.is_ip_rel_memory_operand:
            why = why or "it has an indirect jump"
        elif flow == _Flow.XBEGIN_XABORT_XEND:
            why = why or "it uses transactions"
    end = start + len(code)
    if starts and fresh and max(fresh) >= end:
        fresh = {address for address in fresh if address < end}
    return _Sweep(starts, fresh, targets, only_padding, why)


def _gaps(low: int, high: int, covered: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of [low, high) no range in `covered` has."""
    gaps = []
    for begin, end in sorted(covered):
        if low < begin:
            gaps.append((low, min(begin, high)))
        low = max(low, end)
        if low >= high:
            return gaps
    gaps.append((low, high))
    return gaps


def _short_jumps(image: ElfImage, low: int, high: int, start: int, end: int) -> set[int]:
    """Targets in [start, end) of everything in [low, high) that could be a short jump."""
    for segment in image.segments:
        if not segment.flags & PF_X:
            continue
        begin, stop = max(low, segment.vaddr), min(high, segment.vaddr + segment.file_bytes)
        if begin >= stop:
            continue
        at = segment.offset - segment.vaddr
        code = bytes(image.data[begin + at : stop + at])
        if not code.strip(b"\0\x90\xcc") or sweep(code, begin).only_padding:
            continue
        found = set()
        for place in range(len(code) - 1):
            opcode = code[place]
            # JMP rel8, Jcc rel8, LOOP, LOOPcc and JrCXZ; SDM volume 2, one-byte opcode map.
            if opcode == 0xEB or opcode & 0xF0 == 0x70 or 0xE0 <= opcode <= 0xE3:
                distance = (code[place + 1] ^ 0x80) - 0x80
                target = begin + place + 2 + distance
                if start <= target < end:
                    found.add(target)
        return found
    return set()
