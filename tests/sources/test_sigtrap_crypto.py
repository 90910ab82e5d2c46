"""--redact crypto: which code drops values."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recorded import load, request
from support.workloads import workload

from perfxmm.kernel.registers import GPR_IP
from perfxmm.sources.sigtrap import SigtrapSource
from perfxmm.sources.sigtrap.crypto import CryptoGuard, code_handles_keys

NOP = b"\x90"
RET = b"\xc3"


@pytest.mark.parametrize(
    "code",
    [
        "660f38dcc1",  # aesenc xmm0, xmm1
        "c4e279dcc1",  # vaesenc xmm0, xmm0, xmm1
        "c4e27ddcc1",  # vaesenc ymm0, ymm0, ymm1 (VAES)
        "660f3adfc101",  # aeskeygenassist xmm0, xmm1, 1
        "0f38cbc1",  # sha256rnds2 xmm0, xmm1
        "0f3accc100",  # sha1rnds4 xmm0, xmm1, 0
        "660f3a44c100",  # pclmulqdq xmm0, xmm1, 0
        "c4e37d44c100",  # vpclmulqdq ymm0, ymm0, ymm1, 0
        "660f38cfc1",  # gf2p8mulb xmm0, xmm1
        "660f3acec100",  # gf2p8affineqb xmm0, xmm1, 0
    ],
)
def test_each_kind_is_known(code: str) -> None:
    one = bytes.fromhex(code)
    assert code_handles_keys(b"", one + NOP * 20, 0x1000)
    # 16 instructions ahead it still counts, 17 ahead no more.
    assert code_handles_keys(b"", NOP * 16 + one, 0x1000)
    assert not code_handles_keys(b"", NOP * 17 + one, 0x1000)
    # Behind: among the last eight instructions.
    assert code_handles_keys(one + NOP * 7, NOP * 20, 0x1000)


@pytest.mark.parametrize(
    "code",
    ["c5fc58c1", "660fefc1", "c4e2f5b8c2", "f20f38f0c1"],  # vaddps, pxor, vfmadd231pd, crc32
)
def test_arithmetic_is_not(code: str) -> None:
    one = bytes.fromhex(code)
    assert not code_handles_keys(one * 20, one * 20, 0x1000)


def test_unreadable_code_counts() -> None:
    assert CryptoGuard().handles_keys(2**22 - 1, 0, 0x1000)


def test_values_are_dropped_in_a_recording(tmp_path: Path) -> None:
    out = tmp_path / "a"
    SigtrapSource().record(
        request(out, workload("aes.c", "-maes", "-mavx2"), "0.5", redact="crypto", hz=1000)
    )
    got = load(out)
    abi, ips = got.registers("abi"), got.column("ip")
    assert (abi == 0).sum() > 50  # the AES loop
    assert (abi != 0).sum() > 50  # the plain one
    # None of the key's bytes is anywhere in the file.
    assert b"SECRETKEYSECRET!" not in out.read_bytes()
    assert (got.gpr(GPR_IP)[abi != 0] == ips[abi != 0]).all()
