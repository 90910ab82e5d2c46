"""A command that waits, forked but not yet running, until its events are open."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from perfxmm.errors import PerfxmmError, UsageError

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

    stdout_taken: stdout is the recording, so what the command prints goes to stderr.
    Raises UsageError where there is no such program.
    """

    def __init__(self, argv: Sequence[str], *, stdout_taken: bool = False) -> None:
        # Here, because the tracer process needs this module, and fast, but not this.
        import shutil

        self._argv = list(argv)
        program = argv[0]
        if shutil.which(program) is None:
            there = Path(program).is_file()
            raise start_error(errno.EACCES if there else errno.ENOENT, program)
        go_read, self._go = os.pipe()
        failed, failed_write = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(failed)
            _become(self._argv, go_read, failed_write, stdout_taken=stdout_taken)
        os.close(go_read)
        os.close(failed_write)
        self._failed = failed

    def release(self) -> None:
        """Lets the child execute; returns when it has. Raises UsageError where it cannot."""
        os.write(self._go, b"!")
        os.close(self._go)
        told = os.read(self._failed, 16)
        os.close(self._failed)
        self._go = self._failed = -1
        if told:
            self.wait()
            raise start_error(int(told), self._argv[0])

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


def _become(argv: list[str], go: int, failed: int, *, stdout_taken: bool) -> None:
    """The child: waits for its byte, then turns into the command. Never returns."""
    try:
        if os.read(go, 1) != b"!":
            os._exit(0)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        if stdout_taken:
            os.dup2(2, 1)
        os.execvp(argv[0], argv)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(failed, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(127)


def start_error(number: int, command: str) -> PerfxmmError:
    """The command could not be executed, for the reason that errno `number` gives."""
    shown = command.encode("unicode_escape").decode()
    steps = {
        errno.ENOENT: "Check the spelling and PATH.",
        errno.EACCES: "Is the file executable for this user?",
        errno.ENOEXEC: "Not a program this machine can run; scripts need a #! line.",
    }
    return UsageError(
        f"cannot run {shown!r}", why=os.strerror(number), next_step=steps.get(number, "")
    )
