"""Which registers an instruction works on, and in which of them stands what."""

from __future__ import annotations

import pytest

from perfxmm.analysis.instructions import facts_of, use_of
from perfxmm.analysis.lanes import ELEMENTS
from perfxmm.kernel.registers import GPR_ID, GPR_NAMES
from perfxmm.program.code import decode
from perfxmm.views.lanes import Selection


@pytest.mark.parametrize(
    ("code", "text", "vectors", "operands", "results"),
    [
        ("c5fd58c1", "vaddpd ymm0,ymm0,ymm1", {0: 4, 1: 4}, {0, 1}, {0, 1}),
        ("62a1fd4058c9", "vaddpd zmm17,zmm16,zmm17", {16: 8, 17: 8}, {16, 17}, {16, 17}),
        # The written half of a narrow result is cleared, but the operand is the narrow one.
        ("c5f958c1", "vaddpd xmm0,xmm0,xmm1", {0: 2, 1: 2}, {0, 1}, {0, 1}),
        ("c5fd1007", "vmovupd ymm0,[rdi]", {0: 4}, set(), {0}),
        ("c5fd1107", "vmovupd [rdi],ymm0", {0: 4}, {0}, {0}),
        ("c5fc5ac1", "vcvtps2pd ymm0,xmm1", {0: 4, 1: 2}, {1}, {1}),
        ("62f2fd49920cf7", "vgatherdpd zmm1{k1},[rdi+ymm6*8]", {1: 8, 6: 4}, {1, 6}, {1, 6}),
        ("c5f157c9", "vxorpd xmm1,xmm1,xmm1", {1: 2}, set(), {1}),
        ("c5f877", "vzeroupper", {}, set(), set()),
        ("4801d8", "add rax,rbx", {}, set(), set()),
        ("660f3815c1", "blendvpd xmm0,xmm1,xmm0", {0: 2, 1: 2}, {0, 1}, {0, 1}),
    ],
)
def test_vector_registers(
    code: str, text: str, vectors: dict[int, int], operands: set[int], results: set[int]
) -> None:
    operation = decode(bytes.fromhex(code))
    assert operation is not None
    use = use_of(operation)
    assert (use.text, use.vectors) == (text, vectors)
    assert use.operands == sum(1 << n for n in operands)
    assert use.results == sum(1 << n for n in results)
    assert facts_of(use)[-1] == tuple(
        sum(1 << n for n, words in vectors.items() if words >= least) for least in (2, 4, 8)
    )


def test_opmasks_and_general_registers() -> None:
    operation = decode(bytes.fromhex("62f2fd49920cf7"))  # vgatherdpd zmm1{k1},[rdi+ymm6*8]
    assert operation is not None
    use = use_of(operation)
    assert (use.opmasks, use.gprs) == (0b10, {"RDI"})
    assert list(ELEMENTS)[use.element] == "f64"
    selection = Selection.of_use(use, GPR_NAMES)
    assert selection == Selection({1: 8, 6: 4}, frozenset({1}), frozenset({GPR_ID["DI"]}))


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("4801d8", {"AX", "BX"}), ("01d8", {"AX", "BX"}), ("6601d8", {"AX", "BX"}),
        ("00c4", {"AX"}), ("4501c8", {"R8", "R9"}), ("488b0510000000", {"AX"}),
    ],
)  # fmt: skip
def test_parts_of_general_registers_count_for_the_whole(code: str, names: set[str]) -> None:
    operation = decode(bytes.fromhex(code))
    assert operation is not None
    selection = Selection.of_use(use_of(operation), GPR_NAMES)
    assert {GPR_NAMES[number] for number in selection.gprs} == names


def test_an_unknown_instruction_says_nothing() -> None:
    assert facts_of(None)[0] is False
