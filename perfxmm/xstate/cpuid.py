"""CPUID and XGETBV without a C extension, and the layout that they tell.

Python cannot execute a given instruction, but it can map one. Three ways, tried in this order:
a memfd mapped read and execute (works unprivileged and under memory-deny-write-execute), an
anonymous page written and then made executable, and the kernel's /dev/cpu/0/cpuid (root only).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Callable
from functools import cache

from perfxmm.errors import NotSupported
from perfxmm.xstate.components import component_numbers
from perfxmm.xstate.layout import Layout, Place, vendor_layout

CpuidCall = Callable[[int, int], tuple[int, int, int, int]]

LEAF_XSTATE = 0xD
PAGE_BYTES = mmap.PAGESIZE
# void cpuid(u32 leaf, u32 subleaf, u32 out[4]): endbr64; push rbx; mov eax, edi; mov ecx, esi;
# mov r8, rdx; cpuid; mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx;
# ret
_CPUID_CODE = bytes.fromhex(
    "f30f1efa" "53" "89f8" "89f1" "4989d0" "0fa2" "418900" "41895804" "41894808" "4189500c" "5bc3"
)
# u64 xgetbv0(void): endbr64; xor ecx, ecx; xgetbv; shl rdx, 32; or rax, rdx; ret
_XGETBV_CODE = bytes.fromhex("f30f1efa" "31c9" "0f01d0" "48c1e220" "4809d0" "c3")
_XGETBV_OFFSET = 64
_CODE = _CPUID_CODE.ljust(_XGETBV_OFFSET, b"\xcc") + _XGETBV_CODE
_MAP_FAILED = ctypes.c_void_p(-1).value


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                          ctypes.c_int, ctypes.c_long]  # fmt: skip
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _map_memfd() -> int | None:
    """Address of the code, mapped from a memfd as read and execute; None where refused."""
    try:
        fd = os.memfd_create("perfxmm-cpuid", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, _CODE.ljust(PAGE_BYTES, b"\xcc"))
        address = _libc().mmap(
            None, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0
        )
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if address in (None, _MAP_FAILED) else int(address)


def _map_anonymous() -> int | None:
    """The same on an anonymous page: writable first, executable after, never both."""
    libc = _libc()
    address = libc.mmap(None, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE,
                        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)  # fmt: skip
    if address in (None, _MAP_FAILED):
        return None
    ctypes.memmove(address, _CODE, len(_CODE))
    if libc.mprotect(address, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    return int(address)


def _call_at(address: int) -> CpuidCall:
    function = ctypes.CFUNCTYPE(
        None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)
    )(address)

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        out = (ctypes.c_uint32 * 4)()
        function(leaf, subleaf, out)
        return out[0], out[1], out[2], out[3]

    return cpuid


def _device_call(path: str = "/dev/cpu/0/cpuid") -> CpuidCall | None:
    """CPUID through the kernel's cpuid driver; None where it cannot be opened."""

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The file position is the leaf in its low and the subleaf in its high half.
            a, b, c, d = struct.unpack("<4I", os.pread(fd, 16, subleaf << 32 | leaf))
        finally:
            os.close(fd)
        return a, b, c, d

    try:
        cpuid(0, 0)
    except (OSError, struct.error):
        return None
    return cpuid


@cache
def cpuid_call() -> tuple[CpuidCall | None, str]:
    """A way to execute CPUID and its name; (None, "") where this process has none."""
    if platform.machine() != "x86_64":
        return None, ""
    for name, mapper in (("memfd", _map_memfd), ("anonymous page", _map_anonymous)):
        address = mapper()
        if address is not None:
            return _call_at(address), f"cpuid ({name})"
    device = _device_call()
    return (device, "/dev/cpu/0/cpuid") if device else (None, "")


@cache
def xgetbv() -> int | None:
    """XCR0, or None where it cannot be read (no code page, or the CPU has no XSAVE)."""
    call, name = cpuid_call()
    if call is None or not name.startswith("cpuid") or not call(1, 0)[2] >> 27 & 1:
        return None
    address = _map_memfd() or _map_anonymous()
    if address is None:
        return None
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(address + _XGETBV_OFFSET)())


def enumerate_layout(cpuid: CpuidCall, xcr0: int, source: str = "cpuid") -> Layout:
    """Every component that CPUID leaf 0xD describes, supervisor ones included."""
    highest = cpuid(0, 0)[0]
    if highest < LEAF_XSTATE:
        return Layout({}, xcr0, source)
    low, _, _, high = cpuid(LEAF_XSTATE, 0)
    _, _, supervisor_low, supervisor_high = cpuid(LEAF_XSTATE, 1)
    supported = high << 32 | low | supervisor_high << 32 | supervisor_low
    places: dict[int, Place] = {}
    for number in component_numbers(supported & ~3):
        size, offset, flags, _ = cpuid(LEAF_XSTATE, number)
        if size:
            places[number] = Place(offset, size, flags & 3)
    return Layout(places, xcr0 or (high << 32 | low), source)


def machine_layout(xcr0: int | None = None, image_bytes: int | None = None) -> Layout:
    """This machine's layout: CPUID by whichever way works, else the vendor table.

    xcr0, image_bytes: of an image in hand (the kernel's ptrace note carries both); the vendor
    table needs them. Raises NotSupported where nothing tells the offsets: ZMM and opmask must
    then not be decoded.
    """
    known = xcr0 if xcr0 is not None else (xgetbv() or 0)
    call, name = cpuid_call()
    if call is not None:
        with contextlib.suppress(OSError):
            return enumerate_layout(call, known, name)
    if xcr0 is not None and image_bytes is not None:
        guessed = vendor_layout(xcr0, image_bytes)
        if guessed is not None:
            return guessed
    raise NotSupported(
        "the XSAVE layout of this CPU cannot be found out",
        why="CPUID cannot be executed from a mapped page, /dev/cpu/0/cpuid is not readable, and "
        "no vendor's table fits",
        next_step="XMM and general registers can still be sampled: --regs gpr,xmm.",
    )
