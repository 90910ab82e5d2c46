"""Runs single instructions on this CPU, from chosen registers to the registers they leave.

The code is a function made with iced-x86's encoder: it loads all vector, mask and general
registers from a buffer, runs the instruction, and stores them into another one. As a program of its
own (an instruction that this CPU lacks would end the tests):

    python -m support.run_instruction SEED FILE.npz
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import iced_x86 as iced
import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
R, C = iced.Register, iced.Code
# Registers as words: 32 vectors of 8, 8 masks, 16 general ones in the order of their encodings.
MASKS_AT, GPRS_AT, WORDS = 256, 264, 280
_OUT_BYTES = 8 * WORDS
# These hold the buffer and the stack.
_KEPT = (4, 7)
_CALLEE_SAVED = (R.RBX, R.RBP, R.R12, R.R13, R.R14, R.R15)
_BASE_FEATURES = frozenset((
    "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CMOV", "MMX", "SSE",
    "SSE2", "FPU", "SSE3",
))
_FLAG_OF = {"LZCNT": "abm"}


def can_run() -> bool:
    """Whether this CPU has the registers that the harness loads."""
    return {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= _flags()


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    line = next((one for one in lines if one.startswith("flags")), "")
    return {flag.replace("_", "") for flag in line.partition(":")[2].split()}


def _features() -> dict[int, str]:
    return {v: n for n, v in vars(iced.CpuidFeature).items() if isinstance(v, int)}


def supported(instruction: iced.Instruction, flags: set[str], names: dict[int, str]) -> bool:
    for feature in instruction.cpuid_features():
        name = names[feature]
        flag = _FLAG_OF.get(name, name.replace("_", "").lower())
        if name not in _BASE_FEATURES and flag not in flags:
            return False
    return True


class Harness:
    """One page of code whose middle is replaced for each instruction."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 14, prot=7)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self._head, self._tail = _encode(_loads()), _encode(_stores())

    def run(self, code: bytes, before: U64) -> U64:
        """uint64 [WORDS] before -> after."""
        both = np.zeros(2 * WORDS, np.uint64)
        both[:WORDS] = before
        text = self._head + code + self._tail
        self._memory[: len(text)] = text
        self._call(both.ctypes.data)
        return both[WORDS:].copy()


def _at(offset: int) -> iced.MemoryOperand:
    return iced.MemoryOperand(R.RDI, displ=offset, displ_size=8)


def _gpr(number: int) -> iced.Register_:
    return R.RAX + number  # type: ignore[return-value]


def _loads() -> list[iced.Instruction]:
    create = iced.Instruction
    out = [create.create_reg(C.PUSH_R64, register) for register in _CALLEE_SAVED]
    out += [
        create.create_reg_mem(C.EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512, R.ZMM0 + n, _at(64 * n))
        for n in range(32)
    ]  # fmt: skip
    out += [
        create.create_reg_mem(C.VEX_KMOVQ_KR_KM64, R.K0 + n, _at(8 * (MASKS_AT + n)))
        for n in range(8)
    ]  # fmt: skip
    out += [
        create.create_reg_mem(C.MOV_R64_RM64, _gpr(n), _at(8 * (GPRS_AT + n)))
        for n in range(16) if n not in _KEPT
    ]  # fmt: skip
    return out


def _stores() -> list[iced.Instruction]:
    create = iced.Instruction
    out = [
        create.create_mem_reg(C.MOV_RM64_R64, _at(_OUT_BYTES + 8 * (GPRS_AT + n)), _gpr(n))
        for n in range(16)
    ]  # fmt: skip
    out += [
        create.create_mem_reg(
            C.EVEX_VMOVDQU64_ZMMM512_K1Z_ZMM, _at(_OUT_BYTES + 64 * n), R.ZMM0 + n)
        for n in range(32)
    ]  # fmt: skip
    out += [
        create.create_mem_reg(C.VEX_KMOVQ_M64_KR, _at(_OUT_BYTES + 8 * (MASKS_AT + n)), R.K0 + n)
        for n in range(8)
    ]  # fmt: skip
    out.append(create.create(C.VEX_VZEROUPPER))
    out += [create.create_reg(C.POP_R64, register) for register in reversed(_CALLEE_SAVED)]
    out.append(create.create(C.RETNQ))
    return out


def _encode(instructions: list[iced.Instruction]) -> bytes:
    encoder = iced.Encoder(64)
    for instruction in instructions:
        encoder.encode(instruction, 0x1000)
    return encoder.take_buffer()


_OP = iced.OpCodeOperandKind
_WIDENED = {
    "IMM8SEX32": iced.OpKind.IMMEDIATE8TO32, "IMM8SEX64": iced.OpKind.IMMEDIATE8TO64,
    "IMM32": iced.OpKind.IMMEDIATE32, "IMM32SEX64": iced.OpKind.IMMEDIATE32TO64,
}  # fmt: skip
_GENERAL = frozenset(getattr(iced.Mnemonic, name) for name in (
    "ADD", "SUB", "INC", "DEC", "AND", "XOR", "SHR", "MOV", "MOVZX", "POPCNT",
))  # fmt: skip
_FIRST_OF = {"XMM": R.XMM0, "YMM": R.YMM0, "ZMM": R.ZMM0, "K_": R.K0, "R32": R.EAX, "R64": R.RAX}


def register_forms(rng: np.random.Generator) -> Iterator[iced.Instruction]:
    """One instruction of every code that has vector, mask or 32- and 64-bit general registers as
    its operands, and immediates; registers and immediates at random. Forms with a mask come
    unmasked, zeroing and merging."""
    kinds = {v: n for n, v in vars(_OP).items() if isinstance(v, int)}
    for code in (v for v in vars(iced.Code).values() if isinstance(v, int)):
        info = iced.OpCodeInfo(code)
        if not info.is_instruction or not info.mode64 or info.is_privileged:
            continue
        for mask in (0, 1, 2):
            if mask and not info.can_use_op_mask_register:
                continue
            if mask == 1 and not info.can_use_zeroing_masking:
                continue
            found = _form(code, info, [kinds[info.op_kind(n)] for n in range(info.op_count)],
                          mask, rng)  # fmt: skip
            if found is not None:
                yield found


def _form(
    code: int, info: iced.OpCodeInfo, kinds: list[str], mask: int, rng: np.random.Generator,
) -> iced.Instruction | None:
    instruction = iced.Instruction()
    instruction.code = code
    high = info.encoding == iced.EncodingKind.EVEX
    # General registers alone: the few that something is claimed of.
    some = info.mnemonic in _GENERAL
    for number, kind in enumerate(kinds):
        first = next((base for prefix, base in _FIRST_OF.items() if kind.startswith(prefix)), None)
        if kind in _WIDENED:
            instruction.set_op_kind(number, _WIDENED[kind])
            instruction.set_immediate_i32(number, int(rng.integers(-100, 100)))
            continue
        if kind.startswith("IMM8"):
            instruction.set_op_kind(number, iced.OpKind.IMMEDIATE8)
            instruction.immediate8 = int(rng.integers(0, 256))
            continue
        if first is None or "VSIB" in kind or "P1" in kind or "P3" in kind:
            return None
        if kind.startswith(("R32", "R64")):
            which = int(rng.choice([0, 1, 2, 3, 6, 8, 9]))
        elif kind.startswith("K_"):
            which = int(rng.integers(1, 8))
        else:
            which = int(rng.integers(0, 32 if high else 16))
            some = True
        some = some or kind.startswith("K_")
        instruction.set_op_kind(number, iced.OpKind.REGISTER)
        instruction.set_op_register(number, first + which)
    if not some:
        return None
    if mask or info.require_op_mask_register:
        instruction.op_mask = R.K1 + int(rng.integers(0, 7))
        instruction.zeroing_masking = mask == 1
    return instruction


def runnable(seed: int) -> Iterator[tuple[iced.Instruction, bytes]]:
    """The forms that this CPU has and that touch neither memory nor the harness's registers."""
    rng = np.random.default_rng(seed)
    flags, names = _flags(), _features()
    information = iced.InstructionInfoFactory()
    kept = (R.RDI, R.EDI, R.RSP, R.ESP)
    for made in register_forms(rng):
        encoder = iced.Encoder(64)
        try:
            encoder.encode(made, 0x1000)
        except ValueError:
            continue  # a choice of registers that the form does not allow
        code = encoder.take_buffer()
        instruction = iced.Decoder(64, code, ip=0x1000).decode()
        used = information.info(instruction)
        if (
            instruction.code == made.code and not instruction.is_invalid
            and instruction.flow_control == iced.FlowControl.NEXT and not used.used_memory()
            and not any(entry.register in kept for entry in used.used_registers())
            and supported(instruction, flags, names)
        ):  # fmt: skip
            yield instruction, code


def run_all(seed: int) -> tuple[list[bytes], U64, U64]:
    """Codes, registers before and after: uint64 [n, WORDS]."""
    harness, rng = Harness(), np.random.default_rng(seed)
    codes, before, after = [], [], []
    for _, code in runnable(seed):
        registers = rng.integers(0, 1 << 64, WORDS, dtype=np.uint64)
        registers[rng.random(WORDS) < 0.1] = 0
        codes.append(code)
        before.append(registers)
        after.append(harness.run(code, registers))
    return codes, np.array(before, np.uint64), np.array(after, np.uint64)


if __name__ == "__main__":
    _codes, _before, _after = run_all(int(sys.argv[1]))
    np.savez(sys.argv[2], codes=np.array([c.hex() for c in _codes]), before=_before, after=_after)
