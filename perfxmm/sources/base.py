"""What every source of snapshots takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from perfxmm.kernel.attr import EventAttr

MMAP_PAGES = 64  # of each ring buffer, where nobody asks for more or less


@dataclass(frozen=True, slots=True)
class RequestedEvent:
    """One event to sample: the name as the user wrote it, and its attr.

    The attr has type, config*, bp_type, exclude_* flags, precise_ip and either sample_period or
    (with AttrFlag.FREQ) the frequency in sample_period. Sources fill in the rest.
    """

    name: str
    attr: EventAttr


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """What to record. Times in seconds, sizes in bytes; None means no limit.

    Exactly one kind of target: `command` (argv), `pids`, `tids`, or `system_wide`/`cpus`.
    classes: register classes of kernel.registers.CLASS_NAMES, already resolved (never "auto").
    sets: which register sets to ask for ("user", "intr"); sigtrap has one set only.
    default_events: nobody asked for `events` by name: a source with an event of its own takes that.
    frequency_hz, period: as asked for, None where they were not; the events' attrs have them too.
    """

    events: tuple[RequestedEvent, ...]
    classes: tuple[str, ...]
    output: str
    command: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    tids: tuple[int, ...] = ()
    system_wide: bool = False
    cpus: tuple[int, ...] = ()
    sets: tuple[str, ...] = ("user",)
    callchain: bool = False
    inherit: bool = True
    duration_s: float | None = None
    delay_s: float = 0.0
    max_samples: int | None = None
    max_size_bytes: int | None = None
    cpu_limit_percent: float | None = None
    mmap_pages: int = MMAP_PAGES
    engine: str = "auto"
    force: bool = False
    redact: str = ""
    unsafe_foreign: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    command_line: tuple[str, ...] = ()
    default_events: bool = False
    frequency_hz: int | None = None
    period: int | None = None


@dataclass(slots=True)
class RecordResult:
    """What came of it. exit_status: the command's own (128 + signal if killed), None for attach.

    warnings: one line each, for stderr.
    details: what else the source can say of the recording, as in the file's own metadata
        (Metadata.result): achieved_hz, period_factor, back_offs, unpaired, bare_samples, ...
    """

    path: str
    source: str
    samples: int = 0
    lost: int = 0
    throttled: int = 0
    bytes_written: int = 0
    elapsed_s: float = 0.0
    exit_status: int | None = None
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """One way to get snapshots. `why_not` returns None where the request can be served."""

    name: str

    def why_not(self, request: RecordRequest) -> str | None: ...

    def record(
        self, request: RecordRequest, *, progress: Callable[[int, float], None] | None = None
    ) -> RecordResult: ...
