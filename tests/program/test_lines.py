"""What is asked of the tools that read debug information, and what is made of their answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import elfwriter as ew
from support.fake_processes import FakeProcess, FakeProcesses

from perfxmm.program.binaries import Binaries
from perfxmm.program.lines import NO_LINES, NO_TOOLS, Frame, Lines
from perfxmm.program.lines_process import CannotRead, ToolFailed
from perfxmm.program.lines_tools import (
    Addr2line,
    DebugFile,
    LlvmSymbolizer,
    RawFrame,
    RawFrames,
    SymbolicTool,
    available,
)

FILE = DebugFile("/bin/app", "1", 0x400000)
INNER, OUTER = RawFrame("inner", "/src/a.h", 3), RawFrame("outer", "/src/a.c", 12)


def dying(_request: bytes) -> bytes:
    raise ToolFailed("it was ended by signal 11")


# symbolic


def symbolic_answer(request: bytes) -> bytes:
    asked = json.loads(request)
    known = {0x401000: [list(INNER), list(OUTER)], 0x401004: [["outer", "", 0]]}
    frames = [known.get(address, []) for address in asked["addresses"]]
    return json.dumps({"frames": frames}).encode() + b"\n"


def test_symbolic_is_asked_in_a_python_of_its_own() -> None:
    processes = FakeProcesses(symbolic_answer)
    tool = SymbolicTool(processes.start)
    assert processes.commands == []
    assert tool.ask(FILE, [0x401000, 0x401004, 0x401008]) == [(INNER, OUTER), (), ()]
    ((program, *options, worker),) = processes.commands
    assert (program, options) == (sys.executable, ["-P", "-X", "utf8"])
    assert Path(worker).name == "lines_symbolic.py"
    ((_, request),) = processes.requests
    assert request.endswith(b"\n")
    assert json.loads(request) == {
        "path": "/bin/app", "key": "1", "base": 0x400000,
        "addresses": [0x401000, 0x401004, 0x401008],
    }  # fmt: skip
    tool.end()
    assert processes.ended == [0]


def test_a_file_that_symbolic_cannot_read_does_not_end_it() -> None:
    processes = FakeProcesses(lambda _: b'{"error":"ParseDebugInfoError: bad\\n  caused by: x"}\n')
    tool = SymbolicTool(processes.start)
    for _ in range(2):
        with pytest.raises(CannotRead, match=r"\AParseDebugInfoError: bad\Z"):
            tool.ask(FILE, [1])
    assert (len(processes.commands), processes.ended) == (1, [])


@pytest.mark.parametrize(
    "answer", [b'{"frames":[]}\n', b"{}\n", b"[]\n", b"nonsense\n", b'{"frames":7}\n'],
)  # fmt: skip
def test_symbolic_answers_of_another_form(answer: bytes) -> None:
    tool = SymbolicTool(FakeProcesses(lambda _: answer).start)
    with pytest.raises(ToolFailed):
        tool.ask(FILE, [1])


# llvm-symbolizer


def llvm_line(address: int, *frames: RawFrame) -> bytes:
    return json.dumps({
        "Address": hex(address), "ModuleName": "/bin/app",
        "Symbol": [{"Column": 1, "Discriminator": 0, "FunctionName": f.function,
                    "FileName": f.file, "Line": f.line} for f in frames],
    }).encode() + b"\n"  # fmt: skip


def test_llvm_symbolizer_is_asked_line_by_line() -> None:
    answer = llvm_line(0x10, INNER, OUTER) + llvm_line(0x20, RawFrame("_end", "", 0))
    processes = FakeProcesses(lambda _: answer)
    tool = LlvmSymbolizer(processes.start, "/opt/llvm-symbolizer")
    assert tool.ask(FILE, [0x10, 0x20]) == [(INNER, OUTER), ()]
    assert processes.commands == [[
        "/opt/llvm-symbolizer", "--output-style=JSON", "--inlines", "--functions=linkage",
        "--no-demangle",
    ]]  # fmt: skip
    assert processes.requests == [(0, b'CODE "/bin/app" 0x10\nCODE "/bin/app" 0x20\n')]


def test_llvm_symbolizer_starts_anew_for_a_file_that_changed() -> None:
    processes = FakeProcesses(lambda _: llvm_line(0x10, OUTER))
    tool = LlvmSymbolizer(processes.start, "llvm-symbolizer")
    tool.ask(FILE, [0x10])
    tool.ask(DebugFile("/bin/other", "9", 0), [0x10])
    assert processes.ended == []
    tool.ask(FILE._replace(key="2"), [0x10])
    assert processes.ended == [0]
    assert [number for number, _ in processes.requests] == [0, 0, 1]


@pytest.mark.parametrize(
    ("path", "said"),
    [("/a b/c", '"/a b/c"'), ('/a"b', "'/a\"b'"), ("/a'b", '"/a\'b"'), ("/\udcff", '"/\udcff"')],
)
def test_names_are_quoted_for_llvm_symbolizer(path: str, said: str) -> None:
    processes = FakeProcesses(lambda _: llvm_line(0x10, OUTER))
    LlvmSymbolizer(processes.start, "llvm-symbolizer").ask(FILE._replace(path=path), [0x10])
    ((_, request),) = processes.requests
    assert request == f"CODE {said} 0x10\n".encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("path", ["/a\nCODE /etc/passwd 0x0", "/a\"b'c"])
def test_names_that_cannot_be_quoted_are_not_asked_about(path: str) -> None:
    processes = FakeProcesses(lambda _: b"")
    with pytest.raises(CannotRead, match="cannot be said"):
        LlvmSymbolizer(processes.start, "x").ask(FILE._replace(path=path), [0x10])
    assert processes.requests == []


def test_llvm_symbolizer_says_that_it_cannot_read() -> None:
    answer = b'{"Address":"0x10","Error":{"Message":"No such file"},"ModuleName":"/bin/app"}\n'
    processes = FakeProcesses(lambda _: answer)
    with pytest.raises(CannotRead, match="No such file"):
        LlvmSymbolizer(processes.start, "x").ask(FILE, [0x10])


def test_an_answer_to_another_address_is_no_answer() -> None:
    tool = LlvmSymbolizer(FakeProcesses(lambda _: llvm_line(0x11, OUTER)).start, "x")
    with pytest.raises(ToolFailed, match="another question"):
        tool.ask(FILE, [0x10])


# addr2line

LAST = "0xffffffffffffffff\n??\n??:0\n"


def test_addr2line_is_asked_with_a_last_address() -> None:
    answer = (
        "0x0000000000000010\ninner\n/src/a.h:3\nouter\n/src/a.c:12 (discriminator 3)\n"
        "0x0000000000000020\n??\n??:0\n0x0000000000000030\nouter\n/src/a.c:?\n" + LAST
    )
    processes = FakeProcesses(lambda _: answer.encode())
    tool = Addr2line(processes.start, "/usr/bin/addr2line")
    assert tool.ask(FILE, [0x10, 0x20, 0x30]) == [(INNER, OUTER), (), ()]
    assert processes.commands == [["/usr/bin/addr2line", "-a", "-i", "-f", "-e", "/bin/app"]]
    assert processes.requests == [(0, b"0x10\n0x20\n0x30\n0xffffffffffffffff\n")]


def test_addr2line_of_a_file_of_32_bits() -> None:
    answer = b"0x08049010\nouter\n/src/a.c:12\n0xffffffff\n??\n??:0\n"
    tool = Addr2line(FakeProcesses(lambda _: answer).start, "x")
    assert tool.ask(FILE, [0x8049010]) == [(OUTER,)]


def test_the_same_address_twice() -> None:
    answer = "0x0000000000000010\nouter\n/src/a.c:12\n" * 2 + LAST
    tool = Addr2line(FakeProcesses(lambda _: answer.encode()).start, "x")
    assert tool.ask(FILE, [0x10, 0x10]) == [(OUTER,), (OUTER,)]


def test_addr2line_has_a_process_for_each_of_a_few_files() -> None:
    answer = b"0x0000000000000010\nouter\n/src/a.c:12\n" + LAST.encode()
    processes = FakeProcesses(lambda _: answer)
    tool = Addr2line(processes.start, "x")
    for number in (0, 1, 2, 3, 0, 4, 0, 1):
        tool.ask(DebugFile(f"/bin/{number}", "k", 0), [0x10])
    # 1 was used longest ago when 4 came; then it had to be started again, in place of 2.
    assert [command[-1] for command in processes.commands] == [
        "/bin/0", "/bin/1", "/bin/2", "/bin/3", "/bin/4", "/bin/1",
    ]  # fmt: skip
    assert processes.ended == [1, 2]
    tool.end()
    assert sorted(processes.ended) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "answer", ["0x0000000000000011\nouter\n/src/a.c:12\n" + LAST, "outer\n/src/a.c:12\n" + LAST],
)  # fmt: skip
def test_addr2line_answers_of_another_form(answer: str) -> None:
    tool = Addr2line(FakeProcesses(lambda _: answer.encode()).start, "x")
    with pytest.raises(ToolFailed):
        tool.ask(FILE, [0x10])


_NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r"), max_size=20
).filter(lambda name: not name.startswith("0x") and name != "??")
_KNOWN = st.lists(
    st.lists(st.builds(RawFrame, _NAMES, _NAMES.map("/{}".format), st.integers(1, 10**6)),
             min_size=1, max_size=4),
    min_size=1, max_size=6,
)  # fmt: skip


@given(_KNOWN, st.integers(0, 2**48))
def test_whatever_was_written_is_read(known: list[list[RawFrame]], start: int) -> None:
    addresses = [start + 3 * number for number in range(len(known))]
    wanted = [tuple(frames) for frames in known]
    told = [
        f"0x{address:016x}\n" + "".join(f"{f.function}\n{f.file}:{f.line}\n" for f in frames)
        for address, frames in zip(addresses, known, strict=True)
    ]
    answer = ("".join(told) + LAST).encode()
    assert Addr2line(FakeProcesses(lambda _: answer).start, "x").ask(FILE, addresses) == wanted
    lines = b"".join(llvm_line(a, *frames) for a, frames in zip(addresses, known, strict=True))
    assert LlvmSymbolizer(FakeProcesses(lambda _: lines).start, "x").ask(FILE, addresses) == wanted
    reply = json.dumps({"frames": known}).encode() + b"\n"
    assert SymbolicTool(FakeProcesses(lambda _: reply).start).ask(FILE, addresses) == wanted


@given(st.binary(max_size=200))
def test_any_answer_at_all(answer: bytes) -> None:
    """Nothing but ToolFailed and what Lines expects of hostile answers comes out."""
    expected = (ToolFailed, ValueError, TypeError, KeyError, IndexError, RecursionError)
    for make in (SymbolicTool, lambda start: LlvmSymbolizer(start, "x"),
                 lambda start: Addr2line(start, "x")):  # fmt: skip
        tool = make(Whole(answer).start)
        with suppress(*expected):
            (frames,) = tool.ask(FILE, [0x10])
            assert all(isinstance(frame, RawFrame) for frame in frames)


class Whole(FakeProcesses):
    """Gives an answer whether the tool calls it whole or not."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(lambda _: answer)

    def start(self, arguments: Sequence[str]) -> FakeProcess:
        process = super().start(arguments)
        process.exchange = lambda request, _whole: self.answer(request)  # type: ignore[method-assign]
        return process


# All of them


@pytest.mark.parametrize(
    "make",
    [SymbolicTool, lambda start: LlvmSymbolizer(start, "x"), lambda start: Addr2line(start, "x")],
)
def test_a_child_that_died_is_put_away_and_started_again(make: Callable) -> None:
    processes = FakeProcesses(dying)
    tool = make(processes.start)
    for number in range(2):
        with pytest.raises(ToolFailed, match="signal 11"):
            tool.ask(FILE, [0x10])
        assert processes.ended == list(range(number + 1))
    tool.end()
    assert processes.ended == [0, 1]


@pytest.mark.parametrize(
    ("here", "names"),
    [
        ({"addr2line", "llvm-symbolizer", "symbolic"},
         ["symbolic", "llvm-symbolizer", "addr2line"]),
        ({"addr2line"}, ["addr2line"]), ({"llvm-symbolizer"}, ["llvm-symbolizer"]), (set(), []),
    ],
)  # fmt: skip
def test_tools_that_are_here_in_their_order(here: set[str], names: list[str]) -> None:
    found = available(
        which=lambda name: f"/usr/bin/{name}" if name in here else None,
        has_symbolic=lambda: "symbolic" in here,
    )
    assert [tool.name for tool in found] == names


# Lines


class FakeTool:
    """Knows lines by virtual address. fails: what `ask` raises in place of an answer."""

    def __init__(self, name: str, known: dict[int, RawFrames], fails: Exception | None = None):
        self.name = name
        self.known = known
        self.fails = fails
        self.asked: list[tuple[str, list[int]]] = []
        self.ends = 0

    def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
        self.asked.append((Path(file.path).name, list(addresses)))
        if self.fails is not None:
            raise self.fails
        return [self.known.get(address, ()) for address in addresses]

    def end(self) -> None:
        self.ends += 1


def binary(path: Path, *, lines: bool = True, build_id: bytes | None = None) -> Path:
    """Code: 0x1000 bytes at file offset 0x2000 and address 0x601000."""
    loads = [ew.Load(0x1000, 0x600000, bytes(0x100), flags=4),
             ew.Load(0x2000, 0x601000, b"\x90" * 0x1000)]  # fmt: skip
    texts = [ew.Text(".text", 0x2000, 0x601000, 0x1000)]
    if lines:
        texts.append(ew.Text(".debug_line", 0x1000, 0, 16, flags=0))
    data = ew.elf(loads=loads, texts=texts, symtab=[], build_id=build_id)
    return ew.write(path, data)


def at(lines: Lines, dso: int, *offsets: int) -> list[tuple[Frame, ...]]:
    found = lines.look_up(np.full(len(offsets), dso, np.int32), np.array(offsets, np.uint64))
    return [found.frames[number] for number in found.number]


@pytest.fixture
def app(tmp_path: Path) -> tuple[Binaries, int]:
    binaries = Binaries()
    return binaries, binaries.intern(str(binary(tmp_path / "app")), None)


KNOWN = {0x601010: (INNER, OUTER), 0x601020: (RawFrame("_ZN2ns1fEi", "/src/./x/../b.cpp", 7),)}
FRAMES = (Frame("inner", "/src/a.h", 3), Frame("outer", "/src/a.c", 12))


def test_every_distinct_address_is_asked_about_once(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool])
    assert at(lines, dso, 0x2020, 0x2010, 0x2020, 0x2010) == [
        (Frame("ns::f", "/src/b.cpp", 7),), FRAMES, (Frame("ns::f", "/src/b.cpp", 7),),
        FRAMES,
    ]  # fmt: skip
    assert at(lines, dso, 0x2010, 0x2030, 0x2010) == [FRAMES, (), FRAMES]
    assert at(lines, dso, 0x2030) == [()]
    assert tool.asked == [("app", [0x601010, 0x601020]), ("app", [0x601030])]
    assert lines.notes == {}


def test_addresses_that_no_file_can_have_are_not_asked_about(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool])
    assert at(lines, dso, 2**64 - 1, 1 << 48, 0x500, 0x3000) == [()] * 4
    assert at(lines, -1, 0x2010) == [()]
    assert tool.asked == []
    assert lines.notes == {}


def test_what_is_remembered_is_bounded(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool], capacity=4)
    offsets = range(0x2000, 0x2020)
    assert at(lines, dso, *offsets)[0x10] == FRAMES
    assert len(lines._known) == 4
    assert at(lines, dso, *offsets)[0x10] == FRAMES
    assert [len(asked) for _, asked in tool.asked] == [32, 28]


def test_many_addresses_are_asked_about_in_parts(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tool = FakeTool("one", KNOWN)
    path = Path(binaries.dsos[dso].path)
    loads = [ew.Load(0x2000, 0x601000, b"\x90" * 10_000)]
    texts = [ew.Text(".debug_line", 0x2000, 0, 16, flags=0)]
    ew.write(path, ew.elf(loads=loads, texts=texts))
    found = at(Lines(binaries, [tool]), dso, *range(0x2000, 0x2000 + 10_000))
    assert [len(asked) for _, asked in tool.asked] == [4096, 4096, 1808]
    assert found[0x10] == FRAMES


def test_a_second_tool_is_asked_where_the_first_knows_nothing(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tools = [FakeTool("one", {0x601010: KNOWN[0x601010]}), FakeTool("two", KNOWN),
             FakeTool("three", KNOWN)]  # fmt: skip
    assert [bool(f) for f in at(Lines(binaries, tools), dso, 0x2010, 0x2020, 0x2030)] == [
        True, True, False,
    ]  # fmt: skip
    assert [tool.asked for tool in tools] == [
        [("app", [0x601010, 0x601020, 0x601030])], [("app", [0x601020, 0x601030])], [],
    ]  # fmt: skip


def test_a_tool_that_fails_makes_way_for_the_next(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tools = [FakeTool("one", {}, ToolFailed("it was ended by signal 11")), FakeTool("two", KNOWN)]
    lines = Lines(binaries, tools)
    for offset in (0x2010, 0x2020, 0x2030):
        at(lines, dso, offset)
    assert at(lines, dso, 0x2010) == [FRAMES]
    # Twice, and not again.
    assert [len(tool.asked) for tool in tools] == [2, 3]
    assert lines.notes == {}


def test_a_tool_that_cannot_read_a_file_is_asked_about_others(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tool = FakeTool("one", {}, CannotRead("no idea"))
    lines = Lines(binaries, [tool])
    for offset in range(0x2000, 0x2005):
        assert at(lines, dso, offset) == [()]
    assert len(tool.asked) == 5
    assert lines.notes == {dso: "one: no idea"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("Symbol"), TypeError(), IndexError()])
def test_an_answer_of_any_form_costs_the_answer_alone(
    app: tuple[Binaries, int], error: Exception
) -> None:
    binaries, dso = app
    tool = FakeTool("one", {}, error)
    lines = Lines(binaries, [tool])
    assert at(lines, dso, 0x2010) == [()]
    assert lines.notes == {dso: f"one: an answer in another form ({type(error).__name__})"}
    assert tool.ends == 1


def test_when_all_tools_have_failed_the_note_stays(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    lines = Lines(binaries, [FakeTool("one", {}, ToolFailed("it closed its output"))])
    for offset in (0x2010, 0x2011, 0x2012):
        assert at(lines, dso, offset) == [()]
    assert lines.notes == {dso: "one: it closed its output"}


def test_without_a_tool_the_extra_is_named(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    lines = Lines(binaries, [])
    assert at(lines, dso, 0x2010) == [()]
    assert lines.notes == {dso: NO_TOOLS}
    assert "perfxmm[lines]" in NO_TOOLS


def test_files_without_lines_are_not_asked_about(tmp_path: Path) -> None:
    binaries = Binaries()
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool])
    bare = binaries.intern(str(binary(tmp_path / "bare", lines=False)), None)
    gone = binaries.intern(str(tmp_path / "gone"), None)
    kernel = binaries.intern("[kernel.kallsyms]", None)
    for dso in (bare, gone, kernel):
        assert at(lines, dso, 0x2010) == [()]
    assert tool.asked == []
    assert lines.notes == {
        bare: NO_LINES, gone: "No such file or directory", kernel: "not a file",
    }  # fmt: skip


def test_another_build_is_not_asked_about(tmp_path: Path) -> None:
    path = binary(tmp_path / "app", build_id=b"\x22" * 20)
    binaries = Binaries()
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool])
    dso = binaries.intern(str(path), b"\x11" * 20)
    assert at(lines, dso, 0x2010) == [()]
    assert tool.asked == []
    assert lines.notes[dso] == (
        f"{path} is another build (build id {'22' * 20}, recorded {'11' * 20})"
    )


@pytest.mark.parametrize("build_id", [b"\x11" * 20, None])
def test_a_file_that_changed_since_it_was_opened(tmp_path: Path, build_id: bytes | None) -> None:
    path = binary(tmp_path / "app", build_id=build_id)
    binaries = Binaries()
    dso = binaries.intern(str(path), build_id)
    assert binaries.image(dso) is not None
    path.unlink()
    data = bytearray(binary(tmp_path / "new", build_id=build_id and b"\x22" * 20).read_bytes())
    data[0x2800] = 0xCC
    path.write_bytes(data)
    tool = FakeTool("one", KNOWN)
    lines = Lines(binaries, [tool])
    assert at(lines, dso, 0x2010) == [()]
    assert tool.asked == []
    assert lines.notes == {dso: "the file changed while it was read"}


def test_a_file_that_changes_while_it_is_read(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    path = Path(binaries.dsos[dso].path)

    class Slow(FakeTool):
        def ask(self, file: DebugFile, addresses: Sequence[int]) -> list[RawFrames]:
            path.unlink()
            return super().ask(file, addresses)

    tool = Slow("one", KNOWN)
    lines = Lines(binaries, [tool])
    assert at(lines, dso, 0x2010) == [()]
    assert at(lines, dso, 0x2020) == [()]
    assert len(tool.asked) == 1
    assert lines.notes == {dso: "the file changed while it was read"}


def test_the_end_is_told_to_every_tool(app: tuple[Binaries, int]) -> None:
    binaries, dso = app
    tools = [FakeTool("one", KNOWN), FakeTool("two", KNOWN)]
    lines = Lines(binaries, tools)
    at(lines, dso, 0x2010)
    lines.end()
    assert [tool.ends for tool in tools] == [1, 1]


def test_data_and_code_at_one_offset_is_code(tmp_path: Path) -> None:
    """Linkers map a page twice where two segments meet in it."""
    loads = [ew.Load(0x2000, 0x500000, b"\x90" * 0x100, flags=4),
             ew.Load(0x2000, 0x601000, b"\x90" * 0x100)]  # fmt: skip
    texts = [ew.Text(".debug_line", 0x2000, 0, 16, flags=0)]
    path = ew.write(tmp_path / "app", ew.elf(loads=loads, texts=texts))
    binaries = Binaries()
    tool = FakeTool("one", KNOWN)
    dso = binaries.intern(str(path), None)
    assert at(Lines(binaries, [tool]), dso, 0x2010) == [FRAMES]
    assert tool.asked == [("app", [0x601010])]
