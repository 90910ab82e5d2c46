"""One recording from its request to its finished file, inside the tracer process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfxmm.errors import OutputError, PerfxmmError, errno_name
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.constants import AttrFlag
from perfxmm.kernel.cpuinfo import read_cpuinfo
from perfxmm.kernel.permissions import OpenContext, explain_open, survey
from perfxmm.kernel.syscalls import LinuxKernel
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.sources.base import MMAP_PAGES, RecordRequest
from perfxmm.sources.limits import Governor, StopLimits
from perfxmm.sources.sigtrap import events as event_table
from perfxmm.sources.sigtrap import interrupt, procfs
from perfxmm.sources.sigtrap.assembly import SampleAssembler
from perfxmm.sources.sigtrap.channel import Flags, Lines, error_to_json
from perfxmm.sources.sigtrap.detach import Detacher
from perfxmm.sources.sigtrap.events import TracedEvent
from perfxmm.sources.sigtrap.state import TraceState
from perfxmm.sources.sigtrap.targets import Target
from perfxmm.sources.sigtrap.threads import RING_PAGES, close_events, switch_events
from perfxmm.version import __version__
from perfxmm.xstate.cpuid import machine_layout, xgetbv


class Session:
    """Prepares, opens, lets go and closes, in this order; each step once."""

    def __init__(
        self, request: RecordRequest, nonce: int, flags: Flags, warn: Callable[[str], object],
        poll: Callable[[], object], progress: Callable[[int, float], object],
    ) -> None:
        self.request = request
        self.nonce = nonce
        self.flags = flags
        self.warn = warn
        self.poll = poll
        self.progress = progress
        self.kernel = LinuxKernel()
        self.engine = "perf"
        self.events: tuple[TracedEvent, ...] = ()
        self.probes: dict[str, Any] = {}
        self.state: TraceState | None = None
        self._writer: Writer | None = None
        self._discarded = False
        self._swallowed = 0
        self._detacher: Detacher | None = None

    def prepare(self) -> None:
        """Everything that can fail without a target: layout, attrs, a trial of the events."""
        self.layout = machine_layout()
        warnings: list[str] = []
        self.events = event_table.build_events(self.request, self.nonce, warnings)
        for text in (*warnings, *_not_heeded(self.request)):
            self.warn(text)
        if self.request.engine == "interrupt":
            self.engine = "interrupt"
        else:
            self._try_events()
        if self.engine == "interrupt":
            for text in interrupt.limits_of(self.events):
                self.warn(text)

    def _try_events(self) -> None:
        try:
            event_table.probe(self.kernel, self.events)
        except OSError as error:
            number = error.errno or 0
            self.probes["perf_event_open"] = errno_name(number)
            name = str(error.filename)
            event = next(e for e in self.events if e.name == name)
            told = explain_open(error, OpenContext(name, event.opened), survey())
            if self.request.engine == "auto" and number in event_table.REFUSED and event.clock:
                self.engine = "interrupt"
                self.warn(f"perf events are refused here, sampling by interrupts instead: {told}")
                return
            raise told from error
        self.probes["perf_event_open"] = "ok"

    def open(self, target: Target) -> TraceState:
        """Creates the file and everything around it; the target does not run on yet."""
        request = self.request
        self._writer = writer = Writer(
            request.output,
            [EventSpec(e.name, e.recorded, (e.file_id,)) for e in self.events],
            self._metadata(), force=request.force, command_line=request.command_line,
        )  # fmt: skip
        assembler = SampleAssembler(
            self.layout, request.classes, self.events, writer.write,
            redact_values=request.redact == "values",
        )
        guard = None
        if request.redact == "crypto":
            from perfxmm.sources.sigtrap.crypto import CryptoGuard

            guard = CryptoGuard()
        self.state = TraceState(
            self.kernel, self.engine, self.events, self.nonce, target, writer, assembler,
            StopLimits.of(request), Governor(request.cpu_limit_percent), self.flags, self.warn,
            self.progress, self.poll, delay_s=request.delay_s, guard=guard,
            ring_pages=ring_pages(request),
        )  # fmt: skip
        return self.state

    def _metadata(self) -> Metadata:
        cpu = read_cpuinfo()
        legacy = event_table.uses_legacy(self.request.classes)
        return Metadata(
            tool_version=__version__, source="sigtrap", engine=self.engine,
            dialect="L" if legacy else "M", classes=list(self.request.classes),
            xcr0=xgetbv() or 0, xstate_layout=self.layout.to_json(), cpu_vendor=cpu.vendor,
            cpu_model=cpu.model_name, hypervisor=cpu.hypervisor,
            kernel_release=cpu.kernel_release, probes=self.probes,
            options=dict(self.request.options),
            opened_attrs=[attr_codec.encode(e.opened).hex() for e in self.events]
            if self.engine == "perf" else [],
            redact=self.request.redact,
        )  # fmt: skip

    # --- the end

    def let_go(self, target: Target) -> None:
        """Detaches from every thread, sampled or not yet."""
        state = self.state
        threads = state.threads if state is not None else {}
        for thread in threads.values():
            switch_events(thread, self.kernel, on=False)
        pending = {tid: tid for tid in target.tids} if state is None or not threads else {}
        pending |= {t.tid: t.pid for t in threads.values()}
        for tid in state.expected if state is not None else ():
            pending.setdefault(tid, procfs.process_of(tid))
        root_ended = state is not None and state.exit_status is not None
        if target.root and not root_ended:
            pending.setdefault(target.root, target.root)

        def on_exit(tid: int, word: int) -> None:
            if state is not None and tid == target.root:
                state.note_exit(word)

        self._detacher = detacher = Detacher(pending, self.nonce, on_exit)
        detacher.run()
        self._swallowed = detacher.swallowed
        for tid in detacher.stuck:
            then = "perfxmm goes on trying" if target.root else "is let go by the kernel"
            self.warn(f"thread {tid} could not be stopped: {then}")

    def let_go_of_the_rest(self, target: Target) -> None:
        """After `close`: goes on with threads of a launched command that hang in the kernel.

        Attached ones are left to it; a command cannot be, since PTRACE_O_EXITKILL would end it
        with the tracer.
        """
        if self._detacher is not None and self._detacher.stuck and target.root:
            self._detacher.patience_s = 1e9
            self._detacher.run()

    def discard(self) -> None:
        """The command never started: no recording is left behind."""
        self._discarded = True

    def close(self, failure: PerfxmmError | None, reports: Lines) -> None:
        """Finishes the file and reports the result, or `failure`."""
        state, writer = self.state, self._writer
        if state is None or writer is None:
            if failure is not None:
                reports.send({"error": error_to_json(failure)})
            return
        elapsed_s = state.elapsed_s if state.started_ns else 0.0
        assembler = state.assembler
        if not isinstance(failure, OutputError):
            try:
                state.finish_round(time.monotonic_ns(), everything=True)
            except OutputError as error:
                failure = error
        for thread in state.threads.values():
            close_events(thread, self.kernel)
        if failure is None:
            for text in (_backed_off(state), _nothing_sampled(state, elapsed_s)):
                if text:
                    self.warn(text)
        first, last = assembler.first_ns, assembler.last_ns
        result: dict[str, Any] = {
            "samples": assembler.samples, "bare_samples": assembler.bare,
            "unpaired": assembler.unpaired, "lost": assembler.lost,
            "throttled": assembler.throttled, "elapsed_s": round(elapsed_s, 6),
            "back_offs": state.governor.back_offs, "period_factor": state.governor.factor,
            "achieved_hz": round(assembler.samples / elapsed_s, 3) if elapsed_s else 0.0,
            "threads_not_sampled": state.skipped_threads, "stopped_by": self.flags.stop,
            "engine": self.engine, "trim_ns": state.trim_ns, "stops": assembler.stops,
            "swallowed": self._swallowed, "tracer_cpu_s": round(time.process_time(), 4),
        }  # fmt: skip
        try:
            writer.finish(result, sample_time=(first, last) if assembler.samples else None)
        except OutputError as error:
            failure = failure or error
        if self._discarded and self.request.output != "-":
            with contextlib.suppress(OSError):
                Path(self.request.output).unlink()
        if failure is not None:
            reports.send({"error": error_to_json(failure)})
            return
        result["bytes_written"] = writer.bytes_written
        reports.send({"result": result})


def ring_pages(request: RecordRequest) -> int:
    """Pages of each thread's ring: as asked by -m, few where it was not."""
    return RING_PAGES if request.mmap_pages == MMAP_PAGES else request.mmap_pages


def _not_heeded(request: RecordRequest) -> list[str]:
    """Options that sigtrap cannot follow to the letter."""
    written = "intr" if event_table.uses_legacy(request.classes) else "user"
    return [
        f"--{name.replace('_', '-')}: sigtrap has one register set, the stopped thread's own; "
        f"with these classes the file names it {written!r}"
        for name, asked in (("intr_regs", "intr"), ("user_regs", "user"))
        if request.options.get(name) and asked != written
    ]


def _backed_off(state: TraceState) -> str:
    governor = state.governor
    if not governor.back_offs:
        return ""
    event = state.events[0]
    asked, least = event.period(), event.period(governor.greatest)
    if event.opened.flag(AttrFlag.FREQ):
        what = f"at down to {least} Hz instead of {asked} Hz"
    else:
        unit = " ns" if event.clock else f" {event.name}"
        what = f"every {least}{unit} at the slowest instead of every {asked}{unit}"
    return (f"sampled {what}: stops cost the target more than "
            f"{governor.limit * 100:.3g} % of its time")  # fmt: skip


def _nothing_sampled(state: TraceState, elapsed_s: float) -> str:
    """Why a recording is empty, as far as that can be told; "" where it is not."""
    if state.assembler.samples:
        return ""
    event = state.events[0]
    if not state.enabled:
        why = "it ended before the delay (-D) was over"
    elif state.assembler.bare:
        why = (f"{state.assembler.bare} events happened, but no stop came of them "
               "(SIGTRAP blocked, or the target ended)")  # fmt: skip
    elif state.skipped_threads:
        why = "no thread could be sampled"
    elif any(thread.listening for thread in state.threads.values()):
        why = "the target was stopped by a signal"
    elif event.clock:
        period_ms = event.period(state.governor.factor) / 1e6
        why = (f"the target slept, or ran for less than one period ({period_ms:.3g} ms) of user "
               f"mode in {elapsed_s:.2f} s")  # fmt: skip
    else:
        names = ", ".join(e.name for e in state.events)
        why = f"in {elapsed_s:.2f} s of user mode there was not one period of {names}"
    return f"no samples: {why}"
