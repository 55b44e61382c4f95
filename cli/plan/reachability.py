"""Finds calls that a change newly allows or denies, or distributes differently, from the sidecars' configuration.

`sample_requests` creates the requests. Only pairs that the change can affect are tried: the callers and servers whose
configuration differs, with all that have configuration for them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cli.calls.directory import Directory, PodEntry, ServiceEntry
from cli.calls.matching import HttpRequest
from cli.calls.path import CallDecision, Sidecars
from cli.history.changes import VersionDifference
from cli.plan.sample_requests import samples
from shared.records.events import Event
from shared.records.snapshot import CDS, Snapshot

MOST_ASKED = 50_000


class CallChanges(msgspec.Struct, frozen=True):
    """Calls that change, each as a sentence."""

    allowed: list[str]
    denied: list[str]
    shared: list[str]
    """Calls that pass before and after, with a different distribution over backends."""
    unasked: list[str]
    """Matches of route groups for which no request could be created."""
    asked: int
    complete: bool
    """Whether every call was tried that the change can affect."""


def changed_calls(
    before: tuple[Snapshot, Directory],
    after: tuple[Snapshot, Directory],
    difference: VersionDifference,
    policy: Iterable[Event],
) -> CallChanges:
    """Try the calls before and after the change, and return the differences."""
    made = samples(policy)
    classes = set(difference.classes)
    places = _places(before, after, classes)
    callers = {**_callers(*before), **_callers(*after)}
    found: dict[str, set[str]] = {"allowed": set(), "denied": set(), "shared": set()}
    asked = 0
    sidecars = [Sidecars(snapshot, directory.sidecars) for snapshot, directory in (before, after)]
    complete = True
    for name, caller, (service, port, concerned) in (
        (name, caller, place) for name, caller in sorted(callers.items()) for place in places
    ):
        if not (concerned or name in classes) or not _may_reach(name, f"{service.name}|{port}", before[0], after[0]):
            continue
        # An opaque TCP port is tried once: requests do not matter there.
        is_http = port in service.http
        for request in made.requests if is_http else made.requests[:1]:
            asked += 1
            if asked > MOST_ASKED:
                complete = False
                break
            was, now = (
                _asked(one, side[1], caller, (service, port), request)
                for one, side in zip(sidecars, (before, after), strict=True)
            )
            what = _named(request) if is_http else "connections"
            sentence = f"{caller.account} -> {service.name}:{port} {what}"
            if was.passes != now.passes:
                shares = f" ({now.said})" if now.passes and len(now.shares) > 1 else ""
                found["allowed" if now.passes else "denied"].add(sentence + shares)
            elif now.passes and was.shares != now.shares:
                found["shared"].add(f"{sentence}: {was.said} -> {now.said}")
    allowed, denied, shared = (sorted(sentences) for sentences in found.values())
    return CallChanges(allowed, denied, shared, made.unasked, asked, complete=complete)


class _Asked(msgspec.Struct, frozen=True):
    """The result of one call."""

    passes: bool
    shares: dict[str, float] = {}
    """Backend → its share, from 0 to 1."""

    @property
    def said(self) -> str:
        """The shares as text."""
        return ", ".join(f"{name} {100 * share:.4g} %" for name, share in self.shares.items())


def _named(request: HttpRequest) -> str:
    """Format a request as text."""
    headers = "".join(f" {name}={value}" for name, value in request.headers)
    return f"{request.method} {request.path}{headers}"


def _callers(snapshot: Snapshot, directory: Directory) -> dict[str, PodEntry]:
    """Return one pod of each class."""
    found: dict[str, PodEntry] = {}
    for pod in directory.pods.values():
        proxy = snapshot.proxies.get(directory.key(pod.name))
        if proxy is not None:
            found.setdefault(proxy.workload_class, pod)
    return found


def _places(
    before: tuple[Snapshot, Directory], after: tuple[Snapshot, Directory], classes: set[str]
) -> list[tuple[ServiceEntry, int, bool]]:
    """Return ports of services, and whether a pod behind each is of a class that changes."""
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
    """Whether a class has configuration for a port of a service, before or after; if not, both deny the call."""
    return any(
        f"{kind}|{place}" in snapshot.views.get(workload_class, {}).get(CDS, {})
        for snapshot in snapshots
        for kind in ("outbound", "direct")
    )


def _asked(
    sidecars: Sidecars, directory: Directory, caller: PodEntry, place: tuple[ServiceEntry, int], request: HttpRequest
) -> _Asked:
    service, port = place
    if caller.name not in directory.pods or service.name not in directory.services:
        return _Asked(passes=False)
    key = directory.key(caller.name)
    if key not in sidecars.snapshot.proxies:
        return _Asked(passes=False)
    verdicts = [sidecars.decide(key, address, port, request) for address in directory.services[service.name].addresses]
    passes = bool(verdicts) and all(verdict.passes for verdict in verdicts)
    return _Asked(passes=passes, shares=_shares(verdicts[0]) if verdicts else {})


def _shares(verdict: CallDecision) -> dict[str, float]:
    """Return the distribution of a call over backends."""
    weights = {way.cluster: way.weight for way in verdict.ways}
    total = sum(weights.values())
    found = {_backend(cluster): weight / total for cluster, weight in weights.items() if weight}
    return dict(sorted(found.items()))


def _backend(cluster: str) -> str:
    """Return `store/store-v1` of `outbound|store/store-v1|80`."""
    parts = cluster.split("|")
    return parts[1] if len(parts) > 1 else cluster
