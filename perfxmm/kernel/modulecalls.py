"""The system calls that load and unload a kernel module, and the kernel's own words about it.

Plain OSError with the errno the kernel gave; `sources.kmodule.loading` explains it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from pathlib import Path
from typing import Protocol

# arch/x86/entry/syscalls/syscall_64.tbl, Linux 7.3.
_FINIT_MODULE = 313
_DELETE_MODULE = 176


class ModuleCalls(Protocol):
    def finit_module(self, fd: int, parameters: str) -> None:
        """Loads the module that `fd` holds. Raises OSError."""
        ...

    def delete_module(self, name: str) -> None:
        """Unloads `name`, without waiting until nobody uses it. Raises OSError."""
        ...


class LinuxModuleCalls:
    """The running kernel, on x86-64."""

    def __init__(self) -> None:
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._here = platform.machine() == "x86_64"

    def finit_module(self, fd: int, parameters: str) -> None:
        self._call(_FINIT_MODULE, "finit_module", ctypes.c_int(fd),
                   ctypes.c_char_p(os.fsencode(parameters)), ctypes.c_int(0))  # fmt: skip

    def delete_module(self, name: str) -> None:
        self._call(_DELETE_MODULE, "delete_module", ctypes.c_char_p(name.encode()),
                   ctypes.c_uint(os.O_NONBLOCK))  # fmt: skip

    def _call(self, number: int, name: str, *arguments: object) -> None:
        if not self._here:
            raise OSError(errno.ENOSYS, f"{name} has no known number on this machine")
        if self._syscall(ctypes.c_long(number), *arguments) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)


class KernelLog:
    """What the kernel says from now on about a subject, where its log may be read.

    Gives nothing under kernel.dmesg_restrict without CAP_SYSLOG, and nothing of what came before.
    """

    def __init__(self, path: str | Path = "/dev/kmsg") -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = -1

    def lines(self, subject: str) -> list[str]:
        """Messages that begin with "`subject`: ", without it. Closes the log."""
        if self._fd < 0:
            return []
        found = []
        try:
            while record := os.read(self._fd, 8192):
                # Documentation/ABI/testing/dev-kmsg: "prefix;text", then lines of properties.
                text = record.partition(b";")[2].partition(b"\n")[0].decode(errors="replace")
                if text.startswith(f"{subject}: "):
                    found.append(text.removeprefix(f"{subject}: "))
        except OSError:
            pass  # EAGAIN: no more; EPIPE: overwritten while we read
        finally:
            os.close(self._fd)
            self._fd = -1
        return found
