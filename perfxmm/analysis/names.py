"""The strings behind a batch's indices, handed to everything that shows or exports snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfxmm.analysis import textcolumns as text

# PERF_RECORD_MISC_CPUMODE_MASK values, include/uapi/linux/perf_event.h, Linux 7.3.
CPUMODE_NAMES: tuple[str, ...] = (
    "unknown", "kernel", "user", "hypervisor", "guest_kernel", "guest_user", "unknown", "unknown",
)  # fmt: skip
# SnapshotBatch.extra key: file offset of the attributed IP in its DSO, filled in by Recording.
CODE_OFFSET = "code_offset"


@dataclass(frozen=True, slots=True)
class NameTables:
    """String tables of a recording. The lists are live: they grow while batches are read.

    comms, symbols, dsos, build_ids: by the indices of a batch's comm, symbol, dso columns
    (build_ids[dso], "" where not known). events: by SnapshotBatch.event. gpr_names: by
    canonical register id. source: "sigtrap", "pmu", "nmi", or "" for a file of perf's own.
    """

    comms: Sequence[str]
    symbols: Sequence[str]
    dsos: Sequence[str]
    build_ids: Sequence[str]
    events: Sequence[str]
    gpr_names: tuple[str, ...]
    source: str = ""


@dataclass(slots=True)
class EncodedTable:
    """A live string table as bytes, each string encoded once.

    strings: the table; encode: str to bytes without 0 bytes; missing: what stands for index -1.
    """

    strings: Sequence[str]
    encode: Callable[[str], bytes]
    missing: bytes
    _encoded: dict[int, bytes] = field(default_factory=dict)

    def rows(self, indices: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """uint8 [n, width]: the string of each index, 0 bytes after shorter ones."""
        used, inverse = text.distinct(indices)
        return text.from_table([self.text(int(index)) for index in used], inverse)

    def text(self, index: int) -> bytes:
        if index < 0:
            return self.missing
        found = self._encoded.get(index)
        if found is None:
            found = self._encoded[index] = self.encode(self.strings[index])
        return found
