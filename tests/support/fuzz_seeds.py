"""Small recordings of many kinds by the test writers: where fuzzing and mutations start from."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from backports import zstd
from support import perfdata_writer as pw
from support import sample_writer as sw
from support import snapshot_writer

from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, ReadFormat, SampleType
from perfxmm.kernel.dialects import O1, R2, Dialect, M, SimdRequest
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import FEATURE_BIT, GAP_MAGIC, Metadata

_ST = SampleType
_EVERY_FIELD = (
    _ST.IP | _ST.TID | _ST.TIME | _ST.ADDR | _ST.READ | _ST.CALLCHAIN | _ST.CPU | _ST.PERIOD
    | _ST.STREAM_ID | _ST.RAW | _ST.BRANCH_STACK | _ST.REGS_USER | _ST.STACK_USER | _ST.WEIGHT
    | _ST.DATA_SRC | _ST.IDENTIFIER | _ST.TRANSACTION | _ST.REGS_INTR | _ST.PHYS_ADDR | _ST.AUX
    | _ST.CGROUP | _ST.DATA_PAGE_SIZE | _ST.CODE_PAGE_SIZE
)  # fmt: skip
_GPRS = 0xFF0FFF
_PAUSE_NS = 1000


def compressed(records: bytes, *, kind: int = pw.COMPRESSED, piece_bytes: int = 60_000) -> bytes:
    """Records put into compressed ones, as `perf record -z` does it."""
    packed = zstd.compress(records)
    out = b""
    for at in range(0, len(packed), piece_bytes):
        piece = packed[at : at + piece_bytes]
        if kind == pw.COMPRESSED:
            out += pw.record(kind, piece)
        else:
            out += pw.record(kind, struct.pack("<Q", len(piece)) + piece + bytes(-len(piece) % 8))
    return out


def plain_records(samples: int = 12, first_ns: int = 1_000_000) -> list[bytes]:
    """COMM, MMAP2 and samples of the default attr of `perfdata_writer`, with rounds."""
    path = b"/bin/app".ljust(16, b"\0")
    mmap2 = struct.pack(
        "<IIQQQIIQQII", 1, 1, 0x1000, 0x1000, 0, 8, 1, 77, 0, 5, 2
    ) + path + struct.pack("<IIQ", 1, 1, first_ns)  # fmt: skip
    out = [pw.comm(first_ns), pw.record(pw.MMAP2, mmap2, misc=2)]
    for number in range(samples):
        # Every third one is late, as from another CPU's buffer.
        time = first_ns + _PAUSE_NS * (number - 2 * (number % 3 == 2))
        out.append(pw.sample(time, ip=0x1000 + 4 * number))
        if number % 4 == 3:
            out.append(pw.record(pw.FINISHED_ROUND))
    return out


def plain_file() -> bytes:
    features = {
        3: pw.string("host"), 4: pw.string("6.1.0"), 5: pw.string("6.1"), 6: pw.string("x86_64"),
        7: struct.pack("<II", 4, 4), 8: pw.string("a CPU"), 10: struct.pack("<Q", 1 << 20),
        11: struct.pack("<I", 2) + pw.string("perf") + pw.string("record"),
        12: struct.pack("<II", 1, 104) + pw.attr() + struct.pack("<I", 1) + pw.string("cycles")
        + struct.pack("<Q", 7),
        21: struct.pack("<QQ", 1, 2), 29: struct.pack("<IIQQ", 1, 1, 5, 6),
    }  # fmt: skip
    return pw.PerfFile(records=plain_records(), features=features).build()


def pipe_stream() -> bytes:
    update = struct.pack("<QQ", 2, 7) + b"cycles\0\0"
    head = [pw.record(pw.EVENT_UPDATE, update)]
    return pw.PerfFile(
        records=[*head, *plain_records()], features={6: pw.string("x86_64")}
    ).build_pipe()


def zstd_file(kind: int = pw.COMPRESSED) -> bytes:
    records = b"".join(plain_records(24))
    return pw.PerfFile(
        records=[compressed(records, kind=kind, piece_bytes=96), pw.record(pw.FINISHED_ROUND)],
        features={27: struct.pack("<IIIII", 1, 1, 1, 5, 1 << 20)},
    ).build()  # fmt: skip


def _set(attr: EventAttr, which: str, number: int) -> sw.SetValues:
    mask = attr.sample_regs_intr if which == "intr" else attr.sample_regs_user
    words = [0x1000 * number + bit for bit in range(mask.bit_count())]
    simd = attr.simd
    if not simd.enabled:
        return sw.SetValues(abi=2, gprs=words)
    vec = simd.vec_intr if which == "intr" else simd.vec_user
    pred = simd.pred_intr if which == "intr" else simd.pred_user
    return sw.SetValues(
        abi=6, gprs=words,
        vectors=[[number + r] * simd.vec_qwords for r in range(vec.bit_count())],
        predicates=[[r] * simd.pred_qwords for r in range(pred.bit_count())],
    )  # fmt: skip


def samples_of(attr: EventAttr, identifier: int, count: int) -> list[bytes]:
    """`count` samples with something in each field that the attr names."""
    out = []
    for number in range(count):
        values = sw.SampleValues(
            identifier=identifier, ip=0x1000 + number, pid=1, tid=1, time_ns=1000 + number, cpu=1,
            period=5, read_times=(7, 8), read_values=((1, identifier, 0), (2, 9, 1)),
            chain=(0xFFFFFFFFFFFFFF80, 0xFFFFFFFF81000000, 0xFFFFFFFFFFFFFE00, 0x1000),
            raw=b"\1\0\0\0rawbytes", branches=((1, 2, 3), (4, 5, 6)), branch_counters=(1, 2),
            user=_set(attr, "user", number), stack=b"S" * 16, stack_dyn=8, weight=3, data_src=4,
            transaction=5, intr=_set(attr, "intr", number) if number % 3 else sw.SetValues(abi=0),
            phys_addr=6, cgroup=7, data_page_size=4096, code_page_size=4096, aux=b"A" * 16,
        )  # fmt: skip
        out.append(sw.sample_record(attr, values))
    return out


def attrs() -> dict[str, EventAttr]:
    """Attrs of all dialects and with every sample field."""
    flags = int(AttrFlag.SAMPLE_ID_ALL)
    group = int(ReadFormat.GROUP | ReadFormat.ID | ReadFormat.LOST | ReadFormat.TOTAL_TIME_RUNNING)
    base = {"sample_period": 1000, "flags": flags, "sample_regs_intr": _GPRS,
            "sample_regs_user": _GPRS}  # fmt: skip
    found = {
        "legacy": EventAttr(
            sample_type=int(_ST.IP | _ST.TID | _ST.TIME | _ST.REGS_INTR), sample_period=1000,
            flags=flags, sample_regs_intr=_GPRS | 0xFFFFFFFF << 32,
        ),
        "every": EventAttr(
            sample_type=int(_EVERY_FIELD), read_format=group, branch_sample_type=1 << 17 | 1 << 19,
            **base,
        ),
    }  # fmt: skip
    simd: dict[str, tuple[Dialect, SimdRequest]] = {
        "m": (M, SimdRequest(enabled=1, vec_qwords=8, vec_intr=0xFFFFFFFF, vec_user=0xFFFF,
                             pred_qwords=1, pred_intr=0xFF)),
        "o1": (O1, SimdRequest(enabled=1, vec_qwords=4, vec_intr=0xFFFF, vec_user=0xFFFF)),
        "r2": (R2, SimdRequest(enabled=1, vec_qwords=8, vec_intr=0xFFFFFFFF, pred_qwords=1,
                               pred_intr=0xFF)),
    }  # fmt: skip
    for name, (dialect, request) in simd.items():
        kind = int(_ST.IP | _ST.TID | _ST.TIME | _ST.REGS_INTR | _ST.REGS_USER)
        found[name] = EventAttr(sample_type=kind, dialect=dialect, simd=request, **base)
    return found


def two_events() -> bytes:
    kinds = int(_ST.IDENTIFIER | _ST.IP | _ST.TID | _ST.TIME | _ST.PERIOD)
    one = EventAttr(sample_type=kinds, sample_period=1, flags=int(AttrFlag.SAMPLE_ID_ALL))
    two = EventAttr(
        sample_type=kinds | int(_ST.CALLCHAIN), sample_period=1, config=1,
        flags=int(AttrFlag.SAMPLE_ID_ALL),
    )  # fmt: skip
    mixed = [r for pair in zip(samples_of(one, 7, 6), samples_of(two, 8, 6), strict=True)
             for r in pair]  # fmt: skip
    return pw.PerfFile(
        attrs=[(attr_codec.encode(one).ljust(128, b"\0"), (7,)),
               (attr_codec.encode(two).ljust(128, b"\0"), (8,))],
        records=mixed,
    ).build()  # fmt: skip


def every_type() -> bytes:
    """One record of each kernel and tool type, its body long enough for what its type has."""
    body = struct.pack("<16Q", 1, 2, 3, 4, *([0x6161616161616100] * 12))
    sid = encode.SampleId(1, 1, 1, 0, 7)
    records = [
        encode.comm_record(1, 1, "app", sid=sid), encode.lost_record(7, 3, sid),
        encode.mmap2_record(1, 1, 0x1000, 0x1000, 0, b"/bin/app", sid=sid),
    ]  # fmt: skip
    skipped = (pw.SAMPLE, pw.COMPRESSED, pw.COMPRESSED2, 66, 71)
    records += [pw.record(kind, body, misc=2) for kind in range(1, 24) if kind not in skipped]
    records += [pw.record(kind, body) for kind in range(65, 86) if kind not in skipped]
    records += [
        pw.record(66, struct.pack("<I", 12)) + b"TRACINGDATA\0\0\0\0\0",
        pw.record(71, struct.pack("<QQQIIII", 16, 0, 0, 0, 0, 0, 0)) + b"A" * 16,
        pw.sample(5),
    ]
    return pw.PerfFile(records=records).build()


def own_metadata() -> bytes:
    """A recording by perfxmm itself: metadata in the gap and as a feature."""
    metadata = Metadata(source="sigtrap", engine="perf", dialect="L", classes=["gpr"]).to_json()
    gap = GAP_MAGIC + struct.pack("<Q", len(metadata)) + metadata
    gap += bytes(-len(gap) % 8)
    return pw.PerfFile(
        records=plain_records(4), gap=gap, features={FEATURE_BIT: metadata}
    ).build()


def recordings() -> dict[str, bytes]:
    """Name -> bytes of small recordings, none damaged."""
    found = {
        "plain": plain_file(), "pipe": pipe_stream(), "zstd": zstd_file(),
        "zstd2": zstd_file(pw.COMPRESSED2), "two-events": two_events(), "types": every_type(),
        "own": own_metadata(),
    }  # fmt: skip
    for name, attr in attrs().items():
        raw = attr_codec.encode(attr)
        records = [pw.comm(1), *samples_of(attr, 7, 10)]
        found[f"attr-{name}"] = pw.PerfFile(attrs=[(raw, (7,))], records=records).build()
    wide = b"".join(samples_of(attrs()["m"], 7, 6))
    found["zstd-wide"] = pw.PerfFile(
        attrs=[(attr_codec.encode(attrs()["m"]), (7,))], records=[compressed(wide)],
        features={27: bytes(20)},
    ).build()  # fmt: skip
    found["big-endian"] = big_endian()
    found["snapshots"], found["snapshots-pipe"] = snapshots(), snapshots(pipe=True)
    return found


def snapshots(*, pipe: bool = False) -> bytes:
    """Images of the nmi source, as perf records them; small ones, and one in the kernel."""
    ones = [
        snapshot_writer.snapshot(snapshot_writer.registers(n), saved=saved, ip=0x1000 + n)
        for n, saved in enumerate((0x7, 0x3, 0x27))
    ]
    ones.append(snapshot_writer.snapshot(saved=0x7, misc=1, flags=4 | 8 | 16))
    records = [snapshot_writer.sample(n, one) for n, one in enumerate(ones)]
    return snapshot_writer.pipe(records) if pipe else snapshot_writer.file(records)


def big_endian(samples: Sequence[int] = (1, 2, 3)) -> bytes:
    """A plain file as a big-endian machine writes it: IP, TID, TIME, no trailer."""
    attr = struct.pack(">IIQQQQQ", 1, 104, 1, 1000, 7, 0, 0).ljust(104, b"\0")
    ids = struct.pack(">Q", 7)
    table = attr + struct.pack(">QQ", 104, 8)
    records = struct.pack(">IHHII", 3, 0, 24, 1, 1) + b"app\0\0\0\0\0"
    for number in samples:
        records += struct.pack(">IHHQIIQ", 9, 2, 32, 0x1000, 1, 1, number)
    at = 104 + len(ids) + len(table)
    head = b"2ELIFREP" + struct.pack(
        ">8Q", 104, 120, 104 + len(ids), len(table), at, len(records), 0, 0
    )
    return head + bytes(32) + ids + table + records
