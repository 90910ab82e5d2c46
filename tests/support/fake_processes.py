"""Children of program.lines_process that never start: a test answers for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perfxmm.program.lines_process import ToolFailed

# From one request to its answer; raises ToolFailed as a child that died or hung does.
Answer = Callable[[bytes], bytes]


class FakeProcesses:
    """In place of lines_process.Child: `start` is the seam.

    commands: argument lists of what was started. requests: (number of the child, bytes).
    ended: numbers of children that were ended.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.commands: list[list[str]] = []
        self.requests: list[tuple[int, bytes]] = []
        self.ended: list[int] = []

    def start(self, arguments: Sequence[str]) -> FakeProcess:
        self.commands.append(list(arguments))
        return FakeProcess(self, len(self.commands) - 1)


class FakeProcess:
    def __init__(self, owner: FakeProcesses, number: int) -> None:
        self._owner = owner
        self._number = number

    def exchange(self, request: bytes, whole: Callable[[bytearray], bool]) -> bytes:
        assert self._number not in self._owner.ended
        self._owner.requests.append((self._number, request))
        answer = self._owner.answer(request)
        # It comes in two pieces, and the tool must not take the first one for all of it.
        half = len(answer) // 2
        assert not whole(bytearray(answer[:half]))
        if not whole(bytearray(answer)):
            raise ToolFailed("no answer within 60 s")
        return answer

    def end(self) -> None:
        self._owner.ended.append(self._number)
