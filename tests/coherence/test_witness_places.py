"""What is known at a place: constants of the file, addresses, masks, boundaries of all kinds."""

from __future__ import annotations

from pathlib import Path

import iced_x86 as iced
import pytest
from support import elfwriter as ew
from support.assembled import DATA_VADDR, TEXT_OFFSET, TEXT_VADDR, WRITABLE_VADDR, Assembly, program

from perfxmm.coherence.witness.claimtext import texts
from perfxmm.coherence.witness.places import Code, Place
from perfxmm.program.binaries import Binaries
from perfxmm.program.flow import Flow
from perfxmm.program.places import Places

R, C = iced.Register, iced.Code
BUILD_ID = b"\x11" * 20
CONSTANTS = bytes(range(1, 65))
RET = "c3"


def known(
    tmp_path: Path, body: Assembly, *, at: int = -1, after: bool = False,
    raws: tuple[ew.Raw, ...] = (),
) -> list[str]:  # fmt: skip
    """What is known at instruction `at` of the function, in words."""
    data = program([("f", body)], constants=CONSTANTS, writable=CONSTANTS, raws=raws)
    binaries = Binaries(Places())
    dso = binaries.intern(str(ew.write(tmp_path / "app", data)), BUILD_ID)
    offset = body.at[at] - TEXT_VADDR + TEXT_OFFSET
    found = Code(Flow(binaries)).known(Place(dso, offset, after))
    assert found.silence == ""
    return texts(found.claims)


def load(code: int, register: int, address: int) -> Assembly:
    """One instruction that loads from a RIP-relative address, and RET."""
    operand = iced.MemoryOperand(R.RIP, displ=address, displ_size=8)
    return Assembly().add(iced.Instruction.create_reg_mem(code, register, operand)).raw(RET)


@pytest.mark.parametrize(
    ("code", "register", "lines"),
    [
        (C.MOVAPS_XMM_XMMM128, R.XMM3, [
            "xmm3[63:0] = 0x807060504030201", "xmm3[127:64] = 0x100f0e0d0c0b0a09"]),
        (C.MOVSS_XMM_XMMM32, R.XMM3, ["xmm3[63:0] = 0x4030201", "xmm3[127:64] = 0"]),
        (C.VEX_VMOVSD_XMM_M64, R.XMM3, ["xmm3[63:0] = 0x807060504030201", "zmm3[511:64] = 0"]),
        (C.VEX_VBROADCASTSS_YMM_M32, R.YMM3, [
            "each 64 bits of ymm3 = 0x403020104030201", "zmm3[511:256] = 0"]),
        (C.EVEX_VBROADCASTSD_ZMM_K1Z_XMMM64, R.ZMM20, [
            "each 64 bits of zmm20 = 0x807060504030201"]),
        (C.VEX_VPBROADCASTB_XMM_XMMM8, R.XMM3, [
            "each 64 bits of xmm3 = 0x101010101010101", "zmm3[511:128] = 0"]),
        (C.MOV_R32_RM32, R.EDX, ["rdx = 0x4030201"]),
        (C.MOV_R64_RM64, R.R9, ["r9 = 0x807060504030201"]),
    ],
)  # fmt: skip
def test_constants_of_read_only_data(
    tmp_path: Path, code: int, register: int, lines: list[str]
) -> None:
    assert known(tmp_path, load(code, register, DATA_VADDR)) == lines


@pytest.mark.parametrize("address", [WRITABLE_VADDR, DATA_VADDR + 56, DATA_VADDR + 0x800])
def test_data_that_is_not_constant(tmp_path: Path, address: int) -> None:
    """In a writable segment, beyond the end of the file's bytes, or in no segment."""
    assert known(tmp_path, load(C.MOVAPS_XMM_XMMM128, R.XMM3, address)) == []
    assert known(tmp_path, load(C.VEX_VMOVAPS_XMM_XMMM128, R.XMM3, address)) == [
        "zmm3[511:128] = 0",
    ]


@pytest.mark.parametrize(("where", "constant"), [(-8, True), (-7, False), (15, False), (16, True)])
def test_data_that_is_relocated_is_not_constant(
    tmp_path: Path, where: int, constant: bool
) -> None:
    body = load(C.MOVAPS_XMM_XMMM128, R.XMM3, DATA_VADDR + 16)
    rela = b"".join(n.to_bytes(8, "little") for n in (DATA_VADDR + 16 + where, 8, 0x5000))
    raws = (ew.Raw(".rela.dyn", rela, kind="rela"),)
    assert bool(known(tmp_path, body, raws=raws)) == constant


def test_an_address_counts_from_the_ip(tmp_path: Path) -> None:
    body = load(C.LEA_R64_M, R.RAX, WRITABLE_VADDR)
    distance = WRITABLE_VADDR - body.at[-1]
    assert known(tmp_path, body) == [f"rax = IP + {distance:#x}"]
    body = load(C.LEA_R64_M, R.RAX, TEXT_VADDR - 0x10)
    assert known(tmp_path, body) == ["rax = IP - 0x17"]


def test_copies_and_widths(tmp_path: Path) -> None:
    body = Assembly().raw("89c8").raw("4889d3").raw("0fb6f1").raw("83e20c").raw(RET)
    # mov eax, ecx; mov rbx, rdx; movzx esi, cl; and edx, 12
    assert known(tmp_path, body) == [
        "rax[63:32] = 0", "rcx[31:0] = rax[31:0]",
        "rdx & 0xfffffffffffffff3 = 0x0", "rsi[63:8] = 0",
    ]  # fmt: skip


def test_distances_between_registers(tmp_path: Path) -> None:
    # push rbp; mov rbp, rsp; sub rsp, 0x40; lea rax, [rsp+8]; inc rax; pop rcx
    body = Assembly().raw("55").raw("4889e5").raw("4883ec40").raw("488d442408").raw("48ffc0")
    body.raw("59").raw(RET)
    assert known(tmp_path, body, at=3) == ["rsp = rbp - 0x40"]
    assert known(tmp_path, body, at=5) == ["rbp = rax + 0x37", "rsp = rax - 0x9"]
    assert known(tmp_path, body) == ["rbp = rax + 0x37", "rsp = rax - 0x1"]
    # Back to where it was: mov rbx, rdx; add rdx, 8; sub rdx, 8
    body = Assembly().raw("4889d3").raw("4883c208").raw("4883ea08").raw(RET)
    assert known(tmp_path, body, at=2) == ["rdx = rbx + 0x8"]
    assert known(tmp_path, body) == ["rdx = rbx"]
    # Constants and places are added to; 32 bits are not: mov eax, 5; add rax, 3; add eax, 1
    body = Assembly().raw("b805000000").raw("4883c003").raw("83c001").raw(RET)
    assert known(tmp_path, body, at=2) == ["rax = 0x8"]
    assert known(tmp_path, body) == ["rax[63:32] = 0"]


def test_lanes_that_a_mask_cleared(tmp_path: Path) -> None:
    body = Assembly().raw("62f17cc958c1").raw(RET)  # vaddps zmm0{k1}{z}, zmm0, zmm1
    assert known(tmp_path, body) == ["32-bit lanes of zmm0 are 0 where k1 is"]
    # Once the mask is another one, nothing is known any more.
    changed = Assembly().raw("62f17cc958c1").raw("c5fc41ca").raw(RET)  # kandw k1, k0, k2
    assert known(tmp_path, changed) == ["k1[63:16] = 0"]
    # A mask that is known clears what it clears: kxorw k1, k1, k1.
    zero = Assembly().raw("c5f447c9").raw("62f17cc958c1").raw(RET)
    assert known(tmp_path, zero) == ["zmm0 = 0", "k1 = 0"]


def test_comparisons_into_masks(tmp_path: Path) -> None:
    # vpcmpeqd k1, zmm0, zmm0; vpcmpgtd k2, ymm1, ymm2; kxnorb k3, k3, k3
    body = Assembly().raw("62f17d4876c8").raw("62f1752866d2").raw("c5e546db").raw(RET)
    assert known(tmp_path, body) == ["k1 = 0xffff", "k2[63:8] = 0", "k3 = 0xff"]


def test_upper_halves(tmp_path: Path) -> None:
    body = Assembly().raw("c5f877").raw(RET)  # vzeroupper
    assert known(tmp_path, body) == [f"zmm{n}[511:128] = 0" for n in range(16)]
    body = Assembly().raw("c5fc77").raw(RET)  # vzeroall
    assert known(tmp_path, body) == [f"zmm{n} = 0" for n in range(16)]
    # An SSE instruction leaves them as they were.
    body = Assembly().raw("c5f857c0").raw("0f10c1").raw(RET)  # vxorps xmm0; movups xmm0, xmm1
    assert known(tmp_path, body) == ["zmm0[511:128] = 0", "xmm1 = xmm0"]


def test_the_instruction_of_a_precise_event_has_run(tmp_path: Path) -> None:
    body = Assembly().raw("31c0").raw("31db").raw(RET)  # xor eax, eax; xor ebx, ebx
    assert known(tmp_path, body, at=1) == ["rax = 0"]
    assert known(tmp_path, body, at=1, after=True) == ["rax = 0", "rbx = 0"]
    # Behind a call only the stack pointer has moved: the callee has not run yet.
    body = Assembly().raw("31c0").raw("e800000000").raw(RET)
    assert known(tmp_path, body, at=1, after=True) == ["rax = 0"]
    assert known(tmp_path, body, at=2) == []


def test_instructions_that_are_taken_up_again(tmp_path: Path) -> None:
    # xor ecx, ecx; xor eax, eax; rep movsb: its counters move while it runs.
    body = Assembly().raw("31c9").raw("31c0").raw("f3a4").raw(RET)
    assert known(tmp_path, body, at=1) == ["rcx = 0"]
    assert known(tmp_path, body, at=2) == ["rax = 0"]
    # xor ecx, ecx; xor edi, edi; xor eax, eax; syscall: a signal may have it begin again.
    body = Assembly().raw("31c9").raw("31ff").raw("31c0").raw("0f05").raw(RET)
    assert known(tmp_path, body, at=3) == ["rdi = 0"]
    # vpxor ymm0; kxnorw k1; vgatherdps zmm0{k1}, [rax+zmm1*2]: result and mask so far.
    body = Assembly().raw("c5fdefc0").raw("c5f446c9").raw("62f27d49920448").raw(RET)
    assert known(tmp_path, body, at=2) == []


def test_what_restores_state_forgets_everything(tmp_path: Path) -> None:
    body = Assembly().raw("31c0").raw("c5f857c0").raw("0fae2f").raw(RET)  # xrstor [rdi]
    assert known(tmp_path, body) == []


def test_lines_have_a_bounded_length(tmp_path: Path) -> None:
    from perfxmm.program.flow import MOST_LINE_INSTRUCTIONS

    body = Assembly().raw("31c0")
    for _ in range(MOST_LINE_INSTRUCTIONS - 1):
        body.raw("90")
    body.raw("90").raw(RET)
    assert known(tmp_path, body, at=MOST_LINE_INSTRUCTIONS) == ["rax = 0"]
    assert known(tmp_path, body, at=MOST_LINE_INSTRUCTIONS + 1) == []
