"""Finds the TrafficTargets that nearly allow a denied call, and the part of each that does not fit.

`path` decides by the configuration that the sidecars hold. Why no rule allows a call is a question about policy, so it
is answered by the compiler's own queries over the same events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import re2

from cli.calls.matching import HttpRequest, matched_path
from cli.calls.request_head import HeadRules, normal
from cli.patterns.automaton import example
from services.compiler.derive.membership import is_member
from services.compiler.derive.policy.identity_bindings import sources_of, targets_to
from services.compiler.derive.policy.problems import target_problems
from services.compiler.derive.policy.reachable_services import grant
from services.compiler.derive.request_handling import reading
from services.compiler.derive.services.offers import OfferedPort
from services.compiler.derive.services.offers import port as port_of
from services.compiler.ir import Grant
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.reduce import reduce
from services.compiler.render.request_handling import STATEMENTS
from shared.policy.model import HttpMatch
from shared.policy.object_name import ObjectName
from shared.policy.regexes import anchored_at_start
from shared.records.events import Event
from shared.records.withheld import GRANTING

_POLICY = frozenset(
    {"Namespace", "TrafficTarget", "IdentityBinding", "HTTPRouteGroup", "TCPRoute", "MeshConfig", "MeshRootCertificate"}
)
_OF_ENDS = frozenset({"Pod", "Service"})
_LEFT_OUT = 2
"""Number of named objects that are left out and might have allowed the call."""
_NAMED = 4
"""Number of near misses that are named, and of callers or ports within one."""


class CallEnds(NamedTuple):
    """The caller, the called port, and the service accounts behind it."""

    caller: ObjectName
    """Service account."""
    service: ObjectName
    port: int
    """Port of the service."""
    called: tuple[ObjectName, ...]
    """Service accounts of the pods behind it."""
    pod: ObjectName | None
    """One of these pods; None if there is none."""


def policy_of(events: Iterable[Event], settings: MeshSettings, namespaces: set[str]) -> MeshState:
    """The policy that is in force by the events, with the pods and Services of some namespaces."""
    mesh = MeshState(settings)
    for sequence, event in enumerate(events, 1):
        if event.kind in _POLICY or (event.kind in _OF_ENDS and event.namespace in namespaces):
            reduce(mesh, event, sequence)
    return mesh


def near_misses(mesh: MeshState, ends: CallEnds, request: HttpRequest) -> list[str]:
    """Sentences, the nearest first: at most four. Empty if no policy is near."""
    for namespace in dict.fromkeys((ends.caller.namespace, ends.service.namespace)):
        if not is_member(mesh, namespace):
            return [f"namespace {namespace} is no member of the mesh: `meshlog namespace add {namespace}`"]
    left_out = [
        f"{key} is left out: {one.sentence}"
        for key, one in sorted(mesh.rejected.items())
        if key.kind in GRANTING and key.namespace in (ends.service.namespace, ends.caller.namespace)
    ][:_LEFT_OUT]
    return [*left_out, *_of_policy(mesh, ends, request)][:_NAMED]


def _of_policy(mesh: MeshState, ends: CallEnds, request: HttpRequest) -> list[str]:
    offered = port_of(mesh, ends.service, ends.port)
    number = None if offered is None else _pod_port(mesh, offered, ends.pod)
    by_requests = offered is None or offered.protocol == "http"
    request = _as_read(mesh, ends, request)
    names = dict.fromkeys(name for account in ends.called for name in targets_to(mesh, account))
    found = [
        (rank, sentence)
        for name in names
        for rank, sentence in _of_target(mesh, name, ends.caller, number, request if by_requests else None)
    ]
    accounts = ", ".join(sorted(map(str, ends.called)))
    if not names and ends.called:
        return [f"no TrafficTarget in {ends.service.namespace} has {accounts} as its destination"]
    targets = [mesh.targets.get(name) for name in names]
    if not any(target is not None and ends.caller in sources_of(mesh, target) for target in targets):
        found.append((1, f"no TrafficTarget over {accounts} names {ends.caller} as a source"))
    return [sentence for _, sentence in sorted(found)]


def _as_read(mesh: MeshState, ends: CallEnds, request: HttpRequest) -> HttpRequest:
    """The request as rules read it: its path normalised, without headers that the caller may not set."""
    how = reading(mesh, ends.service.namespace)
    limits = HeadRules(normalize=True, merge_slashes=True, slashes=how.slashes, headers=0, header_bytes=0)
    headers = request.headers
    if ends.caller not in how.forwarders:
        own = [(name, value) for name, value in headers if re2.fullmatch(STATEMENTS, name.lower()) is None]
        headers = (*own, ("x-forwarded-proto", "http"))
    path = normal(request.path, limits)
    return HttpRequest(method=request.method, path=request.path if path is None else path, headers=headers)


def _pod_port(mesh: MeshState, offered: OfferedPort, pod: ObjectName | None) -> int | None:
    """The port of the pod that a Service's port targets."""
    if isinstance(offered.target, int):
        return offered.target
    found = None if pod is None else mesh.pods.get(pod)
    for container in found.spec.containers if found is not None else ():
        for declared in container.ports:
            if declared.name == offered.target:
                return declared.container_port
    return None


def _of_target(
    mesh: MeshState, name: ObjectName, caller: ObjectName, port: int | None, request: HttpRequest | None
) -> Iterable[tuple[int, str]]:
    """How far a traffic target is from allowing the call, and the part that does not fit."""
    target = mesh.targets.get(name)
    if target is None:
        return
    title = f"TrafficTarget {name}"
    opened = grant(mesh, name)
    if caller not in sources_of(mesh, target):
        if opened is not None and _misfit(opened, port, request) is None:
            others = sorted({identity.partition("/ns/")[2].replace("/sa/", "/") for identity in opened.sources})
            yield 2, f"{title} lets this through for {_few(others)}, and {caller} is no source of it"
        return
    problems = [sentence for _, sentence in target_problems(mesh, name)]
    if opened is None:
        yield 0, f"{title} names this caller, and opens nothing: {'; '.join(problems) or 'none of its rules can match'}"
        return
    misfit = _misfit(opened, port, request)
    if misfit is not None:
        rank, reason = misfit
        also = f" ({'; '.join(problems)})" if problems else ""
        yield rank, f"{title} names this caller, and {reason}{also}"


def _misfit(opened: Grant, port: int | None, request: HttpRequest | None) -> tuple[int, str] | None:
    """Which part of a grant does not fit, and how near it is (0: nearest); None if all of it does."""
    if opened.ports is not None and port is not None and port not in opened.ports:
        return 1, f"its TCPRoutes open {_few([str(number) for number in opened.ports])} of the pod only, not {port}"
    if opened.requests is None:
        return None
    if request is None:
        return 1, "its rules are about HTTP requests, which open no port of bytes; a TCPRoute would"
    unlike = [_unlike(match, request) for match in opened.requests]
    return None if None in unlike else min(one for one in unlike if one is not None)


def _paths(pattern: str) -> str:
    """The paths that an expression matches, with a literal example, since a call needs a literal path."""
    literal = example(pattern, begins="/")
    if literal is None:
        return f"paths by the expression {pattern}"
    return f"paths that begin with {literal}" if literal == pattern else f"paths like {literal} ({pattern})"


def _unlike(match: HttpMatch, request: HttpRequest) -> tuple[int, str] | None:
    """The part of a route group's match that a request does not satisfy; None if the match fits."""
    lacks: list[str] = []
    path = matched_path(request.path)
    if match.path and re2.fullmatch(anchored_at_start(match.path), path) is None:
        lacks.append(f"{_paths(match.path)}, not {path}")
    if match.methods and request.method not in match.methods:
        lacks.append(f"{_few(list(match.methods))}, not {request.method}")
    for name, pattern in match.headers:
        value = next(iter(request.values(name)), None)
        if value is None or re2.fullmatch(pattern, value) is None:
            lacks.append(f"header {name} like {pattern}, not {'none' if value is None else repr(value)}")
    if not lacks:
        return None
    named = f" (match {match.name})" if match.name else ""
    return len(lacks) - 1, f"allows only {'; '.join(lacks)}{named}"


def _few(words: list[str]) -> str:
    return ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")
