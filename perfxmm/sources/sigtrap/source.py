"""SigtrapSource: the recorder's side of the tracer process."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from perfxmm.errors import NotSupported, PerfxmmError, UsageError
from perfxmm.sources.base import RecordRequest, RecordResult
from perfxmm.sources.sigtrap.channel import Lines, error_from_json, request_to_json
from perfxmm.sources.sigtrap.events import why_not_sampled
from perfxmm.sources.stopping import StopSignals

# sys.path is handed over, so that the tracer runs the very perfxmm that its recorder runs, and no
# environment variable has to be set that the command would inherit.
_BOOT = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[4]);"
    "from perfxmm.sources.sigtrap.tracer import main;"
    "sys.exit(main(*map(int,sys.argv[1:4])))"
)
_UNSUPPORTED = ("ssp",)
# Of the tracer's result: what RecordResult has fields for; all else goes into its `details`.
_FIELDS = ("samples", "lost", "throttled", "bytes_written", "elapsed_s")


# A signal this long after the first one means: do not wait for the tracer any longer.
_PATIENCE_S = 3.0
_LEFT: list[subprocess.Popen[bytes]] = []  # tracers not waited for: they are collected at the end


class _Impatient(Exception):
    """Raised out of a signal handler, since a read would go on after it."""


class SigtrapSource:
    """Samples threads by perf events that trap, their registers read by ptrace."""

    name = "sigtrap"

    def why_not(self, request: RecordRequest) -> str | None:
        if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
            return "it reads x86-64 registers of Linux programs"
        if request.system_wide or request.cpus:
            return "it stops threads, so it needs a command, -p or -t, not CPUs"
        bad = [name for name in _UNSUPPORTED if name in request.classes]
        if bad:
            return f"it cannot read {', '.join(bad)}"
        return next(filter(None, map(why_not_sampled, request.events)), None)

    def record(
        self, request: RecordRequest, *, progress: Callable[[int, float], None] | None = None
    ) -> RecordResult:
        """Records until the command ends, a limit is reached, or SIGINT, SIGTERM or SIGHUP.

        progress(samples, elapsed_s) is called about four times a second. The target is let go
        cleanly in every case, also when this process is killed.
        """
        refusal = self.why_not(request)
        if refusal is not None:
            raise NotSupported("source 'sigtrap' cannot serve this request", why=refusal)
        if not (request.command or request.pids or request.tids):
            raise UsageError("nothing to record", next_step="Name a command, -p PID or -t TID.")
        if os.getpid() in request.pids:
            raise UsageError("perfxmm cannot trace itself", next_step="Record another process.")
        return _Recorder(request, progress).run()


class _Recorder:
    def __init__(
        self, request: RecordRequest, progress: Callable[[int, float], None] | None
    ) -> None:
        self.request = request
        self.progress = progress
        self.result = RecordResult(path=request.output, source="sigtrap")
        self.error: PerfxmmError | None = None
        self.finished = False
        self.impatient = False
        self._orders: Lines | None = None
        self._first_stop = 0.0

    def run(self) -> RecordResult:
        orders_r, orders_w = os.pipe2(os.O_CLOEXEC)
        reports_r, reports_w = os.pipe2(os.O_CLOEXEC)
        try:
            tracer = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(orders_r), str(reports_w),
                 str(os.getpid()), json.dumps([os.path.abspath(p) for p in sys.path])],  # noqa: PTH100
                pass_fds=(orders_r, reports_w),
            )  # fmt: skip
        finally:
            os.close(orders_r)
            os.close(reports_w)
        orders, reports = Lines(orders_w), Lines(reports_r)
        # Only now: the tracer, and with it the command, has the signals as they were.
        with StopSignals(self._stop):
            try:
                try:
                    orders.send({"request": request_to_json(self.request)})
                    self._orders = orders
                    if self.result.interrupted:
                        self._stop()
                    self._listen(reports)
                finally:
                    self._orders = None
                    os.close(orders_w)  # the tracer detaches now, whatever went wrong here
                    os.close(reports_r)
                    if not self.impatient:
                        status = _collect(tracer)
            except _Impatient:
                _LEFT.append(tracer)
                raise PerfxmmError(
                    "interrupted again before the target was let go",
                    why="a thread hangs in the kernel, or the command does not end",
                    next_step=f"Process {tracer.pid} goes on with it; the file is readable.",
                ) from None
        if self.error is not None:
            raise self.error
        if not self.finished:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            if self.result.interrupted:
                raise PerfxmmError("interrupted before sampling began")
            raise PerfxmmError(
                "the tracer process ended before the recording was finished", why=how,
                next_step="What was recorded until then can be read.",
            )
        return self.result

    def _stop(self) -> None:
        """Asks the tracer to end the recording. Called from signal handlers."""
        now = time.monotonic()
        self._first_stop = self._first_stop or now
        if now - self._first_stop > _PATIENCE_S:
            self.impatient = True
            raise _Impatient
        self.result.interrupted = True
        if self._orders is not None:
            # On a terminal the tracer has its own SIGINT already; asking twice is harmless.
            self._orders.send({"order": "stop"})

    def _listen(self, reports: Lines) -> None:
        while not reports.ended:
            try:
                for message in reports.receive():
                    self._take(message)
            except KeyboardInterrupt:  # where the signals could not be taken over
                self._stop()

    def _take(self, message: dict[str, Any]) -> None:
        if "progress" in message:
            if self.progress is not None:
                self.progress(int(message["progress"][0]), float(message["progress"][1]))
        elif "warning" in message:
            self.result.warnings.append(str(message["warning"]))
        elif "error" in message:
            self.error = error_from_json(message["error"])
        elif "exit" in message:
            self.result.exit_status = message["exit"]
        elif "result" in message:
            told = message["result"]
            self.finished = True
            self.result.samples = told["samples"]
            self.result.lost = told["lost"]
            self.result.throttled = told["throttled"]
            self.result.bytes_written = told["bytes_written"]
            self.result.elapsed_s = told["elapsed_s"]
            self.result.interrupted |= told["stopped_by"] == "interrupted"
            self.result.details = {k: v for k, v in told.items() if k not in _FIELDS}


def _collect(tracer: subprocess.Popen[bytes]) -> int:
    """The tracer's exit status. A second Ctrl-C while it still works on the detach is ignored."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return tracer.wait()
