"""Finds observed calls, from an access log or a tracing system, that a plan would newly deny or allow.

One JSON object a line: `{"from": "shop/web-7c9d", "to": "svc:shop/cart", "port": 80, "path": "/items"}`, with names as
in `meshlog check`; `port`, `method`, `path` and `headers` may be missing. Calls between names that are not in the mesh,
before or after, are counted and not decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from cli.calls.directory import Directory
from cli.calls.matching import HttpRequest
from cli.calls.question import ask
from shared.errors import BadInputError
from shared.io.bounded_read import read_bytes
from shared.io.decoding import UndecodableError, decode
from shared.records.snapshot import Snapshot

MOST_CALLS = 100_000
"""Limit of the different calls in a file: each is decided twice, before and after."""


class ObservedCall(msgspec.Struct, frozen=True, rename={"caller": "from", "called": "to"}, forbid_unknown_fields=True):
    """One call."""

    caller: str
    called: str
    port: int | None = None
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.caller} -> {self.called}{port} {self.method} {self.path}"


class ObservedCalls(msgspec.Struct, frozen=True):
    """The results for the observed calls."""

    asked: int
    unknown: int
    """Number of calls whose names are not in the mesh."""
    allowed: list[str]
    """Calls that are newly allowed."""
    denied: list[str]
    """Calls that are newly denied."""


def read_calls(path: Path) -> list[ObservedCall]:
    """Return the calls in a file, without duplicates. Raises `BadInputError` that names the line."""
    found: dict[str, ObservedCall] = {}
    for number, line in enumerate(read_bytes(path, code="calls/unreadable").splitlines(), 1):
        if not line.strip():
            continue
        try:
            call = decode(ObservedCall, line)
        except UndecodableError as error:
            raise BadInputError("calls/line", f"is no call ({error})", about=f"{path}:{number}") from error
        if len(found) >= MOST_CALLS:
            raise BadInputError("calls/many", f"holds more than {MOST_CALLS} different calls", about=f"{path}:{number}")
        found[f"{call} {call.headers}"] = call
    return list(found.values())


def judged(
    calls: Iterable[ObservedCall], before: tuple[Snapshot, Directory], after: tuple[Snapshot, Directory]
) -> ObservedCalls:
    """Decide each call before and after the change."""
    asked = unknown = 0
    allowed: list[str] = []
    denied: list[str] = []
    for call in calls:
        asked += 1
        was, now = _passes(call, *before), _passes(call, *after)
        if was is None and now is None:
            unknown += 1
        elif now and not was:
            allowed.append(str(call))
        elif was and not now:
            denied.append(str(call))
    return ObservedCalls(asked, unknown, allowed, denied)


def _passes(call: ObservedCall, snapshot: Snapshot, directory: Directory) -> bool | None:
    """Whether a call passes; None if one of its names does not exist."""
    request = HttpRequest(method=call.method.upper(), path=call.path, headers=tuple(sorted(call.headers.items())))
    try:
        answers = ask(snapshot, directory, call.caller, call.called, request, port=call.port)
    except BadInputError:
        return None
    return all(answer.allowed for answer in answers)
