"""Which instructions surely ran before an address, on files written for the purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import elfwriter as ew
from support.assembled import TEXT_OFFSET, TEXT_VADDR, Assembly, program

from perfxmm.program.binaries import Binaries
from perfxmm.program.elf import parse_elf
from perfxmm.program.entrypoints import entry_points
from perfxmm.program.flow import Flow, Function
from perfxmm.program.places import Places

BUILD_ID = b"\x11" * 20
# Single bytes: what stands where no instruction matters.
NOP, RET, INT3 = "90", "c3", "cc"


def flow_of(path: Path, data: bytes, build_id: bytes | None = BUILD_ID) -> tuple[Flow, int]:
    ew.write(path, data)
    binaries = Binaries(Places())
    return Flow(binaries), binaries.intern(str(path), build_id)


def offset_of(address: int) -> int:
    return address - TEXT_VADDR + TEXT_OFFSET


def function_of(
    tmp_path: Path, body: Assembly, *others: tuple[str, Assembly], **options: object
) -> tuple[Function | None, str]:
    data = program([("f", body), *others], **options)  # type: ignore[arg-type]
    flow, dso = flow_of(tmp_path / "app", data)
    return flow.function(dso, offset_of(body.at[-1]))


def line_starts(function: Function, body: Assembly) -> list[int]:
    """Index of the instruction at which each instruction's straight line begins."""
    return [body.at.index(function.line(address)) for address in body.at]


def test_nothing_jumps_there_so_all_of_it_ran(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw("31c0").raw(NOP).raw(RET)
    function, why = function_of(tmp_path, body)
    assert (why, function is not None) == ("", True)
    assert function is not None
    assert list(function.starts) == body.at
    assert line_starts(function, body) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("raw", "starts"),
    [
        ("7502", [0, 0, 0, 3, 3]),  # jne to instruction 3: fall-through is known, the target not
        ("eb02", [0, 0, 2, 3, 3]),  # jmp over instruction 2
        ("e800000000", [0, 0, 2, 2, 2]),  # call: nothing is known behind it
        ("ffd0", [0, 0, 2, 2, 2]),  # call rax
        ("0f05", [0, 0, 2, 2, 2]),  # syscall
        ("cd80", [0, 0, 2, 2, 2]),  # int 0x80
        ("f30f1efa", [0, 1, 1, 1, 1]),  # endbr64: an indirect jump may lead there
        ("0f0b", [0, 0, 2, 2, 2]),  # ud2
        ("ff2500000000", [0, 0, 2, 2, 2]),  # jmp through a slot: a tail call, and no jump table
    ],
)  # fmt: skip
def test_where_lines_begin_anew(tmp_path: Path, raw: str, starts: list[int]) -> None:
    body = Assembly().raw(NOP).raw(raw).raw("31c0").raw(NOP).raw(RET)
    function, why = function_of(tmp_path, body)
    assert why == ""
    assert function is not None
    assert line_starts(function, body) == starts


def test_a_jump_back_begins_a_line_at_its_target(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw("31c0").raw(NOP).raw("75fb").raw(RET)  # jne to instruction 1
    function, _ = function_of(tmp_path, body)
    assert function is not None
    assert line_starts(function, body) == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("bodies", "why"),
    [
        (["ffe0"], "it has an indirect jump"),
        (["ff24c500000000"], "it has an indirect jump"),
        (["c7f800000000"], "it uses transactions"),
        (["06"], "bytes in it are no instructions"),  # push es: invalid in 64-bit code
        (["7501", "b890909090"], "a jump leads into the middle of an instruction"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_followed(tmp_path: Path, bodies: list[str], why: str) -> None:
    body = Assembly().raw(NOP)
    for raw in bodies:
        body.raw(raw)
    body.raw(RET)
    assert function_of(tmp_path, body) == (None, why)


def test_a_jump_past_a_lock_prefix_is_one_to_the_instruction(tmp_path: Path) -> None:
    """As C libraries have it, to leave the prefix out while there is one thread."""
    body = Assembly().raw(NOP).raw("7401").raw("f00fb10b").raw(NOP).raw(RET)
    function, why = function_of(tmp_path, body)
    assert (why, function is not None) == ("", True)
    assert function is not None
    assert line_starts(function, body) == [0, 0, 2, 2, 2]


def test_jumps_from_elsewhere_in_the_file(tmp_path: Path) -> None:
    """The cold part of a function jumps back into it, by 32 bits."""
    body = Assembly().raw(NOP).raw("31c0").raw(NOP).raw(RET)
    cold = Assembly(TEXT_VADDR + 0x400)
    cold.raw(NOP).raw(b"\xe9" + (body.at[1] - (cold.here + 5)).to_bytes(4, "little", signed=True))
    function, _ = function_of(tmp_path, body, ("f.cold", cold))
    assert function is not None
    assert line_starts(function, body) == [0, 1, 1, 1]


def test_short_jumps_from_a_neighbour_and_from_bytes_of_no_symbol(tmp_path: Path) -> None:
    body = Assembly(TEXT_VADDR + 0x40).raw(NOP).raw("31c0").raw(NOP).raw(RET)
    near = Assembly(TEXT_VADDR + 0x50)
    near.raw(bytes((0xEB, body.at[1] - (near.here + 2) & 0xFF)))
    function, _ = function_of(tmp_path, body, ("g", near))
    assert function is not None
    assert line_starts(function, body) == [0, 1, 1, 1]
    # The same bytes, and no symbol for them.
    data = bytearray(program([("f", body)]))
    data[offset_of(near.start) : offset_of(near.start) + 2] = near.code
    flow, dso = flow_of(tmp_path / "bare", bytes(data))
    bare, _ = flow.function(dso, offset_of(body.at[-1]))
    assert bare is not None
    assert line_starts(bare, body) == [0, 1, 1, 1]
    # And without them.
    alone, _ = function_of(tmp_path, body)
    assert alone is not None
    assert line_starts(alone, body) == [0, 0, 0, 0]


def test_addresses_taken_by_lea_and_by_relocations(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw("31c0").raw(NOP).raw(RET)
    other = Assembly(TEXT_VADDR + 0x400)
    distance = body.at[2] - (other.here + 7)
    other.raw(b"\x48\x8d\x05" + distance.to_bytes(4, "little", signed=True)).raw(RET)
    function, _ = function_of(tmp_path, body, ("g", other))
    assert function is not None
    assert line_starts(function, body) == [0, 0, 2, 2]
    # R_X86_64_RELATIVE (8) of a word in writable data.
    rela = b"".join(n.to_bytes(8, "little") for n in (0x7000, 8, body.at[1]))
    function, _ = function_of(
        tmp_path, body, writable=bytes(16), raws=[ew.Raw(".rela.dyn", rela, kind="rela")],
    )
    assert function is not None
    assert line_starts(function, body) == [0, 1, 1, 1]


def test_code_that_is_relocated_is_not_followed(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw(RET)
    rela = b"".join(n.to_bytes(8, "little") for n in (body.at[0], 8, 0x7000))
    function, why = function_of(tmp_path, body, raws=[ew.Raw(".rela.dyn", rela, kind="rela")])
    assert (function, why) == (None, "its code may be changed while it is loaded")


def test_another_symbol_in_the_function_is_an_entry(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw("31c0").raw(NOP).raw(RET)
    data = program([("f", body)], extra_symbols=[ew.Sym("inside", body.at[2], 1)])
    flow, dso = flow_of(tmp_path / "app", data)
    function, _ = flow.function(dso, offset_of(body.at[1]))
    assert function is not None
    assert line_starts(function, body) == [0, 0, 2, 2]


def test_only_files_that_are_proved_are_read(tmp_path: Path) -> None:
    body = Assembly().raw(NOP).raw(RET)
    data = program([("f", body)])
    for build_id, why in (
        (BUILD_ID, ""),
        (b"\x22" * 20, "another build"),
        (None, "no build id proves that this is the file that was mapped"),
    ):  # fmt: skip
        flow, dso = flow_of(tmp_path / "app", data, build_id)
        assert why in flow.trusted(dso)
        assert (flow.function(dso, offset_of(body.at[0]))[0] is None) == bool(why)


def test_the_same_inode_unchanged_is_proof(tmp_path: Path) -> None:
    path = ew.write(tmp_path / "app", program([("f", Assembly().raw(RET))], build_id=None))
    for places, inode, why in (
        (Places(same_machine=True, recorded_until_ns=1 << 62), path.stat().st_ino, ""),
        (Places(same_machine=True, recorded_until_ns=1 << 62), None, "neither build id nor inode"),
        (Places(same_machine=True, recorded_until_ns=1), path.stat().st_ino, "was changed after"),
        (Places(same_machine=None, recorded_until_ns=1 << 62), path.stat().st_ino, "no build id"),
    ):  # fmt: skip
        binaries = Binaries(places)
        dso = binaries.intern(str(path), None)
        if inode is not None:
            binaries.note_inode(dso, inode)
        found = binaries.unproved(dso)
        assert (why in found) if why else found == ""


def test_middle_of_an_instruction_and_no_symbol(tmp_path: Path) -> None:
    body = Assembly().raw("b890909090").raw(RET)
    flow, dso = flow_of(tmp_path / "app", program([("f", body)]))
    assert flow.function(dso, offset_of(body.at[0]) + 1) == (
        None, "no instruction of the function begins there")  # fmt: skip
    assert flow.function(dso, offset_of(body.at[0]) + 0x800) == (
        None, "no symbol says where the function begins")  # fmt: skip
    assert flow.function(-1, 0)[1] == "no file is known for this address"


def test_references_are_found_at_every_byte() -> None:
    """CALL, JMP, Jcc and LEA, also inside of other instructions."""
    body = Assembly()
    body.raw(b"\xb8" + b"\xe9" + (0x10).to_bytes(4, "little"))  # mov eax, imm holds a jmp
    body.raw(b"\x0f\x84" + (0x20).to_bytes(4, "little"))
    body.raw(b"\xe8" + (0x30).to_bytes(4, "little"))
    image = parse_elf(memoryview(program([("f", body)])), "app")
    found = entry_points(image)
    assert found is not None
    ends = [TEXT_VADDR + 6, TEXT_VADDR + 12, TEXT_VADDR + 17]
    expected = [end + there for end, there in zip(ends, (0x10, 0x20, 0x30), strict=True)]
    assert set(expected) <= set(found.tolist())
    assert (np.diff(found) >= 0).all()


def test_immediates_of_a_file_with_fixed_addresses() -> None:
    """push imm32 of a label, and a word of read-only data."""
    body = Assembly().raw(b"\x68" + (TEXT_VADDR + 0x55).to_bytes(4, "little"))
    body.raw(b"\x90\xb8" + (TEXT_VADDR + 0x66).to_bytes(4, "little"))
    constants = (TEXT_VADDR + 0x77).to_bytes(8, "little")
    data = program([("f", body)], constants=constants)
    expected = {TEXT_VADDR + 0x55, TEXT_VADDR + 0x66, TEXT_VADDR + 0x77}
    image = parse_elf(memoryview(data), "app")
    moved = entry_points(image)
    assert moved is not None
    assert not expected & set(moved.tolist())
    fixed = entry_points(replace(image, kind="ET_EXEC"))
    assert fixed is not None
    assert expected <= set(fixed.tolist())
