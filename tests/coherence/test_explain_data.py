"""The tables that `perfxmm explain` prints are complete and consistent."""

from __future__ import annotations

import pytest

from perfxmm.coherence import (
    ALL_RULES,
    REASONS,
    VERDICT_TEXT,
    Verdict,
    parse_verdicts,
    reason_names,
)
from perfxmm.coherence.explain import everything, explain, known_names
from perfxmm.errors import UsageError


def test_verdict_codes_are_part_of_the_interface() -> None:
    assert {verdict.label: int(verdict) for verdict in Verdict} == {
        "unknown": 0, "coherent": 1, "late": 2, "entry": 3, "torn": 4, "foreign": 5, "absent": 6,
    }  # fmt: skip
    assert set(VERDICT_TEXT) == set(Verdict)


def test_reason_bits_are_part_of_the_interface() -> None:
    """Only ever extended at the end: exported files carry the bits."""
    assert [reason.bit for reason in REASONS.values()] == list(range(len(REASONS)))
    assert len(REASONS) <= 64
    names = list(REASONS)
    assert names[:5] == ["user-mode", "ip-match", "ip-differs", "after-instruction", "kernel-mode"]
    assert names[24:27] == ["live-as-user", "twin-mismatch", "ssp-absent"]
    assert names[31:33] == ["init-state", "async-trap"]
    assert names[43:47] == ["legacy-any-event", "redacted", "payload-cut", "in-kernel-event"]
    assert names[47:53] == [
        "fpu-in-memory", "not-in-nmi", "mode-differs", "thread-differs", "image-broken",
        "component-unplaced",
    ]  # fmt: skip
    assert names[53:57] == [
        "stale-suspected", "egpr-absent", "reduced-initial", "user-copy-unreset",
    ]  # fmt: skip
    assert names[57:60] == ["code-proved", "code-skid", "code-contradicted"]


def test_reasons_by_name() -> None:
    assert reason_names(0) == ()
    assert reason_names(0b11) == ("user-mode", "ip-match")
    assert reason_names(1 << 63 | 1) == ("user-mode", "bit-63")


def test_every_reason_is_given_by_some_rule_and_every_rule_has_text_and_source() -> None:
    assert {rule.reason for rule in ALL_RULES} == set(REASONS)
    for rule in ALL_RULES:
        assert rule.text.endswith("."), rule.name
        assert rule.reference, rule.name
        assert rule.classes, rule.name


def test_verdicts_by_name() -> None:
    assert parse_verdicts(["coherent", " Late"]) == {Verdict.COHERENT, Verdict.LATE}
    assert parse_verdicts(["all"]) == set(Verdict)
    with pytest.raises(KeyError, match="lat"):
        parse_verdicts(["coherent", "lat"])


def test_explain_verdict_lists_its_rules() -> None:
    found = explain("torn")
    assert found.verdict is Verdict.TORN
    assert [rule.name for rule in found.rules] == ["mixed-sources"]


def test_explain_reason_and_rule_by_one_name() -> None:
    found = explain("Kernel_Mode")
    assert found.verdict is None
    assert found.reason is REASONS["kernel-mode"]
    assert [rule.name for rule in found.rules] == ["kernel-mode", "snapshot-of-kernel"]
    assert found.to_dict()["rules"][0]["verdict"] == "foreign"


def test_explain_rule_whose_reason_has_another_name() -> None:
    found = explain("user-kernel-live")
    assert found.reason is None
    assert [rule.reason for rule in found.rules] == ["live-as-user"]


def test_unknown_name_is_a_usage_error_with_near_matches() -> None:
    with pytest.raises(UsageError, match="did you mean foreign") as caught:
        explain("foriegn")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="nothing is called 'xyzzy'"):
        explain("xyzzy")


def test_everything_is_there_once() -> None:
    tables = everything()
    assert len(tables["rules"]) == len(ALL_RULES)
    assert [v["name"] for v in tables["verdicts"]] == [v.label for v in Verdict]
    assert {"foreign", "kernel-mode", "user-kernel-live"} <= known_names()
