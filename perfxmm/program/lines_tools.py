"""Who can say which source line an address is of: one class per tool, all asked alike.

Tried one after the other on compiled C, C++ and Rust: the symbolic package and llvm-symbolizer
agree on every address inside a function, GNU addr2line names the wrong one of two files here and
there (binutils 2.40, DWARF 5), and is asked last. Only llvm-symbolizer follows to `.dwo` files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from perfxmm.program import lines_symbolic
from perfxmm.program.lines_process import CannotRead, Child, Process, Start, ToolFailed

# What addr2line gets behind every request, to know where its answer ends: no code lies there.
_LAST_ADDRESS = (1 << 64) - 1
_LAST_BYTES = 4096
_LAST_ANSWER = re.compile(rb"(?:^|\n)0xf{8,16}\n[^\n]*\n[^\n]*\n\Z")
_DISCRIMINATOR = re.compile(r" \(discriminator \d+\)\Z")
# addr2line has one process per file, each with a large file's tables in memory.
_ADDR2LINE_PROCESSES = 4


class RawFrame(NamedTuple):
    """function: as the compiler names it (mangled), "" unknown. file: path, "" unknown. line: from
    1 on, 0 unknown."""

    function: str
    file: str
    line: int


RawFrames = tuple[RawFrame, ...]


class DebugFile(NamedTuple):
    """A file with line information. key: another one when the file has changed. base: the lowest
    address of its PT_LOAD headers."""

    path: str
    key: str
    base: int


class Tool(Protocol):
    """name: for messages."""

    name: str

    def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
        """Frames of each virtual address, innermost first; empty where none are known.

        Raises ToolFailed where the tool cannot tell about this file.
        """

    def end(self) -> None:
        """Ends what runs. A later `ask` starts it again."""


class SymbolicTool:
    """The symbolic package, in a Python of its own."""

    name = "symbolic"

    def __init__(self, start: Start) -> None:
        # -P: the directory of the program holds modules named like Python's own (code, symbols).
        worker = [sys.executable, "-P", "-X", "utf8", str(Path(lines_symbolic.__file__))]
        self._processes = _Processes(start, lambda _path: worker, 1)

    def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
        request = {"path": file.path, "key": file.key, "base": file.base,
                   "addresses": list(addresses)}  # fmt: skip
        line = self._processes.exchange(
            "", json.dumps(request).encode() + b"\n", lambda so_far: so_far.endswith(b"\n")
        )
        reply = _json_object(line)
        if "error" in reply:
            # The first line says what, others who caused it.
            raise CannotRead(str(reply["error"]).partition("\n")[0])
        frames = reply.get("frames")
        if not isinstance(frames, list) or len(frames) != len(addresses):
            raise ToolFailed("not as many answers as questions")
        return [_known(RawFrame(str(f), str(p), int(n)) for f, p, n in each) for each in frames]

    def end(self) -> None:
        self._processes.end()


class LlvmSymbolizer:
    """llvm-symbolizer, release 13 or later (the first with --output-style=JSON)."""

    name = "llvm-symbolizer"

    def __init__(self, start: Start, program: str) -> None:
        command = [
            program, "--output-style=JSON", "--inlines", "--functions=linkage", "--no-demangle",
        ]  # fmt: skip
        self._processes = _Processes(start, lambda _path: command, 1)
        self._keys: dict[str, str] = {}

    def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
        # One process for all files, which keeps what it has read of a path.
        if self._keys.get(file.path, file.key) != file.key:
            self.end()
        self._keys[file.path] = file.key
        path = _quoted(file.path)
        request = "".join(f"CODE {path} {address:#x}\n" for address in addresses)
        answer = self._processes.exchange(
            "", request.encode("utf-8", "surrogateescape"),
            lambda so_far: so_far.count(b"\n") >= len(addresses),
        )  # fmt: skip
        frames = []
        for line, address in zip(answer.splitlines(), addresses, strict=True):
            reply = _json_object(line)
            if "Error" in reply:
                raise CannotRead(str(reply["Error"]))
            if int(str(reply.get("Address")), 16) != address:
                raise ToolFailed("an answer to another question")
            frames.append(_known(
                RawFrame(str(f["FunctionName"]), str(f["FileName"]), int(f["Line"]))
                for f in reply["Symbol"]
            ))
        return frames

    def end(self) -> None:
        self._processes.end()
        self._keys.clear()


class Addr2line:
    """GNU addr2line (or LLVM's, which takes the same options): a process for each file."""

    name = "addr2line"

    def __init__(self, start: Start, program: str) -> None:
        self._processes = _Processes(
            start, lambda key: [program, "-a", "-i", "-f", "-e", key.partition("\0")[2]],
            _ADDR2LINE_PROCESSES,
        )

    def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
        request = "".join(f"{address:#x}\n" for address in (*addresses, _LAST_ADDRESS))
        answer = self._processes.exchange(
            f"{file.key}\0{file.path}", request.encode(),
            lambda so_far: _LAST_ANSWER.search(so_far[-_LAST_BYTES:]) is not None,
        )
        lines = answer.decode("utf-8", "surrogateescape").split("\n")
        frames, at = [], 0
        for address, following in pairwise((*addresses, _LAST_ADDRESS)):
            if not _is_address(lines[at], address):
                raise ToolFailed("an answer to another question")
            at += 1
            found = []
            # Names and places come in pairs; the end of the answer was seen to be there.
            while not _is_address(lines[at], following):
                found.append(_addr2line_frame(lines[at], lines[at + 1]))
                at += 2
            frames.append(_known(found))
        return frames

    def end(self) -> None:
        self._processes.end()


def available(
    start: Start = Child, which: Callable[[str], str | None] = shutil.which,
    has_symbolic: Callable[[], bool] = lambda: importlib.util.find_spec("symbolic") is not None,
) -> list[Tool]:
    """The tools that are here, in the order in which they are to be asked."""
    tools: list[Tool] = []
    if sys.executable and has_symbolic():
        tools.append(SymbolicTool(start))
    if (program := which("llvm-symbolizer")) is not None:
        tools.append(LlvmSymbolizer(start, program))
    if (program := which("addr2line")) is not None:
        tools.append(Addr2line(start, program))
    return tools


class _Processes:
    """Running processes by what they were started for, the one used longest ago given up first."""

    def __init__(self, start: Start, command: Callable[[str], list[str]], most: int) -> None:
        self._start = start
        self._command = command
        self._most = most
        self._running: OrderedDict[str, Process] = OrderedDict()
        self._owner_pid = os.getpid()

    def exchange(self, key: str, request: bytes, whole: Callable[[bytearray], bool]) -> bytes:
        if self._owner_pid != os.getpid():  # forked since: two may not ask through one pipe
            self.end()
            self._owner_pid = os.getpid()
        process = self._running.pop(key, None)
        if process is None:
            while len(self._running) >= self._most:
                self._running.popitem(last=False)[1].end()
            process = self._start(self._command(key))
        self._running[key] = process
        try:
            return process.exchange(request, whole)
        except ToolFailed:
            self._running.pop(key).end()
            raise

    def end(self) -> None:
        while self._running:
            self._running.popitem()[1].end()


def _known(frames: Any) -> RawFrames:
    """Frames without what tools print for "unknown"; none where no line is known in any of them."""
    found = tuple(
        RawFrame("" if f.function == "??" else f.function, "" if f.file == "??" else f.file,
                 max(f.line, 0))
        for f in frames
    )  # fmt: skip
    return found if any(f.line and f.file for f in found) else ()


def _is_address(line: str, address: int) -> bool:
    """Is this how addr2line repeats an address? For 32-bit files it prints its lower half."""
    if not line.startswith("0x"):
        return False
    try:
        return int(line, 16) in (address, address & 0xFFFFFFFF)
    except ValueError:
        return False


def _addr2line_frame(function: str, place: str) -> RawFrame:
    file, _, line = _DISCRIMINATOR.sub("", place).rpartition(":")
    return RawFrame(function, file, int(line) if line.isascii() and line.isdigit() else 0)


def _quoted(path: str) -> str:
    """A path as llvm-symbolizer reads it: quotes keep blanks, nothing keeps a quote."""
    for quote in ('"', "'"):
        if quote not in path and "\n" not in path:
            return f"{quote}{path}{quote}"
    raise CannotRead("the file's name cannot be said to llvm-symbolizer")


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ToolFailed(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ToolFailed("not a JSON object")
    return found
