"""A program stepped instruction by instruction: what every register held at every IP.

That is the truth about skewed IPs: a sample whose IP is one instruction further on has the
registers of this step and the IP of the next.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.simd_writer import GPR_IDS, SetTruth, Truth

from perfxmm.kernel import ptrace
from perfxmm.kernel.registers import GPR_NAMES
from perfxmm.perfdata import encode
from perfxmm.xstate.cpuid import machine_layout
from perfxmm.xstate.gather import plan_gather

SOURCE = Path(__file__).with_name("stepped.c")
# Build -> compiler options. The widest only where the CPU has it.
BUILDS = {
    "sse2": ("-O2", "-ftree-vectorize"),
    "avx2": ("-O3", "-mavx2", "-mfma"),
    "avx512": ("-O3", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
               "-mprefer-vector-width=512"),
}  # fmt: skip
_TRACEME, _PEEKTEXT, _POKETEXT, _SETREGS, _SINGLESTEP, _KILL = 0, 1, 4, 13, 9, 8
_USER_REGS_BYTES = 8 * len(ptrace.USER_REGS)


@dataclass
class Trace:
    """Registers at each step, in the order of execution. side: records that name the code."""

    truth: Truth
    side: list[bytes]


def can_run(build: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text().split()
    return {"sse2": True, "avx2": "fma" in flags and "avx2" in flags,
            "avx512": "avx512bw" in flags and "avx512vl" in flags}[build]  # fmt: skip


def build(directory: Path, name: str) -> Path:
    """The program, compiled. Raises CalledProcessError where gcc refuses it."""
    binary = directory / f"stepped-{name}"
    subprocess.run(
        ["gcc", *BUILDS[name], "-no-pie", "-Wl,--build-id=sha1", "-o", binary, SOURCE, "-lm"],
        check=True, timeout=120,
    )  # fmt: skip
    return binary


def step(binary: Path, steps: int) -> Trace:
    """`steps` instructions of the program from the beginning of `work` on; those outside of its
    own code (the C library) are stepped over, and are not in the trace."""
    start = _symbol(binary, "work")
    pid = os.fork()
    if pid == 0:
        try:
            ptrace.request(_TRACEME, 0)
            os.execv(binary, [str(binary)])
        finally:
            os._exit(127)
    try:
        return _stepped(pid, binary, start, steps)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, ptrace.WALL)


def _stepped(pid: int, binary: Path, start: int, steps: int) -> Trace:
    os.waitpid(pid, 0)
    word = _peek(pid, start)
    ptrace.request(_POKETEXT, pid, start, word & ~0xFF | 0xCC)
    ptrace.request(ptrace.CONT, pid)
    os.waitpid(pid, 0)
    ptrace.request(_POKETEXT, pid, start, word)
    regs = np.zeros(len(ptrace.USER_REGS), np.uint64)
    ip_at = ptrace.USER_REGS_QWORD["IP"]
    ptrace.request(ptrace.GETREGS, pid, 0, regs.ctypes.data)
    regs[ip_at] = start
    ptrace.request(_SETREGS, pid, 0, regs.ctypes.data)
    plan = plan_gather(machine_layout(), ("zmm", "opmask"))
    image = np.zeros((plan.image_bytes + 7) // 8, np.uint64)
    vector = ptrace.Iovec(image.ctypes.data, image.nbytes)
    side, text = _code(pid, binary)
    order = [ptrace.USER_REGS_QWORD[GPR_NAMES[number]] for number in GPR_IDS]
    gprs = np.zeros((steps, len(GPR_IDS)), np.uint64)
    blocks = np.zeros((steps, len(plan.index)), np.uint64)
    at = 0
    while at < steps:
        ptrace.request(ptrace.GETREGS, pid, 0, regs.ctypes.data)
        if text[0] <= int(regs[ip_at]) < text[1]:
            vector.iov_len = image.nbytes
            ptrace.request(
                ptrace.GETREGSET, pid, ptrace.NT_X86_XSTATE, ctypes.addressof(vector)
            )
            gprs[at] = regs[order]
            plan.gather(image, blocks[at])
            at += 1
        ptrace.request(_SINGLESTEP, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
            raise RuntimeError(f"the program ended, or got a signal: status {status:#x}")
    vectors = plan.registers * plan.qwords
    one = SetTruth(
        np.full(steps, 6, np.uint64), gprs,
        blocks[:, :vectors].reshape(steps, plan.registers, plan.qwords).copy(),
        blocks[:, vectors:].copy(),
    )  # fmt: skip
    ip = gprs[:, GPR_IDS.index(8)].copy()
    same = np.full(steps, pid, np.int32)
    truth = Truth(
        1_000_000_000 + 1000 * np.arange(steps, dtype=np.uint64), ip, same, same.copy(),
        np.zeros(steps, np.int32), np.full(steps, 2, np.uint16), {"user": one},
    )
    return Trace(truth, side)


def _peek(pid: int, address: int) -> int:
    word = ctypes.c_ulong()
    # The raw system call writes the word; the C library's wrapper returns it.
    ctypes.set_errno(0)
    found = int(ptrace.call(_PEEKTEXT, pid, address, ctypes.addressof(word)))
    if found == -1 and ctypes.get_errno():
        raise ptrace.last_error("PTRACE_PEEKTEXT")
    return found & 0xFFFFFFFFFFFFFFFF


def _symbol(binary: Path, name: str) -> int:
    listed = subprocess.run(
        ["nm", binary], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if
                line.split()[-1] == name)  # fmt: skip


def _code(pid: int, binary: Path) -> tuple[list[bytes], tuple[int, int]]:
    """Records that name the program and map its code, and where that is."""
    side = [encode.comm_record(pid, pid, "stepped", exec_=True)]
    text = (0, 0)
    number = binary.stat()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if len(words) < 6 or words[5] != str(binary):
            continue
        first, end = (int(part, 16) for part in words[0].split("-"))
        if "x" not in words[1]:
            continue
        text = (first, end)
        side.append(encode.mmap2_record(
            pid, pid, first, end - first, int(words[2], 16), str(binary),
            build_id=_build_id(binary), ino=number.st_ino,
        ))  # fmt: skip
    return side, text


def _build_id(binary: Path) -> bytes:
    said = subprocess.run(
        ["readelf", "-n", binary], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return bytes.fromhex(said.partition("Build ID:")[2].split()[0])


def executed(truth: Truth, places: Sequence[int]) -> Truth:
    """The rows of a trace at `places`."""
    one = truth.sets["user"]
    at = np.asarray(places)
    return Truth(
        truth.time_ns[at], truth.ip[at], truth.pid[at], truth.tid[at], truth.cpu[at],
        truth.misc[at],
        {"user": SetTruth(one.abi[at], one.gprs[at], one.vectors[at], one.predicates[at])},
    )  # fmt: skip
