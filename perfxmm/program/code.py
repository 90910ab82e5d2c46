"""The instruction at a sample: what it works on, which registers, whether it is cryptography.

Bytes come from the binary on disk, which must be the build that was recorded (`binaries`). What
an instruction works on is the size and type that iced-x86 gives for its memory operand form, also
where the operand is a register; moves and bitwise operations, which compilers use for every type,
have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import iced_x86 as iced
import numpy as np
import numpy.typing as npt

from perfxmm.program.binaries import Binaries
from perfxmm.program.elf import ElfImage

I32 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int8]
U64 = npt.NDArray[np.uint64]

# Views that an instruction can suggest; columns of codes index this tuple.
ELEMENTS: tuple[str, ...] = (
    "f64", "f32", "f16", "bf16", "i64", "u64", "i32", "u32", "i16", "u16", "i8", "u8",
)
UNKNOWN = -1

# The architecture's limit, SDM volume 2, section 2.3.11 (and 3A, 2.1.1).
LONGEST_INSTRUCTION_BYTES = 15
_CACHED_INSTRUCTIONS = 65536
_LARGEST_FUNCTION_BYTES = 1 << 20


def _names(enumeration: object) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_MNEMONICS = _names(iced.Mnemonic)
_REGISTERS = _names(iced.Register)
_MEMORY_SIZES = _names(iced.MemorySize)
_CRYPTO_FEATURES = frozenset(
    value for name, value in vars(iced.CpuidFeature).items()
    if isinstance(value, int) and name.startswith((
        "AES", "VAES", "PCLMULQDQ", "VPCLMULQDQ", "SHA", "GFNI", "SM3", "SM4", "PADLOCK",
    ))
)
_ELEMENT_OF_TYPE = {
    "FLOAT64": "f64", "FLOAT32": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "INT64": "i64",
    "UINT64": "u64", "UINT52": "u64", "INT32": "i32", "UINT32": "u32", "INT16": "i16",
    "UINT16": "u16", "INT8": "i8", "UINT8": "u8",
}
# Used for data of every type. In SSE the PS forms are a byte shorter, and some compilers and much
# assembly code keep to them in AVX.
_ANY_TYPE = re.compile(
    r"(?:V?MOV[AU]PS|V?MOV[HL]PS|V?MOVHLPS|V?MOVLHPS|V?MOVNTPS|V?ANDPS|V?ANDNPS|V?ORPS|V?XORPS"
    r"|V?MOVDQ[AU](?:32|64)?|V?LDDQU|V?MOVNTDQA?|V?MOV[DQ]|MOVQ2DQ|MOVDQ2Q"
    r"|V?PAND[DQ]?|V?PANDN[DQ]?|V?POR[DQ]?|V?PXOR[DQ]?|VPTERNLOG[DQ]|V?PS[LR]LDQ)"
)
_FROM_GPR = re.compile(r"V?CVTU?SI2(S[DSH])")
_FLOAT_SUFFIX = re.compile(r"(?:[PS])([DSH])")
_FLOATS = {"D": "f64", "S": "f32", "H": "f16"}
_SCALAR_SUFFIX = re.compile(r"S[SDH](?:2\w+)?$")
_INTEGER_SUFFIX = re.compile(r"V?P\w*([BWDQ])")
_INTEGERS = {"B": "u8", "W": "i16", "D": "i32", "Q": "i64"}
# iced-x86 calls an operand unsigned also where the sign makes no difference (PADDD). Words and
# wider are then shown signed, as C's usual types are; these really take unsigned ones.
_UNSIGNED = re.compile(
    r"V?P(?:MINU|MAXU|ADDUS|SUBUS|MULU|MULHU|AVG|MOVZX|SADBW|CMPU)\w*|VCVTT?U\w*|VCVTUDQ\w*"
    r"|VCVTUQQ\w*|VPMADD52\w*|V?PCLMUL\w*|V?SHA\w*"
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One instruction.

    text: Intel syntax. length: bytes. element: one of ELEMENTS, None where it has no one type.
    scalar: computes in the lowest lane alone (ADDSD, not ADDPD).
    reads, writes: full registers by iced-x86's names ("ZMM0", "RAX", "K1"); a write of a vector
        register in VEX or EVEX form clears the rest of it and so names the ZMM register.
    operands: register operands as they are written, a vector index of an address included.
    vector: touches an XMM, YMM or ZMM register. crypto: AES, SHA, CLMUL, GFNI, SM3, SM4.
    """

    text: str
    mnemonic: str
    length: int
    element: str | None
    scalar: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    vector: bool
    crypto: bool
    operands: tuple[str, ...] = ()


def decode(code: bytes, ip: int = 0, bits: int = 64) -> Operation | None:
    """The first instruction of `code`, None where the bytes are no valid instruction."""
    decoder = iced.Decoder(bits, code[:LONGEST_INSTRUCTION_BYTES], ip=ip)
    if not decoder.can_decode:
        return None
    instruction = decoder.decode()
    if instruction.is_invalid:
        return None
    used = iced.InstructionInfoFactory().info(instruction).used_registers()
    reads, writes = [], []
    for entry in used:
        register = entry.register
        if iced.RegisterExt.is_gpr(register):
            register = iced.RegisterExt.full_register(register)
        name = _REGISTERS[register]
        if entry.access in _READS:
            reads.append(name)
        if entry.access in _WRITES:
            writes.append(name)
    vector = any(iced.RegisterExt.is_vector_register(entry.register) for entry in used)
    mnemonic = _MNEMONICS[instruction.mnemonic]
    size = instruction.memory_size or instruction.op_code().memory_size
    return Operation(
        str(instruction), mnemonic, instruction.len,
        _element(mnemonic, size) if vector else None,
        vector and _is_scalar(mnemonic), tuple(reads), tuple(writes), vector,
        any(feature in _CRYPTO_FEATURES for feature in instruction.cpuid_features()),
        _operands(instruction),
    )


def _operands(instruction: iced.Instruction) -> tuple[str, ...]:
    registers = [
        instruction.op_register(number) for number in range(instruction.op_count)
        if instruction.op_kind(number) == iced.OpKind.REGISTER
    ]
    if iced.RegisterExt.is_vector_register(instruction.memory_index):
        registers.append(instruction.memory_index)
    return tuple(_REGISTERS[register] for register in registers)


_READS = frozenset((
    iced.OpAccess.READ, iced.OpAccess.COND_READ, iced.OpAccess.READ_WRITE,
    iced.OpAccess.READ_COND_WRITE,
))
_WRITES = frozenset((
    iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE, iced.OpAccess.READ_WRITE,
    iced.OpAccess.READ_COND_WRITE,
))


def _element(mnemonic: str, size: iced.MemorySize_) -> str | None:
    if _ANY_TYPE.fullmatch(mnemonic):
        return None
    converted = _FROM_GPR.fullmatch(mnemonic)
    if converted:
        # The integer comes from a general register; the vector register holds the result.
        return _FLOATS[converted[1][1]]
    kind = iced.MemorySizeExt.element_type(size)
    # Pairs of BF16 or FP16 are elements that have elements.
    kind = iced.MemorySizeExt.element_type(kind)
    element = _ELEMENT_OF_TYPE.get(_MEMORY_SIZES[kind])
    if element is not None:
        if element in ("u16", "u32", "u64") and not _UNSIGNED.fullmatch(mnemonic):
            return f"i{element[1:]}"
        return element
    if size != iced.MemorySize.UNKNOWN:
        return None
    integer = _INTEGER_SUFFIX.fullmatch(mnemonic)
    if integer:
        return _INTEGERS[integer[1]]
    suffix = _FLOAT_SUFFIX.fullmatch(mnemonic[-2:])
    return _FLOATS[suffix[1]] if suffix else None


def _is_scalar(mnemonic: str) -> bool:
    return not mnemonic.startswith(("P", "VP", "VBROADCAST")) and bool(
        _SCALAR_SUFFIX.search(mnemonic),
    )


class CodeReader:
    """Instructions by DSO and file offset, each decoded once."""

    def __init__(self, binaries: Binaries) -> None:
        self._binaries = binaries
        self._operation = lru_cache(maxsize=_CACHED_INSTRUCTIONS)(self._read)
        self._function_crypto = lru_cache(maxsize=_CACHED_INSTRUCTIONS)(self._scan)

    def operation(self, dso: int, offset: int) -> Operation | None:
        """The instruction at Resolution's `dso` and `offset`; None where its bytes are unknown.

        They are for the kernel, for JIT code, and for files that are missing or another build.
        """
        return self._operation(dso, offset) if dso >= 0 else None

    def elements(self, dso: I32, offset: U64) -> I8:
        """Index into ELEMENTS for each of n samples, UNKNOWN where there is no one type."""
        def code(operation: Operation | None) -> int:
            if operation is None or operation.element is None:
                return UNKNOWN
            return ELEMENTS.index(operation.element)
        return self._column(dso, offset, code)

    def crypto(self, dso: I32, offset: U64) -> I8:
        """1 where the instruction is cryptography, 0 where not, UNKNOWN where it is not known."""
        return self._column(
            dso, offset, lambda found: UNKNOWN if found is None else int(found.crypto),
        )

    def function_has_crypto(self, dso: int, start: int, end: int) -> bool | None:
        """Is any instruction in file offsets [start, end) cryptography? None: bytes unknown.

        Registers still hold keys and state some instructions after the one that used them.
        """
        return self._function_crypto(dso, start, end) if dso >= 0 else None

    def _column(self, dso: I32, offset: U64, code: Callable[[Operation | None], int]) -> I8:
        if not len(dso):
            return np.zeros(0, np.int8)
        pairs = np.empty(len(dso), np.dtype([("dso", np.int32), ("offset", np.uint64)]))
        pairs["dso"], pairs["offset"] = dso, offset
        distinct, inverse = np.unique(pairs, return_inverse=True)
        codes = [code(self.operation(int(d), int(o))) for d, o in distinct.tolist()]
        return np.array(codes, np.int8)[inverse.reshape(-1)]

    def _image(self, dso: int) -> ElfImage | None:
        image = self._binaries.image(dso)
        if image is None or image.machine not in ("EM_X86_64", "EM_386"):
            return None
        return image

    def _read(self, dso: int, offset: int) -> Operation | None:
        image = self._image(dso)
        if image is None:
            return None
        vaddr = image.vaddr_of(offset)
        code = image.code_at(offset, LONGEST_INSTRUCTION_BYTES)
        return decode(code, vaddr or 0, image.bits) if code else None

    def _scan(self, dso: int, start: int, end: int) -> bool | None:
        image = self._image(dso)
        if image is None:
            return None
        code = image.code_at(start, min(end - start, _LARGEST_FUNCTION_BYTES))
        if not code:
            return None
        return any(
            feature in _CRYPTO_FEATURES
            for instruction in iced.Decoder(image.bits, code)
            for feature in instruction.cpuid_features()
        )
