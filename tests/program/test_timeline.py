"""Address spaces and names over time, against a model that remembers everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import elfwriter as ew
from support.elfwriter import Sym

from perfxmm.program import symbols, vdso
from perfxmm.program.binaries import Dso, Places
from perfxmm.program.timeline import CPUMODE_KERNEL, CPUMODE_USER, Timeline

USER, KERNEL, GUEST_USER = CPUMODE_USER, CPUMODE_KERNEL, 5
ID_A, ID_B = b"\xaa" * 20, b"\xbb" * 20
Found = tuple[str | None, str | None, int, str | None]


def look(
    timeline: Timeline, time_ns: int, pid: int, ip: int, *, tid: int | None = None,
    cpumode: int = USER,
) -> Found:
    """(comm, symbol, symbol_offset, dso path) of one sample."""
    found = timeline.resolve(
        np.array([time_ns], np.uint64), np.array([pid], np.int32),
        np.array([pid if tid is None else tid], np.int32), np.array([ip], np.uint64),
        np.array([cpumode], np.uint8),
    )
    comm, symbol, dso = int(found.comm[0]), int(found.symbol[0]), int(found.dso[0])
    return (
        timeline.comms[comm] if comm >= 0 else None,
        timeline.symbols[symbol] if symbol >= 0 else None,
        int(found.symbol_offset[0]),
        timeline.dsos[dso].path if dso >= 0 else None,
    )


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A file system with two binaries that both have a function named `work`."""
    ew.write(tmp_path / "bin/a", ew.simple(
        [Sym("work", 0x2010, 0x20), Sym("_Z4moreIiEvT_", 0x2040, 0x20)], build_id=ID_A))
    ew.write(tmp_path / "bin/b", ew.simple(
        [Sym("work", 0x2100, 0x20, binding=ew.LOCAL)], build_id=ID_B))
    return tmp_path


def timeline_of(root: Path, **options: bool) -> Timeline:
    return Timeline(Places(symfs=root, kernel_root=root, **options))


def map_a(timeline: Timeline, time_ns: int, pid: int, start: int = 0x10000) -> None:
    timeline.mmap(time_ns, pid, pid, start, 0x1000, 0x1000, "/bin/a", 5, ID_A)


def test_symbols_of_a_position_independent_file(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.comm(0, 7, 7, "app", True)
    map_a(timeline, 1, 7)
    assert look(timeline, 5, 7, 0x10018) == ("app", "work", 8, "/bin/a")
    assert look(timeline, 5, 7, 0x10041) == ("app", "more<int>", 1, "/bin/a")
    assert look(timeline, 5, 7, 0x10090) == ("app", None, 0, "/bin/a")
    assert look(timeline, 5, 7, 0x11000) == ("app", None, 0, None)
    assert look(timeline, 5, 8, 0x10018) == (None, None, 0, None)


def test_one_name_in_two_binaries_is_two_symbols(machine: Path) -> None:
    timeline = timeline_of(machine)
    map_a(timeline, 0, 7)
    timeline.mmap(0, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    found = timeline.resolve(
        np.full(3, 1, np.uint64), np.full(3, 7, np.int32), np.full(3, 7, np.int32),
        np.array([0x10010, 0x20100, 0x10011], np.uint64), np.full(3, USER, np.uint8),
    )
    assert timeline.symbols == ["work", "work"]
    assert found.symbol.tolist() == [0, 1, 0]
    assert found.offset.tolist() == [0x1010, 0x1100, 0x1011]
    assert timeline.symbol_start == [0x1010, 0x1100]
    assert [timeline.dsos[index] for index in timeline.symbol_dso] == [
        Dso("/bin/a", ID_A), Dso("/bin/b", ID_B),
    ]


def test_a_mapping_holds_from_its_time_until_another_covers_it(machine: Path) -> None:
    timeline = timeline_of(machine)
    map_a(timeline, 10, 7)
    timeline.mmap(20, 7, 7, 0x10040, 0x10, 0, "//anon")
    assert look(timeline, 9, 7, 0x10041)[3] is None
    assert look(timeline, 10, 7, 0x10041)[3] == "/bin/a"
    assert look(timeline, 19, 7, 0x10041)[3] == "/bin/a"
    assert look(timeline, 20, 7, 0x10041)[3] == "//anon"
    # What is left on both sides keeps its file offsets.
    assert look(timeline, 20, 7, 0x10018)[1:3] == ("work", 8)
    assert look(timeline, 20, 7, 0x10051)[1:3] == ("more<int>", 0x11)


def test_fork_copies_and_exec_clears(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.comm(0, 7, 7, "shell", True)
    map_a(timeline, 1, 7)
    timeline.fork(10, 8, 7, 8, 7)
    timeline.mmap(12, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    timeline.comm(20, 8, 8, "child", True)
    timeline.mmap(21, 8, 8, 0x30000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    assert look(timeline, 9, 8, 0x10018) == (None, None, 0, None)
    assert look(timeline, 15, 8, 0x10018) == ("shell", "work", 8, "/bin/a")
    assert look(timeline, 15, 8, 0x20100)[3] is None
    assert look(timeline, 15, 7, 0x20100)[3] == "/bin/b"
    assert look(timeline, 20, 8, 0x10018) == ("child", None, 0, None)
    assert look(timeline, 21, 8, 0x30100) == ("child", "work", 0, "/bin/b")
    assert look(timeline, 25, 7, 0x10018) == ("shell", "work", 8, "/bin/a")


def test_a_thread_shares_maps_and_has_its_own_name(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.comm(0, 7, 7, "app", True)
    timeline.fork(5, 7, 7, 9, 7)
    timeline.comm(8, 7, 9, "worker", False)
    map_a(timeline, 6, 7)
    assert look(timeline, 7, 7, 0x10018, tid=9) == ("app", "work", 8, "/bin/a")
    assert look(timeline, 8, 7, 0x10018, tid=9)[0] == "worker"
    assert look(timeline, 8, 7, 0x10018)[0] == "app"


def test_a_fork_made_up_by_perf_copies_nothing(machine: Path) -> None:
    timeline = timeline_of(machine)
    map_a(timeline, 0, 7)
    timeline.fork(0, 8, 7, 8, 7, copies_maps=False)
    assert look(timeline, 1, 8, 0x10018)[3] is None


def test_exit_leaves_late_samples_their_maps(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.comm(0, 7, 7, "app", True)
    map_a(timeline, 0, 7)
    timeline.exit(10, 7, 7)
    assert look(timeline, 11, 7, 0x10018, tid=9)[1] == "work"
    # The next sign of life of the leader's id is another process, though its fork was lost.
    timeline.mmap(20, 7, 7, 0x50000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    assert look(timeline, 21, 7, 0x10018)[3] is None
    assert look(timeline, 12, 7, 0x10018)[3] == "/bin/a"


def test_a_reused_pid_starts_from_its_new_parent(machine: Path) -> None:
    timeline = timeline_of(machine)
    map_a(timeline, 0, 7)
    timeline.exit(5, 7, 7)
    timeline.mmap(6, 1, 1, 0x70000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    timeline.fork(8, 7, 1, 7, 1)
    assert look(timeline, 9, 7, 0x10018)[3] is None
    assert look(timeline, 9, 7, 0x70100)[1] == "work"


def test_late_side_band_is_put_where_it_belongs(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.fork(10, 8, 7, 8, 7)
    assert look(timeline, 12, 8, 0x10018) == (None, None, 0, None)
    # Older than what has been applied: the parent's name and map reach the child after all.
    map_a(timeline, 5, 7)
    timeline.comm(4, 7, 7, "app", True)
    assert look(timeline, 12, 8, 0x10018) == ("app", "work", 8, "/bin/a")
    assert look(timeline, 4, 7, 0x10018)[3] is None


def test_modes_and_addresses_that_are_never_looked_up(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, 0, 0x1000, 0x1000, "/bin/a", 5, ID_A)
    assert look(timeline, 1, 7, 0x18)[1] == "work"
    assert look(timeline, 1, 7, 0) == (None, None, 0, None)
    assert look(timeline, 1, 7, 0x18, cpumode=GUEST_USER) == (None, None, 0, None)
    assert look(timeline, 1, 7, 0x18, cpumode=0) == (None, None, 0, None)
    assert look(timeline, 1, 0, 0x18, cpumode=0)[0] == "swapper"


def test_a_mapping_up_to_the_end_of_the_address_space(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, (1 << 64) - 0x1000, 0x2000, 0, "/bin/a", 5, ID_A)
    timeline.mmap(0, 7, 7, 0x5000, 0, 0, "/bin/b", 5, ID_B)
    assert look(timeline, 1, 7, (1 << 64) - 0x800)[3] == "/bin/a"
    assert look(timeline, 1, 7, 0x5000)[3] is None


def test_no_samples(machine: Path) -> None:
    found = timeline_of(machine).resolve(
        np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32),
        np.zeros(0, np.uint64), np.zeros(0, np.uint8),
    )
    assert [len(found.comm), len(found.symbol), len(found.dso), len(found.offset)] == [0] * 4


def test_another_build_of_the_same_name_is_not_used(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, 0x10000, 0x1000, 0x1000, "/bin/a", 5, ID_B)
    assert look(timeline, 1, 7, 0x10018) == (None, None, 0, "/bin/a")
    [(dso, why)] = timeline.notes
    assert dso == Dso("/bin/a", ID_B)
    assert f"build id {ID_A.hex()}, recorded {ID_B.hex()}" in why


def test_a_binary_without_build_id_does_not_pass_for_a_recorded_one(machine: Path) -> None:
    ew.write(machine / "bin/c", ew.simple([Sym("work", 0x2010, 0x20)]))
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, 0x10000, 0x1000, 0x1000, "/bin/c", 5, ID_A)
    timeline.mmap(0, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/c", 5, None)
    assert look(timeline, 1, 7, 0x10018)[1] is None
    assert look(timeline, 1, 7, 0x20018)[1] == "work"


def test_the_archive_helps_where_the_path_fails(machine: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept"
    name = ID_A.hex()
    ew.write(archive / ".build-id" / name[:2] / name[2:] / "elf",
             ew.simple([Sym("archived", 0x2010, 0x20)], build_id=ID_A))
    timeline = Timeline(Places(symfs=tmp_path / "empty", archives=(archive,)))
    map_a(timeline, 0, 7)
    assert look(timeline, 1, 7, 0x10018)[1] == "archived"


def test_build_ids_from_the_recordings_table(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.note_build_id("/bin/a", ID_B)
    timeline.mmap(0, 7, 7, 0x10000, 0x1000, 0x1000, "/bin/a", 5, None)
    assert look(timeline, 1, 7, 0x10018)[1] is None
    # Short ids are padded with zeros in that table.
    ew.write(machine / "bin/d", ew.simple([Sym("d", 0x2010, 0x20)], build_id=b"\x01" * 8))
    timeline.note_build_id("/bin/d", b"\x01" * 8 + bytes(12))
    timeline.mmap(0, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/d", 5, None)
    assert look(timeline, 1, 7, 0x20018)[1] == "d"


@pytest.mark.parametrize(
    "path", ["/missing", "/bin", "/dev/zero", "[heap]", "//anon", "bad\0path", "/bin/x"],
)
def test_what_is_no_binary_stays_a_number(machine: Path, path: str) -> None:
    ew.write(machine / "bin/x", b"\x7fELF and then nothing of the kind")
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, 0x10000, 0x1000, 0x1000, path)
    assert look(timeline, 1, 7, 0x10018) == (None, None, 0, path)
    assert len(timeline.notes) == 1


def test_a_deleted_binary_needs_its_build_id(machine: Path) -> None:
    timeline = timeline_of(machine)
    timeline.mmap(0, 7, 7, 0x10000, 0x1000, 0x1000, "/bin/a (deleted)", 5, None)
    timeline.mmap(0, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/a (deleted)", 5, ID_A)
    assert look(timeline, 1, 7, 0x10018)[1] is None
    assert look(timeline, 1, 7, 0x20018)[1] == "work"


def test_few_binaries_are_open_at_a_time(machine: Path) -> None:
    timeline = Timeline(Places(symfs=machine), open_binaries=1)
    map_a(timeline, 0, 7)
    timeline.mmap(0, 7, 7, 0x20000, 0x1000, 0x1000, "/bin/b", 5, ID_B)
    for _ in range(2):
        assert look(timeline, 1, 7, 0x10018)[1] == "work"
        assert look(timeline, 1, 7, 0x20100)[1] == "work"
    assert timeline.symbols == ["work", "work"]


def test_the_vdso_needs_proof_too_and_is_another_in_32_bit_processes() -> None:
    image = vdso.read_own()
    if image is None:
        pytest.skip("this process has no vDSO that it may read")
    table = symbols.from_elf(image)
    ip = 0x7FFF00000000 + int(table.starts[-1])
    for same_kernel, build_id, known in (
        (False, None, False), (True, None, True), (False, image.build_id, True),
        (True, b"\x01" * 20, False),
    ):
        timeline = Timeline(Places(same_kernel=same_kernel))
        timeline.mmap(0, 7, 7, 0x7FFF00000000, len(image.data), 0, "[vdso]", 5, build_id)
        timeline.mmap(0, 8, 8, 0xF7F00000, 0x2000, 0, "[vdso]", 5)
        assert look(timeline, 1, 7, ip)[1:] == (
            table.name(len(table) - 1) if known else None, 0, "[vdso]")
        assert look(timeline, 1, 8, 0xF7F00800)[1:] == (None, 0, "[vdso32]")


# The kernel.

KALLSYMS = (
    "ffffffff81000000 T _text\n"
    "ffffffff81001000 t helper\n"
    "ffffffff81001000 T __exported\n"
    "ffffffff81002000 W weak_one\n"
    "ffffffff81003000 A not_code\n"
    "ffffffffc0001000 t in_module\t[mod]\n"
)


def kernel_note(build_id: bytes) -> bytes:
    return b"\x04\0\0\0" + len(build_id).to_bytes(4, "little") + b"\x03\0\0\0GNU\0" + build_id


def with_kernel(machine: Path, text: str = KALLSYMS) -> Path:
    ew.write(machine / "proc/kallsyms", text.encode())
    ew.write(machine / "sys/kernel/notes", kernel_note(ID_A))
    return machine


def test_kernel_symbols_need_proof_of_the_same_kernel(machine: Path) -> None:
    root = with_kernel(machine)
    ip = 0xFFFFFFFF81001004
    timeline = timeline_of(root)
    assert look(timeline, 1, 7, ip, cpumode=KERNEL)[1:] == (None, 0, "[kernel.kallsyms]")
    assert "nothing shows" in timeline.notes[0][1]
    timeline = timeline_of(root, same_kernel=True)
    assert look(timeline, 1, 7, ip, cpumode=KERNEL)[1:] == ("__exported", 4, "[kernel.kallsyms]")
    assert look(timeline, 1, 7, 0xFFFFFFFF81002FFF, cpumode=KERNEL)[1:3] == ("weak_one", 0xFFF)
    # An address of the kernel is not one of user mode.
    assert look(timeline, 1, 7, ip, cpumode=USER)[1] is None
    timeline = timeline_of(root)
    timeline.note_build_id("[kernel.kallsyms]", ID_B)
    assert look(timeline, 1, 7, ip, cpumode=KERNEL)[1] is None
    assert "build id differs" in timeline.notes[0][1]


def test_the_recorded_kernel_may_have_lain_elsewhere(machine: Path) -> None:
    timeline = timeline_of(with_kernel(machine))
    timeline.note_build_id("[kernel.kallsyms]", ID_A)
    timeline.mmap(0, -1, 0, 0xFFFFFFFF82000000, 0x1000000, 0xFFFFFFFF82000000,
                  "[kernel.kallsyms]_text")
    found = look(timeline, 1, 7, 0xFFFFFFFF82001004, cpumode=KERNEL)
    assert found[1:] == ("__exported", 4, "[kernel.kallsyms]")


def test_kernel_modules_keep_their_dso(machine: Path) -> None:
    timeline = timeline_of(with_kernel(machine), same_kernel=True)
    timeline.mmap(0, -1, 0, 0xFFFFFFFFC0000000, 0x4000, 0, "/lib/modules/mod.ko")
    timeline.mmap(0, -1, 0, 0xFFFFFFFFC0008000, 0x4000, 0, "[other]")
    found = look(timeline, 1, 7, 0xFFFFFFFFC0001008, cpumode=KERNEL)
    assert found[1:] == ("in_module", 8, "[mod]")
    assert look(timeline, 1, 7, 0xFFFFFFFFC0008008, cpumode=KERNEL)[3] == "[other]"


def test_kallsyms_without_addresses_says_what_would_help(machine: Path) -> None:
    root = with_kernel(machine, "0000000000000000 T _text\n")
    timeline = timeline_of(root, same_kernel=True)
    assert look(timeline, 1, 7, 0xFFFFFFFF81001004, cpumode=KERNEL)[1] is None
    assert "CAP_SYSLOG" in timeline.notes[0][1]


# Against a model.

PIDS = st.integers(1, 3)
EVENT = st.one_of(
    st.tuples(st.just("mmap"), st.integers(1, 20), PIDS, st.integers(0, 12), st.integers(1, 6)),
    st.tuples(st.just("exec"), st.integers(1, 20), PIDS, st.just(0), st.just(0)),
    st.tuples(st.just("fork"), st.integers(1, 20), PIDS, PIDS, st.just(0)),
    st.tuples(st.just("exit"), st.integers(1, 20), PIDS, st.just(0), st.just(0)),
    st.tuples(st.just("comm"), st.integers(1, 20), PIDS, st.just(0), st.just(0)),
)


def model(events: list[tuple[str, int, int, int, int]], until: int) -> dict[
    int, tuple[str | None, dict[int, tuple[int, int]]],
]:
    """Per pid: its name, and for each page (number of the mapping, file offset)."""
    names: dict[int, str | None] = {}
    pages: dict[int, dict[int, tuple[int, int]]] = {}
    dead: set[int] = set()
    numbered = sorted(enumerate(events), key=lambda entry: (entry[1][1], entry[0]))
    for number, (what, time_ns, pid, first, second) in numbered:
        if time_ns > until:
            break
        if what in ("mmap", "exec", "comm") and pid in dead:
            pages[pid] = {}
            dead.discard(pid)
        if what == "mmap":
            for page in range(first, first + second):
                pages.setdefault(pid, {})[page] = (number, page - first)
        elif what == "exec":
            pages[pid], names[pid] = {}, f"exec{number}"
        elif what == "comm":
            names[pid] = f"comm{number}"
        elif what == "exit":
            dead.add(pid)
        elif first != pid:
            pages[pid], names[pid] = dict(pages.get(first, {})), names.get(first)
            dead.discard(pid)
    return {pid: (names.get(pid), pages.get(pid, {})) for pid in range(1, 4)}


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=25), st.integers(0, 25), st.integers(1, 21))
def test_any_history_in_any_order_agrees_with_the_model(
    events: list[tuple[str, int, int, int, int]], resolved_after: int, until: int,
) -> None:
    timeline = Timeline(Places(symfs=Path("/nowhere")))
    # Two events of one time keep the order in which they were fed; so does the model.
    for number, (what, time_ns, pid, first, second) in enumerate(events):
        if what == "mmap":
            timeline.mmap(time_ns, pid, pid, (first + 1) << 12, second << 12, 0, f"/m{number}")
        elif what == "exec":
            timeline.comm(time_ns, pid, pid, f"exec{number}", True)
        elif what == "comm":
            timeline.comm(time_ns, pid, pid, f"comm{number}", False)
        elif what == "exit":
            timeline.exit(time_ns, pid, pid)
        elif first != pid:
            timeline.fork(time_ns, pid, first, pid, first)
        if number == resolved_after:
            look(timeline, 20, 1, 0x1000)  # later events may now be older than what was applied
    samples = [(pid, page) for pid in range(1, 4) for page in range(19)]
    found = timeline.resolve(
        np.full(len(samples), until, np.uint64),
        np.array([pid for pid, _ in samples], np.int32),
        np.array([pid for pid, _ in samples], np.int32),
        np.array([(page + 1) << 12 for _, page in samples], np.uint64),
        np.full(len(samples), USER, np.uint8),
    )
    expected = model(events, until)
    for row, (pid, page) in enumerate(samples):
        name, pages = expected[pid]
        comm = int(found.comm[row])
        assert (timeline.comms[comm] if comm >= 0 else None) == name
        dso = int(found.dso[row])
        if page in pages:
            number, offset_pages = pages[page]
            assert timeline.dsos[dso].path == f"/m{number}"
            assert int(found.offset[row]) == offset_pages << 12
        else:
            assert dso == -1
