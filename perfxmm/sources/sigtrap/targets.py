"""Getting hold of what is to be sampled: launch a command, or attach to what runs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from perfxmm.errors import TargetError
from perfxmm.kernel import ptrace
from perfxmm.kernel.permissions import explain_ptrace, survey
from perfxmm.sources.base import RecordRequest
from perfxmm.sources.sigtrap import procfs

_RESET = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these; a command expects defaults


@dataclass(slots=True)
class Inherited:
    """What the tracer changed for itself and a command must get back.

    environment: as it came. nofile: RLIMIT_NOFILE. ignored: signals that were ignored from the
    start (nohup, background jobs).
    """

    environment: dict[str, str]
    nofile: tuple[int, int]
    ignored: frozenset[int] = frozenset()


@dataclass(slots=True)
class Target:
    """Threads seized and not yet sampled. root: the launched command's pid, 0 when attached.

    follow: new threads and child processes are sampled too. stopped: processes that were found
    stopped by a signal.
    """

    tids: list[int] = field(default_factory=list)
    root: int = 0
    follow: bool = True
    options: int = 0
    release_fd: int = -1
    failure_fd: int = -1
    stopped: list[int] = field(default_factory=list)

    def release(self) -> None:
        """Lets the launched child go on to its exec."""
        os.write(self.release_fd, b"x")
        os.close(self.release_fd)
        self.release_fd = -1

    def abandon(self) -> None:
        """Takes a launch back: the waiting child sees the end of its pipe and leaves."""
        if self.release_fd >= 0:
            os.close(self.release_fd)
            self.release_fd = -1

    def exec_failure(self) -> int:
        """The errno that kept the command from starting; 0 where it started."""
        if self.failure_fd < 0:
            return 0
        data = os.read(self.failure_fd, 16)
        os.close(self.failure_fd)
        self.failure_fd = -1
        return int(data) if data else 0


def trace_options(request: RecordRequest, *, launched: bool) -> tuple[int, bool]:
    """(ptrace options, follow). Single threads (-t) are not followed, as in perf."""
    follow = request.inherit and not request.tids
    options = ptrace.O_TRACEEXEC
    if follow:
        options |= ptrace.O_TRACECLONE | ptrace.O_TRACEFORK | ptrace.O_TRACEVFORK
    if launched:
        options |= ptrace.O_EXITKILL
    return options, follow


def launch(request: RecordRequest, inherited: Inherited) -> Target:
    """Forks the command's process, seized and waiting for `Target.release`."""
    options, follow = trace_options(request, launched=True)
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
    failed_r, failed_w = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(request, inherited, ready_r, ready_w, failed_w)
    os.close(ready_r)
    os.close(failed_w)
    target = Target([], pid, follow, options, ready_w, failed_r)
    try:
        ptrace.seize(pid, options)
    except OSError as error:
        # Explained while the child is still there to be looked at.
        explained = explain_ptrace(error, pid, survey())
        target.abandon()
        os.waitpid(pid, 0)
        raise explained from error
    return target


def _become(
    request: RecordRequest, inherited: Inherited, ready_r: int, ready_w: int, failed_w: int
) -> None:
    """In the child: waits to be seized, then becomes the command. Does not return."""
    try:
        os.close(ready_w)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            ignored = number in inherited.ignored
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_NOFILE, inherited.nofile)
        if request.output == "-":
            os.dup2(2, 1)  # stdout is the recording
        if os.read(ready_r, 1):
            os.execvpe(request.command[0], request.command, inherited.environment)
    except OSError as error:
        os.write(failed_w, str(error.errno).encode())
    finally:
        os._exit(127)


def attach(request: RecordRequest) -> Target:
    """Seizes every thread of the request's pids, or its tids, until no new ones appear.

    Raises TargetError or PermissionDenied; threads seized before that are let go by the tracer's
    end (nothing was stopped, no event opened).
    """
    options, follow = trace_options(request, launched=False)
    target = Target([], 0, follow, options)
    seen: set[int] = set()
    if request.tids:
        _note_stopped(request.tids, target)
        for tid in request.tids:
            _seize(tid, target, seen, must=True)
        return target
    for pid in request.pids:
        tids = procfs.threads_of(pid)
        if not tids:
            raise TargetError(
                f"process {pid} does not exist",
                next_step="Check the number; it may have ended. ps -e lists what runs.",
            )
        _note_stopped((pid,), target)
        while fresh := [t for t in tids if t not in seen]:
            for tid in fresh:
                _seize(tid, target, seen, must=tid == pid)
            # A thread born meanwhile of one not yet seized is found by looking again.
            tids = procfs.threads_of(pid)
    return target


def _note_stopped(pids: Sequence[int], target: Target) -> None:
    target.stopped += [p for p in pids if procfs.status_of(p).get("State", "").startswith("T")]


def _seize(tid: int, target: Target, seen: set[int], *, must: bool) -> None:
    seen.add(tid)
    try:
        ptrace.seize(tid, target.options)
    except OSError as error:
        if error.errno == errno.ESRCH and not must:
            return
        # A new thread of a seized one is traced already, by us.
        status = procfs.status_of(tid)
        if status.get("TracerPid") == str(os.getpid()):
            with contextlib.suppress(ValueError):
                target.tids.remove(tid)
            target.tids.append(tid)
            return
        if status.get("State", "").startswith("Z"):
            if must and len(procfs.threads_of(tid)) <= 1:
                raise TargetError(
                    f"process {tid} has ended already", why="it is a zombie",
                    next_step="Its parent has not collected it; there is nothing to sample.",
                ) from error
            return  # the first thread has ended, others go on
        raise explain_ptrace(error, tid, survey()) from error
    target.tids.append(tid)
