"""What perf makes of counts read with samples can be made of the columns.

perf prints such a sample once for each event of the group whose count has grown since it was last
read, as that event's, with the growth as its period (tools/perf/util/session.c, Linux 6.1). Here
it is one sample: its registers were read once.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support import sample_writer as sw

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, ReadFormat, SampleType
from perfxmm.perfdata.metadata import Metadata
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.writer import EventSpec, Writer
from perfxmm.snapshots.decode import Decoder

NAMES = {9: "cycles", 10: "instructions"}


def write(path: Path, read_format: int, rng: random.Random) -> None:
    attr = EventAttr(
        sample_type=int(
            SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME
            | SampleType.PERIOD | SampleType.READ
        ),
        flags=int(AttrFlag.SAMPLE_ID_ALL), sample_period=1000, read_format=read_format,
    )  # fmt: skip
    specs = [
        EventSpec(name, EventAttr(**{**_fields(attr), "config": index}), (number,))
        for index, (number, name) in enumerate(NAMES.items())
    ]
    with Writer(str(path), specs, Metadata()) as writer:
        counts = dict.fromkeys(NAMES, 0)
        for number in range(50):
            leader = rng.choice(tuple(NAMES))
            members = tuple(NAMES) if read_format & ReadFormat.GROUP else (leader,)
            for member in members:
                counts[member] += rng.choice((0, 1, 1000))
            writer.write(sw.sample_record(attr, sw.SampleValues(
                identifier=leader, ip=0x400000 + number, pid=7, tid=7, time_ns=1000 + number,
                period=1000, read_times=(number, number),
                read_values=[(counts[member], member, 0) for member in members],
            )))  # fmt: skip
        writer.finish({})


def _fields(attr: EventAttr) -> dict[str, object]:
    return {name: getattr(attr, name) for name in attr.__slots__}


@pytest.mark.parametrize("group", [False, True])
def test_growth_of_counts_is_perfs_period(tmp_path: Path, group: bool) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    path = tmp_path / "perf.data"
    read_format = 3 | ReadFormat.ID | (ReadFormat.GROUP if group else 0)
    write(path, int(read_format), random.Random(8))
    text = subprocess.run(
        [perf, "script", "-F", "time,event,period,ip", "--ns", "-i", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout
    printed = []
    for line in text.splitlines():
        if line.strip():
            time, period, event, ip = line.split()[:4]
            printed.append((time.rstrip(":"), int(period), event.rstrip(":"), int(ip, 16)))
    reader = Reader(path)
    decoder = Decoder(reader.events)
    last: Counter[int] = Counter()
    made = []
    for block in reader.blocks():
        batch = decoder.decode(block, columns=("read",))
        assert batch.read_start is not None
        assert batch.read_values is not None
        for row in range(len(batch)):
            values = batch.read_values[batch.read_start[row] : batch.read_start[row + 1]]
            for count, number, _ in values.tolist():
                growth, last[number] = count - last[number], count
                if growth:
                    time = f"0.{int(batch.time_ns[row]):09}"
                    made.append((time, growth, NAMES[number], int(batch.ip[row])))
    assert made == printed
    assert len(made) > 30
