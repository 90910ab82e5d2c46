"""What an instruction works on, from its bytes and from a binary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import elfwriter as ew
from support.elfwriter import Load, Sym, Text

from perfxmm.program.binaries import Binaries, Places
from perfxmm.program.code import ELEMENTS, CodeReader, decode

# One row per encoding: bytes (as GNU as 2.40 makes them), text, element, scalar, crypto.
ROWS = [
    ("c4e2f5b8c2", "vfmadd231pd ymm0,ymm1,ymm2", "f64", False, False),
    ("f20f58c1", "addsd xmm0,xmm1", "f64", True, False),
    ("f30f51c1", "sqrtss xmm0,xmm1", "f32", True, False),
    ("0f1000", "movups xmm0,[rax]", None, False, False),
    ("c5fc1000", "vmovups ymm0,[rax]", None, False, False),
    ("c5f057c1", "vxorps xmm0,xmm1,xmm1", None, False, False),
    ("c5fd1000", "vmovupd ymm0,[rax]", "f64", False, False),
    ("f30f6f00", "movdqu xmm0,[rax]", None, False, False),
    ("660fefc0", "pxor xmm0,xmm0", None, False, False),
    ("0f57c1", "xorps xmm0,xmm1", None, False, False),
    ("c5f5fec2", "vpaddd ymm0,ymm1,ymm2", "i32", False, False),
    ("c5f5fcc2", "vpaddb ymm0,ymm1,ymm2", "u8", False, False),
    ("660fddc1", "paddusw xmm0,xmm1", "u16", False, False),
    ("660f73d003", "psrlq xmm0,3", "i64", False, False),
    ("660f73f803", "pslldq xmm0,3", None, False, False),
    ("f2480f2ac0", "cvtsi2sd xmm0,rax", "f64", True, False),
    ("f2480f2cc0", "cvttsd2si rax,xmm0", "f64", True, False),
    ("c5fc5ac1", "vcvtps2pd ymm0,xmm1", "f32", False, False),
    ("c4e27d13c1", "vcvtph2ps ymm0,xmm1", "f16", False, False),
    ("62f5744858c2", "vaddph zmm0,zmm1,zmm2", "f16", False, False),
    ("62f2764852c2", "vdpbf16ps zmm0,zmm1,zmm2", "bf16", False, False),
    ("62f1f5585900", "vmulpd zmm0,zmm1,qword bcst [rax]", "f64", False, False),
    ("c4e27d19c1", "vbroadcastsd ymm0,xmm1", "f64", False, False),
    ("660f38dcc1", "aesenc xmm0,xmm1", None, False, True),
    ("62f27548dcc2", "vaesenc zmm0,zmm1,zmm2", None, False, True),
    ("660f3a44c101", "pclmulhqlqdq xmm0,xmm1", "u64", False, True),
    ("0f38cbc1", "sha256rnds2 xmm0,xmm1,xmm0", "u32", False, True),
    ("660f38cfc1", "gf2p8mulb xmm0,xmm1", "u8", False, True),
    ("c4e270dac2", "vsm3msg1 xmm0,xmm1,xmm2", None, False, True),
    ("4801d8", "add rax,rbx", None, False, False),
    ("dd00", "fld qword ptr [rax]", None, False, False),
    ("c5ec41cb", "kandw k1,k2,k3", None, False, False),
]


@pytest.mark.parametrize(("code", "text", "element", "scalar", "crypto"), ROWS)
def test_instructions(
    code: str, text: str, element: str | None, scalar: bool, crypto: bool,
) -> None:
    found = decode(bytes.fromhex(code))
    assert found is not None
    if not text.startswith("vsm3"):  # its element has no name worth a promise
        assert found.element == element
    assert (found.text, found.scalar, found.crypto) == (text, scalar, crypto)
    assert found.length == len(code) // 2


def test_registers_read_and_written() -> None:
    found = decode(bytes.fromhex("c4e2f5b8c2"))
    assert found is not None
    # A VEX write clears the upper part, so the whole register is written.
    assert found.reads == ("YMM0", "YMM1", "YMM2")
    assert found.writes == ("ZMM0",)
    assert found.vector
    assert found.operands == ("YMM0", "YMM1", "YMM2")


@pytest.mark.parametrize("code", [b"", b"\x0f", b"\xc4\xe2", b"\x06"])
def test_no_instruction(code: bytes) -> None:
    assert decode(code) is None


def binaries_of(tmp_path: Path, code: bytes, bits: int = 64) -> tuple[Binaries, int]:
    ew.write(tmp_path / "app", ew.elf(
        loads=[Load(0x1000, 0x2000, code)], texts=[Text(".text", 0x1000, 0x2000, len(code))],
        symtab=[Sym("f", 0x2000, len(code))], bits=bits, build_id=b"\x11" * 20,
    ))
    binaries = Binaries(Places(symfs=tmp_path))
    return binaries, binaries.intern("/app", b"\x11" * 20)


def test_columns_from_a_binary(tmp_path: Path) -> None:
    code = bytes.fromhex("c4e2f5b8c2" "660f38dcc1" "4801d8" "f20f58c1")
    binaries, dso = binaries_of(tmp_path, code)
    other = binaries.intern("/app", b"\x22" * 20)
    reader = CodeReader(binaries)
    dsos = np.array([dso, dso, dso, dso, dso, other, -1], np.int32)
    offsets = np.array([0x1000, 0x1005, 0x100A, 0x100D, 0x5000, 0x1000, 0], np.uint64)
    f64 = ELEMENTS.index("f64")
    assert reader.elements(dsos, offsets).tolist() == [f64, -1, -1, f64, -1, -1, -1]
    assert reader.crypto(dsos, offsets).tolist() == [0, 1, 0, 0, -1, -1, -1]
    assert reader.function_has_crypto(dso, 0x1000, 0x1000 + len(code)) is True
    assert reader.function_has_crypto(dso, 0x100A, 0x1000 + len(code)) is False
    assert reader.function_has_crypto(other, 0x1000, 0x1010) is None
    assert reader.elements(dsos[:0], offsets[:0]).tolist() == []


def test_an_instruction_at_the_end_of_the_segment(tmp_path: Path) -> None:
    binaries, dso = binaries_of(tmp_path, bytes.fromhex("f20f58c1" "c4e2"))
    reader = CodeReader(binaries)
    found = reader.operation(dso, 0x1000)
    assert found is not None
    assert found.text == "addsd xmm0,xmm1"
    assert reader.operation(dso, 0x1004) is None


def test_32_bit_code(tmp_path: Path) -> None:
    binaries, dso = binaries_of(tmp_path, bytes.fromhex("40" "c3"), bits=32)
    found = CodeReader(binaries).operation(dso, 0x1000)
    assert found is not None
    assert found.text == "inc eax"
