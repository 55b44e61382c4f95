"""Advice on SMI objects that allow other calls here than under Open Service Mesh. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.kubernetes.api_client import Manifest
from cli.migrate.context import MigrationContext, MigrationFinding, MigrationFindings, namespace_of
from cli.patterns.automaton import matched_beyond
from cli.patterns.syntax import UnjudgedError
from shared.policy.errors import PolicyError
from shared.policy.regexes import anchored_at_start, check

_SAME = MigrationFinding("carries over", "means the same here")


def traffic_target(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """A TrafficTarget: whether it has an effect, and which calls it allows."""
    spec: Mapping[str, Any] = one.get("spec") or one
    namespace = namespace_of(one)
    destination: Mapping[str, str] = spec.get("destination") or {}
    if not scene.is_member(namespace):
        yield MigrationFinding("carries over", "its namespace is no member: it has no effect, as before")
        return
    if (destination.get("namespace") or namespace) != namespace:
        yield MigrationFinding(
            "carries over", "its destination is in another namespace: it has no effect, as before", "delete it"
        )
        return
    rules: list[Mapping[str, Any]] = spec.get("rules") or spec.get("specs") or []
    found = [*_rules_without_matches(rules), *_bytes_only(rules, scene, namespace, destination.get("name", ""))]
    yield from found or [MigrationFinding("carries over", "allows the same calls")]


def _rules_without_matches(rules: list[Mapping[str, Any]]) -> MigrationFindings:
    names = [rule.get("name", "") for rule in rules if rule.get("kind") == "HTTPRouteGroup" and not rule.get("matches")]
    if names:
        yield MigrationFinding(
            "differs",
            f"the rule on {', '.join(names)} names no matches: Open Service Mesh makes no route of it, "
            "here it means every match of the group, as SMI says",
            "name the matches that are meant, before the move",
        )


def _bytes_only(
    rules: list[Mapping[str, Any]], scene: MigrationContext, namespace: str, account: str
) -> MigrationFindings:
    """Rules on connections alone: here they allow HTTP ports as well."""
    if not rules or any(rule.get("kind") != "TCPRoute" for rule in rules):
        return
    ports = scene.ports_of_account(namespace, account)
    opened = sorted({f"{port.service}:{port.number}" for port in ports or [] if port.here == "http"})
    action = "add a rule on an HTTPRouteGroup before the move, if not every request is meant"
    if opened:
        yield MigrationFinding(
            "differs",
            f"has TCPRoutes only: Open Service Mesh lets no request through to HTTP ports ({', '.join(opened)}), here "
            "every request on the ports of the routes passes",
            action,
        )
    elif ports is None:
        yield MigrationFinding(
            "differs",
            "has TCPRoutes only: where a Service of its pods has an HTTP port, Open Service Mesh lets no request "
            "through to it, and here every request on the ports of the routes passes",
            action,
        )


def route_group(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """An HTTPRouteGroup: Open Service Mesh wants the whole path to match, SMI and Meshlog its beginning."""
    if not scene.is_member(namespace_of(one)):
        return
    matches: list[Mapping[str, Any]] = (one.get("spec") or one).get("matches") or []
    found: list[MigrationFinding] = []
    for match in matches:
        pattern = str(match.get("pathRegex") or "")
        wider = _wider(pattern) if pattern else ""
        if wider:
            found.append(
                MigrationFinding(
                    "differs",
                    f"{match.get('name', '')}: Open Service Mesh wants the whole path to match {pattern}, here (as SMI "
                    f"says) the path need only begin so: {wider}",
                    f"write (?:{pattern})$ before the move: Open Service Mesh takes that the same way",
                )
            )
    yield from found or [_SAME]


def _wider(pattern: str) -> str:
    """Which paths a pattern would match here and not there, in words; empty if none."""
    try:
        check(pattern, "pathRegex")
    except PolicyError as error:
        return f"it cannot be judged, since it {error.sentence}"
    try:
        path = matched_beyond(anchored_at_start(pattern), pattern, begins="/")
    except UnjudgedError as error:
        return f"more paths may be allowed (not judged: {error})"
    return "" if path is None else f"more paths would be allowed, {path} for example"


def split(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """A TrafficSplit."""
    if not scene.is_member(namespace_of(one)):
        return
    spec: Mapping[str, Any] = one.get("spec") or {}
    if spec.get("matches"):
        yield MigrationFinding(
            "differs",
            "its matches, which Open Service Mesh does not know, are in force here",
            "check that they are meant",
        )
    elif not any(backend.get("weight", 0) for backend in spec.get("backends") or []):
        yield MigrationFinding("carries over", "all weights are 0: no call arrives")
    else:
        yield MigrationFinding("carries over", "spreads calls the same way")
