"""Every vector and mask instruction that this CPU has is run, and what is claimed of it must hold.

Nothing here is told what an instruction does: registers are random, the CPU says what they are
afterwards, and the claims of `effects` are compared with that.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import iced_x86 as iced
import numpy as np
import numpy.typing as npt
import pytest
from support import run_instruction as run

from perfxmm.coherence.witness.check import Checklist, shapes_of
from perfxmm.coherence.witness.claims import FIRST_OPMASK, Kind, claims_of, first_word
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, GPR_ID, GPR_IP
from perfxmm.program import effects
from perfxmm.program.effects import apply
from perfxmm.program.values import PARTS, Register, Values
from perfxmm.snapshots.batch import RegisterSet

U64 = npt.NDArray[np.uint64]
needs_avx512 = pytest.mark.skipif(
    not run.can_run(), reason="the harness loads AVX-512 registers; this CPU lacks F, BW, DQ or VL"
)
ENCODED = ("AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", *(f"R{n}" for n in range(8, 16)))
REGISTERS: list[Register] = [
    *(("v", n) for n in range(32)), *(("k", n) for n in range(8)),
    *(("g", n) for n in range(16) if n not in (4, 7)),
]  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], U64, U64]:
    out = tmp_path_factory.mktemp("cpu") / "ran.npz"
    done = subprocess.run(
        [sys.executable, "-m", "support.run_instruction", "1", out],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return [bytes.fromhex(code) for code in found["codes"]], found["before"], found["after"]


def decoded(code: bytes) -> iced.Instruction:
    return iced.Decoder(64, code, ip=0x1000).decode()


def registers_of(words: U64) -> RegisterSet:
    """The harness's words as the columns of a batch."""
    n = len(words)
    ids = tuple(sorted(GPR_ID[name] for name in ENCODED))
    gprs = np.zeros((n, len(ids)), np.uint64)
    for encoding, name in enumerate(ENCODED):
        gprs[:, ids.index(GPR_ID[name])] = words[:, run.GPRS_AT + encoding]
    full = np.ones(n, np.uint64)
    return RegisterSet(
        "user", np.full(n, 6, np.uint8), ids, gprs,
        full * np.uint64(CLASSIC_GPR_MASK & ~(1 << GPR_IP)),
        words[:, : run.MASKS_AT].reshape(n, 32, 8), np.full(n, 0xFFFFFFFF, np.uint32),
        np.full(n, 32, np.uint8), np.full(n, 8, np.uint8),
        words[:, run.MASKS_AT : run.GPRS_AT], np.full(n, 8, np.uint8),
        predicate_mask=np.full(n, 0xFF, np.uint8),
    )  # fmt: skip


def wrong_instructions(codes: list[bytes], after: U64) -> tuple[list[str], dict[Kind, int]]:
    """Instructions that left something else than was claimed; claims by kind."""
    registers = registers_of(after)
    shapes, _ = shapes_of(registers, np.full(len(codes), 31, np.uint8))
    listed = Checklist()
    kinds: dict[Kind, int] = {}
    entries = []
    for code in codes:
        values = Values()
        apply(values, decoded(code))
        claims = claims_of(values, 0x1000)
        for claim in claims:
            kinds[claim.kind] = kinds.get(claim.kind, 0) + 1
        entries.append(listed.add(claims, shapes[0]))
    failed = listed.contradicted(
        registers, np.zeros(len(codes), np.uint64), np.arange(len(codes)), np.array(entries)
    )
    return [str(decoded(codes[row])) for row in np.flatnonzero(failed)], kinds


@needs_avx512
def test_what_is_claimed_holds(ran: tuple[list[bytes], U64, U64]) -> None:
    codes, _, after = ran
    wrong, kinds = wrong_instructions(codes, after)
    assert wrong == []
    assert len(codes) > 2000
    assert set(kinds) == {Kind.CONSTANT, Kind.EQUAL, Kind.REPEATS, Kind.MASKED}


@needs_avx512
def test_what_is_not_said_to_be_written_stays(ran: tuple[list[bytes], U64, U64]) -> None:
    codes, before, after = ran
    changed = []
    for row, code in enumerate(codes):
        values = Values()
        first = {register: list(values.get(register)) for register in REGISTERS}
        apply(values, decoded(code))
        for register, parts in first.items():
            word = first_word(register)
            if register[0] == "g":
                word = run.GPRS_AT + register[1]
            assert register[0] != "k" or word == FIRST_OPMASK + register[1]
            for at in range(PARTS[register[0]]):
                if values.get(register)[at] != parts[at]:
                    continue
                shift = np.uint64(32 * (at % 2))
                old, new = (int(w[row, word + at // 2] >> shift) for w in (before, after))
                if old & 0xFFFFFFFF != new & 0xFFFFFFFF:
                    changed.append((str(decoded(code)), register))
    assert changed == []


@needs_avx512
@pytest.mark.parametrize("mnemonic", ["VPSHUFD", "VMOVDDUP", "VPBROADCASTB", "VPADDD", "PXOR"])
def test_a_wrong_effect_is_noticed(
    ran: tuple[list[bytes], U64, U64], monkeypatch: pytest.MonkeyPatch, mnemonic: str,
) -> None:
    """The comparison can fail: an effect that claims ones is caught where they are not."""
    number = getattr(iced.Mnemonic, mnemonic)
    codes, _, after = ran
    rows = [row for row, code in enumerate(codes) if decoded(code).mnemonic == number]
    monkeypatch.setitem(
        effects._BY_MNEMONIC, number, lambda values, instruction: [1, 1, 1, 1])
    wrong, _ = wrong_instructions([codes[row] for row in rows], after[rows])
    assert wrong
