"""The real seam against the running kernel, with events that need no PMU and no rights."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import (
    IOC_DISABLE,
    IOC_ENABLE,
    IOC_SET_OUTPUT,
    PERF_FLAG_FD_CLOEXEC,
    AttrFlag,
    PerfType,
    SampleType,
)
from perfxmm.kernel.probe import probe
from perfxmm.kernel.ring import RingBuffer, tally
from perfxmm.kernel.syscalls import LinuxKernel, linux_kernel
from perfxmm.sources.base import RecordRequest, RequestedEvent
from perfxmm.sources.pmu import PmuSource

CLOCK = EventAttr(
    type=PerfType.SOFTWARE, config=0, sample_period=100_000,
    sample_type=int(SampleType.IP | SampleType.TID | SampleType.TIME),
    flags=int(AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV),
)  # fmt: skip


def opened(kernel: LinuxKernel, attr: EventAttr = CLOCK) -> int:
    try:
        return kernel.perf_event_open(
            bytearray(attrs.encode(attr)), 0, -1, -1, PERF_FLAG_FD_CLOEXEC
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOSYS):
            pytest.skip(f"perf_event_open is refused here: {error}")
        raise


@pytest.fixture
def fd() -> Iterator[int]:
    kernel = linux_kernel()
    number = opened(kernel)
    yield number
    kernel.close(number)


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_samples_come_out_of_a_real_ring(fd: int) -> None:
    kernel = linux_kernel()
    memory = kernel.map_ring(fd, 1)
    ring = RingBuffer(memory, page_bytes=kernel.page_bytes)
    kernel.ioctl(fd, IOC_ENABLE)
    samples, wrapped, times = 0, False, []
    for _ in range(20):
        spin(0.005)
        data = ring.drain()
        count = tally(data)
        assert count.cut_bytes == len(data)
        samples += count.samples
        for at in range(0, len(data), 32):
            kind, _, size = struct.unpack_from("<IHH", data, at)
            if kind == 9:
                assert size == 32
                assert struct.unpack_from("<II", data, at + 16) == (os.getpid(),) * 2
                times.append(struct.unpack_from("<Q", data, at + 24)[0])
    kernel.ioctl(fd, IOC_DISABLE)
    wrapped = samples * 32 > ring.size_bytes
    ring.close()
    kernel.unmap_ring(memory)
    assert samples > 100
    assert wrapped
    assert times == sorted(times)


def test_ids_differ_and_periods_change(fd: int) -> None:
    kernel = linux_kernel()
    other = opened(kernel)
    assert kernel.event_id(fd) != kernel.event_id(other)
    kernel.set_period(fd, 200_000)
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.set_period(fd, 0)
    kernel.close(other)


def test_a_ring_is_shared_by_set_output(fd: int) -> None:
    kernel = linux_kernel()
    other = opened(kernel)
    memory = kernel.map_ring(fd, 1)
    kernel.ioctl(other, IOC_SET_OUTPUT, fd)
    kernel.ioctl(other, IOC_ENABLE)
    spin(0.02)
    kernel.ioctl(other, IOC_DISABLE)
    ring = RingBuffer(memory, page_bytes=kernel.page_bytes)
    assert tally(ring.drain()).samples > 0
    ring.close()
    kernel.unmap_ring(memory)
    kernel.close(other)


def test_poll_tells_of_tasks_that_are_gone() -> None:
    kernel = linux_kernel()
    child = subprocess.Popen(["sleep", "0.2"])
    try:
        number = kernel.perf_event_open(bytearray(attrs.encode(CLOCK)), child.pid, -1)
    except OSError as error:
        child.wait()
        pytest.skip(f"perf_event_open is refused here: {error}")
    memory = kernel.map_ring(number, 1)
    assert kernel.poll([number], 0.0) == []
    child.wait()
    assert kernel.poll([number], 1.0) == [(number, True)]
    kernel.unmap_ring(memory)
    kernel.close(number)


def test_a_larger_attr_gets_e2big_and_the_kernels_size() -> None:
    kernel = linux_kernel()
    opened_fd = opened(kernel)
    kernel.close(opened_fd)
    raw = bytearray(4096)
    raw[: len(attrs.encode(CLOCK))] = attrs.encode(CLOCK)
    struct.pack_into("<I", raw, 4, 4096)
    raw[4095] = 1
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        kernel.perf_event_open(raw, 0, -1)
    assert caught.value.errno == errno.E2BIG
    assert struct.unpack_from("<I", raw, 4)[0] in range(112, 256, 8)


def test_errors_carry_their_errno() -> None:
    kernel = linux_kernel()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        kernel.map_ring(-1, 1)
    assert caught.value.errno == errno.EBADF


def test_one_kernel_object_a_process() -> None:
    assert linux_kernel() is linux_kernel()
    assert probe(linux_kernel()) is probe(linux_kernel())


def test_the_whole_source_on_software_events(tmp_path: Path) -> None:
    """General registers only: without a PMU no kernel samples vectors."""
    opened_fd = opened(linux_kernel())
    linux_kernel().close(opened_fd)
    event = RequestedEvent("cpu-clock:u", EventAttr(
        type=PerfType.SOFTWARE, sample_period=999,
        flags=int(AttrFlag.FREQ | AttrFlag.EXCLUDE_KERNEL | AttrFlag.EXCLUDE_HV),
    ))  # fmt: skip
    output = str(tmp_path / "out.data")
    busy = "import time\nend = time.monotonic() + 0.4\nwhile time.monotonic() < end: pass"
    result = PmuSource().record(RecordRequest(
        events=(event,), classes=("gpr",), sets=("user",), output=output, mmap_pages=8,
        command=("python3", "-c", busy),
    ))  # fmt: skip
    assert result.exit_status == 0
    assert result.lost == 0
    assert result.samples > 50
    raw = Path(output).read_bytes()
    offset, size = struct.unpack_from("<QQ", raw, 40)
    assert tally(raw[offset : offset + size]).samples == result.samples
