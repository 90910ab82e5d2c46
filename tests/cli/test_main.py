"""The front door: verbs, errors and exit codes, start-up, completion."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from perfxmm import __version__
from perfxmm.cli import console
from perfxmm.cli import main as front
from perfxmm.errors import (
    DamagedInput,
    NotSupported,
    OutputError,
    PerfxmmError,
    PermissionDenied,
    TargetError,
    UsageError,
)

PERFXMM = [sys.executable, "-c", "from perfxmm.cli.main import run; run()"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PERFXMM, *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A verb called `trial`; tests put its function there."""
    module = ModuleType("perfxmm_trial_verb")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(front.VERBS, "trial", (module.__name__, "trial", "Only a test."))
    return module


def test_help_names_every_verb() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, (_, _, line) in front.VERBS.items():
        assert f"  {name}" in done.stdout
        assert line in done.stdout
    assert done.stderr == ""


def test_without_a_verb() -> None:
    done = run()
    assert "Commands:" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["--version"]) == 0
    assert capsys.readouterr().out == f"perfxmm {__version__}\n"


@pytest.mark.parametrize("name", list(front.VERBS))
def test_every_verb_has_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.partition("Examples:")[2].count("perfxmm ") >= 2


def test_nothing_heavy_at_start() -> None:
    code = (
        "import sys, perfxmm.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "finally:\n"
        "  heavy = {'numpy', 'rich.console', 'iced_x86', 'elftools', 'pyarrow', 'asyncio'}\n"
        "  print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


# What is raised, the exit code, the first line on stderr.
ERRORS = [
    (UsageError("no such event", next_step="see list"), 2, "perfxmm: no such event"),
    (PermissionDenied("cannot open", call="open", errno=errno.EACCES), 3,
     "perfxmm: cannot open (open: EACCES)"),
    (NotSupported("not here", why="no PMU"), 4, "perfxmm: not here: no PMU"),
    (DamagedInput("cut short", file="x", offset=16), 5, "perfxmm: cut short (x, offset 0x10)"),
    (TargetError("gone"), 1, "perfxmm: gone"),
    (OutputError("disk full"), 1, "perfxmm: disk full"),
    (PerfxmmError("other"), 1, "perfxmm: other"),
    (PerfxmmError("bad \x1b[2J name"), 1, "perfxmm: bad \\x1b[2J name"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "perfxmm: No space left on device"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a\nb"), 1,
     "perfxmm: 'a\\nb': No such file or directory"),
    (KeyboardInterrupt(), 130, "perfxmm: interrupted"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "line"), ERRORS, ids=[repr(e[0])[:40] for e in ERRORS])
def test_errors(
    error: BaseException, code: int, line: str, verb: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def trial() -> None:
        raise error

    verb.trial = trial  # type: ignore[attr-defined]
    assert front.main(["trial"]) == code
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == line
    assert said.out == ""


def test_the_next_step_follows(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def trial() -> None:
        raise UsageError("what", next_step="first do this\nthen that")

    verb.trial = trial  # type: ignore[attr-defined]
    assert front.main(["trial"]) == 2
    assert capsys.readouterr().err == "perfxmm: what\n  first do this\n  then that\n"


def test_a_verb_returns_its_exit_code(verb: ModuleType) -> None:
    verb.trial = lambda: 7  # type: ignore[attr-defined]
    assert front.main(["trial"]) == 7
    verb.trial = lambda: None  # type: ignore[attr-defined]
    assert front.main(["trial"]) == 0


def test_our_own_mistakes_keep_their_traceback(verb: ModuleType) -> None:
    def trial() -> None:
        raise ZeroDivisionError

    verb.trial = trial  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        front.main(["trial"])


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["no-such-verb"], "No such command 'no-such-verb'", "see 'perfxmm --help'"),
        (["--no-such"], "--no-such", "see 'perfxmm --help'"),
        (["doctor", "--no-such"], "--no-such", "see 'perfxmm doctor --help'"),
        (["doctor", "stray"], "stray", "see 'perfxmm doctor --help'"),
    ],
)
def test_command_line_errors(
    arguments: list[str], words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("perfxmm: ")
    assert words in lines[0]
    assert lines[1] == f"  {hint}"


def test_reader_gone() -> None:
    """`perfxmm list | head -1`: no complaint, the code of SIGPIPE."""
    process = subprocess.Popen(
        [*PERFXMM, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert error == b""


def test_disk_full() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(
            [*PERFXMM, "list", "--json"], stdout=out, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "perfxmm: No space left on device\n"


def test_a_stdout_that_cannot_encode() -> None:
    done = run("doctor", "--short", PYTHONIOENCODING="ascii")
    assert done.returncode in (0, 3, 4)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    done = run("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0
    assert "_PERFXMM_COMPLETE" in done.stdout


# The command line so far, some of the words that must be offered.
COMPLETIONS = [
    ("perfxmm ", {"doctor", "record", "script"}),
    ("perfxmm do", {"doctor"}),
    ("perfxmm doctor --", {"--short", "--json"}),
    ("perfxmm list t", {"tracepoint"}),
]


@pytest.mark.parametrize(("line", "words"), COMPLETIONS)
def test_completion_in_bash(line: str, words: set[str]) -> None:
    done = run(
        _PERFXMM_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" "))
    )
    assert words <= set(done.stdout.split())


def test_completion_in_zsh_and_fish() -> None:
    zsh = run(_PERFXMM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="perfxmm do")
    assert "doctor" in zsh.stdout
    fish = run(
        _PERFXMM_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS="perfxmm do",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "doctor" in fish.stdout


WIDTHS = [({"COLUMNS": "50"}, 50), ({}, console.UNBOUNDED_COLUMNS),
          ({"COLUMNS": "0"}, console.UNBOUNDED_COLUMNS),
          ({"COLUMNS": "wide"}, console.UNBOUNDED_COLUMNS)]  # fmt: skip


@pytest.mark.parametrize(("environment", "width"), WIDTHS)
def test_width_off_a_terminal(environment: dict[str, str], width: int) -> None:
    assert console.width_of(StringIO(), environment) == width


def test_width_on_a_terminal() -> None:
    main_fd, terminal_fd = pty.openpty()
    try:
        with os.fdopen(terminal_fd, "w", closefd=False) as stream:
            assert console.width_of(stream, {}) == console.DEFAULT_COLUMNS
            assert console.width_of(stream, {"COLUMNS": "132"}) == 132
    finally:
        os.close(main_fd)
        os.close(terminal_fd)


def test_no_colour_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {}):
        done = run("doctor", **environment)
        assert "\x1b" not in done.stdout


def test_write_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.write_json({"a": "\x1b[0m\udcff\u202e", "b": [1]})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    with pytest.raises(ValueError, match="JSON"):
        console.write_json(float("nan"))


def test_no_blanks_at_the_ends_of_lines() -> None:
    done = run("doctor")
    assert done.stdout.endswith("\n")
    assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []


def test_talk_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1bb")
    console.talk().print("talk")
    console.results().print("[not markup]")
    assert capsys.readouterr() == ("[not markup]\n", "perfxmm: a\\x1bb\ntalk\n")


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("work", 10) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
