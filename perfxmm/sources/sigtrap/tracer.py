"""The tracer process: started by `source`, speaks `channel`, holds every ptrace relation.

It is a process of its own for two reasons: waitpid(-1) would steal the recorder's other children,
and a tracer that is killed while a trap is pending takes its target along. So it outlives the
recorder by as long as the clean detach takes, whichever way the recorder ends.
"""

from __future__ import annotations

import gc
import os
import resource
import secrets
import signal
import sys
import time
from typing import Any

from perfxmm.errors import OutputError, PerfxmmError
from perfxmm.kernel import ptrace
from perfxmm.sources.sigtrap.channel import Flags, Lines, error_to_json, request_from_json

TICK_S = 0.05
# The recorder's end, however it comes, must not end the tracer before the detach.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(requests_fd: int, reports_fd: int, parent: int) -> int:
    """Runs one recording. Never raises; what went wrong is reported as an error message."""
    flags = Flags()
    ignored = frozenset(n for n in _STOPPING if signal.getsignal(n) == signal.SIG_IGN)

    def stop(number: int, frame: object) -> None:
        flags.stop = flags.stop or "interrupted"

    def tick(number: int, frame: object) -> None:
        flags.tick = True

    # SIGINT ends the recording also where it came ignored, see stopping.StopSignals.
    for number in _STOPPING:
        if number not in ignored or number == signal.SIGINT:
            signal.signal(number, stop)
    signal.signal(signal.SIGALRM, tick)
    # The recorder's SIGKILL reaches us as SIGTERM, and as the end of its pipe.
    signal.signal(signal.SIGTERM, stop)
    ptrace.set_parent_death_signal(signal.SIGTERM)
    # Not "perfxmm...": `pkill -9 perfxmm` would hit it together with its recorder.
    ptrace.set_process_name("xmm-tracer")
    if os.getppid() != parent:
        return 1
    requests, reports = Lines(requests_fd), Lines(reports_fd)
    os.set_inheritable(requests_fd, False)
    os.set_inheritable(reports_fd, False)
    environment = dict(os.environ)
    # numpy's thread pool is of no use here, and a process with threads should not fork.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Heavy imports from here on: the signal handlers stand.
    from perfxmm.sources.sigtrap.targets import Inherited

    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (nofile[1], nofile[1]))
    inherited = Inherited(environment, nofile, ignored)
    try:
        first: list[dict[str, Any]] = []
        while not first and not requests.ended:
            first = requests.receive()
        if not first:
            return 1
        os.set_blocking(requests_fd, False)
        # A recorder that does not read must not hold up the target.
        os.set_blocking(reports_fd, False)
        _record(first[0], inherited, flags, requests, reports)
    except PerfxmmError as error:
        reports.send({"error": error_to_json(error)})
        return error.exit_code
    except Exception as error:
        wrong = PerfxmmError("the tracer failed", why=f"{type(error).__name__}: {error}")
        reports.send({"error": error_to_json(wrong)})
        if os.environ.get("PERFXMM_DEBUG"):
            raise
        return 1
    return 0


def _record(
    message: dict[str, Any], inherited: Any, flags: Flags, requests: Lines, reports: Lines
) -> None:
    from perfxmm.sources.command import start_error
    from perfxmm.sources.sigtrap import interrupt, loop, targets
    from perfxmm.sources.sigtrap.session import Session

    request = request_from_json(message["request"])

    def warn(text: str) -> None:
        reports.send({"warning": text})

    def poll() -> None:
        for order in requests.receive():
            if order.get("order") == "stop":
                flags.stop = flags.stop or "interrupted"
        if requests.ended:
            flags.stop = flags.stop or "recorder gone"

    nonce = secrets.randbits(31) | 1
    session = Session(request, nonce, flags, warn, poll,
                      lambda n, s: reports.send({"progress": [n, s]}))  # fmt: skip
    session.prepare()
    failure: PerfxmmError | None = None
    target = None
    try:
        if request.command:
            target = targets.launch(request, inherited)
        else:
            target = targets.attach(request)
        state = session.open(target)
        period_s = TICK_S
        if session.engine == "interrupt":
            period_s = interrupt.period_ns(state) / 1e9
        signal.setitimer(signal.ITIMER_REAL, TICK_S if state.delay_s else period_s, period_s)
        gc.collect()
        gc.freeze()
        gc.disable()
        state.begin()
        try:
            (interrupt if session.engine == "interrupt" else loop).run(state)
        except OutputError as error:
            failure = error
            flags.stop = "output"
        number = target.exec_failure() if state.exit_status == 127 else 0
        if number:
            session.discard()
            raise start_error(number, request.command[0])
    except PerfxmmError as error:
        failure = failure or error
    except Exception as error:
        # A mistake of ours: the target is let go and the file finished all the same.
        failure = PerfxmmError("the tracer failed", why=f"{type(error).__name__}: {error}")
        if os.environ.get("PERFXMM_DEBUG"):
            raise
    finally:
        gc.enable()
        if target is not None:
            target.abandon()
            signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
            session.let_go(target)
    os.set_blocking(reports.fd, True)
    session.close(failure, reports)
    if target is not None:
        session.let_go_of_the_rest(target)
    signal.setitimer(signal.ITIMER_REAL, 0, 0)
    if session.state is not None and target is not None and target.root and not requests.ended:
        _await_command(session.state, target.root, flags, requests, reports, request.options)


def _await_command(
    state: Any, root: int, flags: Flags, requests: Lines, reports: Lines, options: dict[str, Any]
) -> None:
    """After the recording: the command's own exit status, where it still runs."""
    if state.exit_status is None and options.get("wait", True):
        # After Ctrl-C the command has had its own SIGINT; it may need a moment.
        patience = 1.0 if flags.stop in ("interrupted", "recorder gone") else float("inf")
        until = time.monotonic() + patience
        while time.monotonic() < until and not requests.ended:
            pid, word = os.waitpid(root, os.WNOHANG)
            if pid:
                state.note_exit(word)
                break
            for order in requests.receive():
                if order.get("order") == "stop":
                    until = 0.0
            time.sleep(0.02)
    if state.exit_status is None:
        reports.send({"warning": f"the command still runs as process {root}"})
    reports.send({"exit": state.exit_status})


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:4])))
