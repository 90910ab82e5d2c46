"""Writing a recording, append-only.

A file's first write is header, ids, attrs and our metadata, all complete: a recorder killed at
any later moment leaves a file whose complete records can be read (data.size is 0 until `finish`,
so the reader goes by the file's size). Records come next, features last; then the header gets
data.size and the feature bitmap.

Register contents are secrets: files are created 0600 and no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from perfxmm.errors import OutputError
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, RecordType
from perfxmm.perfdata import encode, features
from perfxmm.perfdata.format import (
    DATA_SIZE_AT,
    FEATURE_BITS,
    FILE_HEADER,
    FILE_HEADER_BYTES,
    MAGIC,
    PIPE_HEADER_BYTES,
    SECTION,
    BuildId,
    Feature,
)
from perfxmm.perfdata.metadata import FEATURE_BIT, GAP_MAGIC, OUTPUT_ERROR, Metadata
from perfxmm.perfdata.output import create_output, is_stream, output_error

FLUSH_BYTES = 256 * 1024
# perf before 6.5 takes the ids in a pipe's HEADER_ATTR to stand behind its own whole structure,
# whatever attr.size says; 128 bytes is that structure from 5.13 to 6.2 (VER7).
PIPE_ATTR_BYTES = 128
MAX_PIPE_FEATURE_BYTES = encode.MAX_RECORD_BYTES - 16 - 7  # header, bit number, padding


@dataclass(frozen=True)
class EventSpec:
    """One event of a recording: the name shown, its attr, and the kernel's ids of its counters."""

    name: str
    attr: EventAttr
    ids: tuple[int, ...]


class Writer:
    """One perf.data file, or with path "-" the same as a pipe on stdout.

    tracing_data: what tracefs says of the events' tracepoints (tracing.encode_tracing_data).

    Devices and FIFOs get the pipe form too, since a header cannot be patched there.
    Raises OutputError wherever writing fails; what was written before stays readable, and
    `finish` after such a failure still completes the header as far as there is room.
    """

    def __init__(
        self, path: str, events: Sequence[EventSpec], metadata: Metadata, *, force: bool = False,
        command_line: Sequence[str] = (), stdout_fd: int | None = None, tracing_data: bytes = b"",
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._command_line = list(command_line)
        self._tracing_data = tracing_data
        self._build_ids: dict[tuple[str, int], BuildId] = {}
        self._buffer = bytearray()
        self._position = 0
        self._finished = False
        self._failure: OutputError | None = None
        self._owns_fd = True
        self._pipe = path == "-" or is_stream(path)
        self._events = _same_size(events, PIPE_ATTR_BYTES if self._pipe else 0)
        if self._pipe:
            self._open_stream(stdout_fd)
            self._data_offset = PIPE_HEADER_BYTES
            start = self._pipe_start()
        else:
            start, self._data_offset = self._file_start()
            self._fd, rename_from = create_output(path, force=force)
        try:
            self._put(start)
            if not self._pipe and rename_from:
                Path(rename_from).rename(path)
        except OSError as error:
            self._drop(rename_from if not self._pipe else "")
            raise output_error(path, error) from error
        except OutputError:
            self._drop((rename_from or path) if not self._pipe else "")
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends whole records, as the kernel wrote them."""
        self._check_open()
        self._buffer += data
        if len(self._buffer) >= FLUSH_BYTES:
            self.flush()

    def finished_round(self) -> None:
        """Says that every record written from now on is newer than all of the round before."""
        self.write(encode.finished_round_record())
        self.flush()

    def note_build_id(
        self, path: str, build_id: bytes, *, pid: int = -1, kernel: bool = False
    ) -> None:
        """Keeps a DSO's build id for the build id feature; the last one for a path wins."""
        if build_id:
            self._build_ids[path, pid] = BuildId(path, build_id, pid, kernel)

    @property
    def bytes_written(self) -> int:
        """Bytes of the file so far, those still buffered included."""
        return self._position + len(self._buffer)

    def flush(self) -> None:
        """Hands everything buffered to the kernel."""
        if not self._buffer:
            return
        data, self._buffer = self._buffer, bytearray()
        self._put(data)

    def finish(
        self, result: dict[str, Any], *, sample_time: tuple[int, int] | None = None
    ) -> None:
        """Writes features and completes the header. Further calls do nothing.

        result: goes into metadata.result. sample_time: first and last sample, ns.
        """
        if self._finished:
            return
        self._finished = True
        told = self._failure
        try:
            if self._failure is None:
                with contextlib.suppress(OutputError):
                    self.flush()
            self.metadata.result = dict(result)
            if self._failure is not None:
                self.metadata.result[OUTPUT_ERROR] = str(self._failure).splitlines()[0]
            sections = self._features(sample_time)
            with contextlib.suppress(OutputError):
                if not self._pipe:
                    self._finish_file(sections)
                elif self._failure is None:
                    self._put(b"".join(_feature_record(k, v) for k, v in sorted(sections.items())))
        finally:
            self.close()
        if self._failure is not None and told is None:
            raise self._failure

    def close(self) -> None:
        """Closes without finishing: the file stays as a killed recorder would leave it."""
        self._finished = True
        if self._fd < 0:
            return
        try:
            if self._failure is None:
                self.flush()
        finally:
            fd, self._fd = self._fd, -1
            if self._owns_fd:
                os.close(fd)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the beginning of the file

    def _file_start(self) -> tuple[bytes, int]:
        attrs = [attr_codec.encode(e.attr) for e in self._events]
        entry = (len(attrs[0]) if attrs else attr_codec.ATTR_SIZE_VER0) + SECTION.size
        ids_at, ids, table = FILE_HEADER_BYTES, bytearray(), bytearray()
        for event, attr in zip(self._events, attrs, strict=True):
            table += attr + SECTION.pack(ids_at + len(ids), 8 * len(event.ids))
            ids += struct.pack(f"<{len(event.ids)}Q", *event.ids)
        attrs_at = ids_at + len(ids)
        described = self.metadata.to_json()
        gap = GAP_MAGIC + struct.pack("<Q", len(described)) + described
        gap += b"\0" * (-len(gap) % 8)
        data_at = attrs_at + len(table) + len(gap)
        header = FILE_HEADER.pack(
            MAGIC, FILE_HEADER_BYTES, entry, attrs_at, len(table), data_at, 0, 0, 0, bytes(32)
        )
        return bytes(header + ids + table + gap), data_at

    def _pipe_start(self) -> bytes:
        parts = [MAGIC + struct.pack("<Q", PIPE_HEADER_BYTES)]
        for event in self._events:
            ids = struct.pack(f"<{len(event.ids)}Q", *event.ids)
            try:
                parts.append(
                    encode.record(RecordType.HEADER_ATTR, attr_codec.encode(event.attr) + ids)
                )
            except ValueError as error:
                raise OutputError(
                    f"the event {event.name} has too many counters for a pipe ({len(event.ids)})",
                    where=self.path, why=str(error), next_step="record into a file: -o FILE",
                ) from error
        parts += [_feature_record(k, v) for k, v in sorted(self._features(None).items())]
        if self._tracing_data:
            parts.append(encode.tracing_data_record(self._tracing_data))
        return b"".join(parts)

    def _open_stream(self, stdout_fd: int | None) -> None:
        if self.path == "-":
            self._fd = sys.stdout.fileno() if stdout_fd is None else stdout_fd
            self._owns_fd = False
        else:
            try:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise output_error(self.path, error) from error
        if os.isatty(self._fd):
            raise OutputError(
                "a recording is not written to a terminal", where=self.path,
                next_step="send it into a file or a pipe: -o FILE, or -o - | perfxmm script -i -",
            )

    # --- writing

    def _check_open(self) -> None:
        if self._fd < 0 or self._failure is not None:
            raise OutputError(
                "the recording is closed", where=self.path,
                why="an earlier write failed" if self._failure is not None else "",
            )

    def _put(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError as error:
            if not self._pipe:
                self._cut(self._position + _whole_records(view, done))
            raise self._failed(error) from error
        self._position += done

    def _cut(self, end: int) -> None:
        """Ends the file after its last complete record."""
        self._position = end
        try:
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except OSError:
            pass  # the reader finds the end of the complete records by itself

    def _finish_file(self, sections: dict[int, bytes]) -> None:
        data_end = self._position
        at = data_end + SECTION.size * len(sections)
        table, bodies, bits = bytearray(), bytearray(), 0
        for bit, body in sorted(sections.items()):
            table += SECTION.pack(at + len(bodies), len(body))
            bodies += body
            bits |= 1 << bit
        try:
            self._put(table + bodies)
        except OutputError:
            self._cut(data_end)
            self._patch(data_end, 0)
            raise
        self._patch(data_end, bits)

    def _patch(self, data_end: int, feature_bits: int) -> None:
        """Completes the header in one write: size of the data, no event types, features."""
        bitmap = feature_bits.to_bytes(FEATURE_BITS // 8, "little")
        try:
            os.pwrite(
                self._fd,
                struct.pack("<QQQ", data_end - self._data_offset, 0, 0) + bitmap, DATA_SIZE_AT,
            )
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        failure = output_error(self.path, error)
        self._failure = self._failure or failure
        return failure

    def _drop(self, created: str) -> None:
        """Takes back a file that never got as far as its first record."""
        fd, self._fd = self._fd, -1
        if self._owns_fd:
            os.close(fd)
        if created:
            Path(created).unlink(missing_ok=True)

    def _features(self, sample_time: tuple[int, int] | None) -> dict[int, bytes]:
        version = f"perfxmm {self.metadata.tool_version}".strip()
        sections = features.machine_features(self._command_line, version)
        sections[Feature.EVENT_DESC] = features.encode_event_desc(
            [(attr_codec.encode(e.attr), e.name, e.ids) for e in self._events]
        )
        if self._tracing_data and not self._pipe:
            sections[Feature.TRACING_DATA] = self._tracing_data
        if self._build_ids:
            sections[Feature.BUILD_ID] = features.encode_build_ids(list(self._build_ids.values()))
        if sample_time is not None:
            sections[Feature.SAMPLE_TIME] = struct.pack("<QQ", *sample_time)
        clocks = {e.attr.clockid for e in self._events if e.attr.flag(AttrFlag.USE_CLOCKID)}
        if len(clocks) == 1:
            clock = clocks.pop()
            with contextlib.suppress(OSError):  # a clock that this machine does not have
                sections[Feature.CLOCK_DATA] = features.encode_clock_data(
                    clock, time.time_ns(), time.clock_gettime_ns(clock)
                )
        sections[FEATURE_BIT] = self.metadata.to_json()
        if self._pipe and len(sections[FEATURE_BIT]) > MAX_PIPE_FEATURE_BYTES:
            # What explains a recording gives way to what decodes it.
            sections[FEATURE_BIT] = replace(self.metadata, probes={}, options={}).to_json()
        return sections


def _same_size(events: Sequence[EventSpec], least: int) -> list[EventSpec]:
    """perf steps through the attrs by attr.size, so one file's attrs all have the same."""
    size = max((len(attr_codec.encode(e.attr)) for e in events), default=0)
    size = max(size, least)
    return [replace(e, attr=replace(e.attr, size=size)) for e in events]


def _feature_record(bit: int, body: bytes) -> bytes:
    """HEADER_FEATURE for a pipe; b"" where it is too long for a record, and left out."""
    try:
        return encode.record(RecordType.HEADER_FEATURE, struct.pack("<Q", bit) + body)
    except ValueError:
        return b""


def _whole_records(view: memoryview, written: int) -> int:
    """How many of `written` bytes are complete records; the view starts with a record."""
    offset = 0
    while offset + 8 <= written:
        size = struct.unpack_from("<H", view, offset + 6)[0]
        if size < 8 or offset + size > written:
            break
        offset += size
    return offset
