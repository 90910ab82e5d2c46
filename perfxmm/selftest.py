"""Does a source deliver what a program really held? A verdict that can be shared.

A program with known constants in every register is sampled for some seconds; every register of
every snapshot that was taken within its loop and is believed must be the constant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import perfxmm.recording
from perfxmm import __version__
from perfxmm.coherence.verdicts import Verdict
from perfxmm.kernel.cpuinfo import CpuInfo, read_cpuinfo
from perfxmm.recorder import ALL_VERDICTS, record
from perfxmm.snapshots.batch import VERDICT_CLASSES, Bool, RegisterSet, SnapshotBatch
from perfxmm.sources.kmodule.holder import Constants, Holder, constants
from perfxmm.sources.kmodule.status import ModuleStatus, read_status
from perfxmm.xstate.components import classes_in
from perfxmm.xstate.cpuid import xgetbv

SECONDS = 5.0
_CLASS_QWORDS = {"xmm": 2, "ymm": 4, "zmm": 8}
_SHOWN_MISMATCHES = 8


@dataclass(slots=True)
class Comparison:
    """Counts. snapshots: all that were recorded. in_loop: with their IP in the loop. believed: of
    these, with at least one class `coherent`. registers: that were compared, by class. mismatches:
    of these, which were not the constant; examples: the first of them, in words.
    """

    snapshots: int = 0
    in_loop: int = 0
    believed: int = 0
    registers: dict[str, int] = field(default_factory=dict)
    mismatches: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Selftest:
    """Schema perfxmm.selftest/1. verdict: "passed", "failed", or "undecided" (nothing believed)."""

    verdict: str
    source: str
    seconds: float
    held: str
    machine: dict[str, str]
    module: dict[str, Any] | None
    compared: Comparison
    version: str = __version__

    @property
    def exit_code(self) -> int:
        return {"passed": 0, "failed": 1}.get(self.verdict, 4)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nothing that names the machine's owner."""
        return {"schema": "perfxmm.selftest/1", **asdict(self)}


def selftest(
    source: str = "nmi", seconds: float = SECONDS, *,
    on_source: Callable[[str], None] | None = None,
) -> Selftest:
    """Runs it. Blocks for `seconds`. Raises what `record` raises."""
    mask = xgetbv()
    cpu = read_cpuinfo()
    held = constants(cpu.classes if mask is None else classes_in(mask))
    # The recording holds registers: it goes where nobody else reads, and away at the end.
    with tempfile.TemporaryDirectory(prefix="perfxmm-selftest-") as folder, Holder(held) as holder:
        file = str(Path(folder) / "perf.data")
        record(pids=[holder.pid], source=source, output=file, duration_s=seconds,
               on_source=on_source)  # fmt: skip
        compared = compare(file, held, holder.loop)
    verdict = "undecided" if not compared.believed else "passed"
    if compared.mismatches:
        verdict = "failed"
    return Selftest(
        verdict, source, seconds, f"{held.widest}{', opmask' if held.has_opmasks else ''}",
        _machine(cpu), _module(read_status()) if source == "nmi" else None, compared,
    )  # fmt: skip


def compare(file: str, held: Constants, loop: tuple[int, int]) -> Comparison:
    """Every register of the believed snapshots of `file` with IP in `loop` against `held`."""
    found = Comparison()
    opened = perfxmm.recording.open(file)
    for batch in opened.snapshots(keep=ALL_VERDICTS):
        found.snapshots += len(batch)
        inside = (batch.ip >= np.uint64(loop[0])) & (batch.ip < np.uint64(loop[1]))
        found.in_loop += int(inside.sum())
        believed = np.zeros(len(batch), np.bool_)
        for registers in batch.sets.values():
            believed |= _compare_set(found, batch, registers, held, inside)
        found.believed += int(believed.sum())
    return found


def _compare_set(
    found: Comparison, batch: SnapshotBatch, registers: RegisterSet, held: Constants, inside: Bool
) -> Bool:
    """Rows of `inside` in which a vector class or the opmasks are believed."""
    any_believed = np.zeros(len(batch), np.bool_)
    for name, qwords in _CLASS_QWORDS.items():
        believed = _believed(registers, name) & inside & (registers.delivered_qwords >= qwords)
        any_believed |= believed
        low = 0 if name == "xmm" else qwords // 2
        for number in range(min(held.registers, registers.vectors.shape[1])):
            rows = believed & ((registers.vector_mask >> np.uint32(number)) & 1).astype(np.bool_)
            # Above what this CPU holds, and for 16 to 31 below 512 bits, there is nothing to be.
            wanted = held.vectors[number, low:qwords] if qwords <= held.qwords else 0
            wrong = (registers.vectors[rows, number, low:qwords] != wanted).any(axis=1)
            _count(found, name, int(rows.sum()), int(wrong.sum()), f"{name}{number}")
    if held.has_opmasks and registers.predicates.shape[1]:
        believed = _believed(registers, "opmask") & inside
        any_believed |= believed
        for number in range(registers.predicates.shape[1]):
            rows = believed & ((registers.predicate_mask >> np.uint8(number)) & 1).astype(np.bool_)
            wrong = registers.predicates[rows, number] != held.opmasks[number]
            _count(found, "opmask", int(rows.sum()), int(wrong.sum()), f"k{number}")
    return any_believed


def _believed(registers: RegisterSet, name: str) -> Bool:
    believed: Bool = registers.verdict[:, VERDICT_CLASSES.index(name)] == Verdict.COHERENT
    return believed


def _count(found: Comparison, name: str, compared: int, wrong: int, register: str) -> None:
    if not compared:
        return
    found.registers[name] = found.registers.get(name, 0) + compared
    found.mismatches += wrong
    if wrong and len(found.examples) < _SHOWN_MISMATCHES:
        found.examples.append(f"{register} in {wrong} of {compared} snapshots")


def _machine(cpu: CpuInfo) -> dict[str, str]:
    return {
        "cpu": cpu.model_name, "vendor": cpu.vendor, "family": str(cpu.family or ""),
        "model": str(cpu.model or ""), "kernel": cpu.kernel_release,
        "hypervisor": cpu.hypervisor or "none seen",
    }  # fmt: skip


def _module(status: ModuleStatus | None) -> dict[str, Any] | None:
    if status is None:
        return None
    plain = status.to_dict()
    kept = ("version", "nmi", "instruction", "hz", "period", "rfbm", "xcr0", "ssp", "stats")
    return {name: plain[name] for name in kept}
