"""Source nmi with this kernel's perf events: a uprobe that is named as the module's tracepoint is.

It has the same fields, and an image of no bytes: what is tried is opening, rings, periods and the
file, not registers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from support.nmi_source import SYSFS
from support.workloads import symbol, workload

import perfxmm
from perfxmm.sources.base import RecordRequest, RecordResult
from perfxmm.sources.nmi import NmiSource

TRACEFS = Path("/sys/kernel/tracing")
HITS = 1000
WORDS = (
    "ip=%ip:u64 sp=%sp:u64 flags=+0(%di):u32 tid=+4(%di):u32 tgid=+8(%di):u32 len=+12(%di):u32 "
    "rfbm=+16(%di):u64 xstate_bv=+24(%di):u64 xcomp_bv=+32(%di):u64 xsave=+40(%di):ustring"
)


def tell(line: str) -> None:
    """A line for uprobe_events, behind what is there."""
    descriptor = os.open(TRACEFS / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@pytest.fixture
def probed(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The program, and a file system in which the module seems to be loaded."""
    program = workload("hits.c")
    with open(program, "rb") as file:
        address = symbol(program, "hit")
        load = next(
            s for s in ELFFile(file).iter_segments("PT_LOAD")
            if s["p_vaddr"] <= address < s["p_vaddr"] + s["p_filesz"]
        )  # fmt: skip
        offset = address - load["p_vaddr"] + load["p_offset"]
    try:
        # Fails where another has one of that name, and with it where a run is under way beside us.
        tell(f"p:xsaves_nmi/snapshot {program}:{offset:#x} {WORDS}\n")
    except OSError as error:
        pytest.skip(f"no uprobe can be made here: {error}")
    root = tmp_path / "root"
    for name, text in SYSFS.items():
        path = root / "sys/kernel/xsaves_nmi" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "sys/kernel/tracing").symlink_to(TRACEFS)
    (root / "proc").symlink_to("/proc")
    try:
        yield program, root
    finally:
        with contextlib.suppress(OSError):
            tell("-:xsaves_nmi/snapshot\n")


def record(program: str, root: Path, output: Path, **values: Any) -> RecordResult:
    return NmiSource(root=root).record(RecordRequest(
        events=(), classes=("gpr", "xmm", "ymm", "zmm", "opmask"), output=str(output),
        sets=("intr",), default_events=True, command=(program, str(HITS)), **values,
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("values", "samples"),
    [({}, HITS), ({"system_wide": True}, HITS), ({"callchain": True}, HITS),
     ({"inherit": False}, HITS), ({"period": 10}, HITS // 10), ({"frequency_hz": 333}, 333)],
)  # fmt: skip
def test_every_hit_becomes_a_sample(
    probed: tuple[str, Path], tmp_path: Path, values: dict[str, Any], samples: int
) -> None:
    path = tmp_path / "out.data"
    result = record(*probed, path, **values)
    assert (result.samples, result.lost, result.exit_status, result.warnings) == (
        samples, 0, 0, [],
    )  # fmt: skip
    recording = perfxmm.open(path)
    batches = list(recording.snapshots(keep=("all",)))
    assert sum(map(len, batches)) == samples
    assert recording.complete
    assert recording.notes == []
    for batch in batches:
        # User mode, in an NMI, by ipi; a snapshot without an image.
        assert batch.snapshot_flags is not None
        assert set(batch.snapshot_flags.tolist()) == {0x3_0000_0211}
        assert set(batch.cpumode.tolist()) == {2}
    if shutil.which("perf") is not None:
        printed = subprocess.run(
            ["perf", "script", "-i", str(path), "-F", "event,ip,sym"], capture_output=True,
            text=True, check=True,
        ).stdout  # fmt: skip
        assert printed.count("xsaves_nmi:snapshot") == samples
