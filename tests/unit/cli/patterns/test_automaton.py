"""What the automata say of an expression is what RE2 does with it."""

from __future__ import annotations

import itertools

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.patterns.automaton import example, matched_beyond, matches
from cli.patterns.syntax import UnjudgedError

ATOMS = st.sampled_from(
    ["a", "b", "/", ".", "[ab]", "[^a]", "[a-c/]", r"\.", r"\w", r"\D", r"\x61", "(?i)A", "(?i:b)", r"\Qa.\E", "^", "$",
     "[[:alpha:]]", r"\pL", r"[\d/]", r"\z", r"\A"]
)  # fmt: skip


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = inner.map(lambda one: f"(?:{one})")
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        st.tuples(groups, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{0,}", "{,2}"])).map("".join),
        inner.map(lambda one: f"(?P<name>{one})"),
    )


EXPRESSIONS = st.recursive(ATOMS, _compound, max_leaves=6)
TEXTS = ["".join(text) for length in range(5) for text in itertools.product("ab/.", repeat=length)]


def _read(pattern: str) -> bool:
    """Whether RE2 takes it (a name given twice, say, is refused)."""
    try:
        re2.compile(pattern)
    except re2.error:
        return False
    return True


@given(EXPRESSIONS)
@settings(max_examples=100, deadline=None)
def test_an_automaton_matches_what_re2_matches(pattern: str) -> None:
    if _read(pattern):
        wanted = [text for text in TEXTS[:90] if re2.fullmatch(pattern, text) is not None]
        assert [text for text in TEXTS[:90] if matches(pattern, text)] == wanted


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=80, deadline=None)
def test_a_text_that_only_one_matches_is_found_whenever_there_is_one(one: str, other: str) -> None:
    if not _read(one) or not _read(other):
        return
    found = matched_beyond(one, other)
    if found is None:
        assert not [t for t in TEXTS if re2.fullmatch(one, t) is not None and re2.fullmatch(other, t) is None]
    else:
        assert re2.fullmatch(one, found) is not None
        assert re2.fullmatch(other, found) is None


@given(EXPRESSIONS)
@settings(max_examples=80, deadline=None)
def test_an_example_is_matched(pattern: str) -> None:
    if _read(pattern) and (found := example(pattern)) is not None:
        assert re2.fullmatch(pattern, found) is not None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/shop.Price/Get", "/shop.Price/Get"),
        ("/books/.*", "/books/"),
        ("/books/.+", "/books/x"),
        ("/v[12]/[^/]+", "/v1/x"),
        (r"/price\$", "/price$"),
        ("/admin|/public$", "/admin"),
        ("(?i)/A", "/a"),
        (r"\Q/a+b\E", "/a+b"),
        (r"a\bb", None),
        ("[^\\x20-\\x7e]", None),
    ],
)
def test_an_example_is_what_a_person_would_write(pattern: str, found: str | None) -> None:
    assert example(pattern) == found


def test_what_cannot_be_judged_is_no_guess() -> None:
    with pytest.raises(UnjudgedError):
        matched_beyond(r"/a\b.*", "/a")
    with pytest.raises(UnjudgedError):
        matched_beyond("(?:(?:(?:a{0,50}){0,50}){0,50})", "a")


@pytest.mark.parametrize(("pattern", "found"), [(".*", "/"), ("", None), ("a.*", None), ("/a", "/a"), (".a", "/a")])
def test_an_example_of_a_path_begins_as_a_path_does(pattern: str, found: str | None) -> None:
    assert example(pattern, begins="/") == found
