"""perfxmm explain: lists, explains one, JSON, unknown names."""

from __future__ import annotations

import json

import pytest

from perfxmm.cli.main import main
from perfxmm.coherence import ALL_RULES, REASONS, Verdict


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_lists_every_verdict_reason_and_rule(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    words = out.split()
    for name in (*(v.label for v in Verdict), *REASONS, *(rule.name for rule in ALL_RULES)):
        assert name in words, name


def test_off_a_terminal_nothing_is_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    _, out, _ = run(capsys)
    rule = ALL_RULES[-1]
    assert max(len(line) for line in out.splitlines()) < 600
    assert any(line.split()[:1] == [rule.name] and rule.text in line for line in out.splitlines())


def test_a_narrow_terminal_is_respected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ((), ("foreign",), ("kernel-mode",), ("user-kernel-live",)):
        _, out, _ = run(capsys, *arguments)
        assert max(len(line) for line in out.splitlines()) <= 80


def test_explains_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "foreign")
    assert code == 0
    assert out.splitlines()[0] == "foreign: a verdict"
    assert "--unsafe-foreign" in out
    assert "idle-task: a rule" in out


def test_explains_a_reason_and_the_rule_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "kernel-mode")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "kernel-mode: a reason"
    assert "kernel-mode: a rule" in lines
    assert "    result      foreign for gpr, xmm, ymm, zmm, opmask" in [
        line.rstrip() for line in lines
    ]
    assert "applies to  set intr; source pmu, perf's own files" in out


def test_json_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--json")
    tables = json.loads(out)
    assert code == 0
    assert tables["schema"] == "perfxmm.explain/1"
    assert [rule["name"] for rule in tables["rules"]] == [rule.name for rule in ALL_RULES]
    assert tables["reasons"][0] == {
        "name": "user-mode", "bit": 0, "text": REASONS["user-mode"].text,
    }  # fmt: skip


def test_json_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "twin-mismatch", "--json")
    found = json.loads(out)
    assert found["name"] == "twin-mismatch"
    assert found["verdict"] is None
    assert found["rules"][0]["verdict"] == "unknown"
    assert found["rules"][0]["sources"] == ["", "pmu"]


def test_unknown_name_is_a_usage_error_with_near_matches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, "kernelmode")
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith("perfxmm: nothing is called 'kernelmode': did you mean")
    assert "kernel-mode" in err


def test_hostile_name_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "a\x1b[31m\nb")
    assert code == 2
    assert "\x1b" not in err


def test_help_has_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert out.count("  perfxmm explain") == 2


@pytest.mark.parametrize(("word", "reason"), [("init", "init-state"), ("withheld", None)])
def test_words_in_place_of_values_are_explained(
    capsys: pytest.CaptureFixture[str], word: str, reason: str | None
) -> None:
    code, out, _ = run(capsys, word)
    assert code == 0
    assert out.startswith(f"{word}: in place of a value\n  Stands in place of a register's value")
    found = json.loads(run(capsys, word, "--json")[1])
    assert found["word"].startswith("Stands in place")
    assert (found["reason"] or {}).get("name") == reason
