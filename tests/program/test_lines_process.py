"""Children that answer, die, hang, and talk without end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from perfxmm.program import lines_process
from perfxmm.program.lines_process import Child, ToolFailed


def python(code: str, **settings: float) -> Child:
    return Child([sys.executable, "-c", code], **settings)


def alive(child: Child) -> bool:
    return Path(f"/proc/{child._process.pid}").exists()


def test_questions_and_answers() -> None:
    child = Child(["cat"])
    assert child.exchange(b"one\n", lambda so_far: so_far == b"one\n") == b"one\n"
    assert child.exchange(b"2\n3\n", lambda so_far: so_far.count(b"\n") == 2) == b"2\n3\n"
    child.end()
    assert not alive(child)
    child.end()


def test_more_than_a_pipe_holds_both_ways() -> None:
    child = Child(["cat"])
    request = os.urandom(3 << 20)
    assert child.exchange(request, lambda so_far: len(so_far) == len(request)) == request
    child.end()


def test_what_cannot_be_started() -> None:
    with pytest.raises(ToolFailed, match=r"cannot be started: .*No such file"):
        Child(["/nonexistent/tool"])
    with pytest.raises(ToolFailed, match="cannot be started"):
        Child(["a\0b"])


@pytest.mark.parametrize(
    ("code", "why"),
    [("import sys; input(); sys.exit(3)", "it ended with exit code 3"),
     ("import os; input(); os.kill(os.getpid(), 11)", "it was ended by signal 11")],
)  # fmt: skip
def test_a_child_that_ends_before_its_answer(code: str, why: str) -> None:
    child = python(code)
    with pytest.raises(ToolFailed, match=why):
        child.exchange(b"question\n", lambda so_far: so_far.endswith(b"\n"))
    child.end()


def test_a_child_that_is_gone_before_the_question() -> None:
    child = Child(["true"])
    child._process.wait()
    with pytest.raises(ToolFailed, match="exit code 0"):
        child.exchange(b"x" * (1 << 20), lambda so_far: bool(so_far))
    child.end()


def test_a_child_that_closes_its_output() -> None:
    child = python("import os, time; os.close(1); input(); time.sleep(600)")
    with pytest.raises(ToolFailed, match="it closed its output"):
        child.exchange(b"x\n", lambda so_far: bool(so_far))
    child.end()
    assert not alive(child)


@pytest.mark.parametrize("code", ["import time; time.sleep(600)",
                                  "print('half', flush=True); import time; time.sleep(600)"])
def test_a_child_that_hangs_is_not_waited_for(code: str) -> None:
    child = python(code, timeout_s=0.3)
    with pytest.raises(ToolFailed, match=r"no answer within 0\.3 s"):
        child.exchange(b"x\n", lambda so_far: so_far.endswith(b"whole\n"))
    child.end()
    assert not alive(child)


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_process, "ANSWER_BYTES", 1 << 20)
    child = Child(["yes"])
    with pytest.raises(ToolFailed, match="the answer does not end"):
        child.exchange(b"", lambda _: False)
    child.end()


def test_no_network_no_translations_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", "https://debuginfod.example")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    child = python(
        "import json, os, resource; input()\n"
        "print(json.dumps([os.environ.get('DEBUGINFOD_URLS'), os.environ['LC_ALL'],\n"
        "  resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]"
        "]))"
    )
    answer = child.exchange(b"\n", lambda so_far: so_far.endswith(b"\n"))
    assert json.loads(answer) == [None, "C", lines_process.MEMORY_BYTES, 0]
    child.end()


def test_a_child_ends_with_its_owner() -> None:
    child = Child(["cat"])
    process = child._process
    del child
    assert process.returncode is not None


def test_a_fork_lets_go_of_a_child_and_leaves_it_alive() -> None:
    child = Child(["cat"])
    pid = os.fork()
    if pid == 0:
        child.end()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert child.exchange(b"still\n", lambda so_far: so_far.endswith(b"\n")) == b"still\n"
    child.end()
    assert not alive(child)
