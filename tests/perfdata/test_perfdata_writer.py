"""The writer: bytes, modes, crashes, full disks, and today's perf on what it writes."""

from __future__ import annotations

import io
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perfxmm.errors import OutputError
from perfxmm.kernel import dialects
from perfxmm.kernel.attr import EventAttr
from perfxmm.kernel.constants import AttrFlag, SampleType
from perfxmm.kernel.dialects import SimdRequest
from perfxmm.kernel.registers import CLASSIC_GPR_MASK, LEGACY_XMM_MASK
from perfxmm.perfdata import encode, stopinfo
from perfxmm.perfdata.encode import SampleId
from perfxmm.perfdata.metadata import FEATURE_BIT, GAP_MAGIC, Metadata
from perfxmm.perfdata.reader import Reader
from perfxmm.perfdata.writer import EventSpec, Writer

ST = SampleType
SAMPLE_TYPE = int(
    ST.IDENTIFIER | ST.IP | ST.TID | ST.TIME | ST.CPU | ST.PERIOD | ST.RAW | ST.REGS_INTR
)
ATTR_L = EventAttr(
    type=1, config=1, sample_period=1_000_000, sample_type=SAMPLE_TYPE, clockid=1,
    flags=int(AttrFlag.DISABLED | AttrFlag.SAMPLE_ID_ALL | AttrFlag.EXCLUDE_KERNEL | AttrFlag.COMM
              | AttrFlag.MMAP | AttrFlag.MMAP2 | AttrFlag.TASK | AttrFlag.USE_CLOCKID),
    sample_regs_intr=CLASSIC_GPR_MASK | LEGACY_XMM_MASK,
)  # fmt: skip
SPEC = EventSpec("task-clock:u", ATTR_L, (7, 8))


def metadata() -> Metadata:
    return Metadata(source="sigtrap", dialect="L", tool_version="0")


def snapshot(number: int, *, identifier: int = 7, abi: int = 2) -> bytes:
    """A sigtrap sample in dialect L; every register value depends on `number` and its place."""
    gprs = [number << 8 | i for i in range(20)]
    xmms = [(number << 32 | i) ^ (0xFF << 56) for i in range(32)]
    raw = struct.pack("<I", stopinfo.PAYLOAD_BYTES)
    raw += struct.pack(stopinfo.FORMAT, stopinfo.MAGIC, 7, 0, 1)
    regs = struct.pack("<Q", abi) + (struct.pack("<52Q", *gprs, *xmms) if abi else b"")
    return encode.sample_record(struct.pack(
        "<QQIIQIIQ", identifier, 0x401000 + number, 10, 10, 2000 + number, 0, 0, 1000
    ) + raw + regs)  # fmt: skip


def write(path: Path | str, count: int, *, finish: bool = True) -> Writer:
    writer = Writer(str(path), [SPEC], metadata(), command_line=["perfxmm", "record", "--", "x y"])
    sid = SampleId(10, 10, 1000, 0, 7)
    writer.write(encode.comm_record(10, 10, "app", True, sid))
    writer.write(encode.mmap2_record(
        10, 10, 0x401000, 0x10000, 0x1000, "/nowhere/app", build_id=bytes(range(20)), sid=sid
    ))  # fmt: skip
    for number in range(count):
        writer.write(snapshot(number))
    writer.finished_round()
    writer.note_build_id("/nowhere/app", bytes(range(20)))
    if finish:
        writer.finish({"samples": count}, sample_time=(2000, 2000 + count - 1))
    return writer


def samples(source: Reader) -> list[bytes]:
    return [b.record(i) for b in source.blocks() for i in range(len(b)) if b.types[i] == 9]


def test_the_bytes_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    ours = metadata()
    with Writer(str(path), [SPEC], ours) as writer:
        text = ours.to_json()
        writer.write(snapshot(1))
        assert writer.bytes_written > len(snapshot(1))
        writer.finish({"samples": 1}, sample_time=(5, 6))
    data = path.read_bytes()
    pad = -len(text) % 8
    data_at = 104 + 16 + 104 + 16 + 16 + len(text) + pad
    assert data[:72] == b"PERFILE2" + struct.pack(
        "<8Q", 104, 120, 120, 120, data_at, len(snapshot(1)), 0, 0
    )
    assert data[104:120] == struct.pack("<QQ", 7, 8)
    assert struct.unpack_from("<II", data, 120) == (1, 104)
    assert data[224:240] == struct.pack("<QQ", 104, 16)
    assert data[240 : 256 + len(text)] == GAP_MAGIC + struct.pack("<Q", len(text)) + text
    assert data_at % 8 == 0
    assert data[data_at : data_at + len(snapshot(1))] == snapshot(1)
    bits = int.from_bytes(data[72:104], "little")
    table = data_at + len(snapshot(1))
    numbers = [b for b in range(256) if bits >> b & 1]
    assert numbers[-1] == FEATURE_BIT
    assert {3, 4, 5, 6, 7, 12, 21} <= set(numbers)
    end = table + 16 * len(numbers)
    for index, _ in enumerate(numbers):
        offset, size = struct.unpack_from("<QQ", data, table + 16 * index)
        assert offset == end, "sections follow each other"
        end += size
    assert end == len(data)
    assert Metadata.from_json(data[offset:]).result == {"samples": 1}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "f", 500)
    source = Reader(tmp_path / "f")
    assert source.complete
    assert samples(source) == [snapshot(n) for n in range(500)]
    (event,) = source.events
    assert (event.name, event.ids, event.attr.size) == ("task-clock:u", (7, 8), 104)
    assert source.metadata is not None
    assert source.metadata.result == {"samples": 500}
    assert source.features["hostname"] == os.uname().nodename
    assert source.features["osrelease"] == os.uname().release
    assert source.features["cmdline"] == ["perfxmm", "record", "--", "x y"]
    assert source.features["sample_time"] == (2000, 2499)
    assert [(b.path, b.build_id) for b in source.features["build_ids"]] == [
        ("/nowhere/app", bytes(range(20)))
    ]
    assert [e[1:] for e in source.features["event_desc"]] == [("task-clock:u", (7, 8))]


def test_events_of_different_size_share_the_largest(tmp_path: Path) -> None:
    wide = EventAttr(
        type=1, sample_type=SAMPLE_TYPE, dialect=dialects.M, sample_regs_intr=1,
        simd=SimdRequest(enabled=1, vec_qwords=4, vec_intr=0xFFFF),
    )  # fmt: skip
    writer = Writer(str(tmp_path / "f"), [SPEC, EventSpec("wide", wide, (9,))], metadata())
    writer.finish({})
    events = Reader(tmp_path / "f").events
    assert [(e.name, e.attr.size, e.attr.dialect.name, e.ids) for e in events] == [
        ("task-clock:u", 176, "L", (7, 8)), ("wide", 176, "M", (9,)),
    ]  # fmt: skip
    assert events[1].attr.simd == wide.simd


def test_finish_and_close_can_be_called_again(tmp_path: Path) -> None:
    writer = write(tmp_path / "f", 1)
    before = (tmp_path / "f").read_bytes()
    writer.finish({"other": 1})
    writer.close()
    assert (tmp_path / "f").read_bytes() == before
    with pytest.raises(OutputError, match="closed"):
        writer.write(snapshot(1))


def test_head_is_on_disk_before_the_first_record(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "f"), [SPEC], metadata())
    writer.write(snapshot(1))
    source = Reader(tmp_path / "f")
    assert source.metadata == metadata()
    assert samples(source) == []
    assert not source.complete
    writer.flush()
    assert samples(Reader(tmp_path / "f")) == [snapshot(1)]
    writer.close()


def test_closed_without_finish_is_like_killed(tmp_path: Path) -> None:
    write(tmp_path / "f", 20, finish=False).close()
    source = Reader(tmp_path / "f")
    assert samples(source) == [snapshot(n) for n in range(20)]
    assert not source.complete
    assert source.damage == []
    assert source.metadata == metadata()


def test_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write(tmp_path / "f", 1)
        (tmp_path / "g").write_bytes(b"old")
        (tmp_path / "g").chmod(0o666)
        Writer(str(tmp_path / "g"), [SPEC], metadata(), force=True).finish({})
    finally:
        os.umask(old)
    assert [(tmp_path / n).stat().st_mode & 0o7777 for n in "fg"] == [0o600, 0o600]


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "hard link"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="already there") as caught:
        Writer(str(path), [SPEC], metadata())
    assert "--force" in str(caught.value)
    assert path.read_bytes() == b"precious"
    link.hardlink_to(path)
    Writer(str(path), [SPEC], metadata(), force=True).finish({})
    assert Reader(path).complete
    assert link.read_bytes() == b"precious", "other names of the old file see nothing"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "hard link"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, force: bool, there: bool) -> None:
    target, path = tmp_path / "target", tmp_path / "f"
    if there:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(OutputError, match="symbolic link"):
        Writer(str(path), [SPEC], metadata(), force=force)
    assert target.exists() == there
    assert not there or target.read_bytes() == b"precious"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file") as caught:
        Writer(str(tmp_path / "missing" / "f"), [SPEC], metadata())
    assert "directory" in caught.value.next_step
    with pytest.raises(OutputError, match="not a regular file"):
        Writer(str(tmp_path), [SPEC], metadata(), force=True)
    with pytest.raises(OutputError, match="null"):
        Writer("a\0b", [SPEC], metadata())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_device() -> None:
    with pytest.raises(OutputError, match="No space left") as caught:
        Writer("/dev/full", [SPEC], metadata())
    assert "--max-size" in caught.value.next_step


LIMITED = """
import resource, sys
sys.path[:0] = [{tests!r}]
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from perfxmm.errors import OutputError
from perfdata.test_perfdata_writer import *
path = {path!r}
try:
    write(path, 20_000, finish=False)
    sys.exit("it was written in spite of the limit")
except OutputError as error:
    assert "File too large" in str(error), error
"""


def test_finish_that_fails_still_completes_the_header(tmp_path: Path) -> None:
    path = tmp_path / "f"
    code = LIMITED.format(tests=str(Path(__file__).parent.parent), limit=100_000, path=str(path))
    code = code.replace("write(path, 20_000, finish=False)", """
    writer = Writer(path, [SPEC], metadata())
    for number in range(300): writer.write(snapshot(number))
    writer.finish({})
""".strip())
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    source = Reader(path)
    got = samples(source)
    assert got == [snapshot(n) for n in range(len(got))]
    assert 100_000 - len(snapshot(0)) < source.data_end <= 100_000
    assert struct.unpack_from("<Q", path.read_bytes(), 48)[0] == source.data_end - source.data_start
    assert not source.complete


@pytest.mark.parametrize("limit", [300_000, 400_001, 600_007])
def test_a_file_that_may_not_grow_keeps_what_it_has(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "f"
    writer_test = LIMITED.format(tests=str(Path(__file__).parent.parent), limit=limit,
                                 path=str(path))  # fmt: skip
    subprocess.run([sys.executable, "-c", writer_test], check=True, timeout=60)
    source = Reader(path)
    got = samples(source)
    whole = (limit - source.data_start) // len(snapshot(0)) - 1
    assert whole <= len(got) <= whole + 1
    assert got == [snapshot(n) for n in range(len(got))]
    assert not source.complete
    assert source.damage == [], "the incomplete last record was taken back"


FULL = LIMITED.replace("resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))", "").replace(
    "File too large", "No space left"
).replace("write(path, 20_000, finish=False)", """
    writer = Writer(path, [SPEC], metadata())
    for number in range(20_000): writer.write(snapshot(number))
""".strip()) + "    writer.finish({{'samples': 1}})\n"


def test_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    """A tmpfs of 1 MiB in a mount namespace of its own. Then `finish` still sets data.size."""
    if not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs unshare and root")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    code = FULL.format(tests=str(Path(__file__).parent.parent), path=str(disk / "f"))
    script = f'mount -t tmpfs -o size=1m none "{disk}" || exit 77; "$0" -c "$1" || exit 1;'
    script += f' cp "{disk}/f" "{kept}"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, code], timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespace may be made here")
    assert done.returncode == 0, done.stderr
    source = Reader(kept)
    got = samples(source)
    assert len(got) >= (1 << 20) // len(snapshot(0)) - 40
    assert got == [snapshot(n) for n in range(len(got))]
    assert not source.complete
    assert source.data_end - source.data_start == len(got) * len(snapshot(0))
    if source.metadata.result:  # there was room for the features
        assert "No space left" in source.metadata.result["output_error"]


KILLED = """
import sys
sys.path[:0] = [{tests!r}]
from perfdata.test_perfdata_writer import *
writer = Writer({path!r}, [SPEC], metadata())
print("go", flush=True)
number = 0
while True:
    writer.write(snapshot(number))
    number += 1
    if number % 64 == 0:
        writer.finished_round()
"""


def test_a_recorder_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(5)
    for turn in range(4):
        path = tmp_path / f"f{turn}"
        code = KILLED.format(tests=str(Path(__file__).parent.parent), path=str(path))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(chance.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        source = Reader(path)
        got = samples(source)
        assert got == [snapshot(n) for n in range(len(got))]
        assert not source.complete
        assert source.metadata == metadata()
        # A signal that kills also ends the write that is under way, between two pages: all
        # complete records of that round count, and the rest of the last one is told.
        size, each = path.stat().st_size - source.data_start, len(snapshot(0))
        rounds, rest = divmod(size, 64 * each + 8)
        assert len(got) == rounds * 64 + min(64, rest // each)
        cut = rest % each if rest < 64 * each else rest - 64 * each
        assert [damage.offset for damage in source.damage] == (
            [source.data_start + size - cut] if cut else []
        )


def test_pipe_form_comes_back(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source, os.fdopen(write_end, "wb") as sink:
        writer = Writer("-", [SPEC], metadata(), stdout_fd=sink.fileno())
        writer.write(snapshot(1))
        writer.finish({"samples": 1})
        assert not sink.closed, "stdout is not ours to close"
        sink.close()
        data = source.read()
    back = Reader(io.BytesIO(data))
    assert back.pipe
    assert back.complete
    assert back.metadata is not None
    assert back.metadata.result == {"samples": 1}
    assert [(e.name, e.ids) for e in back.events] == [("task-clock:u", (7, 8))]
    assert samples(back) == [snapshot(1)]
    # Killed before the end: the metadata of the beginning are there.
    cut = Reader(io.BytesIO(data[: data.index(snapshot(1)) + len(snapshot(1))]))
    assert cut.metadata == metadata()
    assert not cut.complete
    assert samples(cut) == [snapshot(1)]


def test_a_pipe_whose_reader_has_gone() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as sink, pytest.raises(OutputError, match="stdout"):
        Writer("-", [SPEC], metadata(), stdout_fd=sink.fileno())


def test_a_terminal_gets_no_recording() -> None:
    ours, theirs = pty.openpty()
    try:
        with pytest.raises(OutputError, match="terminal"):
            Writer("-", [SPEC], metadata(), stdout_fd=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


# --- today's perf

PERF = shutil.which("perf")
needs_perf = pytest.mark.skipif(PERF is None, reason="perf is not installed")


def perf(*args: str | Path, stdin: bytes | None = None) -> str:
    assert PERF is not None
    done = subprocess.run(
        [PERF, *map(str, args)], input=stdin, capture_output=True, timeout=120,
        env={**os.environ, "PERF_CONFIG": "/dev/null", "DEBUGINFOD_URLS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def check_registers(lines: list[str], count: int) -> None:
    """Every value of every snapshot. perf prints an XMM as two halves of the same name."""
    assert len(lines) == count
    names = ["AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP", "IP", "FLAGS", "CS", "SS"]
    names += [f"R{n}" for n in range(8, 16)] + [f"XMM{n // 2}" for n in range(32)]
    for number, line in enumerate(lines):
        assert int(line.split()[0], 16) == 0x401000 + number
        assert "ABI:2" in line
        pairs = [(n, int(v, 16)) for n, v in re.findall(r"(\w+):(0x[0-9a-f]+)", line)]
        expected = [number << 8 | i for i in range(20)]
        expected += [(number << 32 | i) ^ (0xFF << 56) for i in range(32)]
        assert pairs == list(zip(names, expected, strict=True))


@needs_perf
def test_perf_script_prints_every_value(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, 300)
    lines = perf("script", "-i", path, "-F", "ip,sym,iregs").splitlines()
    check_registers([line for line in lines if line.strip()], 300)


@needs_perf
def test_perf_reads_header_events_and_report(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, 300)
    assert perf("evlist", "-i", path).split() == ["task-clock:u"]
    verbose = perf("evlist", "-v", "-i", path)
    assert "size: 104" in verbose
    assert "sample_regs_intr: 0xffffffff00ff0fff" in verbose
    head = perf("script", "--header-only", "-i", path)
    assert f"# hostname : {os.uname().nodename}" in head
    assert f"# os release : {os.uname().release}" in head
    assert "# cmdline : perfxmm record -- x y" in head
    assert "id = { 7, 8 }" in head
    assert "time of first sample : 0.000002" in head
    report = perf("report", "--stdio", "-i", path, "--sort", "comm,dso")
    assert re.search(r"100\.00%\s+app\s+app\b", report)
    assert "Samples: 300  of event 'task-clock:u'" in report
    listed = perf("buildid-list", "-i", path)
    assert listed.split() == [bytes(range(20)).hex(), "/nowhere/app"]


@needs_perf
def test_perf_reads_the_pipe_form_with_two_events(tmp_path: Path) -> None:
    other = EventSpec("cpu-clock:u", EventAttr(
        type=1, config=0, sample_period=1_000_000, sample_type=SAMPLE_TYPE, flags=ATTR_L.flags,
        clockid=1, sample_regs_intr=ATTR_L.sample_regs_intr,
    ), (9,))  # fmt: skip
    with (tmp_path / "f").open("wb") as sink:
        writer = Writer("-", [SPEC, other], metadata(), stdout_fd=sink.fileno())
        for number in range(10):
            writer.write(snapshot(number, identifier=9 if number % 3 == 0 else 8))
        writer.finish({})
    piped = (tmp_path / "f").read_bytes()
    text = perf("script", "-i", "-", "-F", "event,ip,iregs", stdin=piped).splitlines()
    events = [line.split()[0].rstrip(":") for line in text if line.strip()]
    assert events == ["cpu-clock:u" if n % 3 == 0 else "task-clock:u" for n in range(10)]
    check_registers([line.split(None, 1)[1] for line in text if line.strip()], 10)


@needs_perf
def test_perf_reads_what_a_full_disk_left(tmp_path: Path) -> None:
    """data.size set, no features: what `finish` leaves when there is no room for them."""
    path = tmp_path / "f"
    write(path, 50)
    data = bytearray(path.read_bytes())
    data_at, size = struct.unpack_from("<QQ", data, 40)
    data[72:104] = bytes(32)
    path.write_bytes(data[: data_at + size])
    lines = perf("script", "-i", path, "-F", "ip,iregs").splitlines()
    check_registers([line for line in lines if line.strip()], 50)
