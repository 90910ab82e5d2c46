"""A small recording as the `sigtrap` source writes it, of a program that the test writes too.

The program: `axpy` at 0x401000 (its first instruction adds packed doubles) and `dot` at 0x401100
(its first is AESENC). Dialect M, 256-bit vectors and general registers in the user set.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support import elfwriter as ew

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.dialects import M, SimdRequest
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, GPR_IP
from perfxmm.perfdata import encode, stopinfo
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer

AXPY, DOT = 0x401000, 0x401100
OTHER_WORD = 0x1111  # registers 1 to 15; a subnormal double
SAMPLE_TYPE = (
    SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
    | SampleType.PERIOD | SampleType.RAW | SampleType.REGS_USER
)  # fmt: skip
ATTR = EventAttr(
    type=PerfType.SOFTWARE, config=1, sample_period=1_000_000, sample_type=int(SAMPLE_TYPE),
    flags=int(AttrFlag.SAMPLE_ID_ALL | AttrFlag.EXCLUDE_KERNEL), sample_regs_user=CLASSIC_GPR_MASK,
    dialect=M, simd=SimdRequest(enabled=1, vec_qwords=4, vec_user=0xFFFF),
)  # fmt: skip
ALL_IN_USE = 0b111


@dataclass(frozen=True)
class Sample:
    """ip: of the event; own_ip: of the registers (None: the same). words: of register 0.

    abi: 0 leaves the registers out.
    """

    ip: int = AXPY
    own_ip: int | None = None
    words: Sequence[int] = (0x3FF0000000000000,) * 4
    tid: int = 100
    xstate_bv: int = ALL_IN_USE
    misc: int = 2
    abi: int = 6


def program(path: Path) -> Path:
    code = bytearray(b"\x90" * 0x1000)
    code[:4] = bytes.fromhex("c5fd58c1")  # vaddpd ymm0, ymm0, ymm1
    code[0x100:0x105] = bytes.fromhex("660f38dcc1")  # aesenc xmm0, xmm1
    symbols = [ew.Sym("axpy", 0x2000, 0x100), ew.Sym("dot", 0x2100, 0x100)]
    return ew.write(path, ew.simple(symbols, loads=[ew.Load(0x1000, 0x2000, bytes(code))]))


def sample_record(number: int, sample: Sample) -> bytes:
    own_ip = sample.ip if sample.own_ip is None else sample.own_ip
    gprs = [own_ip if bit == GPR_IP else 0x1000 + bit for bit in range(24)
            if CLASSIC_GPR_MASK >> bit & 1]  # fmt: skip
    stop = struct.pack(
        stopinfo.FORMAT, stopinfo.MAGIC, sample.xstate_bv, 0, int(stopinfo.StopFlag.PRESENT)
    )
    body = struct.pack(
        "<QQIIQIIQ", 7, sample.ip, 100, sample.tid, 1_000_000_000 + number * 1_000_000, 1, 0,
        1_000_000,
    )  # fmt: skip
    body += struct.pack("<I", len(stop)) + stop
    body += struct.pack("<Q", sample.abi)
    if not sample.abi:
        return encode.record(9, body, misc=sample.misc)
    body += struct.pack(f"<{len(gprs)}Q", *gprs)
    body += struct.pack("<4Q", 16, 4, 0, 0) + struct.pack("<4Q", *sample.words)
    body += struct.pack("<60Q", *([OTHER_WORD] * 60))
    return encode.record(9, body, misc=sample.misc)


def write(
    path: Path, samples: Sequence[Sample], *, comm: str = "app", binary: str | Path = "/bin/app",
    finish: bool = True, lost: int = 0, event: EventSpec | None = None,
    metadata: Metadata | None = None, first: Sequence[bytes] = (), build_id: bytes | None = None,
) -> Path:
    """The recording at `path`. finish=False: as a recorder leaves it that was killed.

    event, metadata: instead of the usual ones. first: side-band records in front of all others.
    build_id: of the binary, as recorded.
    """
    usual = Metadata(source="sigtrap", engine="perf", dialect="M", classes=["gpr", "ymm"])
    writer = Writer(
        str(path), [event or EventSpec("task-clock:u", ATTR, (7,))], metadata or usual, force=True
    )
    for one in first:
        writer.write(one)
    sid = encode.SampleId(100, 100, 1, 0, 7)
    writer.write(encode.comm_record(100, 100, comm.encode("utf-8", "surrogateescape"), sid=sid))
    writer.write(encode.comm_record(100, 101, "worker", sid=sid))
    name = str(binary).encode("utf-8", "surrogateescape")
    writer.write(encode.mmap2_record(
        100, 100, 0x401000, 0x1000, 0x1000, name, build_id=build_id, sid=sid,
    ))
    for number, one in enumerate(samples):
        writer.write(sample_record(number, one))
    if lost:
        writer.write(encode.lost_record(7, lost, sid))
    if finish:
        writer.finish({"samples": len(samples)})
    writer.close()
    return path
