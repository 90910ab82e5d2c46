"""Writes samples of xsaves_nmi:snapshot, its format, and recordings of it as perf does.

Deliberately its own arithmetic: nothing here reads a format or an image the way the package does.
Layout of tracing data: tools/perf/util/trace-event-info.c, Linux 6.1; of a format:
kernel/trace/trace_events.c.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from support import perfdata_writer as pw
from support.xsave_writer import Registers, compacted

NUMBER = 1742
# One word for each register, so that a value names the register and qword that it came from.
IN_USE = 0xE7  # x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM
USER_IN_NMI = 1 | 16
IPI = 2 << 8
COMPACTED, XSAVES, NEED_FPU_LOAD, KERNEL_THREAD = 4, 8, 2, 32
COMMON = (
    ("unsigned short", "common_type", 2, 0), ("unsigned char", "common_flags", 1, 0),
    ("unsigned char", "common_preempt_count", 1, 0), ("int", "common_pid", 4, 1),
)  # fmt: skip
FIELDS = (
    ("u64", "ip", 8, 0), ("u64", "sp", 8, 0), ("u32", "flags", 4, 0), ("u32", "tid", 4, 0),
    ("u32", "tgid", 4, 0), ("u32", "len", 4, 0), ("u64", "rfbm", 8, 0), ("u64", "xstate_bv", 8, 0),
    ("u64", "xcomp_bv", 8, 0), ("__data_loc u8[]", "xsave", 4, 0),
)  # fmt: skip
TRACEPOINT, RAW = 2, 1 << 10
SAMPLE_TYPE = pw.IDENTIFIER | pw.IP | pw.TID | pw.TIME | pw.CPU | pw.PERIOD | RAW
HEADER_PAGE = b"".join(
    b"\tfield: %s;\toffset:%d;\tsize:%d;\tsigned:%d;\n" % row
    for row in (
        (b"u64 timestamp", 0, 8, 0), (b"local_t commit", 8, 8, 1), (b"int overwrite", 8, 1, 1),
        (b"char data", 16, 4080, 1),
    )
)  # fmt: skip
FEATURE_TRACING_DATA, FEATURE_EVENT_DESC = 1, 12


@dataclass(frozen=True)
class Layout:
    """The tracepoint's fields: (type, name, size, signed) and where each begins.

    gap: bytes left free in front of every field. order: of FIELDS, by index.
    """

    fields: tuple[tuple[str, str, int, int], ...] = (*COMMON, *FIELDS)
    gap: int = 0
    number: int = NUMBER
    name: str = "snapshot"

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """Name -> (offset, size)."""
        at, found = 0, {}
        for _, name, size, _ in self.fields:
            if not name.startswith("common_"):
                at += self.gap
            at += -at % size
            found[name] = (at, size)
            at += size
        return found

    @property
    def end(self) -> int:
        return max(at + size for at, size in self.places.values())

    def text(self) -> bytes:
        lines = [f"name: {self.name}", f"ID: {self.number}", "format:"]
        for kind, name, size, signed in self.fields:
            at = self.places[name][0]
            lines.append(f"\tfield:{kind} {name};\toffset:{at};\tsize:{size};\tsigned:{signed};")
            if name == "common_pid":
                lines.append("")
        lines += ["", 'print fmt: "ip=%llx flags=%x", REC->ip, REC->flags', ""]
        return "\n".join(lines).encode()


PLAIN = Layout()


@dataclass
class Snapshot:
    """One record. None takes what the image says. place, room, said_len: lies about the image."""

    ip: int = 0x401000
    sp: int = 0x7FFC00000000
    flags: int | None = None
    tid: int = 101
    tgid: int = 100
    rfbm: int = IN_USE
    image: bytes = b""
    xstate_bv: int | None = None
    xcomp_bv: int | None = None
    place: int | None = None
    room: int | None = None
    said_len: int | None = None
    common_type: int | None = None
    # of the sample around it
    sample_ip: int | None = None
    sample_pid: int | None = None
    sample_tid: int | None = None
    misc: int = 2
    cpu: int = 1
    extra: dict[str, int] = field(default_factory=dict)

    @property
    def header(self) -> tuple[int, int]:
        if len(self.image) < 528:
            return 0, 0
        xstate_bv, xcomp_bv = struct.unpack_from("<QQ", self.image, 512)
        return xstate_bv, xcomp_bv


def registers(seed: int = 1) -> Registers:
    """Every word names its register, qword and the seed; opmasks likewise."""
    return Registers(
        [[seed << 32 | r << 8 | q | 1 << 60 for q in range(8)] for r in range(32)],
        [seed << 32 | k << 8 | 1 << 61 for k in range(8)],
    )


def snapshot(regs: Registers | None = None, *, saved: int = IN_USE, bv: int | None = None,
             aligned: frozenset[int] = frozenset(), **changes: object) -> Snapshot:  # fmt: skip
    """A sound one: XSAVES of `saved` in a user-mode NMI, components of `bv` in use."""
    image = compacted(
        regs or registers(), saved=saved, xstate_bv=saved if bv is None else bv, aligned=aligned
    )
    return replace(Snapshot(rfbm=saved, image=image), **changes)  # type: ignore[arg-type]


def raw(one: Snapshot, layout: Layout = PLAIN) -> bytes:
    """The raw data of one sample."""
    xstate_bv, xcomp_bv = one.header
    flags = one.flags
    if flags is None:
        flags = USER_IN_NMI | IPI | (COMPACTED | XSAVES if xcomp_bv >> 63 else 0)
    at = layout.places["xsave"][0]
    relative = any(k.startswith("__rel_loc") for k, name, _, _ in layout.fields if name == "xsave")
    place = layout.end if one.place is None else one.place
    if relative and one.place is None:
        place -= at + 4
    room = len(one.image) if one.room is None else one.room
    values = {
        "common_type": layout.number if one.common_type is None else one.common_type,
        "common_pid": one.tid, "ip": one.ip, "sp": one.sp, "flags": flags, "tid": one.tid,
        "tgid": one.tgid, "len": len(one.image) if one.said_len is None else one.said_len,
        "rfbm": one.rfbm, "xstate_bv": xstate_bv if one.xstate_bv is None else one.xstate_bv,
        "xcomp_bv": xcomp_bv if one.xcomp_bv is None else one.xcomp_bv,
        "xsave": room << 16 | place, **one.extra,
    }  # fmt: skip
    out = bytearray(layout.end)
    for name, (offset, size) in layout.places.items():
        out[offset : offset + size] = (values.get(name, 0) & (1 << 8 * size) - 1).to_bytes(
            size, "little"
        )
    return bytes(out) + one.image


def sample(number: int, one: Snapshot, layout: Layout = PLAIN, *, identifier: int = 7) -> bytes:
    """PERF_RECORD_SAMPLE of SAMPLE_TYPE with it; the kernel fills RAW up so that it is aligned."""
    data = raw(one, layout)
    data += bytes(-(4 + len(data)) % 8)
    pid = one.tgid if one.sample_pid is None else one.sample_pid
    tid = one.tid if one.sample_tid is None else one.sample_tid
    body = struct.pack(
        "<QQIIQIIQ", identifier, one.ip if one.sample_ip is None else one.sample_ip,
        pid & 0xFFFFFFFF, tid & 0xFFFFFFFF, 1_000_000_000 + 1000 * number, one.cpu, 0, 1,
    )  # fmt: skip
    return pw.record(pw.SAMPLE, body + struct.pack("<I", len(data)) + data, one.misc)


def attr(*, config: int = NUMBER, sample_type: int = SAMPLE_TYPE, size: int = 128) -> bytes:
    return pw.attr(sample_type, kind=TRACEPOINT, config=config, size=size)


def tracing_data(formats: Sequence[tuple[str, bytes]] = (("xsaves_nmi", PLAIN.text()),)) -> bytes:
    """formats: (system, format file), one system each."""
    def named(name: bytes, text: bytes) -> bytes:
        return name + b"\0" + struct.pack("<Q", len(text)) + text

    out = b"\x17\x08\x44tracing" + b"0.6\0" + bytes([0, 8]) + struct.pack("<I", 4096)
    out += named(b"header_page", HEADER_PAGE)
    out += named(b"header_event", b"# compressed entry header\n")
    out += struct.pack("<I", 0) + struct.pack("<I", len(formats))
    for system, text in formats:
        out += system.encode() + b"\0" + struct.pack("<I", 1)
        out += struct.pack("<Q", len(text)) + text
    out += struct.pack("<I", 0)  # kallsyms
    out += struct.pack("<I", 0)  # printk formats
    return out + struct.pack("<Q", 0)  # saved command lines


def event_desc(name: str, attr_bytes: bytes, ids: Sequence[int]) -> bytes:
    out = struct.pack("<II", 1, len(attr_bytes)) + attr_bytes
    return out + struct.pack("<I", len(ids)) + pw.string(name) + struct.pack(f"<{len(ids)}Q", *ids)


def file(
    records: Sequence[bytes], *, tracing: bytes | None = None, name: str = "xsaves_nmi:snapshot",
    attr_bytes: bytes | None = None, features: dict[int, bytes] | None = None,
) -> bytes:
    """A finished file. tracing: None writes the plain layout's, b"" none at all."""
    one = attr() if attr_bytes is None else attr_bytes
    found = {FEATURE_EVENT_DESC: event_desc(name, one, (7,))} if name else {}
    data = tracing_data() if tracing is None else tracing
    if data:
        found[FEATURE_TRACING_DATA] = data
    found |= features or {}
    return pw.PerfFile([(one, (7,))], list(records), found).build()


def pipe(records: Sequence[bytes], *, tracing: bytes | None = None) -> bytes:
    """The same as a stream: tracing data as a record with its payload behind it."""
    data = tracing_data() if tracing is None else tracing
    data += bytes(-len(data) % 8)
    head = pw.record(pw.HEADER_TRACING_DATA, struct.pack("<I", len(data)) + bytes(4))
    return pw.PerfFile([(attr(), (7,))], [head, data, *records]).build_pipe()
