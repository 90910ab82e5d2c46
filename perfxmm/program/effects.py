"""What an instruction surely leaves in registers, applied to what was known before it.

`apply` knows the tables of effects_vector, effects_mask and effects_general. Of every other
instruction it only knows which registers it writes (from iced-x86): those are forgotten. The rule
that a VEX or EVEX encoded write clears the rest of its vector register is Intel SDM volume 1,
14.1.3 and 15.5 (bits up to MAXVL); a write of a 32-bit general register clears its upper half
(volume 1, 3.4.1.1).
"""

from __future__ import annotations

import iced_x86 as iced

from perfxmm.program.effects_general import GENERAL
from perfxmm.program.effects_mask import MASK, lanes_compared
from perfxmm.program.effects_vector import VECTOR
from perfxmm.program.operands import DONE, MNEMONICS, Effect, masked
from perfxmm.program.values import PLACES, Values

_Access = iced.OpAccess
_WRITES = frozenset((
    _Access.WRITE, _Access.COND_WRITE, _Access.READ_WRITE, _Access.READ_COND_WRITE,
))
# Whether these write at all, or what of the upper half, depends on values or on the CPU's maker
# (SDM and APM disagree on BSF of zero; shifts by a count of zero).
_UNSURE_UPPER = frozenset((
    "BSF", "BSR", "CMPXCHG", "CMPXCHG8B", "CMPXCHG16B", "XADD", "RCL", "RCR", "ROL", "ROR", "SHLD",
    "SHRD", "SHL", "SHR", "SAR", "SAL", "XCHG", "LAR", "LSL", "TZCNT", "LZCNT",
))
# What they write is in memory or up to other software; iced-x86 does not list it.
_ANYTHING = frozenset(
    name for name in MNEMONICS.values()
    if name.startswith(("XRSTOR", "FXRSTOR", "ENCL", "VM", "SEAM", "TDCALL", "SYS", "UIRET"))
    and not name.startswith(("VMASK", "VMIN", "VMAX", "VMOV", "VMUL", "VMPSAD"))
)
_EFFECTS: dict[str, Effect] = {**GENERAL, **VECTOR, **MASK}
_BY_MNEMONIC = {
    number: _EFFECTS[name] for number, name in MNEMONICS.items() if name in _EFFECTS
}
_FORGETTING = frozenset(number for number, name in MNEMONICS.items() if name in _ANYTHING)
_SYSTEM_CALLS = frozenset((iced.Mnemonic.SYSCALL, iced.Mnemonic.INT, iced.Mnemonic.SYSENTER))
_information = iced.InstructionInfoFactory()


def apply(values: Values, instruction: iced.Instruction) -> None:
    """Turns what is known before `instruction` into what is known after it."""
    if instruction.mnemonic in _FORGETTING:
        values.forget_everything()
        return
    effect = _BY_MNEMONIC.get(instruction.mnemonic)
    if effect is not None:
        result = effect(values, instruction)
        if result is not None:
            if result is not DONE:
                _finish(values, instruction, result)
            return
    forget_written(values, instruction)


def _finish(values: Values, instruction: iced.Instruction, result: list[int]) -> None:
    """Writes `result` to the first operand as its encoding and mask do."""
    kind, number, size = PLACES[instruction.op0_register]
    register = (kind, number)
    if kind != "v":
        values.put(register, result, clear=True)
        return
    if instruction.op_mask != iced.Register.NONE:
        kept = masked(values, instruction, result, size)
        result = values.unknowns(size // 4) if kept is None else kept
    values.put(register, result, clear=instruction.encoding != iced.EncodingKind.LEGACY)


def interrupted(values: Values, instruction: iced.Instruction) -> None:
    """What is left to be known when `instruction` is the next one to run, or the rest of it is.

    A repeated string instruction, a gather and a scatter may be taken up again in their middle
    (SDM volume 1, 7.3.9.2; volume 2, VPGATHERDD): their registers then have moved on. A system call
    that a signal interrupted is begun again by the kernel, which puts the IP back on it (signal(7))
    with RCX and R11 as SYSCALL left them.
    """
    if instruction.mnemonic in _SYSTEM_CALLS:
        forget_written(values, instruction)
        values.forget(("g", 0))
    if instruction.is_vsib or (instruction.is_string_instruction and (
        instruction.has_rep_prefix or instruction.has_repe_prefix or instruction.has_repne_prefix
    )):
        forget_written(values, instruction)


def forget_written(values: Values, instruction: iced.Instruction) -> None:
    """Forgets what `instruction` writes, but for what its encoding says of upper parts."""
    clears = instruction.encoding != iced.EncodingKind.LEGACY
    first = instruction.op0_register if instruction.op_count else iced.Register.NONE
    for used in _information.info(instruction).used_registers():
        if used.access not in _WRITES:
            continue
        place = PLACES.get(used.register)
        if place is None:
            continue
        kind, number, size = place
        register = (kind, number)
        if kind == "v":
            low = size if not clears else 64
            result: list[int] | None = None
            if clears and size == 64 and first in PLACES and PLACES[first][:2] == register:
                low = PLACES[first][2]
                if instruction.zeroing_masking:
                    result = masked(values, instruction, values.unknowns(low // 4), low)
            values.put(register, result or values.unknowns(low // 4), clear=clears)
        elif kind == "k":
            bits = lanes_compared(instruction)
            values.put(register, [values.below(bits), values.below(bits - 32)])
        elif size == 8 and used.access in (_Access.WRITE, _Access.READ_WRITE) and (
            first in PLACES and PLACES[first] == (kind, number, 4)
            and MNEMONICS[instruction.mnemonic] not in _UNSURE_UPPER
        ):
            values.put(register, [values.unknown(), 0])
        elif size == 8 or size == 4:
            values.forget(register)
        else:
            # A write of 8 or 16 bits leaves the upper half as it is.
            values.put(register, [values.unknown()])
