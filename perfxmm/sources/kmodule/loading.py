"""Loads and unloads the module, and says why the kernel would not.

Nothing is loaded unless a person asked for it by name: `perfxmm module load`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perfxmm.errors import (
    NotSupported,
    NotSupportedBySyscall,
    PerfxmmError,
    PermissionDenied,
    SyscallError,
    UsageError,
)
from perfxmm.kernel.modulecalls import KernelLog, ModuleCalls
from perfxmm.kernel.situation import Situation
from perfxmm.sources.kmodule.building import read_vermagic
from perfxmm.sources.kmodule.place import MODULE

NMI_SOURCES = ("pmu", "ipi", "self")
INSTRUCTIONS = ("auto", "xsaves", "xsavec", "xsave")
SIGN_HELP = "perfxmm module sign-help tells how to sign it"


@dataclass(frozen=True, slots=True)
class Parameters:
    """The module's parameters; None leaves one at the module's own default."""

    nmi: str | None = None
    hz: int | None = None
    period: int | None = None
    mask: int | None = None
    instruction: str | None = None
    ssp: bool = False
    kernel_hits: bool = False

    def text(self) -> str:
        """As the kernel takes them. Raises UsageError for words that the module does not have."""
        for name, value, known in (
            ("nmi", self.nmi, NMI_SOURCES), ("instruction", self.instruction, INSTRUCTIONS),
        ):  # fmt: skip
            if value is not None and value not in known:
                raise UsageError(f"--{name} {value!r} is not known",
                                 next_step="use " + ", ".join(known))  # fmt: skip
        words = [
            f"{name}={value}"
            for name, value in (
                ("nmi", self.nmi), ("hz", self.hz), ("period", self.period),
                ("mask", None if self.mask is None else f"{self.mask:#x}"),
                ("instruction", self.instruction),
                ("ssp", 1 if self.ssp else None),
                ("kernel_hits", 1 if self.kernel_hits else None),
            )
            if value is not None
        ]  # fmt: skip
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What decides whether a module may be loaded. Values of None are not known.

    modules_disabled: the sysctl that closes the door until reboot.
    """

    situation: Situation
    release: str
    modules_disabled: bool | None = None
    root: Path = field(default=Path("/"))


def read_surroundings(situation: Situation, release: str, root: Path = Path("/")) -> Surroundings:
    try:
        disabled = (root / "proc/sys/kernel/modules_disabled").read_text().strip() == "1"
    except OSError:
        disabled = None
    return Surroundings(situation, release, disabled, root)


def load(
    file: Path, parameters: Parameters, calls: ModuleCalls, around: Surroundings,
    log: Callable[[], KernelLog] = KernelLog,
) -> None:
    """Loads `file`.

    Raises PermissionDenied, NotSupported, UsageError or SyscallError with the reason as far as
    errno, situation and the kernel's own log tell it.
    """
    text = parameters.text()
    if file.suffix != ".ko":
        raise NotSupported(f"{file.name} is compressed", where=str(file),
                           next_step=f"modprobe {MODULE} {text}".rstrip())  # fmt: skip
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {str(file)!r}", why=error.strerror or str(error),
                         next_step="perfxmm module build") from None  # fmt: skip
    try:
        _check_owner(fd, file)
        said = log()
        try:
            calls.finit_module(fd, text)
        except OSError as error:
            raise explain_load(error, file, around, said.lines(MODULE)) from None
    finally:
        os.close(fd)


def unload(calls: ModuleCalls, around: Surroundings) -> None:
    """Unloads the module. Raises as `load` does."""
    try:
        calls.delete_module(MODULE)
    except OSError as error:
        raise _explain_unload(error, around) from None


def _check_owner(fd: int, file: Path) -> None:
    """The kernel runs whatever is in there: nobody else may be able to write it."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{str(file)!r} can be written by others, and would run in the kernel",
            next_step=f"chmod go-w {file}, and build it anew if in doubt",
        )


def explain_load(
    error: OSError, file: Path, around: Surroundings, said: list[str]
) -> PerfxmmError:
    """The error for a finit_module that failed. said: the kernel's own words about it."""
    number = error.errno or 0
    explain = _LOAD.get(number, _unexplained)
    kind, why, step = explain(file, around)
    if said:
        why = said[-1]
    elif number in _BY_PARAMETER:
        step = f"{step} (dmesg | grep {MODULE} tells what)" if step else ""
    return _built(kind, "cannot load the module", "finit_module", number, why, step, str(file))


Explanation = tuple[type[PerfxmmError], str, str]


def _denied(file: Path, around: Surroundings) -> Explanation:
    situation = around.situation
    if around.modules_disabled:
        return (PermissionDenied, "kernel.modules_disabled is 1: no module until reboot", "")
    if situation.capabilities is not None and not situation.has("CAP_SYS_MODULE"):
        return (
            PermissionDenied, "loading a module needs CAP_SYS_MODULE",
            "have it loaded by somebody who may: sudo perfxmm module load. Recording from it then "
            "needs CAP_PERFMON only",
        )  # fmt: skip
    if situation.in_container or situation.user_namespace:
        return (PermissionDenied, "modules are loaded on the host, not in a container",
                "load it on the host")  # fmt: skip
    if situation.lockdown in ("integrity", "confidentiality"):
        return _unsigned(file, around)
    return (PermissionDenied, "the kernel, or a parameter's rule, does not permit it",
            f"dmesg | grep {MODULE}")  # fmt: skip


def _unsigned(file: Path, around: Surroundings) -> Explanation:
    lockdown = around.situation.lockdown
    state = f"lockdown is {lockdown}" if lockdown not in ("", "none") else "signatures are enforced"
    return (
        PermissionDenied,
        f"{state}: only modules signed with a key that this machine knows are loaded", SIGN_HELP,
    )  # fmt: skip


def _other_kernel(file: Path, around: Surroundings) -> Explanation:
    try:
        vermagic = read_vermagic(file)
    except OSError:
        vermagic = ""
    if vermagic and vermagic.split()[0] != around.release:
        why = f"it was built for kernel {vermagic.split()[0]}, and {around.release} is running"
    else:
        why = f"it was built for a kernel that is configured differently (vermagic {vermagic!r})"
    return (NotSupportedBySyscall, why, "perfxmm module build")


def _loaded(file: Path, around: Surroundings) -> Explanation:
    return (SyscallError, "it is loaded already",
            "perfxmm module status; other parameters: perfxmm module unload first")  # fmt: skip


def _no_device(file: Path, around: Surroundings) -> Explanation:
    return (NotSupportedBySyscall, "what should send the NMIs is not here",
            "perfxmm module load --nmi ipi needs no PMU, but two CPUs")  # fmt: skip


def _guests(file: Path, around: Surroundings) -> Explanation:
    return (NotSupportedBySyscall, "KVM is in use on this machine",
            "end the guests and unload kvm_intel or kvm_amd: modprobe -r kvm_intel")  # fmt: skip


def _no_feature(file: Path, around: Surroundings) -> Explanation:
    return (NotSupportedBySyscall, "this CPU or kernel does not have what was asked for",
            "load it with fewer options")  # fmt: skip


def _parameter(file: Path, around: Surroundings) -> Explanation:
    return (UsageError, "a parameter is not one that it takes", "perfxmm module --help")


def _no_modules(file: Path, around: Surroundings) -> Explanation:
    return (NotSupportedBySyscall, "this kernel has no loadable modules", "")


def _unexplained(file: Path, around: Surroundings) -> Explanation:
    return (SyscallError, "the kernel gives no reason that perfxmm knows", "")


_BY_PARAMETER = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.EBUSY)
# kernel/module/main.c and signing.c, Linux 7.3, and what the module itself answers.
_LOAD: Mapping[int, Callable[[Path, Surroundings], Explanation]] = {
    errno.EPERM: _denied,
    errno.EKEYREJECTED: _unsigned,
    errno.ENOKEY: _unsigned,
    errno.EBADMSG: _unsigned,
    errno.ENOEXEC: _other_kernel,
    errno.ENOENT: _other_kernel,
    errno.EEXIST: _loaded,
    errno.ENODEV: _no_device,
    errno.EBUSY: _guests,
    errno.EOPNOTSUPP: _no_feature,
    errno.EINVAL: _parameter,
    errno.ENOSYS: _no_modules,
}


def _explain_unload(error: OSError, around: Surroundings) -> PerfxmmError:
    number = error.errno or 0
    kind: type[PerfxmmError] = SyscallError
    step = ""
    if number == errno.ENOENT:
        why = "it is not loaded"
    elif number in (errno.EAGAIN, errno.EBUSY):
        why, step = "somebody records from it", "end the recordings first: perfxmm module status"
    elif number == errno.EPERM:
        kind = PermissionDenied
        if around.modules_disabled:
            why = "kernel.modules_disabled is 1: no module is unloaded until reboot"
        else:
            why, step = "unloading needs CAP_SYS_MODULE", "sudo perfxmm module unload"
    elif number == errno.ENOSYS:
        kind, why = NotSupportedBySyscall, "this kernel has no loadable modules"
    else:
        why = "the kernel gives no reason that perfxmm knows"
    return _built(kind, "cannot unload the module", "delete_module", number, why, step)


def _built(
    kind: type[PerfxmmError], what: str, call: str, number: int, why: str, step: str,
    where: str = "",
) -> PerfxmmError:
    if issubclass(kind, SyscallError):
        return kind(what, call=call, errno=number, where=where, why=why, next_step=step)
    return kind(what, where=where, why=why, next_step=step)
