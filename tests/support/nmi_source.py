"""Source nmi on the fake kernel: a file system with a loaded module, and rings that fill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import snapshot_writer as sw
from support.fake_kernel import FakeKernel
from support.fake_root import PERFMON, make_root
from support.pmu_source import FakeCommand

from perfxmm.kernel.permissions import survey
from perfxmm.sources.base import RecordRequest
from perfxmm.sources.nmi import NmiSource

COMPONENTS = """nr size offset alignment
2 256 576 1
5 64 832 1
6 512 896 1
7 1024 1408 1
9 8 2432 1
11 16 0 64
"""
SYSFS = {
    "version": "1.0", "nmi": "ipi", "hz": "999", "period": "0", "instruction": "xsaves",
    "rfbm": "0xe6", "xcr0": "0x2e7", "length": "2432", "listeners": "0", "running": "0",
    "ssp": "0", "kernel_hits": "0", "components": COMPONENTS,
}  # fmt: skip


def module_root(
    base: Path, *, sysfs: dict[str, str] | None = None, loaded: bool = True,
    layout: sw.Layout = sw.PLAIN, caps: int = PERFMON, **values: Any,
) -> Path:
    """A machine with the module. sysfs: replaces what it says of itself."""
    root = make_root(base, caps=caps, **values)
    if not loaded:
        return root
    for name, text in (SYSFS | (sysfs or {})).items():
        path = root / "sys/kernel/xsaves_nmi" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") else text + "\n")
    events = root / "sys/kernel/tracing/events"
    place = events / "xsaves_nmi/snapshot"
    place.mkdir(parents=True)
    (place / "id").write_text(f"{layout.number}\n")
    (place / "format").write_bytes(layout.text())
    (events / "header_page").write_bytes(sw.HEADER_PAGE)
    (events / "header_event").write_bytes(b"# compressed entry header\n")
    return root


def source(
    kernel: FakeKernel, root: Path, *, child: FakeCommand | None = None, cpus: Sequence[int] = (0,)
) -> NmiSource:
    return NmiSource(
        kernel, root=root, situation=survey(root, uid=1000), cpus=cpus, proc=str(root / "proc"),
        spawn=lambda argv, **_: child or FakeCommand(argv),
    )  # fmt: skip


def request(tmp_path: Path, **values: Any) -> RecordRequest:
    values.setdefault("classes", ("gpr", "xmm", "ymm", "zmm", "opmask"))
    values.setdefault("output", str(tmp_path / "out.data"))
    values.setdefault("sets", ("intr",))
    values.setdefault("events", ())
    values.setdefault("default_events", not values["events"])
    if not any(name in values for name in ("command", "pids", "tids", "system_wide", "cpus")):
        values["command"] = ("app",)
    return RecordRequest(**values)


def ring_bytes(snapshots: Sequence[sw.Snapshot], identifier: int) -> bytes:
    return b"".join(
        sw.sample(n, one, identifier=identifier) for n, one in enumerate(snapshots)
    )  # fmt: skip
