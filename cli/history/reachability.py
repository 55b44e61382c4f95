"""Calls that a change newly allows or denies, decided by what the sidecars would be told before and after.

A route group's matches are patterns, and there is no end of requests; asked is one request for each match that any
group has, and `GET /`. Only pairs that the change can concern are asked: the callers and servers whose configuration
differs, with everybody that has configuration for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cli.calls.directory import Directory, PodEntry, ServiceEntry
from cli.calls.matching import Request
from cli.calls.sidecars import Sidecars
from cli.history.changes import Difference
from cli.patterns.automaton import example
from shared.events import Event
from shared.snapshot import CDS, Snapshot

MOST_ASKED = 50_000


class Calls(msgspec.Struct, frozen=True):
    """What becomes possible and what ceases to be, each as a sentence."""

    allowed: list[str]
    denied: list[str]
    asked: int
    complete: bool
    """Whether everything was asked that the change can concern."""


def changed_calls(
    before: tuple[Snapshot, Directory],
    after: tuple[Snapshot, Directory],
    difference: Difference,
    policy: Iterable[Event],
) -> Calls:
    """Ask before and after, and tell what differs."""
    requests = requests_of(policy)
    classes = set(difference.classes)
    places = _places(before, after, classes)
    callers = {**_callers(*before), **_callers(*after)}
    allowed: set[str] = set()
    denied: set[str] = set()
    asked = 0
    sidecars = [Sidecars(snapshot, directory.sidecars) for snapshot, directory in (before, after)]
    for name, caller in sorted(callers.items()):
        for service, port, concerned in places:
            if not (concerned or name in classes) or not _may_reach(
                name, f"{service.name}|{port}", before[0], after[0]
            ):
                continue
            for request in requests:
                asked += 1
                if asked > MOST_ASKED:
                    return Calls(sorted(allowed), sorted(denied), asked, complete=False)
                was, now = (
                    _passes(one, side[1], caller, (service, port), request)
                    for one, side in zip(sidecars, (before, after), strict=True)
                )
                if was != now:
                    sentence = f"{caller.account} -> {service.name}:{port} {request.method} {request.path}"
                    (allowed if now else denied).add(sentence)
    return Calls(sorted(allowed), sorted(denied), asked, complete=True)


def _callers(snapshot: Snapshot, directory: Directory) -> dict[str, PodEntry]:
    """One pod of each class."""
    found: dict[str, PodEntry] = {}
    for pod in directory.pods.values():
        proxy = snapshot.proxies.get(directory.key(pod.name))
        if proxy is not None:
            found.setdefault(proxy.workload_class, pod)
    return found


def _places(
    before: tuple[Snapshot, Directory], after: tuple[Snapshot, Directory], classes: set[str]
) -> list[tuple[ServiceEntry, int, bool]]:
    """Ports of services, and whether a pod behind one is of a class that changes."""
    found: dict[tuple[str, int], tuple[ServiceEntry, int, bool]] = {}
    for snapshot, directory in (before, after):
        for service in directory.services.values():
            keys = [snapshot.proxies.get(directory.key(pod)) for pod in service.pods]
            concerned = any(proxy is not None and proxy.workload_class in classes for proxy in keys)
            for port in service.ports:
                place = (str(service.name), port)
                found[place] = (service, port, concerned or (place in found and found[place][2]))
    return [found[place] for place in sorted(found)]


def _may_reach(workload_class: str, place: str, *snapshots: Snapshot) -> bool:
    """Whether a class has configuration for a port of a service, before or after: else it is denied in both."""
    return any(
        f"{kind}|{place}" in snapshot.views.get(workload_class, {}).get(CDS, {})
        for snapshot in snapshots
        for kind in ("outbound", "direct")
    )


def _passes(
    sidecars: Sidecars, directory: Directory, caller: PodEntry, place: tuple[ServiceEntry, int], request: Request
) -> bool:
    service, port = place
    if caller.name not in directory.pods or service.name not in directory.services:
        return False
    key = directory.key(caller.name)
    if key not in sidecars.snapshot.proxies:
        return False
    addresses = directory.services[service.name].addresses
    return bool(addresses) and all(sidecars.decide(key, address, port, request).passes for address in addresses)


def requests_of(policy: Iterable[Event]) -> list[Request]:
    """A request for each match of each route group, and `GET /`."""
    found: dict[Request, None] = {Request(): None}
    for event in policy:
        if event.kind != "HTTPRouteGroup" or event.object is None:
            continue
        body = msgspec.json.decode(event.object, type=dict[str, Any])
        spec = body.get("spec")
        matches = spec.get("matches") if isinstance(spec, dict) else None  # pyright: ignore[reportUnknownMemberType]
        for match in matches if isinstance(matches, list) else []:  # pyright: ignore[reportUnknownVariableType]
            request = _request(match) if isinstance(match, dict) else None
            if request is not None:
                found[request] = None
    return list(found)


def _request(match: dict[str, Any]) -> Request | None:
    path = example(str(match.get("pathRegex") or "/"), begins="/")
    # What the log holds may have been left out by the compiler for its types.
    methods: list[Any] = said if isinstance(said := match.get("methods"), list) and said else ["GET"]
    headers = match.get("headers") or {}
    listed: list[Any] = headers if isinstance(headers, list) else [headers]
    pairs = [item for one in listed if isinstance(one, dict) for item in one.items()]
    values = [(str(name), example(str(value))) for name, value in pairs]
    if path is None or any(value is None for _, value in values):
        return None
    method = "GET" if "*" in methods else str(methods[0])
    return Request(method=method, path=path, headers=tuple((name, value or "") for name, value in values))
