"""--redact crypto: does the code around an address handle keys?

Registers keep key material for a while after the instruction that used it, so the neighbourhood
counts: the instruction at the address, FORWARD ones after it, and any straight run of code ending
at the address that holds one among its last BACKWARD instructions. x86 cannot be decoded backwards
with certainty; every alignment that arrives at the address is taken, which errs on the side of
dropping values. Values that linger longer than that are not caught.
"""

from __future__ import annotations

import os

from iced_x86 import CpuidFeature, Decoder, Instruction

FORWARD = 16
BACKWARD = 8
_REACH_BYTES = 15 * BACKWARD
_AHEAD_BYTES = 15 * (FORWARD + 1)
_CACHE_LIMIT = 1 << 16
_FEATURES = frozenset(
    getattr(CpuidFeature, name)
    for name in (
        "AES", "SHA", "PCLMULQDQ", "VAES", "VPCLMULQDQ", "GFNI", "AESKLE", "WIDE_KL", "SHA512",
        "SM3", "SM4",
    )
    if hasattr(CpuidFeature, name)
)  # fmt: skip


class CryptoGuard:
    """Answers by address, with a memory: code is decoded once per process image."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], bool] = {}

    def handles_keys(self, pid: int, generation: int, ip: int, *, bits: int = 64) -> bool:
        """generation: counts the execs of `pid`. Code that cannot be read counts as handling
        keys."""
        key = (pid, generation, ip)
        answer = self._known.get(key)
        if answer is None:
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
            answer = self._known[key] = self._look(pid, ip, bits)
        return answer

    def _look(self, pid: int, ip: int, bits: int) -> bool:
        try:
            fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return True
        try:
            ahead = _read_up_to(fd, ip, _AHEAD_BYTES)
            behind = b""
            for reach in (_REACH_BYTES, ip & 4095):  # the page before may not be mapped
                try:
                    behind = os.pread(fd, reach, ip - reach)
                    break
                except OSError:
                    continue
        finally:
            os.close(fd)
        return not ahead or code_handles_keys(behind, ahead, ip, bits=bits)


def code_handles_keys(behind: bytes, ahead: bytes, ip: int, *, bits: int = 64) -> bool:
    """behind: bytes up to `ip`; ahead: bytes from `ip` on."""
    decoder = Decoder(bits, ahead, ip=ip)
    for number, instruction in enumerate(decoder):
        if number > FORWARD:
            break
        if _is_crypto(instruction):
            return True
    behind = behind[-_REACH_BYTES:]
    for start in range(len(behind)):
        decoder = Decoder(bits, behind[start:], ip=ip - len(behind) + start)
        run = list(decoder)
        if run and run[-1].next_ip == ip and not any(i.is_invalid for i in run) and any(
            _is_crypto(i) for i in run[-BACKWARD:]
        ):
            return True
    return False


def _is_crypto(instruction: Instruction) -> bool:
    return any(f in _FEATURES for f in instruction.cpuid_features())


def _read_up_to(fd: int, address: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, address)
    except OSError:
        try:
            return os.pread(fd, min(size, 4096 - (address & 4095)), address)
        except OSError:
            return b""
