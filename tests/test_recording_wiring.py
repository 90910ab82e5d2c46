"""What the facade tells the judge and the timeline about a recording."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.written_recording import ATTR, Sample, write

import perfxmm
from perfxmm.coherence import reason_names
from perfxmm.coherence.verdicts import Verdict
from perfxmm.errors import UsageError
from perfxmm.event_context import event_context
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import MISC_FORK_EXEC, CpuMode, PerfType, SampleType
from perfxmm.kernel.dialects import R2, SimdRequest
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.writer import EventSpec
from perfxmm.recording import Recording

SID = encode.SampleId(0, 0, 1, 0, 7)
PMU = Metadata(source="pmu", dialect="M", classes=["gpr", "ymm"])


def judge_context(recording: Recording):
    rows(recording)
    return recording._context()


def rows(recording: Recording) -> int:
    return sum(len(batch) for batch in recording.snapshots(keep=("all",)))


# Events of the kernel


@pytest.mark.parametrize(
    ("kind", "config", "name", "in_kernel"),
    [
        (PerfType.TRACEPOINT, 700, "syscalls:sys_enter_write", True),
        (PerfType.SOFTWARE, 3, "context-switches", True),
        (PerfType.SOFTWARE, 4, "cpu-migrations", True),
        (PerfType.SOFTWARE, 10, "bpf-output", True),
        (PerfType.SOFTWARE, 11, "cgroup-switches", True),
        (9, 0, "kprobe/func=vfs_read/", True),
        (PerfType.SOFTWARE, 0, "cpu-clock", False), (PerfType.SOFTWARE, 1, "task-clock", False),
        (PerfType.SOFTWARE, 2, "page-faults", False), (PerfType.SOFTWARE, 5, "minor-faults", False),
        (PerfType.HARDWARE, 3, "cache-misses", False), (PerfType.HW_CACHE, 3, "", False),
        (PerfType.RAW, 3, "r3", False), (PerfType.BREAKPOINT, 3, "mem:0x3", False),
        (8, 3, "cpu_core/cycles/", False),
    ],
)  # fmt: skip
def test_which_events_happen_in_the_kernel(
    kind: int, config: int, name: str, in_kernel: bool
) -> None:
    assert event_context(EventAttr(type=kind, config=config), name).in_kernel is in_kernel


def test_a_tracepoint_never_shows_the_registers_of_its_event(tmp_path: Path) -> None:
    event = EventSpec(
        "syscalls:sys_enter_write:u", replace(ATTR, type=PerfType.TRACEPOINT, config=700), (7,)
    )
    recording = perfxmm.open(write(tmp_path / "perf.data", [Sample()] * 3, event=event))
    (batch,) = recording.snapshots()
    user = batch.sets["user"]
    assert user.verdict[:, :3].tolist() == [[Verdict.LATE] * 3] * 3
    assert "kernel-mode-event" in reason_names(user.reason[0])


# What the attr and the metadata say


def test_sets_with_high_vectors() -> None:
    simd = SimdRequest(enabled=1, vec_qwords=8, vec_user=0xFFFF_FFFF, vec_intr=0xFFFF)
    both = int(SampleType.REGS_USER | SampleType.REGS_INTR)
    attr = EventAttr(sample_type=both, dialect=R2, simd=simd)
    assert event_context(attr).high_vectors == {"user"}
    assert event_context(replace(attr, sample_type=int(SampleType.REGS_INTR))).high_vectors == set()


@pytest.mark.parametrize(
    ("probes", "known"),
    [({"arch_pebs": True}, True), ({"arch_pebs": False}, False), ({"arch_pebs": None}, None),
     ({}, None), ({"arch_pebs": "yes"}, None)],
)  # fmt: skip
def test_what_probing_said_of_pebs(tmp_path: Path, probes: dict, known: bool | None) -> None:
    path = write(tmp_path / "perf.data", [Sample()], metadata=replace(PMU, probes=probes))
    assert judge_context(perfxmm.open(path)).arch_pebs is known


def test_the_same_kernel_is_this_host_and_release(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "perf.data", [Sample()])
    assert perfxmm.open(path)._timeline.binaries.places.same_kernel
    machine = os.uname()
    for changed in ((1, "elsewhere"), (2, "2.6.39")):
        words = list(machine)
        words[changed[0]] = changed[1]
        with monkeypatch.context() as patch:
            patch.setattr(os, "uname", lambda words=words: os.uname_result(words))
            assert not perfxmm.open(path)._timeline.binaries.places.same_kernel


# Side-band


def fork(pid: int, parent: int, *, misc: int = MISC_FORK_EXEC) -> bytes:
    return encode.fork_record(pid, parent, pid, parent, 1, SID, misc=misc)


def comm(pid: int, name: str, *, is_exec: bool = False) -> bytes:
    return encode.comm_record(pid, pid, name, exec_=is_exec, sid=SID)


@pytest.mark.parametrize("named_first", [True, False])
def test_children_of_kthreadd_are_kernel_threads(tmp_path: Path, named_first: bool) -> None:
    children = [
        fork(9, 2), comm(9, "kworker/0:1"), fork(10, 2), fork(100, 1), fork(11, 2, misc=0),
        fork(12, 2), comm(12, "modprobe", is_exec=True), fork(13, 2), fork(13, 100, misc=0),
    ]  # fmt: skip
    name = [fork(2, 0), comm(2, "kthreadd")]
    first = [*name, *children] if named_first else [*children, *name]
    path = write(tmp_path / "perf.data", [Sample()], metadata=PMU, first=first)
    assert judge_context(perfxmm.open(path)).kernel_tids == {2, 9, 10, 11}


def test_children_of_any_other_process_2_are_not(tmp_path: Path) -> None:
    first = [fork(2, 0), comm(2, "sh"), fork(9, 2)]
    path = write(tmp_path / "perf.data", [Sample()], metadata=PMU, first=first)
    assert judge_context(perfxmm.open(path)).kernel_tids == set()


LIBRARY = 0x60_0000


def dso_of_a_sample_in_the_library(path: Path, first: list[bytes]) -> str:
    recording = perfxmm.open(write(path, [Sample(LIBRARY + 8)], first=first))
    (batch,) = recording.snapshots()
    return recording.dsos[batch.dso[0]] if batch.dso[0] >= 0 else ""


def library(pid: int, misc: int = CpuMode.USER) -> bytes:
    return encode.mmap2_record(pid, pid, LIBRARY, 0x1000, 0, "/lib/x.so", sid=SID, misc=misc)


@pytest.mark.parametrize(("misc", "seen"), [(0, "/lib/x.so"), (MISC_FORK_EXEC, "")])
def test_a_made_up_fork_brings_no_mappings(tmp_path: Path, misc: int, seen: str) -> None:
    """perf marks the FORKs of processes that already ran; their mappings follow."""
    first = [library(90), fork(100, 90, misc=misc)]
    assert dso_of_a_sample_in_the_library(tmp_path / "perf.data", first) == seen


@pytest.mark.parametrize(
    ("mode", "seen"),
    [(CpuMode.USER, "/lib/x.so"), (CpuMode.GUEST_KERNEL, ""), (CpuMode.GUEST_USER, "")],
)
def test_mappings_of_guests_are_not_ours(tmp_path: Path, mode: CpuMode, seen: str) -> None:
    assert dso_of_a_sample_in_the_library(tmp_path / "perf.data", [library(100, mode)]) == seen


# What is said of the recording as a whole


def test_a_recording_without_register_sets_says_so(tmp_path: Path, shared_data: Path) -> None:
    recording = perfxmm.open(shared_data / "perfdata" / "lpd.sleep.data")
    assert recording.notes == [
        "the recording holds no register samples (record with perfxmm record, or perf record -I...)"
    ]
    assert perfxmm.open(write(tmp_path / "perf.data", [Sample()])).notes == []


def test_redacted_values_are_not_said_to_be_missing(tmp_path: Path) -> None:
    for redact, notes in (
        ("values", ["register values were left out when this was recorded (--redact values)"]),
        ("crypto", []),
    ):
        metadata = Metadata(source="sigtrap", engine="perf", dialect="M", redact=redact)
        path = write(tmp_path / redact, [Sample(abi=0), Sample()], metadata=metadata)
        recording = perfxmm.open(path)
        (batch,) = recording.snapshots(keep=("all",))
        user = batch.sets["user"]
        assert user.verdict[0].tolist() == [Verdict.ABSENT] * 5
        assert user.verdict[1, 0] == Verdict.COHERENT
        assert ["redacted" in reason_names(bits) for bits in user.reason] == [True, False]
        assert "abi-none" not in reason_names(user.reason[0])
        assert [n for n in recording.notes if not n.startswith("no symbols for ")] == notes


def test_no_file_is_no_matter_of_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        perfxmm.open(tmp_path / "none")
    assert caught.value.next_step == "check the path"
    assert " -i" not in str(caught.value)
