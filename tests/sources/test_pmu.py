"""Source pmu against the fake kernel: what it opens, what arrives in the file, what it explains.

The records are kernel-made (an emulator's kernel with the merged ABI); the system calls are a fake.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_kernel import (
    ICE_LAKE_7_3,
    ICE_LAKE_MERGED,
    NO_PMU,
    OVERLAY_6_18,
    TIGERLAKE,
    FakeKernel,
    Model,
)
from support.fake_root import make_root
from support.kernel_records import (
    FIRST_TOOL_RECORD,
    Made,
    data_section,
    kernel_records,
    kind_of,
    misc_of,
)

from perfxmm.errors import (
    NotSupported,
    NotSupportedBySyscall,
    OutputError,
    PermissionDenied,
    SyscallError,
    TargetError,
    UsageError,
)
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, RecordType
from perfxmm.kernel.maps import online_cpus
from perfxmm.kernel.permissions import survey
from perfxmm.kernel.probe import Capabilities, probe
from perfxmm.kernel.ring import walk
from perfxmm.kernel.syscalls import linux_kernel
from perfxmm.perfdata.metadata import GAP_MAGIC
from perfxmm.sources.base import RecordRequest, RequestedEvent
from perfxmm.sources.command import WaitingCommand
from perfxmm.sources.pmu import PmuSource, arch_pebs
from perfxmm.sources.pmu_attr import READ_FORMAT, PlannedEvent
from perfxmm.sources.pmu_events import OpenEvents
from perfxmm.xstate.cpuid import xgetbv

APART = (
    AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_GUEST | AttrFlag.EXCLUDE_HV | AttrFlag.EXCLUDE_IDLE
)  # fmt: skip
WIDE = ("gpr", "xmm", "ymm", "zmm", "opmask")
PIECE = 20_000  # bytes fed before each drain


class FakeCommand:
    """A child that ends with `status` when told to."""

    def __init__(self, argv: Sequence[str], pid: int = 4242, status: int = 0) -> None:
        self.argv, self.pid, self.status = argv, pid, status
        self.log: list[str] = []
        self.ended = False

    def release(self) -> None:
        self.log.append("release")

    def poll(self) -> int | None:
        return self.status if self.ended else None

    def wait(self, timeout_s: float | None = None) -> int | None:
        self.log.append("wait")
        return self.status if self.ended or timeout_s is None else None

    def abandon(self) -> None:
        self.log.append("abandon")


def event(*, precise_ip: int = 0, name: str = "cycles:u", **values: Any) -> RequestedEvent:
    values.setdefault("flags", APART | AttrFlag.FREQ)
    return RequestedEvent(name, EventAttr(sample_period=999, precise_ip=precise_ip, **values))


def request(tmp_path: Path, **values: Any) -> RecordRequest:
    values.setdefault("events", (event(),))
    values.setdefault("classes", WIDE)
    values.setdefault("output", str(tmp_path / "out.data"))
    if not any(name in values for name in ("command", "pids", "tids", "system_wide", "cpus")):
        values["command"] = ("app",)
    return RecordRequest(**values)


def found_for(model: Model) -> Capabilities:
    return probe(FakeKernel(model))


def source(
    kernel: FakeKernel, tmp_path: Path, *, child: FakeCommand | None = None,
    cpus: Sequence[int] = (0, 1), root: dict[str, Any] | None = None, proc: str = "",
) -> PmuSource:  # fmt: skip
    base = make_root(tmp_path / "root", **(root or {}))
    return PmuSource(
        kernel, found=found_for(kernel.model), situation=survey(base, uid=1000), cpus=cpus,
        spawn=lambda argv, **_: child or FakeCommand(argv), proc=proc or str(base / "proc"),
    )  # fmt: skip


def end_at_once(kernel: FakeKernel) -> bool:
    return False


class Feeder:
    """Feeds one ring piece by piece, a piece a poll, then lets every task end."""

    def __init__(self, made: Made | bytes, *, ring: int = 0, piece: int = PIECE) -> None:
        self.data = made if isinstance(made, bytes) else made.data
        self.ring, self.piece, self.at = ring, piece, 0

    def __call__(self, kernel: FakeKernel) -> bool:
        if self.at == len(self.data):
            return False
        fd = [e.fd for e in kernel.live if e.ring is not None][self.ring]
        end = self.at
        for offset, size in walk(self.data[self.at :]):
            if offset + size > self.piece:
                break
            end = self.at + offset + size
        taken = kernel.feed_all(fd, self.data[self.at : end])
        assert taken == end - self.at > 0
        self.at = end
        return True


def file_records(path: str | Path) -> list[bytes]:
    data = data_section(Path(path).read_bytes())
    return [data[at : at + size] for at, size in walk(data)]


def kernel_made(path: str | Path) -> bytes:
    return b"".join(r for r in file_records(path) if kind_of(r) < FIRST_TOOL_RECORD)


def metadata(path: str | Path) -> dict[str, Any]:
    raw = Path(path).read_bytes()
    at = raw.index(GAP_MAGIC)
    (length,) = struct.unpack_from("<Q", raw, at + 8)
    loaded: dict[str, Any] = json.loads(raw[at + 16 : at + 16 + length])
    return loaded


# --- what is opened

BASE_TYPE = 1 << 16 | 1 | 2 | 4 | 1 << 7 | 1 << 8
USER, INTR = 1 << 12, 1 << 18
# DISABLED INHERIT ENABLE_ON_EXEC MMAP COMM TASK SAMPLE_ID_ALL MMAP2 COMM_EXEC USE_CLOCKID BUILD_ID
LAUNCH_FLAGS = (
    0b11 | 1 << 12 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 18 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 34
)  # fmt: skip
SIMD_ZMM_INTR = "0100010008000000 ff00000000000000 ffffffff00000000 0000000000000000"
SIMD_ZMM_BOTH = "0100010008000000 ff000000ff000000 ffffffff00000000 ffffffff00000000"
SIMD_YMM_USER = "0100000004000000 0000000000000000 0000000000000000 ffff000000000000"
SIMD_SSP_INTR = "0100000000000000 0000000000000000 0000000000000000 0000000000000000"
O1_ZMM_INTR = "0100080000000000 ff00000000000000 ffffffff00000000 0000000000000000"
GPR, LEGACY = 0xFF0FFF, 0xFFFFFFFFFFFF0FFF & ~0xFF000000
# model | classes, sets, precise_ip | size, sample_type, regs_intr, regs_user | bytes from 144 on
OPENED = [
    (TIGERLAKE, WIDE, (), 0, 176, BASE_TYPE | INTR, GPR, 0, SIMD_ZMM_INTR),
    (TIGERLAKE, WIDE, ("intr", "user"), 0, 176, BASE_TYPE | INTR | USER, GPR, GPR, SIMD_ZMM_BOTH),
    (TIGERLAKE, ("gpr", "xmm", "ymm"), ("user",), 0, 176, BASE_TYPE | USER, 0, GPR, SIMD_YMM_USER),
    (TIGERLAKE, ("gpr", "ssp"), (), 0, 176, BASE_TYPE | INTR, GPR | 1 << 40, 0, SIMD_SSP_INTR),
    (TIGERLAKE, ("ssp",), (), 0, 176, BASE_TYPE | INTR, 1 << 8 | 1 << 40, 0, SIMD_SSP_INTR),
    # General registers and XMM need no SIMD ABI: dialect L in the smallest attr.
    (TIGERLAKE, ("gpr", "xmm"), (), 0, 104, BASE_TYPE | INTR, LEGACY, 0, ""),
    (TIGERLAKE, ("gpr", "xmm"), ("user",), 0, 96, BASE_TYPE | USER, 0, LEGACY, ""),
    (TIGERLAKE, ("gpr",), (), 0, 104, BASE_TYPE | INTR, GPR, 0, ""),
    (ICE_LAKE_MERGED, ("gpr", "xmm"), (), 2, 104, BASE_TYPE | INTR, LEGACY, 0, ""),
    (ICE_LAKE_7_3, ("gpr", "xmm"), ("intr",), 1, 104, BASE_TYPE | INTR, LEGACY, 0, ""),
    (OVERLAY_6_18, WIDE, (), 0, 176, BASE_TYPE | INTR, GPR, 0, O1_ZMM_INTR),
    # The overlay takes XMM at precise_ip 0 by its SIMD fields only.
    (OVERLAY_6_18, ("gpr", "xmm"), ("user",), 0, 176, BASE_TYPE | USER, 0, GPR,
     "0100020000000000 0000000000000000 0000000000000000 ffff000000000000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "classes", "sets", "precise", "size", "kinds", "intr", "user", "simd"), OPENED
)
def test_attr_bytes_asked_of_the_kernel(
    tmp_path: Path, model: Model, classes: tuple[str, ...], sets: tuple[str, ...], precise: int,
    size: int, kinds: int, intr: int, user: int, simd: str,
) -> None:  # fmt: skip
    kernel = FakeKernel(model, on_poll=end_at_once)
    asked = request(tmp_path, classes=classes, sets=sets, events=(event(precise_ip=precise),))
    source(kernel, tmp_path, cpus=(0,)).record(asked)
    expected = bytearray(104)
    flags = LAUNCH_FLAGS | int(APART | AttrFlag.FREQ) | precise << 15
    struct.pack_into("<IIQQQQQ", expected, 0, 0, size, 0, 999, kinds, 7, flags)
    struct.pack_into("<QIiQ", expected, 80, user, 0, 1, intr)
    whole = bytes(expected[: min(size, 104)]).ljust(min(size, 144), b"\0") + bytes.fromhex(simd)
    assert [e.attr.hex() for e in kernel.opened] == [whole.hex()]
    assert metadata(asked.output)["opened_attrs"] == [whole.hex()]


def test_a_command_is_opened_for_each_cpu_and_shares_a_ring_by_cpu(tmp_path: Path) -> None:
    kernel = FakeKernel(on_poll=end_at_once)
    child = FakeCommand((), status=3)
    two = (event(), event(name="instructions:u", config=1))
    result = source(kernel, tmp_path, child=child, cpus=(0, 1, 2)).record(
        request(tmp_path, events=two)
    )
    assert [(e.pid, e.cpu, e.flags) for e in kernel.opened] == [
        (4242, cpu, 8) for _ in two for cpu in (0, 1, 2)
    ]  # fmt: skip
    assert [e.output for e in kernel.opened] == [None] * 3 + [1000, 1001, 1002]
    assert [e.ring is not None for e in kernel.opened] == [True] * 3 + [False] * 3
    assert kernel.live == []
    assert child.log == ["release", "abandon", "wait"]
    assert result.exit_status == 3
    tracking = [bool(attrs.decode(e.attr).flags & AttrFlag.MMAP2) for e in kernel.opened]
    assert tracking == [True] * 3 + [False] * 3


def fake_proc(tmp_path: Path, pids: dict[int, Sequence[int]]) -> str:
    for pid, tids in pids.items():
        for tid in tids:
            task = tmp_path / "root/proc" / str(pid) / "task" / str(tid)
            task.mkdir(parents=True, exist_ok=True)
            (task / "comm").write_text(f"worker{tid}\n")
            own = tmp_path / "root/proc" / str(tid)
            own.mkdir(exist_ok=True)
            (own / "status").write_text(f"Name:\tw\nTgid:\t{pid}\nUid:\t1000\t0\t0\t0\n")
        (tmp_path / "root/proc" / str(pid) / "maps").write_text(
            "00400000-00401000 r-xp 00001000 08:01 77 /usr/bin/app\n"
        )
    return str(tmp_path / "root/proc")


def test_a_process_is_opened_thread_by_thread_and_named_at_the_start(tmp_path: Path) -> None:
    kernel = FakeKernel(on_poll=end_at_once)
    proc = fake_proc(tmp_path, {50: (50, 51)})
    asked = request(tmp_path, pids=(50,))
    result = source(kernel, tmp_path, proc=proc).record(asked)
    assert [(e.pid, e.cpu) for e in kernel.opened] == [(50, 0), (50, 1), (51, 0), (51, 1)]
    assert [e.output for e in kernel.opened] == [None, None, 1000, 1001]
    assert all(e.enabled for e in kernel.opened)
    flags = attrs.decode(kernel.opened[0].attr).flags
    assert not flags & AttrFlag.ENABLE_ON_EXEC
    assert flags & AttrFlag.INHERIT
    kinds = [kind_of(r) for r in file_records(asked.output)]
    assert kinds[:4] == [RecordType.COMM, RecordType.FORK, RecordType.COMM, RecordType.MMAP2]
    first = file_records(asked.output)[0]
    # COMM of pid 50: name, then TID, TIME, CPU, IDENTIFIER as trailer.
    assert first[8:16] == struct.pack("<II", 50, 50)
    assert first[-32:] == struct.pack("<IIQIIQ", 50, 50, 0, 0, 0, 70_000)
    assert result.exit_status is None


def test_threads_without_inheritance_have_a_ring_each(tmp_path: Path) -> None:
    kernel = FakeKernel(on_poll=end_at_once)
    proc = fake_proc(tmp_path, {50: (50, 51)})
    source(kernel, tmp_path, proc=proc).record(
        request(tmp_path, tids=(51, 50), inherit=False, events=(event(), event(name="b", config=1)))
    )
    assert [(e.pid, e.cpu, e.output) for e in kernel.opened] == [
        (51, -1, None), (50, -1, None), (51, -1, 1000), (50, -1, 1001)
    ]  # fmt: skip
    assert not any(attrs.decode(e.attr).flags & AttrFlag.INHERIT for e in kernel.opened)


@pytest.mark.parametrize(
    ("values", "cpus"), [({"system_wide": True}, [0, 1]), ({"cpus": (1,)}, [1])]
)
def test_whole_cpus(tmp_path: Path, values: dict[str, Any], cpus: list[int]) -> None:
    kernel = FakeKernel(on_poll=end_at_once)
    proc = fake_proc(tmp_path, {50: (50,), 60: (60,)})
    asked = request(tmp_path, **values)
    source(kernel, tmp_path, proc=proc).record(asked)
    assert [(e.pid, e.cpu) for e in kernel.opened] == [(-1, cpu) for cpu in cpus]
    assert not attrs.decode(kernel.opened[0].attr).flags & AttrFlag.INHERIT
    kinds = [kind_of(r) for r in file_records(asked.output)]
    assert kinds.count(RecordType.COMM) == kinds.count(RecordType.MMAP2) == 2


def test_tasks_and_cpus_that_went_away_are_left_out(tmp_path: Path) -> None:
    kernel = FakeKernel(
        on_poll=end_at_once, missing_tasks=frozenset({51}), missing_cpus=frozenset({1})
    )
    proc = fake_proc(tmp_path, {50: (50, 51, 52)})
    source(kernel, tmp_path, proc=proc).record(request(tmp_path, pids=(50,)))
    assert [(e.pid, e.cpu) for e in kernel.opened] == [(50, 0), (52, 0)]


def test_a_target_that_is_gone(tmp_path: Path) -> None:
    kernel = FakeKernel(missing_tasks=frozenset({50}))
    proc = fake_proc(tmp_path, {50: (50,)})
    with pytest.raises(TargetError, match="cannot open event 'cycles:u'"):
        source(kernel, tmp_path, proc=proc).record(request(tmp_path, pids=(50,)))
    with pytest.raises(TargetError, match="there is no process 99"):
        source(kernel, tmp_path, proc=proc).record(request(tmp_path, pids=(99,)))
    assert kernel.live == []
    assert not (tmp_path / "out.data").exists()


# --- what arrives

@pytest.mark.parametrize(
    ("name", "classes", "pages", "start"),
    [("kernel-zmm-opmask-both-user", WIDE, 8, 8 * 4096 - 24),
     ("kernel-not-in-nmi", WIDE, 16, (1 << 40) + 8),
     ("kernel-syscalls-skid-exclude-kernel", ("gpr", "xmm", "ymm"), 64, 0)],
)  # fmt: skip
def test_records_arrive_byte_by_byte(
    shared_data: Path, tmp_path: Path, name: str, classes: tuple[str, ...], pages: int, start: int
) -> None:
    made = kernel_records(shared_data / "simd" / f"{name}.data")
    kernel = FakeKernel(
        on_poll=Feeder(made), first_identifier=made.identifier, ring_start=start
    )
    asked = request(tmp_path, classes=classes, sets=("intr", "user"), mmap_pages=pages)
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    assert attrs.decode(kernel.opened[0].attr).simd == made.attr.simd
    assert attrs.decode(kernel.opened[0].attr).sample_type == made.attr.sample_type
    assert kernel_made(asked.output) == made.data
    assert result.samples == len(made.samples)
    assert result.lost == result.throttled == 0
    assert result.bytes_written == Path(asked.output).stat().st_size or result.bytes_written > 0
    rounds = sum(kind_of(r) == RecordType.FINISHED_ROUND for r in file_records(asked.output))
    assert 1 <= rounds <= kernel.polls
    assert oct(Path(asked.output).stat().st_mode)[-3:] == "600"


def test_rings_of_two_cpus_both_arrive(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    both = (Feeder(made, ring=0), Feeder(made, ring=1))

    def feed(kernel: FakeKernel) -> bool:
        first, second = (feeder(kernel) for feeder in both)
        return first and second

    kernel = FakeKernel(on_poll=feed, first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"))
    result = source(kernel, tmp_path).record(asked)
    assert result.samples == 2 * len(made.samples)
    assert sorted(split(kernel_made(asked.output))) == sorted(made.records * 2)


def split(data: bytes) -> list[bytes]:
    return [data[at : at + size] for at, size in walk(data)]


def kernel_mode_request(tmp_path: Path, **values: Any) -> RecordRequest:
    allowed = event(name="cycles", flags=AttrFlag.EXCLUDE_GUEST)
    return request(tmp_path, events=(allowed,), sets=("intr", "user"), **values)


def test_kernel_mode_vectors_are_not_written(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-syscalls-kernel-allowed.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = kernel_mode_request(tmp_path)
    source(kernel, tmp_path, cpus=(0,)).record(asked)
    ours = [r for r in split(kernel_made(asked.output)) if kind_of(r) not in (1, 10)]
    theirs = [r for r in made.records if kind_of(r) not in (1, 10)]
    assert len(ours) == len(theirs)
    shorter = 0
    for new, old in zip(ours, theirs, strict=True):
        if kind_of(old) != 9 or misc_of(old) & 7 == 2:
            assert new == old
        else:
            # The interrupt set is the last field: abi 0 in its place, the rest gone.
            assert new[8:-8] == old[8 : len(new) - 8]
            assert new[-8:] == bytes(8)
            assert len(old) - len(new) == 8 * 20 + 2144
            shorter += 1
    assert shorter == 16
    assert metadata_at_end(asked.output)["result"]["withheld_samples"] == 16


def metadata_at_end(path: str) -> dict[str, Any]:
    raw = Path(path).read_bytes()
    at = raw.rindex(b'{"schema":"perfxmm.recording')
    loaded: dict[str, Any] = json.JSONDecoder().raw_decode(raw[at:].decode(errors="replace"))[0]
    return loaded


def test_unsafe_foreign_keeps_them(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-syscalls-kernel-allowed.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = kernel_mode_request(tmp_path, unsafe_foreign=True)
    source(kernel, tmp_path, cpus=(0,)).record(asked)
    assert made.data in kernel_made(asked.output)
    assert metadata(asked.output)["unsafe_foreign"] is True


def test_into_a_pipe(
    shared_data: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"), output="-")
    # pytest's own stand-in for stdout has no descriptor.
    with pytest.MonkeyPatch.context() as patch, os.fdopen(os.dup(1), "w") as stdout:
        patch.setattr("sys.stdout", stdout)
        result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    out = capfdbinary.readouterr().out
    assert out[:16] == b"PERFILE2" + struct.pack("<Q", 16)
    records = [out[16:][at : at + size] for at, size in walk(out[16:])]
    assert b"".join(r for r in records if kind_of(r) < FIRST_TOOL_RECORD) == made.data
    assert result.samples == len(made.samples)


def test_redaction_writes_no_register(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"), redact="values")
    source(kernel, tmp_path, cpus=(0,)).record(asked)
    samples = [r for r in split(kernel_made(asked.output)) if kind_of(r) == 9]
    assert len(samples) == len(made.samples)
    for new, old in zip(samples, made.samples, strict=True):
        assert new == struct.pack("<IHH", 9, misc_of(old), 72) + old[8:56] + bytes(16)


def test_crypto_redaction_is_for_export(tmp_path: Path) -> None:
    asked = request(tmp_path, redact="crypto")
    with pytest.raises(NotSupported, match="export --redact crypto"):
        source(FakeKernel(), tmp_path).record(asked)
    assert "nothing decodes instructions" in (source(FakeKernel(), tmp_path).why_not(asked) or "")


def test_lost_and_throttled_are_counted(tmp_path: Path) -> None:
    trailer = bytes(32)
    data = struct.pack("<IHHQQ", 2, 0, 56, 1, 11) + trailer
    data += struct.pack("<IHHQ", 13, 0, 48, 5) + trailer
    data += struct.pack("<IHHQQQ", 5, 0, 64, 1, 1, 1) + trailer
    kernel = FakeKernel(on_poll=Feeder(data))
    asked = request(tmp_path)
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    assert (result.lost, result.throttled, result.samples) == (16, 1, 0)
    assert kernel_made(asked.output) == data


# (enabled_ns, running_ns) of each descriptor, events by CPUs 0 and 1 | sums and percent by event
COUNTED = [
    # A thread's descriptors are enabled while it runs anywhere: 30 + 70 of 100 is all of it.
    ({"command": ("app",)}, [(100, 30), (100, 70)], [(100, 100, 0.0)]),
    ({"command": ("app",)}, [(100, 10), (100, 30)], [(100, 40, 60.0)]),
    ({"command": ("app",)}, [(100, 30), (100, 70), (100, 0), (100, 50)],
     [(100, 100, 0.0), (100, 50, 50.0)]),
    ({"command": ("app",)}, [(0, 0), (0, 0)], [(0, 0, None)]),
    ({"system_wide": True}, [(100, 50), (300, 50)], [(400, 100, 75.0)]),
    ({"system_wide": True}, [(100, 100), (100, 101)], [(200, 201, 0.0)]),
]  # fmt: skip


@pytest.mark.parametrize(("target", "times", "expected"), COUNTED)
def test_multiplexed_events_are_part_of_the_result(
    tmp_path: Path, target: dict[str, Any], times: list[tuple[int, int]],
    expected: list[tuple[int, int, float | None]],
) -> None:  # fmt: skip
    def end(kernel: FakeKernel) -> bool:
        for opened, (enabled, running) in zip(kernel.opened, times, strict=True):
            opened.enabled_ns, opened.running_ns = enabled * 10**6, running * 10**6
        return False

    both = (event(), event(name="instructions:u", config=1))
    asked = request(tmp_path, events=both[: len(expected)], **target)
    result = source(FakeKernel(on_poll=end), tmp_path).record(asked)
    assert metadata_at_end(asked.output)["result"]["events"] == [
        {"name": one.name, "time_enabled_ns": enabled * 10**6, "time_running_ns": running * 10**6,
         "multiplexed_percent": percent}
        for one, (enabled, running, percent) in zip(both, expected, strict=False)
    ]  # fmt: skip
    assert result.warnings == [
        f"event '{one.name}' was counted only {100 - percent:.0f} % of the time: the PMU has "
        "fewer counters than there are events, or something else holds them"
        for one, (_, _, percent) in zip(both, expected, strict=False) if percent
    ]  # fmt: skip


def test_counted_time_as_the_kernel_tells_it() -> None:
    """A software event always counts: over two CPUs its times must come out as equal."""
    kernel = linux_kernel()
    script = "x=0; while [ $x -lt 30000 ]; do x=$((x+1)); done"
    child = WaitingCommand(["/bin/sh", "-c", f"{script}; taskset -p -c 0 $$; {script}"])
    flags = int(AttrFlag.DISABLED | AttrFlag.INHERIT | AttrFlag.EXCLUDE_KERNEL)
    task_clock = EventAttr(
        type=PerfType.SOFTWARE, config=1, sample_period=10**9, flags=flags, sample_type=1,
        read_format=int(READ_FORMAT),
    )
    opened = OpenEvents(kernel, survey())
    try:
        opened.open_all([PlannedEvent("task-clock", task_clock)], (child.pid,), online_cpus(), 1)
    except (PermissionDenied, NotSupportedBySyscall) as refusal:
        child.abandon()
        pytest.skip(f"no software event here: {refusal.what}")
    opened.switch(on=True)
    child.release()
    child.wait()
    (time,) = opened.counted_times()
    opened.close()
    assert time.enabled_ns > 1_000_000
    assert time.multiplexed_percent == pytest.approx(0, abs=2)


# --- limits and ends

def test_max_samples_is_exact(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"), max_samples=10)
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    assert result.samples == 10
    written = split(kernel_made(asked.output))
    assert sum(kind_of(r) == 9 for r in written) == 10
    assert b"".join(written) == made.data[: len(b"".join(written))]


def test_max_size_ends_at_a_record(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"), max_size_bytes=60_000)
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    raw = Path(asked.output).read_bytes()
    offset, size = struct.unpack_from("<QQ", raw, 40)
    assert 60_000 - 4_680 < offset + size <= 60_000
    assert 0 < result.samples < len(made.samples)
    assert metadata_at_end(asked.output)["result"]["ended_by"] == "max-size"


def test_duration_counts_from_the_end_of_the_delay(tmp_path: Path) -> None:
    seen: list[tuple[float, bool]] = []

    def watch(kernel: FakeKernel) -> None:
        seen.append((kernel.now_ns / 1e9 - 1, kernel.opened[0].enabled))

    kernel = FakeKernel(on_poll=watch, poll_step_ns=100_000_000)
    child = FakeCommand(())
    asked = request(tmp_path, delay_s=0.5, duration_s=1.0)
    result = source(kernel, tmp_path, child=child, cpus=(0,)).record(asked)
    assert [round(t, 3) for t, on in seen if not on] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert round(max(t for t, _ in seen), 3) == 1.5
    assert result.elapsed_s == pytest.approx(1.0, abs=0.01)
    assert child.log == ["release", "abandon", "wait"]
    assert not attrs.decode(kernel.opened[0].attr).flags & AttrFlag.ENABLE_ON_EXEC


def test_the_commands_end_ends_it_after_a_last_drain(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    child = FakeCommand((), status=130)
    feeder = Feeder(made)

    def feed(kernel: FakeKernel) -> bool:
        if not feeder(kernel):
            child.ended = True
        return True

    kernel = FakeKernel(on_poll=feed, first_identifier=made.identifier)
    asked = request(tmp_path, sets=("intr", "user"))
    result = source(kernel, tmp_path, child=child, cpus=(0,)).record(asked)
    assert kernel_made(asked.output) == made.data
    assert result.exit_status == 130
    assert metadata_at_end(asked.output)["result"]["ended_by"] == "ended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, and stays so")
    child = FakeCommand(())

    def hit(kernel: FakeKernel) -> None:
        os.kill(os.getpid(), number)

    kernel = FakeKernel(on_poll=hit)
    asked = request(tmp_path)
    result = source(kernel, tmp_path, child=child, cpus=(0,)).record(asked)
    assert result.interrupted
    assert result.exit_status is None
    assert result.warnings == ["the command still runs, as process 4242"]
    assert signal.getsignal(number) is before
    assert metadata_at_end(asked.output)["result"]["ended_by"] == number.name
    assert not kernel.opened[0].enabled


def test_keyboard_interrupt_outside_the_main_thread(tmp_path: Path) -> None:
    def hit(kernel: FakeKernel) -> None:
        raise KeyboardInterrupt

    kernel = FakeKernel(on_poll=hit)
    got: list[bool] = []

    def run() -> None:
        result = source(kernel, tmp_path, cpus=(0,)).record(request(tmp_path))
        got.append(result.interrupted)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert got == [True]
    assert kernel.live == []


def test_progress_is_told(tmp_path: Path) -> None:
    kernel = FakeKernel(poll_step_ns=100_000_000)
    told: list[tuple[int, float]] = []
    source(kernel, tmp_path, cpus=(0,)).record(
        request(tmp_path, duration_s=0.3), progress=lambda n, s: told.append((n, round(s, 2)))
    )
    assert told == [(0, 0.1), (0, 0.2), (0, 0.3)]


# --- refusals, explained

# model | classes, sets, event | words of what, why, next step
REFUSED: list[tuple[Model, tuple[str, ...], tuple[str, ...], RequestedEvent, str, str, str]] = [
    (ICE_LAKE_MERGED, WIDE, ("intr",), event(precise_ip=2, name="cycles:upp"),
     "ymm, zmm, opmask cannot be sampled", "precise_ip 2 (EINVAL)", "-e cycles:u"),
    (ICE_LAKE_7_3, WIDE, ("intr",), event(), "xmm, ymm, zmm, opmask",
     "no SIMD register sampling (E2BIG: its attr has 144 bytes)", "--source sigtrap"),
    (ICE_LAKE_7_3, ("gpr", "xmm"), ("intr",), event(), "xmm cannot be sampled",
     "precise events only", "-e cycles:up"),
    (ICE_LAKE_7_3, ("gpr", "xmm"), ("user",), event(precise_ip=1, name="cycles:up"),
     "xmm cannot", "set 'intr' only", "--intr-regs xmm"),
    (TIGERLAKE, ("gpr", "egpr"), ("intr",), event(), "egpr cannot", "does not have them", "doctor"),
    (NO_PMU, WIDE, ("intr",), event(), "cannot be opened", "ENOENT: no core PMU", "sigtrap"),
    (TIGERLAKE, WIDE, ("intr",), event(name="cpu-clock", type=PerfType.SOFTWARE),
     "event 'cpu-clock' cannot carry xmm", "only a core PMU", "-e cycles"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "classes", "sets", "one", "what", "why", "step"), REFUSED)
def test_refused_classes_are_explained(
    tmp_path: Path, model: Model, classes: tuple[str, ...], sets: tuple[str, ...],
    one: RequestedEvent, what: str, why: str, step: str,
) -> None:  # fmt: skip
    kernel = FakeKernel(model)
    asked = request(tmp_path, classes=classes, sets=sets, events=(one,))
    with pytest.raises(NotSupported) as caught:
        source(kernel, tmp_path).record(asked)
    assert what in caught.value.what
    assert why in caught.value.why
    assert step in caught.value.next_step
    assert caught.value.exit_code == 4
    assert source(kernel, tmp_path).why_not(asked) == caught.value.why
    assert kernel.opened == []
    assert not Path(asked.output).exists()


def test_software_events_without_vectors_are_fine(tmp_path: Path) -> None:
    kernel = FakeKernel(NO_PMU, on_poll=end_at_once)
    one = event(name="cpu-clock", type=PerfType.SOFTWARE)
    asked = request(tmp_path, classes=("gpr",), events=(one,))
    assert source(kernel, tmp_path).why_not(asked) is None
    source(kernel, tmp_path).record(asked)
    assert len(kernel.opened) == 2


def test_another_engine_is_not_this_sources(tmp_path: Path) -> None:
    asked = request(tmp_path, engine="interrupt")
    with pytest.raises(NotSupported, match="belongs to source sigtrap"):
        source(FakeKernel(), tmp_path).record(asked)


def refusing(kernel: FakeKernel, tmp_path: Path, **values: Any) -> tuple[Exception, FakeCommand]:
    child = FakeCommand(())
    made = source(kernel, tmp_path, child=child, root=values.pop("root", None))
    made = PmuSource(
        kernel, found=found_for(TIGERLAKE), situation=made._situation, cpus=(0, 1),
        spawn=lambda argv, **_: child,
    )  # fmt: skip
    with pytest.raises((SyscallError, NotSupportedBySyscall)) as caught:
        made.record(request(tmp_path, **values))
    assert kernel.live == []
    assert not (tmp_path / "out.data").exists()
    return caught.value, child


def test_permission_is_explained_and_the_child_let_go(tmp_path: Path) -> None:
    kernel = FakeKernel(replace(TIGERLAKE, refuse=errno.EACCES))
    error, child = refusing(kernel, tmp_path, root={"paranoid": 3})
    assert isinstance(error, PermissionDenied)
    assert "kernel.perf_event_paranoid is 3" in error.why
    assert error.exit_code == 3
    assert child.log == ["abandon"]


def test_too_many_descriptors(tmp_path: Path) -> None:
    kernel = FakeKernel(replace(TIGERLAKE, fd_limit=1))
    error, _ = refusing(kernel, tmp_path)
    assert isinstance(error, SyscallError)
    assert "RLIMIT_NOFILE" in error.why
    assert "pid 4242, cpu 1" in str(error)


def test_smaller_rings_where_memory_may_not_be_locked(tmp_path: Path) -> None:
    kernel = FakeKernel(replace(TIGERLAKE, mlock_pages=16), on_poll=end_at_once)
    asked = request(tmp_path)
    result = source(kernel, tmp_path).record(asked)
    assert kernel.map_requests == [64, 32, 16, 16]
    assert result.warnings[0].startswith("rings have 16 pages instead of 64")
    assert metadata_at_end(asked.output)["result"]["ring_pages"] == 16


def test_no_ring_at_all_is_explained(tmp_path: Path) -> None:
    class Nothing(FakeKernel):
        def map_ring(self, fd: int, data_pages: int) -> memoryview:
            self.map_requests.append(data_pages)
            raise OSError(errno.EPERM, "fake", "mmap")

    kernel = Nothing(TIGERLAKE)
    error, _ = refusing(kernel, tmp_path)
    assert kernel.map_requests == [64, 32, 16, 8, 4, 2, 1]
    assert isinstance(error, PermissionDenied)
    assert "kernel.perf_event_mlock_kb is 516" in error.why


def test_the_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "out.data").write_text("mine")
    kernel = FakeKernel(on_poll=end_at_once)
    child = FakeCommand(())
    with pytest.raises(OutputError):
        source(kernel, tmp_path, child=child).record(request(tmp_path))
    assert (tmp_path / "out.data").read_text() == "mine"
    assert kernel.live == []
    assert child.log == ["abandon"]
    source(kernel, tmp_path).record(request(tmp_path, force=True))
    assert (tmp_path / "out.data").read_bytes()[:8] == b"PERFILE2"


def test_a_write_that_fails_closes_everything(shared_data: Path, tmp_path: Path) -> None:
    made = kernel_records(shared_data / "simd" / "kernel-zmm-opmask-both-user.data")
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    with pytest.raises(OutputError):
        source(kernel, tmp_path, cpus=(0,)).record(
            request(tmp_path, sets=("intr", "user"), output="/dev/full")
        )
    assert kernel.live == []


# --- what the recording says of itself

def test_metadata(tmp_path: Path) -> None:
    kernel = FakeKernel(on_poll=end_at_once)
    asked = request(tmp_path, options={"regs": "auto"}, cpu_limit_percent=5.0)
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    said = metadata(asked.output)
    assert (said["source"], said["dialect"], said["clock"]) == ("pmu", "M", "monotonic")
    assert said["classes"] == list(WIDE)
    assert said["options"] == {"regs": "auto", "event_names": ["cycles:u"]}
    assert said["xcr0"] == (xgetbv() or 0)
    assert said["probes"]["probes"]["M zmm intr p0"] == "ok"
    assert said["probes"]["probes"]["M zmm intr p0, vec_qwords 3"] == "EINVAL"
    assert said["probes"]["simd_dialect"] == "M"
    assert result.warnings == ["--cpu-limit is not needed: source pmu stops nothing"]


def test_mixed_sources_of_precise_events_are_announced(tmp_path: Path) -> None:
    """The overlay for 6.18 takes XMM from the PEBS record and the rest when the interrupt comes."""
    kernel = FakeKernel(OVERLAY_6_18, on_poll=end_at_once)
    asked = request(tmp_path, events=(event(precise_ip=1),))
    result = source(kernel, tmp_path, cpus=(0,)).record(asked)
    assert len(result.warnings) == 1
    assert "are torn" in result.warnings[0]


def test_architectural_pebs_is_told_by_a_precise_ymm() -> None:
    all_of_it = frozenset({"gpr", "xmm", "ymm", "zmm", "opmask", "egpr", "ssp"})
    arch = Model(precise_max=3, pebs=all_of_it)
    assert arch_pebs(found_for(arch)) is True
    assert arch_pebs(found_for(ICE_LAKE_MERGED)) is False
    assert arch_pebs(found_for(TIGERLAKE)) is None
    assert arch_pebs(found_for(OVERLAY_6_18)) is None


# --- a real child

def run_real(tmp_path: Path, *argv: str) -> tuple[Any, FakeKernel]:
    kernel = FakeKernel()
    made = PmuSource(kernel, found=found_for(TIGERLAKE), cpus=(0,))
    return made.record(request(tmp_path, command=argv)), kernel


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_commands_own_status(tmp_path: Path, script: str, status: int) -> None:
    result, kernel = run_real(tmp_path, "/bin/sh", "-c", script)
    assert result.exit_status == status
    assert kernel.opened[0].pid > 0


# command | why | next step: word for word as source sigtrap puts it
NOT_STARTED = [
    ("./no-such-program", "No such file or directory", "Check the spelling and PATH."),
    ("no-such-command", "No such file or directory", "Check the spelling and PATH."),
    ("./plain-file", "Permission denied", "Is the file executable for this user?"),
    ("./broken", "Exec format error",
     "Not a program this machine can run; scripts need a #! line."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "why", "step"), NOT_STARTED)
def test_a_command_that_cannot_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str, step: str
) -> None:
    (tmp_path / "plain-file").write_text("no program")
    (tmp_path / "broken").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        run_real(tmp_path, name)
    assert str(caught.value) == f"cannot run '{name}': {why}\n{step}"
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out.data").exists()


def test_what_a_command_prints_stays_out_of_a_recording_on_stdout(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    kernel = FakeKernel()
    made = PmuSource(kernel, found=found_for(TIGERLAKE), cpus=(0,))
    asked = request(tmp_path, command=("/bin/sh", "-c", "echo printed"), output="-")
    # pytest's own stand-in for stdout has no descriptor.
    with pytest.MonkeyPatch.context() as patch, os.fdopen(os.dup(1), "w") as stdout:
        patch.setattr("sys.stdout", stdout)
        assert made.record(asked).exit_status == 0
    out, err = capfdbinary.readouterr()
    assert out[:16] == b"PERFILE2" + struct.pack("<Q", 16)
    assert sum(size for _, size in walk(out[16:])) == len(out) - 16
    assert b"printed" not in out
    assert err == b"printed\n"


def test_what_a_command_prints_goes_to_stdout_otherwise(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run_real(tmp_path, "/bin/sh", "-c", "echo printed")
    assert capfdbinary.readouterr() == (b"printed\n", b"")


def test_a_child_never_released_ends_by_itself(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    child = WaitingCommand(["touch", str(marker)])
    assert child.poll() is None
    child.abandon()
    assert child.poll() == 0
    assert not marker.exists()


def test_signals_python_ignores_are_restored_for_the_command(tmp_path: Path) -> None:
    read_ignored = "grep SigIgn /proc/self/status > " + str(tmp_path / "ignored")
    child = WaitingCommand(["/bin/sh", "-c", read_ignored])
    child.release()
    assert child.wait() == 0
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1


