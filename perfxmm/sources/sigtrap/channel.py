"""Lines of JSON between the recorder and its tracer process, and what they carry.

Recorder to tracer: one line with the request, then at most "stop". End of file means that the
recorder is gone. Tracer to recorder: progress, warnings, the result, the command's exit status, or
one error.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from perfxmm import errors
from perfxmm.errors import PerfxmmError, SyscallError
from perfxmm.kernel import attr as attr_codec
from perfxmm.sources.base import RecordRequest, RequestedEvent

_ERRORS: dict[str, type[PerfxmmError]] = {
    cls.__name__: cls
    for cls in (
        errors.UsageError, errors.PermissionDenied, errors.NotSupported,
        errors.NotSupportedBySyscall, errors.TargetError, errors.OutputError, SyscallError,
        PerfxmmError,
    )
}  # fmt: skip
_TUPLES = {f.name for f in dataclasses.fields(RecordRequest) if str(f.type).startswith("tuple")}


@dataclasses.dataclass(slots=True)
class Flags:
    """Set by signal handlers, read by the loop. stop: why, "" while sampling goes on."""

    tick: bool = False
    stop: str = ""


def request_to_json(request: RecordRequest) -> dict[str, Any]:
    data = {
        f.name: getattr(request, f.name)
        for f in dataclasses.fields(RecordRequest)
        if f.name != "events"
    }
    data["events"] = [
        {"name": e.name, "attr": attr_codec.encode(e.attr).hex()} for e in request.events
    ]
    return data


def request_from_json(data: dict[str, Any]) -> RecordRequest:
    values: dict[str, Any] = {
        k: tuple(v) if k in _TUPLES else v for k, v in data.items() if k != "events"
    }
    events = tuple(
        RequestedEvent(e["name"], dataclasses.replace(
            attr_codec.decode(bytes.fromhex(e["attr"])), size=0, tail=b""))
        for e in data["events"]
    )  # fmt: skip
    return RecordRequest(events=events, **values)


def error_to_json(error: PerfxmmError) -> dict[str, Any]:
    known = next((c.__name__ for c in type(error).__mro__ if c.__name__ in _ERRORS), "PerfxmmError")
    data: dict[str, Any] = {"type": known, "what": error.what, "where": error.where,
                            "why": error.why, "next_step": error.next_step}  # fmt: skip
    if isinstance(error, SyscallError):
        data |= {"call": error.call, "errno": error.errno}
    return data


def error_from_json(data: dict[str, Any]) -> PerfxmmError:
    cls = _ERRORS.get(data.pop("type", ""), PerfxmmError)
    place = data.pop("where", "")
    if issubclass(cls, SyscallError):
        error: PerfxmmError = cls(**data)
    else:
        data.pop("call", None), data.pop("errno", None)
        error = cls(**data)
    error.where = place
    return error


class Lines:
    """Whole JSON lines over one descriptor. Writing to a peer that is gone is silent."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except (BrokenPipeError, BlockingIOError):
            pass  # the recorder is gone, or too busy to want progress

    def receive(self) -> list[dict[str, Any]]:
        """The messages of one read; blocks unless the descriptor is non-blocking."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines if line]
