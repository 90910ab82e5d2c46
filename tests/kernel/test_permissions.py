"""From errno to an explanation and the least change that helps, on described machines."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from support.fake_root import ALL_CAPS, PERFMON, SYS_PTRACE, make_root, task_status

from perfxmm.errors import (
    NotSupported,
    NotSupportedBySyscall,
    PerfxmmError,
    PermissionDenied,
    SyscallError,
    TargetError,
    errno_name,
)
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.dialects import M, SimdRequest
from perfxmm.kernel.permissions import (
    OpenContext,
    explain_mmap,
    explain_open,
    explain_ptrace,
    survey,
    task_facts,
)
from perfxmm.kernel.situation import Situation

USER_ONLY = EventAttr(flags=AttrFlag.EXCLUDE_KERNEL)
BOTH_MODES = EventAttr()
YMM_USER = EventAttr(
    sample_type=SampleType.REGS_USER, flags=AttrFlag.EXCLUDE_KERNEL, dialect=M,
    simd=SimdRequest(1, 0, 4, vec_user=0xFFFF),
)  # fmt: skip
XMM_LEGACY = EventAttr(
    sample_type=SampleType.REGS_INTR, flags=AttrFlag.EXCLUDE_KERNEL,
    sample_regs_intr=0xFFFFFFFF00000000,
)  # fmt: skip


def limits(_: int) -> tuple[int, int]:
    return (1024, 524_288)


def situation(base: Path, *, uid: int = 1000, **machine: Any) -> Situation:
    return survey(make_root(base, **machine), uid=uid, limits=limits)


def test_survey_reads_everything(tmp_path: Path) -> None:
    found = situation(
        tmp_path, paranoid=3, caps=PERFMON, lockdown="none [integrity] confidentiality\n",
        ptrace_scope=1, seccomp=2, container="run/.containerenv",
        cgroup="0::/system.slice/docker-abc.scope\n", uid_map="0 1000 1\n",
    )  # fmt: skip
    assert found.to_dict() == {
        "uid": 1000, "capabilities": ["CAP_PERFMON"], "perf_event_paranoid": 3,
        "perf_event_mlock_kb": 516, "perf_event_max_sample_rate": 100_000, "ptrace_scope": 1,
        "lockdown": "integrity", "nofile": [1024, 524_288], "memlock": [1024, 524_288],
        "seccomp": "filter", "no_new_privs": False, "user_namespace": True,
        "containers": ["/run/.containerenv", "cgroup: docker"],
    }  # fmt: skip


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    found = survey(tmp_path, uid=0, limits=limits)
    assert found == Situation(uid=0, nofile=(1024, 524_288), memlock=(1024, 524_288))
    assert found.to_dict()["capabilities"] is None
    assert not found.perfmon_capable


def test_survey_of_the_running_machine_is_plain_values() -> None:
    found = survey().to_dict()
    assert set(found) == set(Situation(uid=0).to_dict())


# machine | errno | attr | pid, cpu | error, words of why, words of the next step
DENIED = [
    ({"paranoid": 3}, errno.EACCES, USER_ONLY, (0, -1),
     "perf_event_paranoid is 3", "perf_event_paranoid=2 is enough"),
    ({"paranoid": 4}, errno.EACCES, YMM_USER, (5, -1), "perf_event_paranoid is 4", "CAP_PERFMON"),
    ({"paranoid": 2}, errno.EACCES, BOTH_MODES, (0, -1),
     "kernel mode needs CAP_PERFMON", "cycles:u"),
    ({"paranoid": 2}, errno.EACCES, USER_ONLY, (-1, 0),
     "whole CPUs need CAP_PERFMON", "record a command"),
    ({"paranoid": 1}, errno.EACCES, USER_ONLY, (-1, 0), "whole CPUs", "perf_event_paranoid=0"),
    ({"paranoid": 1}, errno.EPERM, EventAttr(type=PerfType.TRACEPOINT, sample_type=SampleType.RAW),
     (0, -1), "raw tracepoint data", "perf_event_paranoid=-1"),
    ({"paranoid": 2, "lockdown": "none integrity [confidentiality]", "caps": ALL_CAPS}, errno.EPERM,
     XMM_LEGACY, (0, -1), "lockdown (confidentiality)", "--user-regs"),
    ({"paranoid": 2, "lockdown": "none integrity [confidentiality]", "caps": ALL_CAPS}, errno.EPERM,
     YMM_USER, (0, -1), "security module", "audit log"),
    ({"paranoid": 2, "seccomp": 2, "container": ".dockerenv"}, errno.EPERM, USER_ONLY, (0, -1),
     "a container (/.dockerenv) with a seccomp filter", "--cap-add PERFMON"),
    ({"paranoid": 2, "seccomp": 2, "caps": ALL_CAPS}, errno.EPERM, USER_ONLY, (0, -1),
     "a seccomp filter is in the way", "--engine interrupt"),
    ({"paranoid": 2, "seccomp": 2}, errno.ENOSYS, USER_ONLY, (0, -1),
     "a seccomp filter is in the way", "seccomp profile"),
    ({"paranoid": 2, "caps": ALL_CAPS, "uid_map": "0 1000 1\n"}, errno.EACCES, USER_ONLY, (-1, 0),
     "user namespace", "audit log"),
    ({"paranoid": None, "caps": None}, errno.EACCES, USER_ONLY, (0, -1),
     "does not let this user", "CAP_PERFMON"),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "number", "attr", "place", "why", "step"), DENIED)
def test_denied(
    tmp_path: Path, machine: dict[str, Any], number: int, attr: EventAttr,
    place: tuple[int, int], why: str, step: str,
) -> None:  # fmt: skip
    context = OpenContext("cycles:pp", attr, *place)
    error = explain_open(OSError(number, ""), context, situation(tmp_path, **machine))
    assert type(error) is PermissionDenied
    assert error.exit_code == 3
    assert error.errno == number
    assert why in error.why
    assert step in error.next_step
    assert "root" not in error.next_step
    first = str(error).splitlines()[0]
    assert "cannot open event 'cycles:pp'" in first
    assert f"perf_event_open: {errno_name(number)}" in first


def test_another_users_process(tmp_path: Path) -> None:
    machine = situation(tmp_path, paranoid=2, tasks={77: task_status(uid=0)})
    context = OpenContext("cycles", USER_ONLY, 77, -1, target=task_facts(77, tmp_path))
    error = explain_open(OSError(errno.EACCES, ""), context, machine)
    assert "belongs to uid 0, this is uid 1000" in error.why
    assert "CAP_PERFMON and CAP_SYS_PTRACE" in error.next_step
    assert "pid 77" in str(error)


def test_an_undumpable_process_of_ones_own(tmp_path: Path) -> None:
    machine = situation(tmp_path, paranoid=2, tasks={77: task_status(uid=1000)})
    context = OpenContext("cycles", USER_ONLY, 77, -1, target=task_facts(77, tmp_path))
    error = explain_open(OSError(errno.EACCES, ""), context, machine)
    assert "undumpable" in error.why
    assert error.next_step == "CAP_PERFMON and CAP_SYS_PTRACE"


# errno | attr | cpu | exact type, exit code, words of why, words of the next step
REFUSED = [
    (errno.ENOSYS, USER_ONLY, -1, NotSupportedBySyscall, 4, "without perf events", "interrupt"),
    (errno.ENOENT, USER_ONLY, -1, NotSupportedBySyscall, 4, "no hardware PMU", "-e task-clock"),
    (errno.ENOENT, EventAttr(type=11), -1, NotSupportedBySyscall, 4, "no PMU", "perfxmm list"),
    (errno.ENODEV, USER_ONLY, 3, NotSupportedBySyscall, 4, "CPU 3 is offline", "online"),
    (errno.ENODEV, USER_ONLY, -1, NotSupportedBySyscall, 4, "is not there", ""),
    (errno.EOPNOTSUPP, EventAttr(type=1, dialect=M, simd=SimdRequest(1, 0, 2)), -1,
     NotSupportedBySyscall, 4, "only a core PMU", "sigtrap"),
    (errno.EOPNOTSUPP, EventAttr(precise_ip=3), -1, NotSupportedBySyscall, 4,
     "precise_ip 3", "fewer p"),
    (errno.EOPNOTSUPP, USER_ONLY, -1, NotSupportedBySyscall, 4, "not sample it", "task-clock"),
    (errno.EINVAL, EventAttr(flags=AttrFlag.FREQ, sample_period=200_000), -1, SyscallError, 1,
     "above kernel.perf_event_max_sample_rate, which is 100000", "-F 100000"),
    (errno.EINVAL, EventAttr(precise_ip=1, dialect=M, simd=SimdRequest(1, 0, 4)), -1,
     NotSupportedBySyscall, 4, "PEBS record alone", "drop the p modifier"),
    (errno.EINVAL, XMM_LEGACY, -1, NotSupportedBySyscall, 4, "precise events only", "cycles:p"),
    (errno.EINVAL, YMM_USER, -1, NotSupportedBySyscall, 4, "lacks one of", "doctor"),
    (errno.EINVAL, USER_ONLY, -1, SyscallError, 1, "combination", ""),
    (errno.E2BIG, YMM_USER, -1, NotSupportedBySyscall, 4, "no SIMD register sampling", "sigtrap"),
    (errno.ESRCH, USER_ONLY, -1, TargetError, 1, "no such process", ""),
    (errno.EBUSY, USER_ONLY, -1, SyscallError, 1, "NMI watchdog", "nmi_watchdog"),
    (errno.EMFILE, USER_ONLY, -1, SyscallError, 1, "RLIMIT_NOFILE is 1024", "ulimit -n 4096"),
    (errno.ENFILE, USER_ONLY, -1, SyscallError, 1, "whole system", "fs.file-max"),
    (errno.ENOMEM, USER_ONLY, -1, SyscallError, 1, "no memory", ""),
    (errno.ENOSPC, EventAttr(type=PerfType.BREAKPOINT), -1, SyscallError, 1, "four on x86",
     "debuggers"),
    (errno.ENOSPC, USER_ONLY, -1, SyscallError, 1, "no counter", "fewer"),
    (errno.EOVERFLOW, USER_ONLY, -1, SyscallError, 1, "max_stack", "-g"),
    (errno.EFAULT, USER_ONLY, -1, SyscallError, 1, "gives no reason", ""),
]  # fmt: skip


@pytest.mark.parametrize(("number", "attr", "cpu", "kind", "code", "why", "step"), REFUSED)
def test_refused(
    tmp_path: Path, number: int, attr: EventAttr, cpu: int, kind: type[PerfxmmError], code: int,
    why: str, step: str,
) -> None:  # fmt: skip
    machine = situation(tmp_path)
    error = explain_open(OSError(number, ""), OpenContext("cycles", attr, 0, cpu), machine)
    assert type(error) is kind
    assert error.exit_code == code
    assert why in error.why
    assert step in error.next_step
    assert errno_name(number) in str(error)
    assert isinstance(error, NotSupported) == (code == 4)


# errno | type | words of why | words of the next step
MMAP = [
    (errno.EPERM, PermissionDenied, "ring of 260 KiB passes", "-m 16"),
    (errno.EPERM, PermissionDenied, "perf_event_mlock_kb is 516", "CAP_IPC_LOCK"),
    (errno.ENOMEM, SyscallError, "found no 260 KiB", "-m 16"),
    (errno.EINVAL, SyscallError, "64 data pages", "power of two"),
    (errno.EIO, SyscallError, "could not be mapped", ""),
]


@pytest.mark.parametrize(("number", "kind", "why", "step"), MMAP)
def test_mmap(
    tmp_path: Path, number: int, kind: type[PerfxmmError], why: str, step: str
) -> None:
    error = explain_mmap(OSError(number, ""), 64, situation(tmp_path))
    assert type(error) is kind
    assert why in error.why
    assert step in error.next_step


# errno | machine | target status | type | words of why | words of the next step
PTRACE = [
    (errno.EPERM, {"ptrace_scope": 1}, task_status(uid=1000), PermissionDenied,
     "only own children", "record -- command"),
    (errno.EPERM, {"ptrace_scope": 2}, task_status(uid=1000), PermissionDenied,
     "ptrace_scope is 2", "CAP_SYS_PTRACE"),
    (errno.EPERM, {"ptrace_scope": 3, "caps": SYS_PTRACE}, task_status(uid=1000), PermissionDenied,
     "until reboot", ""),
    (errno.EPERM, {"ptrace_scope": 0}, task_status(uid=0), PermissionDenied,
     "belongs to uid 0", "as that user"),
    (errno.EPERM, {"ptrace_scope": 1}, task_status(uid=1000, tracer=42), PermissionDenied,
     "process 42 traces it already", "/proc/42/cmdline"),
    (errno.EPERM, {"ptrace_scope": 0}, task_status(uid=1000), PermissionDenied,
     "undumpable", "CAP_SYS_PTRACE"),
    (errno.EPERM, {"caps": SYS_PTRACE}, task_status(uid=0), PermissionDenied,
     "security module", "kernel thread"),
    (errno.ENOSYS, {"seccomp": 2}, task_status(uid=1000), PermissionDenied,
     "seccomp", "--cap-add SYS_PTRACE"),
    (errno.ESRCH, {}, task_status(uid=1000), TargetError, "no such task", ""),
    (errno.EPERM, {}, None, TargetError, "no such task", ""),
    (errno.EIO, {}, task_status(uid=1000), SyscallError, "cannot be traced", ""),
]  # fmt: skip


@pytest.mark.parametrize(("number", "machine", "status", "kind", "why", "step"), PTRACE)
def test_ptrace(
    tmp_path: Path, number: int, machine: dict[str, Any], status: str | None,
    kind: type[PerfxmmError], why: str, step: str,
) -> None:  # fmt: skip
    tasks = {} if status is None else {77: status}
    here = situation(tmp_path, tasks=tasks, **machine)
    error = explain_ptrace(OSError(number, ""), 77, here, root=tmp_path)
    assert type(error) is kind
    assert why in error.why
    assert step in error.next_step
    assert "PTRACE_SEIZE" in str(error)
