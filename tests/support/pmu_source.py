"""Source pmu on the fake kernel: requests, a made-up child, rings that fill, what was written."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.fake_kernel import FakeKernel, Model
from support.fake_root import make_root
from support.kernel_records import FIRST_TOOL_RECORD, Made, data_section, kind_of

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag
from perfxmm.kernel.permissions import survey
from perfxmm.kernel.probe import Capabilities, probe
from perfxmm.kernel.ring import walk
from perfxmm.perfdata.metadata import GAP_MAGIC
from perfxmm.sources.base import RecordRequest, RequestedEvent
from perfxmm.sources.pmu import PmuSource

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


def split(data: bytes) -> list[bytes]:
    return [data[at : at + size] for at, size in walk(data)]


def kernel_mode_request(tmp_path: Path, **values: Any) -> RecordRequest:
    allowed = event(name="cycles", flags=AttrFlag.EXCLUDE_GUEST)
    return request(tmp_path, events=(allowed,), sets=("intr", "user"), **values)


def metadata_at_end(path: str) -> dict[str, Any]:
    raw = Path(path).read_bytes()
    at = raw.rindex(b'{"schema":"perfxmm.recording')
    loaded: dict[str, Any] = json.JSONDecoder().raw_decode(raw[at:].decode(errors="replace"))[0]
    return loaded
