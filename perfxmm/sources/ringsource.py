"""What sources have in common whose samples the kernel writes into rings.

Nothing is decoded on the way: rings are drained into the writer as they stand. Only where samples
may carry values that are nobody's to write does a scrubber look at each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from perfxmm.errors import OutputError, TargetError, UsageError
from perfxmm.kernel.constants import AttrFlag
from perfxmm.kernel.cpuinfo import CpuInfo, read_cpuinfo
from perfxmm.kernel.maps import online_cpus, threads_of
from perfxmm.kernel.permissions import Situation, survey
from perfxmm.kernel.syscalls import Kernel, linux_kernel
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.synthesize import (
    synthesize_kernel,
    synthesize_process,
    synthesize_system,
)
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.sources.base import RecordRequest, RecordResult
from perfxmm.sources.command import Command, WaitingCommand
from perfxmm.sources.pmu_attr import PlannedEvent, by_cpu
from perfxmm.sources.pmu_events import OpenEvents
from perfxmm.sources.pmu_session import Progress, Scrub, Session
from perfxmm.sources.stopping import StopSignals

# How long a command is waited for after Ctrl-C; it got the same signal from the terminal.
GRACE_S = 2.0


class RingSource(ABC):
    """Records through perf events whose samples hold the registers already.

    kernel: the seam. situation, spawn, cpus, machine, proc: replace this machine's, for tests.
    """

    name = ""

    def __init__(
        self, kernel: Kernel | None = None, *, situation: Situation | None = None,
        spawn: Callable[..., Command] | None = None, cpus: Sequence[int] | None = None,
        machine: CpuInfo | None = None, proc: str = "/proc",
    ) -> None:  # fmt: skip
        self._kernel = kernel or linux_kernel()
        self._situation = situation
        self._spawn = spawn or WaitingCommand
        self._cpus = cpus
        self._machine = machine
        self._proc = proc

    @abstractmethod
    def _plan(self, request: RecordRequest) -> tuple[PlannedEvent, ...]:
        """The attrs to open. Raises NotSupported and its kin where the request cannot be served."""

    @abstractmethod
    def _describe(
        self, request: RecordRequest, planned: Sequence[PlannedEvent], opened: OpenEvents
    ) -> Metadata:
        """What the file says of itself; `_common_metadata` is a beginning."""

    @abstractmethod
    def _scrubber(self, request: RecordRequest, specs: Sequence[EventSpec]) -> Scrub | None:
        """What takes values out that must not be written; None where there are none."""

    def _tracing_data(self) -> bytes:
        """What a recording of tracepoints has to keep of tracefs; empty for other events."""
        return b""

    def _remarks(self, request: RecordRequest, specs: Sequence[EventSpec]) -> list[str]:
        """Lines for stderr that go with every such recording."""
        return []

    def _ring_pages(self, request: RecordRequest) -> int:
        return request.mmap_pages

    def record(self, request: RecordRequest, *, progress: Progress | None = None) -> RecordResult:
        """Records until the command ends, the targets are gone, a limit or a signal.

        Raises NotSupported (a class the kernel refuses, with where it would work),
        PermissionDenied, SyscallError, TargetError, UsageError (no such command) and
        OutputError. What was recorded before an
        OutputError stays readable.
        """
        planned = self._plan(request)
        child: Command | None = None
        if request.command:
            child = self._spawn(request.command, stdout_taken=request.output == "-")
        opened = OpenEvents(self._kernel, self._situation or survey())
        try:
            targets, cpus = self._where(request, child)
            opened.open_all(planned, targets, cpus, self._ring_pages(request))
            specs = [
                EventSpec(event.name, event.attr, tuple(ids))
                for event, ids in zip(planned, opened.ids, strict=True)
            ]
            writer = Writer(
                request.output, specs, self._describe(request, planned, opened),
                force=request.force, command_line=request.command_line,
                tracing_data=self._tracing_data(),
            )  # fmt: skip
            with writer, StopSignals() as signals:
                session = Session(
                    self._kernel, request, specs, opened, writer, signals, progress,
                    source=self.name, scrub=self._scrubber(request, specs),
                )  # fmt: skip
                session.result.warnings += self._remarks(request, specs)
                self._run(session, child)
        finally:
            opened.close()
            if child is not None:
                child.abandon()
        if child is not None:
            _await_command(child, session.result)
        return session.result

    def _run(self, session: Session, child: Command | None) -> None:
        try:
            self._start(session, child)
            session.loop(child)
        except KeyboardInterrupt:
            session.interrupt()
        except OutputError:
            session.finish("output")
            raise
        except (TargetError, UsageError):
            # The command never ran: an empty recording would only stand in the way of the next.
            _remove(session.request.output)
            raise
        session.finish(session.reason)

    def _start(self, session: Session, child: Command | None) -> None:
        """Names what is there already, and lets sampling and the command begin.

        Processes are named after sampling began, so that no mapping falls in between; the whole
        machine is named before, because that takes longer than a ring lasts.
        """
        request = session.request
        if by_cpu(request):
            session.note(synthesize_system(session.write, session.trailer, proc=self._proc))
        if any(not e.attr.flag(AttrFlag.EXCLUDE_KERNEL) for e in session.specs):
            kernel = synthesize_kernel(session.write, session.trailer)
            session.note([kernel] if kernel else [])
        on_exec = session.specs[0].attr.flag(AttrFlag.ENABLE_ON_EXEC)
        if child is not None and (request.delay_s or on_exec):
            child.release()
        session.delay(child)
        if not on_exec:
            session.opened.switch(on=True)
        session.begin()
        if not by_cpu(request) and not on_exec:
            for pid in self._processes(request, child):
                session.note(
                    synthesize_process(pid, session.write, session.trailer, proc=self._proc)
                )
        if child is not None and not request.delay_s and not on_exec:
            child.release()

    def _where(
        self, request: RecordRequest, child: Command | None
    ) -> tuple[Sequence[int], Sequence[int]]:
        """(tids, CPUs) to open each event for."""
        cpus = tuple(self._cpus) if self._cpus is not None else online_cpus()
        if by_cpu(request):
            return (-1,), request.cpus or cpus
        if child is not None:
            targets: list[int] = [child.pid]
        else:
            targets = list(request.tids)
            for pid in request.pids:
                targets += threads_of(pid, Path(self._proc))
        # An inherited event's ring must belong to one CPU (perf_mmap in kernel/events/core.c).
        return tuple(dict.fromkeys(targets)), cpus if request.inherit else (-1,)

    def _processes(self, request: RecordRequest, child: Command | None) -> list[int]:
        if child is not None:
            return _tree(child.pid, self._proc) if request.delay_s else []
        owners = [_process_of(tid, self._proc) for tid in request.tids]
        return list(dict.fromkeys([*request.pids, *owners]))

    def _common_metadata(
        self, request: RecordRequest, planned: Sequence[PlannedEvent], opened: OpenEvents
    ) -> Metadata:
        machine = self._machine or read_cpuinfo()
        try:
            tool = version("perfxmm")
        except PackageNotFoundError:
            tool = ""
        return Metadata(
            tool_version=tool, source=self.name, dialect=planned[0].attr.dialect.name,
            classes=list(request.classes), cpu_vendor=machine.vendor,
            cpu_model=machine.model_name, hypervisor=machine.hypervisor,
            kernel_release=machine.kernel_release,
            options={**request.options, "event_names": [event.name for event in planned]},
            opened_attrs=[raw.hex() for raw in opened.opened_attrs], redact=request.redact,
            unsafe_foreign=request.unsafe_foreign, clock="monotonic",
        )  # fmt: skip


def _await_command(child: Command, result: RecordResult) -> None:
    """The command's own status is passed on. It is never killed: after Ctrl-C it may go on."""
    try:
        result.exit_status = child.wait(GRACE_S if result.interrupted else None)
    except KeyboardInterrupt:
        result.interrupted = True
        result.exit_status = child.poll()
    if result.exit_status is None:
        result.warnings.append(f"the command still runs, as process {child.pid}")


def _remove(path: str) -> None:
    recording = Path(path)
    if recording.is_file() and not recording.is_symlink():
        recording.unlink()


def _process_of(tid: int, proc: str) -> int:
    try:
        for line in Path(proc, str(tid), "status").read_text(errors="replace").splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    raise TargetError(f"there is no thread {tid}")


def _tree(pid: int, proc: str) -> list[int]:
    """`pid` and the processes below it, as far as /proc tells."""
    found = [pid]
    for parent in found:
        try:
            for task in sorted(Path(proc, str(parent), "task").iterdir()):
                text = (task / "children").read_text()
                found += [int(word) for word in text.split() if int(word) not in found]
        except (OSError, ValueError):
            continue
    return found


