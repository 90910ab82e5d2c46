"""Lines and inlined functions of compiled programs, by every tool that is here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.lines_program import (
    MACRO,
    MARKS,
    SOURCE,
    addresses,
    build,
    compile_c,
    expected,
    line_of,
    offsets,
    split,
)

from perfxmm.program.binaries import Binaries, Places
from perfxmm.program.elf import open_elf
from perfxmm.program.lines import NO_LINES, Frames, Lines
from perfxmm.program.lines_process import Child
from perfxmm.program.lines_tools import Addr2line, LlvmSymbolizer, SymbolicTool, Tool, available

TOOLS = ("symbolic", "llvm-symbolizer", "addr2line")


def tool_named(name: str) -> Tool:
    if name == "symbolic":
        if importlib.util.find_spec("symbolic") is None:
            pytest.skip("the symbolic package is not here")
        return SymbolicTool(Child)
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not here")
    return LlvmSymbolizer(Child, program) if "llvm" in name else Addr2line(Child, program)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> Iterator[Tool]:
    made = tool_named(request.param)
    yield made
    made.end()


def look_up(lines: Lines, dso: int, at: list[int]) -> list[Frames]:
    found = lines.look_up(np.full(len(at), dso, np.int32), np.array(at, np.uint64))
    return [found.frames[number] for number in found.number]


def lines_of(
    binary: Path, tool: Tool, places: Places | None = None
) -> dict[str, list[tuple[str, str, int]]]:
    binaries = Binaries(places or Places())
    dso = binaries.intern(str(binary), open_elf(binary).build_id)
    at = offsets(binary)
    assert set(at) == set(MARKS)
    found = look_up(Lines(binaries, [tool]), dso, list(at.values()))
    return {
        mark: [(f.function, f.file.rsplit("/", 1)[-1], f.line) for f in frames]
        for mark, frames in zip(at, found, strict=True)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that leave it as it is."""
    return build(tmp_path_factory.mktemp("built"), "-Wl,--build-id")


@pytest.mark.parametrize(
    "options",
    [["-gdwarf-4", "-pie", "-fPIE"], ["-gdwarf-5", "-pie", "-fPIE"], ["-no-pie"], ["-gz=zlib"],
     ["-shared", "-fPIC"], ["-fuse-ld=lld"], ["-fuse-ld=mold"],
     ["-Wl,-Ttext-segment=0x40000000,-z,noseparate-code", "-no-pie"]],
    ids=" ".join,
)  # fmt: skip
def test_every_mark_has_its_line_and_its_callers(options: list[str], tmp_path: Path) -> None:
    for option in options:
        linker = option.partition("-fuse-ld=")[2]
        if linker and shutil.which(f"ld.{linker}") is None:
            pytest.skip(f"no {linker} to link with")
    binary = build(tmp_path, *options)
    tools = available()
    if not tools:
        pytest.skip("no tool that reads debug information is here")
    for tool in tools:
        assert lines_of(binary, tool) == {mark: expected(mark) for mark in MARKS}, tool.name
        tool.end()


def test_files_are_told_with_their_directory(tool: Tool, built: Path) -> None:
    binary, tmp_path = built, built.parent
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    (frames,) = look_up(Lines(binaries, [tool]), dso, [offsets(binary)["in_innermost"]])
    assert [f.file for f in frames] == [
        str(tmp_path / "inner.h"), str(tmp_path / "main.c"), str(tmp_path / "main.c"),
    ]  # fmt: skip


def test_debug_information_in_a_file_of_its_own(
    tool: Tool, built: Path, tmp_path: Path
) -> None:
    binary = Path(shutil.copy(built, tmp_path))
    build_id = open_elf(binary).build_id
    assert build_id is not None
    debug = split(binary, link=False)
    assert lines_of(binary, tool) == {mark: [] for mark in MARKS}
    name = build_id.hex()
    root = tmp_path / "root"
    target = root / "usr/lib/debug/.build-id" / name[:2] / f"{name[2:]}.debug"
    target.parent.mkdir(parents=True)
    debug.rename(target)
    (root / str(binary).lstrip("/")).parent.mkdir(parents=True)
    shutil.copy(binary, root / str(binary).lstrip("/"))
    found = lines_of(binary, tool, Places(symfs=root))
    assert found == {mark: expected(mark) for mark in MARKS}


@pytest.mark.parametrize("build_id", ["none", "sha1"])
def test_debug_information_by_link(build_id: str, tool: Tool, tmp_path: Path) -> None:
    binary = build(tmp_path, f"-Wl,--build-id={build_id}", "-no-pie")
    debug = split(binary, link=True)
    assert lines_of(binary, tool) == {mark: expected(mark) for mark in MARKS}
    # Another file under the linked name is not believed.
    debug.unlink()
    other = build(tmp_path / "other", f"-Wl,--build-id={build_id}", "-no-pie", "-O1")
    other.rename(debug)
    assert lines_of(binary, tool) == {mark: [] for mark in MARKS}


def test_a_binary_without_debug_information(tool: Tool, tmp_path: Path) -> None:
    binary = build(tmp_path, "-g0")
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    lines = Lines(binaries, [tool])
    assert look_up(lines, dso, [offsets(binary)["in_main"]]) == [()]
    assert lines.notes == {dso: NO_LINES}


def test_a_binary_that_changed_is_not_asked_about(
    tool: Tool, built: Path, tmp_path: Path
) -> None:
    recorded = open_elf(built).build_id
    at = offsets(built)
    binary = build(tmp_path, "-Wl,--build-id", "-O1")
    binaries = Binaries()
    dso = binaries.intern(str(binary), recorded)
    lines = Lines(binaries, [tool])
    assert look_up(lines, dso, list(at.values())) == [()] * 4
    assert list(lines.notes) == [dso]
    assert "is another build" in lines.notes[dso]


def test_a_binary_that_is_replaced_between_two_questions(
    tool: Tool, built: Path, tmp_path: Path
) -> None:
    binary = Path(shutil.copy(built, tmp_path))
    binaries = Binaries()
    dso = binaries.intern(str(binary), open_elf(binary).build_id)
    lines = Lines(binaries, [tool])
    at = offsets(binary)
    (frames,) = look_up(lines, dso, [at["in_main"]])
    assert frames[0].line == line_of("MARK(in_main)")
    other = build(tmp_path / "other", "-Wl,--build-id", "-O1")
    other.replace(binary)
    assert look_up(lines, dso, [at["in_outer"]]) == [()]
    assert lines.notes == {dso: "the file changed while it was read"}
    # What was told of the right file stays.
    assert look_up(lines, dso, [at["in_main"]]) == [frames]


def test_cplusplus_names_are_readable(tool: Tool, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the program with")
    source = SOURCE.replace('#include "inner.h"', "namespace ns { template <class T> struct Box {")
    source = source.replace(
        "static inline __attribute__((always_inline)) int middle(int x)",
        "__attribute__((always_inline)) int middle(T x)",
    ).replace("2 * innermost(x)", "2 * x").replace(
        "__attribute__((noinline)) int outer", "}; }\n__attribute__((noinline)) int outer"
    ).replace("middle(x) + 3", "ns::Box<int>().middle(x) + 3")
    (tmp_path / "main.cpp").write_text(source)
    subprocess.run(["g++", "-O2", "-g", "main.cpp", "-o", "program"], cwd=tmp_path, check=True,
                   timeout=60)  # fmt: skip
    binary = tmp_path / "program"
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    (frames,) = look_up(Lines(binaries, [tool]), dso, [offsets(binary)["in_middle"]])
    assert frames[-1].line == line_of("middle(x) + 3", source)
    assert frames[0].line == line_of("MARK(in_middle)", source)
    # A name without its parameters where the compiler gave no linkage name to what it inlined.
    assert [f.function.partition("(")[0] for f in frames] == ["ns::Box<int>::middle", "outer"]


RUST = """\
struct Box2<T>(T);
impl Box2<u32> {
    #[inline(always)]
    fn middle(&self) -> u32 {
        unsafe { core::arch::asm!(
            "2: nop", ".pushsection .mark.in_middle,\\"\\",@progbits", ".quad 2b", ".popsection",
        ) }
        self.0 + 1
    }
}
#[inline(never)]
fn outer(x: u32) -> u32 {
    let all = [x, x + 1];
    all[..1].iter().map(|each| Box2(*each).middle()).sum()
}
fn main() {
    std::process::exit((outer(std::env::args().count() as u32) == 0) as i32);
}
"""


@pytest.fixture(scope="module")
def rust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rustc = shutil.which("rustc")
    if rustc is None:
        pytest.skip("no rustc to build the program with")
    directory = tmp_path_factory.mktemp("rust")
    (directory / "main.rs").write_text(RUST)
    done = subprocess.run([rustc, "-O", "-g", "main.rs", "-o", "program"], cwd=directory,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    if done.returncode:
        pytest.skip(f"rustc cannot build it: {done.stderr[:200]}")
    return directory / "program"


def test_rust_closures_and_methods(tool: Tool, rust: Path) -> None:
    """What Rust inlines comes in long chains, most of them out of its standard library."""
    binaries = Binaries()
    dso = binaries.intern(str(rust), None)
    (frames,) = look_up(Lines(binaries, [tool]), dso, [offsets(rust)["in_middle"]])
    own = [
        # {closure#0} or {{closure}}, by how this rustc makes names of them.
        (f.function.rpartition("::")[2].strip("{}").partition("#")[0], f.line)
        for f in frames if f.file.endswith("main.rs")
    ]  # fmt: skip
    assert own == [
        ("middle", line_of("asm!(", RUST)),
        ("closure", line_of("all[..1]", RUST)), ("outer", line_of("all[..1]", RUST)),
    ]  # fmt: skip
    # The iterator's functions are between the closure and the one that calls it.
    assert len(frames) > 4


def test_agreement_over_every_byte_of_the_code(tmp_path: Path) -> None:
    """Of each tool with GNU addr2line, in all functions of the program."""
    binary = build(tmp_path, "-gdwarf-4", "-no-pie")
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    image = binaries.image(dso)
    assert image is not None
    table = binaries.symbols(dso)
    ranges = [
        range(int(table.starts[row]), int(table.ends[row])) for row in range(len(table))
        if table.name(row) in ("outer", "main")
    ]  # fmt: skip
    at = [offset for one in ranges for offset in one]
    assert len(at) > 20
    reference = look_up(Lines(binaries, [tool_named("addr2line")]), dso, at)
    assert all(reference)
    for tool in available():
        assert look_up(Lines(binaries, [tool]), dso, at) == reference, tool.name
        tool.end()


def test_assembler_and_split_dwarf_by_whoever_reads_them(tmp_path: Path) -> None:
    """The first tool may not read .dwo files: then the next one that does is believed."""
    if shutil.which("llvm-symbolizer") is None:
        pytest.skip("llvm-symbolizer is not here")
    binary = build(tmp_path, "-gsplit-dwarf")
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    lines = Lines(binaries)
    (frames,) = look_up(lines, dso, [offsets(binary)["in_middle"]])
    assert [f.line for f in frames] == [line for _, _, line in expected("in_middle")]
    assert lines.notes == {}
    lines.end()


def test_a_name_that_would_break_a_line(tool: Tool, built: Path, tmp_path: Path) -> None:
    """Blanks, quotes and a line break in the binary's own name are no way into a tool."""
    binary = Path(shutil.copy(built, tmp_path / "a b\"c\n0x1'd"))
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    lines = Lines(binaries, [tool])
    (frames,) = look_up(lines, dso, [offsets(binary)["in_main"]])
    if tool.name == "llvm-symbolizer":
        assert frames == ()
        assert "name cannot be said" in lines.notes[dso]
    else:
        assert frames[0].line == line_of("MARK(in_main)")


def test_damaged_debug_information_costs_the_answer_alone(
    tool: Tool, built: Path, tmp_path: Path
) -> None:
    binary = built
    at = offsets(binary)
    image = open_elf(binary)
    data = bytearray(image.data)
    rng = np.random.default_rng(5)
    for name in (".debug_info", ".debug_abbrev", ".debug_line"):
        section = image.section(name)
        assert section is not None
        for spot in rng.integers(0, section.bytes, 40):
            data[section.offset + int(spot)] = int(rng.integers(256))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data)
    binaries = Binaries()
    bad, good = binaries.intern(str(damaged), None), binaries.intern(str(binary), None)
    lines = Lines(binaries, [tool])
    assert len(look_up(lines, bad, list(at.values()))) == 4
    found = look_up(lines, good, [at["in_main"]])
    assert found[0][0].line == line_of("MARK(in_main)")


def test_a_hostile_file_name_stays_one_string(tool: Tool, tmp_path: Path) -> None:
    source = 'int main(void)\n{\n#line 7 "evil\\033[2J.c"\n    MARK(in_main);\n    return 0;\n}\n'
    binary = compile_c(tmp_path, MACRO + source)
    binaries = Binaries()
    dso = binaries.intern(str(binary), None)
    (frames,) = look_up(Lines(binaries, [tool]), dso, [offsets(binary)["in_main"]])
    assert [(Path(f.file).name, f.line) for f in frames] == [("evil\x1b[2J.c", 7)]


def test_offsets_are_those_of_the_marks(built: Path) -> None:
    """The helper itself: what it calls a file offset is one."""
    image = open_elf(built)
    vaddr = addresses(built)
    for mark, offset in offsets(built).items():
        assert image.data[offset] == 0x90
        assert image.vaddr_of(offset) == vaddr[mark]
