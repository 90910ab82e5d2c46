"""What the code says of snapshots, and what becomes of their verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.witness_recording import Shot, write

import perfxmm
from perfxmm.coherence import Verdict, reason_names
from perfxmm.coherence.witness.statement import Statement
from perfxmm.snapshots.batch import VERDICT_CLASSES, SnapshotBatch

GPR, XMM, YMM, ZMM, OPMASK = (1 << n for n in range(5))


def read(path: Path, **options: bool) -> SnapshotBatch:
    batches = list(perfxmm.open(path, **options).snapshots(keep=("all",)))
    assert len(batches) == 1
    return batches[0]


def statement(path: Path) -> Statement:
    return Statement.of(read(path), "user")


def verdicts(batch: SnapshotBatch) -> list[set[str]]:
    """The verdicts of each sample's classes."""
    return [
        {Verdict(code).label for code in row} for row in batch.sets["user"].verdict.tolist()
    ]


def code_reasons(batch: SnapshotBatch) -> list[str]:
    return [
        ",".join(name for name in reason_names(bits) if name.startswith("code-"))
        for bits in batch.sets["user"].reason.tolist()
    ]


def test_true_registers_are_proved_where_code_speaks(tmp_path: Path) -> None:
    found = statement(write(tmp_path, [Shot(at) for at in range(6)]))
    assert found.asked.tolist() == [31] * 6
    assert found.proved.tolist() == [
        0,  # the first instruction of a function proves nothing
        GPR,
        GPR | XMM | YMM | ZMM,  # a VEX write of 128 bits clears the rest
        GPR | XMM | YMM | ZMM,
        GPR | XMM | YMM | ZMM,  # v2: what is above 256 bits
        GPR | XMM | YMM | ZMM,
    ]
    assert not found.contradicted.any()
    assert not found.skid.any()


def test_proved_and_silent_snapshots_stay_coherent(tmp_path: Path) -> None:
    batch = read(write(tmp_path, [Shot(0), Shot(3)]))
    assert verdicts(batch) == [{"coherent"}, {"coherent"}]
    assert code_reasons(batch) == ["", "code-proved"]


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        ({"ax": 1}, GPR),
        ({"ax": 1 << 40}, GPR),
        ({"v0": [0, 1, 0, 0, 0, 0, 0, 0]}, XMM),
        ({"v0": [0, 0, 1, 0, 0, 0, 0, 0]}, YMM),
        ({"v0": [0, 0, 0, 0, 0, 0, 0, 1]}, ZMM),
        ({"v2": [7, 7, 7, 7, 1, 0, 0, 0]}, ZMM),
        ({"v1": [1, 0, 0, 0, 1, 0, 0, 0], "ax": 5}, GPR | XMM | ZMM),
    ],
)
def test_one_wrong_bit_is_a_contradiction(
    tmp_path: Path, change: dict[str, object], classes: int
) -> None:
    batch = read(write(tmp_path, [Shot(5, change=change)]))
    found = Statement.of(batch, "user")
    assert found.contradicted.tolist() == [classes]
    assert found.proved.tolist() == [(GPR | XMM | YMM | ZMM) & ~classes]
    # All classes are of one instant: one contradiction speaks against them all.
    assert verdicts(batch) == [{"unknown"}]
    assert code_reasons(batch) == ["code-contradicted"]


@pytest.mark.parametrize(
    ("at", "of", "steps"),
    [
        (1, 2, 0),  # XMM0 was zeroed since: nothing is contradicted, what came before still holds
        (4, 5, 0),  # a load from memory leaves nothing that is known
    ],
)
def test_a_skid_that_contradicts_nothing(tmp_path: Path, at: int, of: int, steps: int) -> None:
    found = statement(write(tmp_path, [Shot(at, of)]))
    assert (found.contradicted.tolist(), found.skid.tolist()) == ([0], [steps])


def test_registers_of_earlier_code_are_unknown(tmp_path: Path) -> None:
    """An IP that is ahead of the registers: what ran in between has left nothing."""
    batch = read(write(tmp_path, [
        Shot(3, 1), Shot(3, 2, {"v1": [3] * 8}), Shot(1, 0, {"ax": 5}), Shot(3),
    ]))  # fmt: skip
    assert verdicts(batch) == [{"unknown"}, {"unknown"}, {"unknown"}, {"coherent"}]
    assert Statement.of(batch, "user").skid.tolist() == [0, 0, 0, 0]


def late_program() -> object:
    """A register that is overwritten: constant 1, then 2, then 3."""
    from support.assembled import Assembly

    return (
        Assembly()
        .raw("b801000000")  # 0: mov eax, 1
        .raw("b802000000")  # 1: mov eax, 2
        .raw("90")  # 2: nop
        .raw("7505")  # 3: jne 5
        .raw("b803000000")  # 4: mov eax, 3
        .raw("b804000000")  # 5: mov eax, 4
        .raw("c3")  # 6: ret
    )


@pytest.mark.parametrize(
    ("at", "ax", "verdict", "steps"),
    [
        (1, 1, "coherent", 0),
        (1, 2, "late", 1),  # one instruction on
        (1, 3, "late", 4),  # the jump was not taken
        (1, 4, "late", 4),  # the jump was taken
        (2, 4, "late", 3),
        (1, 5, "unknown", 0),
        (2, 1, "unknown", 0),  # behind, not on
    ],
)
def test_a_skid_is_late(tmp_path: Path, at: int, ax: int, verdict: str, steps: int) -> None:
    body = late_program()
    path = write(tmp_path, [Shot(at, 0, {"ax": ax})], body=body)  # type: ignore[arg-type]
    batch = read(path)
    assert Statement.of(batch, "user").skid.tolist() == [steps]
    assert verdicts(batch) == [{verdict}]
    assert code_reasons(batch) == [
        {"coherent": "code-proved", "late": "code-skid", "unknown": "code-contradicted"}[verdict]
    ]


def test_registers_of_another_ip_are_judged_at_their_own(tmp_path: Path) -> None:
    """A late snapshot counts for its registers' IP, and is asked about there."""
    batch = read(write(tmp_path, [Shot(0, 3, own_at=3), Shot(0, 2, {"ax": 9}, own_at=2)]))
    found = Statement.of(batch, "user")
    assert found.proved.tolist()[0] == GPR | XMM | YMM | ZMM
    assert verdicts(batch) == [{"late"}, {"unknown"}]
    # The second has lost its verdict, and with it the claim to be of another IP.
    assert batch.symbol_offset is not None
    assert batch.symbol_offset.tolist() == [10, 0]


def test_a_file_that_is_not_proved_is_not_asked(tmp_path: Path) -> None:
    batch = read(write(tmp_path, [Shot(3, change={"ax": 7})], build_id=None))
    assert verdicts(batch) == [{"coherent"}]
    assert code_reasons(batch) == [""]


def test_code_checks_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, [Shot(3, change={"ax": 7})])
    assert verdicts(read(path, code_checks=False)) == [{"coherent"}]
    assert verdicts(read(path)) == [{"unknown"}]


def test_what_was_not_delivered_or_not_believed_is_not_compared(tmp_path: Path) -> None:
    """One entry a shape: fewer words, registers or classes mean fewer claims."""
    from perfxmm.coherence.witness.check import Checklist, Shape
    from perfxmm.coherence.witness.claims import FIRST_GPR, FIRST_OPMASK, Claim, Kind

    claims = [
        Claim(Kind.CONSTANT, 0), Claim(Kind.CONSTANT, 2), Claim(Kind.CONSTANT, 4),
        Claim(Kind.CONSTANT, 8 * 16), Claim(Kind.CONSTANT, FIRST_OPMASK + 1),
        Claim(Kind.CONSTANT, FIRST_GPR + 3), Claim(Kind.EQUAL, 8, other=FIRST_GPR + 3),
    ]  # fmt: skip
    everything = Shape((3,), 8, 0xFFFFFFFF, 8, 1 << 3, 0xFF, 31)
    listed = Checklist()

    def speaks(**fewer: object) -> int:
        entry = listed.add(claims, everything._replace(**fewer))
        return int(listed.speaks(np.array([entry]))[0])

    assert speaks() == GPR | XMM | YMM | ZMM | OPMASK
    assert speaks(qwords=4, vector_mask=0xFFFF) == GPR | XMM | YMM | OPMASK
    assert speaks(qwords=2, vector_mask=0xFFFF) == GPR | XMM | OPMASK
    assert speaks(vector_mask=0) == GPR | OPMASK
    assert speaks(predicate_mask=0b1) == GPR | XMM | YMM | ZMM
    assert speaks(gpr_mask=0) == XMM | YMM | ZMM | OPMASK
    assert speaks(believed=ZMM) == ZMM
    assert VERDICT_CLASSES == ("gpr", "xmm", "ymm", "zmm", "opmask")


def test_a_precise_event_shows_what_its_instruction_left(tmp_path: Path) -> None:
    """exact_ip: the instruction at the IP has retired, so the claims are those behind it."""
    from perfxmm.analysis.names import CODE_OFFSET
    from perfxmm.analysis.shown import Policy

    recording = perfxmm.open(write(tmp_path, [Shot(1, 2), Shot(1), Shot(5)]))
    batch, = recording.judged(Policy.of(("all",)))
    assert batch.dso is not None

    def said() -> Statement:
        return recording.witness.testify(
            batch, batch.sets["user"], batch.ip, batch.dso, batch.extra[CODE_OFFSET]  # type: ignore[arg-type]
        )

    assert said().proved.tolist() == [GPR, GPR, GPR | XMM | YMM | ZMM]
    batch.exact_ip[:] = True
    exact = said()
    assert exact.proved.tolist() == [GPR | XMM | YMM | ZMM, GPR, GPR | XMM | YMM | ZMM]
    assert exact.contradicted.tolist() == [0, XMM | YMM | ZMM, 0]
