"""ptrace and waitpid by ctypes, made for thousands of stops a second.

Two faces: `Ptrace` methods that raise OSError, for set-up and rare stops; and the raw functions
`call` and `wait` that take and return plain integers, for the loop in between. The raw ones are
PyDLL functions: they keep the GIL, which in a tracer with one thread saves its hand-over twice per
call. `ctypes.get_errno()` holds their errno.

Request numbers and structures: include/uapi/linux/ptrace.h, arch/x86/include/uapi/asm/ptrace-abi.h
and arch/x86/include/asm/user_64.h, Linux 7.3.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Any

GETREGS = 12
CONT = 7
DETACH = 17
SETOPTIONS = 0x4200
GETEVENTMSG = 0x4201
GETSIGINFO = 0x4202
GETREGSET = 0x4204
SEIZE = 0x4206
INTERRUPT = 0x4207
LISTEN = 0x4208
PEEKSIGINFO = 0x4209
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC = 1, 2, 3, 4
EVENTS_OF_BIRTH = (EVENT_FORK, EVENT_VFORK, EVENT_CLONE)
EVENT_STOP = 128
O_TRACEFORK = 1 << EVENT_FORK
O_TRACEVFORK = 1 << EVENT_VFORK
O_TRACECLONE = 1 << EVENT_CLONE
O_TRACEEXEC = 1 << EVENT_EXEC
O_EXITKILL = 1 << 20

WALL = 0x40000000  # __WALL: children of every kind, include/uapi/linux/wait.h
WNOHANG = 1
NT_X86_XSTATE = 0x202  # include/uapi/linux/elf.h
TRAP_PERF = 6  # si_code, include/uapi/asm-generic/siginfo.h

# waitpid status words of the two stops that the loop meets most.
STATUS_SIGTRAP = signal.SIGTRAP << 8 | 0x7F
STATUS_EVENT_STOP = EVENT_STOP << 16 | STATUS_SIGTRAP
STOP_SIGNALS = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})

# siginfo_t: si_code is the i32 at 8, si_perf_data the u64 at 24, si_perf_flags the u32 at 36.
SIGINFO_BYTES = 128
SI_CODE_WORD = 2  # in u32 words
SI_PERF_DATA_QWORD = 3
SI_PERF_FLAGS_WORD = 9
TRAP_PERF_ASYNC = 1

# user_regs_struct, in u64 words.
USER_REGS = (
    "R15", "R14", "R13", "R12", "BP", "BX", "R11", "R10", "R9", "R8", "AX", "CX", "DX", "SI",
    "DI", "ORIG_AX", "IP", "CS", "FLAGS", "SP", "SS", "FS_BASE", "GS_BASE", "DS", "ES", "FS", "GS",
)  # fmt: skip
USER_REGS_QWORD: dict[str, int] = {name: at for at, name in enumerate(USER_REGS)}
USER_CS_COMPAT = 0x23  # __USER32_CS, arch/x86/include/asm/segment.h

_PEEK_COUNT = 32
# struct ptrace_peeksiginfo_args: u64 off, u32 flags, s32 nr.
_PEEK_ARGS = struct.Struct("<QIi")

_libc = ctypes.PyDLL(None, use_errno=True)
call: Any = _libc.ptrace
call.restype = ctypes.c_long
call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
wait: Any = _libc.waitpid
wait.restype = ctypes.c_int
wait.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


class Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


def last_error(name: str) -> OSError:
    """OSError from the raw functions' errno."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


def request(number: int, tid: int, address: int = 0, data: int = 0, *, name: str = "") -> int:
    """One ptrace request; raises OSError (ESRCH: not stopped, or gone)."""
    result = int(call(number, tid, address, data))
    if result < 0:
        raise last_error(name or f"ptrace {number:#x}")
    return result


def seize(tid: int, options: int) -> None:
    """Attaches without stopping the thread."""
    request(SEIZE, tid, 0, options, name="PTRACE_SEIZE")


def event_message(tid: int) -> int:
    """PTRACE_GETEVENTMSG: the new thread's id, or the former id after an exec."""
    value = ctypes.c_ulong()
    request(GETEVENTMSG, tid, 0, ctypes.addressof(value), name="PTRACE_GETEVENTMSG")
    return int(value.value)


def queued_signals(tid: int) -> list[tuple[int, int, int]]:
    """(signal, si_code, si_perf_data) of the thread's own queued signals (PTRACE_PEEKSIGINFO)."""
    out = ctypes.create_string_buffer(SIGINFO_BYTES * _PEEK_COUNT)
    found: list[tuple[int, int, int]] = []
    while True:
        args = ctypes.create_string_buffer(_PEEK_ARGS.pack(len(found), 0, _PEEK_COUNT))
        got = request(PEEKSIGINFO, tid, ctypes.addressof(args), ctypes.addressof(out),
                      name="PTRACE_PEEKSIGINFO")  # fmt: skip
        for at in range(0, got * SIGINFO_BYTES, SIGINFO_BYTES):
            number, _, code = struct.unpack_from("<iii", out, at)
            found.append((number, code, struct.unpack_from("<Q", out, at + 24)[0]))
        if got < _PEEK_COUNT:
            return found


def signal_mask(tid: int) -> int:
    """The thread's blocked signals, bit n - 1 for signal n."""
    value = ctypes.c_uint64()
    request(GETSIGMASK, tid, 8, ctypes.addressof(value), name="PTRACE_GETSIGMASK")
    return int(value.value)


def set_signal_mask(tid: int, mask: int) -> None:
    value = ctypes.c_uint64(mask)
    request(SETSIGMASK, tid, 8, ctypes.addressof(value), name="PTRACE_SETSIGMASK")


def set_parent_death_signal(number: int) -> None:
    """The caller gets signal `number` when its parent thread ends (PR_SET_PDEATHSIG)."""
    _libc.prctl(ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(number), 0, 0, 0)


def set_process_name(name: str) -> None:
    _libc.prctl(ctypes.c_int(PR_SET_NAME), ctypes.c_char_p(name.encode()), 0, 0, 0)
