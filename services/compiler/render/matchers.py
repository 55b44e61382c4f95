"""Matchers: texts, expressions, and the HTTP requests that a match of a route group means."""

from __future__ import annotations

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from shared.policy.model import HttpMatch
from shared.policy.regexes import ENVOY_DEFAULT_PROGRAM, MAX_PROGRAM, anchored_at_start, program_size


def expression(pattern: str) -> RegexMatcher:
    """An RE2 expression that must match the whole text.

    A large one brings its own bound, in a field that newer Envoys call deprecated and still obey: without it they
    refuse the whole resource.
    """
    matcher = RegexMatcher(regex=pattern)
    if program_size(pattern) > ENVOY_DEFAULT_PROGRAM - 5:
        matcher.google_re2.max_program_size.value = MAX_PROGRAM
    return matcher


def path_expression(pattern: str) -> RegexMatcher:
    """Users anchor a path only at its start."""
    return expression(anchored_at_start(pattern))


def exact(text: str) -> StringMatcher:
    """Exactly this text."""
    return StringMatcher(exact=text)


def method_header(method: str) -> HeaderMatcher:
    """Requests of one method."""
    return HeaderMatcher(name=":method", string_match=exact(method))


def header(name: str, pattern: str) -> HeaderMatcher:
    """Requests whose header matches as a whole; `host` is what HTTP/2 calls `:authority`."""
    real = ":authority" if name == "host" else name
    return HeaderMatcher(name=real, string_match=StringMatcher(safe_regex=expression(pattern)))


def method_headers(match: HttpMatch) -> list[HeaderMatcher]:
    """One matcher that covers all methods of a match; none if it takes any."""
    if not match.methods:
        return []
    if len(match.methods) == 1:
        return [method_header(match.methods[0])]
    alternatives = "|".join(quoted(method) for method in match.methods)
    return [HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=expression(alternatives)))]


def quoted(text: str) -> str:
    """An expression for just this text."""
    return "".join(char if char.isalnum() else f"\\{char}" for char in text)
