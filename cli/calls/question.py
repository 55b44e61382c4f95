"""Decides whether one workload may call another, by the names that users type: the answer of `meshlog check`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cli.calls.directory import Directory, PodEntry, ServiceEntry
from cli.calls.matching import HttpRequest
from cli.calls.near_misses import CallEnds, near_misses
from cli.calls.path import CallDecision, CallPath, Sidecars
from services.compiler.mesh_state import MeshState
from shared.errors import BadInputError
from shared.policy.object_name import ObjectName
from shared.records.snapshot import Snapshot

_RULES = {"permissive": "permissive mode: every member may call it"}
"""Printed names of rules that are no objects."""
_ASSUMED = (
    "port {port} is read as HTTP because its Service says nothing else: if it speaks another protocol, set appProtocol "
    "(tcp, say), or its clients wait for ever"
)
_NOT_READ = frozenset({"400", "404", "431"})
"""Outcomes of a request that is refused before policy reads it."""


class CallAnswer(msgspec.Struct, frozen=True):
    """The decision on one call, with the names that users type."""

    caller: str
    called: str
    """Service and port."""
    asked: str
    """The request: `GET /books`, or `a connection` if the port is opaque TCP to the mesh."""
    allowed: bool
    sees: str
    """The result for the caller."""
    ways: tuple[CallPath, ...]
    ends: CallEnds
    hints: tuple[str, ...] = ()
    """Near misses of a denied call; the defaults on which an allowed call depends."""

    @property
    def sentence(self) -> str:
        """The decision in words."""
        head = f"{self.caller} -> {self.called}, {self.asked}: "
        if self.allowed:
            rules = ", ".join(sorted({_RULES.get(way.rule, way.rule) for way in self.ways}))
            return f"{head}allowed by {rules}{_shares(self.ways)}"
        reasons = dict.fromkeys(way.rule for way in self.ways if not way.passes)
        partly = ", on some of its ways" if any(way.passes for way in self.ways) else ""
        return f"{head}denied{partly}; the caller sees {self.sees}: {'; '.join(reasons)}"

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentence, and a line for each hint."""
        return (self.sentence, *(f"  {hint}" for hint in self.hints))


def _shares(ways: tuple[CallPath, ...]) -> str:
    weights = {way.cluster: way.weight for way in ways}
    if len(weights) < 2:
        return ""
    total = sum(weights.values())
    parts = [f"{100 * weight / total:g} % to {name.split('|')[1]}" for name, weight in sorted(weights.items())]
    return f" ({', '.join(parts)})"


def explained(
    answers: list[CallAnswer], request: HttpRequest, policy: Callable[[set[str]], MeshState]
) -> list[CallAnswer]:
    """The answers, with hints for denied calls. `policy` computes the policy of some namespaces; it may be costly."""
    denied = [answer for answer in answers if not answer.allowed and answer.sees not in _NOT_READ]
    if not denied:
        return answers
    mesh = policy({name.namespace for answer in denied for name in (answer.ends.caller, answer.ends.service)})
    return [
        answer
        if answer not in denied
        else msgspec.structs.replace(answer, hints=tuple(near_misses(mesh, answer.ends, request)))
        for answer in answers
    ]


def ask(
    snapshot: Snapshot, directory: Directory, caller: str, called: str, request: HttpRequest, *, port: int | None = None
) -> list[CallAnswer]:
    """One answer for each service and each kind of caller that the names refer to.

    Raises `BadInputError` for unknown names, and for a port that must be chosen.
    """
    callers = _one_of_each_class(snapshot, directory, directory.pods_of(*directory.named(caller)))
    kind, name = directory.named(called)
    if not callers:
        raise BadInputError("check/caller", f"no pod is behind {caller}, so there is no caller")
    if kind == "svc":
        service = directory.services[name]
        return [_answer(snapshot, directory, one, (service, _port(service, port)), request) for one in callers]
    pods = tuple(pod.name for pod in directory.pods_of(kind, name))
    wanted = [
        (service, number)
        for service in dict.fromkeys(service for pod in pods for service in directory.services_over(pod))
        for number in service.ports
        if port in {None, number}
    ]
    if not wanted:
        raise BadInputError(
            "check/unreachable", f"no Service leads to {called}{'' if port is None else f' by port {port}'}"
        )
    return [_answer(snapshot, directory, one, place, request, only=pods) for one in callers for place in wanted]


def _one_of_each_class(snapshot: Snapshot, directory: Directory, pods: list[PodEntry]) -> list[PodEntry]:
    found: dict[str, PodEntry] = {}
    for pod in pods:
        proxy = snapshot.proxies.get(directory.key(pod.name))
        found.setdefault(proxy.workload_class if proxy else "without a sidecar", pod)
    return list(found.values())


def _port(service: ServiceEntry, port: int | None) -> int:
    if port is None and len(service.ports) == 1:
        return service.ports[0]
    if port in service.ports:
        assert port is not None
        return port
    if service.withheld:
        raise BadInputError("check/withheld", f"no call leads to Service {service.name}: it {service.withheld}")
    offered = ", ".join(map(str, service.ports)) or "none"
    raise BadInputError("check/port", f"choose a port of Service {service.name} with --port: {offered}")


def _answer(
    snapshot: Snapshot,
    directory: Directory,
    caller: PodEntry,
    place: tuple[ServiceEntry, int],
    request: HttpRequest,
    *,
    only: tuple[ObjectName, ...] = (),
) -> CallAnswer:
    service, port = place
    sidecars = Sidecars(snapshot, directory.sidecars)
    key = directory.key(caller.name)
    pods = [directory.pods[pod] for pod in service.pods if pod in directory.pods]
    if key not in snapshot.proxies:
        verdicts = [sidecars.plain(address, port) for pod in pods for address in pod.addresses[:1]]
    elif not caller.sidecar:
        verdicts = [sidecars.dial(key, service.name, port, request)]
    else:
        http = port in service.http
        verdicts = [sidecars.decide(key, address, port, request, http=http) for address in service.addresses]
    ways = _ways(verdicts, frozenset(directory.key(pod) for pod in only))
    refused = [way.sees for way in ways if not way.passes]
    return CallAnswer(
        caller=str(caller.name),
        called=f"{service.name}:{port}",
        asked=f"{request.method} {request.path}" if port in service.http else "a connection",
        allowed=not refused,
        sees=refused[0] if refused else "an answer",
        ways=ways,
        ends=CallEnds(
            caller=caller.account,
            service=service.name,
            port=port,
            called=tuple(dict.fromkeys(pod.account for pod in pods)),
            pod=pods[0].name if pods else None,
        ),
        hints=(_ASSUMED.format(port=port),) if not refused and port in service.assumed else (),
    )


def _ways(verdicts: list[CallDecision], only: frozenset[str]) -> tuple[CallPath, ...]:
    """The paths of a call; if `only` names pods, those that reach them, or else why none does."""
    ways = tuple(way for verdict in verdicts for way in verdict.ways)
    if not ways:
        return (CallPath(cluster="", weight=1, pod="", port=0, sees="closed", rule="no pod is behind the service"),)
    return tuple(way for way in ways if way.pod in only) if any(way.pod in only for way in ways) else ways
