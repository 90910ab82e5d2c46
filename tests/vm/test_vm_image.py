"""The guest's file system, the frames that leave it, and its plan: no emulator."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room.image import Archive, closure
from room.plan import PHASES, Wishes, holders, module_words, script
from room.roots import Root
from room.session import COMPLAINTS
from room.trouble import Trouble
from room.wire import unframe


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """A reader of `newc` archives of its own: name -> (mode, body)."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        body_at = -(-(at + 110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[body_at : body_at + size])
        at = -(-(body_at + size) // 4) * 4


def test_an_archive_holds_folders_files_links_and_devices() -> None:
    archive = Archive()
    archive.file("room/deep/plan", b"12345", 0o755)
    archive.link("bin", "usr/bin")
    archive.device("dev/console", 5, 1)
    whole = archive.bytes()
    assert len(whole) % 512 == 0
    assert entries(whole) == {
        "room": (0o40755, b""), "room/deep": (0o40755, b""), "room/deep/plan": (0o100755, b"12345"),
        "bin": (0o120777, b"usr/bin"), "dev": (0o40755, b""), "dev/console": (0o20600, b""),
    }
    assert "room/deep" in archive
    assert "room/plan" not in archive


def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not here")
    archive = Archive()
    for length in range(9):
        archive.file(f"some/{'n' * (length + 1)}", bytes(range(length)))
    subprocess.run(["cpio", "-id", "--quiet"], input=archive.bytes(), cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "some").iterdir()} == {
        "n" * (length + 1): bytes(range(length)) for length in range(9)
    }


def test_the_libraries_of_a_program_come_along(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not here")
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "one.c").write_text("int one(void) { return 1; }")
    (tmp_path / "main.c").write_text("int one(void); int main(void) { return one(); }")
    flags = ["-nostdlib", "-Wl,--no-as-needed"]
    subprocess.run(["gcc", "-shared", *flags, "-o", folder / "libone.so.1.0", tmp_path / "one.c",
                    "-Wl,-soname,libone.so.1"], check=True)
    (folder / "libone.so.1").symlink_to("libone.so.1.0")
    subprocess.run(["gcc", "-shared", *flags, "-o", tmp_path / "usr/bin/main", tmp_path / "main.c",
                    folder / "libone.so.1"], check=True)
    found = dict(closure(Root(tmp_path), ["usr/bin/main"]))
    assert found == {
        "usr/bin/main": tmp_path / "usr/bin/main",
        "usr/lib/x86_64-linux-gnu/libone.so.1": folder / "libone.so.1.0",
    }
    (folder / "libone.so.1").unlink()
    with pytest.raises(Trouble, match=r"needs libone\.so\.1"):
        dict(closure(Root(tmp_path), ["usr/bin/main"]))


def frame(name: str, body: bytes) -> bytes:
    return f"PXVM1 {name} {len(body)}\n".encode() + body + b"%08x\n" % zlib.crc32(body)


def test_frames_between_an_emulators_words() -> None:
    inner = frame("not-a-frame", b"inside")
    stream = (b"Bochs x86 Emulator 3.0\nPXVM1 PXVM1 x\n" + frame("perf.data", inner) + b"noise"
              + frame("empty", b"") + b"PXVM1 END 0\n00000000\n" + bytes(100))
    got = unframe(stream)
    assert got.files == {"perf.data": inner, "empty": b""}
    assert got.ended
    assert got.damaged == ()


@given(st.dictionaries(st.from_regex(r"[a-z.-]{1,12}", fullmatch=True), st.binary(max_size=300)))
def test_frames_come_back(files: dict[str, bytes]) -> None:
    got = unframe(b"".join(frame(name, body) for name, body in files.items()))
    assert got.files == files
    assert not got.ended


def test_a_frame_cut_short_or_changed_is_damaged() -> None:
    good, bad = frame("good", b"x" * 50), frame("bad", b"y" * 50)
    cut = unframe(good + bad[:-20])
    assert (cut.files, cut.damaged, cut.ended) == ({"good": b"x" * 50}, ("bad",), False)
    changed = unframe(bad.replace(b"yyy", b"yzy", 1) + good)
    assert (changed.files, changed.damaged) == ({"good": b"x" * 50}, ("bad",))


def test_each_thread_of_the_plan_has_a_family_of_its_own() -> None:
    taken: set[int] = set()
    for line in holders(Wishes(seconds=0.25)).splitlines():
        if line.startswith("/room/holder"):
            _, family, way, seconds, cpu, threads, *_ = line.split()
            mine = set(range(int(family), int(family) + int(threads)))
            assert not mine & taken
            assert seconds == "0.25"
            assert cpu in ("0", "1")
            assert way in {h.way for phase in PHASES.values() for h in phase}
            taken |= mine
    # Bit 7 marks a signal handler's constants; the plan's other holders begin at 120.
    assert max(taken) < 120
    assert len(taken) == sum(h.threads for phase in PHASES.values() for h in phase)


def test_kernel_hits_are_opted_in_for_one_recording_only() -> None:
    lines = script(Wishes(kernel_hits=True, ssp=True, cycles=3, soak_s=5, widths=True)).splitlines()
    loads = [line for line in lines if "nmi=" in line]
    assert sum("kernel_hits=1" in line for line in loads) == 1
    assert all("kernel_hits" not in line for line in script(Wishes(kernel_hits=False)).splitlines())
    (default,) = (line for line in script(Wishes(kernel_hits=False)).splitlines() if "nmi=" in line)
    assert default == "load nmi=ipi hz=997"
    assert module_words(Wishes(mask=0xE6, ssp=True)) == "nmi=ipi hz=997 mask=0xe6 ssp=1"


@pytest.mark.parametrize(("line", "bad"), [
    ("[   30.1] WARNING: CPU: 1 PID: 0 at kernel/events/core.c:6600", True),
    ("[   30.1] BUG: unable to handle page fault", True),
    ("[   30.1] Uhhuh. NMI received for unknown reason 21 on CPU 0.", True),
    ("[   30.1] rcu: INFO: rcu_preempt self-detected stall on CPU", True),
    ("[    5.0] Failed to access perfctr msr (MSR c4 is 0)", False),
    ("[   13.0] xsaves_nmi: loading out-of-tree module taints kernel.", False),
    ("[    0.4] [Firmware Bug]: TSC_DEADLINE disabled due to Errata", False),
])  # fmt: skip
def test_what_counts_as_a_complaint_of_the_kernel(line: str, bad: bool) -> None:
    assert bool(COMPLAINTS.search(line)) is bad
