"""perfxmm inspect of recordings of either byte order, with every feature that has a decoder."""

from __future__ import annotations

import io
from typing import Any

import pytest
from support import either_order as eo
from support.either_order import EventSpec, Order, Recording, Values, numbers, string, words

from perfxmm.inspector import Inspector
from perfxmm.perfdata.featuretext import decode, lines
from perfxmm.perfdata.format import Feature

EVENT = EventSpec(sample_type=1 | 2 | 4 | 1 << 7, flags=(8, 9, 18), config=1)
RECORDS = [
    eo.Record(3, [*numbers("II", 10, 11), eo.padded("named"), *eo.trailer(EVENT, Values())]),
    eo.sample(EVENT, Values(time_ns=5)), eo.sample(EVENT, Values(time_ns=9, cpu=2)),
]  # fmt: skip
MASK = (1 << 24) - 1 | 1 << 70

# Bit -> tokens, value, lines. CPU_TOPOLOGY needs NRCPUS.
FEATURES: dict[Feature, tuple[list[Any], Any, list[str]]] = {
    Feature.NRCPUS: (
        numbers("II", 2, 1), {"online": 1, "available": 2},
        ["nrcpus online : 1", "nrcpus avail : 2"],
    ),
    Feature.TOTAL_MEM: (words(99), 99, ["total memory : 99 kB"]),
    Feature.CMDLINE: (
        [("I", 2), *string("perf"), *string("record")], ["perf", "record"],
        ["cmdline : perf record"],
    ),
    Feature.CPU_TOPOLOGY: (
        [("I", 1), *string("0-1"), ("I", 1), *string("0"), *numbers("IIII", 0, 7, 1, 7),
         ("I", 1), *string("0-1"), *numbers("II", 3, 4)],
        {"sibling_sockets": ["0-1"], "sibling_threads": ["0"], "sibling_dies": ["0-1"],
         "cpus": [{"core": 0, "socket": 7, "die": 3}, {"core": 1, "socket": 7, "die": 4}]},
        ["sibling sockets : 0-1", "sibling dies    : 0-1", "sibling threads : 0",
         "CPU 0: Core ID 0, Die ID 3, Socket ID 7", "CPU 1: Core ID 1, Die ID 4, Socket ID 7"],
    ),
    Feature.NUMA_TOPOLOGY: (
        [("I", 1), ("I", 3), *words(100, 50), *string("0-1")],
        [{"node": 3, "total_kib": 100, "free_kib": 50, "cpus": "0-1"}],
        ["node3 meminfo  : total = 100 kB, free = 50 kB", "node3 cpu list : 0-1"],
    ),
    Feature.PMU_MAPPINGS: (
        [("I", 2), ("I", 4), *string("cpu"), ("I", 9), *string("power")],
        [{"type": 4, "name": "cpu"}, {"type": 9, "name": "power"}],
        ["pmu mappings: cpu = 4, power = 9"],
    ),
    Feature.GROUP_DESC: (
        [("I", 1), *string("{anon_group}"), *numbers("II", 0, 2)],
        [{"name": "{anon_group}", "leader": 0, "members": 2}], ["group: {a,b}"],
    ),
    Feature.AUXTRACE: (
        words(2, 100, 48, 200, 48), [{"offset": 100, "size": 48}, {"offset": 200, "size": 48}],
        ["contains AUX area data (e.g. instruction trace)"],
    ),
    Feature.CACHE: (
        [*numbers("IIIIII", 1, 1, 3, 64, 1024, 16), *string("Unified"), *string("1024K"),
         *string("0-1")],
        [{"level": 3, "line_bytes": 64, "sets": 1024, "ways": 16, "type": "Unified",
          "size": "1024K", "cpus": "0-1"}],
        ["CPU cache info:", " L3 Unified            1024K [0-1]"],
    ),
    Feature.SAMPLE_TIME: (
        words(1_000_000_000, 1_002_500_000), {"first_ns": 10**9, "last_ns": 1_002_500_000},
        ["time of first sample : 1.000000", "time of last sample : 1.002500",
         "sample duration :      2.500 ms"],
    ),
    Feature.MEM_TOPOLOGY: (
        [*words(1, 1 << 27, 1, 0, 128, 128), *words(MASK & (1 << 64) - 1, MASK >> 64)],
        {"block_bytes": 1 << 27, "nodes": [{"node": 0, "blocks": 25, "present": "0-23,70"}]},
        ["memory nodes (nr 1, block size 0x8000000):", "   0 [3G]: 0-23,70"],
    ),
    Feature.CLOCKID: (words(10), {"resolution_ns": 10}, ["clockid frequency: 100 MHz"]),
    Feature.DIR_FORMAT: (words(1), {"version": 1}, ["directory data version : 1"]),
    Feature.BPF_PROG_INFO: (
        [("I", 1), *numbers("II", 8, 4), *words(0), *numbers("II", 5, 77), b"abcd"],
        [{"type": 5, "id": 77}], ["bpf_prog_info of id 77, type 5"],
    ),
    Feature.BPF_BTF: (
        [("I", 1), *numbers("II", 6, 4), b"abcd"], [{"id": 6, "bytes": 4}],
        ["btf info of id 6"],
    ),
    Feature.COMPRESSED: (
        numbers("IIIII", 1, 1, 3, 5, 4096),
        {"version": 1, "type": "Zstd", "level": 3, "ratio": 5, "mmap_bytes": 4096},
        ["compressed : Zstd, level = 3, ratio = 5"],
    ),
    Feature.CPU_PMU_CAPS: (
        [("I", 1), *string("branches"), *string("32")], {"branches": "32"},
        ["cpu pmu capabilities: branches=32"],
    ),
    Feature.HYBRID_TOPOLOGY: (
        [("I", 1), *string("cpu_core"), *string("0-3")], [{"pmu": "cpu_core", "cpus": "0-3"}],
        ["hybrid cpu system:", "cpu_core cpu list : 0-3"],
    ),
    Feature.PMU_CAPS: (
        [("I", 1), ("I", 1), *string("x"), *string("1"), *string("pmu")],
        [{"pmu": "pmu", "caps": {"x": "1"}}], ["pmu pmu capabilities: x=1"],
    ),
    Feature.CPU_DOMAIN_INFO: (
        [*numbers("IIIII", 17, 2, 0, 1, 0), *string("MC"), *string("3"), *string("0-1")],
        {"schedstat_version": 17, "most_domains": 2, "cpus": [
            {"cpu": 0, "domains": [{"domain": 0, "name": "MC", "cpu_map": "3", "cpus": "0-1"}]}]},
        ["schedstat version : 17", "Maximum sched domains : 2", "sched domains of 1 cpus"],
    ),
    Feature.E_MACHINE: (
        numbers("II", 62, 0), {"e_machine": 62, "e_flags": 0}, ["e_machine : 62, e_flags : 0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bit", FEATURES, ids=lambda bit: bit.name)
def test_a_feature(bit: Feature, order: Order) -> None:
    tokens, value, told = FEATURES[bit]
    body = eo.encode(tokens, order)
    got = decode(bit, body, order, cpus=2)
    assert got == value
    assert lines(bit, got, len(body), ["a", "b"]) == told


def inspected(data: bytes) -> dict[str, Any]:
    return Inspector(io.BytesIO(data)).result().to_dict()


@pytest.mark.parametrize("pipe", [False, True])
def test_the_same_is_said_of_both_orders(pipe: bool) -> None:
    features = {
        int(bit): tokens for bit, (tokens, _, _) in FEATURES.items() if bit != Feature.COMPRESSED
    }
    recording = Recording([EVENT], RECORDS, {3: string("host"), 6: string("s390x")} | features)
    found = {}
    for order in ("<", ">"):
        data = recording.pipe(order) if pipe else recording.file(order)
        found[order] = inspected(data)
        if not pipe:
            lines_ = list(Inspector(io.BytesIO(data)).lines())
            assert [line.split()[2] for line in lines_] == [
                "PERF_RECORD_COMM", "PERF_RECORD_SAMPLE", "PERF_RECORD_SAMPLE"
            ]
    assert found["<"]["header"].pop("byte_order") == "little"
    assert found[">"]["header"].pop("byte_order") == "big"
    assert found["<"] == found[">"]
    said = found[">"]
    assert said["damage"] == []
    assert said["records"]["SAMPLE"] == 2
    assert said["time_span"]["samples"] == {"first_ns": 5, "last_ns": 9}
    assert said["cpus"] == [{"cpu": 2, "samples": 1}, {"cpu": 3, "samples": 1}]
    assert said["threads"] == [{"pid": 10, "tid": 11, "comm": "named", "samples": 2}]
    assert said["events"][0]["dialect"]["evidence"].startswith("recorded on s390x")
    assert said["features"]["cpu_topology"]["value"] == FEATURES[Feature.CPU_TOPOLOGY][1]


def test_the_first_format() -> None:
    said = inspected(Recording([EVENT], RECORDS).file("<", magic=b"PERFFILE", header_bytes=72))
    assert (said["header"]["magic"], said["header"]["header_bytes"]) == ("PERFFILE", 72)
    assert said["records"] == {"COMM": 1, "SAMPLE": 2}
