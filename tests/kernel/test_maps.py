"""CPU lists, threads, users; and what the CPU says of itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_sysfs import write

from perfxmm.errors import TargetError, UsageError
from perfxmm.kernel.cpuinfo import read_cpuinfo
from perfxmm.kernel.maps import (
    check_cpus,
    format_cpu_list,
    online_cpus,
    parse_cpu_list,
    processes_of,
    threads_of,
    user_id,
)

LISTS = [
    ("0", (0,)),
    ("0-3,7", (0, 1, 2, 3, 7)),
    ("7,0-3", (0, 1, 2, 3, 7)),
    (" 1 , 2 \n", (1, 2)),
    ("1-1", (1,)),
    ("0-6:2/4", (0, 1, 4, 5)),
    ("2,2,2-3", (2, 3)),
    ("", ()),
    ("\n", ()),
]


@pytest.mark.parametrize(("text", "cpus"), LISTS)
def test_cpu_list(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    "text", ["a", "1-", "-1", "3-1", "0x1", "1-2-3", "0-3:2", "0-3:5/4", "0-99999999", "1;2", "²"]
)
def test_bad_cpu_list(text: str) -> None:
    with pytest.raises(UsageError, match="write CPUs as 0-3,7"):
        parse_cpu_list(text, where="-C")


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 500)))
def test_cpu_list_round_trip(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))


def test_online_cpus(tmp_path: Path) -> None:
    write(tmp_path / "devices/system/cpu/online", "0-1,4")
    assert online_cpus(tmp_path) == (0, 1, 4)
    assert check_cpus((4, 0), tmp_path) == (4, 0)
    with pytest.raises(UsageError, match="no such CPU here: 2-3\nCPUs that are online: 0-1,4"):
        check_cpus((0, 2, 3), tmp_path)


def test_online_cpus_of_this_machine() -> None:
    assert set(os.sched_getaffinity(0)) <= set(online_cpus())


def test_threads(tmp_path: Path) -> None:
    for thread in (40, 7, 100):
        (tmp_path / "7/task" / str(thread)).mkdir(parents=True)
    assert threads_of(7, tmp_path) == (7, 40, 100)
    with pytest.raises(TargetError, match="there is no process 8"):
        threads_of(8, tmp_path)


def test_threads_of_this_process() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert {os.getpid(), thread.native_id} <= set(threads_of(os.getpid()))
    finally:
        stop.set()
        thread.join()


def test_users(tmp_path: Path) -> None:
    users = {1: (0, 0), 20: (1000, 1000), 30: (1000, 0), 5: (0, 1000)}
    for pid, (real, effective) in users.items():
        write(tmp_path / str(pid) / "status", f"Name:\tx\nUid:\t{real}\t{effective}\t0\t0\nGid:\t0")
    (tmp_path / "40").mkdir()  # ended while we looked
    write(tmp_path / "self/status", "Uid:\t1000\t1000\t0\t0")
    assert processes_of(1000, tmp_path) == (5, 20)
    assert processes_of(0, tmp_path) == (1, 30)
    assert processes_of(7, tmp_path) == ()


def test_user_names() -> None:
    assert user_id("root") == 0
    assert user_id("4711") == 4711
    with pytest.raises(UsageError, match="there is no user 'nobody-at-all'"):
        user_id("nobody-at-all")


# flags of /proc/cpuinfo -> register classes
CLASSES = [
    ("fpu sse sse2", ("gpr", "xmm")),
    ("sse2 avx avx2", ("gpr", "xmm", "ymm")),
    ("sse2 avx avx512f", ("gpr", "xmm", "ymm", "zmm", "opmask")),
    ("sse2 avx avx512f apx user_shstk",
     ("gpr", "xmm", "ymm", "zmm", "opmask", "egpr", "ssp")),
    ("", ("gpr",)),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "classes"), CLASSES)
def test_classes(flags: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    write(
        tmp_path / "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
        f"model name\t: AMD EPYC\nstepping\t: 1\nflags\t\t: {flags}\n\n"
        "processor\t: 1\nvendor_id\t: Other\n",
    )
    write(tmp_path / "proc/sys/kernel/osrelease", "7.4.0-test")
    info = read_cpuinfo(tmp_path / "proc", tmp_path / "sys")
    assert (info.vendor, info.model_name) == ("AuthenticAMD", "AMD EPYC")
    assert (info.family, info.model, info.stepping) == (25, 17, 1)
    assert info.classes == classes
    assert info.kernel_release == "7.4.0-test"
    assert (info.hypervisor, info.xen) == ("", False)


def test_hypervisors(tmp_path: Path) -> None:
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    write(proc / "cpuinfo", "flags\t: hypervisor")
    assert read_cpuinfo(proc, sysfs).hypervisor == "unknown"
    write(sysfs / "class/dmi/id/sys_vendor", "QEMU")
    assert read_cpuinfo(proc, sysfs).hypervisor == "QEMU"
    write(proc / "xen/capabilities", "control_d")
    assert read_cpuinfo(proc, sysfs).xen
    write(sysfs / "hypervisor/type", "xen")
    assert read_cpuinfo(proc, sysfs).xen


def test_no_cpuinfo_at_all(tmp_path: Path) -> None:
    info = read_cpuinfo(tmp_path, tmp_path)
    assert (info.vendor, info.family, info.classes) == ("", None, ("gpr",))
