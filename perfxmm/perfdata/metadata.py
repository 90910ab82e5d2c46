"""What a perfxmm recording says of itself beyond what perf.data has a place for.

One JSON object. It stands twice: at the start of the file, in a gap between the attrs and the data
section that perf never looks at (so that a recorder that was killed leaves it behind), and, from a
clean finish on, as the feature section of bit FEATURE_BIT, far above perf's own, which perf skips.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from perfxmm.perfdata.snapshotinfo import SnapshotInfo

# perf's own features end near 32; the bitmap has 256 bits (tools/perf/util/header.h, Linux 7.3).
FEATURE_BIT = 248
# In front of the JSON in the gap: this magic, then its length as u64 (little-endian).
GAP_MAGIC = b"PERFXMM1"
SCHEMA = "perfxmm.recording/1"
# Key in Metadata.result of a recording that could not be written to its end: the message.
OUTPUT_ERROR = "output_error"


@dataclass(slots=True)
class Metadata:
    """One recording's own description. Empty strings, 0 and {} mean "not known".

    source: "sigtrap", "pmu" or "nmi". engine: "perf" or "interrupt" (sigtrap only).
    classes: register classes asked for, of kernel.registers.CLASS_NAMES.
    dialect: of the attrs in this file. xcr0: of the recording machine.
    xstate_layout: component number -> [offset, size_bytes] in the standard format.
    cpu_vendor, cpu_model: as in /proc/cpuinfo. hypervisor: e.g. "xen" where it matters.
    probes: what capability probing answered. options: the command line's options by name.
    opened_attrs: the attrs handed to the kernel, hex (they may differ from the file's).
    redact: "", "values" or "crypto". unsafe_foreign: values of foreign snapshots were kept.
    clock: clockid of the timestamps ("monotonic" or "perf").
    snapshots: with source nmi, what snapshotinfo.SnapshotInfo has.
    result: filled in at the end (samples, lost, throttled, achieved_hz, back_offs, ...).
    """

    schema: str = SCHEMA
    tool_version: str = ""
    source: str = ""
    engine: str = ""
    dialect: str = ""
    classes: list[str] = field(default_factory=list)
    xcr0: int = 0
    xstate_layout: dict[str, list[int]] = field(default_factory=dict)
    cpu_vendor: str = ""
    cpu_model: str = ""
    hypervisor: str = ""
    kernel_release: str = ""
    probes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    opened_attrs: list[str] = field(default_factory=list)
    redact: str = ""
    unsafe_foreign: bool = False
    clock: str = "monotonic"
    snapshots: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @staticmethod
    def from_json(data: bytes) -> Metadata:
        """Unknown keys are ignored: a newer perfxmm may write more. Raises ValueError."""
        loaded = json.loads(data)
        if not isinstance(loaded, dict) or not str(loaded.get("schema", "")).startswith("perfxmm."):
            raise ValueError("not a perfxmm metadata object")
        known = {f.name for f in fields(Metadata)}
        made = Metadata(**{k: v for k, v in loaded.items() if k in known})
        made._check()
        return made

    def _check(self) -> None:
        """Raises ValueError where a field is not of its type: the bytes may be anyone's."""
        empty = Metadata()
        for each in fields(Metadata):
            value, expected = getattr(self, each.name), type(getattr(empty, each.name))
            if type(value) is not expected:
                raise ValueError(f"{each.name} is not a {expected.__name__}")
        for name in ("classes", "opened_attrs"):
            if not all(isinstance(item, str) for item in getattr(self, name)):
                raise ValueError(f"{name} holds more than text")
        for component, place in self.xstate_layout.items():
            two = isinstance(place, list) and len(place) == 2
            if not component.isdecimal() or not two or not all(type(n) is int for n in place):
                raise ValueError("xstate_layout is not component -> [offset, size]")
        SnapshotInfo.from_dict(self.snapshots)
