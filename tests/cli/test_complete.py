"""Tab completion of option values, as a shell asks for it."""

from __future__ import annotations

import pytest
from support.command import run

from perfxmm.cli import complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("perfxmm record --source s", ["sigtrap"]),
        ("perfxmm record --engine ", ["auto", "perf", "interrupt"]),
        ("perfxmm record --redact v", ["values"]),
        ("perfxmm record --regs xmm,y", ["xmm,ymm"]),
        ("perfxmm record -e task", ["task-clock"]),
        ("perfxmm sc", ["script"]),
    ],
)
def test_bash(words: str, offered: list[str]) -> None:
    env = {
        "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_PERFXMM_COMPLETE": "complete_bash",
    }  # fmt: skip
    # The shell's function calls the command by its own name.
    ran = run(env=env, script=True)
    assert ran.out.split() == offered


def test_a_word_of_a_list_is_offered_once() -> None:
    offered = complete.comma_list(lambda: ["xmm", "ymm"])
    assert offered("") == ["xmm", "ymm"]
    assert offered("xmm,") == ["xmm,ymm"]
    assert offered("qmm") == []
