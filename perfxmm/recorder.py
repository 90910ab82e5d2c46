"""`perfxmm.record`: turns options into a request, chooses a source and records.

The `record` verb is a thin coat of options over `record` here; a program calls it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from perfxmm.errors import UsageError
from perfxmm.kernel.events import Catalogue, ResolvedEvent, resolve
from perfxmm.sources.base import RecordRequest, RecordResult, RequestedEvent
from perfxmm.sources.classes import parse_classes
from perfxmm.sources.select import choose

# Odd, so as not to beat with timers. Meant to cost the target less than 5 %: that holds for sigtrap
# while a stop costs less than 100 us, see scripts/bench/record_overhead.py.
DEFAULT_HZ = {"sigtrap": 499, "pmu": 999, "nmi": 999}
DEFAULT_OUTPUT = "perf.data"
REDACTIONS = ("", "values", "crypto")
ALL_VERDICTS = ("coherent", "late", "entry", "torn", "foreign", "absent", "unknown")


def record(
    command: Sequence[str] = (),
    *,
    output: str = DEFAULT_OUTPUT,
    events: str | Sequence[str] = (),
    frequency_hz: int | None = None,
    period: int | None = None,
    pids: Sequence[int] = (),
    tids: Sequence[int] = (),
    user: str | None = None,
    system_wide: bool = False,
    cpus: str = "",
    regs: str = "auto",
    user_regs: str = "",
    intr_regs: str = "",
    source: str = "auto",
    engine: str = "auto",
    callchain: bool = False,
    inherit: bool = True,
    duration_s: float | None = None,
    delay_s: float = 0.0,
    max_samples: int | None = None,
    max_size_bytes: int | None = None,
    cpu_limit_percent: float | None = None,
    mmap_pages: int = 64,
    force: bool = False,
    redact: str = "",
    unsafe_foreign: bool = False,
    command_line: Sequence[str] = (),
    on_source: Callable[[str], None] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> RecordResult:
    """Sample `command`, or running `pids`/`tids`/`user`'s processes, or CPUs, into `output`.

    events: perf event strings; empty takes cycles where this machine counts them, else
        task-clock; source nmi has an event of its own.
    frequency_hz or period, not both; neither takes the source's default rate.
    regs: "auto" or classes, as in `--regs`; user_regs and intr_regs name the set as perf does.
    source: "auto", "pmu", "sigtrap" or "nmi". engine: "auto", "perf" or "interrupt" (sigtrap).
    redact: "", "values" or "crypto".
    on_source: called once with one line that says which source was taken and why.
    progress: called some times a second with (samples, seconds).

    Blocks until the command ends, a limit is reached or KeyboardInterrupt arrives (a clean end:
    the result says `interrupted`). Returns what was recorded. Raises UsageError, NotSupported,
    PermissionDenied, TargetError, OutputError.
    """
    if isinstance(command, str):
        raise UsageError(
            "command must be a sequence of words, not one string",
            next_step="For example: record(['./app', '--option']).",
        )
    _check_target(command, bool(pids) or bool(tids) or user is not None, system_wide or bool(cpus))
    if frequency_hz is not None and period is not None:
        raise UsageError("a frequency (-F) and a period (-c) exclude one another")
    _check_numbers({
        "-F": frequency_hz, "-c": period, "--duration": duration_s, "-m": mmap_pages,
        "--max-samples": max_samples, "--max-size": max_size_bytes,
        "--cpu-limit": cpu_limit_percent,
    })  # fmt: skip
    if delay_s < 0:
        raise UsageError(f"-D must not be negative, not {delay_s}")
    if mmap_pages & (mmap_pages - 1):
        raise UsageError(f"-m must be a power of two, not {mmap_pages}")
    if redact not in REDACTIONS:
        raise UsageError(f"unknown redaction '{redact}'", next_step="Take 'values' or 'crypto'.")
    if not output:
        raise UsageError("the output file has no name", next_step="Give one: -o FILE.")
    sets, classes = _registers(regs, user_regs, intr_regs)
    all_pids = (*pids, *_pids_of(user)) if user is not None else tuple(pids)
    request = RecordRequest(
        events=(), classes=classes or (), output=output, command=tuple(command), pids=all_pids,
        tids=tuple(tids), system_wide=system_wide, cpus=_cpus(cpus), sets=sets,
        callchain=callchain, inherit=inherit, duration_s=duration_s, delay_s=delay_s,
        max_samples=max_samples, max_size_bytes=max_size_bytes,
        cpu_limit_percent=cpu_limit_percent, mmap_pages=mmap_pages, engine=engine, force=force,
        redact=redact, unsafe_foreign=unsafe_foreign, command_line=tuple(command_line),
        default_events=not events, frequency_hz=frequency_hz, period=period,
        options={
            "events": [events] if isinstance(events, str) else list(events), "regs": regs,
            "user_regs": user_regs, "intr_regs": intr_regs, "source": source, "engine": engine,
            "frequency_hz": frequency_hz, "period": period, "pids": list(all_pids),
            "tids": list(tids), "system_wide": system_wide, "cpus": cpus,
            "callchain": callchain, "inherit": inherit, "duration_s": duration_s,
            "delay_s": delay_s, "max_samples": max_samples, "max_size_bytes": max_size_bytes,
            "cpu_limit_percent": cpu_limit_percent, "redact": redact,
        },
    )  # fmt: skip
    resolved = _events([events] if isinstance(events, str) and events else list(events))
    choice = choose(replace(request, events=_requested(resolved)), source, classes)
    rated = [
        event.with_rate(
            period=period, frequency=frequency_hz,
            default_frequency=DEFAULT_HZ[choice.source.name],
        )
        for event in resolved
    ]  # fmt: skip
    request = replace(
        request, events=_requested(rated), classes=choice.classes, sets=choice.sets
    )
    if on_source is not None:
        on_source(choice.line)
    return choice.source.record(request, progress=progress)


def archive_binaries(recording: str) -> tuple[int, list[str]]:
    """Keeps the binaries that samples of `recording` fell into beside it.

    Returns how many are kept, and the paths that could not be (no build id, changed since,
    unreadable).
    """
    import perfxmm.recording
    from perfxmm.program import archive

    opened = perfxmm.recording.open(recording)
    hit: set[int] = set()
    for batch in opened.snapshots(columns=(), keep=ALL_VERDICTS):
        if batch.dso is not None:
            hit.update(int(index) for index in set(batch.dso.tolist()) if index >= 0)
    binaries = ((opened.dsos[index], bytes.fromhex(opened.build_ids[index]))
                for index in sorted(hit))  # fmt: skip
    return archive.keep(binaries, archive.directory_of(recording))


def _check_target(command: Sequence[str], running: bool, by_cpu: bool) -> None:
    # A command together with CPUs means, as with perf: sample the CPUs while the command runs.
    if running and (command or by_cpu):
        raise UsageError(
            "running processes (-p, -t, -u) exclude a command and CPUs (-a, -C)"
        )
    if not command and not running and not by_cpu:
        raise UsageError(
            "nothing to record",
            next_step="Give a command (perfxmm record -- ./app), a process (-p PID), a thread "
            "(-t TID), or a whole machine (-a).",
        )


def _check_numbers(values: dict[str, float | int | None]) -> None:
    for option, value in values.items():
        if value is not None and value <= 0:
            raise UsageError(f"{option} must be greater than zero, not {value}")


def _registers(
    regs: str, user_regs: str, intr_regs: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Register sets asked for by name (empty: the source's own) and classes (None: auto)."""
    if not user_regs and not intr_regs:
        return (), parse_classes(regs)
    if regs not in ("", "auto"):
        raise UsageError("--regs and --user-regs/--intr-regs exclude one another")
    sets = tuple(name for name, text in (("intr", intr_regs), ("user", user_regs)) if text)
    asked = {parse_classes(text) for text in (user_regs, intr_regs) if text}
    if len(asked) > 1:
        raise UsageError(
            "--user-regs and --intr-regs must name the same classes",
            why="a sample has one vector width for both sets",
        )
    return sets, asked.pop()


def _pids_of(user: str) -> tuple[int, ...]:
    from perfxmm.kernel.maps import processes_of, user_id

    found = processes_of(user_id(user))
    if not found:
        raise UsageError(f"user '{user}' has no running process")
    return found


def _cpus(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    from perfxmm.kernel.maps import check_cpus, parse_cpu_list

    return check_cpus(parse_cpu_list(text, where="-C"))


def _events(texts: Sequence[str]) -> list[ResolvedEvent]:
    from perfxmm.kernel.pybinding import HERE

    catalogue = Catalogue(vendor=HERE.encodings)
    wanted = texts or ["cycles" if catalogue.cores else "task-clock"]
    return [event for text in wanted for event in resolve(text, catalogue)]


def _requested(events: Sequence[ResolvedEvent]) -> tuple[RequestedEvent, ...]:
    return tuple(RequestedEvent(event.name, event.attr) for event in events)
