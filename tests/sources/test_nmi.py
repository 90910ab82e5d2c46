"""Source nmi: what it opens, what it refuses and why, and what arrives in the file.

The module's sysfs and tracefs are files, the system calls a fake; records are written ones.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import sample_writer
from support import snapshot_writer as sw
from support.fake_kernel import FakeKernel, Model
from support.fake_root import NO_CAPS
from support.nmi_source import COMPONENTS, module_root, request, ring_bytes, source
from support.pmu_source import Feeder, event, metadata, metadata_at_end

import perfxmm
from perfxmm.coherence.verdicts import Verdict
from perfxmm.errors import NotSupported, PerfxmmError, PermissionDenied
from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, PerfType, SampleType
from perfxmm.kernel.traceformat import parse_format
from perfxmm.perfdata.snapshotinfo import ComponentPlace, SnapshotInfo
from perfxmm.snapshots.decode import Decoder
from perfxmm.snapshots.xsaves import plan_snapshots
from perfxmm.sources.base import RequestedEvent
from perfxmm.sources.kmodule.status import read_status
from perfxmm.sources.nmi import delivered, read_tracepoint
from perfxmm.sources.nmi_scrub import SnapshotScrubber

GOOD = [sw.snapshot(sw.registers(n + 1), saved=0xE6, ip=0x401000 + n) for n in range(40)]
SNAPSHOT = RequestedEvent(
    "xsaves_nmi:snapshot",
    EventAttr(type=PerfType.TRACEPOINT, config=sw.NUMBER, sample_period=1),
)


def record(
    tmp_path: Path, snapshots: list[sw.Snapshot] = GOOD, *, root: dict[str, Any] | None = None,
    piece: int = 60_000, **values: Any,
) -> tuple[Any, FakeKernel, str]:  # fmt: skip
    kernel = FakeKernel(on_poll=Feeder(ring_bytes(snapshots, 70_000), piece=piece))
    asked = request(tmp_path, **values)
    made = module_root(tmp_path / "root", **(root or {}))
    return source(kernel, made).record(asked), kernel, asked.output


def opened_attr(kernel: FakeKernel, index: int = 0) -> EventAttr:
    return attrs.decode(kernel.opened[index].attr)


# --- what arrives


def test_from_the_ring_to_judged_snapshots(tmp_path: Path) -> None:
    result, _, path = record(tmp_path)
    assert (result.source, result.samples, result.lost, result.warnings) == ("nmi", 40, 0, [])
    assert oct(Path(path).stat().st_mode)[-3:] == "600"
    recording = perfxmm.open(path)
    assert recording.complete
    assert recording.source == "nmi"
    assert [event.name for event in recording.events] == ["xsaves_nmi:snapshot"]
    (batch,) = recording.snapshots()
    assert batch.ip.tolist() == [0x401000 + n for n in range(40)]
    registers = batch.sets["intr"]
    assert (registers.verdict == Verdict.COHERENT).all()
    for n in range(40):
        assert registers.vectors[n].tolist() == sw.registers(n + 1).vectors
        assert registers.predicates[n].tolist() == sw.registers(n + 1).opmask
    assert recording.notes == []


def test_what_the_file_says_of_the_module(tmp_path: Path) -> None:
    _, _, path = record(tmp_path)
    said = metadata(path)
    assert (said["source"], said["xcr0"], said["dialect"]) == ("nmi", 0x2E7, "L")
    info = SnapshotInfo.from_dict(said["snapshots"])
    assert (info.version, info.instruction, info.nmi, info.rfbm) == ("1.0", "xsaves", "ipi", 0xE6)
    assert info.components == (
        ComponentPlace(2, 256, 576), ComponentPlace(5, 64, 832), ComponentPlace(6, 512, 896),
        ComponentPlace(7, 1024, 1408), ComponentPlace(9, 8, 2432), ComponentPlace(11, 16, 0, True),
    )  # fmt: skip
    assert info.format.encode() == sw.PLAIN.text()
    assert info.parameters["hz"] == "999"
    assert metadata_at_end(path)["result"]["samples"] == 40


def test_the_recorded_component_table_is_used(tmp_path: Path) -> None:
    """CET_U behind PKRU, aligned to 64 bytes as only the table can say."""
    saved = 0xE7 | 1 << 9 | 1 << 11
    one = sw.snapshot(saved=saved, aligned=frozenset({11}))
    image = bytearray(one.image)
    struct.pack_into("<QQ", image, len(image) - 16, 0x3, 0x7FFE_0000_1008)
    _, _, path = record(tmp_path, [replace(one, image=bytes(image))], root={
        "sysfs": {"rfbm": f"{saved:#x}", "ssp": "1"},
    })  # fmt: skip
    (batch,) = perfxmm.open(path).snapshots()
    registers = batch.sets["intr"]
    assert registers.gprs[0, registers.gpr_ids.index(40)] == 0x7FFE00001008


def test_a_killed_recorder_leaves_what_decoding_needs(tmp_path: Path) -> None:
    """Tracing data come last; without them the format in the metadata serves."""
    _, _, path = record(tmp_path)
    raw = Path(path).read_bytes()
    data_at, data_size = struct.unpack_from("<QQ", raw, 40)
    cut = bytearray(raw[: data_at + data_size])
    struct.pack_into("<Q", cut, 48, 0)
    cut[72:104] = bytes(32)
    killed = tmp_path / "killed.data"
    killed.write_bytes(bytes(cut))
    recording = perfxmm.open(killed)
    (batch,) = recording.snapshots()
    assert not recording.complete
    assert len(batch) == 40
    assert (batch.sets["intr"].verdict == Verdict.COHERENT).all()


def test_as_a_stream(tmp_path: Path) -> None:
    fifo = tmp_path / "stream"
    os.mkfifo(fifo)
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(fifo.read_bytes()))
    reader.start()
    record(tmp_path, output=str(fifo))
    reader.join()
    stream = tmp_path / "stream.data"
    stream.write_bytes(taken[0])
    (batch,) = perfxmm.open(stream).snapshots()
    assert len(batch) == 40
    assert (batch.sets["intr"].verdict == Verdict.COHERENT).all()
    if shutil.which("perf") is not None:
        with stream.open("rb") as opened:
            printed = subprocess.run(
                ["perf", "script", "-i", "-"], stdin=opened, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
        assert printed.stdout.count("xsaves_nmi:snapshot") == 40


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
def test_perf_opens_the_file_and_prints_the_same(tmp_path: Path) -> None:
    names = ("ip", "sp", "flags", "tid", "tgid", "len", "rfbm", "xstate_bv", "xcomp_bv")
    print_fmt = 'print fmt: "' + " ".join(f"{n}=%llx" for n in names) + '", '
    text = sw.PLAIN.text().split(b"\nprint fmt:")[0] + b"\n"
    text += (print_fmt + ", ".join(f"REC->{n}" for n in names) + "\n").encode()
    root = module_root(tmp_path / "root")
    (root / "sys/kernel/tracing/events/xsaves_nmi/snapshot/format").write_bytes(text)
    kernel = FakeKernel(on_poll=Feeder(ring_bytes(GOOD[:3], 70_000), piece=60_000))
    source(kernel, root).record(request(tmp_path))
    printed = subprocess.run(
        ["perf", "script", "-i", str(tmp_path / "out.data")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert printed.stderr == ""
    lines = [line for line in printed.stdout.splitlines() if "rfbm=" in line]
    assert len(lines) == 3
    for n, line in enumerate(lines):
        assert "xsaves_nmi:snapshot:" in line
        found = dict(re.findall(r"(\w+)=([0-9a-f]+)", line))
        assert {k: int(v, 16) for k, v in found.items()} == {
            "ip": 0x401000 + n, "sp": 0x7FFC00000000, "flags": 0x21D, "tid": 101, "tgid": 100,
            "len": 2432, "rfbm": 0xE6, "xstate_bv": 0xE6, "xcomp_bv": 0xE6 | 1 << 63,
        }  # fmt: skip


# --- what is never written

KERNEL = sw.snapshot(sw.registers(0xBAD), saved=0xE6, ip=0xFFFFFFFF81000000, misc=1,
                     flags=2 | 12 | 16 | sw.IPI)  # fmt: skip
DOUBTFUL = {
    "kernel": KERNEL,
    "kernel by the sample": sw.snapshot(sw.registers(0xBAD), saved=0xE6, misc=1),
    "kernel by the record": sw.snapshot(sw.registers(0xBAD), saved=0xE6, flags=12 | 16 | sw.IPI),
    "need load": sw.snapshot(sw.registers(0xBAD), saved=0xE6, flags=1 | 2 | 12 | 16 | sw.IPI),
    "kernel thread": sw.snapshot(sw.registers(0xBAD), saved=0xE6, flags=1 | 12 | 16 | 32 | sw.IPI),
    "not in NMI": sw.snapshot(sw.registers(0xBAD), saved=0xE6, flags=1 | 12 | sw.IPI),
    "idle": sw.snapshot(sw.registers(0xBAD), saved=0xE6, tid=0, tgid=0),
    "guest": sw.snapshot(sw.registers(0xBAD), saved=0xE6, misc=5),
}
SECRETS = [struct.pack("<Q", word) for row in sw.registers(0xBAD).vectors for word in row]


@pytest.mark.parametrize("name", list(DOUBTFUL))
def test_doubtful_registers_are_not_written(tmp_path: Path, name: str) -> None:
    result, _, path = record(tmp_path, [GOOD[0], DOUBTFUL[name], GOOD[1]])
    raw = Path(path).read_bytes()
    assert not any(secret in raw for secret in SECRETS)
    assert metadata_at_end(path)["result"]["withheld_samples"] == 1
    assert result.samples == 3
    recording = perfxmm.open(path)
    (batch,) = recording.snapshots(keep=("all",))
    assert recording.complete
    found = [[Verdict(code).label for code in row] for row in batch.sets["intr"].verdict]
    assert found[0] == found[2] == ["coherent"] * 5
    assert found[1] == ["absent"] * 5
    assert batch.ip[1] == DOUBTFUL[name].ip


def test_unsafe_foreign_keeps_them(tmp_path: Path) -> None:
    _, kernel, path = record(tmp_path, [KERNEL], unsafe_foreign=True)
    raw = Path(path).read_bytes()
    assert all(secret in raw for secret in SECRETS)
    assert not opened_attr(kernel).flag(AttrFlag.EXCLUDE_KERNEL)
    (batch,) = perfxmm.open(path).snapshots(keep=("all",))
    assert (batch.sets["intr"].verdict == Verdict.FOREIGN).all()


def test_redact_values_writes_no_register(tmp_path: Path) -> None:
    result, _, path = record(tmp_path, redact="values")
    raw = Path(path).read_bytes()
    for one in GOOD:
        assert one.image[160:416] not in raw
        assert one.image[1408:1472] not in raw
    assert struct.pack("<Q", GOOD[0].sp) not in raw
    assert result.samples == 40
    (batch,) = perfxmm.open(path).snapshots(keep=("all",))
    assert (batch.sets["intr"].verdict == Verdict.ABSENT).all()
    assert len(batch) == 40


def test_an_image_behind_a_call_chain_goes_and_the_rest_stays() -> None:
    """RAW stands behind CALLCHAIN; __rel_loc counts from the field's end."""
    layout = sw.Layout((*sw.COMMON, *sw.FIELDS[:-1], ("__rel_loc u8[]", "xsave", 4, 0)), gap=4)
    attr = replace(
        attrs.decode(sw.attr()),
        sample_type=sw.SAMPLE_TYPE | SampleType.CALLCHAIN | SampleType.REGS_USER,
        sample_regs_user=1 << 8,
    )  # fmt: skip
    data = sw.raw(KERNEL, layout)
    data += bytes(-(4 + len(data)) % 8)
    head = struct.pack("<QQIIQIIQ", 7, KERNEL.ip, 100, 101, 5, 1, 0, 1)
    chain = struct.pack("<4Q", 3, 0xFFFFFFFFFFFFFF80, KERNEL.ip, 0x1234)
    behind = struct.pack("<QQ", 2, 0x401000)
    body = head + chain + struct.pack("<I", len(data)) + data + behind
    record = struct.pack("<IHH", 9, 1, 8 + len(body)) + body
    scrub = SnapshotScrubber(attr, parse_format(layout.text(), "xsaves_nmi"))
    out = bytes(scrub(record + record))
    size = struct.unpack_from("<H", out, 6)[0]
    assert out[:size] == out[size:]
    assert (scrub.scrubbed, scrub.dropped) == (2, 0)
    assert out[8 : 8 + len(head + chain)] == head + chain
    assert out[size - 16 : size] == behind
    kept = out[8 + len(head + chain) : size - 16]
    assert struct.unpack_from("<I", kept)[0] == len(kept) - 4 <= layout.end + 7
    assert not any(secret in out for secret in SECRETS)
    event = replace(sample_writer.event_of(attr, ids=(7,)), name="xsaves_nmi:snapshot")
    plans, _ = plan_snapshots(
        [event], {layout.number: parse_format(layout.text(), "xsaves_nmi")}, None
    )
    batch = Decoder([event], snapshots=plans).decode(
        sample_writer.block_of([out[:size], out[size:]])
    )
    assert batch.sets["intr"].abi.tolist() == [0, 0]
    assert batch.sets["user"].gprs.tolist() == [[0x401000]] * 2
    assert batch.chain is not None
    assert batch.chain.tolist() == [0xFFFFFFFFFFFFFF80, KERNEL.ip, 0x1234] * 2


def test_what_cannot_be_taken_apart_is_left_out(tmp_path: Path) -> None:
    data = bytearray(ring_bytes([KERNEL, GOOD[0]], 70_000))
    struct.pack_into("<I", data, 8 + 48, 60_000)
    kernel = FakeKernel(on_poll=Feeder(bytes(data), piece=60_000))
    asked = request(tmp_path)
    result = source(kernel, module_root(tmp_path / "root")).record(asked)
    raw = Path(asked.output).read_bytes()
    assert not any(secret in raw for secret in SECRETS)
    assert result.warnings == [
        "1 samples were left out: their registers could not be found, so that they could not be "
        "withheld"
    ]


# --- what is opened


def test_the_attr_of_a_command(tmp_path: Path) -> None:
    _, kernel, _ = record(tmp_path)
    (opened,) = kernel.opened
    attr = attrs.decode(opened.attr)
    assert (attr.type, attr.config, attr.sample_period) == (PerfType.TRACEPOINT, sw.NUMBER, 1)
    wanted = (
        SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.CPU
        | SampleType.PERIOD | SampleType.RAW
    )  # fmt: skip
    assert attr.sample_type == wanted
    for flag in (AttrFlag.DISABLED, AttrFlag.INHERIT, AttrFlag.ENABLE_ON_EXEC, AttrFlag.MMAP2,
                 AttrFlag.EXCLUDE_KERNEL, AttrFlag.SAMPLE_ID_ALL):  # fmt: skip
        assert attr.flag(flag), flag
    assert not attr.flag(AttrFlag.FREQ)
    assert (opened.pid, opened.cpu) == (4242, 0)
    assert kernel.map_requests == [256]


@pytest.mark.parametrize(
    ("values", "places"),
    [({"system_wide": True}, [(-1, 0), (-1, 1)]), ({"cpus": (1,)}, [(-1, 1)]),
     ({"pids": (100,)}, [(100, 0), (100, 1), (101, 0), (101, 1)]),
     ({"tids": (101,), "inherit": False}, [(101, -1)])],
)  # fmt: skip
def test_where_it_is_opened(
    tmp_path: Path, values: dict[str, Any], places: list[tuple[int, int]]
) -> None:
    from support.pmu_source import fake_proc

    root = module_root(tmp_path / "root")
    fake_proc(tmp_path, {100: (100, 101)})
    kernel = FakeKernel(on_poll=lambda kernel: False)
    source(kernel, root, cpus=(0, 1)).record(request(tmp_path, **values))
    assert [(one.pid, one.cpu) for one in kernel.opened] == places
    assert opened_attr(kernel).flag(AttrFlag.INHERIT) == ("pids" in values)


def test_call_chains_and_ring_size(tmp_path: Path) -> None:
    kernel = FakeKernel(on_poll=lambda kernel: False)
    root = module_root(tmp_path / "root")
    source(kernel, root).record(request(tmp_path, callchain=True, mmap_pages=8))
    assert opened_attr(kernel).has(SampleType.CALLCHAIN)
    assert kernel.map_requests == [8]


@pytest.mark.parametrize(
    ("values", "sysfs", "period"),
    [({}, {}, 1), ({"period": 7}, {}, 7), ({"frequency_hz": 999}, {}, 1),
     ({"frequency_hz": 100}, {}, 10), ({"frequency_hz": 400}, {}, 2),
     ({"period": 3}, {"period": "2000000"}, 3), ({"events": (SNAPSHOT,)}, {}, 1)],
)  # fmt: skip
def test_every_how_many_hits(
    tmp_path: Path, values: dict[str, Any], sysfs: dict[str, str], period: int
) -> None:
    kernel = FakeKernel(on_poll=lambda kernel: False)
    root = module_root(tmp_path / "root", sysfs=sysfs)
    source(kernel, root).record(request(tmp_path, **values))
    assert opened_attr(kernel).sample_period == period
    # A kernel that is to write the period writes a sample at every hit.
    assert opened_attr(kernel).has(SampleType.PERIOD) == (period == 1)


def test_classes_that_come_along_are_named(tmp_path: Path) -> None:
    result, _, _ = record(tmp_path, classes=("gpr", "xmm"))
    assert result.warnings == [
        "the module saves ymm, zmm, opmask as well: which components it does is chosen when it is "
        "loaded (mask=)"
    ]


# --- what is refused

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"loaded": False}, {}, "the kernel module xsaves_nmi is not loaded", "perfxmm module load"),
    ({"caps": NO_CAPS}, {}, "raw tracepoint data needs CAP_PERFMON", "CAP_PERFMON"),
    ({}, {"events": (event(),)}, "the module's own NMIs, event xsaves_nmi:snapshot", "leave out"),
    ({}, {"redact": "crypto"}, "nothing decodes instructions on the way", "export --redact"),
    ({}, {"engine": "interrupt"}, "engine 'interrupt' belongs to source sigtrap", "--engine"),
    ({}, {"sets": ("user",)}, "it saves what was interrupted", "--intr-regs"),
    ({}, {"frequency_hz": 4000}, "the module sends 999 NMIs a second to each CPU", "hz=4000"),
    ({"sysfs": {"period": "1000000"}}, {"frequency_hz": 99}, "its rate is not known", "-c N"),
    ({"layout": sw.Layout(sw.COMMON + sw.FIELDS[:-2] + sw.FIELDS[-1:])}, {},
     "another module of that name is loaded", "build"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "values", "why", "step"), REFUSED)
def test_refusals_name_the_reason(
    tmp_path: Path, root: dict[str, Any], values: dict[str, Any], why: str, step: str
) -> None:
    made = source(FakeKernel(), module_root(tmp_path / "root", **root))
    asked = request(tmp_path, **values)
    with pytest.raises(PerfxmmError) as caught:
        made.record(asked)
    assert why in (caught.value.why or caught.value.what)
    assert step in caught.value.next_step
    said = caught.value.why or caught.value.what
    assert made.why_not(asked) == f"{said} ({caught.value.next_step})"
    assert caught.value.exit_code == (3 if "caps" in root else 4)
    assert not Path(asked.output).exists()


def test_paranoid_minus_one_is_enough(tmp_path: Path) -> None:
    root = module_root(tmp_path / "root", caps=NO_CAPS, paranoid=-1)
    assert source(FakeKernel(), root).why_not(request(tmp_path)) is None


def test_tracefs_that_is_closed_or_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = module_root(tmp_path / "root")
    shutil.rmtree(root / "sys/kernel/tracing")
    made = source(FakeKernel(), root)
    with pytest.raises(NotSupported, match="tracefs, which is not mounted"):
        made.record(request(tmp_path))
    closed = module_root(tmp_path / "closed")
    real = Path.iterdir

    def refuse(self: Path) -> Any:
        if self.name == "events":
            raise PermissionError(errno.EACCES, "no")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionDenied) as caught:
        source(FakeKernel(), closed).record(request(tmp_path))
    assert "remount,mode=750,gid=" in caught.value.next_step


@pytest.mark.parametrize(
    ("number", "kind", "why"),
    [(errno.ENODEV, NotSupported, "its source of NMIs is not there"),
     (errno.EBUSY, NotSupported, "KVM is in use"),
     (errno.EINVAL, NotSupported, "the module was loaded anew"),
     (errno.EMFILE, PerfxmmError, "RLIMIT_NOFILE")],
)  # fmt: skip
def test_what_the_module_answers(
    tmp_path: Path, number: int, kind: type[PerfxmmError], why: str
) -> None:
    kernel = FakeKernel(Model(refuse=number))
    with pytest.raises(kind) as caught:
        source(kernel, module_root(tmp_path / "root")).record(
            request(tmp_path, pids=(), tids=(7,), inherit=False, command=())
        )
    assert why in caught.value.why


def test_what_is_delivered(tmp_path: Path) -> None:
    for mask, classes in (
        ("0xe6", ("gpr", "xmm", "ymm", "zmm", "opmask")), ("0x6", ("gpr", "xmm", "ymm")),
        ("0x808e6", ("gpr", "xmm", "ymm", "zmm", "opmask", "egpr", "ssp")),
    ):  # fmt: skip
        status = read_status(module_root(tmp_path / mask, sysfs={"rfbm": mask}))
        assert status is not None
        assert delivered(status) == classes


def test_the_tracepoint_as_tracefs_has_it(tmp_path: Path) -> None:
    found = read_tracepoint(module_root(tmp_path / "root") / "sys")
    assert found.number == sw.NUMBER
    assert found.text == sw.PLAIN.text()
    assert COMPONENTS.startswith("nr size offset alignment")
