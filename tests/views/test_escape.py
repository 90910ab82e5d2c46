"""Hostile strings never reach a terminal as they are."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from perfxmm.views.escape import escape_control, escape_markup

CASES = [
    ("plain", "plain"),
    ("", ""),
    ("a b~", "a b~"),
    ("\x1b[2J", "\\x1b[2J"),
    ("two\nlines\r", "two\\x0alines\\x0d"),
    ("tab\there", "tab\\x09here"),
    ("\x7f\x80\x9b31m", "\\x7f\\x80\\x9b31m"),
    ("\u202egnp.exe", "\\u202egnp.exe"),
    ("\u2066a\u2069", "\\u2066a\\u2069"),
    ("a\u2028b", "a\\u2028b"),
    ("zero\u200bwidth", "zero\\u200bwidth"),
    ("\U000e0041", "\\U000e0041"),
    ("\ud800", "\\ud800"),
    ("naïve Größe 関数", "naïve Größe 関数"),
    ("back\\slash", "back\\slash"),
]


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_escape(text: str, shown: str) -> None:
    assert escape_control(text) == shown


def test_bytes_of_a_file_name_show_as_bytes() -> None:
    assert escape_control(os.fsdecode(b"/tmp/\xff\xfe")) == "/tmp/\\xff\\xfe"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_nothing_unsafe_is_left(text: str) -> None:
    shown = escape_control(text)
    shown.encode("utf-8")
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not any(unicodedata.bidirectional(c) in _TURNING for c in shown)
    assert escape_control(shown) == shown


_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    "text", ["[red]x[/red]", "operator[]", "a[/]", "\\[b]", "std::array<[int]>", "ends\\"]
)
def test_markup_shows_literally(text: str) -> None:
    assert Text.from_markup(f"[b]{escape_markup(text)}[/b]").plain == text
