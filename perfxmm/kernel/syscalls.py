"""The one seam to the kernel: perf_event_open and what one does with its descriptors.

`Kernel` is what the rest of the package asks for; `LinuxKernel` is the real one, by ctypes.
Tests hand in a fake. Everything here raises plain OSError with the errno the kernel gave:
`permissions` turns that into an explanation where the context is known.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import select
import struct
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from perfxmm.kernel.constants import IOC_ID, IOC_PERIOD

# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, Linux 7.3.
SYSCALL_NUMBERS = {"x86_64": 298, "aarch64": 241}
PAGE_BYTES = mmap.PAGESIZE


class Kernel(Protocol):
    """What perfxmm asks of a kernel. Every method raises OSError."""

    page_bytes: int

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int = -1, flags: int = 0
    ) -> int:
        """A new descriptor. The kernel may write into `attr`: with E2BIG it stores its own
        structure's size at offset 4."""
        ...

    def map_ring(self, fd: int, data_pages: int) -> memoryview:
        """The writable ring of `fd`: one control page and `data_pages` (a power of two)."""
        ...

    def unmap_ring(self, ring: memoryview) -> None:
        """Takes the mapping away. No other view into it may be used afterwards."""
        ...

    def ioctl(self, fd: int, request: int, argument: int = 0) -> None: ...

    def event_id(self, fd: int) -> int:
        """PERF_EVENT_IOC_ID: the id that samples of this event carry."""
        ...

    def set_period(self, fd: int, period: int) -> None:
        """PERF_EVENT_IOC_PERIOD: a new sample period (or frequency, with AttrFlag.FREQ)."""
        ...

    def read(self, fd: int, size: int) -> bytes: ...

    def close(self, fd: int) -> None: ...

    def poll(self, fds: Sequence[int], timeout_s: float) -> list[tuple[int, bool]]:
        """(fd, hung up) of those that have data or whose tasks are gone, after `timeout_s`."""
        ...

    def clock_ns(self) -> int:
        """CLOCK_MONOTONIC, the clock of perfxmm's recordings."""
        ...


class LinuxKernel:
    """The running kernel."""

    page_bytes = PAGE_BYTES

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = self._libc.syscall
        self._syscall.restype = ctypes.c_long
        self._mmap = self._libc.mmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self._munmap = self._libc.munmap
        self._munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._number = SYSCALL_NUMBERS.get(platform.machine())
        # The poll object is rebuilt only when the set of descriptors changes.
        self._polled: tuple[int, ...] = ()
        self._poll = select.poll()

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int = -1, flags: int = 0
    ) -> int:
        if self._number is None:
            raise OSError(errno.ENOSYS, "perf_event_open has no known number on this machine")
        buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
        fd = int(
            self._syscall(
                ctypes.c_long(self._number), ctypes.byref(buffer), ctypes.c_int(pid),
                ctypes.c_int(cpu), ctypes.c_int(group_fd), ctypes.c_ulong(flags),
            )
        )  # fmt: skip
        del buffer
        if fd < 0:
            raise _last_error("perf_event_open")
        return fd

    def map_ring(self, fd: int, data_pages: int) -> memoryview:
        # Not mmap.mmap: before 3.13 it keeps a duplicate descriptor for every mapping, and
        # descriptors are what a system-wide recording runs out of first.
        length = (1 + data_pages) * PAGE_BYTES
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = self._mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise _last_error("mmap")
        return memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")

    def unmap_ring(self, ring: memoryview) -> None:
        length = len(ring)
        address = ctypes.addressof((ctypes.c_ubyte * length).from_buffer(ring))
        ring.release()
        if self._munmap(address, length) != 0:
            raise _last_error("munmap")

    def ioctl(self, fd: int, request: int, argument: int = 0) -> None:
        fcntl.ioctl(fd, request, argument)

    def event_id(self, fd: int) -> int:
        return int(struct.unpack("=Q", fcntl.ioctl(fd, IOC_ID, bytes(8)))[0])

    def set_period(self, fd: int, period: int) -> None:
        fcntl.ioctl(fd, IOC_PERIOD, struct.pack("=Q", period))

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def close(self, fd: int) -> None:
        os.close(fd)

    def poll(self, fds: Sequence[int], timeout_s: float) -> list[tuple[int, bool]]:
        wanted = tuple(fds)
        if wanted != self._polled:
            self._poll = select.poll()
            for fd in wanted:
                self._poll.register(fd, select.POLLIN | select.POLLHUP)
            self._polled = wanted
        gone = select.POLLHUP | select.POLLERR
        return [(fd, bool(seen & gone)) for fd, seen in self._poll.poll(max(0, timeout_s) * 1000)]

    def clock_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@lru_cache(maxsize=1)
def linux_kernel() -> LinuxKernel:
    """The running kernel, one object a process, so that what was probed is asked once."""
    return LinuxKernel()


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), call)
