"""A recording of a written program whose instructions prove what registers hold.

`work`, 256-bit vectors: instruction 0 knows nothing, each later one is known by those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import elfwriter as ew
from support.assembled import TEXT_OFFSET, TEXT_VADDR, Assembly, program
from support.sample_writer import SampleValues, SetValues, sample_record, stop_payload

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.dialects import M, SimdRequest
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, GPR_ID, GPR_IP
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec, Writer

BASE = 0x400000  # where the file's offset 0 is mapped
BUILD_ID = b"\x11" * 20
SAMPLE_TYPE = (
    SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
    | SampleType.PERIOD | SampleType.RAW | SampleType.REGS_USER
)  # fmt: skip
ATTR = EventAttr(
    type=PerfType.SOFTWARE, config=1, sample_period=1_000_000, sample_type=int(SAMPLE_TYPE),
    flags=int(AttrFlag.SAMPLE_ID_ALL | AttrFlag.EXCLUDE_KERNEL), sample_regs_user=CLASSIC_GPR_MASK,
    dialect=M,
    simd=SimdRequest(
        enabled=1, vec_qwords=8, vec_user=0xFFFFFFFF, pred_qwords=1, pred_user=0xFF),
)  # fmt: skip
IN_USE = 0xE7


def work() -> Assembly:
    """XOR of a general register, a zeroed vector, a copy of it, a cleared upper half, RET."""
    return (
        Assembly()
        .raw("31c0")  # 0: xor eax, eax
        .raw("c5f857c0")  # 1: vxorps xmm0, xmm0, xmm0
        .raw("c5f828c8")  # 2: vmovaps xmm1, xmm0
        .raw("c5f458d2")  # 3: vaddps ymm2, ymm1, ymm2
        .raw("c5fc1017")  # 4: vmovups ymm2, [rdi]
        .raw("c3")  # 5: ret
    )


def ip_of(address: int) -> int:
    """Where code at an address before relocation ran."""
    return BASE + address - TEXT_VADDR + TEXT_OFFSET


def words(**registers: Sequence[int]) -> list[list[int]]:
    """32 vectors of 8 words, distinct where not given: words(v0=[0] * 8)."""
    return [
        list(registers.get(f"v{n}", [1 << 60 | n << 8 | q for q in range(8)])) for n in range(32)
    ]


# What the registers are before each instruction of `work`, where it has run from its start.
TRUE = [
    {},
    {"ax": 0},
    {"ax": 0, "v0": [0] * 8},
    {"ax": 0, "v0": [0] * 8, "v1": [0] * 8},
    {"ax": 0, "v0": [0] * 8, "v1": [0] * 8, "v2": [7, 7, 7, 7, 0, 0, 0, 0]},
    {"ax": 0, "v0": [0] * 8, "v1": [0] * 8, "v2": [9, 8, 7, 6, 0, 0, 0, 0]},
]  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A sample at instruction `at` of `work` with the registers of instruction `of`.

    change: registers that differ from TRUE[of]. own_at: the instruction at the registers' own IP.
    """

    at: int
    of: int | None = None
    change: dict[str, object] = field(default_factory=dict)
    own_at: int | None = None


def sample(number: int, shot: Shot, body: Assembly) -> bytes:
    true = {**TRUE[shot.at if shot.of is None else shot.of], **shot.change}
    own = body.at[shot.at if shot.own_at is None else shot.own_at]
    gprs = {GPR_IP: ip_of(own), GPR_ID["AX"]: true.get("ax", 0x1234)}
    vectors = {name: value for name, value in true.items() if name[0] == "v"}
    return sample_record(ATTR, SampleValues(
        identifier=7, ip=ip_of(body.at[shot.at]), pid=100, tid=100,
        time_ns=1_000_000_000 + number * 1_000_000, period=1_000_000,
        raw=stop_payload(IN_USE), user=SetValues(
            abi=6, gprs=[
                gprs.get(bit, 0x1000 + bit) for bit in range(24) if CLASSIC_GPR_MASK >> bit & 1
            ],
            vectors=words(**vectors),  # type: ignore[arg-type]
            predicates=[[n + 1] for n in range(8)],
        ),
    ))  # fmt: skip


def write(
    directory: Path, shots: Sequence[Shot], *, build_id: bytes | None = BUILD_ID,
    body: Assembly | None = None,
) -> Path:
    """The recording; the program is beside it."""
    body = work() if body is None else body
    binary = ew.write(directory / "app", program([("work", body)]))
    metadata = Metadata(source="sigtrap", engine="perf", dialect="M", classes=["gpr", "zmm"])
    path = directory / "perf.data"
    writer = Writer(str(path), [EventSpec("task-clock:u", ATTR, (7,))], metadata, force=True)
    sid = encode.SampleId(100, 100, 1, 0, 7)
    writer.write(encode.comm_record(100, 100, "app", sid=sid))
    writer.write(encode.mmap2_record(
        100, 100, BASE + TEXT_OFFSET, 0x1000, TEXT_OFFSET, str(binary).encode(),
        build_id=build_id, sid=sid,
    ))
    for number, shot in enumerate(shots):
        writer.write(sample(number, shot, body))
    writer.finish({"samples": len(shots)})
    writer.close()
    return path
