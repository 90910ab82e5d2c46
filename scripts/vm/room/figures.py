"""What runs measured: counts that must be zero, counts that must not, and sizes and cycles."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import perfxmm.recording

from .plan import WIDTHS
from .session import Outcome
from .truth import Tally, check, merged, read_holders

STATISTIC = re.compile(r"^== \S*/xsaves_nmi/stats/(\w+)\n(\d+)$", re.MULTILINE)
VALUE = re.compile(r"^== \S*/xsaves_nmi/(\w+)\n([^\n=][^\n]*)$", re.MULTILINE)
READS = re.compile(r"^== \S*/marker/parameters/reads\n(\d+)$", re.MULTILINE)


def statistics(state: bytes) -> Counter[str]:
    """The module's counters in a saved state; `marker_reads` is the trap's own."""
    text = state.decode("utf-8", "replace")
    counts = Counter({name: int(value) for name, value in STATISTIC.findall(text)})
    counts["marker_reads"] = sum(map(int, READS.findall(text)))
    return counts


def values(state: bytes) -> dict[str, str]:
    """What else the module said of itself: instruction, rfbm, ..."""
    return dict(VALUE.findall(state.decode("utf-8", "replace")))


def record_bytes(path: Path) -> int:
    """The commonest distance between two samples of a recording: the size of one. 0: no samples."""
    distances: Counter[int] = Counter()
    for batch in perfxmm.recording.open(path).snapshots(keep=("all",), columns=(), ordered=False):
        found, counts = np.unique(np.diff(np.sort(batch.file_offset)), return_counts=True)
        distances.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    return distances.most_common(1)[0][0] if distances else 0


@dataclass
class Cell:
    """All boots of one emulator, processor model and kernel, added up.

    guarded: the module's counters over the recordings with default options. unguarded: those with
    kernel hits opted in. open_tally: the recordings with the guard off. task_tally: those of
    one task beside another. slow_handlers: notes in the kernel log of an NMI handler that took
    long: the guest's clock runs on while a busy host lets QEMU wait.
    """

    emulator: str
    version: str
    model: str
    series: str
    release: str = ""
    module: str = ""
    boots: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    open_tally: Tally = field(default_factory=Tally)
    task_tally: Tally = field(default_factory=Tally)
    guarded: Counter[str] = field(default_factory=Counter)
    unguarded: Counter[str] = field(default_factory=Counter)
    worst_cycles: int = 0
    state: dict[str, str] = field(default_factory=dict)
    record_sizes: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    slow_handlers: int = 0
    warnings: list[str] = field(default_factory=list)
    cycles_asked: int = 0
    cycles_done: int = 0
    cycle_samples: int = 0
    cycles_silent: int = 0
    false_starts: int = 0
    hotplug: tuple[int, int] = (0, 0)
    pmu: str = ""
    soak_s: int = 0
    soak_bytes: int = 0
    soak_written: int = 0

    @property
    def snapshots(self) -> int:
        """Snapshots whose registers were compared: inside a region, at least XMM believed."""
        return self.tally.compared["xmm"]

    def add(self, outcome: Outcome) -> None:
        """Judge one boot's recordings and add what was found.

        Raises:
            ValueError: the guest's own lines are cut short.
        """
        files = outcome.files
        holders = read_holders(files.get("holders.json", b""), files.get("shadow.json", b""))
        self.boots += 1
        self.false_starts += outcome.false_starts
        self.release, self.module = outcome.release, outcome.module
        self.seconds += outcome.ended.seconds
        self.longest_s = max(self.longest_s, outcome.ended.seconds)
        recorder = int(files.get("recorder.txt", b"-1"))
        found = check(outcome.work / "perf.data", holders, recorder)
        self.tally = merged((self.tally, found))
        after = files.get("state-after", b"")
        counts = statistics(after)
        self.worst_cycles = max(self.worst_cycles, counts.pop("worst_cycles", 0))
        self.guarded.update(counts)
        self.state = values(after) or self.state
        if "kernel.data" in files:
            printed = b"".join(line + b"\n" for line in files.get("perf.txt", b"").splitlines()
                               if line.startswith(b'{"tid"'))
            found = check(outcome.work / "kernel.data", read_holders(printed))
            self.open_tally = merged((self.open_tally, found))
            self.unguarded.update(statistics(files.get("state-kernel", b"")))
        if "task.data" in files:
            found = check(outcome.work / "task.data", read_holders(files.get("task.txt", b"")))
            self.task_tally = merged((self.task_tally, found))
        for name, mask in WIDTHS.items():
            state = values(files.get(f"state-width-{name}", b""))
            # A processor without AVX-512 answers a wider mask with what it has.
            if int(state.get("rfbm", "0"), 0) == mask and (
                size := record_bytes(outcome.work / f"width-{name}.data")
            ):
                self.record_sizes[name] = size
        self.complaints += outcome.complaints
        self.slow_handlers += files.get("dmesg.txt", b"").count(b"took too long to run")
        self.warnings = sorted({*self.warnings, *outcome.warnings})
        if "cycles-done.txt" in files:
            asked, done, samples, silent = map(int, files["cycles-done.txt"].split())
            self.cycles_asked += asked
            self.cycles_done += done
            self.cycle_samples += samples
            self.cycles_silent += silent
        if "hotplug.txt" in files:
            asked, done, _ = map(int, files["hotplug.txt"].split())
            self.hotplug = (self.hotplug[0] + asked, self.hotplug[1] + done)
        if "pmu.txt" in files:
            self.pmu = files["pmu.txt"].decode("utf-8", "replace").strip().splitlines()[-1]
        if "soak-bytes.txt" in files:
            self.soak_bytes += int(files["soak-bytes.txt"])
            self.soak_written += statistics(files.get("state-soak", b""))["written"]

    def failures(self) -> list[str]:
        """Why this cell is not as it must be; empty where it is."""
        tally, found = self.tally, []
        wrong = {name: count for name, count in tally.wrong.items() if count}
        for count, what in (
            (sum(wrong.values()), f"registers believed and wrong: {wrong}"),
            (tally.strangers, "snapshots with another program's constants"),
            (tally.marked + tally.marker_bytes, "kernel markers in a recording made by default"),
            (tally.self_failures, "wrong values seen by the programs themselves"),
            (tally.damage, "damaged records"),
            (self.open_tally.marked_believed, "kernel markers believed with the guard off"),
            (self.open_tally.strangers_believed,
             "another program's constants believed with the guard off"),
            (sum(self.task_tally.wrong.values()), "wrong registers of one task"),
            (self.task_tally.strangers, "snapshots of its neighbour in a recording of one task"),
            (len(self.complaints), f"complaints in the kernel log: {self.complaints[:3]}"),
            (self.hotplug[0] - self.hotplug[1], "times that CPU 1 did not go off and on"),
            (self.cycles_asked - self.cycles_done, "load/record/unload cycles that failed"),
        ):
            if count:
                found.append(f"{count} {what}")
        if self.boots and not tally.compared["xmm"]:
            found.append("nothing was compared")
        if self.boots and not self.guarded["dropped_kernel"]:
            found.append("the guard dropped nothing: the trap was not set")
        return found

    def per_hit(self) -> tuple[float, float]:
        """Mean cycles of the instruction alone and of the whole handler, a written hit."""
        written = self.guarded["written"] or 1
        return self.guarded["save_cycles"] / written, self.guarded["cycles"] / written

    def to_dict(self) -> dict[str, Any]:
        save, handler = self.per_hit()
        return {
            "emulator": self.emulator, "version": self.version, "model": self.model,
            "kernel": self.series, "release": self.release, "module_key": self.module,
            "boots": self.boots, "false_starts": self.false_starts,
            "seconds": round(self.seconds, 1), "longest_boot_s": round(self.longest_s, 1),
            "compared_snapshots": self.snapshots, "truth": self.tally.to_dict(),
            "of_one_task": self.task_tally.to_dict(),
            "with_kernel_hits": self.open_tally.to_dict(), "module": dict(self.state),
            "guarded": dict(self.guarded), "unguarded": dict(self.unguarded),
            "save_cycles_per_hit": round(save, 1), "handler_cycles_per_hit": round(handler, 1),
            "worst_handler_cycles": self.worst_cycles, "record_bytes": self.record_sizes,
            "complaints": self.complaints, "slow_handler_notices": self.slow_handlers,
            "compiler_warnings": self.warnings,
            "cycles": {"asked": self.cycles_asked, "done": self.cycles_done,
                       "samples": self.cycle_samples, "silent": self.cycles_silent},
            "hotplug": {"asked": self.hotplug[0], "done": self.hotplug[1]}, "pmu": self.pmu,
            "soak": {"seconds": self.soak_s, "bytes": self.soak_bytes,
                     "written": self.soak_written},
            "failures": self.failures(),
        }


def lines(cell: Cell) -> list[str]:
    """A cell as a person reads it."""
    tally = cell.tally
    save, handler = cell.per_hit()
    compared = ", ".join(f"{name} {count}" for name, count in sorted(tally.compared.items()))
    rows = [
        f"{cell.emulator} {cell.version} ({cell.model}), kernel {cell.release}: "
        f"{cell.boots} boots, {cell.seconds:.0f} s",
        f"  {cell.state.get('instruction', '?')}, rfbm {cell.state.get('rfbm', '?')}: "
        f"{tally.snapshots} snapshots, compared {compared or 'none'}",
        f"  wrong {sum(tally.wrong.values())}, another program's {tally.strangers}, kernel markers "
        f"{tally.marked} (bytes of the file: {tally.marker_bytes}); the guard dropped "
        f"{cell.guarded['dropped_kernel']} kernel hits, {cell.guarded['dropped_kernel_fpu']} of "
        f"kernel FPU sections, {cell.guarded['marker_reads']} marker sections ran",
    ]
    if cell.open_tally.snapshots:
        rows.append(f"  guard off: {cell.open_tally.snapshots} snapshots, {cell.open_tally.marked} "
                    f"with the marker, {cell.open_tally.marked_believed} of those believed")
    if cell.task_tally.snapshots:
        rows.append(f"  one task: {cell.task_tally.snapshots} snapshots, compared "
                    f"{cell.task_tally.compared['xmm']}, of its neighbour "
                    f"{cell.task_tally.strangers}")
    rows.append(f"  cycles a hit: {save:.0f} the instruction, {handler:.0f} the handler, worst "
                f"{cell.worst_cycles}")
    if cell.record_sizes:
        rows.append("  bytes a record: "
                    + ", ".join(f"{name} {size}" for name, size in cell.record_sizes.items()))
    if cell.hotplug[0]:
        rows.append(f"  CPU 1 off and on: {cell.hotplug[1]} of {cell.hotplug[0]}")
    if cell.cycles_asked:
        rows.append(f"  load, record, unload: {cell.cycles_done} of {cell.cycles_asked}, "
                    f"{cell.cycle_samples} samples, none in {cell.cycles_silent} of them")
    if cell.soak_s:
        rows.append(f"  soak: {cell.soak_s} s, {cell.soak_written} snapshots, "
                    f"{cell.soak_bytes} bytes")
    rows += [f"  NOT AS IT MUST BE: {failure}" for failure in cell.failures()]
    return rows
