from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.command import PERFXMM
from support.inprocess import run
from support.written_recording import AXPY, DOT, Sample, program, write


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    samples = [Sample(AXPY, words=(1, 2, 0x3FF8000000000000, 4)), Sample(DOT, tid=101),
               Sample(DOT, own_ip=AXPY, tid=101)]  # fmt: skip
    return write(tmp_path / "perf.data", samples, binary=program(tmp_path / "app"))


def test_default_blocks(recording: Path) -> None:
    done = run("script", "-i", recording)
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) == 3 * 17
    assert lines[0].split() == [
        "app", "100/100", "[001]", "1.000000000:", "task-clock:u:", "401000", "axpy+0x0",
        f"({recording.parent}/app)", "user:coherent",
    ]  # fmt: skip
    assert lines[1] == (
        "    ymm0   0x0000000000000001 0x0000000000000002 0x3ff8000000000000 0x0000000000000004"
    )
    assert done.err == ""


def test_the_default_input_is_perf_data_here(recording: Path) -> None:
    assert run("script", "-F", "comm", cwd=recording.parent).out.split() == [
        "app", "worker", "worker",
    ]  # fmt: skip
    elsewhere = run("script", cwd=recording.parent.parent)
    assert elsewhere.code == 2
    assert elsewhere.err.splitlines()[0] == "perfxmm: there is no recording perf.data"
    assert "perfxmm record" in elsewhere.err


def test_auto_view_asks_the_instruction(recording: Path) -> None:
    out = run("script", "-i", recording, "--view", "auto", "--regs", "ymm0", "--limit", "2").out
    lines = out.splitlines()
    assert "lanes:f64(by instruction)" in lines[0]
    assert lines[1] == "    ymm0   5e-324d 1e-323d 1.5 2e-323d"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (["--comm", "worker"], "12"), (["--tid", "100"], "0"), (["--pid", "100"], "012"),
        (["-S", "axpy"], "02"), (["-S", "axpy,dot"], "012"), (["--dso", "app"], "012"),
        (["--time", "1.001,"], "12"), (["--time", ",1.001"], "01"), (["--verdict", "late"], "2"),
        (["--keep", "coherent"], "01"), (["--limit", "1"], "0"), (["--pid", "1,2"], ""),
    ],
)  # fmt: skip
def test_filters(recording: Path, options: list[str], times: str) -> None:
    done = run("script", "-i", recording, "-F", "time", *options)
    assert done.code == 0
    assert [line.strip() for line in done.out.splitlines()] == [f"1.00{t}000000:" for t in times]


def test_the_registers_that_an_instruction_uses(recording: Path) -> None:
    done = run("script", "-i", recording, "--regs", "used", "--view", "auto", "-S", "axpy",
               "--limit", "1")  # fmt: skip
    header, *registers = done.out.splitlines()
    assert header.endswith("lanes:f64(by instruction) insn: vaddpd ymm0,ymm0,ymm1")
    assert registers == [
        "    ymm0   5e-324d 1e-323d 1.5 2e-323d",
        "    ymm1   2.1586e-320d 2.1586e-320d 2.1586e-320d 2.1586e-320d",
    ]
    chosen = run("script", "-i", recording, "-F", "insn", "-S", "dot").out
    assert chosen == "insn: aesenc xmm0,xmm1\n"
    assert run("script", "-i", recording, "--regs", "used,xmm0").code == 2


def test_an_instruction_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()], binary="/nowhere")
    lines = run("script", "-i", path, "--regs", "used").out.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(" user:coherent regs:none(instruction not known) insn: [unknown]")


def test_what_is_hidden_is_told_in_one_line(recording: Path) -> None:
    done = run("script", "-i", recording, "-F", "ip", "--keep", "coherent")
    assert done.err == "perfxmm: 1 of 3 snapshots hidden (1 late); --keep late shows them\n"


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["-F", "ip,colour"], "perfxmm: no such field: colour"),
        (["--view", "f128"], "perfxmm: no such view: f128"),
        (["--regs", "zmm32"], "perfxmm: no such register: zmm32"),
        (["--regs", "foo"], "perfxmm: no such register or register class: foo"),
        (["--keep", "nice"], "perfxmm: no such verdict: nice "),
        (["--pid", "x"], "perfxmm: --pid takes numbers, not 'x'"),
        (["--time", "5"], "perfxmm: --time takes START,STOP in seconds, not '5'"),
        (["--time", "5,4"], "perfxmm: --time ends before it starts: 5,4"),
        (["--time", "a,"], "perfxmm: --time takes seconds such as 12.5, not 'a'"),
        (["-F", ""], "perfxmm: -F names no field"),
    ],
)
def test_wrong_options_are_usage_errors(recording: Path, options: list[str], first: str) -> None:
    done = run("script", "-i", recording, *options)
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[0].startswith(first)


def test_json_is_the_exports_own_form(recording: Path) -> None:
    lines = run("script", "-i", recording, "--json").out
    assert lines == run("export", "-i", recording).out
    assert [json.loads(line)["symbol"] for line in lines.splitlines()] == ["axpy", "dot", "axpy"]


def test_a_damaged_recording_gives_what_it_has_and_code_5(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()] * 3, finish=False)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    done = run("script", "-i", path, "-F", "ip")
    assert done.code == 5
    assert done.out.split() == ["401000", "401000"]
    assert "the last record is cut short" in done.err.splitlines()[-2]
    assert done.err.splitlines()[-1].strip() == "Everything that could be read was delivered."


def test_a_killed_recorder_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()], finish=False)
    done = run("script", "-i", path, "-F", "ip")
    assert done.code == 0
    assert "the recorder did not finish" in done.err


def test_names_from_the_recording_cannot_reach_the_terminal(tmp_path: Path) -> None:
    path = write(
        tmp_path / "perf.data", [Sample()], comm="\x1b]0;own\x07", binary="/x/\x1b[2J\udcff"
    )
    for verb in (["script"], ["report"], ["report", "--sort", "comm"], ["report", "--json"],
                 ["export"], ["export", "-f", "csv"]):  # fmt: skip
        done = run(*verb, "-i", path)
        assert done.code == 0
        assert "\x1b" not in done.out + done.err
        assert "\x07" not in done.out + done.err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "perf.data", [Sample()] * 3000)
    process = subprocess.Popen(
        [*PERFXMM, "script", "-i", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(100)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 141
    assert err == b""


def test_a_pipe_is_read_too(recording: Path) -> None:
    done = subprocess.run(
        [*PERFXMM, "script", "-i", "-", "-F", "ip"], input=recording.read_bytes(),
        capture_output=True, check=True,
    )  # fmt: skip
    assert len(done.stdout.split()) == 3


def test_help_has_two_examples() -> None:
    for verb in ("script", "report", "export"):
        assert run(verb, "--help").out.count(f"    perfxmm {verb} ") >= 1 + (verb != "report")


def test_each_class_with_its_verdict_and_code_checks_left_out(tmp_path: Path) -> None:
    from support.witness_recording import Shot
    from support.witness_recording import write as write_witnessed

    path = write_witnessed(tmp_path, [Shot(3), Shot(5, change={"ax": 1})])
    shown = ("script", "-i", path, "--keep", "all", "-F", "ip,verdict,reason")
    assert run(*shown).out.splitlines() == [
        "          40100a user:coherent [user-mode,ip-match,code-proved]",
        "          401012 user:unknown [user-mode,ip-match,code-contradicted]",
    ]
    assert run(*shown, "--no-code-checks").out.splitlines() == [
        "          40100a user:coherent [user-mode,ip-match]",
        "          401012 user:coherent [user-mode,ip-match]",
    ]
