"""Samples that today's perf can read: every register that it prints is what we decode."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import sample_writer as sw

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.layout import bits_of
from perfxmm.kernel.registers import GPR_NAMES
from perfxmm.perfdata import encode
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.snapshots.decode import Decoder

MASK = 0xFFFFFFFF00FF0FFF
ATTR = EventAttr(
    sample_type=int(
        SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME
        | SampleType.CPU | SampleType.PERIOD | SampleType.CALLCHAIN | SampleType.RAW
        | SampleType.REGS_INTR
    ),
    flags=int(AttrFlag.SAMPLE_ID_ALL), precise_ip=1, sample_period=1000, sample_regs_intr=MASK,
)  # fmt: skip
TOKEN = re.compile(r"\b([A-Z]+[0-9]*):0x([0-9a-f]+)")


def test_perf_prints_what_is_decoded(tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    rng = random.Random(3)
    path = tmp_path / "perf.data"
    with Writer(str(path), [EventSpec("cycles", ATTR, (9,))], Metadata()) as writer:
        sid = encode.SampleId(7, 7, 1, 0, 9, sample_type=ATTR.sample_type)
        writer.write(encode.comm_record(7, 7, "app", sid=sid))
        for number in range(300):
            values = sw.SampleValues(
                identifier=9, ip=0x400000 + number, pid=7, tid=7, time_ns=1000 + number, period=5,
                chain=[rng.getrandbits(47) for _ in range(number % 4)],
                raw=bytes(4 + 8 * (number % 3)),
                intr=sw.SetValues(
                    abi=rng.choice((0, 2)), gprs=[rng.getrandbits(64) for _ in bits_of(MASK)]
                ),
            )
            writer.write(sw.sample_record(ATTR, values))
        writer.finish({})
    text = subprocess.run(
        [perf, "script", "-F", "time,iregs", "--ns", "-i", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout
    printed = {
        round(float(line.split(":")[0]) * 1e9): [
            (name, int(value, 16)) for name, value in TOKEN.findall(line)
        ]
        for line in text.splitlines() if line.strip()
    }
    reader = Reader(path)
    decoder = Decoder(reader.events)
    seen = 0
    for block in reader.blocks():
        batch = decoder.decode(block)
        found = batch.sets["intr"]
        for row in range(len(batch)):
            want = []
            if found.abi[row]:
                want = [
                    (GPR_NAMES[number], int(found.gprs[row, column]))
                    for column, number in enumerate(found.gpr_ids)
                ]
                # perf prints the two halves of a register under the same name.
                want += [
                    (f"XMM{register}", int(found.vectors[row, register, half]))
                    for register in range(16) for half in (0, 1)
                ]
            assert printed[int(batch.time_ns[row])] == want
            seen += 1
    assert seen == len(printed) == 300
    assert not decoder.damaged
