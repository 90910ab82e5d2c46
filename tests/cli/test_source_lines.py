"""script -F srcline,inline and report --sort srcline, over recordings of a compiled program."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from support.inprocess import run
from support.lines_program import HEADER, MACRO, MARKS, SOURCE, addresses, build, compile_c, line_of
from support.written_recording import Sample, program, write

import perfxmm
from perfxmm.analysis.shown import Policy
from perfxmm.cli import inturn
from perfxmm.program.elf import open_elf
from perfxmm.program.lines_tools import available
from perfxmm.views.script import ScriptText

pytestmark = pytest.mark.skipif(
    not available(), reason="no tool that reads debug information is here"
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code at 0x401000, where written recordings map their program's."""
    return build(tmp_path_factory.mktemp("app"), "-no-pie", "-Wl,--build-id")


@pytest.fixture
def recording(app: Path, tmp_path: Path) -> Path:
    at = addresses(app)
    assert set(at) == set(MARKS)
    assert all(0x401000 <= address < 0x402000 for address in at.values())
    marks = ["in_innermost", "in_innermost", "in_middle", "in_innermost", "in_main"]
    return write(tmp_path / "perf.data", [Sample(at[mark]) for mark in marks], binary=app)


INNERMOST, MIDDLE = line_of("MARK", HEADER), line_of("MARK(in_middle)")
IN_MIDDLE, IN_OUTER = line_of("return 2 * innermost"), line_of("return middle(x)")
MAIN = line_of("MARK(in_main)")


def test_script_prints_line_and_inlined_functions(recording: Path, app: Path) -> None:
    done = run("script", "-i", recording, "-F", "ip,sym,srcline,inline", "--limit", "3")
    assert done.code == 0
    at = addresses(app)
    inner, middle = f"{at['in_innermost']:16x}", f"{at['in_middle']:16x}"
    first = [
        f"{inner} outer", f"  inner.h:{INNERMOST}",
        f"\t{inner} innermost (inlined)", f"  inner.h:{INNERMOST}",
        f"\t{inner} middle (inlined)", f"  main.c:{IN_MIDDLE}",
        f"\t{inner} outer ({app})", f"  main.c:{IN_OUTER}",
    ]  # fmt: skip
    assert done.out.splitlines() == [
        *first, *first,
        f"{middle} outer", f"  main.c:{MIDDLE}",
        f"\t{middle} middle (inlined)", f"  main.c:{MIDDLE}",
        f"\t{middle} outer ({app})", f"  main.c:{IN_OUTER}",
    ]  # fmt: skip
    assert done.err == ""


def test_report_ranks_by_line(recording: Path, app: Path) -> None:
    done = run("report", "-i", recording, "--sort", "line", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    schema = Path(perfxmm.__file__).parent / "exports/schema/perfxmm.report.1.json"
    jsonschema.validate(found, json.loads(schema.read_text()))
    assert found["sort"] == "srcline"
    assert [(Path(r["file"]).name, r["line"], r["dso"], r["samples"]) for r in found["rows"]] == [
        ("inner.h", INNERMOST, str(app), 3), ("main.c", MIDDLE, str(app), 1),
        ("main.c", MAIN, str(app), 1),
    ]  # fmt: skip
    table = run("report", "-i", recording, "-s", "srcline").out
    assert f"inner.h:{INNERMOST} (program)" in table


def test_two_processes_ask_for_themselves(app: Path, tmp_path: Path) -> None:
    """Text of many samples is made by two: a tool's pipe must not be shared among them."""
    at = list(addresses(app).values())
    samples = [Sample(at[number % 4]) for number in range(3 * 8192)]
    path = write(tmp_path / "perf.data", samples, binary=app)
    alone = run("script", "-i", path, "-F", "ip,srcline,inline")
    by_two = tmp_path / "by_two"
    with by_two.open("wb") as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inturn, "_may_fork", lambda _file: True)
        recording, policy = perfxmm.open(path), Policy()
        writer = ScriptText(
            recording.names, policy, ["ip", "srcline", "inline"], source=recording.source_lines
        )
        inturn.write_all(recording.judged(policy), writer.lines, out)
    assert by_two.read_text() == alone.out
    assert alone.out.count(f"  inner.h:{INNERMOST}\n") == 2 * 3 * 2048


def test_a_program_that_changed_has_no_lines(app: Path, tmp_path: Path) -> None:
    new = build(tmp_path / "new", "-no-pie", "-O1", "-Wl,--build-id")
    recorded, found = open_elf(app).build_id, open_elf(new).build_id
    assert recorded is not None
    assert found is not None
    at = addresses(app)["in_main"]
    path = write(tmp_path / "perf.data", [Sample(at)], binary=new, build_id=recorded)
    done = run("script", "-i", path, "-F", "ip,srcline,inline")
    assert done.out.splitlines() == [f"{at:16x}", f"  program[{at - 0x400000:x}]"]
    assert (
        f"no source lines for program: {new} is another build (build id {found.hex()}, recorded "
        f"{recorded.hex()})"
    ) in done.err


def test_what_has_no_lines_is_named_below(tmp_path: Path) -> None:
    samples = [Sample(), Sample(tid=101)]
    path = write(tmp_path / "perf.data", samples, binary=program(tmp_path / "app"))
    done = run("script", "-i", path, "-F", "ip,srcline,inline")
    assert done.out.splitlines() == ["          401000", "  app[1000]"] * 2
    assert "perfxmm: no source lines for app: no debug information\n" in done.err
    assert done.code == 0
    table = run("report", "-i", path, "--sort", "srcline")
    assert "axpy (app)" in table.out
    assert "no source lines for app: no debug information" in table.err


def test_exports_are_as_before(recording: Path) -> None:
    """The snapshot schema has no lines, whatever fields were asked for."""
    plain = run("script", "-i", recording, "--json").out
    assert run("script", "-i", recording, "--json", "-F", "srcline,inline").out == plain


def test_a_hostile_file_name_is_escaped(tmp_path: Path) -> None:
    source = f'{MACRO}int main(void)\n{{\n#line 7 "evil\\033[2J.c"\n    MARK(in_main);\n}}\n'
    binary = compile_c(tmp_path, source, "-no-pie")
    at = addresses(binary)["in_main"]
    path = write(tmp_path / "perf.data", [Sample(at)], binary=binary)
    for verb in (["script", "-F", "ip,srcline,inline"], ["report", "--sort", "srcline"]):
        done = run(*verb, "-i", path)
        assert done.code == 0
        assert "evil\\x1b[2J.c:7" in done.out
        assert "\x1b" not in done.out + done.err


def test_the_source_of_the_tests_is_what_they_say() -> None:
    assert SOURCE.splitlines()[MIDDLE - 1].strip() == "MARK(in_middle);"
