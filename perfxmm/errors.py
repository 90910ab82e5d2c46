"""Every error perfxmm raises, on one screen.

    PerfxmmError                 exit 1   anything else that stops the work
    ├── UsageError               exit 2   the command line asks for something that does not exist
    ├── PermissionDenied         exit 3   the kernel refuses; names the least privilege that helps
    ├── NotSupported             exit 4   this kernel, CPU, build or target cannot do it
    ├── DamagedInput             exit 5   the file is not what it claims; names the byte
    ├── TargetError              exit 1   the traced program is gone, busy or of the wrong kind
    └── OutputError              exit 1   a result could not be written

An error says what failed, where, why, and the next step. Exit codes are part of the interface.
"""

from __future__ import annotations

import errno as _errno


def errno_name(number: int) -> str:
    """The name of an errno as kernel and perf write it; the number itself if it has none."""
    # Python names 95 by its alias ENOTSUP.
    if number == _errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return _errno.errorcode.get(number, str(number))


class PerfxmmError(Exception):
    """Base of all errors. `str()` is the whole message; the first line stands alone."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.what} ({self.where})" if self.where else self.what
        if self.why:
            head = f"{head}: {self.why}"
        return f"{head}\n{self.next_step}" if self.next_step else head


class UsageError(PerfxmmError):
    exit_code = 2


class SyscallError(PerfxmmError):
    """A system call failed. `errno` is the number, `call` the name as in its manual page."""

    def __init__(
        self, what: str, *, call: str, errno: int, where: str = "", why: str = "",
        next_step: str = "",
    ) -> None:
        self.call = call
        self.errno = errno
        name = errno_name(errno)
        place = f"{call}: {name}" if not where else f"{where}, {call}: {name}"
        super().__init__(what, where=place, why=why, next_step=next_step)


class PermissionDenied(SyscallError):
    exit_code = 3


class NotSupported(PerfxmmError):
    exit_code = 4


class NotSupportedBySyscall(SyscallError, NotSupported):
    """The kernel's answer shows that it cannot do what was asked."""

    exit_code = 4


class DamagedInput(PerfxmmError):
    """The file is not what it claims to be.

    offset: byte offset in the file, None where it has no one place (a foreign file).
    """

    exit_code = 5

    def __init__(
        self, what: str, *, file: str = "", offset: int | None = None, record_type: str = "",
        field: str = "", wanted_bytes: int | None = None, available_bytes: int | None = None,
        why: str = "", next_step: str = "",
    ) -> None:
        self.file = file
        self.offset = offset
        self.record_type = record_type
        self.field = field
        self.wanted_bytes = wanted_bytes
        self.available_bytes = available_bytes
        place = [file] if file else []
        if offset is not None:
            place.append(f"offset {offset:#x}")
        if record_type:
            place.append(record_type)
        if field:
            place.append(f"field {field}")
        if wanted_bytes is not None and available_bytes is not None:
            place.append(f"{wanted_bytes} bytes wanted, {available_bytes} there")
        super().__init__(what, where=", ".join(place), why=why, next_step=next_step)


class TargetError(PerfxmmError):
    pass


class OutputError(PerfxmmError):
    pass
