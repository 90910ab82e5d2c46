"""Source pmu with a real child, and its descriptors on the running kernel."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path
from typing import Any

import pytest
from support.fake_kernel import TIGERLAKE, FakeKernel
from support.pmu_source import found_for, request

from perfxmm.errors import NotSupportedBySyscall, PermissionDenied, UsageError
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType
from perfxmm.kernel.maps import online_cpus
from perfxmm.kernel.permissions import survey
from perfxmm.kernel.ring import walk
from perfxmm.kernel.syscalls import linux_kernel
from perfxmm.sources.command import WaitingCommand
from perfxmm.sources.pmu import PmuSource
from perfxmm.sources.pmu_attr import READ_FORMAT, PlannedEvent
from perfxmm.sources.pmu_events import OpenEvents


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
