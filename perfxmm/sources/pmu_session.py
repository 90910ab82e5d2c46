"""One recording out of rings under way: counts, limits, and the way of records into the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from perfxmm.kernel.ring import tally
from perfxmm.kernel.syscalls import Kernel
from perfxmm.perfdata.encode import TRAILER_BITS, SampleId
from perfxmm.perfdata.format import BuildId
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.sources.base import RecordRequest, RecordResult
from perfxmm.sources.command import Command
from perfxmm.sources.limits import StopLimits
from perfxmm.sources.pmu_events import OpenEvents
from perfxmm.sources.stopping import StopSignals

# How long a poll may sleep: limits, signals and the command's end are looked at this often.
LONGEST_WAIT_S = 0.2
SHORTEST_WAIT_S = 0.001
FINISHED_ROUND_BYTES = 8
# Where TIME stands in a sample of pmu_attr.SAMPLE_TYPE: header, IDENTIFIER, IP and TID before it.
TIME_WORD = 4
# An event that had a counter for less than this share of its time was multiplexed.
WHOLE_PERCENT = 99.0
Progress = Callable[[int, float], None]


class Scrub(Protocol):
    """Takes values out of runs of whole records before they are written.

    scrubbed: samples that lost some. dropped: samples left out because none could be found.
    """

    scrubbed: int
    dropped: int

    def __call__(self, data: bytes | memoryview) -> bytes | memoryview: ...


class Session:
    """One recording under way: counts, limits, and the way of records into the file."""

    def __init__(
        self, kernel: Kernel, request: RecordRequest, specs: Sequence[EventSpec],
        opened: OpenEvents, writer: Writer, signals: StopSignals, progress: Progress | None,
        *, source: str = "pmu", scrub: Scrub | None = None,
    ) -> None:  # fmt: skip
        self.request = request
        self.specs = specs
        self.opened = opened
        self.writer = writer
        self.result = RecordResult(request.output, source, warnings=opened.warnings)
        self.reason = ""
        self._kernel = kernel
        self._signals = signals
        self._progress = progress
        self._limits = StopLimits.of(request)
        self._scrub = scrub
        self._times: tuple[int, int] | None = None
        self._not_records = 0
        self._began_ns = kernel.clock_ns()
        if request.cpu_limit_percent is not None:
            self.result.warnings.append(
                f"--cpu-limit is not needed: source {source} stops nothing"
            )

    def write(self, record: bytes) -> None:
        self.writer.write(record)

    def trailer(self, pid: int, tid: int) -> SampleId:
        first = self.specs[0]
        bits = first.attr.sample_type & int(TRAILER_BITS)
        return SampleId(pid, tid, identifier=first.ids[0], sample_type=bits)

    def note(self, found: Sequence[BuildId]) -> None:
        for entry in found:
            self.writer.note_build_id(entry.path, entry.build_id, kernel=entry.kernel)

    def delay(self, child: Command | None) -> None:
        until = self._kernel.clock_ns() + int(self.request.delay_s * 1e9)
        while (left := until - self._kernel.clock_ns()) > 0 and not self._signals.received:
            if child is not None and child.poll() is not None:
                return
            self.opened.wait(min(LONGEST_WAIT_S, left / 1e9))

    def begin(self) -> None:
        """Durations and rates count from now on."""
        self._began_ns = self._kernel.clock_ns()

    @property
    def elapsed_s(self) -> float:
        return (self._kernel.clock_ns() - self._began_ns) / 1e9

    def loop(self, child: Command | None) -> None:
        """Until something ends it; `reason` says what."""
        while not self.reason:
            self.opened.wait(self._patience())
            ended = child is not None and child.poll() is not None
            if self._round() and not self.reason:
                self.reason = self._limits.reached(
                    self.elapsed_s, self.result.samples, self.writer.bytes_written
                )
            if self._progress is not None:
                self._progress(self.result.samples, self.elapsed_s)
            if self._signals.received is not None and not self.reason:
                self.result.interrupted = True
                self.reason = self._signals.received.name
            elif (ended or not self.opened.live) and not self.reason:
                self.reason = "ended"
        if self.reason not in ("max-samples", "max-size"):
            self.last_round()

    def interrupt(self) -> None:
        """A KeyboardInterrupt got through: an end like that by a signal."""
        self.result.interrupted = True
        self.reason = "SIGINT"
        self.last_round()

    def last_round(self) -> None:
        """What is still in the rings, sampling being switched off."""
        if self.opened.live:
            self.opened.switch(on=False)
        self._round()

    def finish(self, reason: str) -> None:
        result = self.result
        result.elapsed_s = self.elapsed_s
        result.bytes_written = self.writer.bytes_written
        found: dict[str, Any] = {
            "samples": result.samples, "lost": result.lost, "throttled": result.throttled,
            "elapsed_s": result.elapsed_s, "interrupted": result.interrupted, "ended_by": reason,
            "achieved_hz": result.samples / result.elapsed_s if result.elapsed_s > 0 else None,
            "ring_pages": self.opened.data_pages, "ring_overruns": self.opened.overruns,
            "events": self._counted(),
        }  # fmt: skip
        if self._scrub is not None:
            found |= {"withheld_samples": self._scrub.scrubbed, "left_out": self._scrub.dropped}
            if self._scrub.dropped:
                result.warnings.append(
                    f"{self._scrub.dropped} samples were left out: their registers could not be "
                    "found, so that they could not be withheld"
                )
        if self._not_records:
            result.warnings.append(f"{self._not_records} bytes in the rings were no records")
        self.writer.finish(found, sample_time=self._times)
        result.bytes_written = self.writer.bytes_written

    def _counted(self) -> list[dict[str, Any]]:
        """Of each event, what part of its time it had a counter. Warns where that is not all."""
        told = []
        for spec, time in zip(self.specs, self.opened.counted_times(), strict=True):
            lacking = time.multiplexed_percent
            told.append({
                "name": spec.name, "time_enabled_ns": time.enabled_ns,
                "time_running_ns": time.running_ns, "multiplexed_percent": lacking,
            })  # fmt: skip
            if lacking is not None and lacking > 100 - WHOLE_PERCENT:
                self.result.warnings.append(
                    f"event '{spec.name}' was counted only {100 - lacking:.0f} % of the time: the "
                    "PMU has fewer counters than there are events, or something else holds them"
                )
        return told

    def _patience(self) -> float:
        limit = self.request.duration_s
        if limit is None:
            return LONGEST_WAIT_S
        return max(SHORTEST_WAIT_S, min(LONGEST_WAIT_S, limit - self.elapsed_s))

    def _round(self) -> bool:
        """Drains every ring once. False where a limit cut it short."""
        before = self.writer.bytes_written
        whole = self.opened.drain(self._take)
        if self.writer.bytes_written != before:
            self.writer.finished_round()
        return whole

    def _take(self, data: memoryview) -> bool:
        most = self.request.max_samples
        room = self.request.max_size_bytes
        count = tally(
            data,
            max_samples=None if most is None else most - self.result.samples,
            max_bytes=(
                None if room is None
                else room - self.writer.bytes_written - FINISHED_ROUND_BYTES
            ),
        )  # fmt: skip
        chunk = data[: count.cut_bytes]
        self.result.samples += count.samples
        self.result.lost += count.lost
        self.result.throttled += count.throttled
        if count.samples:
            self._note_times(chunk, count.first_sample, count.last_sample)
        self.writer.write(chunk if self._scrub is None else self._scrub(chunk))
        if count.cut_bytes == len(data):
            return True
        if most is not None and self.result.samples >= most:
            self.reason = "max-samples"
        elif room is not None:
            self.reason = "max-size"
        else:
            self._not_records += len(data) - count.cut_bytes
            return True
        return False

    def _note_times(self, chunk: memoryview, first: int, last: int) -> None:
        words = chunk.cast("Q")
        start = words[(first >> 3) + TIME_WORD]
        end = words[(last >> 3) + TIME_WORD]
        if self._times is not None:
            start, end = min(start, self._times[0]), max(end, self._times[1])
        self._times = (start, end)
