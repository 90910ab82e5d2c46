"""Requests for the sigtrap source, and recordings as whole columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.batch import RegisterSet, SnapshotBatch
from perfxmm.snapshots.decode import Decoder
from perfxmm.sources.base import RecordRequest, RequestedEvent

TASK_CLOCK = 1


def event(name: str = "task-clock", *, hz: int = 0, **attr: Any) -> RequestedEvent:
    values: dict[str, Any] = {"type": PerfType.SOFTWARE, "config": TASK_CLOCK} | attr
    if hz:
        values |= {"sample_period": hz, "flags": int(AttrFlag.FREQ) | values.get("flags", 0)}
    return RequestedEvent(name, EventAttr(**values))


def request(
    output: Path | str, *command: str, hz: int = 997, classes: tuple[str, ...] = ("gpr", "xmm"),
    **more: Any,
) -> RecordRequest:
    more.setdefault("events", (event(hz=hz),))
    return RecordRequest(classes=classes, output=str(output), command=tuple(command), **more)


@dataclass
class Recorded:
    """A whole recording. counts: records by type."""

    reader: Reader
    batches: list[SnapshotBatch] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def result(self) -> dict[str, Any]:
        assert self.reader.metadata is not None
        return self.reader.metadata.result

    def column(self, name: str) -> np.ndarray:
        if not self.batches:
            return np.zeros(0, np.uint64)
        return np.concatenate([getattr(b, name) for b in self.batches])

    def registers(self, name: str) -> np.ndarray:
        """A column of the one register set."""
        return np.concatenate([getattr(self.one_set(b), name) for b in self.batches])

    def gpr(self, number: int) -> np.ndarray:
        return np.concatenate([self.one_set(b).gpr(number) for b in self.batches])

    @staticmethod
    def one_set(batch: SnapshotBatch) -> RegisterSet:
        (found,) = batch.sets.values()
        return found

    def __len__(self) -> int:
        return sum(len(b) for b in self.batches)


def load(path: Path | str) -> Recorded:
    reader = Reader(str(path))
    decoder = Decoder(reader.events, stop_info=True)
    recorded = Recorded(reader)
    for block in reader.blocks():
        recorded.counts.update(block.types.tolist())
        batch = decoder.decode(block)
        if len(batch):
            recorded.batches.append(batch)
    return recorded
