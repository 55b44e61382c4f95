"""What others wrote takes one line, moves no terminal and says how much of it is missing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.io.visible_text import lines, visible, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcödé, 漢字, ok", "plain text, ünïcödé, 漢字, ok"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nready  in sync", "a\\nready  in sync"),
        ("a\r\tb\x00\x7f", "a\\r\\tb\\x00\\x7f"),
        ("user\u202eresu", "user\\u202eresu"),
        ("\u2066\u2069\u200b\ufeff\u00ad\u2028", "\\u2066\\u2069\\u200b\\ufeff\\xad\\u2028"),
        ("\u00a0\u3000", "\\xa0\\u3000"),
        ("\ud800\ue000\U000e0041", "\\ud800\\ue000\\U000e0041"),
        ("a\u0301", "a\u0301"),
        ("a" + "\u0301" * 5, "a\u0301\u0301" + "\\u0301" * 3),
    ],
)
def test_only_what_is_printable_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_is_very_long_is_cut_and_says_so() -> None:
    assert visible("x" * 10, most=4) == "xxxx… (6 more characters)"
    assert visible("x" * 4, most=4) == "xxxx"
    assert len(visible("\x1b" * 10_000_000, most=100)) < 500


@given(st.text())
def test_no_text_leaves_its_line_or_steers_a_terminal(text: str) -> None:
    shown = visible(text)
    assert not [one for one in shown if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}]
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


def test_lines_keep_the_newlines_that_are_meant() -> None:
    assert lines("a\nb\x1b") == ["a", "b\\x1b"]


def test_width_counts_columns() -> None:
    assert (width("abc"), width("漢字"), width("a\u0301")) == (3, 4, 1)
