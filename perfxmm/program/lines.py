"""Source lines and inlined functions of addresses, from a binary's debug information.

Asked for many addresses at once and answered per distinct one. Only a file that is known to be
the recorded one is asked about: the build id decides, when the file is found and again when a
tool has read it.
"""

from __future__ import annotations

import posixpath
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from perfxmm.errors import DamagedInput
from perfxmm.program import debugfiles
from perfxmm.program.binaries import Binaries
from perfxmm.program.demangle import demangle
from perfxmm.program.elf import PF_X, ElfImage, Segment, open_elf
from perfxmm.program.lines_process import CannotRead, ToolFailed
from perfxmm.program.lines_tools import DebugFile, RawFrames, Tool, available

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
Intp = npt.NDArray[np.intp]

NO_TOOLS = (
    "nothing here reads them (install perfxmm[lines], or llvm-symbolizer 13 or later, or addr2line)"
)
NO_LINES = "no debug information"
NO_FILE = "its code is in no file"  # made at run time: where its names come from has no lines
# A changed file is named with what changed by the one who looks it up (program.binaries).
_CHANGED = "the file changed while it was read"

_OFFSET_BITS = 48
_ADDRESSES_AT_ONCE = 4096
# Tools that may answer "not known" to an address before that is believed. The second one is for
# .dwo files and for assembler without function entries, which the first may not read.
_OPINIONS = 2
# A tool that has crashed or hung so often is not started again.
_STRIKES = 2
_KEPT_PLACES = 1 << 17
_KEPT_CHARACTERS = 64 << 20
_LINE_SECTIONS = (".debug_line", ".zdebug_line")


class Frame(NamedTuple):
    """One function at an address. function: demangled, "" unknown. file: path at the
    time of compiling, without `./` and `../`; "" unknown. line: from 1 on, 0 unknown."""

    function: str
    file: str
    line: int


# Innermost first: the last one is the function that has the address, those before it were inlined
# into it. Empty: not known.
Frames = tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """number: intp [n], index into `frames`, one entry for each distinct address."""

    number: Intp
    frames: list[Frames]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the lines of a DSO are: the file, its state, and what maps offsets to addresses."""

    file: DebugFile
    segments: tuple[Segment, ...]


class Lines:
    """Lines of a recording's binaries.

    notes: why no lines of a DSO are known, by its index. tools: asked in this order; by default
    those that are here. capacity: distinct addresses to remember.
    """

    def __init__(
        self, binaries: Binaries, tools: Sequence[Tool] | None = None, *,
        capacity: int = _KEPT_PLACES,
    ) -> None:
        self.notes: dict[int, str] = {}
        self._binaries = binaries
        self._tools = tools
        self._capacity = capacity
        self._sources: dict[int, _Source | None] = {}
        self._known: OrderedDict[tuple[int, int], Frames] = OrderedDict()
        self._strikes: dict[str, int] = {}
        self._functions: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._frames: dict[Frames, Frames] = {}
        self._characters = 0

    def look_up(self, dso: I32, offset: U64) -> Found:
        """Frames at n places: DSO index (-1: none) and file offset each, shape [n]."""
        # One integer a place sorts many times as fast as a pair. No file has more bytes.
        fits = (dso >= 0) & (offset >> np.uint64(_OFFSET_BITS) == 0) & (dso < 1 << 15)
        owner = np.where(fits, dso, -1).astype(np.int64)
        packed = owner << _OFFSET_BITS | np.where(fits, offset, np.uint64(0)).astype(np.int64)
        distinct, inverse = np.unique(packed, return_inverse=True)
        places = [
            (place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1) for place in distinct.tolist()
        ]
        frames: dict[tuple[int, int], Frames] = {}
        missing: dict[int, list[int]] = {}
        for place in places:
            found = self._known.get(place)
            if found is None and place[0] >= 0:
                missing.setdefault(place[0], []).append(place[1])
            else:
                frames[place] = found or ()
        for index, offsets in missing.items():
            answers = self._ask(index, offsets)
            for each, answer in zip(offsets, answers, strict=True):
                frames[index, each] = self._known[index, each] = answer
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return Found(inverse.reshape(-1).astype(np.intp), [frames[place] for place in places])

    def end(self) -> None:
        """Ends the processes of the tools. A later look-up starts them again."""
        for tool in self._tools or ():
            tool.end()

    def _ask(self, index: int, offsets: list[int]) -> list[Frames]:
        nothing: list[Frames] = [()] * len(offsets)
        if index not in self._sources:
            self._sources[index] = self._source(index)
        source = self._sources[index]
        if source is None:
            return nothing
        addresses = [_vaddr(source.segments, offset) for offset in offsets]
        open_ = [row for row, address in enumerate(addresses) if address is not None]
        if not open_:
            return nothing
        if self._tools is None:
            self._tools = available()
        if not self._tools:
            self.notes[index] = NO_TOOLS
            return nothing
        answers = nothing
        opinions = 0
        for tool in self._tools:
            if not open_ or opinions == _OPINIONS:
                break
            if self._strikes.get(tool.name, 0) >= _STRIKES:
                continue
            try:
                told = self._ask_tool(tool, source, [addresses[row] or 0 for row in open_])
            except ToolFailed as error:
                self.notes[index] = f"{tool.name}: {error}"
                continue
            opinions += 1
            for row, raw in zip(open_, told, strict=True):
                answers[row] = self._kept(raw)
            open_ = [row for row in open_ if not answers[row]]
        if opinions:
            self.notes.pop(index, None)
        elif index not in self.notes:
            self.notes[index] = "the tools that read them have failed"
        if _state(source.file.path) != source.file.key:
            self._sources[index] = None
            self.notes[index] = _CHANGED
            return [()] * len(offsets)
        return answers

    def _ask_tool(
        self, tool: Tool, source: _Source, addresses: list[int],
    ) -> list[RawFrames]:
        told: list[RawFrames] = []
        try:
            for start in range(0, len(addresses), _ADDRESSES_AT_ONCE):
                part = addresses[start : start + _ADDRESSES_AT_ONCE]
                told += tool.ask(source.file, part)
        except CannotRead:
            raise
        except ToolFailed:
            self._strikes[tool.name] = self._strikes.get(tool.name, 0) + 1
            raise
        # What a tool prints of a hostile file may be of any form.
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            tool.end()
            raise ToolFailed(f"an answer in another form ({type(error).__name__})") from error
        return told

    def _source(self, index: int) -> _Source | None:
        """The file to ask about a DSO; None and a note where there is none to be trusted."""
        image = self._binaries.image(index)
        if image is None:
            self.notes[index] = self._binaries.notes.get(index, NO_FILE)
            return None
        if image.path.startswith("/"):  # the vDSO is no file
            dso = self._binaries.dsos[index]
            with_lines = self._with_lines(image, (dso.file or dso.path).removesuffix(" (deleted)"))
            if with_lines is not None:
                file = _debug_file(with_lines)
                if file is None:
                    self.notes[index] = _CHANGED
                    return None
                return _Source(file, image.segments)
        self.notes[index] = NO_LINES
        return None

    def _with_lines(self, image: ElfImage, recorded_path: str) -> ElfImage | None:
        """The file itself or one that was split off it, whichever has line information."""
        split_off = debugfiles.split_off(image, self._binaries.places, recorded_path)
        for each in chain([image], split_off):
            if any(each.section(name) is not None for name in _LINE_SECTIONS):
                return each
        return None

    def _kept(self, raw: RawFrames) -> Frames:
        """Frames with readable names, strings that are the same held once."""
        if self._characters > _KEPT_CHARACTERS:
            self._functions.clear()
            self._files.clear()
            self._frames.clear()
            self._known.clear()
            self._characters = 0
        frames = tuple(
            Frame(self._function(function), self._file(file), line)
            for function, file, line in raw
        )
        return self._frames.setdefault(frames, frames)

    def _function(self, mangled: str) -> str:
        found = self._functions.get(mangled)
        if found is None:
            found = self._functions[mangled] = demangle(mangled)
            self._characters += len(mangled) + len(found)
        return found

    def _file(self, path: str) -> str:
        """Compilers leave `./` and `../` in paths, and some tools take them out."""
        found = self._files.get(path)
        if found is None:
            found = self._files[path] = posixpath.normpath(path) if path else ""
            self._characters += len(path) + len(found)
        return found


def _vaddr(segments: Sequence[Segment], offset: int) -> int | None:
    """Virtual address of code at a file offset, None where no PT_LOAD has it."""
    found = None
    for segment in segments:
        if segment.offset <= offset < segment.offset + segment.file_bytes:
            address = offset - segment.offset + segment.vaddr
            if segment.flags & PF_X:
                return address
            found = address if found is None else found
    return found


def _debug_file(image: ElfImage) -> DebugFile | None:
    """The file of an image as a tool will see it; None where another one lies there by now."""
    key = _state(image.path)
    try:
        there = open_elf(Path(image.path))
    except DamagedInput:
        return None
    same = (
        there.build_id == image.build_id if image.build_id else there.data == image.data
    )
    if not key or not same or _state(image.path) != key:
        return None
    base = min((segment.vaddr for segment in there.segments), default=0)
    return DebugFile(image.path, key, base)


def _state(path: str) -> str:
    """What changes when a file is written to or replaced; "" where there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return (
        f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    )
