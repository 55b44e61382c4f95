"""What becomes of each object of an Open Service Mesh installation: carries over, differs, is missing, or must go.

Pure: objects in, advice out. What is in force here is `shared.support`'s to say; what Open Service Mesh does with an
object that it half understands (a rule without matches, a target in the wrong namespace) is said here, because those
are the places where a migration changes who may call whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from cli.api import Manifest
from shared import support
from shared.model import LABEL_IGNORE, LABEL_MONITORED_BY

Verdict = Literal["carries over", "differs", "not yet", "to do"]
VERDICTS: tuple[Verdict, ...] = ("to do", "not yet", "differs", "carries over")
"""In the order in which a person should read them."""

_SIDECAR_LABEL = "osm-proxy-uuid"
_OSM_PARTS = frozenset({"osm-controller", "osm-injector", "osm-bootstrap"})
_SERVED_PROTOCOLS = frozenset({"http", "grpc", "tcp", "tcp-server-first"})


class Advice(msgspec.Struct, frozen=True):
    """One object and what to know about it."""

    object: str
    """`TrafficTarget bookstore/buy`."""
    verdict: Verdict
    finding: str
    action: str = ""
    """What to do; empty: nothing."""


def advise(objects: Sequence[Manifest], mesh_name: str) -> list[Advice]:
    """Advice on every object that a mesh gives a meaning to, in the order of `VERDICTS`, then by name.

    `mesh_name` is the mesh to move to: its members have moved already.
    """
    members = {
        one["metadata"]["name"]
        for one in objects
        if one["kind"] == "Namespace" and LABEL_MONITORED_BY in (one["metadata"].get("labels") or {})
    }
    found = [advice for one in objects if not _has_moved(one, mesh_name) for advice in _of(one, members)]
    return sorted(found, key=lambda one: (VERDICTS.index(one.verdict), one.object))


def _has_moved(one: Manifest, mesh_name: str) -> bool:
    return one["kind"] == "Namespace" and (one["metadata"].get("labels") or {}).get(LABEL_MONITORED_BY) == mesh_name


def _of(one: Manifest, members: set[str]) -> Iterator[Advice]:
    rule = _RULES.get(one["kind"])
    title = f"{one['kind']} {_place(one)}"
    if rule is not None:
        for verdict, finding, action in rule(one, members):
            yield Advice(title, verdict, finding, action)
    elif one["kind"] in support.KINDS:
        for verdict, finding, action in _by_table(one):
            yield Advice(title, verdict, finding, action)


_Said = Iterator[tuple[Verdict, str, str]]


def _by_table(one: Manifest) -> _Said:
    findings = support.findings(one["kind"], one.get("spec") or {})
    if not findings:
        yield "carries over", "means the same here", ""
    for each in findings:
        where = each.path or "the whole object"
        note = f" ({each.support.note})" if each.support.note else ""
        match each.support.state:
            case "not yet":
                yield "not yet", f"{where} is kept and has no effect{note}", "do not rely on it after the move"
            case "needless":
                yield "carries over", f"{where} has no effect and needs none{note}", ""
            case _:
                yield "differs", f"{where}: {each.support.note}", ""


def _namespace(one: Manifest, members: set[str]) -> _Said:
    labels: Mapping[str, str] = one["metadata"].get("labels") or {}
    name = one["metadata"]["name"]
    if LABEL_IGNORE in labels:
        yield "carries over", "stays ignored", ""
    elif name in members:
        mesh = labels[LABEL_MONITORED_BY]
        yield (
            "to do",
            f"is a member of {mesh!r}; label and annotations are the same here",
            f"`meshlog namespace remove {name} --mesh-name {mesh}`, `meshlog namespace add {name}`, restart its pods",
        )


def _pod(one: Manifest, members: set[str]) -> _Said:
    metadata, spec = one["metadata"], one["spec"]
    if metadata["namespace"] not in members:
        return
    if (spec.get("nodeSelector") or {}).get("kubernetes.io/os") == "windows":
        yield "not yet", "runs on Windows, where there is no sidecar yet", "leave its namespace where it is"
        return
    if _SIDECAR_LABEL in (metadata.get("labels") or {}):
        yield "to do", "has Open Service Mesh's sidecar", "restart it once its namespace has moved"
    for container in spec["containers"]:
        user = (container.get("securityContext") or spec.get("securityContext") or {}).get("runAsUser")
        if container["name"] != "envoy" and user == 1500:
            yield "to do", f"container {container['name']} runs as user 1500, the proxy's", "give it another user"


def _service(one: Manifest, members: set[str]) -> _Said:
    if one["metadata"]["namespace"] not in members:
        return
    for port in one["spec"].get("ports") or []:
        number, transport = port["port"], port.get("protocol", "TCP")
        protocol = port.get("appProtocol")
        if transport != "TCP":
            yield "carries over", f"port {number} is {transport}: it passes beside the sidecar, as before", ""
        elif protocol and protocol not in _SERVED_PROTOCOLS:
            yield (
                "differs",
                f"port {number} says appProtocol {protocol!r}, which is taken by the port's name or as http",
                "say http, grpc, tcp or tcp-server-first",
            )


def _traffic_target(one: Manifest, members: set[str]) -> _Said:
    spec = one.get("spec") or one
    namespace = one["metadata"]["namespace"]
    destination: Mapping[str, str] = spec.get("destination") or {}
    if namespace not in members:
        yield "carries over", "its namespace is no member: it has no effect, as before", ""
        return
    if (destination.get("namespace") or namespace) != namespace:
        yield "carries over", "its destination is in another namespace: it has no effect, as before", "delete it"
        return
    rules: list[Mapping[str, Any]] = spec.get("rules") or spec.get("specs") or []
    open_ones = [rule["name"] for rule in rules if rule.get("kind") == "HTTPRouteGroup" and not rule.get("matches")]
    if open_ones:
        finding = (
            f"the rule on {', '.join(open_ones)} names no matches: Open Service Mesh makes no route of it, "
            "here it means every match of the group, as SMI says"
        )
        yield "differs", finding, "name the matches that are meant, before the move"
    else:
        yield "carries over", "allows the same calls", ""


def _route_group(one: Manifest, members: set[str]) -> _Said:
    if one["metadata"]["namespace"] not in members:
        return
    matches: list[Mapping[str, Any]] = (one.get("spec") or one).get("matches") or []
    wider = [match.get("name", "") for match in matches if _is_wider_here(match.get("pathRegex") or "")]
    if wider:
        finding = (
            f"{', '.join(wider)}: Open Service Mesh wants the whole path to match, here (as SMI says) it need only "
            "begin so: more paths would be allowed"
        )
        yield "differs", finding, "write each path as (?:…)$ before the move: Open Service Mesh takes that the same way"
    else:
        yield "carries over", "means the same here", ""


def _is_wider_here(pattern: str) -> bool:
    return bool(pattern) and not pattern.endswith(("$", ".*"))


def _split(one: Manifest, members: set[str]) -> _Said:
    if one["metadata"]["namespace"] not in members:
        return
    spec = one["spec"]
    if spec.get("matches"):
        yield (
            "differs",
            "its matches, which Open Service Mesh does not know, are in force here",
            "check that they are meant",
        )
        return
    total = [backend.get("weight", 0) for backend in spec.get("backends") or []]
    if not any(total):
        yield "carries over", "all weights are 0: no call arrives", ""
    else:
        yield "carries over", "spreads calls the same way", ""


def _deployment(one: Manifest, _members: set[str]) -> _Said:
    name = one["metadata"]["name"]
    if name in _OSM_PARTS:
        image = one["spec"]["template"]["spec"]["containers"][0].get("image", "")
        yield "to do", f"is Open Service Mesh itself ({image})", "uninstall it last, with `osm uninstall mesh`"


def _webhook(one: Manifest, _members: set[str]) -> _Said:
    if one["metadata"]["name"].startswith(("osm-webhook-", "osm-validator-")):
        yield (
            "to do",
            "is Open Service Mesh's webhook: it acts on namespaces that carry its mesh's name",
            "it goes with `osm uninstall mesh`; until then give the new mesh another name",
        )


def _root(one: Manifest, _members: set[str]) -> _Said:
    provider = ", ".join(one["spec"].get("provider") or {}) or "none"
    finding = (
        f"names {provider} as its provider; certificates here carry "
        "spiffe://<trust domain>/ns/<namespace>/sa/<account>, from a CA of the new mesh"
    )
    together = "sidecars of the two meshes do not trust each other: move namespaces that call each other together"
    yield "differs", finding, together


_RULES: Mapping[str, Callable[[Manifest, set[str]], _Said]] = {
    "Namespace": _namespace,
    "Pod": _pod,
    "Service": _service,
    "TrafficTarget": _traffic_target,
    "HTTPRouteGroup": _route_group,
    "TrafficSplit": _split,
    "Deployment": _deployment,
    "MutatingWebhookConfiguration": _webhook,
    "ValidatingWebhookConfiguration": _webhook,
    "MeshRootCertificate": _root,
}


def _place(one: Manifest) -> str:
    metadata = one["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else metadata["name"]
