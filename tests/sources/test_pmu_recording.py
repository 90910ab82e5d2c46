"""Source pmu against the fake kernel: what arrives in the file, and what ends a recording.

The records are kernel-made (an emulator's kernel with the merged ABI); the system calls are a fake.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.expected_rows import decoded_rows, load_rows
from support.fake_kernel import FakeKernel
from support.kernel_records import FIRST_TOOL_RECORD, kernel_records, kind_of, misc_of
from support.pmu_source import (
    WIDE,
    FakeCommand,
    Feeder,
    event,
    file_records,
    kernel_made,
    kernel_mode_request,
    metadata,
    metadata_at_end,
    request,
    source,
    split,
)

import perfxmm
from perfxmm.coherence import Verdict
from perfxmm.errors import NotSupported
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.constants import AttrFlag, CpuMode, RecordType
from perfxmm.kernel.ring import walk

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
    assert result.bytes_written == Path(asked.output).stat().st_size
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


# case | classes | (cpumode, verdicts of gpr to opmask) -> samples, in each set
C, E, A = "coherent", "entry", "absent"
NARROW = ("gpr", "xmm", "ymm")
Judged = dict[str, dict[tuple[str, tuple[str, ...]], int]]
READ_BACK: list[tuple[str, tuple[str, ...], Judged]] = [
    ("kernel-zmm-opmask-both-user", WIDE,
     {"intr": {("USER", (C,) * 5): 39}, "user": {("USER", (C,) * 5): 39}}),
    ("kernel-syscalls-skid-exclude-kernel", NARROW,
     {"intr": {("USER", (C, C, C, A, A)): 6, ("KERNEL", (A,) * 5): 14},
      "user": {("USER", (C, C, C, A, A)): 6, ("KERNEL", (E, E, E, A, A)): 14}}),
    # Interrupt sets of the kernel are not written (abi 0): absent, not foreign.
    ("kernel-syscalls-kernel-allowed", WIDE,
     {"intr": {("USER", (C,) * 5): 8, ("KERNEL", (A,) * 5): 16},
      "user": {("USER", (C,) * 5): 8, ("KERNEL", (E,) * 5): 16}}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "classes", "verdicts"), READ_BACK)
def test_what_was_recorded_reads_back(
    shared_data: Path, tmp_path: Path, case: str, classes: tuple[str, ...], verdicts: Judged
) -> None:
    """From the ring through the file to judged snapshots, equal to what the program held."""
    original = shared_data / "simd" / f"{case}.data"
    made = kernel_records(original)
    kernel = FakeKernel(on_poll=Feeder(made), first_identifier=made.identifier)
    allowed = case == "kernel-syscalls-kernel-allowed"
    asked = request(
        tmp_path, classes=classes, sets=("intr", "user"),
        events=(event(name="cycles", flags=AttrFlag.EXCLUDE_GUEST) if allowed else event(),),
    )
    source(kernel, tmp_path, cpus=(0,)).record(asked)
    rows = load_rows(original)
    for row in rows:
        del row["record_offset"]
        if allowed and row["cpumode"] == "KERNEL":
            row["intr"] = {"abi": 0}
            del row["record_size"]
    assert decoded_rows(Path(asked.output), rows) == rows

    recording = perfxmm.open(asked.output)
    fills = json.loads((shared_data / "simd/kernel-truth.json").read_text())
    fill = fills["fills"][str(fills["cases"][case]["fill"])]
    vectors = np.array([[int(w, 16) for w in one] for one in fill["zmm"]], np.uint64)
    opmasks = np.array([int(w, 16) for w in fill["k"]], np.uint64)
    seen: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for batch in recording.snapshots(keep=("all",)):
        user = batch.cpumode == CpuMode.USER
        for name, found in batch.sets.items():
            seen.update(
                (name, CpuMode(int(mode)).name, tuple(Verdict(code).label for code in row))
                for mode, row in zip(batch.cpumode, found.verdict, strict=True)
            )
            count, _, qwords = found.vectors.shape
            width = 8 if "zmm" in classes else 4
            registers = 32 if "zmm" in classes else 16
            assert qwords >= width
            got = found.vectors[user][:, :registers, :width]
            assert (got == vectors[:registers, :width]).all()
            if "opmask" in classes:
                assert (found.predicates[user] == opmasks).all()
            assert count == len(batch)
    assert recording.complete
    assert recording.metadata is not None
    assert recording.metadata.source == "pmu"
    assert seen == {
        (name, *key): count for name, counts in verdicts.items() for key, count in counts.items()
    }  # fmt: skip


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


def test_times_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    class Unreadable(FakeKernel):
        def read(self, fd: int, size: int) -> bytes:
            if fd == 1000:
                raise OSError(errno.EIO, "fake")
            return b"" if fd == 1001 else super().read(fd, size)

    def end(kernel: FakeKernel) -> bool:
        kernel.opened[2].enabled_ns, kernel.opened[2].running_ns = 200, 100
        return False

    asked = request(tmp_path, system_wide=True)
    source(Unreadable(on_poll=end), tmp_path, cpus=(0, 1, 2)).record(asked)
    [told] = metadata_at_end(asked.output)["result"]["events"]
    assert (told["time_enabled_ns"], told["time_running_ns"]) == (200, 100)


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
