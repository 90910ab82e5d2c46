"""Damaged and hostile binaries: what is concluded from their code is nothing, or something, but
never an exception."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import elfwriter as ew
from support.assembled import DATA_VADDR, TEXT_OFFSET, Assembly, program

from perfxmm.coherence.witness.places import Code, Known, Place
from perfxmm.program.binaries import Binaries
from perfxmm.program.flow import Flow
from perfxmm.program.places import Places

BUILD_ID = b"\x11" * 20
HUGE = (1 << 64) - 1


def ask(path: Path, data: bytes) -> list[Known]:
    binaries = Binaries(Places())
    dso = binaries.intern(str(ew.write(path, data)), BUILD_ID)
    code = Code(Flow(binaries))
    return [
        code.known(Place(dso, TEXT_OFFSET + at, after)) for at in range(12)
        for after in (False, True)
    ]  # fmt: skip


def sound() -> bytes:
    body = Assembly().raw("31c0").raw("c5f857c0").raw("7402").raw("90").raw("90").raw("c3")
    rela = b"".join(n.to_bytes(8, "little") for n in (0x7000, 8, body.at[1]))
    return program(
        [("f", body)], constants=bytes(64), writable=bytes(64),
        raws=[ew.Raw(".rela.dyn", rela, kind="rela")],
    )  # fmt: skip


def test_the_sound_one_speaks(tmp_path: Path) -> None:
    assert sum(bool(known.claims) for known in ask(tmp_path / "app", sound())) >= 4


@settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_bytes_that_were_changed(tmp_path: Path, data: st.DataObject) -> None:
    image = bytearray(sound())
    places = data.draw(st.lists(
        st.tuples(st.integers(0, len(image) - 1), st.integers(0, 255)), min_size=1, max_size=12,
    ))  # fmt: skip
    for at, value in places:
        image[at] = value
    cut = data.draw(st.integers(0, len(image)))
    ask(tmp_path / "app", bytes(image[:cut] if data.draw(st.booleans()) else image))


@settings(
    max_examples=100, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(code=st.binary(min_size=1, max_size=200))
def test_code_of_any_bytes(tmp_path: Path, code: bytes) -> None:
    ask(tmp_path / "app", program([("f", Assembly().raw(code))]))


@pytest.mark.parametrize(("value", "size"), [
    (HUGE, 1), (HUGE - 4, 16), (0x2000, HUGE), (0x2000, 1 << 63), (1 << 63, 1 << 63), (0x2004, 0),
])  # fmt: skip
def test_symbols_with_absurd_places(tmp_path: Path, value: int, size: int) -> None:
    body = Assembly().raw("31c0").raw("90").raw("c3")
    ask(tmp_path / "app", program([("f", body)], extra_symbols=[ew.Sym("g", value, size)]))


@pytest.mark.parametrize("vaddr", [HUGE - 0xFFF, 1 << 63, (1 << 63) - 0x800])
def test_segments_at_the_end_of_the_address_space(tmp_path: Path, vaddr: int) -> None:
    code = bytes.fromhex("31c0488d0500000000c3").ljust(0x1000, b"\xcc")
    data = ew.simple(
        [ew.Sym("f", vaddr, 10)], loads=[ew.Load(0x1000, vaddr, code)],
        texts=[ew.Text(".text", 0x1000, vaddr, 0x1000)], build_id=BUILD_ID,
    )  # fmt: skip
    ask(tmp_path / "app", data)
    assert vaddr > DATA_VADDR
