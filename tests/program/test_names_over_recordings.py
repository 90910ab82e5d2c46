"""Symbol, offset and DSO of every sample against `perf script`, over whole recordings: those that
others made, programs of several linkers, and programs that make code.

Every difference has one of the reasons in `reason`; each is a difference in what is believed, or
a defect of the perf that is installed (6.1).
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from support import perfdata_writer as pw
from support.workloads import workload

import perfxmm
from perfxmm.program.elf import PF_X, open_elf

pytestmark = pytest.mark.skipif(shutil.which("perf") is None, reason="needs perf (linux-perf)")

_LINE = re.compile(r"^\s*(?P<tid>-?\d+)\s+(?:(?P<s>\d+)\.(?P<ns>\d{9}):)?\s+(?P<ip>[0-9a-f]+) "
                   r"(?P<symbol>.*) \((?P<dso>.*)\)$")
RECORDINGS = (
    "hotspot.perf.data.PerfFormatLost", "hotspot.perf.data.true.v2", "lpd.sleep.compressed.data",
    "lpd.sleep.compressed.pipe.data", "lpd.sleep.compressed2.data", "lpd.sleep.data",
    "perf.data.armv7.perf_3.14-3.8", "perf.data.branch-4.14", "perf.data.callgraph-3.8",
    "perf.data.ctx_switch_namespaces-4.14", "perf.data.group_desc-4.14",
    "perf.data.hybrid_topology", "perf.data.i686-3.4", "perf.data.intel_pt-4.14",
    "perf.data.lost_samples-4.4", "perf.data.piped.header_features-4.16",
    "perf.data.piped.target-3.4", "perf.data.proc.map.timeout-3.18", "perf.data.raw-3.4",
    "perf.data.singleprocess-3.8", "perf.data.systemwide.0-3.8",
)


class Named(NamedTuple):
    time_ns: int
    tid: int
    ip: int
    symbol: str | None
    offset: int
    dso: str

    @property
    def sample(self) -> tuple[int, int, int]:
        return self.time_ns, self.tid, self.ip


def by_perf(path: Path) -> list[Named]:
    # --no-itrace: perf makes samples of its own out of traces.
    run = subprocess.run(
        ["perf", "script", "-i", str(path), "-G", "--no-itrace", "--ns",
         "-F", "tid,time,ip,sym,symoff,dso"],
        capture_output=True, text=True, timeout=60, errors="surrogateescape", check=False,
    )
    if "incompatible file format" in run.stderr:
        pytest.skip("perf here is too old for this file")
    rows = []
    for line in run.stdout.splitlines():
        found = _LINE.match(line)
        if found is None:
            assert not line.strip(), line
            continue
        name, _, offset = found["symbol"].rpartition("+0x")
        known = found["symbol"] != "[unknown]"
        rows.append(Named(
            int(found["s"] or 0) * 10**9 + int(found["ns"] or 0), int(found["tid"]),
            int(found["ip"], 16), name if known else None, int(offset, 16) if known else 0,
            found["dso"],
        ))
    return rows


def by_us(path: Path) -> list[Named]:
    recording = perfxmm.open(path)
    rows = []
    for batch in recording.snapshots(keep=("all",), columns=()):
        assert batch.symbol is not None
        assert batch.symbol_offset is not None
        assert batch.dso is not None
        rows += [
            Named(time_ns, tid, ip, recording.symbols[s] if s >= 0 else None, offset,
                  recording.dsos[d] if d >= 0 else "[unknown]")
            for time_ns, tid, ip, s, offset, d in zip(
                batch.time_ns.tolist(), batch.tid.tolist(), batch.ip.tolist(),
                batch.symbol.tolist(), batch.symbol_offset.tolist(), batch.dso.tolist(),
                strict=True)
        ]
    return rows


def reason(ours: Named, theirs: Named) -> str:
    """Why perf says something else, "" where there is no reason."""
    same_place = ours.dso == theirs.dso
    stubs = [name for name in (ours.symbol, theirs.symbol)
             if name and (name.endswith("@plt") or name == ".plt")]
    if same_place and ours.dso in ("[kernel.kallsyms]", "[vdso]") and ours.symbol is None:
        return "perf takes this machine's kernel for the recorded one without any proof"
    if same_place and stubs:
        return "perf 6.1 names only .plt, and not where the linker gives no sizes"
    if same_place and ours.symbol is None and theirs.symbol in ("_init", "_fini", "__FRAME_END__"):
        return "perf lets a symbol without size run on into the next section"
    if ours.dso[8:] == theirs.dso and ours.symbol == theirs.symbol:
        return "perf takes the name in MMAP2's first form (Linux 3.12) eight bytes too late"
    if same_place and ours.dso.startswith("/tmp/perf-") and ours.symbol is not None:
        return "perf reads jitdumps only when `perf inject --jit` has changed the recording"
    return ""


def compare(path: Path) -> Counter[str]:
    """How often each reason was needed."""
    theirs, ours = by_perf(path), by_us(path)
    assert sorted(row.sample for row in theirs) == sorted(row.sample for row in ours)
    missing = Counter(ours) - Counter(theirs)
    by_sample: dict[tuple[int, int, int], list[Named]] = {}
    for row in missing.elements():
        by_sample.setdefault(row.sample, []).append(row)
    reasons: Counter[str] = Counter()
    unexplained = []
    for row in (Counter(theirs) - Counter(ours)).elements():
        own = by_sample[row.sample].pop()
        why = reason(own, row)
        reasons[why] += 1
        if not why:
            unexplained.append((row, own))
    assert unexplained == []
    return reasons


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_of_others(shared_data: Path, name: str) -> None:
    compare(shared_data / "perfdata" / name)


# Programs of several linkers, every few bytes of their code.


def kernel_map(start: int, length: int, path: str) -> bytes:
    name = path.encode() + b"\0"
    name += bytes(-len(name) % 8)
    body = struct.pack("<iIQQQ", -1, 0, start, length, 0)
    return pw.record(1, body + name + struct.pack("<iIQ", -1, 0, 1), misc=1)


def kernel_sample(time_ns: int, ip: int) -> bytes:
    return pw.record(pw.SAMPLE, struct.pack("<QIIQ", ip, 1, 1, time_ns), misc=1)


@pytest.mark.parametrize("table", [False, True])
def test_names_of_kernel_modules(tmp_path: Path, table: bool) -> None:
    ext4 = "/lib/modules/6.1/kernel/fs/ext4/ext4.ko"
    at = 0xFFFFFFFFC0000000
    records = [
        kernel_map(0xFFFFFFFF81000000, 0x1000000, "[kernel.kallsyms]_text"),
        kernel_map(at, 0x4000, ext4), kernel_map(at + 0x8000, 0x4000, "[btrfs]"),
        kernel_map(at + 0x10000, 0x4000, "/lib/modules/6.1/a-b.ko.xz"),
        *(kernel_sample(10 + n, at + 16 + 0x8000 * n) for n in range(4)),
    ]
    name = ext4.encode() + b"\0"
    body = struct.pack("<i20s4x", -1, b"\1" * 20) + name + bytes(-len(name) % 8)
    features = {2: struct.pack("<IHH", 0, 1, 8 + len(body)) + body} if table else {}
    path = tmp_path / "k.data"
    path.write_bytes(pw.PerfFile(records=records, features=features).build())
    assert not compare(path)
    assert [row.dso for row in by_us(path)] == [
        ext4 if table else "[ext4]", "[btrfs]", "[a_b]", "[unknown]"]


def mmap2(time_ns: int, start: int, length: int, page_offset: int, path: str) -> bytes:
    name = path.encode() + b"\0"
    name += bytes(-len(name) % 8)
    body = struct.pack(
        "<IIQQQIIQQII", 1, 1, start, length, page_offset, 0, 0, Path(path).stat().st_ino, 0, 5, 2)
    return pw.record(pw.MMAP2, body + name + struct.pack("<IIQ", 1, 1, time_ns), misc=2)


def sweep(binary: Path, out: Path, step: int) -> Path:
    """A recording of samples all over the code of a binary."""
    image = open_elf(binary)
    base = 0x400000000000 if image.kind == "ET_DYN" else 0
    times = itertools.count(1)
    records, samples = [pw.comm(next(times))], []
    for segment in image.segments:
        if not segment.flags & PF_X:
            continue
        first, last = segment.vaddr & ~4095, (segment.vaddr + segment.memory_bytes + 4095) & ~4095
        records.append(mmap2(
            next(times), base + first, last - first, segment.offset & ~4095, str(binary)))
        samples += range(base + segment.vaddr, base + segment.vaddr + segment.file_bytes, step)
    records += [pw.sample(100 + next(times), ip=ip) for ip in samples]
    out.write_bytes(pw.PerfFile(records=records).build())
    return out


SOURCE = r"""
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>
struct A { virtual ~A() {} virtual int f(int x) { return x; } };
struct B : A { int f(int x) override { return x * 2; } };
__attribute__((noinline)) static int work(int n) {
    std::vector<int> v(n);
    for (int &x : v) x = n--;
    std::sort(v.begin(), v.end());
    std::string s = std::to_string(v[0]);
    puts(s.c_str());
    return v[0];
}
int main(int c, char **v) {
    A *a = c > 1 ? new A : new B;
    try { if (c > 5) throw std::runtime_error(v[1]); } catch (std::exception &e) { puts(e.what()); }
    return a->f(work(c * 10)) + (int)std::sin(c);
}
"""
VARIANTS = {
    "pie": ["-pie", "-fPIE"], "fixed": ["-no-pie", "-fno-pie"],
    "bound": ["-pie", "-fPIE", "-Wl,-z,now"],
    "one-segment": ["-pie", "-fPIE", "-Wl,-z,noseparate-code"],
    "separate": ["-no-pie", "-fno-pie", "-Wl,-z,separate-code"],
    "ibt": ["-pie", "-fPIE", "-fcf-protection", "-Wl,-z,ibtplt"],
    "static": ["-static", "-fno-pie"], "stripped": ["-pie", "-fPIE", "-s"],
}


@functools.cache
def compiled(options: tuple[str, ...]) -> bytes:
    """The program's object file; it is linked many times."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "w.cc").write_text(SOURCE)
        subprocess.run(
            ["g++", "-O1", *options, "-c", "w.cc"], cwd=directory, check=True, timeout=120)
        return Path(directory, "w.o").read_bytes()


def build(directory: Path, linker: str, options: Sequence[str]) -> Path:
    if linker != "bfd" and shutil.which(f"ld.{linker}") is None:
        pytest.skip(f"needs {linker} (package {linker})")
    code = tuple(option for option in options if option.startswith("-f"))
    (directory / "w.o").write_bytes(compiled(code))
    run = subprocess.run(
        ["g++", f"-fuse-ld={linker}", *options, "w.o", "-o", "w"], cwd=directory,
        capture_output=True, text=True, timeout=120, check=False,
    )
    if run.returncode:
        pytest.skip(f"g++ {' '.join(options)} with {linker}: {run.stderr.strip()[:200]}")
    return directory / "w"


@pytest.mark.parametrize(("linker", "variant"), [
    *(("bfd", variant) for variant in VARIANTS),
    *((linker, variant) for linker in ("lld", "mold")
      for variant in ("pie", "separate", "ibt")),
])  # fmt: skip
def test_programs_of_several_linkers(tmp_path: Path, linker: str, variant: str) -> None:
    binary = build(tmp_path, linker, VARIANTS[variant])
    # A static program is large.
    path = sweep(binary, tmp_path / "s.data", 64 if variant == "static" else 8)
    compare(path)
    found = {row.symbol for row in by_us(path)}
    if variant != "stripped":
        assert {"work", "main"} <= found
    if variant not in ("static", "bound"):
        assert {"puts@plt", "puts$plt"} & found
    if variant == "ibt" and linker == "bfd":
        assert "operator new@plt" in found


def test_a_large_library(tmp_path: Path) -> None:
    library = next(
        (path for path in map(Path, (
            "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/lib64/libstdc++.so.6"))
         if path.exists()), None)
    if library is None:
        pytest.skip("no libstdc++ here")
    compare(sweep(library.resolve(), tmp_path / "s.data", 256))


def test_a_binary_whose_symbols_were_split_off(tmp_path: Path) -> None:
    if shutil.which("objcopy") is None:
        pytest.skip("needs objcopy (binutils)")
    binary = build(tmp_path, "bfd", VARIANTS["pie"])
    for command in (
        ["objcopy", "--only-keep-debug", "w", "w.debug"], ["strip", "w"],
        ["objcopy", "--add-gnu-debuglink=w.debug", "w"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    path = sweep(binary, tmp_path / "s.data", 8)
    compare(path)
    assert {"work", "main"} <= {row.symbol for row in by_us(path)}
    (tmp_path / "w.debug").write_bytes((tmp_path / "w.debug").read_bytes() + b"changed")
    # Its build id still fits; without one the checksum decides.
    subprocess.run(
        ["objcopy", "--remove-section=.note.gnu.build-id", "w"], cwd=tmp_path, check=True,
        timeout=60)
    assert "work" not in {row.symbol for row in by_us(sweep(binary, tmp_path / "t.data", 8))}


# Programs that make code.


def record_jit(tmp_path: Path, how: str, *options: str) -> tuple[Path, Path]:
    """(recording, the perf map, which may not be there)"""
    program = workload("jit.c")
    data = tmp_path / "perf.data"
    run = subprocess.run(
        ["perf", "record", "-q", *options, "-e", "cpu-clock:u", "-c", "2000000", "-o", str(data),
         "--", program, how, str(tmp_path), "4"],
        capture_output=True, text=True, timeout=60, check=False,
    )
    if not data.exists() or not run.stdout:
        pytest.skip(f"perf record is refused here: {run.stderr.strip()[:200]}")
    return data, Path(f"/tmp/perf-{run.stdout.split()[1]}.map")


def test_a_perf_map_gives_the_same_names(tmp_path: Path) -> None:
    data, perf_map = record_jit(tmp_path, "map")
    try:
        assert not compare(data)
        found = Counter(row.symbol for row in by_us(data))
        # The map cannot tell what was there before.
        assert found["second"] >= 10
        assert found["steady"] >= 3
        assert found["first"] == 0
    finally:
        perf_map.unlink(missing_ok=True)


def test_a_jitdump_tells_what_was_there_before(tmp_path: Path) -> None:
    data, _ = record_jit(tmp_path, "dump", "-k", "mono")
    assert set(compare(data)) == {
        "perf reads jitdumps only when `perf inject --jit` has changed the recording"}
    found = [row for row in by_us(data) if row.dso.startswith("/tmp/perf-")]
    # `first` and `second` take turns at one address, the first time for `first`.
    turns = [name for name, _ in itertools.groupby(
        row.symbol for row in found if row.symbol in ("first", "second"))]
    assert turns == ["first", "second", "first", "second"]
    assert all(row.symbol for row in found)
