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
    records: count by type name, of compressed ones and of those that came out of them;
    record_bytes: of all but the compressed. time_span: of all records and of samples, ns, None
    without times. cpus, threads: with sample counts. lost_records, lost_samples, throttled: counts.
    build_ids: path, build_id, and what they come from. unknown: what has no name here.
    damage: offset and what, by offset, the first 1,000 of each kind; damage_count: all there is.
    metadata: perfxmm's own, None where it did not write it.
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
    damage_count: int
    metadata: dict[str, Any] | None
    checked: dict[str, int]
    complete: bool
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Schema perfxmm.inspect/1."""
        found: dict[str, Any] = tame({"schema": SCHEMA, **asdict(self)})
        return found


def tame(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can say it: no NaN or infinity, no lone surrogates (an undecodable byte
    becomes the four characters `\\xff`), not nested without end.
    """
    if isinstance(value, str):
        return value if value.isascii() else _plain(value)
    if depth > _DEEPEST:
        return "nested too deeply"
    if isinstance(value, dict):
        return {_plain(str(key)): tame(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [tame(one, depth + 1) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _plain(text: str) -> str:
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, out of some JSON
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")
