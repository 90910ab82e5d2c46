"""Doctor on fake machines, one a case, and once on this one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import fake_sysfs
from support.fake_kernel import (
    ICE_LAKE_7_3,
    ICE_LAKE_MERGED,
    NO_PMU,
    TIGERLAKE,
    FakeKernel,
    Model,
)
from support.fake_root import PERFMON, SYS_PTRACE, make_root
from support.nmi_source import module_root

from perfxmm.analysis.capability import Diagnosis, diagnose
from perfxmm.cli.machine import gather
from perfxmm.cli.main import main
from perfxmm.kernel.pybinding import Binding, PerfBinding
from perfxmm.views import doctor as view

AVX2, AVX512, APX = 0x7, 0xE7, 0x800E7
FLAGS = {
    AVX2: "sse2 avx avx2", AVX512: "sse2 avx avx2 avx512f user_shstk",
    APX: "sse2 avx avx2 avx512f apx",
}  # fmt: skip


class NoBinding(PerfBinding):
    def inspect(self) -> Binding:
        return Binding("none")


def refuse(number: int) -> Callable[[], None]:
    def trace() -> None:
        raise OSError(number, os.strerror(number))

    return trace


def examine(
    tmp_path: Path, model: Model, *, xcr0: int | None = AVX512,
    trace: Callable[[], None] | None = None, hypervisor: bool = False, **root: int,
) -> Diagnosis:  # fmt: skip
    base = make_root(tmp_path, **root)
    flags = FLAGS.get(xcr0 or AVX512, "") + (" hypervisor" if hypervisor else "")
    fake_sysfs.write(
        base / "proc/cpuinfo",
        f"vendor_id\t: GenuineIntel\nmodel name\t: Test CPU\nflags\t: {flags}",
    )
    return diagnose(
        gather(base, FakeKernel(model), binding=NoBinding(), trace=trace or (lambda: None),
               xcr0=lambda: xcr0)
    )  # fmt: skip


def source(found: Diagnosis, name: str) -> tuple[bool, dict[str, str]]:
    [state] = [s for s in found.sources if s.name == name]
    return state.works, dict(state.delivers)


def text_of(found: Diagnosis, *, short: bool = False, verbose: bool = False) -> str:
    console = Console(width=600, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(view.short(found) if short else view.full(found, verbose=verbose))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


FIVE = dict.fromkeys(("gpr", "xmm", "ymm", "zmm", "opmask"), "user")


def test_without_a_pmu(tmp_path: Path) -> None:
    found = examine(tmp_path, NO_PMU, hypervisor=True)
    assert source(found, "pmu") == (False, {})
    assert source(found, "sigtrap") == (True, FIVE)
    assert source(found, "nmi") == (False, {})
    assert (found.default_source, found.exit_code) == ("sigtrap", 0)
    shown = text_of(found)
    assert "perf_event_open: cycles in user mode: ENOENT" in shown
    assert "give this virtual machine a PMU (QEMU: -cpu host,pmu=on)" in shown
    assert "perf_event_open: SIMD registers: E2BIG" in shown
    assert "perf_event_open: task-clock with sigtrap, user mode, on this process: ok" in shown


def test_avx2_only(tmp_path: Path) -> None:
    found = examine(tmp_path, NO_PMU, xcr0=AVX2)
    assert source(found, "sigtrap")[1] == dict.fromkeys(("gpr", "xmm", "ymm"), "user")
    missing = {one.name: one.why for one in found.classes if not one.available}
    assert missing == {
        "zmm": "the CPU, or its kernel, has no AVX-512",
        "opmask": "the CPU, or its kernel, has no AVX-512",
        "egpr": "the CPU, or its kernel, has no APX",
        "ssp": "the CPU, or its kernel, has no user shadow stacks (CET)",
    }


def test_apx(tmp_path: Path) -> None:
    """R16 to R31 by sigtrap where their state is switched on, and why not where it is not."""
    found = examine(tmp_path, NO_PMU, xcr0=APX)
    assert source(found, "sigtrap")[1] == FIVE | {"egpr": "user"}
    facts = replace(found.facts, enabled_classes=frozenset(FIVE))
    [egpr] = [one for one in diagnose(facts).classes if one.name == "egpr"]
    assert (egpr.in_cpu, egpr.available) == (True, False)
    assert egpr.why == "the kernel has not switched its state on (XCR0)"


def test_a_kernel_with_the_merged_abi(tmp_path: Path) -> None:
    found = examine(tmp_path, TIGERLAKE)
    works, delivers = source(found, "pmu")
    assert works
    assert delivers == dict.fromkeys((*FIVE, "ssp"), "user; intr")
    assert found.default_source == "pmu"
    assert "SIMD ABI dialect M" in text_of(found)
    assert "record takes source pmu" in text_of(found, short=True)


def test_precise_events_are_named(tmp_path: Path) -> None:
    """A 7.3 kernel samples XMM by precise events and in the interrupt set only."""
    found = examine(tmp_path, ICE_LAKE_7_3)
    assert source(found, "pmu") == (True, {"gpr": "user; intr", "xmm": "intr, precise"})
    assert found.default_source == "pmu"
    merged = examine(tmp_path / "m", ICE_LAKE_MERGED)
    assert source(merged, "pmu")[1]["zmm"] == "user; intr"


def test_perf_events_refused(tmp_path: Path) -> None:
    found = examine(tmp_path, Model(refuse=errno.EACCES), paranoid=3)
    assert source(found, "pmu") == (False, {})
    assert source(found, "sigtrap") == (True, FIVE)
    shown = text_of(found)
    assert "EACCES" in shown
    assert "--engine interrupt" in shown
    assert "sysctl kernel.perf_event_paranoid=2" in shown
    assert "no perf events without CAP_PERFMON" in shown


def test_an_old_kernel(tmp_path: Path) -> None:
    found = examine(tmp_path, Model(refuse=errno.EINVAL))
    assert "older than 5.13" in text_of(found)
    assert source(found, "sigtrap")[0]


def test_neither_perf_nor_ptrace(tmp_path: Path) -> None:
    found = examine(
        tmp_path, Model(refuse=errno.EPERM), trace=refuse(errno.EPERM), seccomp=2, ptrace_scope=2
    )
    assert (found.default_source, found.exit_code) == ("", 3)
    assert source(found, "sigtrap") == (False, {})
    assert [one.name for one in found.classes if one.available] == []
    shown = text_of(found)
    assert "ptrace PTRACE_SEIZE: trace a child of our own: EPERM" in shown
    assert "kernel.yama.ptrace_scope is 2" in shown
    assert "nothing can be sampled here" in text_of(found, short=True)


def test_nothing_supported(tmp_path: Path) -> None:
    found = examine(tmp_path, Model(refuse=errno.ENOENT), trace=refuse(errno.EIO))
    assert found.exit_code == 4


# ptrace_scope, capabilities -> whom one may attach to
ATTACH = [
    (None, 0, "attach to processes of the same user"),
    (0, 0, "attach to processes of the same user"),
    (1, 0, "launch commands; attaching needs CAP_SYS_PTRACE"),
    (1, SYS_PTRACE, "attach to any process (CAP_SYS_PTRACE)"),
    (2, 0, "no attaching or launching without CAP_SYS_PTRACE"),
    (3, SYS_PTRACE, "no process may be traced until reboot"),
]


@pytest.mark.parametrize(("scope", "caps", "meaning"), ATTACH)
def test_attach(scope: int | None, caps: int, meaning: str, tmp_path: Path) -> None:
    found = examine(tmp_path, NO_PMU, ptrace_scope=scope, caps=caps)
    assert found.facts.attach.meaning.startswith(meaning)


# perf_event_paranoid, capabilities -> what it lets this process do
PARANOID = [
    (4, 0, "no perf events without CAP_PERFMON"),
    (4, PERFMON, "does not bind: CAP_PERFMON or CAP_SYS_ADMIN is there"),
    (2, 0, "own processes in user mode, which is what perfxmm samples"),
    (1, 0, "own processes and kernel mode"),
    (-1, 0, "own processes, kernel mode, whole CPUs"),
    (None, 0, "this kernel has no perf events, or /proc/sys is hidden"),
]


@pytest.mark.parametrize(("level", "caps", "meaning"), PARANOID)
def test_paranoid(level: int | None, caps: int, meaning: str, tmp_path: Path) -> None:
    found = examine(tmp_path, NO_PMU, paranoid=level, caps=caps)
    assert found.facts.limits[0].meaning == meaning


def test_xcr0_unknown(tmp_path: Path) -> None:
    found = examine(tmp_path, NO_PMU, xcr0=None)
    assert source(found, "sigtrap")[1] == FIVE
    assert "XCR0 could not be read" in text_of(found)


def test_xen(tmp_path: Path) -> None:
    fake_sysfs.write(tmp_path / "sys/hypervisor/type", "xen")
    assert "under Xen" in text_of(examine(tmp_path, TIGERLAKE))


def test_probes_are_printed(tmp_path: Path) -> None:
    found = examine(tmp_path, TIGERLAKE)
    brief, everything = text_of(found), text_of(found, verbose=True)
    assert "M zmm user p0" in brief
    assert "vec_qwords 3" not in brief
    assert f"{len(found.facts.probes) - brief.count(' p0')} more" not in everything
    assert "M zmm user p0, vec_qwords 3" in everything
    assert everything.count("attr ") >= len(found.facts.probes)


def test_to_dict_is_plain(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(examine(tmp_path, TIGERLAKE).to_dict()))
    assert plain["schema"] == "perfxmm.doctor/1"
    assert plain["default_source"] == "pmu"
    assert [one["name"] for one in plain["classes"]] == [
        "gpr", "xmm", "ymm", "zmm", "opmask", "egpr", "ssp",
    ]  # fmt: skip
    assert {probe["errno_name"] for probe in plain["probes"]} >= {"ok", "EINVAL"}


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    fake_sysfs.write(tmp_path / "proc/sys/kernel/osrelease", "7.4\x1b[2J")
    shown = text_of(examine(tmp_path, NO_PMU))
    assert "\x1b" not in shown
    assert "7.4\\x1b[2J" in shown


def test_tracing_a_child_leaves_none_behind() -> None:
    """In a process of its own: other tests' children are not what this is about."""
    program = (
        "import os\n"
        "from perfxmm.cli.machine import trace_a_child\n"
        "try:\n"
        "    trace_a_child()\n"
        "except PermissionError:\n"
        "    print('refused')\n"
        "try:\n"
        "    print(os.waitpid(-1, os.WNOHANG))\n"
        "except ChildProcessError:\n"
        "    print('none')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    if done.stdout.startswith("refused"):
        pytest.skip("ptrace is refused here")
    assert (done.stdout, done.stderr) == ("none\n", "")


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert code in (0, 3, 4)
    assert (code == 0) == (plain["default_source"] is not None)
    for options in ([], ["--short"], ["-v"]):
        assert main(["doctor", *options]) == code
        assert "perfxmm 0." in capsys.readouterr().out


def module_facts(tmp_path: Path, **values: Any) -> Diagnosis:
    root = module_root(tmp_path, **values)
    return diagnose(gather(root, FakeKernel(NO_PMU), binding=NoBinding(), trace=lambda: None,
                           xcr0=lambda: AVX512))  # fmt: skip


def test_a_loaded_module_is_a_source(tmp_path: Path) -> None:
    found = module_facts(tmp_path)
    assert source(found, "nmi") == (True, dict.fromkeys(FIVE, "intr"))
    assert found.default_source == "nmi"
    shown = text_of(found)
    assert "xsaves in an NMI by ipi; of general registers IP and SP" in shown
    assert "perf_event_open: raw data of its tracepoint: ok" in shown


def test_a_loaded_module_that_may_not_be_listened_to(tmp_path: Path) -> None:
    found = module_facts(tmp_path, caps=0, paranoid=1)
    assert source(found, "nmi") == (False, {})
    assert found.default_source == "sigtrap"
    shown = text_of(found)
    assert "kernel.perf_event_paranoid is 1: raw tracepoint data needs CAP_PERFMON" in shown
    assert "CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1" in shown


@pytest.mark.parametrize(
    ("modules", "why", "step"),
    [(True, "the kernel module is not built, and ", "perfxmm module build"),
     (False, "this kernel has no loadable modules", "")],
)  # fmt: skip
def test_a_module_that_is_not_loaded(
    tmp_path: Path, modules: bool, why: str, step: str
) -> None:
    if modules:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/modules").write_text("")
    found = module_facts(tmp_path, loaded=False)
    assert source(found, "nmi") == (False, {})
    assert found.default_source == "sigtrap"
    [state] = [one for one in found.sources if one.name == "nmi"]
    assert state.why.startswith(why)
    assert step in state.next_step
    assert [trial.what for trial in state.trials] == ["kernel module xsaves_nmi"]
