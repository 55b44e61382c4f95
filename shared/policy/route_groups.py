"""HTTPRouteGroups: the requests that they mean. They are counted first, and their expressions compiled after that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from shared.policy import regexes
from shared.policy.budgets import Budgets, within
from shared.policy.errors import PolicyError
from shared.policy.field_checks import mapping, sequence, text
from shared.policy.model import HttpMatch, RouteGroup

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_MAX_TOKEN = 256
"""Characters of a header's name."""
_MAX_METHOD = 32
"""Characters of a method; the longest that is registered has 17."""
UNICODE_WORK = 200
"""What a Unicode class costs, in the unit of program sizes."""
_SPLIT = "split it into several HTTPRouteGroups"


def route_group(value: Any, budgets: Budgets, *, created: str = "") -> RouteGroup:
    """Read `spec.matches`. Nothing is compiled here: `program_of` checks the expressions."""
    matches = sequence(value, "matches")
    within(budgets.matches, len(matches), "matches", code="matches", instead=_SPLIT)
    read = tuple(_http_match(item, f"match {i}", budgets) for i, item in enumerate(matches, 1))
    found = RouteGroup(matches=read, created=created)
    patterns = [pattern for pattern, _ in _expressions(found)]
    within(budgets.expressions, len(patterns), "regular expressions", code="expressions", instead=_SPLIT)
    chars = sum(map(len, patterns))
    within(
        budgets.expression_chars, chars, "characters of regular expressions", code="expression-chars", instead=_SPLIT
    )
    within(
        budgets.unicode_classes,
        sum(map(regexes.unicode_classes, patterns)),
        r"Unicode classes such as \pL in its expressions",
        code="unicode-classes",
        instead="paths and headers hold no Unicode: leave them out",
    )
    return found


def program_of(group: RouteGroup, budgets: Budgets) -> int:
    """Program size of all its expressions. Raises `PolicyError` for one that Envoy would refuse, or for too many."""
    judged = judge(group, budgets)
    if judged.refusal is not None:
        raise judged.refusal
    return judged.size


class RegexCosts(NamedTuple):
    """What compiling the expressions of a group has shown."""

    size: int
    """Program size of all that were compiled: what it has cost."""
    refusal: PolicyError | None


def judge(group: RouteGroup, budgets: Budgets) -> RegexCosts:
    """Compile the expressions of a group, up to the first that is refused, or that is one too many."""
    size = 0
    for pattern, header in _expressions(group):
        try:
            if header:
                size += regexes.check(pattern, f"the expression for header {header!r}")
            else:
                size += regexes.check_anchored(pattern, "pathRegex")
        except PolicyError as refusal:
            return RegexCosts(size + regexes.cost(pattern), refusal)
        if size > budgets.program:  # no more is compiled than the limit and one expression
            return RegexCosts(
                size,
                PolicyError(
                    "budget/program",
                    f"has regular expressions whose programs have a size of {size} and more together, "
                    f"more than {budgets.program}; write simpler ones, or {_SPLIT}",
                ),
            )
    return RegexCosts(size, None)


def programs(match: HttpMatch) -> int:
    """Program size of the expressions of a match that was judged."""
    path = regexes.program_size(regexes.anchored_at_start(match.path)) if match.path else 0
    return path + sum(regexes.program_size(pattern) for _, pattern in match.headers)


def work_of(group: RouteGroup) -> int:
    """What to read its expressions costs besides their programs, in the unit of those (some 0.5 µs)."""
    return sum(len(pattern) + UNICODE_WORK * regexes.unicode_classes(pattern) for pattern, _ in _expressions(group))


def _expressions(group: RouteGroup) -> Sequence[tuple[str, str]]:
    """Each expression, and the header that it is for; none: it is for the path."""
    found: list[tuple[str, str]] = []
    for match in group.matches:
        if match.path:
            found.append((match.path, ""))
        found.extend((pattern, header) for header, pattern in match.headers)
    return found


def _http_match(value: Any, what: str, budgets: Budgets) -> HttpMatch:
    match = mapping(value, what)
    path = match.get("pathRegex") or ""
    if not isinstance(path, str):
        raise PolicyError("smi/shape", f"pathRegex of {what} must be a text")
    name = match.get("name") or ""
    return HttpMatch(
        name=name if isinstance(name, str) else str(name),
        path=path,
        methods=_methods(match.get("methods"), what, budgets),
        headers=_headers(match.get("headers"), f"headers of {what}", budgets),
    )


def _headers(value: Any, what: str, budgets: Budgets) -> tuple[tuple[str, str], ...]:
    # v1alpha2 wrote a list of single-entry mappings, later versions one mapping.
    parts = [mapping(part, what) for part in ([value] if isinstance(value, dict) else sequence(value, what))]
    count = sum(map(len, parts))
    within(budgets.headers, count, f"{what}", code="headers", instead="write fewer")
    headers: dict[str, str] = {}
    for part in parts:
        for key, pattern in part.items():
            name = key.lower()
            if len(name) > _MAX_TOKEN or not _TOKEN.match(name) or name.startswith(":"):
                raise PolicyError("smi/header", f"{what} names {key[:80]!r}, which is no HTTP header")
            if name in headers:
                raise PolicyError("smi/header", f"{what} names {name!r} twice; write one expression for it")
            if not isinstance(pattern, str):
                raise PolicyError("smi/header", f"{what}: the value for {name!r} must be a text")
            headers[name] = pattern
    return tuple(sorted(headers.items()))


def _methods(value: Any, what: str, budgets: Budgets) -> tuple[str, ...]:
    listed = sequence(value, what)
    within(budgets.methods, len(listed), f"methods of {what}", code="methods", instead="leave them out to take any")
    methods: set[str] = set()
    for item in listed:
        method = text(item, f"a method of {what}").upper()
        if method == "*":
            return ()
        if len(method) > _MAX_METHOD or not _TOKEN.match(method):
            raise PolicyError("smi/method", f"{what} names {item[:40]!r}, which is no HTTP method")
        methods.add(method)
    return tuple(sorted(methods))
