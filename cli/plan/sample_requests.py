"""Creates the requests that a plan tries: literal ones, from the matches of route groups.

The set of possible requests is infinite. The samples are, for every method of every match, a path that it matches;
where the expression of a match changes, a path that only the old one matches and one that only the new one matches;
and `GET /`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import msgspec

from cli.calls.matching import HttpRequest
from cli.patterns.automaton import example, matched_beyond
from cli.patterns.syntax import UnjudgedError
from shared.policy.regexes import anchored_at_start
from shared.records.events import Event

_MOST_METHODS = 9
Match = dict[str, Any]


class Samples(msgspec.Struct, frozen=True):
    """Sample requests, and the matches without one."""

    requests: list[HttpRequest]
    unasked: list[str]
    """Matches whose expressions this package cannot evaluate, as `HTTPRouteGroup NS/NAME match NAME`."""


class _RouteMatch(NamedTuple):
    """A match of a route group."""

    namespace: str
    group: str
    match: str


def samples(policy: Iterable[Event]) -> Samples:
    """Return requests for every form of every route group, before and after a change."""
    groups = [event for event in policy if event.kind == "HTTPRouteGroup" and event.object is not None]
    forms: dict[_RouteMatch, list[Match]] = {}
    for event in groups:
        for number, match in enumerate(_matches(event)):
            named = match.get("name")
            name = named if isinstance(named, str) else f"number {number + 1}"
            forms.setdefault(_RouteMatch(event.namespace, event.name, name), []).append(match)
    every = sorted({method for found in forms.values() for match in found for method in _said_methods(match)} - {"*"})
    requests: dict[HttpRequest, None] = {HttpRequest(): None}
    unasked: list[str] = []
    for (namespace, group, name), found in forms.items():
        asked: dict[HttpRequest, None] = {}
        paths = _differing([_pattern(match) for match in found])
        for match in found:
            asked.update(dict.fromkeys(_requests(match, paths, every)))
        if not asked:
            unasked.append(f"HTTPRouteGroup {namespace}/{group} match {name}")
        requests.update(asked)
    return Samples(list(requests), unasked)


def _matches(event: Event) -> Iterator[Match]:
    # The types of an object in the log are unchecked: it may be one that the compiler has quarantined.
    assert event.object is not None
    body = msgspec.json.decode(event.object, type=dict[str, Any])
    spec: object = body.get("spec")
    matches: object = cast("Match", spec).get("matches") if isinstance(spec, dict) else None
    for match in cast("list[object]", matches) if isinstance(matches, list) else ():
        if isinstance(match, dict):
            yield cast("Match", match)


def _pattern(match: Match) -> str:
    return str(match.get("pathRegex") or "/")


def _said_methods(match: Match) -> list[str]:
    value: object = match.get("methods")
    return [str(method) for method in cast("list[object]", value)] if isinstance(value, list) and value else ["GET"]


def _methods(match: Match, every: list[str]) -> list[str]:
    methods = _said_methods(match)
    return (sorted({"GET", "POST", *every}) if "*" in methods else methods)[:_MOST_METHODS]


def _differing(patterns: list[str]) -> list[str]:
    """Return paths that one of two forms of a match matches and the other does not."""
    found: list[str] = []
    for wider in dict.fromkeys(patterns):
        for narrower in dict.fromkeys(patterns):
            if wider == narrower:
                continue
            try:
                path = matched_beyond(anchored_at_start(wider), anchored_at_start(narrower), begins="/")
            except UnjudgedError:
                continue
            if path is not None:
                found.append(path)
    return found


def _requests(match: Match, paths: list[str], every: list[str]) -> Iterator[HttpRequest]:
    path = example(_pattern(match), begins="/")
    declared: object = match.get("headers") or {}
    listed = cast("list[object]", declared if isinstance(declared, list) else [declared])
    pairs = [item for one in listed if isinstance(one, dict) for item in cast("Match", one).items()]
    values = [(str(name), example(str(value))) for name, value in pairs]
    headers = tuple((name, value) for name, value in values if value is not None)
    if len(headers) < len(values):
        return
    for method in _methods(match, every):
        for one in [*([path] if path is not None else []), *paths]:
            yield HttpRequest(method=method, path=one, headers=headers)
