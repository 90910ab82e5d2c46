"""The kernel's ring buffer of records, read from user space.

One control page (struct perf_event_mmap_page) and 2**n data pages. The kernel advances
`data_head` after it has written records; the reader advances `data_tail` after it has taken them,
and only then may the kernel use that room again.

Ordering. The reader needs an acquire load of data_head (no data read before it) and a release
store of data_tail (no data read after it). x86 is a TSO machine: loads are not reordered with
loads, nor earlier loads with later stores, so an ordinary aligned 8-byte load and store already
have acquire and release meaning in the processor, and an aligned 8-byte access is one access (Intel
SDM volume 3, 9.1.1 and 9.2.3; AMD64 manual volume 2, 7.1 to 7.3). What is left is the compiler: the
two words are read and written by separate byte code instructions through a memoryview of format
"Q", whose item access is one 8-byte copy in C; the interpreter can neither tear nor move it across
other instructions. On machines with weaker ordering this would need fences, which Python does not
have: there `RingBuffer` refuses.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from perfxmm.errors import NotSupported
from perfxmm.kernel.constants import RecordType

# struct perf_event_mmap_page, include/uapi/linux/perf_event.h, Linux 7.3: byte offsets.
DATA_HEAD_OFFSET = 1024
DATA_TAIL_OFFSET = 1032
DATA_OFFSET_OFFSET = 1040
DATA_SIZE_OFFSET = 1048
_TSO_MACHINES = ("x86_64", "i686", "i386", "AMD64")
RECORD_HEADER_BYTES = 8


class RingBuffer:
    """Reads one ring. `memory` is the whole mapping, control page first.

    Where the records lie (before or across the end of the ring) is known in this class only:
    `peek` gives whole records as one run of bytes, `consume` gives the room back.

    overruns: times the control page claimed more bytes than the ring holds; the content was
    skipped (a reader that shares its ring with a second reader sees this, a healthy one never).
    """

    def __init__(self, memory: memoryview, *, page_bytes: int = 4096) -> None:
        if platform.machine() not in _TSO_MACHINES:
            raise NotSupported(
                "the ring buffer of perf events cannot be read here",
                why=f"{platform.machine()} needs memory fences that Python does not have",
            )
        self._control = memory[:page_bytes].cast("Q")
        # Both are 0 on kernels before 4.1, where the data simply starts at the second page.
        offset = self._control[DATA_OFFSET_OFFSET // 8] or page_bytes
        size = self._control[DATA_SIZE_OFFSET // 8] or len(memory) - page_bytes
        if size <= 0 or size & (size - 1) or offset + size > len(memory):
            raise ValueError(f"a ring of {size} bytes at {offset} does not fit {len(memory)}")
        self.size_bytes: int = size
        self._data = memory[offset : offset + size]
        self._out: memoryview | None = None
        self._out_end = 0
        self.overruns = 0

    def available_bytes(self) -> int:
        """Bytes of records that wait to be taken."""
        return self._control[DATA_HEAD_OFFSET // 8] - self._control[DATA_TAIL_OFFSET // 8]

    def peek(self) -> memoryview:
        """All waiting records as one run of bytes; empty where there are none.

        Without a copy unless the run crosses the ring's end. Valid until `consume`, which makes
        any later use of the view an error instead of a read of overwritten bytes.
        """
        self._release()
        head = self._control[DATA_HEAD_OFFSET // 8]
        tail = self._control[DATA_TAIL_OFFSET // 8]
        if head - tail > self.size_bytes or head < tail:
            self.overruns += 1
            self._control[DATA_TAIL_OFFSET // 8] = tail = head
        self._out_end = head
        start = tail & (self.size_bytes - 1)
        length = head - tail
        if start + length <= self.size_bytes:
            self._out = self._data[start : start + length]
        else:
            first = bytes(self._data[start:])
            self._out = memoryview(first + bytes(self._data[: length - len(first)]))
        return self._out

    def consume(self) -> None:
        """Gives the room of the last `peek` back to the kernel."""
        if self._out is None:
            return
        self._release()
        self._control[DATA_TAIL_OFFSET // 8] = self._out_end

    def drain(self) -> bytes:
        """All waiting records as a copy, their room given back."""
        data = bytes(self.peek())
        self.consume()
        return data

    def records(self) -> Iterator[bytes]:
        """The waiting records one by one, as copies; their room is given back at the start."""
        data = self.drain()
        for offset, size in walk(data):
            yield data[offset : offset + size]

    def close(self) -> None:
        """Lets go of the mapping. The owner of the memory unmaps it afterwards."""
        self._release()
        self._control.release()
        self._data.release()

    def _release(self) -> None:
        if self._out is not None:
            self._out.release()
            self._out = None


def walk(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(offset, size_bytes) of every record in `data`, which starts at a record.

    Stops at a header that cannot be one (size below 8, or running past the end).
    """
    sizes = memoryview(data)
    whole = len(sizes) & ~7
    words = sizes[:whole].cast("H")
    offset = 0
    while offset + RECORD_HEADER_BYTES <= whole:
        size = words[(offset >> 1) + 3]
        if size < RECORD_HEADER_BYTES or size & 7 or offset + size > len(sizes):
            return
        yield offset, size
        offset += size


@dataclass(slots=True)
class Tally:
    """What a run of records holds, by header alone (and the counters of LOST records).

    lost: records the kernel had no room for, summed over LOST and LOST_SAMPLES.
    cut_bytes: where the run ends or was cut; less than its length only after a limit or damage.
    first_sample, last_sample: offsets of those samples, -1 where there is none.
    """

    samples: int = 0
    lost: int = 0
    throttled: int = 0
    records: int = 0
    cut_bytes: int = 0
    first_sample: int = -1
    last_sample: int = -1


def tally(
    data: bytes | memoryview, *, max_samples: int | None = None, max_bytes: int | None = None
) -> Tally:
    """Counts the records of `data`, stopping before the one that would pass a limit."""
    view = memoryview(data)
    words = view[: len(view) & ~7].cast("H")
    quads = view[: len(view) & ~7].cast("Q")
    count = Tally()
    for offset, size in walk(view):
        kind = words[offset >> 1]  # the low half of a u32; the high half is 0 in every record
        if max_bytes is not None and offset + size > max_bytes:
            break
        if kind == RecordType.SAMPLE:
            if max_samples is not None and count.samples >= max_samples:
                break
            count.samples += 1
            count.last_sample = offset
            if count.first_sample < 0:
                count.first_sample = offset
        elif kind == RecordType.LOST and size >= 24:
            count.lost += quads[(offset >> 3) + 2]
        elif kind == RecordType.LOST_SAMPLES and size >= 16:
            count.lost += quads[(offset >> 3) + 1]
        elif kind == RecordType.THROTTLE:
            count.throttled += 1
        count.records += 1
        count.cut_bytes = offset + size
    return count
