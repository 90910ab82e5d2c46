"""Signals that end a recording, turned into a flag, so that it ends between two records."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While open, SIGINT, SIGTERM and SIGHUP set `received` instead of ending the process.

    tell: called from the handler, for a loop that blocks where a flag cannot reach it.

    Outside the main thread signals cannot be taken over: there only a KeyboardInterrupt that
    someone raises ends the recording. SIGTERM and SIGHUP stay ignored where they were (nohup).
    SIGINT does not: a shell ignores it for the background jobs of a script, and `kill -INT` is
    how such a script ends its recording (perf record takes it over, too).
    """

    def __init__(self, tell: Callable[[], object] | None = None) -> None:
        self.received: signal.Signals | None = None
        self._tell = tell
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                before = signal.getsignal(number)
                if before is None or (before == signal.SIG_IGN and number != signal.SIGINT):
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._tell is not None:
            self._tell()
