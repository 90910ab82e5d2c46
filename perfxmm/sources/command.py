"""A command that waits, forked but not yet running, until its events are open."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from perfxmm.errors import TargetError, errno_name

# Python ignores these, and a program would inherit that.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


class Command(Protocol):
    """A child process. `poll` and `wait` give 128 + signal where it was killed."""

    pid: int

    def release(self) -> None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout_s: float | None = None) -> int | None: ...

    def abandon(self) -> None: ...


class WaitingCommand:
    """Forks now, executes at `release`.

    The child holds the read end of a pipe: one byte lets it go on, and if perfxmm is gone before
    that, end of file ends it, so that nothing half-started stays behind.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        program = argv[0]
        if shutil.which(program) is None:
            raise _not_started(program, errno.EACCES if Path(program).is_file() else errno.ENOENT)
        go_read, self._go = os.pipe()
        failed, failed_write = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(failed)
            _become(self._argv, go_read, failed_write)
        os.close(go_read)
        os.close(failed_write)
        self._failed = failed

    def release(self) -> None:
        """Lets the child execute; returns when it has. Raises TargetError where it cannot."""
        os.write(self._go, b"!")
        os.close(self._go)
        told = os.read(self._failed, 16)
        os.close(self._failed)
        self._go = self._failed = -1
        if told:
            self.wait()
            raise _not_started(self._argv[0], int(told))

    def poll(self) -> int | None:
        """Its exit status once it has ended."""
        if self._status is None:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(raw)
        return self._status

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits for its end; None where it still runs after `timeout_s`."""
        if timeout_s is None:
            if self._status is None:
                self._ended(os.waitpid(self.pid, 0)[1])
            return self._status
        until = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self._status

    def abandon(self) -> None:
        """Ends a child that was never released. One that runs is left alone."""
        if self._go < 0:
            return
        os.close(self._go)
        os.close(self._failed)
        self._go = self._failed = -1
        self.wait()

    def _ended(self, raw: int) -> None:
        code = os.waitstatus_to_exitcode(raw)
        self._status = 128 - code if code < 0 else code


def _become(argv: list[str], go: int, failed: int) -> None:
    """The child: waits for its byte, then turns into the command. Never returns."""
    try:
        if os.read(go, 1) != b"!":
            os._exit(0)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        os.execvp(argv[0], argv)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(failed, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(127)


def _not_started(program: str, number: int) -> TargetError:
    return TargetError(
        f"cannot start {program!r}", where=f"execvp: {errno_name(number)}",
        why=os.strerror(number),
        next_step="the command and its arguments stand after --" if number == errno.ENOENT else "",
    )
