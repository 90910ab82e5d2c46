"""Text of a large recording from two processes that write it in turn.

To make text takes several times as long as to read and judge. So both processes read and judge
every batch: each then has all string tables, and the one that was started the whole account. Each
makes the text of every second batch, and a token in a pair of pipes says whose turn it is to
write. The bytes are those that one process alone would write, up to any error.

Only the first process speaks and decides: the second hands its error over and ends, ends when the
first is gone, and is ended by it when the work is broken off.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

from perfxmm.errors import PerfxmmError

# From the second batch on: the first one has filled the tables that both then share.
_ALONE_BATCHES = 1
# So much finished text waits for its turn at most, and one piece more.
_HELD_BYTES = 32 << 20
_TOKEN, _ERROR = b"t", b"e"

Batch = TypeVar("Batch")


class _PartnerGone(Exception):
    """The other process has ended, or died, without a word."""


def write_all(
    batches: Iterator[Batch], lines: Callable[[Batch], Iterable[memoryview]], file: BinaryIO,
    *, alone: bool = False,
) -> None:
    """Writes lines(batch) of all batches to `file`, in order.

    By two processes where there is more than one batch, more than one CPU, and nothing speaks
    against a fork. alone: by this one whatever there is. Raises what batches, lines and file
    raise.
    """
    alone = alone or not _may_fork(file)
    for number in count():
        batch = next(batches, None)
        if batch is None:
            return
        if not alone and number >= _ALONE_BATCHES:
            file.flush()
            _by_two(chain([batch], batches), lines, file)
            return
        for piece in lines(batch):
            file.write(piece)


def _may_fork(file: BinaryIO) -> bool:
    """Whether a second process would have a CPU, see the same file, and be safe to fork."""
    try:
        file.fileno()
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return False
    return threads == 1 and len(os.sched_getaffinity(0)) > 1


def _by_two(
    batches: Iterator[Batch], lines: Callable[[Batch], Iterable[memoryview]], file: BinaryIO
) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    own_in, partner_out = os.pipe()
    partner_in, own_out = os.pipe()
    # Ctrl-C goes to both: it may not hit the second before it has been told to ignore it, nor the
    # first before it is ready to end the second.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = os.fork()
    except OSError:  # no more processes allowed, or no memory: slower, but it works
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for descriptor in (own_in, partner_out, partner_in, own_out):
            os.close(descriptor)
        for batch in batches:
            for piece in lines(batch):
                file.write(piece)
        return
    if process == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(own_in)
            os.close(own_out)
            _second(batches, lines, file, _Turn(partner_in, partner_out, mine=False))
        finally:
            os._exit(1)
    turn = _Turn(own_in, own_out, mine=True)
    try:
        os.close(partner_in)
        os.close(partner_out)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _first(batches, lines, file, turn)
    except _PartnerGone:
        raise PerfxmmError(
            "the text is not complete", why="the second process that made it was killed",
            next_step="Free some memory and try again, or look into the kernel's log.",
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        turn.close()


class _Turn:
    """The right to write, which one of the two processes has at any time."""

    def __init__(self, inward: int, outward: int, *, mine: bool) -> None:
        self._in, self._out = inward, outward
        self._mine = mine
        self._waiter = select.poll()
        self._waiter.register(inward, select.POLLIN)

    def take(self, *, wait: bool = True) -> bool:
        """Whether it is this process's turn; `wait` until it is.

        Raises _PartnerGone where it never will be, and the error the partner has met.
        """
        if self._mine or not (wait or self._waiter.poll(0)):
            return self._mine
        said = os.read(self._in, 1)
        if not said:
            raise _PartnerGone
        if said == _ERROR:
            raise _error_of(self._rest())
        self._mine = True
        return True

    def give(self) -> None:
        # A partner that has ended shows when its turn is waited for.
        with suppress(BrokenPipeError):
            os.write(self._out, _TOKEN)
        self._mine = False

    def fail(self, error: BaseException) -> None:
        """Hands an error over to the partner, in place of the turn."""
        with suppress(BrokenPipeError):
            os.write(self._out, _ERROR + _text_of(error))

    def leave(self) -> None:
        """Gives no turn any more, and waits until the partner has ended."""
        os.close(self._out)
        self._out = -1
        self._rest()

    def close(self) -> None:
        os.close(self._in)
        if self._out >= 0:
            os.close(self._out)

    def _rest(self) -> bytes:
        return b"".join(iter(lambda: os.read(self._in, 1 << 16), b""))


def _first(
    batches: Iterator[Batch], lines: Callable[[Batch], Iterable[memoryview]], file: BinaryIO,
    turn: _Turn,
) -> None:
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except Exception:
            # What lies before it belongs into the output: the partner may still be at it.
            turn.leave()
            raise
        if batch is None:
            break
        if number % 2 == 0:
            _write(lines(batch), file, turn)
        number += 1
    if number % 2 == 0:
        turn.take()


def _second(
    batches: Iterator[Batch], lines: Callable[[Batch], Iterable[memoryview]], file: BinaryIO,
    turn: _Turn,
) -> NoReturn:
    code = 1
    try:
        for number, batch in enumerate(batches):
            if number % 2 == 1:
                _write(lines(batch), file, turn)
        code = 0
    except _PartnerGone:
        pass
    except BaseException as error:
        turn.fail(error)
    # Past all clean-up: buffers, temporary files and exit handlers are the first process's.
    os._exit(code)


def _write(pieces: Iterable[memoryview], file: BinaryIO, turn: _Turn) -> None:
    """One batch: its text is made ahead of the turn, and goes out as soon as that comes."""
    held: list[memoryview] = []
    held_bytes = 0
    for piece in pieces:
        held.append(piece)
        held_bytes += len(piece)
        if turn.take(wait=held_bytes > _HELD_BYTES):
            _flush(held, file)
            held_bytes = 0
    turn.take()
    _flush(held, file)
    # What stays in a buffer would come after the partner's text.
    file.flush()
    turn.give()


def _flush(held: list[memoryview], file: BinaryIO) -> None:
    for piece in held:
        file.write(piece)
    held.clear()


def _text_of(error: BaseException) -> bytes:
    if isinstance(error, OSError) and error.errno is not None:
        known: object = [error.errno, error.strerror, error.filename]
    else:
        known = "".join(traceback.format_exception(error))
    return json.dumps(known, default=str).encode()


def _error_of(text: bytes) -> Exception:
    """The partner's error: an OSError as it was; what else can come is a mistake of our own."""
    known = json.loads(text)
    if isinstance(known, list):
        number, why, name = known
        return OSError(number, why, name) if name is not None else OSError(number, why)
    return RuntimeError(f"in the second process:\n{known}")
