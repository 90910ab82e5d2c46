"""Source pmu against the fake kernel: what it opens, what it explains, what it says of itself."""

from __future__ import annotations

import errno
import struct
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
from support.kernel_records import kernel_records, kind_of
from support.pmu_source import (
    APART,
    WIDE,
    FakeCommand,
    Feeder,
    end_at_once,
    event,
    fake_proc,
    file_records,
    found_for,
    metadata,
    metadata_at_end,
    request,
    source,
)

from perfxmm.errors import (
    NotSupported,
    NotSupportedBySyscall,
    OutputError,
    PermissionDenied,
    SyscallError,
    TargetError,
)
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.constants import AttrFlag, PerfType, RecordType
from perfxmm.sources.base import RequestedEvent
from perfxmm.sources.pmu import PmuSource, arch_pebs
from perfxmm.xstate.cpuid import xgetbv

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


def test_an_overlay_in_ms_layout_proves_no_architectural_pebs() -> None:
    """It takes a precise YMM from two instants; that it takes a single register tells it from M."""
    overlay = Model(dialect="O2", precise_max=3, pebs=frozenset({"gpr", "xmm"}))
    found = found_for(overlay)
    assert "ymm" in found.precise_classes
    assert (found.simd_dialect, found.whole_classes) == ("M", False)
    assert arch_pebs(found) is None
    assert found_for(ICE_LAKE_MERGED).whole_classes is True
    assert found_for(OVERLAY_6_18).whole_classes is None
