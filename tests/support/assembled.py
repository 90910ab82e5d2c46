"""Code written with iced-x86's encoder, instruction by instruction, for ELF files of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import iced_x86 as iced
from support import elfwriter as ew

Instruction = iced.Instruction
# Where simple programs put their code: file offset, address before relocation.
TEXT_OFFSET, TEXT_VADDR = 0x1000, 0x2000
DATA_OFFSET, DATA_VADDR = 0x3000, 0x5000
WRITABLE_OFFSET, WRITABLE_VADDR = 0x4000, 0x7000


@dataclass
class Assembly:
    """Instructions one after the other from `start` (an address before relocation).

    at: addresses of the instructions, in order. labels: names for some of them.
    """

    start: int = TEXT_VADDR
    code: bytearray = field(default_factory=bytearray)
    at: list[int] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def here(self) -> int:
        return self.start + len(self.code)

    def add(self, *instructions: iced.Instruction) -> Assembly:
        for instruction in instructions:
            encoder = iced.Encoder(64)
            encoder.encode(instruction, self.here)
            self.raw(encoder.take_buffer())
        return self

    def raw(self, code: bytes | str) -> Assembly:
        """Bytes, or hexadecimal text, of one instruction."""
        self.at.append(self.here)
        self.code += bytes.fromhex(code) if isinstance(code, str) else code
        return self

    def label(self, name: str) -> Assembly:
        self.labels[name] = self.here
        return self


def program(
    functions: Sequence[tuple[str, Assembly]], *, constants: bytes = b"", writable: bytes = b"",
    build_id: bytes | None = b"\x11" * 20, extra_symbols: Sequence[ew.Sym] = (),
    raws: Sequence[ew.Raw] = (),
) -> bytes:
    """A position-independent file with these functions in .text, constants in a read-only segment
    at DATA_VADDR and data in a writable one at WRITABLE_VADDR."""
    text = bytearray(b"\xcc" * 0x1000)
    symbols = []
    for name, body in functions:
        at = body.start - TEXT_VADDR
        text[at : at + len(body.code)] = body.code
        symbols.append(ew.Sym(name, body.start, len(body.code)))
    loads = [ew.Load(TEXT_OFFSET, TEXT_VADDR, bytes(text))]
    if constants:
        loads.append(ew.Load(DATA_OFFSET, DATA_VADDR, constants, flags=4))
    if writable:
        loads.append(ew.Load(WRITABLE_OFFSET, WRITABLE_VADDR, writable, flags=6))
    return ew.simple(
        [*symbols, *extra_symbols], loads=loads, build_id=build_id, raws=raws
    )
