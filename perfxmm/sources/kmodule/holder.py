"""A program that holds known constants in every vector register and opmask, and does nothing else.

It is made at run time, of the instructions this CPU has: no compiler is needed. It loads all
registers and then counts down in a loop of two instructions that touch none of them, so that
whatever is sampled within the loop must be exactly these constants.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from iced_x86 import Code, Encoder, Instruction, MemoryOperand, Register

from perfxmm.errors import NotSupported

REGISTERS = 32
QWORDS = 8
OPMASKS = 8
# A fraction of a second a call: then the registers are loaded again.
_ROUNDS = 200_000_000
# The golden ratio's fraction, odd: consecutive multiples differ in all bytes.
_STEP = 0x9E3779B97F4A7C15
_CLASSES = ("zmm", "ymm", "xmm")
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h, Linux 7.3


@dataclass(frozen=True, slots=True)
class Constants:
    """What the registers hold. vectors: uint64 [32, 8], low qword first; opmasks: uint64 [8].

    widest: "xmm", "ymm" or "zmm", what this CPU holds of `vectors`. has_opmasks: k0 to k7 as well.
    """

    vectors: npt.NDArray[np.uint64]
    opmasks: npt.NDArray[np.uint64]
    widest: str
    has_opmasks: bool

    @property
    def registers(self) -> int:
        return REGISTERS if self.widest == "zmm" else REGISTERS // 2

    @property
    def qwords(self) -> int:
        return {"xmm": 2, "ymm": 4, "zmm": 8}[self.widest]


def constants(classes: Collection[str]) -> Constants:
    """Constants for a CPU with the register `classes`. No two qwords are alike, and none is 0."""
    count = REGISTERS * QWORDS + OPMASKS
    # Wraps modulo 2^64, which is the point.
    with np.errstate(over="ignore"):
        values = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
    widest = next((name for name in _CLASSES if name in classes), "")
    if not widest:
        raise NotSupported("this CPU has no vector registers")
    return Constants(
        values[: REGISTERS * QWORDS].reshape(REGISTERS, QWORDS), values[REGISTERS * QWORDS :],
        widest, "opmask" in classes and widest == "zmm",
    )  # fmt: skip


def _instructions(held: Constants) -> list[Instruction]:
    """Loads: rdi points to the vectors, rsi to the opmasks."""
    # Any: the library's stubs have registers as an enumeration, which one cannot count through.
    first: Any
    opmask: Any = Register.K0
    code, first = {
        "zmm": (Code.EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512, Register.ZMM0),
        "ymm": (Code.VEX_VMOVDQU_YMM_YMMM256, Register.YMM0),
        "xmm": (Code.MOVDQU_XMM_XMMM128, Register.XMM0),
    }[held.widest]
    loads = [
        Instruction.create_reg_mem(
            code, first + number, MemoryOperand(Register.RDI, displ=64 * number, displ_size=8)
        )
        for number in range(held.registers)
    ]
    if held.has_opmasks:
        loads += [
            Instruction.create_reg_mem(
                Code.VEX_KMOVQ_KR_KM64, opmask + number,
                MemoryOperand(Register.RSI, displ=8 * number, displ_size=8),
            )
            for number in range(OPMASKS)
        ]  # fmt: skip
    return loads


# endbr64
_ENTRY = bytes.fromhex("f30f1efa")
# dec rdx; jnz dec
_LOOP = bytes.fromhex("48ffca" "75fb")
# vzeroupper, where the CPU has it: the caller's code is not to pay for our upper halves. ret
_LEAVE_AVX, _LEAVE = bytes.fromhex("c5f877" "c3"), bytes.fromhex("c3")


def assemble(held: Constants) -> tuple[bytes, int]:
    """The function void hold(vectors, opmasks, rounds), and the offset of its loop."""
    encoder = Encoder(64)
    for instruction in _instructions(held):
        encoder.encode(instruction, 0)
    start = _ENTRY + bytes(encoder.take_buffer())
    return start + _LOOP + (_LEAVE if held.widest == "xmm" else _LEAVE_AVX), len(start)


class Holder:
    """A child process that holds `held` until it is ended.

    loop: addresses [first, end) of the loop. Raises NotSupported where code that was made at run
    time may not be executed.
    """

    def __init__(self, held: Constants) -> None:
        code, loop_offset = assemble(held)
        self._memory = _executable(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.loop = (address + loop_offset, address + loop_offset + len(_LOOP))
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)(
            address
        )
        libc = ctypes.CDLL(None)
        vectors, opmasks = held.vectors.ctypes.data, held.opmasks.ctypes.data
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            # Never back into the parent's code, whatever happens.
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                while os.getppid() == parent:
                    function(vectors, opmasks, _ROUNDS)
            finally:
                os._exit(0)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _executable(code: bytes) -> mmap.mmap:
    """`code`, mapped so that it can be executed. Writable as well: ctypes asks for that to tell
    the address, and the pages hold nothing else."""
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                           prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # fmt: skip
    except OSError as error:
        raise NotSupported("code made at run time may not be executed here",
                           why=error.strerror or "") from None  # fmt: skip
    memory.write(code)
    return memory
