"""Checks step by step whether a pod can call another pod, a Service or a host, and which precondition is missing.

Membership, sidecars and readiness are read from the Kubernetes API. The decision itself is that of `meshlog why-not`
and `meshlog check`: from the published configuration and the proxies' acknowledgements if the log can be read, else
from the configuration that the compiler makes of the cluster's objects.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from cli.calls.directory import Directory
from cli.calls.matching import HttpRequest
from cli.calls.near_misses import policy_of
from cli.calls.path import Sidecars
from cli.calls.question import CallAnswer, ask, explained
from cli.cluster import objects
from cli.cluster.connectivity_check import ConnectivityCheck
from cli.explain.proxy_reality import remarks
from cli.history import recompile
from cli.history.log_source import LogSource, opened
from cli.history.timeline import Timeline, living
from cli.kubernetes.api_client import Api
from cli.state.mesh_status import pinned
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.errors import BadInputError, MeshlogError
from shared.membership import is_ignored, is_member
from shared.policy.object_name import ObjectName
from shared.projected_objects import ANNOTATION_PROXYLESS, ANNOTATION_SIDECAR, LABEL_IGNORE
from shared.records.events import Event
from shared.records.snapshot import Snapshot, proxy_key

_ELSEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses for documentation (RFC 5737, RFC 3849), which no Service has; they stand for a host outside the cluster."""


_HTTP = frozenset({"http", "http2", "grpc", "grpc-web", "h2c", "ws"})
"""Protocols whose clients understand an HTTP answer of their sidecar."""


class ConnectivityQuery(NamedTuple):
    """The call to check."""

    caller: str
    """`namespace/pod`."""
    pod: str = ""
    """`namespace/pod` of the called pod."""
    service: str = ""
    """`namespace/service`, or a service of the called pod's namespace (without one: the caller's)."""
    host: str = ""
    """A host outside the cluster."""
    port: int | None = None
    protocol: str = ""
    """The expected protocol of the port: http, grpc, tcp, …; empty if any will do."""
    request: HttpRequest = HttpRequest()


class _DecisionFacts(NamedTuple):
    """The facts that the decision is based on."""

    snapshot: Snapshot
    events: list[Event]
    settings: MeshSettings
    source: LogSource | None
    """The log; None if the events were made of the cluster's objects."""


async def verify(
    api: Api, wanted: ConnectivityQuery, *, mesh_name: str, mesh_namespace: str, log: str | None
) -> list[ConnectivityCheck]:
    """Every step of a call; later steps are left out if pods are missing.

    `log`: address of the log (see `cli.history.log_source`); None if it cannot be read from here. Raises
    `BadInputError`.
    """
    checks: list[ConnectivityCheck] = []
    for place in dict.fromkeys(filter(None, (wanted.caller, wanted.pod))):
        found = await _end(api, place, mesh_name)
        checks += found
        if any(check.found == _MISSING for check in found):
            return checks
    async with _facts(api, log, mesh_name=mesh_name, mesh_namespace=mesh_namespace) as (facts, check):
        checks += check
        checks += await _decided(facts, wanted)
    return checks


_MISSING = "is not there"


async def _end(api: Api, place: str, mesh_name: str) -> list[ConnectivityCheck]:
    namespace, name = _placed(place)
    status, pod = await api.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
    member = await _member(api, namespace, mesh_name)
    if status != 200:
        return [member, ConnectivityCheck(f"pod {place}", fine=False, found=_MISSING)]
    return [member, *_sidecar(pod)]


def _placed(place: str) -> tuple[str, str]:
    namespace, _, name = place.rpartition("/")
    return namespace or "default", name


async def _member(api: Api, namespace: str, mesh_name: str) -> ConnectivityCheck:
    what = f"namespace {namespace}"
    status, one = await api.request("GET", f"/api/v1/namespaces/{namespace}")
    if status != 200:
        return ConnectivityCheck(what, fine=False, found=_MISSING)
    labels: dict[str, str] = one["metadata"].get("labels") or {}
    if is_ignored(labels):
        return ConnectivityCheck(what, fine=False, found=f"is ignored (label {LABEL_IGNORE})")
    if not is_member(labels, mesh_name=mesh_name):
        return ConnectivityCheck(
            what, fine=False, found=f"is no member of {mesh_name}: `meshlog namespace add {namespace}`"
        )
    return ConnectivityCheck(what, fine=True, found=f"is a member of {mesh_name}")


def _sidecar(pod: dict[str, Any]) -> list[ConnectivityCheck]:
    what = f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    annotations: dict[str, str] = pod["metadata"].get("annotations") or {}
    if annotations.get(ANNOTATION_PROXYLESS, "").strip().lower() == "true":
        first = ConnectivityCheck(what, fine=True, found="is proxyless: its gRPC library speaks xDS itself")
    elif ANNOTATION_SIDECAR in annotations:
        first = ConnectivityCheck(what, fine=True, found="has a sidecar")
    else:
        found = "has no sidecar: it was created before its namespace was a member, or it opted out; recreate it"
        return [ConnectivityCheck(what, fine=False, found=found)]
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready") == "True"
    return [
        first,
        ConnectivityCheck(what, fine=ready, found="is ready" if ready else "is not ready: nothing is sent to it"),
    ]


@contextlib.asynccontextmanager
async def _facts(
    api: Api, log: str | None, *, mesh_name: str, mesh_namespace: str
) -> AsyncGenerator[tuple[_DecisionFacts, list[ConnectivityCheck]]]:
    """The facts of the decision, and a check that names their source if it matters."""
    why = ""
    if log is not None:
        try:
            async with opened(log) as source:
                timeline = Timeline(source)
                snapshot = await timeline.snapshot(await timeline.head())
                events = [item.event for item in living(await timeline.state(snapshot.version)).values()]
                pin = await pinned(source)
                settings = recompile.settings_of(source.about)
                checks = (
                    [ConnectivityCheck("pin", fine=True, found=f"the mesh is {pin}: that is in force")] if pin else []
                )
                yield _DecisionFacts(snapshot, events, settings, source), checks
                return
        except MeshlogError as error:
            why = f" ({error})"
    events = await objects.read(api)
    settings = MeshSettings(cluster=objects.CLUSTER, mesh_name=mesh_name, namespace=mesh_namespace)
    note = f"the log cannot be read from here{why}: decided by the cluster's objects, whatever proxies have of them"
    checks = [ConnectivityCheck("log", fine=True, found=note)]
    yield _DecisionFacts(compile_events(events, settings), events, settings, None), checks


async def _decided(facts: _DecisionFacts, wanted: ConnectivityQuery) -> list[ConnectivityCheck]:
    directory = Directory(facts.events, cluster=facts.settings.cluster)
    if wanted.host:
        return [_outside(facts, directory, wanted)]
    called = f"svc:{_service(wanted)}" if wanted.service else wanted.pod
    try:
        answers = ask(facts.snapshot, directory, wanted.caller, called, wanted.request, port=wanted.port)
    except BadInputError as error:
        return [ConnectivityCheck(f"call to {called}", fine=False, found=str(error))]
    answers = explained(answers, wanted.request, lambda namespaces: policy_of(facts.events, facts.settings, namespaces))
    checks = [check for answer in answers for check in _answered(answer, wanted)]
    if facts.source is not None:
        version = facts.snapshot.version
        doubts = await remarks(facts.source, answers, version=version)
        checks += [ConnectivityCheck("in force", fine=False, found=doubt) for doubt in doubts]
        if not doubts:
            checks.append(
                ConnectivityCheck("in force", fine=True, found=f"the proxies of the call hold version {version}")
            )
    return checks


def _service(wanted: ConnectivityQuery) -> str:
    if "/" in wanted.service:
        return wanted.service
    return f"{_placed(wanted.pod or wanted.caller)[0]}/{wanted.service}"


def _answered(answer: CallAnswer, wanted: ConnectivityQuery) -> list[ConnectivityCheck]:
    what = f"call from {answer.caller} to {answer.called}"
    found = answer.sentence.partition(": ")[2]
    checks = [
        ConnectivityCheck(what, fine=answer.allowed, found="; ".join([f"{answer.asked} is {found}", *answer.hints]))
    ]
    is_http = answer.asked != "a connection"
    if wanted.protocol and (wanted.protocol in {"http", "grpc"}) != is_http:
        taken = "HTTP" if is_http else "bytes"
        found = f"is taken for {taken}, not {wanted.protocol}: write its appProtocol in the Service"
        checks.append(ConnectivityCheck(f"protocol of {answer.called}", fine=False, found=found))
    return checks


def _outside(facts: _DecisionFacts, directory: Directory, wanted: ConnectivityQuery) -> ConnectivityCheck:
    """A call to a host outside the cluster. Its address is not known here, unless the name is an address."""
    port = wanted.port or 443
    what = f"call from {wanted.caller} to {wanted.host}:{port}"
    namespace, name = _placed(wanted.caller)
    key = proxy_key(facts.settings.cluster, namespace, name)
    pod = directory.pods.get(ObjectName(namespace, name))
    if key not in facts.snapshot.proxies or pod is None or not pod.sidecar:
        return ConnectivityCheck(what, fine=True, found="the caller has no sidecar: nothing of the mesh is in the way")
    try:
        addresses: tuple[str, ...] = (str(ipaddress.ip_address(wanted.host)),)
    except ValueError:
        addresses = _ELSEWHERE[:1]
    sidecars = Sidecars(facts.snapshot, directory.sidecars)
    http = (wanted.protocol or ("https" if port == 443 else "http")) in _HTTP
    ways = [way for address in addresses for way in sidecars.decide(key, address, port, wanted.request, http=http).ways]
    refused = [way for way in ways if not way.passes]
    if refused:
        also = "; `traffic.enableEgress` of the MeshConfig lets calls leave the mesh" if not wanted.pod else ""
        return ConnectivityCheck(what, fine=False, found=f"the caller sees {refused[0].sees}: {refused[0].rule}{also}")
    return ConnectivityCheck(what, fine=True, found=f"leaves the mesh: {ways[0].rule}")
