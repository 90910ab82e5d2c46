"""A long-lived child that answers questions about binaries over its standard input and output.

What reads debug information may crash, hang or ask for all memory over a damaged or hostile file.
Each such reader therefore runs in a process of its own, with a deadline for every answer and a
limit of its memory, and its end costs the answer and nothing more.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

TIMEOUT_S = 60.0
# Of address space: files are mapped, and a file with debug information may have gigabytes.
MEMORY_BYTES = 8 << 30
# Of one answer. Thousands of addresses in deeply inlined code are answered in some megabytes.
ANSWER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
# Of no use to a child, or harmful: the first would have it ask servers for files, the second
# changes what it prints.
_NOT_INHERITED = ("DEBUGINFOD_URLS", "LLVM_SYMBOLIZER_OPTS")


class ToolFailed(Exception):
    """A reader of debug information gave no answer; str() is the reason. Never leaves `program`."""


class CannotRead(ToolFailed):
    """The tool is well, and has said that it cannot read this file."""


class Process(Protocol):
    """What is asked of a child; tests put their own in its place."""

    def exchange(self, request: bytes, whole: Callable[[bytearray], bool]) -> bytes:
        """Sends `request` and returns the answer, which is complete when `whole` says so.

        Raises ToolFailed where none comes; the child is of no further use then.
        """

    def end(self) -> None:
        """Ends the child, whatever it does. May be called again."""


# Starts a child from its argument list. Raises ToolFailed where it cannot be started.
Start = Callable[[Sequence[str]], Process]


class Child:
    """A real child process.

    timeout_s: for each exchange as a whole. The child is killed by `end`, or when this object goes;
    it has nothing to lose.
    """

    def __init__(self, arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        environment["LC_ALL"] = "C"
        try:
            process = subprocess.Popen(
                list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, bufsize=0, env=environment,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise ToolFailed(f"cannot be started: {error}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._timeout_s = timeout_s
        self._input, self._output = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._input, False)
        with suppress(OSError, ValueError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        self._finalizer = weakref.finalize(self, _end, process, os.getpid())

    def exchange(self, request: bytes, whole: Callable[[bytearray], bool]) -> bytes:
        deadline_s = time.monotonic() + self._timeout_s
        left = memoryview(request)
        answer = bytearray()
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._input, select.POLLOUT)
        # It reads and writes as it pleases: to send all before the first look at what comes back
        # would leave both waiting for the other.
        while left or not whole(answer):
            wait_s = deadline_s - time.monotonic()
            if wait_s <= 0:
                raise ToolFailed(f"no answer within {self._timeout_s:g} s")
            for descriptor, _ in poll.poll(wait_s * 1000):
                if descriptor == self._input:
                    left = self._send(left)
                    if not left:
                        poll.unregister(self._input)
                    continue
                chunk = os.read(self._output, _CHUNK_BYTES)
                if not chunk:
                    raise ToolFailed(self._how_it_ended())
                answer += chunk
                if len(answer) > ANSWER_BYTES:
                    raise ToolFailed("the answer does not end")
        return bytes(answer)

    def end(self) -> None:
        self._finalizer()

    def _send(self, left: memoryview) -> memoryview:
        try:
            return left[os.write(self._input, left[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return left
        except OSError:
            raise ToolFailed(self._how_it_ended()) from None

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


def _end(process: subprocess.Popen[bytes], owner_pid: int) -> None:
    """Kills and reaps a child. In a process forked from its owner, only lets go of it."""
    if os.getpid() == owner_pid:
        process.kill()
        process.wait()
    else:
        process.returncode = 0  # not ours to wait for
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
