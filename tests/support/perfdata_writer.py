"""A small perf.data writer of the tests' own: right files, and files wrong in chosen places.

It shares nothing with perfxmm.perfdata, so that an error there is not made twice.
Layout: tools/perf/Documentation/perf.data-file-format.txt, Linux 7.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

IP, TID, TIME, ADDR, ID, CPU, PERIOD = 1, 2, 4, 8, 64, 128, 256
STREAM_ID, IDENTIFIER = 512, 1 << 16
SAMPLE_ID_ALL = 1 << 18
COMM, EXIT, FORK, SAMPLE, MMAP2, LOST = 3, 4, 7, 9, 10, 2
HEADER_ATTR, HEADER_TRACING_DATA, FINISHED_ROUND, AUXTRACE = 64, 66, 68, 71
EVENT_UPDATE, HEADER_FEATURE, COMPRESSED, COMPRESSED2 = 78, 80, 81, 83


def record(kind: int, body: bytes = b"", misc: int = 0, size: int | None = None) -> bytes:
    """size: what the header says, where that is to be a lie."""
    return struct.pack("<IHH", kind, misc, 8 + len(body) if size is None else size) + body


def attr(
    sample_type: int = IP | TID | TIME, *, flags: int = SAMPLE_ID_ALL, size: int = 104,
    kind: int = 1, config: int = 1, regs_intr: int = 0,
) -> bytes:
    fixed = struct.pack("<IIQQQQQ", kind, size, config, 1000, sample_type, 0, flags)
    return (fixed + b"\0" * 48 + struct.pack("<Q", regs_intr)).ljust(size, b"\0")[:size]


def sample(time: int, *, ip: int = 0x1000, pid: int = 1, extra: bytes = b"") -> bytes:
    """A sample of the default attr: IP, TID, TIME."""
    return record(SAMPLE, struct.pack("<QIIQ", ip, pid, pid, time) + extra, misc=2)


def comm(time: int, name: bytes = b"a\0\0\0\0\0\0\0") -> bytes:
    """A COMM with the trailer of the default attr: TID, TIME."""
    return record(COMM, struct.pack("<II", 1, 1) + name + struct.pack("<IIQ", 1, 1, time))


def string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    raw += b"\0" * (-len(raw) % 64)
    return struct.pack("<I", len(raw)) + raw


@dataclass
class PerfFile:
    """attrs: (bytes, ids). The overrides replace what would be right."""

    attrs: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=lambda: [(attr(), (7,))])
    records: list[bytes] = field(default_factory=list)
    features: dict[int, bytes] = field(default_factory=dict)
    gap: bytes = b""
    attr_entry_size: int | None = None
    attrs_size: int | None = None
    data_offset: int | None = None
    data_size: int | None = None
    ids_offset: int | None = None

    def build(self) -> bytes:
        ids, table = b"", b""
        for raw, numbers in self.attrs:
            at = 104 + len(ids) if self.ids_offset is None else self.ids_offset
            table += raw + struct.pack("<QQ", at, 8 * len(numbers))
            ids += struct.pack(f"<{len(numbers)}Q", *numbers)
        data = b"".join(self.records)
        attrs_at = 104 + len(ids)
        data_at = attrs_at + len(table) + len(self.gap)
        entry = len(self.attrs[0][0]) + 16 if self.attrs else 120
        features_at = data_at + len(data) + 16 * len(self.features)
        sections, bodies, bits = b"", b"", 0
        for bit, body in sorted(self.features.items()):
            sections += struct.pack("<QQ", features_at + len(bodies), len(body))
            bodies += body
            bits |= 1 << bit
        head = b"PERFILE2" + struct.pack(
            "<8Q", 104, _or(self.attr_entry_size, entry), attrs_at,
            _or(self.attrs_size, len(table)), _or(self.data_offset, data_at),
            _or(self.data_size, len(data)), 0, 0,
        ) + bits.to_bytes(32, "little")  # fmt: skip
        return head + ids + table + self.gap + data + sections + bodies

    def build_pipe(self) -> bytes:
        out = b"PERFILE2" + struct.pack("<Q", 16)
        for raw, numbers in self.attrs:
            out += record(HEADER_ATTR, raw + struct.pack(f"<{len(numbers)}Q", *numbers))
        for bit, body in self.features.items():
            out += record(HEADER_FEATURE, struct.pack("<Q", bit) + body)
        return out + b"".join(self.records)


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given
