"""What `perfxmm inspect` found out about a recording, as plain values fit for JSON.

Strings are as the file has them (undecodable bytes as surrogates): whoever shows them escapes
them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = "perfxmm.inspect/1"
_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Inspection:
    """One recording seen from outside; schema perfxmm.inspect/1 describes every part.

    file: name for messages. header: magic, byte_order, mode, sections, finished, compressed.
    features: by perf's name, lower case: bit, offset, bytes, value (None where raw) and text, the
    lines that perf prints. events: in file order, with attr, dialect and samples.
    records: count by type name. record_bytes: what they take. packed_records: those that only the
    file has, unpacked before they are read. time_span: of all records and of samples, ns, None
    without times. cpus, threads: with sample counts. lost_records, lost_samples, throttled: counts.
    build_ids: path, build_id, and where they stand. unknown: what has no name here.
    damage: offset and what, by offset. metadata: perfxmm's own, None where it did not write it.
    checked: samples and bytes that were decoded too, not only counted.
    notes: what else there is to say, in words.
    """

    file: str
    header: dict[str, Any]
    features: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    records: dict[str, int]
    record_total: int
    record_bytes: int
    time_span: dict[str, Any] | None
    cpus: list[dict[str, int]]
    threads: list[dict[str, Any]]
    lost: int
    lost_records: int
    lost_samples: int
    throttled: int
    unthrottled: int
    build_ids: list[dict[str, str]]
    unknown: dict[str, Any]
    damage: list[dict[str, Any]]
    metadata: dict[str, Any] | None
    checked: dict[str, int]
    complete: bool
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Schema perfxmm.inspect/1."""
        found = {"schema": SCHEMA, **asdict(self)}
        found["metadata"] = tame(self.metadata)
        return found


def tame(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can say it: no NaN or infinity, not nested without end."""
    if depth > _DEEPEST:
        return "nested too deeply"
    if isinstance(value, dict):
        return {str(key): tame(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [tame(one, depth + 1) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
