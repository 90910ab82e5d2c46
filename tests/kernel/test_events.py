"""Event strings against fake machines, one line a case, and against perf itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fake_sysfs

from perfxmm.errors import NotSupported, PerfxmmError, PermissionDenied, UsageError
from perfxmm.kernel.constants import AttrFlag
from perfxmm.kernel.events import Catalogue, resolve, split_events
from perfxmm.kernel.pmus import parse_format

EU, EK, EH = AttrFlag.EXCLUDE_USER, AttrFlag.EXCLUDE_KERNEL, AttrFlag.EXCLUDE_HV
EI, EG, EHO = AttrFlag.EXCLUDE_IDLE, AttrFlag.EXCLUDE_GUEST, AttrFlag.EXCLUDE_HOST
USER = EK | EH | EG | EI  # nothing said: user mode only
NOT_HV = EH | EG  # events that only happen in the kernel
FREQ = AttrFlag.FREQ

# string -> type, config, config1, config2, period, flags, precise_ip
SERVER = [
    ("cycles", 0, 0, 0, 0, 0, USER, 0),
    ("cpu-cycles:u", 0, 0, 0, 0, 0, EK | EH | EG, 0),
    ("instructions:k", 0, 1, 0, 0, 0, EU | EH | EG, 0),
    ("cache-references:uk", 0, 2, 0, 0, 0, EH | EG, 0),
    ("cache-misses:ukh", 0, 3, 0, 0, 0, EG, 0),
    ("branches:p", 0, 4, 0, 0, 0, USER, 1),
    ("branch-instructions:ppu", 0, 4, 0, 0, 0, EK | EH | EG, 2),
    ("branch-misses:ppp", 0, 5, 0, 0, 0, USER, 3),
    ("bus-cycles:P", 0, 6, 0, 0, 0, USER, 3),
    ("idle-cycles-frontend:h", 0, 7, 0, 0, 0, EU | EK | EG, 0),
    ("stalled-cycles-backend:uI", 0, 8, 0, 0, 0, EK | EH | EG | EI, 0),
    ("ref-cycles:D", 0, 9, 0, 0, 0, USER | AttrFlag.PINNED, 0),
    ("cycles:e", 0, 0, 0, 0, 0, USER | AttrFlag.EXCLUSIVE, 0),
    ("cycles:G", 0, 0, 0, 0, 0, (USER & ~EG) | EHO, 0),
    ("cycles:H", 0, 0, 0, 0, 0, USER, 0),
    ("cycles:GHu", 0, 0, 0, 0, 0, EK | EH, 0),
    ("cpu-clock", 1, 0, 0, 0, 0, USER, 0),
    ("task-clock:u", 1, 1, 0, 0, 0, EK | EH | EG, 0),
    ("faults", 1, 2, 0, 0, 0, USER, 0),
    ("page-faults:u", 1, 2, 0, 0, 0, EK | EH | EG, 0),
    ("cs", 1, 3, 0, 0, 0, NOT_HV, 0),
    ("context-switches:u", 1, 3, 0, 0, 0, EK | EH | EG, 0),
    ("migrations", 1, 4, 0, 0, 0, NOT_HV, 0),
    ("minor-faults", 1, 5, 0, 0, 0, USER, 0),
    ("major-faults", 1, 6, 0, 0, 0, USER, 0),
    ("alignment-faults", 1, 7, 0, 0, 0, USER, 0),
    ("emulation-faults", 1, 8, 0, 0, 0, USER, 0),
    ("dummy", 1, 9, 0, 0, 0, USER, 0),
    ("bpf-output", 1, 10, 0, 0, 0, NOT_HV, 0),
    ("cgroup-switches", 1, 11, 0, 0, 0, NOT_HV, 0),
    ("L1-dcache-loads", 3, 0x0, 0, 0, 0, USER, 0),
    ("L1-dcache-load-misses:u", 3, 0x10000, 0, 0, 0, EK | EH | EG, 0),
    ("l1d-write-miss", 3, 0x10100, 0, 0, 0, USER, 0),
    ("L1-icache-prefetches", 3, 0x201, 0, 0, 0, USER, 0),
    ("LLC-store-misses", 3, 0x10102, 0, 0, 0, USER, 0),
    ("LLC", 3, 0x2, 0, 0, 0, USER, 0),
    ("dTLB-misses-store", 3, 0x10103, 0, 0, 0, USER, 0),
    ("iTLB-load-misses", 3, 0x10004, 0, 0, 0, USER, 0),
    ("branch-load-misses", 3, 0x10005, 0, 0, 0, USER, 0),
    ("node-speculative-load-misses", 3, 0x10206, 0, 0, 0, USER, 0),
    ("r1a8", 4, 0x1A8, 0, 0, 0, USER, 0),
    ("rFFFFFFFFFFFFFFFF:u", 4, (1 << 64) - 1, 0, 0, 0, EK | EH | EG, 0),
    ("cpu/event=0xc0,umask=0x1/", 4, 0x1C0, 0, 0, 0, USER, 0),
    ("cpu/event=192,umask=1,inv,cmask=0x10/u", 4, 0x108001C0, 0, 0, 0, EK | EH | EG, 0),
    ("cpu/event=0xc0/:pp", 4, 0xC0, 0, 0, 0, USER, 2),
    ("cpu/config=0x1234,config1=0x5,config2=7/", 4, 0x1234, 5, 7, 0, USER, 0),
    ("cpu/mem-loads/P", 4, 0x1CD, 3, 0, 0, USER, 3),
    ("cpu/mem-loads,ldlat=30/", 4, 0x1CD, 30, 0, 0, USER, 0),
    ("cpu/cpu-cycles,period=100003/", 4, 0x3C, 0, 0, 100003, USER, 0),
    ("cpu/instructions,freq=997/u", 4, 0xC0, 0, 0, 997, EK | EH | EG | FREQ, 0),
    ("cpu/r01c2/", 4, 0x1C2, 0, 0, 0, USER, 0),
    ("cpu/cycles/", 0, 0, 0, 0, 0, USER, 0),
    ("cpu/event=0xb7,offcore_rsp=0x3F80408003C0/", 4, 0xB7, 0x3F80408003C0, 0, 0, USER, 0),
    ("cycles/period=5000,name=mine/u", 0, 0, 0, 0, 5000, EK | EH | EG, 0),
    ("task-clock/freq=99/", 1, 1, 0, 0, 99, USER | FREQ, 0),
    ("slots", 4, 0x400, 0, 0, 0, USER, 0),
    ("msr/tsc/", 9, 0, 0, 0, 0, USER, 0),
    ("tsc:u", 9, 0, 0, 0, 0, EK | EH | EG, 0),
    ("intel_pt/cyc,psb_period=3,tail=0xff/u", 10, 0x3000002, 0, 0xFF, 0, EK | EH | EG, 0),
    ("sched:sched_switch", 2, 314, 0, 0, 1, NOT_HV, 0),
    ("syscalls:sys_enter_write:u", 2, 758, 0, 0, 1, EK | EH | EG, 0),
    ("mem:0x1000", 5, 0, 0x1000, 4, 1, USER, 0),
    ("mem:0x1000/8:rw:u", 5, 0, 0x1000, 8, 1, EK | EH | EG, 0),
    ("mem:4096:x", 5, 0, 4096, 8, 1, USER, 0),
    ("mem:0x1000/1:w", 5, 0, 0x1000, 1, 1, USER, 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue(fake_sysfs.server(tmp_path_factory.mktemp("server")))


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue(fake_sysfs.hybrid(tmp_path_factory.mktemp("hybrid")))


@pytest.fixture(scope="module")
def no_pmu(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue(fake_sysfs.no_pmu(tmp_path_factory.mktemp("no_pmu")))


@pytest.mark.parametrize("case", SERVER, ids=lambda case: case[0])
def test_event_on_a_server(case: tuple[object, ...], server: Catalogue) -> None:
    [event] = resolve(str(case[0]), server)
    a = event.attr
    found = (a.type, a.config, a.config1, a.config2, a.sample_period, a.flags, a.precise_ip)
    assert found == case[1:]


# string -> name, type, config, first and last CPU of each event
HYBRID = [
    ("cycles", [("cpu_atom/cycles/", 0, 10 << 32, 16, 23),
                ("cpu_core/cycles/", 0, 4 << 32, 0, 15)]),
    ("LLC-load-misses:u", [("cpu_atom/LLC-load-misses/u", 3, 10 << 32 | 0x10002, 16, 23),
                           ("cpu_core/LLC-load-misses/u", 3, 4 << 32 | 0x10002, 0, 15)]),
    ("r1c0", [("cpu_atom/r1c0/", 10, 0x1C0, 16, 23), ("cpu_core/r1c0/", 4, 0x1C0, 0, 15)]),
    ("cpu_core/cycles/u", [("cpu_core/cycles/u", 0, 4 << 32, 0, 15)]),
    ("cpu_atom/event=0xc0,umask=1/", [("cpu_atom/event=0xc0,umask=1/", 10, 0x1C0, 16, 23)]),
    ("cpu_*/event=1/", [("cpu_atom/event=1/", 10, 1, 16, 23), ("cpu_core/event=1/", 4, 1, 0, 15)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), HYBRID, ids=lambda value: str(value)[:30])
def test_event_on_a_hybrid(text: str, wanted: list[object], hybrid: Catalogue) -> None:
    found = [
        (e.name, e.attr.type, e.attr.config, e.cpus[0], e.cpus[-1]) for e in resolve(text, hybrid)
        if e.cpus
    ]  # fmt: skip
    assert found == wanted


def test_an_event_number_in_two_pieces(tmp_path: Path) -> None:
    catalogue = Catalogue(fake_sysfs.amd(tmp_path))
    [event] = resolve("cpu/event=0x1c7,umask=0x2/P", catalogue)
    assert (event.attr.config, event.attr.precise_ip) == (0x1_0000_02C7, 0)


def test_all_units_of_an_uncore_pmu(server: Catalogue) -> None:
    for text in ("uncore_imc/cas_count_read/", "imc/cas_count_read/"):
        events = resolve(text, server)
        assert [(e.pmu, e.attr.type, e.attr.config, e.cpus) for e in events] == [
            ("uncore_imc_0", 20, 0xCF05, (0, 4)), ("uncore_imc_1", 21, 0xCF05, (0, 4)),
        ]  # fmt: skip
    assert [e.name for e in resolve("cas_count_read", server)] == ["cas_count_read"] * 2


def test_lists_split_outside_slashes(server: Catalogue) -> None:
    events = resolve("cpu/event=1,umask=2/u,task-clock, mem:0x10/8:r,cycles", server)
    assert [e.attr.type for e in events] == [4, 1, 5, 0]
    assert split_events("cpu/name='a,b/c'/,cs") == ["cpu/name='a,b/c'/", "cs"]


def test_names(server: Catalogue) -> None:
    assert resolve("cycles/name=mine/u", server)[0].name == "mine"
    assert resolve("cpu/event=1,name='a,b'/", server)[0].name == "a,b"
    assert resolve("cycles:u", server)[0].name == "cycles:u"


def test_rates(server: Catalogue) -> None:
    def rate(text: str, **options: int) -> tuple[int, bool]:
        attr = resolve(text, server)[0].with_rate(default_frequency=499, **options).attr
        return attr.sample_period, attr.flag(AttrFlag.FREQ)

    assert rate("cycles") == (499, True)
    assert rate("cycles", period=1000) == (1000, False)
    assert rate("cycles", frequency=99) == (99, True)
    assert rate("cycles/period=7/", frequency=99) == (7, False)
    assert rate("cycles/freq=7/", period=99) == (7, True)
    assert rate("sched:sched_switch") == (1, False)
    assert rate("sched:sched_switch", frequency=99) == (99, True)
    assert rate("mem:0x10", period=5) == (5, False)


# string -> words that the error's message holds
REFUSED = [
    ("cylces", ["unknown event 'cylces'", "did you mean cycles", "perfxmm list"]),
    ("taskclock", ["did you mean task-clock"]),
    ("", ["name is missing"]),
    ("cycles,,cs", ["name is missing"]),
    ("{cycles,instructions}", ["groups", "-e cycles -e instructions"]),
    ("cycles:x", ["unknown modifier 'x'", "u k h"]),
    ("cycles:", ["nothing follows"]),
    ("cycles:pppp", ["more than three p"]),
    ("cpu/event=1", ["closing slash"]),
    ("cpu/event=0x100/", ["too large", "8 bits", "0xff"]),
    ("cpu/evnt=1/", ["knows no term 'evnt'", "did you mean event"]),
    ("cpu/event=zwei/", ["not a number"]),
    ("cpu/config=0x10000000000000000/", ["64 bits"]),
    ("cpu/event=1,call-graph=dwarf/", ["call-graph", "-g"]),
    ("cpu/=1/", ["term's name is missing"]),
    ("cpux/event=1/", ["no PMU 'cpux'", "did you mean cpu"]),
    ("cycles/umask=1/", ["'umask' is not a term", "period="]),
    ("cycles/period=0/", ["samples nothing"]),
    ("iTLB-stores", ["unknown event"]),
    ("mem:zzz", ["not a breakpoint"]),
    ("mem:0x10/3", ["3 bytes", "1, 2, 4 or 8"]),
    ("sched:sched_swich", ["no tracepoint sched:sched_swich", "did you mean sched:sched_switch"]),
    ("sched:*", ["not expanded", "perfxmm list tracepoint"]),
    ("..:x", ["not the name of a tracepoint"]),
    ("intel_pt/odd=1/", ["knows no term 'odd'"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text for text, _ in REFUSED])
def test_refused(text: str, words: list[str], server: Catalogue) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(text, server)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["cycles", "LLC-loads:u", "r1c0", "cpu/event=1/", "cycles/period=9/", "cpu_core/r1/"]
)
def test_without_a_pmu(text: str, no_pmu: Catalogue) -> None:
    with pytest.raises(NotSupported) as caught:
        resolve(text, no_pmu)
    assert "-e task-clock or -e cpu-clock" in str(caught.value)
    assert caught.value.exit_code == 4


def test_no_tracefs(tmp_path: Path) -> None:
    fake_sysfs.add_pmu(tmp_path, "software", 1)
    with pytest.raises(NotSupported, match="sudo mount -t tracefs"):
        resolve("sched:sched_switch", Catalogue(tmp_path))


def test_tracefs_below_debugfs(tmp_path: Path) -> None:
    fake_sysfs.add_pmu(tmp_path, "software", 1)
    fake_sysfs.write(tmp_path / "kernel/debug/tracing/events/sched/sched_switch/id", "5")
    assert resolve("sched:sched_switch", Catalogue(tmp_path))[0].attr.config == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every directory")
def test_closed_tracefs(tmp_path: Path) -> None:
    fake_sysfs.server(tmp_path)
    closed = tmp_path / "kernel/tracing/events"
    closed.chmod(0)
    try:
        with pytest.raises(PermissionDenied, match="mode=750"):
            resolve("sched:sched_switch", Catalogue(tmp_path))
    finally:
        closed.chmod(0o755)


def test_no_perf_events_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="no perf events"):
        resolve("cycles", Catalogue(tmp_path))


def test_vendor_names(server: Catalogue) -> None:
    table = {
        "inst_retired.any": ["cpu/event=0xc0,period=2000003/"],
        "unc_m.x": ["uncore_imc_0/event=1/", "uncore_imc_1/event=1/"],
        "loop": ["loop"],
    }
    catalogue = Catalogue(server.sysfs, vendor=lambda name: table.get(name, []))
    [event] = resolve("inst_retired.any:u", catalogue)
    assert (event.name, event.attr.config, event.attr.sample_period) == (
        "inst_retired.any:u", 0xC0, 2000003,
    )  # fmt: skip
    assert event.attr.flags == EK | EH | EG
    assert [e.pmu for e in resolve("unc_m.x", catalogue)] == ["uncore_imc_0", "uncore_imc_1"]
    for unknown in ("loop", "nothing"):
        with pytest.raises(UsageError, match="unknown event"):
            resolve(unknown, catalogue)


FORMATS = [
    ("config:0-7,32-35", "config", (0, 1, 2, 3, 4, 5, 6, 7, 32, 33, 34, 35)),
    ("config2:3", "config2", (3,)),
    ("config1:0,2,4-5", "config1", (0, 2, 4, 5)),
]


@pytest.mark.parametrize(("text", "field", "bits"), FORMATS)
def test_format(text: str, field: str, bits: tuple[int, ...]) -> None:
    parsed = parse_format(text)
    assert parsed is not None
    assert (parsed.field, parsed.bits) == (field, bits)


@pytest.mark.parametrize("text", ["", "config", "config:", "config:0-64", "config:7-0", "x:1",
                                  "config:1,1", "config5:1"])  # fmt: skip
def test_bad_format(text: str) -> None:
    assert parse_format(text) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, (1 << 12) - 1), st.integers(0, (1 << 64) - 1))
def test_format_inserts_and_only_inserts(value: int, word: int) -> None:
    layout = parse_format("config:0-7,32-35")
    assert layout is not None
    mask = 0xF_0000_00FF
    inserted = layout.insert(word, value)
    assert inserted & ~mask == word & ~mask
    assert inserted & 0xFF | inserted >> 24 & 0xF00 == value


@settings(max_examples=300, deadline=None)
@given(st.text("cpu/yles:=,0x1{}'rem kGHw-\n", max_size=24))
def test_any_string_resolves_or_is_refused(server: Catalogue, text: str) -> None:
    try:
        events = resolve(text, server)
    except PerfxmmError as error:
        assert str(error).splitlines()[0]  # noqa: PT017 - either way is right
    else:
        assert all(event.attr.config < 1 << 64 for event in events)


# What works without a PMU, so that any machine with perf can check it.
PERF_CASES = [
    "task-clock:u", "cpu-clock:uk", "faults:u", "page-faults:k", "cs:k", "context-switches:ukh",
    "migrations:uI", "minor-faults:uD", "major-faults:h", "alignment-faults:u",
    "emulation-faults:u", "dummy:u", "bpf-output:u", "cgroup-switches:uk", "cpu-clock:pu",
    "mem:0x1000:rw:u", "mem:0x1000/8:w:uk", "mem:0x2000:x:u", "task-clock/period=12345/u",
    "task-clock/freq=77,name=mine/u",
]  # fmt: skip


@pytest.fixture(scope="module")
def perf_attrs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """What one `perf record -vv` with all the cases opens: string -> attr by perf's field names."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    output = tmp_path_factory.mktemp("perf") / "perf.data"
    events = [part for text in PERF_CASES for part in ("-e", text)]
    run = subprocess.run(
        [perf, "record", "-vv", "-o", str(output), *events, "true"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    blocks = re.findall(r"perf_event_attr:\n(.*?)\n-----", run.stderr, re.DOTALL)
    if len(blocks) < len(PERF_CASES):
        pytest.skip("perf may not open all of these events here")
    return dict(zip(PERF_CASES, map(_fields, blocks), strict=False))


def _fields(block: str) -> dict[str, int]:
    fields = {}
    for line in block.splitlines():
        name, _, value = line.strip().rpartition("  ")
        number = re.match(r"(0x[0-9a-f]+|\d+)\b", value.strip())
        if number:
            fields[name.strip()] = int(number[1], 0)
    return fields


@pytest.mark.parametrize("text", PERF_CASES)
def test_same_as_perf(text: str, perf_attrs: dict[str, dict[str, int]]) -> None:
    seen = perf_attrs[text]
    [event] = resolve(text)
    attr = event.attr
    assert seen.get("type", 0) == attr.type
    assert seen.get("config", 0) == attr.config
    assert seen.get("{ bp_addr, config1 }", 0) == attr.config1
    assert seen.get("{ bp_len, config2 }", 0) == attr.config2
    assert seen.get("bp_type", 0) == attr.bp_type
    assert seen.get("precise_ip", 0) == attr.precise_ip
    for name, bit in (
        ("exclude_user", EU), ("exclude_kernel", EK), ("exclude_hv", EH), ("exclude_idle", EI),
        ("pinned", AttrFlag.PINNED),
    ):  # fmt: skip
        assert seen.get(name, 0) == attr.flag(bit), name
    if event.rate_given:
        assert seen["{ sample_period, sample_freq }"] == attr.sample_period
        assert seen.get("freq", 0) == attr.flag(FREQ)
