"""Our names for addresses against those of the perf that is installed, sample by sample.

Side-band comes from perf's printout, so this judges `program` alone; the last test takes it from
our own reader. Every difference must have
one of the reasons below; there is none on the machine that this was written on (perf 6.1).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perftext

from perfxmm.perfdata.reader import Reader
from perfxmm.program.binaries import Places
from perfxmm.program.timeline import CPUMODE_KERNEL, CPUMODE_USER, Timeline
from perfxmm.snapshots import sideband
from perfxmm.snapshots.decode import Decoder

pytestmark = pytest.mark.skipif(
    shutil.which("perf") is None or shutil.which("g++") is None,
    reason="needs perf and g++ (packages linux-perf and g++)",
)

CXX = r"""
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>
#include <unistd.h>
#include <sys/wait.h>
#define KEEP __attribute__((noinline))
#define SPIN for (int spin = 0; spin < 2000; spin++) asm volatile("" ::: "memory")
namespace shapes {
template <class T> struct Box {
    T value;
    KEEP T scaled(T by) const { SPIN; return value * by; }
    KEEP bool operator<(const Box &other) const { SPIN; return value < other.value; }
    KEEP explicit operator long() const { SPIN; return long(value); }
};
}
template <class T> KEEP std::string shown(T a) {
    auto inner = [&](int q) KEEP { SPIN; return q + int(a); };
    return std::to_string(inner(3));
}
template <class T> KEEP std::ostream *operator<<(std::ostream *o, shapes::Box<T>) { SPIN; return o; }
namespace { KEEP int hidden(int x) { SPIN; return x + 1; } }
static KEEP int local_one(int x) { SPIN; return x * 3; }
extern "C" KEEP int plain_c(int x) { SPIN; return x; }
static void work(int rounds) {
    shapes::Box<double> box{1.5};
    double total = 0;
    std::vector<char> bytes(100000);
    for (int i = 0; i < rounds; i++) {
        total += box.scaled(i) + long(box) + (box < shapes::Box<double>{2.0});
        total += shown(i).size() + shown(i * 1.0).size() + hidden(i) + local_one(i) + plain_c(i);
        (std::ostream *)nullptr << box;
        memset(bytes.data(), i, bytes.size());
        total += sin(i) + std::count(bytes.begin(), bytes.end(), char(i));
        std::sort(bytes.begin(), bytes.begin() + 100);
    }
    if (total == 42) puts("");
}
int main() {
    std::thread other(work, 2500);
    work(2500);
    other.join();
    pid_t child = fork();
    if (child == 0) { work(1500); execl("/bin/sh", "sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done", nullptr); _exit(1); }
    waitpid(child, nullptr, 0);
}
"""  # noqa: E501


def _function(*lines: str) -> str:
    """Assembly that spins for some milliseconds, with `lines` around the label."""
    return "\n".join(lines) + "\n mov $9000000, %ecx\n1: dec %ecx\n jnz 1b\n"


# Symbols that no compiler emits side by side: the choice among them must be perf's.
ASSEMBLY = "\n".join((
    " .text",
    _function(".globl unsized", ".type unsized,@function", "unsized:"), " ret",
    _function(".globl d_global", ".weak d_weak_and_longer", ".type d_global,@function",
              ".type d_weak_and_longer,@function", ".type d_local,@function",
              "d_weak_and_longer:", "d_global:", "d_local:"), " ret",
    ".size d_global, .-d_global", ".size d_weak_and_longer, .-d_global",
    ".size d_local, .-d_global",
    _function(".globl __u1", ".globl u2", ".type __u1,@function", ".type u2,@function",
              "__u1:", "u2:"), " ret", ".size u2, .-u2", ".size __u1, .-u2",
    _function(".globl label", "label:"), " ret",
    _function(".globl label_and", ".type sized_local,@function", "label_and:", "sized_local:"),
    " ret", ".size sized_local, .-sized_local",
    _function(".globl z_a", ".globl z_bb", ".type z_a,@function", ".type z_bb,@function",
              "z_a:", "z_bb:"), " ret",
    ".globl too_small", ".type too_small,@function", "too_small: nop",
    ".size too_small, .-too_small", _function("after_it_nothing = ."), " ret",
    ".globl main", ".type main,@function", "main:", " call unsized", " call d_global", " call u2",
    " call label", " call sized_local", " call z_a", " call too_small", " xor %eax,%eax", " ret",
    ".size main, .-main", '.section .note.GNU-stack,"",@progbits', "",
))


def record(tmp_path: Path, event: str, period: int, command: list[str]) -> Path:
    data = tmp_path / "perf.data"
    run = subprocess.run(
        ["perf", "record", "-q", "-e", event, "-c", str(period), "-o", str(data), "--", *command],
        capture_output=True, text=True, timeout=60,
    )
    if not data.exists() or not data.stat().st_size:
        pytest.skip(f"perf record is refused here: {run.stderr.strip()[:200]}")
    return data


def reason(timeline: Timeline, dso: int, offset: int, ours: str | None, theirs: str | None) -> str:
    """Why perf may say something else; empty if there is no reason."""
    for name in (ours, theirs):
        if name and name.endswith("@plt"):
            return "which linkage table entries get names differs between releases of perf"
    table = timeline.binaries.symbols(dso) if dso >= 0 else None
    if table is None:
        return ""
    covering = int(((table.starts <= offset) & (offset < table.ends)).sum())
    if covering > 1:
        return "perf searches a tree that is ambiguous where symbols overlap"
    image = timeline.binaries.image(dso)
    if ours is None and image is not None and image.section(".gnu_debugdata"):
        return "perf reads the compressed symbol table in .gnu_debugdata"
    before = np.flatnonzero(table.starts <= offset)
    if ours is None and len(before) and table.name(int(before[-1])) == theirs:
        return "perf lets a symbol without size run on into the next section"
    return ""


def compare(data: Path, *, at_least: int) -> Timeline:
    timeline = Timeline(Places(same_kernel=True))
    samples = perftext.replay(perftext.script(data), timeline)
    assert len(samples) >= at_least
    found = timeline.resolve(
        np.array([s.time_ns for s in samples], np.uint64),
        np.array([s.pid for s in samples], np.int32),
        np.array([s.tid for s in samples], np.int32),
        np.array([s.ip for s in samples], np.uint64),
        np.array([CPUMODE_KERNEL if s.ip >> 63 else CPUMODE_USER for s in samples], np.uint8),
    )
    unexplained = []
    for row, sample in enumerate(samples):
        symbol, dso, comm = int(found.symbol[row]), int(found.dso[row]), int(found.comm[row])
        ours = (
            timeline.symbols[symbol] if symbol >= 0 else None, int(found.symbol_offset[row]),
            timeline.dsos[dso].path if dso >= 0 else "[unknown]",
            timeline.comms[comm] if comm >= 0 else None,
        )
        theirs = (sample.symbol, sample.symbol_offset, sample.dso, sample.comm)
        if ours != theirs and not (
            ours[2:] == theirs[2:]
            and reason(timeline, dso, int(found.offset[row]), ours[0], theirs[0])
        ):
            unexplained.append((hex(sample.ip), ours, theirs))
    assert unexplained == []
    return timeline


@pytest.mark.parametrize("options", [["-pie", "-fPIE"], ["-no-pie"], ["-static"]])
def test_a_cxx_program_with_threads_fork_and_exec(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "w.cc").write_text(CXX)
    built = subprocess.run(
        ["g++", "-O2", "-pthread", *options, "w.cc", "-o", "w"], cwd=tmp_path,
        capture_output=True, text=True, timeout=120,
    )
    if built.returncode:
        pytest.skip(f"g++ {' '.join(options)} fails here: {built.stderr.strip()[:200]}")
    data = record(tmp_path, "cpu-clock:u", 250000, [str(tmp_path / "w")])
    timeline = compare(data, at_least=200)
    assert {
        "shapes::Box<double>::scaled", "shapes::Box<double>::operator<",
        "shapes::Box<double>::operator long", "(anonymous namespace)::hidden", "local_one",
        "plain_c", "operator<< <double>", "shown<int>(int)::{lambda(int)#1}::operator()",
    } <= set(timeline.symbols)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 assembly")
@pytest.mark.parametrize("option", ["-pie", "-no-pie"])
def test_symbols_that_share_an_address(tmp_path: Path, option: str) -> None:
    (tmp_path / "s.s").write_text(ASSEMBLY)
    subprocess.run(["gcc", option, "s.s", "-o", "s"], cwd=tmp_path, check=True, timeout=60)
    timeline = compare(record(tmp_path, "cpu-clock:u", 250000, [str(tmp_path / "s")]), at_least=10)
    assert {"unsized", "d_global", "u2", "label"} <= set(timeline.symbols)


def test_python_with_its_libraries(tmp_path: Path) -> None:
    program = (
        "import numpy as np, json, zlib\n"
        "for i in range(12): sorted(np.random.rand(20000).tolist()); "
        "json.dumps(list(range(3000))); zlib.compress(b'abc' * 99999)\n"
    )
    compare(record(tmp_path, "cpu-clock:u", 500000, [sys.executable, "-c", program]), at_least=100)


def test_shell_with_kernel_mode(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5; do ls -la /usr/lib | sort | head -3; (cat /proc/self/maps); done"
    compare(record(tmp_path, "cpu-clock", 200000, ["sh", "-c", script]), at_least=10)


def test_the_same_through_our_own_reader(tmp_path: Path) -> None:
    script = (
        "for i in 1 2 3; do ls -la /usr/lib | sort | head -3; (cat /proc/self/maps); done; "
        "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"
    )
    data = record(tmp_path, "cpu-clock:u", 200000, ["sh", "-c", script])
    reader = Reader(str(data))
    decoder = Decoder(reader.events)
    side = sideband.SidebandDecoder(reader.events, decoder.plans)
    timeline, by_perf = Timeline(Places(same_kernel=True)), Timeline(Places(same_kernel=True))
    samples = perftext.replay(perftext.script(data), by_perf)
    for block in reader.blocks():
        for entry in side.decode(block):
            feed(timeline, entry)
    ours: Counter[tuple[object, ...]] = Counter()
    theirs: Counter[tuple[object, ...]] = Counter()
    for block in reader.blocks():
        batch = decoder.decode(block)
        if len(batch):
            ours += named(timeline, batch.time_ns, batch.pid, batch.tid, batch.ip, batch.cpumode)
    theirs += named(
        by_perf, np.array([s.time_ns for s in samples], np.uint64),
        np.array([s.pid for s in samples], np.int32), np.array([s.tid for s in samples], np.int32),
        np.array([s.ip for s in samples], np.uint64),
        np.full(len(samples), CPUMODE_USER, np.uint8),
    )
    assert sum(ours.values()) == len(samples) >= 10
    assert ours == theirs


def feed(timeline: Timeline, entry: sideband.Sideband) -> None:
    time_ns = entry.time_ns or 0
    match entry:
        case sideband.Comm():
            timeline.comm(time_ns, entry.pid, entry.tid, entry.name, entry.is_exec)
        case sideband.Mmap():
            timeline.mmap(time_ns, entry.pid, entry.tid, entry.start, entry.length,
                          entry.page_offset, entry.path, entry.prot)
        case sideband.Fork():
            timeline.fork(time_ns, entry.pid, entry.parent_pid, entry.tid, entry.parent_tid)
        case sideband.Exit():
            timeline.exit(time_ns, entry.pid, entry.tid)


def named(timeline: Timeline, *columns: Any) -> Counter[tuple[object, ...]]:
    found = timeline.resolve(*columns)
    return Counter(
        (int(time_ns), int(ip), timeline.symbols[symbol] if symbol >= 0 else None, int(offset),
         timeline.dsos[dso].path if dso >= 0 else None, timeline.comms[comm] if comm >= 0 else None)
        for time_ns, ip, symbol, offset, dso, comm in zip(
            columns[0], columns[3], found.symbol, found.symbol_offset, found.dso, found.comm,
            strict=True)
    )
