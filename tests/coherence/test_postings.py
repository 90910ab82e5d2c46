"""What the postings V2 to V4 of the SIMD series got wrong: tolerated, marked, never believed.

Which of them wrote a recording cannot be told, so of all of them the worst is assumed.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support import perfdata_writer as pw
from support import sample_writer as sw

from perfxmm import open as open_recording
from perfxmm.analysis.shown import Policy
from perfxmm.coherence import Verdict, reason_names
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.kernel.dialects import R2, SimdRequest
from perfxmm.snapshots.batch import RegisterSet

ATTR = EventAttr(
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.REGS_INTR),
    sample_regs_intr=0x100, dialect=R2, size=168,
    simd=SimdRequest(enabled=1, pred_qwords=1, vec_qwords=8, vec_intr=0xFFFFFFFF, pred_intr=0xFF),
)
IP = 0x401000
C, ABSENT, UNKNOWN = "coherent", "absent", "unknown"


def registers(
    said: tuple[int, int, int, int], *, vectors: int | None = None, predicates: int | None = None
) -> sw.SetValues:
    """A set whose header says `said`; vectors, predicates: what the payload really holds."""
    nr, qwords, nr_pred, _ = said
    return sw.SetValues(
        abi=6, gprs=[IP], said=said,
        vectors=[[1 + (r << 8) + q for q in range(qwords)]
                 for r in range(nr if vectors is None else vectors)],
        predicates=[[0xF0 + r] for r in range(nr_pred if predicates is None else predicates)],
    )  # fmt: skip


def judged(folder: Path, *sets: sw.SetValues, cpumode: int = 2) -> RegisterSet:
    records = [
        sw.sample_record(ATTR, sw.SampleValues(misc=cpumode, ip=IP, pid=5, tid=5, time_ns=at,
                                               intr=one))
        for at, one in enumerate(sets)
    ]  # fmt: skip
    path = folder / "perf.data"
    path.write_bytes(pw.PerfFile([(attr_codec.encode(ATTR), (1,))], records).build())
    recording = open_recording(path)
    (batch,) = recording.judged(Policy.of(("all",), unsafe_foreign=True))
    assert recording.damage == []
    return batch.sets["intr"]


def verdicts(found: RegisterSet, row: int = 0) -> tuple[str, ...]:
    return tuple(Verdict(code).label for code in found.verdict[row])


# header | verdicts of gpr, xmm, ymm, zmm, opmask | vectors left | notes that it must carry
HEADERS = [
    ("everything", (32, 8, 8, 1), (C, C, C, C, C), 0xFFFF, {"high-vectors-garbage"}),
    ("the upper 16 were missing", (16, 8, 8, 1), (C, C, C, C, UNKNOWN), 0xFFFF, {"payload-cut"}),
    ("the upper half of ZMM was", (32, 4, 8, 1), (C, C, C, ABSENT, C), 0xFFFF,
     {"reduced-initial", "high-vectors-garbage"}),
    ("the upper half of YMM was", (32, 2, 8, 1), (C, C, ABSENT, ABSENT, C), 0xFFFF,
     {"reduced-initial", "not-delivered"}),
    ("opmasks were", (32, 8, 0, 1), (C, C, C, C, ABSENT), 0xFFFF, {"reduced-initial"}),
    ("XMM was, though YMM may be live", (0, 8, 8, 1), (C, ABSENT, ABSENT, ABSENT, C), 0,
     {"not-delivered"}),
    ("nothing came", (0, 8, 0, 1), (C, ABSENT, ABSENT, ABSENT, ABSENT), 0, {"not-delivered"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expected", "left", "notes"), [row[1:] for row in HEADERS],
    ids=[row[0] for row in HEADERS],
)  # fmt: skip
def test_numbers_that_were_cut(
    said: tuple[int, int, int, int], expected: tuple[str, ...], left: int, notes: set[str],
    tmp_path: Path,
) -> None:
    found = judged(tmp_path, registers(said))
    assert verdicts(found) == expected
    assert int(found.vector_mask[0]) == left
    assert notes <= set(reason_names(int(found.reason[0])))
    if said[0] == 0:
        assert "reduced-initial" not in reason_names(int(found.reason[0]))
    for register in range(16 if left else 0):
        for word in range(said[1]):
            assert found.vectors[0, register, word] == 1 + (register << 8) + word


@pytest.mark.parametrize("qwords", [2, 4, 8])
def test_a_count_of_16_with_32_written(qwords: int, tmp_path: Path) -> None:
    """The record has room for 32: the opmasks are behind all of them. They are right, but a real
    kernel's record would have room for 16, so they are not believed."""
    found = judged(tmp_path, registers((16, qwords, 8, 1), vectors=32))
    assert verdicts(found)[4] == UNKNOWN
    assert int(found.vector_mask[0]) == 0xFFFF
    assert found.vectors[0, 15, 0] == 1 + (15 << 8)
    assert not found.vectors[0, 16:].any()
    assert found.predicates[0].tolist() == [0xF0 + r for r in range(8)]


def test_a_count_of_16_in_room_for_16(tmp_path: Path) -> None:
    """As such a kernel's buffer holds it: 32 vectors began to be written, the record ends where 16
    and 8 opmasks would; vector 16 stands in the opmasks' place."""
    values = registers((16, 8, 8, 1), vectors=17, predicates=0)
    found = judged(tmp_path, values, values)
    for row in (0, 1):
        assert verdicts(found, row) == (C, C, C, C, UNKNOWN)
        assert found.vectors[row, 15].tolist() == [1 + (15 << 8) + q for q in range(8)]
        assert found.predicates[row].tolist() == [1 + (16 << 8) + q for q in range(8)]


def test_the_declared_size_lies_about_the_structure() -> None:
    """VER9 says 168 although the structure has 176 bytes: tools may send either."""
    short = attr_codec.encode(ATTR)
    assert (len(short), struct.unpack_from("<I", short, 4)[0]) == (168, 168)
    for size in (168, 176):
        read = attr_codec.decode(attr_codec.encode(EventAttr(
            sample_type=ATTR.sample_type, sample_regs_intr=0x100, dialect=R2, simd=ATTR.simd,
            size=size,
        )))  # fmt: skip
        assert (read.dialect, read.simd) == (R2, ATTR.simd)
