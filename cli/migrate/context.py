"""The surroundings of an object to migrate: member namespaces, Services and pods. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from cli.kubernetes.api_client import Manifest
from services.compiler.derive.services.protocols import protocol_of
from services.compiler.ir import Protocol
from shared.membership import mesh_of
from shared.projected_objects import ServicePort

MigrationVerdict = Literal["carries over", "differs", "not yet", "to do"]
VERDICTS: tuple[MigrationVerdict, ...] = ("to do", "not yet", "differs", "carries over")
"""In the order in which a person should read them."""


class Advice(msgspec.Struct, frozen=True):
    """The advice on one object."""

    object: str
    """`TrafficTarget bookstore/buy`."""
    verdict: MigrationVerdict
    finding: str
    action: str = ""
    """What to do; empty if nothing."""


class MigrationFinding(NamedTuple):
    """The conclusion of one rule on one object."""

    verdict: MigrationVerdict
    text: str
    action: str = ""


MigrationFindings = Iterator[MigrationFinding]


class ComparedPort(NamedTuple):
    """One TCP port of a Service, with its protocol in each of the two meshes."""

    service: str
    number: int
    target: int | str
    here: Protocol
    there: str
    """`http`, `tcp`, or the `appProtocol` that Open Service Mesh does not know."""


class MigrationContext:
    """All known objects, indexed."""

    def __init__(self, objects: Sequence[Manifest], *, complete: bool) -> None:
        """`complete`: whether these are all objects of a cluster.

        Files may be incomplete: a namespace that no file describes is taken for a member, since a user who migrates
        its policies means them to have an effect.
        """
        self.complete = complete
        namespaces = [one for one in objects if one["kind"] == "Namespace"]
        self._known = {one["metadata"]["name"] for one in namespaces}
        self._members = {one["metadata"]["name"] for one in namespaces if mesh_of(labels_of(one)) is not None}
        self._services: defaultdict[str, list[Manifest]] = defaultdict(list)
        self._pods: defaultdict[str, list[Manifest]] = defaultdict(list)
        for one in objects:
            if one["kind"] == "Service":
                self._services[namespace_of(one)].append(one)
            elif one["kind"] == "Pod":
                self._pods[namespace_of(one)].append(one)

    def is_member(self, namespace: str) -> bool:
        """Whether a namespace is, or has to be taken for, a member of the old mesh."""
        return namespace in self._members or (not self.complete and namespace not in self._known)

    def ports_of_account(self, namespace: str, account: str) -> list[ComparedPort] | None:
        """Ports of the Services that select pods of an account; None if they are not known."""
        services = self._services.get(namespace, [])
        if not self.complete and not services:
            return None
        pods = [labels_of(pod) for pod in self._pods.get(namespace, []) if _account(pod) == account]
        found: list[ComparedPort] = []
        for service in services:
            selector: Mapping[str, str] = (service.get("spec") or {}).get("selector") or {}
            # Files have Deployments rather than pods: then any Service of the namespace may select them.
            if (not pods and not self.complete) or any(selector.items() <= pod.items() for pod in pods):
                found += ports_of(service)
        return found


def ports_of(service: Manifest) -> list[ComparedPort]:
    """The TCP ports of a Service."""
    found: list[ComparedPort] = []
    for port in (service.get("spec") or {}).get("ports") or []:
        if port.get("protocol", "TCP") != "TCP" or "port" not in port:
            continue
        app_protocol = str(port.get("appProtocol") or "")
        named = str(port.get("name") or "")
        here = protocol_of(ServicePort(port=port["port"], name=named, app_protocol=app_protocol))
        name = service["metadata"]["name"]
        found.append(
            ComparedPort(name, port["port"], port.get("targetPort") or port["port"], here, _there(app_protocol, named))
        )
    return found


def _there(app_protocol: str, name: str) -> str:
    """The protocol that Open Service Mesh takes a port for: `appProtocol`, else the prefix of its name, else HTTP."""
    if app_protocol:
        return {"http": "http", "grpc": "http", "tcp": "tcp", "tcp-server-first": "tcp"}.get(app_protocol, app_protocol)
    return "tcp" if name.startswith(("tcp-", "tcp-server-first-")) else "http"


def _account(pod: Manifest) -> str:
    spec: Mapping[str, Any] = pod.get("spec") or {}
    return str(spec.get("serviceAccountName") or "default")


def labels_of(one: Manifest) -> Mapping[str, str]:
    """The labels of an object."""
    return one["metadata"].get("labels") or {}


def annotations_of(one: Manifest) -> Mapping[str, str]:
    """The annotations of an object."""
    return one["metadata"].get("annotations") or {}


def namespace_of(one: Manifest) -> str:
    """The namespace of an object; `default` if it has none, as for `kubectl apply`."""
    return str(one["metadata"].get("namespace") or "default")
