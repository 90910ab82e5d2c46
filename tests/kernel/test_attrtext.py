"""An event's attribute in words."""

from __future__ import annotations

from typing import Any

import pytest

from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.attrtext import config_text, describe, register_names, type_text
from perfxmm.kernel.constants import AttrFlag, PerfType, ReadFormat, SampleType
from perfxmm.kernel.dialects import R2, M, SimdRequest

PMUS = {6: "intel_pt", 10: "cpu_atom"}


def test_every_field_that_is_set_is_told() -> None:
    """And none that is not."""
    attr = EventAttr(
        type=int(PerfType.HARDWARE), config=1, sample_period=4000, size=144,
        sample_type=int(SampleType.IP | SampleType.BRANCH_STACK) | 1 << 60,
        read_format=int(ReadFormat.ID | ReadFormat.LOST),
        flags=int(AttrFlag.FREQ | AttrFlag.USE_CLOCKID | AttrFlag.SIGTRAP) | 1 << 63,
        precise_ip=3, wakeup_events=2, config1=16, config2=5, branch_sample_type=1 | 8 | 1 << 19
        | 1 << 40, sample_stack_user=8192, clockid=4, aux_watermark=7, sample_max_stack=127,
        aux_sample_size=9, aux_action=1, sig_data=255, config3=32, config4=33,
    )  # fmt: skip
    assert describe(attr) == {
        "type": 0, "type_name": "HARDWARE", "size": 144, "config": 1,
        "config_name": "instructions", "sample_freq": 4000,
        "sample_type": 1 | 1 << 11 | 1 << 60,
        "sample_type_names": ["IP", "BRANCH_STACK", "bit 60"],
        "read_format": 4 | 16, "read_format_names": ["ID", "LOST"],
        "flags": 1 << 10 | 1 << 25 | 1 << 37 | 1 << 63,
        "flag_names": ["freq", "use_clockid", "sigtrap", "bit 63"],
        "precise_ip": 3, "precise_ip_meaning": "skid must be 0", "wakeup_events": 2,
        "config2": 5, "sample_stack_user": 8192, "aux_watermark": 7, "sample_max_stack": 127,
        "aux_sample_size": 9, "config1": 16, "config3": 32, "config4": 33, "aux_action": 1,
        "sig_data": 255, "branch_sample_type": 1 | 8 | 1 << 19 | 1 << 40,
        "branch_sample_type_names": ["USER", "ANY", "COUNTERS", "bit 40"],
        "clockid": 4, "clockid_name": "monotonic_raw",
    }  # fmt: skip
    bare = describe(EventAttr(type=int(PerfType.SOFTWARE), size=64))
    assert set(bare) == {
        "type", "type_name", "size", "config", "config_name", "sample_period", "sample_type",
        "sample_type_names", "flags", "flag_names",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        (0, 0, "cycles"), (0, 9, "ref-cycles"), (0, 10, "0xa"),
        (0, 10 << 32, "cycles on PMU cpu_atom"), (0, 4 << 32 | 1, "instructions on PMU 4"),
        (1, 9, "dummy"), (1, 1 << 32, "0x100000000"), (3, 0, "L1-dcache-loads"),
        (3, 0x10002, "LLC-load-misses"), (3, 0x010103, "dTLB-store-misses"),
        (3, 0x000104, "0x104"), (3, 10 << 32, "L1-dcache-loads on PMU cpu_atom"),
        (4, 0x1CD, "0x1cd"), (6, 5, "0x5"),
    ],
)  # fmt: skip
def test_config_in_the_abis_names(kind: int, config: int, told: str) -> None:
    assert config_text(EventAttr(type=kind, config=config), PMUS) == told


@pytest.mark.parametrize(
    ("kind", "told"),
    [(0, "HARDWARE"), (2, "TRACEPOINT"), (5, "BREAKPOINT"), (6, "PMU intel_pt"), (77, "a PMU")],
)
def test_types(kind: int, told: str) -> None:
    assert type_text(kind, PMUS) == told


def test_registers_by_name() -> None:
    """Legacy XMM halves, and the bits that a dialect numbers in its own way."""
    legacy = EventAttr(sample_regs_intr=0b101 | 0b0111 << 32 | 1 << 30)
    assert register_names(legacy, "intr") == [
        "AX", "CX", "XMM0", "XMM1 (half)", "1 bits without a name"
    ]
    simd = SimdRequest(enabled=1, vec_qwords=8, vec_intr=0xFFFFFFFF)
    merged = EventAttr(dialect=M, simd=simd, sample_regs_intr=1 << 40 | 1 << 24)
    assert register_names(merged, "intr") == ["R16", "SSP"]
    posted = EventAttr(dialect=R2, simd=simd, sample_regs_user=1 << 41 | 1 << 50)
    assert register_names(posted, "user") == ["SSP", "1 bits without a name"]
    said = describe(merged)
    assert said["simd"] == {"enabled": 1, "vec_qwords": 8, "vec_intr": 0xFFFFFFFF}
    assert said["sample_regs_intr_names"] == ["R16", "SSP"]
    foreign = describe(legacy, x86=False)
    assert foreign["sample_regs_intr"] == legacy.sample_regs_intr
    assert "sample_regs_intr_names" not in foreign


def test_breakpoints_and_tails() -> None:
    said: dict[str, Any] = describe(EventAttr(type=int(PerfType.BREAKPOINT), bp_type=3, size=64))
    assert said["bp_type"] == "rw"
    said = describe(EventAttr(tail=b"\0" * 8))
    assert (said["unknown_tail_bytes"], "unknown_tail" in said) == (8, False)
    said = describe(EventAttr(tail=b"\0\1"))
    assert said["unknown_tail"] == "0001"
