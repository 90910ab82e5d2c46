"""Samples that today's perf can read: every register that it prints is what we decode."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
from perfxmm.snapshots.batch import I64, U64, SnapshotBatch
from perfxmm.snapshots.decode import ALL_COLUMNS, EXTRA_COLUMNS, RAGGED_COLUMNS, Decoder

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


FULL = EventAttr(
    sample_type=int(
        SampleType.IDENTIFIER | SampleType.IP | SampleType.TID | SampleType.TIME | SampleType.ADDR
        | SampleType.ID | SampleType.STREAM_ID | SampleType.CPU | SampleType.PERIOD
        | SampleType.READ | SampleType.CALLCHAIN | SampleType.RAW | SampleType.BRANCH_STACK
        | SampleType.REGS_USER | SampleType.STACK_USER | SampleType.WEIGHT_STRUCT
        | SampleType.DATA_SRC | SampleType.TRANSACTION | SampleType.PHYS_ADDR | SampleType.CGROUP
        | SampleType.DATA_PAGE_SIZE | SampleType.CODE_PAGE_SIZE
    ),
    flags=int(AttrFlag.SAMPLE_ID_ALL), precise_ip=1, sample_period=1000, read_format=31,
    branch_sample_type=1 << 17 | 1 << 3, sample_regs_user=0x1FF, sample_stack_user=64,
)  # fmt: skip
HEAD = re.compile(r"PERF_RECORD_SAMPLE\(IP, 0x2\): 7/7: (0x[0-9a-f]+) period: (\d+) addr: (\S+)")
PAGE_SIZES = {"4K": 4096, "2M": 2 << 20}


def full_values(rng: random.Random, number: int) -> sw.SampleValues:
    return sw.SampleValues(
        identifier=9, ip=0x400000 + number, pid=7, tid=7, time_ns=1000 + number,
        period=rng.randrange(1, 1 << 40), addr=rng.getrandbits(47), stream_id=4,
        read_times=(rng.getrandbits(63), rng.getrandbits(63)),
        read_values=[(rng.getrandbits(64), 9, rng.getrandbits(10)) for _ in range(number % 3 + 1)],
        chain=[rng.getrandbits(47) for _ in range(number % 4)], raw=bytes(4 + 8 * (number % 3)),
        branches=[
            (rng.getrandbits(47), rng.getrandbits(47), rng.getrandbits(20))
            for _ in range(number % 5)
        ],
        branch_hw_index=3, user=sw.SetValues(2, [rng.getrandbits(64) for _ in range(9)]),
        stack=rng.randbytes(64), stack_dyn=8 * (number % 8 + 1), weight=rng.getrandbits(64),
        data_src=rng.getrandbits(30), transaction=rng.getrandbits(34) | 1,
        phys_addr=rng.getrandbits(40) | 1, cgroup=rng.getrandbits(30), data_page_size=4096,
        code_page_size=2 << 20,
    )


def printed_sample(text: str) -> dict[str, object]:
    """The fields of one sample in the words of perf report -D."""

    def numbers(pattern: str, base: int = 16) -> list[list[int]]:
        found = re.findall(pattern, text, re.MULTILINE)
        return [[int(n, base) for n in (one if isinstance(one, tuple) else [one])] for one in found]

    head = HEAD.search(text)
    assert head is not None
    weight = re.search(r"weight: (\d+),(0x[0-9a-f]+),(0x[0-9a-f]+)", text)
    assert weight is not None
    pages = re.findall(r"(?:data|code) page size: (\S+)", text)
    return {
        "ip": int(head[1], 16), "period": int(head[2]), "addr": int(head[3], 16),
        "chain": numbers(r"^\.\.\.\.\. +\d+: ([0-9a-f]{16})$"),
        "branches": numbers(r"^\.\.\.\.\. +\d+: ([0-9a-f]{16}) -> ([0-9a-f]{16})"),
        "cycles": numbers(r"-> [0-9a-f]{16} (\d+) cycles", 10),
        "times": numbers(r"time (?:enabled|running) ([0-9a-f]{16})"),
        "read": numbers(r"id ([0-9a-f]{16}), value ([0-9a-f]{16}), lost \d+"),
        "lost": numbers(r"lost (\d+)", 10),
        "stack": numbers(r"ustack: size (\d+)", 10),
        "weight": [int(weight[1]), int(weight[2], 16)],  # the third: only on some machines
        "data_src": numbers(r"data_src: 0x([0-9a-f]+)"),
        "phys_addr": numbers(r"phys_addr: 0x([0-9a-f]+)"),
        "transaction": numbers(r"transaction: ([0-9a-f]+)"),
        "pages": [PAGE_SIZES[one] for one in pages],
        "registers": numbers(r"^\.\.\.\. [A-Z]+ +0x([0-9a-f]{16})$"),
    }


def decoded_sample(batch: SnapshotBatch, row: int) -> dict[str, object]:
    extra = {name: int(column[row]) for name, column in batch.extra.items()}

    def span(start: I64 | None, values: U64 | None) -> list[Any]:
        assert start is not None
        assert values is not None
        found: list[Any] = values[start[row] : start[row + 1]].tolist()
        return found

    branches = span(batch.branch_start, batch.branches)
    read = span(batch.read_start, batch.read_values)
    return {
        "ip": int(batch.ip[row]), "period": int(batch.period[row]), "addr": extra["addr"],
        "chain": [[ip] for ip in span(batch.chain_start, batch.chain)],
        "branches": [entry[:2] for entry in branches],
        "cycles": [[entry[2] >> 4 & 0xFFFF] for entry in branches],
        "times": [[extra["time_enabled_ns"]], [extra["time_running_ns"]]],
        "read": [[number, value] for value, number, _ in read],
        "lost": [[lost] for _, _, lost in read],
        "stack": [[extra["user_stack_dyn_bytes"]]],
        "weight": [extra["weight_var1"], extra["weight_var2"]],
        "data_src": [[extra["data_src"]]], "phys_addr": [[extra["phys_addr"]]],
        "transaction": [[extra["transaction"]]],
        "pages": [extra["data_page_size"], extra["code_page_size"]],
        "registers": [[word] for word in batch.sets["user"].gprs[row].tolist()],
    }


def test_perf_dumps_the_other_fields_as_they_are_decoded(tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    rng = random.Random(5)
    path = tmp_path / "perf.data"
    with Writer(str(path), [EventSpec("cycles", FULL, (9,))], Metadata()) as writer:
        sid = encode.SampleId(7, 7, 1, 0, 9, sample_type=FULL.sample_type)
        writer.write(encode.comm_record(7, 7, "app", sid=sid))
        for number in range(60):
            writer.write(sw.sample_record(FULL, full_values(rng, number)))
        writer.finish({})
    text = subprocess.run(
        [perf, "report", "-D", "-i", str(path)], capture_output=True, text=True, check=True
    ).stdout
    if not re.search(r"weight: \d+,0x", text):
        pytest.skip("this perf prints weights in another way")
    # Each sample begins with its place in the file.
    parts = [part for part in re.split(r"^0x[0-9a-f]+@", text, flags=re.MULTILINE)
             if "PERF_RECORD_SAMPLE(" in part]  # fmt: skip
    printed = [printed_sample(part) for part in parts]
    reader = Reader(path)
    decoder = Decoder(reader.events)
    found = []
    for block in reader.blocks():
        columns = {*ALL_COLUMNS, *EXTRA_COLUMNS, *RAGGED_COLUMNS}
        batch = decoder.decode(block, columns=columns)
        found += [decoded_sample(batch, row) for row in range(len(batch))]
    assert len(found) == 60
    assert found == printed
    assert not decoder.damaged
