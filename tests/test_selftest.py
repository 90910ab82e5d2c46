"""The selftest: its program, its comparison, and the whole of it with a source that is here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from iced_x86 import Decoder, Mnemonic
from support.inprocess import run

import perfxmm.selftest as selftest_module
from perfxmm.errors import NotSupported
from perfxmm.recorder import record
from perfxmm.selftest import Comparison, Selftest, compare, selftest
from perfxmm.sources.kmodule.holder import Constants, Holder, assemble, constants
from perfxmm.xstate.components import classes_in
from perfxmm.xstate.cpuid import xgetbv


def _here() -> Constants:
    mask = xgetbv()
    if mask is None:
        pytest.skip("XCR0 cannot be read here")
    return constants(classes_in(mask))


def test_constants_are_all_different_and_none_is_zero() -> None:
    held = constants({"xmm", "ymm", "zmm", "opmask"})
    values = [*held.vectors.ravel().tolist(), *held.opmasks.tolist()]
    assert len(values) == len(set(values)) == 32 * 8 + 8
    assert 0 not in values
    assert (held.vectors.shape, held.opmasks.shape) == ((32, 8), (8,))


@pytest.mark.parametrize(
    ("classes", "widest", "registers", "qwords", "has_opmasks"),
    [
        ({"gpr", "xmm"}, "xmm", 16, 2, False),
        ({"xmm", "ymm"}, "ymm", 16, 4, False),
        ({"xmm", "ymm", "zmm", "opmask"}, "zmm", 32, 8, True),
        # A kernel that switched AVX-512 off in part: kmovq would fault.
        ({"xmm", "ymm", "opmask"}, "ymm", 16, 4, False),
    ],
)
def test_what_a_cpu_holds(
    classes: set[str], widest: str, registers: int, qwords: int, has_opmasks: bool
) -> None:
    held = constants(classes)
    assert (held.widest, held.registers, held.qwords, held.has_opmasks) == (
        widest, registers, qwords, has_opmasks,
    )  # fmt: skip


def test_a_cpu_without_vectors() -> None:
    with pytest.raises(NotSupported):
        constants({"gpr"})


@pytest.mark.parametrize(
    ("classes", "loads", "mask_loads", "leaves_by"),
    [
        ({"xmm"}, 16, 0, Mnemonic.RET),
        ({"xmm", "ymm"}, 16, 0, Mnemonic.VZEROUPPER),
        ({"xmm", "ymm", "zmm", "opmask"}, 32, 8, Mnemonic.VZEROUPPER),
    ],
)
def test_the_program_loads_every_register_and_then_touches_none(
    classes: set[str], loads: int, mask_loads: int, leaves_by: int
) -> None:
    code, loop = assemble(constants(classes))
    listing = [one.mnemonic for one in Decoder(64, code)]
    moves = (Mnemonic.MOVDQU, Mnemonic.VMOVDQU, Mnemonic.VMOVDQU64)
    assert listing[0] == Mnemonic.ENDBR64
    assert sum(one in moves for one in listing) == loads
    assert listing.count(Mnemonic.KMOVQ) == mask_loads
    inside = [one.mnemonic for one in Decoder(64, code[loop : loop + 5], ip=0)]
    assert inside == [Mnemonic.DEC, Mnemonic.JNE]
    assert listing[1 + loads + mask_loads + 2] == leaves_by


def test_the_holder_ends_with_its_block() -> None:
    with Holder(_here()) as holder:
        os.kill(holder.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(holder.pid, 0)


def test_every_register_of_a_real_recording(tmp_path: Path) -> None:
    held = _here()
    file = str(tmp_path / "held.perf.data")
    with Holder(held) as holder:
        record(pids=[holder.pid], source="sigtrap", output=file, max_samples=20, duration_s=20)
        loop = holder.loop
    found = compare(file, held, loop)
    assert found.snapshots == found.in_loop == found.believed >= 20
    wanted = {"xmm": held.registers, "ymm": held.registers, "zmm": held.registers, "opmask": 8}
    for name in ("ymm", "zmm"):
        if {"ymm": 4, "zmm": 8}[name] > held.qwords:
            del wanted[name]
    if not held.has_opmasks:
        del wanted["opmask"]
    assert found.registers == {name: n * found.believed for name, n in wanted.items()}
    assert (found.mismatches, found.examples) == (0, [])
    # The same recording against other constants: one bit in one qword of one register.
    other = held.vectors.copy()
    other[3, held.qwords - 1] ^= np.uint64(1 << 17)
    wrong = compare(file, Constants(other, held.opmasks, held.widest, held.has_opmasks), loop)
    assert wrong.mismatches == found.believed
    assert wrong.examples == [
        f"{held.widest}3 in {found.believed} of {found.believed} snapshots"
    ]
    # And with a loop elsewhere nothing is compared.
    assert compare(file, held, (0, 16)) == Comparison(snapshots=found.snapshots)


def test_from_the_command_line() -> None:
    _here()
    ran = run("module", "selftest", "--source", "sigtrap", "--seconds", "1", "--json")
    told = json.loads(ran.out)
    assert (told["schema"], told["verdict"], ran.code) == ("perfxmm.selftest/1", "passed", 0)
    assert (told["source"], told["module"], told["seconds"]) == ("sigtrap", None, 1.0)
    assert told["compared"]["mismatches"] == 0
    assert told["machine"]["kernel"] == os.uname().release


def test_verdicts_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    _here()
    monkeypatch.setattr(selftest_module, "record", lambda **_: None)
    for compared, verdict, code in (
        (Comparison(10, 8, 8, {"xmm": 128}), "passed", 0),
        (Comparison(10, 8, 8, {"xmm": 128}, 1, ["xmm0 in 1 of 8 snapshots"]), "failed", 1),
        (Comparison(10, 8, 0), "undecided", 4),
        (Comparison(), "undecided", 4),
    ):
        monkeypatch.setattr(selftest_module, "compare", lambda *_, given=compared: given)
        found = selftest("sigtrap", 0.1)
        assert (found.verdict, found.exit_code) == (verdict, code)


def test_a_verdict_on_a_screen() -> None:
    from rich.console import Console

    from perfxmm.views.module import selftest_verdict

    module = {"version": "1.0", "nmi": "ipi", "instruction": "xsaves", "ssp": False,
              "stats": {"hits": 9, "errors": 0}}  # fmt: skip
    found = Selftest("failed", "nmi", 5.0, "ymm", {"cpu": "A\x1b[2JB", "kernel": "6.1"}, module,
                     Comparison(7, 6, 5, {"xmm": 80}, 2, ["xmm3 in 2 of 5 snapshots"]), "0.1")
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(selftest_verdict(found.to_dict()))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert lines == [
        "selftest failed", "perfxmm 0.1", "cpu A\\x1b[2JB", "kernel 6.1", "source nmi",
        "module version 1.0, nmi ipi, instruction xsaves", "statistics hits 9", "held ymm",
        "snapshots 7 in 5 s, 6 within the loop, 5 believed", "registers xmm 80", "mismatches 2",
        "xmm3 in 2 of 5 snapshots",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "auto"), "--source 'auto' is not known"),
        (("--seconds", "0"), "--seconds must be greater than zero, not 0"),
        (("--nmi", "ipi"), "module selftest does not take --nmi"),
    ],
)
def test_what_selftest_does_not_take(arguments: tuple[str, ...], message: str) -> None:
    ran = run("module", "selftest", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"perfxmm: {message}")
