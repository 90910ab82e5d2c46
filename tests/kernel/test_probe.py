"""Probing against a kernel made of tables, and that kernel against recorded answers."""

from __future__ import annotations

import errno
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_kernel import (
    ARROW_LAKE,
    ICE_LAKE_7_3,
    ICE_LAKE_MERGED,
    NO_PMU,
    OVERLAY_6_18,
    POSTING_V4,
    PROBED_MODELS,
    SKYLAKE_X,
    TIGERLAKE,
    FakeKernel,
    Model,
    attr_from_row,
    open_errno,
)

from perfxmm.kernel import attr as attrs
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag
from perfxmm.kernel.dialects import O1, M
from perfxmm.kernel.probe import core_pmus, probe, probe_all, request_mask, request_simd
from perfxmm.kernel.syscalls import linux_kernel

INTR, USER, BOTH = 1 << 18, 1 << 12, 1 << 18 | 1 << 12
LEGACY = 0xFFFFFFFF00000000


def test_the_fake_answers_as_the_merged_kernel_did(shared_data: Path) -> None:
    path = shared_data / "simd" / "kernel-attr-errno-tigerlake.jsonl.gz"
    right = total = 0
    with gzip.open(path, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            total += 1
            right += open_errno(TIGERLAKE, attr_from_row(row)) == row["errno"]
    assert (right, total) == (8000, 8000)


def row(**values: int) -> dict[str, int]:
    empty = dict.fromkeys(
        ("type", "precise_ip", "sample_regs_intr", "sample_regs_user", "pred_qwords", "vec_qwords",
         "reserved_4", "pred_intr", "pred_user", "vec_intr", "vec_user"), 0,
    )  # fmt: skip
    return {**empty, "sample_type": INTR, "enabled": 1, **values}


XMM_INTR = {"vec_qwords": 2, "vec_intr": 0xFFFF}
# The attrs behind the names in kernel-probes.txt, as far as the names tell.
HAND_PICKED: dict[str, dict[str, int]] = {
    "xmm intr": row(**XMM_INTR),
    "ymm intr": row(vec_qwords=4, vec_intr=0xFFFF),
    "zmm intr": row(vec_qwords=8, vec_intr=0xFFFFFFFF),
    "zmm intr mask 0xffff": row(vec_qwords=8, vec_intr=0xFFFF),
    "opmask intr": row(pred_qwords=1, pred_intr=0xFF),
    "opmask user": row(sample_type=USER, pred_qwords=1, pred_user=0xFF),
    "opmask subset 0x0f": row(pred_qwords=1, pred_intr=0x0F),
    "xmm subset 0x1": row(vec_qwords=2, vec_intr=1),
    "vq 3": row(vec_qwords=3, vec_intr=0xFFFF),
    "vq 1": row(vec_qwords=1, vec_intr=0xFFFF),
    "vq 2 mask 0xffffffff": row(vec_qwords=2, vec_intr=0xFFFFFFFF),
    "vq 4 mask 0xffffffff": row(vec_qwords=4, vec_intr=0xFFFFFFFF),
    "pq 2": row(pred_qwords=2, pred_intr=0xFF),
    "pred mask 0x1ff": row(pred_qwords=1, pred_intr=0x1FF),
    "vec mask bit 32": row(vec_qwords=2, vec_intr=0x1_0000_FFFF),
    "mask without qwords (both 0)": row(vec_intr=0xFFFF),
    "mask vec, only pq set": row(pred_qwords=1, vec_intr=0xFFFF),
    "pred mask, only vq set": row(vec_qwords=2, pred_intr=0xFF),
    "enabled alone, mask 0": row(),
    "enabled 2": row(enabled=2, **XMM_INTR),
    "reserved_4": row(reserved_4=1, **XMM_INTR),
    "enabled 0, stray vq 3": row(enabled=0, vec_qwords=3, sample_regs_intr=0xFF0FFF),
    "enabled 0, mask 0": row(enabled=0),
    "enabled without REGS sample_type, vq 3": row(sample_type=1, vec_qwords=3, vec_intr=0xFFFF),
    "ssp intr": row(sample_regs_intr=1 << 40),
    "ssp user": row(sample_type=USER, sample_regs_user=1 << 40),
    "egpr intr": row(sample_regs_intr=0xFFFF000000),
    "bit 41": row(sample_regs_intr=1 << 41),
    "bit 12": row(sample_regs_intr=1 << 12),
    "bit 63": row(sample_regs_intr=1 << 63),
    "legacy xmm intr precise 0": row(enabled=0, sample_regs_intr=LEGACY),
    "legacy xmm user precise 0": row(enabled=0, sample_type=USER, sample_regs_user=LEGACY),
    "legacy bit 24": row(enabled=0, sample_regs_intr=1 << 24),
    "legacy xmm + enabled": row(sample_regs_intr=LEGACY, **XMM_INTR),
    "xmm intr precise 1": row(precise_ip=1, **XMM_INTR),
    "ssp precise 1": row(precise_ip=1, sample_regs_intr=1 << 40),
    "intr xmm mask, user zmm mask, vq 2": row(
        sample_type=BOTH, vec_qwords=2, vec_intr=0xFFFF, vec_user=0xFFFFFFFF
    ),
    "intr 0xffff + user 0, vq 2": row(sample_type=BOTH, **XMM_INTR),
    "user field set without REGS_USER (bad mask)": row(vec_user=0x7, **XMM_INTR),
    "software cpu-clock xmm": row(type=1, **XMM_INTR),
    "software cpu-clock legacy xmm": row(type=1, enabled=0, sample_regs_intr=LEGACY),
}


def recorded_probes(path: Path) -> list[tuple[str, str, int]]:
    model, found = "", []
    for line in path.read_text().splitlines():
        head = re.match(r"== Bochs model (\S+),", line)
        if head:
            model = head.group(1)
        answer = re.match(r"(.*?)\s{2,}(?:ok|errno) (\d+)$", line) or re.match(
            r"(user field set without REGS_USER \(bad mask\)) (?:ok|errno) (\d+)$", line
        )
        if answer:
            found.append((model, answer.group(1), int(answer.group(2))))
    return found


def test_the_fake_answers_the_hand_picked_attrs(shared_data: Path) -> None:
    answers = recorded_probes(shared_data / "simd" / "kernel-probes.txt")
    assert len(answers) == 3 * 44
    wrong = []
    for model, name, expected in answers:
        if name == "O1 request (en 1, u16@146=2)":
            simd = request_simd(O1, frozenset({"xmm"}), frozenset({"intr"}))
            raw = bytearray(attrs.encode(EventAttr(sample_type=INTR, dialect=O1, simd=simd)))
        elif name in ("size 168", "size 144"):
            size = int(name.split()[1])
            raw = attr_from_row(row(enabled=0, sample_regs_intr=0xFF0FFF))[:size]
            raw[4:8] = size.to_bytes(4, "little")
        else:
            raw = attr_from_row(HAND_PICKED[name])
        got = open_errno(PROBED_MODELS[model], raw)
        if got != expected:
            wrong.append((model, name, expected, got))
    assert wrong == []


ALL = {"gpr", "opmask", "ssp", "xmm", "ymm", "zmm"}
# model | dialect | classes at precise 0, intr and user | at precise 1 | legacy XMM at
FOUND: list[tuple[Model, str, set[str], set[str], set[str], set[str], set[tuple[str, int]]]] = [
    (TIGERLAKE, "M", ALL, ALL, set(), set(), {("intr", 0), ("user", 0)}),
    (SKYLAKE_X, "M", ALL - {"ssp"}, ALL - {"ssp"}, set(), set(), {("intr", 0), ("user", 0)}),
    (ARROW_LAKE, "M", {"gpr", "ssp", "xmm", "ymm"}, {"gpr", "ssp", "xmm", "ymm"}, set(), set(),
     {("intr", 0), ("user", 0)}),
    (ICE_LAKE_MERGED, "M", ALL - {"ssp"}, ALL - {"ssp"}, {"gpr", "xmm"}, {"gpr", "xmm"},
     {(which, level) for which in ("intr", "user") for level in range(4)}),
    (ICE_LAKE_7_3, "L", {"gpr"}, {"gpr"}, {"gpr", "xmm"}, {"gpr"},
     {("intr", 1), ("intr", 2), ("intr", 3)}),
    (OVERLAY_6_18, "O1", ALL, ALL, ALL, ALL, {("intr", 1), ("intr", 2), ("intr", 3)}),
    (POSTING_V4, "L", {"gpr"}, {"gpr"}, {"gpr", "xmm"}, {"gpr"},
     {("intr", 1), ("intr", 2), ("intr", 3)}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "dialect", "intr", "user", "intr1", "user1", "legacy"), FOUND)
def test_capabilities(
    model: Model, dialect: str, intr: set[str], user: set[str], intr1: set[str], user1: set[str],
    legacy: set[tuple[str, int]],
) -> None:  # fmt: skip
    kernel = FakeKernel(model)
    found = probe(kernel)
    assert found.simd_dialect == dialect
    assert found.classes_available("intr") == intr
    assert found.classes_available("user") == user
    assert found.classes_available("intr", 1) == found.precise_classes == intr1
    assert found.classes_available("user", 1) == user1
    assert found.legacy_xmm == legacy
    assert found.open_errno == 0
    assert kernel.live == []


def test_every_class_that_counts_has_its_negative_twin() -> None:
    found = probe(FakeKernel(TIGERLAKE))
    answers = {p.name: p.errno for p in found.probes}
    for name in ("opmask", "xmm", "ymm", "zmm", "ssp"):
        for which in ("intr", "user"):
            label = f"M {name} {which} p0"
            assert (answers[label], answers[f"{label}, vec_qwords 3"]) == (0, errno.EINVAL)
    assert answers["M egpr intr p0"] == errno.EINVAL
    assert "M egpr intr p0, vec_qwords 3" not in answers


def test_a_kernel_that_accepts_and_ignores_proves_nothing() -> None:
    class Ignores(FakeKernel):
        def perf_event_open(
            self, attr: bytearray, pid: int, cpu: int, group_fd: int = -1, flags: int = 0
        ) -> int:
            plain = attrs.decode(bytes(attr))
            if plain.size == 176:
                attr = bytearray(attrs.encode(EventAttr(flags=AttrFlag.EXCLUDE_KERNEL)))
            return super().perf_event_open(attr, pid, cpu, group_fd, flags)

    found = probe(Ignores(POSTING_V4))
    assert found.simd_dialect == "L"
    twin = next(p for p in found.probes if p.name == "M xmm intr p0, vec_qwords 3")
    assert (twin.errno, twin.meaning) == (0, "accepted unread: not this dialect")


def test_e2big_tells_the_kernels_own_size() -> None:
    assert probe(FakeKernel(ICE_LAKE_7_3)).kernel_attr_size == 144
    assert probe(FakeKernel(NO_PMU)).kernel_attr_size == 144
    assert probe(FakeKernel(TIGERLAKE)).kernel_attr_size is None


@pytest.mark.parametrize(
    ("model", "number"),
    [(NO_PMU, errno.ENOENT), (replace(TIGERLAKE, refuse=errno.EACCES), errno.EACCES),
     (replace(TIGERLAKE, refuse=errno.EPERM), errno.EPERM),
     (replace(TIGERLAKE, refuse=errno.ENOSYS), errno.ENOSYS)],
)  # fmt: skip
def test_nothing_is_asked_where_the_plainest_event_is_refused(model: Model, number: int) -> None:
    found = probe(FakeKernel(model))
    assert found.open_errno == number
    assert found.classes_available("user") == frozenset()
    assert found.simd_dialect == "L"
    assert len(found.probes) == 3
    assert found.probes[0].errno_name == errno.errorcode[number]


def test_asked_once_for_each_kernel() -> None:
    kernel = FakeKernel(TIGERLAKE)
    first = probe(kernel)
    asked = len(kernel.opened) + len(kernel.refused)
    assert probe(kernel) is first
    assert len(kernel.opened) + len(kernel.refused) == asked == len(first.probes)


def test_first_attr_asked_for_xmm() -> None:
    found = probe(FakeKernel(TIGERLAKE))
    asked = next(p for p in found.probes if p.name == "M xmm intr p0")
    raw = bytes.fromhex(asked.attr_hex)
    assert len(raw) == 176
    assert raw[144:].hex() == (
        "0100000002000000" "0000000000000000" "ffff000000000000" "0000000000000000"
    )  # fmt: skip
    decoded = attrs.decode(raw)
    assert (decoded.type, decoded.config, decoded.sample_period) == (0, 0, 1)
    assert decoded.flags == AttrFlag.DISABLED | AttrFlag.EXCLUDE_KERNEL
    assert decoded.sample_type == INTR


def hybrid_root(base: Path) -> Path:
    for name, number in (("cpu_core", 4), ("cpu_atom", 10)):
        path = base / "sys/bus/event_source/devices" / name
        path.mkdir(parents=True)
        (path / "type").write_text(f"{number}\n")
    return base


class Hybrid(FakeKernel):
    """P-cores of one model, E-cores of another, told apart by config >> 32."""

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int = -1, flags: int = 0
    ) -> int:
        config = int.from_bytes(attr[8:16], "little")
        self.model = ARROW_LAKE if config >> 32 == 10 else SKYLAKE_X
        return super().perf_event_open(attr, pid, cpu, group_fd, flags)


def test_hybrid_machines_are_asked_pmu_by_pmu(tmp_path: Path) -> None:
    root = hybrid_root(tmp_path)
    assert [(p.name, p.config_base) for p in core_pmus(root)] == [
        ("cpu_core", 4 << 32), ("cpu_atom", 10 << 32)
    ]  # fmt: skip
    kernel = Hybrid()
    core, atom = probe_all(kernel, root)
    assert core.classes_available("user") == {"gpr", "xmm", "ymm", "zmm", "opmask"}
    assert atom.classes_available("user") == {"gpr", "xmm", "ymm", "ssp"}
    both = probe(kernel, root)
    assert both.classes_available("user") == {"gpr", "xmm", "ymm"}
    assert both.pmu.name == "cpu_core+cpu_atom"
    assert len(both.probes) == len(core.probes) + len(atom.probes)
    assert both.probes[0].name == "cpu_core cycles"


def test_to_dict_is_plain_json() -> None:
    plain: dict[str, Any] = json.loads(json.dumps(probe(FakeKernel(ICE_LAKE_7_3)).to_dict()))
    assert plain["simd_dialect"] == "L"
    assert plain["classes"]["intr"]["1"] == ["gpr", "xmm"]
    assert plain["probes"][0]["errno_name"] == "ok"
    assert {p["errno_name"] for p in plain["probes"]} == {"ok", "E2BIG", "EINVAL"}


def test_requests_ask_for_whole_classes() -> None:
    both = frozenset({"intr", "user"})
    simd = request_simd(M, frozenset({"xmm", "zmm", "opmask"}), both)
    assert (simd.vec_qwords, simd.vec_intr, simd.vec_user) == (8, 0xFFFFFFFF, 0xFFFFFFFF)
    assert (simd.pred_qwords, simd.pred_intr, simd.pred_user) == (1, 0xFF, 0xFF)
    assert request_simd(M, frozenset({"ssp"}), both).pred_qwords == 0
    assert request_simd(O1, frozenset({"xmm"}), both).pred_qwords == 1
    assert request_mask(M, frozenset({"gpr", "ssp"})) == 0x10000FF0FFF
    assert request_mask(M, frozenset({"egpr"})) == 0xFFFF000000


def test_this_kernel_answers_every_probe() -> None:
    found = probe(linux_kernel())
    assert found.probes[0].name.endswith("cycles")
    assert all(p.meaning for p in found.probes)
