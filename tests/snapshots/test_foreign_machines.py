"""Recordings of machines that are no x86-64: all but their registers is read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support import perfdata_writer as pw
from support import sample_writer as sw

import perfxmm
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import SampleType
from perfxmm.perfdata.reader import Reader
from perfxmm.snapshots.decode import EXTRA_COLUMNS, Decoder
from perfxmm.snapshots.sidekinds import Comm, Mmap

ARM64_MASK = (1 << 33) - 1  # X0..X29, LR, SP, PC: arch/arm64/include/uapi/asm/perf_regs.h
ATTR = EventAttr(
    sample_type=int(
        SampleType.IP | SampleType.TIME | SampleType.REGS_USER | SampleType.STACK_USER
        | SampleType.WEIGHT | SampleType.REGS_INTR | SampleType.CGROUP
    ),
    sample_regs_user=ARM64_MASK, sample_regs_intr=0xF,
)  # fmt: skip
HEADER_ARCH = 6


def values(number: int, user_abi: int, intr_abi: int) -> sw.SampleValues:
    return sw.SampleValues(
        ip=0x1000 + number, time_ns=number, stack=bytes(16), stack_dyn=8, weight=50 + number,
        cgroup=70 + number, user=sw.SetValues(abi=user_abi, gprs=range(33)),
        intr=sw.SetValues(abi=intr_abi, gprs=range(4)),
    )


@pytest.mark.parametrize("arch", ["aarch64", "armv7l", "riscv64", "s390x", "ppc64le"])
def test_registers_are_passed_over_by_their_size_and_named(arch: str) -> None:
    written = [values(n, abi, other) for n, (abi, other) in enumerate(
        [(2, 2), (0, 2), (2, 0), (0, 0), (1, 1)] * 3
    )]  # fmt: skip
    decoder = Decoder([sw.event_of(ATTR)], arch=arch)
    batch = decoder.decode(
        sw.block_of(sw.sample_record(ATTR, one) for one in written), columns=EXTRA_COLUMNS
    )
    assert batch.sets == {}
    assert not decoder.damaged
    assert batch.ip.tolist() == [one.ip for one in written]
    assert batch.extra["weight"].tolist() == [one.weight for one in written]
    assert batch.extra["cgroup"].tolist() == [one.cgroup for one in written]
    assert batch.extra["user_stack_dyn_bytes"].tolist() == [8] * len(written)
    assert decoder.notes == [
        f"intr registers of {arch} (4 each) are skipped: only x86 is decoded",
        f"user registers of {arch} (33 each) are skipped: only x86 is decoded",
    ]


def test_damage_in_registers_that_are_passed_over_is_damage() -> None:
    good, bad = values(0, 2, 2), values(1, 9, 2)
    decoder = Decoder([sw.event_of(ATTR)], arch="aarch64")
    records = [sw.sample_record(ATTR, one) for one in (good, bad, good)]
    assert len(decoder.decode(sw.block_of(records))) == 2
    assert [p.file_offset for p in decoder.problems] == [len(records[0])]


@pytest.mark.parametrize("arch", ["i686", "i386", "x86_64"])
def test_every_x86_is_decoded(arch: str) -> None:
    attr = EventAttr(sample_type=int(SampleType.REGS_USER), sample_regs_user=0x1FF)
    one = sw.SampleValues(user=sw.SetValues(abi=1, gprs=range(9)))
    decoder = Decoder([sw.event_of(attr)], arch=arch)
    batch = decoder.decode(sw.block_of([sw.sample_record(attr, one)]))
    assert batch.sets["user"].gprs.tolist() == [list(range(9))]
    assert batch.sets["user"].abi.tolist() == [1]
    assert decoder.notes == []


def test_a_recording_of_another_machine_opens(tmp_path: Path) -> None:
    raw = pw.attr(pw.IP | pw.TID | pw.TIME | 1 << 18, regs_intr=ARM64_MASK)
    registers = struct.pack("<34Q", 2, *range(33))
    path = tmp_path / "perf.data"
    path.write_bytes(pw.PerfFile(
        attrs=[(raw, (7,))], features={HEADER_ARCH: pw.string("aarch64")},
        records=[pw.comm(1), *(pw.sample(n, ip=n, extra=registers) for n in range(2, 30))],
    ).build())  # fmt: skip
    recording = perfxmm.open(path)
    batches = list(recording.snapshots())
    assert np.concatenate([batch.ip for batch in batches]).tolist() == list(range(2, 30))
    assert all(batch.sets == {} for batch in batches)
    assert recording.notes == [
        "intr registers of aarch64 (33 each) are skipped: only x86 is decoded"
    ]
    assert recording.complete
    assert recording.account.read == 28


# Counted with perf 6.1: perf report -D | grep -c PERF_RECORD_{SAMPLE,COMM,MMAP}.
@pytest.mark.parametrize(("name", "arch", "samples", "comms", "mmaps"), [
    ("perf.data.armv7.perf_3.14-3.8", "armv7l", 700, 217, 1639),
    ("perf.data.i686-3.4", "i686", 703, 204, 1584),
])  # fmt: skip
def test_real_recordings_of_32_bit_machines(
    shared_data: Path, name: str, arch: str, samples: int, comms: int, mmaps: int
) -> None:
    path = shared_data / "perfdata" / name
    if not path.exists():
        pytest.skip("the recording is not there")
    reader = Reader(path)
    assert reader.features["arch"] == arch
    decoder = Decoder(reader.events, arch=arch)
    counted, sideband = 0, []
    for block in reader.blocks():
        batch = decoder.decode(block)
        counted += len(batch)
        assert batch.ip.all()
        assert (batch.pid >= 0).all()
        sideband += list(decoder.sideband(block))
    assert counted == samples
    assert sum(isinstance(one, Comm) for one in sideband) == comms
    assert sum(isinstance(one, Mmap) for one in sideband) == mmaps
    assert not decoder.damaged
    assert decoder.notes == []
