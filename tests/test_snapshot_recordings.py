"""Whole recordings of xsaves_nmi:snapshot as perf writes them: found, decoded, judged, shown."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import perfdata_writer as pw
from support import sample_writer
from support import snapshot_writer as sw
from support.command import run

import perfxmm
from perfxmm.coherence.verdicts import Verdict
from perfxmm.kernel import attr as attr_codec
from perfxmm.kernel.constants import CpuMode, SampleType

KERNEL_IP = 0xFFFFFFFF8101A60F
KERNEL = sw.snapshot(
    sw.registers(0xBAD), ip=KERNEL_IP, misc=1, flags=2 | 4 | 8 | 16 | sw.IPI
)  # fmt: skip
ALL = ("all",)


def sound(count: int, **changes: object) -> list[bytes]:
    return [
        sw.sample(n, sw.snapshot(sw.registers(n + 1), ip=0x401000 + n, **changes))
        for n in range(count)
    ]


def only(batches: list[perfxmm.SnapshotBatch]) -> perfxmm.SnapshotBatch:
    (one,) = batches
    return one


def verdicts(batch: perfxmm.SnapshotBatch) -> list[list[str]]:
    return [[Verdict(code).label for code in row] for row in batch.sets["intr"].verdict]


@pytest.mark.parametrize("form", ["file", "pipe"])
def test_a_recording_of_perfs_is_found_and_believed(tmp_path: Path, form: str) -> None:
    path = tmp_path / "perf.data"
    records = [pw.record(pw.COMM, struct.pack("<II", 100, 101) + b"app\0\0\0\0\0" + bytes(48)),
               *sound(50)]  # fmt: skip
    path.write_bytes(sw.file(records) if form == "file" else sw.pipe(records))
    recording = perfxmm.open(path)
    batch = only(list(recording.snapshots()))
    assert recording.complete
    assert recording.notes == []
    assert recording.source == "nmi"
    assert verdicts(batch) == [["coherent"] * 5] * 50
    vectors = batch.sets["intr"].vectors
    for n in range(50):
        assert vectors[n].tolist() == sw.registers(n + 1).vectors
        assert batch.sets["intr"].predicates[n].tolist() == sw.registers(n + 1).opmask


def test_a_stream_on_stdin(tmp_path: Path) -> None:
    made = run("export", "-i", "-", "--format", "jsonl", stdin=sw.pipe(sound(3)))
    rows = [json.loads(line) for line in made.out.splitlines()]
    assert [row["ip"] for row in rows] == ["0x401000", "0x401001", "0x401002"]
    assert {row["source"] for row in rows} == {"nmi"}
    first = rows[1]["sets"]["intr"]
    assert first["vector_bits"] == 512
    assert first["vector"][31] == [hex(word) for word in sw.registers(2).vectors[31]]
    assert first["ip"] == "0x401001"
    assert first["gpr"] == {"SP": "0x7ffc00000000", "IP": "0x401001"}
    assert set(first["verdict"].values()) == {"coherent"}


def test_an_alias_does_not_hide_it(tmp_path: Path) -> None:
    """`perf record -e xsaves_nmi:snapshot/name=foo/`: the number in the tracing data counts."""
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(sound(2), name="foo"))
    assert verdicts(only(list(perfxmm.open(path).snapshots()))) == [["coherent"] * 5] * 2


def test_another_tracepoint_of_that_name_is_not_it(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    other = sw.tracing_data([("elsewhere", sw.PLAIN.text())])
    path.write_bytes(sw.file(sound(2), tracing=other, name="elsewhere:snapshot"))
    recording = perfxmm.open(path)
    batch = only(list(recording.snapshots(keep=ALL)))
    assert batch.sets == {}
    assert recording.source == ""


@pytest.mark.parametrize("tracing", [b"", sw.tracing_data()[:80], sw.tracing_data([])])
def test_without_its_format_nothing_is_guessed(tmp_path: Path, tracing: bytes) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(sound(2), tracing=tracing))
    recording = perfxmm.open(path)
    batch = only(list(recording.snapshots(keep=ALL)))
    assert batch.sets == {}
    assert recording.notes[0] == (
        "event 0: xsaves_nmi:snapshot, but its register images are not read: the recording does "
        "not keep its format (tracing data)"
    )
    inspected = run("inspect", "-i", str(path))
    assert f"note: {recording.notes[0]}" in inspected.out + inspected.err


def test_kernel_hits_are_never_shown_unasked(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    records = [sw.sample(0, KERNEL), *sound(1), sw.sample(2, KERNEL)]
    path.write_bytes(sw.file(records))
    recording = perfxmm.open(path)
    assert len(only(list(recording.snapshots()))) == 1
    batch = only(list(recording.snapshots(keep=ALL)))
    assert verdicts(batch) == [["foreign"] * 5, ["coherent"] * 5, ["foreign"] * 5]
    secret = sw.registers(0xBAD).vectors[3][0]
    assert secret not in batch.sets["intr"].vectors
    batch = only(list(perfxmm.open(path).snapshots(keep=ALL, unsafe_foreign=True)))
    assert batch.sets["intr"].vectors[0, 3, 0] == secret
    made = run("script", "-i", str(path), "--keep", "all")
    assert f"{secret:x}" not in made.out
    assert made.out.count("intr:foreign") == 2


OWNERS = {
    "coherent": sw.snapshot(),
    "unknown": sw.snapshot(misc=int(CpuMode.KERNEL)),
    "foreign": sw.snapshot(tid=0, tgid=0),
    "thread": sw.snapshot(sample_tid=7),
    "late": sw.snapshot(sample_ip=0x401005),
    "not in nmi": sw.snapshot(flags=1 | 4 | 8 | sw.IPI),
    "kthread": sw.snapshot(flags=1 | 4 | 8 | 16 | 32 | sw.IPI),
    "guest": sw.snapshot(misc=int(CpuMode.GUEST_USER)),
    "memory": sw.snapshot(flags=1 | 2 | 4 | 8 | 16 | sw.IPI),
}


def test_every_owner_but_the_task_is_doubted(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file([sw.sample(n, one) for n, one in enumerate(OWNERS.values())]))
    batch = only(list(perfxmm.open(path).snapshots(keep=ALL)))
    found = dict(zip(OWNERS, [row[3] for row in verdicts(batch)], strict=True))
    assert found == {
        "coherent": "coherent", "unknown": "unknown", "foreign": "foreign", "thread": "unknown",
        "late": "unknown", "not in nmi": "unknown", "kthread": "foreign", "guest": "foreign",
        "memory": "foreign",
    }  # fmt: skip


def test_initial_state_and_what_was_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    ones = [sw.snapshot(bv=0x3), sw.snapshot(saved=0x7), sw.snapshot(saved=0x3)]
    path.write_bytes(sw.file([sw.sample(n, one) for n, one in enumerate(ones)]))
    recording = perfxmm.open(path)
    batch = only(list(recording.snapshots(keep=ALL)))
    assert verdicts(batch) == [
        ["coherent"] * count + ["absent"] * (5 - count) for count in (5, 3, 2)
    ]
    assert recording.account.shown == 3
    shown = run("script", "-i", str(path), "--regs", "zmm1").out
    assert re.search(r"zmm1 +0x1000000100000100 0x1000000100000101 init", shown)
    assert "not-asked" in run("export", "-i", str(path), "--format", "jsonl").out


def test_damage_is_told_and_costs_exit_code_5(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    one = sw.snapshot()
    records = [*sound(2), sw.sample(2, replace(one, said_len=600)), *sound(1)]
    path.write_bytes(sw.file(records))
    made = run("script", "-i", str(path), "-F", "ip,verdict")
    assert made.code == 5
    assert "the image is shorter than the components in it" in made.err
    assert len(made.out.splitlines()) == 3
    inspected = run("inspect", "-i", str(path))
    assert inspected.code == 5
    assert "the image is shorter than the components in it" in inspected.out + inspected.err


def test_a_snapshot_event_beside_a_sampling_one(tmp_path: Path) -> None:
    """Two events in one file: each keeps its own rules, and their samples one order."""
    other = pw.attr(sw.SAMPLE_TYPE & ~sw.RAW, kind=1, config=1, size=128)
    body = struct.pack("<QQIIQIIQ", 8, 0x402000, 100, 101, 1_000_000_500, 1, 0, 1)
    records = [sw.sample(0, sw.snapshot()), pw.record(pw.SAMPLE, body, 2),
               sw.sample(1, sw.snapshot())]  # fmt: skip
    data = pw.PerfFile(
        [(sw.attr(), (7,)), (other, (8,))], records,
        {sw.FEATURE_TRACING_DATA: sw.tracing_data()},
    ).build()  # fmt: skip
    path = tmp_path / "perf.data"
    path.write_bytes(data)
    recording = perfxmm.open(path)
    batch = only(list(recording.snapshots(keep=ALL)))
    assert batch.event.tolist() == [0, 1, 0]
    assert [row[1] for row in verdicts(batch)] == ["coherent", "absent", "coherent"]
    assert [event.name for event in recording.events] == ["xsaves_nmi:snapshot", "task-clock"]


def test_call_chains_and_user_registers_beside_the_image(tmp_path: Path) -> None:
    """As `perf record -R -g --user-regs=ip,sp`: the user set keeps perf's own rules."""
    attr = replace(
        attr_codec.decode(sw.attr()),
        sample_type=sw.SAMPLE_TYPE | SampleType.CALLCHAIN | SampleType.REGS_USER,
        sample_regs_user=1 << 7 | 1 << 8,
    )  # fmt: skip
    records = []
    for n in range(3):
        one = sw.snapshot(sw.registers(n + 1), ip=0x401000 + n)
        data = sw.raw(one)
        values = sample_writer.SampleValues(
            identifier=7, ip=one.ip, pid=100, tid=101, time_ns=10 + n, cpu=1, period=1,
            chain=(0xFFFFFFFFFFFFFE00, one.ip, 0x1234), raw=data + bytes(-(4 + len(data)) % 8),
            user=sample_writer.SetValues(gprs=(one.sp, one.ip)),
        )  # fmt: skip
        records.append(sample_writer.sample_record(attr, values))
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(records, attr_bytes=attr_codec.encode(attr)))
    recording = perfxmm.open(path)
    assert recording.source == "nmi"
    batch = only(list(recording.snapshots(keep=ALL)))
    assert verdicts(batch) == [["coherent"] * 5] * 3
    assert batch.sets["intr"].vectors[2].tolist() == sw.registers(3).vectors
    user = batch.sets["user"]
    # A tracepoint's user registers are those of kernel entry.
    assert [Verdict(code).label for code in user.verdict[0]] == ["entry", *("absent",) * 4]
    assert user.gprs.tolist() == [[0x7FFC00000000, 0x401000 + n] for n in range(3)]
    assert batch.chain is not None
    assert batch.chain[:3].tolist() == [0xFFFFFFFFFFFFFE00, 0x401000, 0x1234]


def test_in_file_order_and_by_batches(tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(sound(100)))
    recording = perfxmm.open(path)
    ips = [batch.ip for batch in recording.snapshots(ordered=False, batch_samples=7)]
    assert [len(one) for one in ips] == [7] * 14 + [2]
    assert np.concatenate(ips).tolist() == [0x401000 + n for n in range(100)]


NUMBERS = ("ip", "sp", "flags", "tid", "tgid", "len", "rfbm", "xstate_bv", "xcomp_bv")


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
@pytest.mark.parametrize("gap", [0, 8])
def test_perf_reads_the_same_numbers(tmp_path: Path, gap: int) -> None:
    layout = sw.Layout(gap=gap)
    shown = 'print fmt: "' + " ".join(f"{n}=%llx" for n in NUMBERS) + '", '
    shown += ", ".join(f"REC->{n}" for n in NUMBERS)
    text = layout.text().split(b"\nprint fmt:")[0] + b"\n" + shown.encode() + b"\n"
    ones = [sw.snapshot(sw.registers(n), saved=s, ip=0x401000 + n, sp=0x7000 + n)
            for n, s in enumerate([0xE7, 0x7, 0x27])]  # fmt: skip
    path = tmp_path / "perf.data"
    path.write_bytes(sw.file(
        [sw.sample(n, one, layout) for n, one in enumerate(ones)],
        tracing=sw.tracing_data([("xsaves_nmi", text)]),
    ))  # fmt: skip
    printed = subprocess.run(
        ["perf", "script", "-i", str(path), "-F", "ip,trace"], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    rows = [
        {k: int(v, 16) for k, v in re.findall(r"(\w+)=([0-9a-f]+)", line)}
        for line in printed.splitlines() if "rfbm=" in line
    ]  # fmt: skip
    batch = only(list(perfxmm.open(path).snapshots(keep=ALL)))
    registers = batch.sets["intr"]
    assert registers.xstate_bv is not None
    assert registers.asked_components is not None
    assert batch.snapshot_flags is not None
    assert [row["ip"] for row in rows] == registers.gprs[:, registers.gpr_ids.index(8)].tolist()
    assert [row["sp"] for row in rows] == registers.gprs[:, registers.gpr_ids.index(7)].tolist()
    assert [row["rfbm"] for row in rows] == registers.asked_components.tolist()
    assert [row["xstate_bv"] for row in rows] == registers.xstate_bv.tolist()
    assert [row["flags"] for row in rows] == [
        word & 0xFFFFFFFF for word in batch.snapshot_flags.tolist()
    ]
    assert [row["tid"] for row in rows] == batch.tid.tolist()
    assert [row["tgid"] for row in rows] == batch.pid.tolist()
