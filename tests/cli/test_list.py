"""`perfxmm list` on fake machines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import fake_sysfs

from perfxmm.cli.list import collect, to_dict
from perfxmm.cli.main import main
from perfxmm.errors import NotSupported
from perfxmm.kernel.events import Catalogue, resolve
from perfxmm.kernel.pybinding import PerfBinding
from perfxmm.views.listing import Row

VENDOR = """
class evsel: pass
class _Pmu:
    def events(self): return [{"name": "inst.any", "encoding_desc": "cpu/event=0xc0/"}]
def pmus(): return [_Pmu()]
"""


@pytest.fixture
def server(tmp_path: Path) -> Catalogue:
    return Catalogue(fake_sysfs.server(tmp_path))


@pytest.fixture
def no_binding(tmp_path: Path) -> PerfBinding:
    return PerfBinding(environment={**os.environ, "PYTHONPATH": str(tmp_path / "nothing")})


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


def test_kinds(server: Catalogue) -> None:
    assert names(collect("hw", catalogue=server)[0]) == [
        "cycles", "instructions", "cache-references", "cache-misses", "branches", "branch-misses",
        "bus-cycles", "stalled-cycles-frontend", "stalled-cycles-backend", "ref-cycles",
    ]  # fmt: skip
    assert len(collect("sw", catalogue=server)[0]) == 12
    assert len(collect("cache", catalogue=server)[0]) == 32
    assert names(collect("tracepoint", catalogue=server)[0]) == [
        "irq:softirq_entry", "sched:sched_switch", "syscalls:sys_enter_write",
    ]  # fmt: skip


def test_pmus(server: Catalogue, no_binding: PerfBinding) -> None:
    rows, notes = collect("pmu", "cpu/*", catalogue=server, binding=no_binding)
    assert "cpu/mem-loads/" in names(rows)
    assert "cpu/rNNN/" in names(rows)
    assert {row.name: row.text for row in rows}["cpu/ldlat=.../"] == "config1, 16 bits"
    assert notes == []


def test_register_classes() -> None:
    rows, _ = collect("regs", classes=frozenset({"gpr", "xmm", "ymm"}))
    assert [(row.name, row.available) for row in rows] == [
        ("gpr", True), ("xmm", True), ("ymm", True), ("zmm", False), ("opmask", False),
        ("egpr", False), ("ssp", False),
    ]  # fmt: skip
    assert rows[3].text == "not here: the CPU, or its kernel, has no AVX-512"


def test_every_event_that_is_listed_resolves(server: Catalogue, no_binding: PerfBinding) -> None:
    rows, _ = collect(None, "*", catalogue=server, binding=no_binding)
    listed = [n for row in rows if row.kind != "regs" for n in (row.name, *row.aliases)]
    events = [name for name in listed if "=..." not in name and "rNNN" not in name]
    assert len(events) > 70
    for name in events:
        assert resolve(name, server)


def test_patterns(server: Catalogue, no_binding: PerfBinding) -> None:
    rows, _ = collect(None, "*switch*", catalogue=server, binding=no_binding)
    assert names(rows) == ["context-switches", "cgroup-switches", "sched:sched_switch"]
    assert names(collect("sw", "cs", catalogue=server)[0]) == ["context-switches"]


def test_without_a_pmu(tmp_path: Path) -> None:
    rows, _ = collect("hw", catalogue=Catalogue(fake_sysfs.no_pmu(tmp_path)))
    assert {row.available for row in rows} == {False}
    assert {row.text for row in rows} == {"not here: this machine has no core PMU"}


def test_on_a_hybrid(tmp_path: Path) -> None:
    rows, _ = collect("hw", catalogue=Catalogue(fake_sysfs.hybrid(tmp_path)))
    assert {row.text for row in rows} == {"on cpu_atom and cpu_core"}


def test_vendor_events(server: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "perf.py").write_text(VENDOR)
    binding = PerfBinding(environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    rows, _ = collect("pmu", "inst*", catalogue=server, binding=binding)
    assert rows == [Row("vendor", "inst.any", "cpu/event=0xc0/")]


def test_no_tracefs(tmp_path: Path, no_binding: PerfBinding) -> None:
    fake_sysfs.add_pmu(tmp_path, "software", 1)
    catalogue = Catalogue(tmp_path)
    with pytest.raises(NotSupported, match="tracefs"):
        collect("tracepoint", catalogue=catalogue)
    rows, notes = collect(None, "cs", catalogue=catalogue, binding=no_binding)
    assert names(rows) == ["context-switches"]
    assert len(notes) == 1
    assert "tracefs" in notes[0]


def test_to_dict() -> None:
    plain = to_dict([Row("sw", "a", "t", ("b",))], ["n"])
    assert json.loads(json.dumps(plain)) == {
        "schema": "perfxmm.list/1", "notes": ["n"],
        "entries": [
            {"kind": "sw", "name": "a", "aliases": ["b"], "available": True, "text": "t"}
        ],
    }  # fmt: skip


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = {entry["name"] for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert {"task-clock", "cycles", "xmm"} <= found
    assert main(["list", "regs"]) == 0
    assert "opmask" in capsys.readouterr().out


def test_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "no-such-event"]) == 2
    assert "nothing here matches 'no-such-event'" in capsys.readouterr().err
    assert main(["list", "wrong", "x"]) == 2
    assert "'wrong' is not a kind of event" in capsys.readouterr().err
