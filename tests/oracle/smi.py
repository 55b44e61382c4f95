"""An oracle: which calls the objects of a cluster allow, from the text of the SMI specification v0.6.0.

It reads plain JSON, knows nothing of Envoy, and is as slow and as direct as the text. Where the specification leaves a
choice open, docs/policy.md says which was taken, and so does a comment here.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from shared.records.events import Event

Name = tuple[str, str]
"""Namespace, name."""


class Ask(NamedTuple):
    """An HTTP request."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()


class Cluster:
    """The objects that exist."""

    def __init__(self, events: Iterable[Event], *, loopback: bool = False) -> None:
        """`loopback`: whether pods may have loopback addresses, as in tests without networks of their own."""
        self.loopback = loopback
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """One object comes, changes or goes."""
        key = (event.kind, event.namespace, event.name)
        if event.operation == "deleted" or event.object is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = json.loads(bytes(event.object))

    def copy(self) -> Cluster:
        """The same objects, for who changes them."""
        found = Cluster((), loopback=self.loopback)
        found.objects = dict(self.objects)
        return found

    def all(self, kind: str, namespace: str | None = None) -> Iterator[tuple[Name, dict[str, Any]]]:
        for (is_kind, where, name), value in self.objects.items():
            if is_kind == kind and namespace in {None, where}:
                yield (where, name), value

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get((kind, namespace, name))

    def _addresses_of(self, pod: dict[str, Any]) -> set[object]:
        """What a pod claims; one that has ended claims nothing."""
        status = pod.get("status", {})
        if status.get("phase") in {"Succeeded", "Failed"}:
            return set()
        texts = [status.get("podIP", ""), *(each.get("ip", "") for each in status.get("podIPs", ()))]
        return {address for text in texts if (address := _address(text, loopback=self.loopback))}

    def _cluster_addresses_of(self, service: dict[str, Any]) -> set[object]:
        spec = service.get("spec", {})
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
            return set()
        texts = [spec.get("clusterIP", ""), *spec.get("clusterIPs", ())]
        return {address for text in texts if (address := _address(text, loopback=self.loopback))}

    # Membership and modes

    def member(self, namespace: str) -> bool:
        labels = self._meta("Namespace", "", namespace).get("labels", {})
        return labels.get("openservicemesh.io/monitored-by") == "meshlog" and "openservicemesh.io/ignore" not in labels

    def permissive(self, namespace: str) -> bool:
        word = self._meta("Namespace", "", namespace).get("annotations", {}).get("meshlog.io/permissive")
        if word is not None:
            return word == "true"
        return bool(self._traffic().get("enablePermissiveTrafficPolicyMode", False))

    def _traffic(self) -> dict[str, Any]:
        config = self.get("MeshConfig", "meshlog-system", "osm-mesh-config") or {}
        return config.get("spec", {}).get("traffic", {})

    def slashes(self, namespace: str) -> str:
        """What becomes of escaped slashes in requests to a namespace's pods."""
        word = self._meta("Namespace", "", namespace).get("annotations", {}).get("meshlog.io/escaped-slashes")
        if word is None:
            return str(self._traffic().get("escapedSlashes", "Reject")).lower()
        return word if word in {"reject", "decode", "keep"} else "reject"

    def believes(self, namespace: str, caller: Name) -> bool:
        """Whether a namespace's pods believe what a caller states of a request's way."""
        own = self._meta("Namespace", "", namespace).get("annotations", {}).get("meshlog.io/trusted-forwarders", "")
        named = [*self._traffic().get("trustedForwarders", ()), *(word.strip() for word in own.split(","))]
        return "/".join(caller) in named and self.member(caller[0])

    def hears(self, namespace: str, of: str) -> bool:
        """Whether a namespace wants to be told of services of another: of those it names, if it names any."""
        word = self._meta("Namespace", "", namespace).get("annotations", {}).get("meshlog.io/calls")
        return word is None or of in {namespace, *(name.strip() for name in word.split(","))}

    def is_named(self, account: Name, namespace: str) -> bool:
        """Whether some TrafficTarget of a namespace names an account as a source."""
        named = (target.get("spec", {}).get("sources") for _, target in self.all("TrafficTarget", namespace))
        sources = itertools.chain.from_iterable(each for each in named if isinstance(each, list))
        return any(
            account in self._means(source, namespace)
            for source in sources
            if isinstance(source, dict) and "name" in source
        )

    def _meta(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return (self.get(kind, namespace, name) or {}).get("metadata", {})

    def in_mesh(self, pod: Name) -> bool:
        found = self.get("Pod", *pod)
        if found is None or not self.member(pod[0]):
            return False
        ended = found.get("status", {}).get("phase", "") in {"Succeeded", "Failed"}
        return "meshlog.io/sidecar" in found["metadata"].get("annotations", {}) and not ended

    def account(self, pod: Name) -> Name:
        found = self.get("Pod", *pod) or {}
        return pod[0], found.get("spec", {}).get("serviceAccountName", "default")

    # Access

    def may(self, caller: Name, server: Name, port: int, ask: Ask | None) -> bool:
        """Whether one pod may make a request (none: a connection of bytes) to a port of another."""
        return self.in_mesh(caller) and self.admits(self.account(caller), server, port, ask)

    def admits(self, caller: Name, server: Name, port: int, ask: Ask | None) -> bool:
        """Whether a pod takes a request of one who proves to be an account, wherever it comes from."""
        if not self.in_mesh(server):
            return False
        if ask is not None:
            path = read_path(ask.path, self.slashes(server[0]))
            if path is None:
                return False
            stated = [item for item in ask.headers if self.believes(server[0], caller) or not _states(item[0])]
            if not self.believes(server[0], caller):
                stated.append(("x-forwarded-proto", "http"))
            ask = Ask(ask.method, path, tuple(_first_of_each(stated)))
        if self.permissive(server[0]):
            return True
        # A certificate outlives membership: who has left is no source any more.
        return self.member(caller[0]) and any(
            self._lets(name, target.get("spec", {}), (caller, self.account(server)), port, ask)
            for name, target in self.all("TrafficTarget", server[0])
        )

    def _lets(self, name: Name, spec: dict[str, Any], ends: tuple[Name, Name], port: int, ask: Ask | None) -> bool:
        caller, server = ends
        destination, sources, rules = spec.get("destination"), spec.get("sources"), spec.get("rules")
        # A destination, at least one source and at least one rule: an empty list is as wrong as a missing one.
        if not destination or not sources or not rules:
            return False
        # It must live in the namespace of its destination.
        if destination.get("namespace", name[0]) != name[0]:
            return False
        if server not in self._means(destination, name[0]):
            return False
        if not any(caller in self._means(source, name[0]) for source in sources):
            return False
        return self._rules(name[0], rules, port, ask)

    def _means(self, subject: dict[str, Any], namespace: str) -> set[Name]:
        where = subject.get("namespace") or namespace
        if subject.get("kind", "ServiceAccount") == "ServiceAccount":
            return {(where, subject["name"])}
        bound = self.get("IdentityBinding", where, subject["name"])
        if bound is None or not self.member(where):
            return set()
        schemes = bound["spec"].get("schemes", {})
        if "serviceAccount" in schemes and "podLabelSelector" in schemes:
            return set()
        found: set[Name] = set()
        if "serviceAccount" in schemes:
            found.add((where, schemes["serviceAccount"]))
        for identity in schemes.get("spiffeIdentities", ()):
            domain, *path = identity.split("/")
            if domain == "cluster.local" and len(path) == 4 and path[:3] == ["ns", where, "sa"]:
                found.add((where, path[3]))
        wanted = schemes.get("podLabelSelector", {}).get("matchLabels", {})
        if wanted:
            found |= self._accounts_with(where, wanted)
        return found

    def _accounts_with(self, namespace: str, wanted: dict[str, str]) -> set[Name]:
        # Identity is the account: one of whose pods some do not have the labels is not meant.
        having: dict[Name, list[bool]] = {}
        for pod, value in self.all("Pod", namespace):
            if self.in_mesh(pod):
                labels = value["metadata"].get("labels", {})
                fits = all(labels.get(key) == text for key, text in wanted.items())
                having.setdefault(self.account(pod), []).append(fits)
        return {account for account, fits in having.items() if all(fits)}

    def _rules(self, namespace: str, rules: list[dict[str, Any]], port: int, ask: Ask | None) -> bool:
        http = [rule for rule in rules if rule["kind"] == "HTTPRouteGroup"]
        tcp = [rule for rule in rules if rule["kind"] == "TCPRoute"]
        if tcp and not any(self._port(namespace, rule, port) for rule in tcp):
            return False
        if http:
            # The rules about requests hold on those ports; what cannot be read as requests cannot meet them.
            return ask is not None and any(self._asked(namespace, rule, ask) for rule in http)
        return bool(tcp)

    def _port(self, namespace: str, rule: dict[str, Any], port: int) -> bool:
        route = self.get("TCPRoute", namespace, rule["name"])
        if route is None:
            return False
        ports = route.get("spec", {}).get("matches", {}).get("ports") or []
        return not ports or port in ports

    def _asked(self, namespace: str, rule: dict[str, Any], ask: Ask) -> bool:
        group = self.get("HTTPRouteGroup", namespace, rule["name"])
        matches = group["spec"].get("matches", []) if group else []
        names = rule.get("matches") or [match.get("name") for match in matches]
        return any(match.get("name") in names and asked(match, ask) for match in matches)

    # Whose an address is

    def pod_at(self, text: str) -> Name | None:
        """The one pod that an address leads to; none if it is a node's, or nothing says whose it is."""
        address = _address(text, loopback=self.loopback)
        claims = [(pod, value) for pod, value in self.all("Pod") if address in self._addresses_of(value)]
        if address is None or any(value.get("spec", {}).get("hostNetwork") for _, value in claims):
            return None
        # An address is given again only after its pod has lost it: the newest has it, one on its way out does not.
        ages = [
            ("deletionTimestamp" not in value["metadata"], value["metadata"].get("creationTimestamp", ""), pod)
            for pod, value in claims
        ]
        newest = [one for one in ages if one[:2] == max(age[:2] for age in ages)]
        return newest[0][2] if len(newest) == 1 else None

    def service_at(self, text: str) -> Name | None:
        """The Service of the whole cluster that a cluster address leads to: the oldest that has it."""
        address = _address(text, loopback=self.loopback)
        if address is None or any(address in self._addresses_of(value) for _, value in self.all("Pod")):
            return None
        ages = [
            (value["metadata"].get("creationTimestamp", ""), service)
            for service, value in self.all("Service")
            if address in self._cluster_addresses_of(value)
        ]
        oldest = sorted(service for age, service in ages if age == min(age for age, _ in ages))
        # Equally old ones of two namespaces: nothing says whose it is.
        return oldest[0] if oldest and len({namespace for namespace, _ in oldest}) == 1 else None

    def leads(self, text: str, service: Name) -> bool:
        """Whether an address may lead to a service: it is its own or, if it is headless, of a pod of its namespace."""
        if (self.get("Service", *service) or {}).get("spec", {}).get("clusterIP") != "None":
            return self.service_at(text) == service
        pod = self.pod_at(text)
        return pod is not None and pod[0] == service[0]

    # Where a call goes

    def behind_or_not(self, service: Name, port: int) -> list[tuple[Name, int]]:
        """Pods of the mesh behind a port of a service, ready or not: who knows the address of one may call it."""
        return self.behind(service, port, ready=False)

    def behind(self, service: Name, port: int, *, ready: bool = True) -> list[tuple[Name, int]]:
        """Pods of the mesh that answer now for a port of a service, and their port."""
        found = self.get("Service", *service)
        offered = self._offered(service, port)
        if found is None or offered is None:
            return []
        pods: set[tuple[Name, int]] = set()
        for _, piece in self.all("EndpointSlice", service[0]):
            if piece["metadata"].get("labels", {}).get("kubernetes.io/service-name") != service[1]:
                continue
            numbers = [
                item["port"] for item in piece.get("ports", ()) if item.get("name", "") == offered.get("name", "")
            ]
            for endpoint in piece.get("endpoints", ()):
                reference = endpoint.get("targetRef", {})
                pod = (service[0], reference.get("name", ""))
                if reference.get("kind") != "Pod" or reference.get("namespace", service[0]) != service[0]:
                    continue
                if not self.in_mesh(pod):
                    continue
                # Who writes a slice writes any address: it leads somewhere only if it is the pod's own.
                answers = endpoint.get("conditions", {}).get("ready") is not False
                if not ready or (answers and self.pod_at(endpoint["addresses"][0]) == pod):
                    pods.update((pod, number) for number in numbers)
        return sorted(pods)

    def opens(self, pod: Name, port: int) -> bool:
        """Whether some service with a selector leads to a port of a pod, wherever its slices say that the pod is."""
        labels = (self.get("Pod", *pod) or {}).get("metadata", {}).get("labels", {})
        for _, service in self.all("Service", pod[0]):
            selector = service["spec"].get("selector") or {}
            targets = {item.get("targetPort", item["port"]) for item in service["spec"]["ports"]}
            if selector and selector.items() <= labels.items() and port in targets:
                return True
        return False

    def offers(self, service: Name, port: int) -> bool:
        """Whether a service has a port."""
        return self._offered(service, port) is not None

    def _offered(self, service: Name, port: int) -> dict[str, Any] | None:
        ports = (self.get("Service", *service) or {}).get("spec", {}).get("ports", [])
        return next((item for item in ports if item["port"] == port), None)

    def spread(self, root: Name, port: int, ask: Ask | None) -> dict[Name, Fraction]:
        """Services that calls to a root go to, with their shares."""
        splits = [
            (split["metadata"].get("creationTimestamp", ""), name[1], split["spec"])
            for name, split in self.all("TrafficSplit", root[0])
            if split["spec"]["service"] == root[1] and _valid(split["spec"])
        ]
        if not splits:
            return {root: Fraction(1)}
        spec = min(splits, key=lambda item: item[:2])[2]  # the oldest wins, then the first by name
        groups = [item["name"] for item in spec.get("matches", ())]
        if groups:
            found = [self.get("HTTPRouteGroup", root[0], name) for name in groups]
            matches = [match for group in found if group for match in group["spec"].get("matches", [])]
            path = None if ask is None else read_path(ask.path, self.slashes(root[0]))
            if ask is None or path is None:
                return {root: Fraction(1)}
            if not any(asked(match, Ask(ask.method, path, ask.headers)) for match in matches):
                return {root: Fraction(1)}
        # Root and backend must share the port; a backend without it is left out.
        weights = {
            (root[0], item["service"]): _quantity(item["weight"])
            for item in spec["backends"]
            if self._offered((root[0], item["service"]), port)
        }
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight}


def _address(text: str, *, loopback: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address that may be a pod's or a Service's."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if (found.is_loopback and not loopback) or found.is_link_local or found.is_multicast or found.is_unspecified:
        return None
    # IPv4 in disguise.
    return None if isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.sixtofour) else found


def _valid(spec: dict[str, Any]) -> bool:
    return bool(spec.get("backends")) and all(_quantity(item["weight"]) >= 0 for item in spec["backends"])


def _quantity(value: Any) -> Fraction:
    text = str(value)
    return Fraction(text[:-1]) / 1000 if text.endswith("m") else Fraction(text)


def asked(match: dict[str, Any], ask: Ask) -> bool:
    """Whether a request agrees with one match: with its path, one of its methods and all its headers."""
    # The path is anchored at its start; neither the query string nor parameters of segments are part of it.
    bare = re.sub(";[^/]*", "", ask.path.partition("?")[0])
    if match.get("pathRegex") and not re.match(match["pathRegex"], bare):
        return False
    methods = match.get("methods") or ["*"]
    if "*" not in methods and ask.method not in methods:
        return False
    wanted = {name.lower(): pattern for name, pattern in (match.get("headers") or {}).items()}
    return all(
        any(name == key.lower() and re.fullmatch(pattern, value) for key, value in ask.headers)
        for name, pattern in wanted.items()
    )


def _first_of_each(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Of a header that rules name only the first line counts."""
    seen: set[str] = set()
    for name, value in headers:
        if name.lower() not in seen:
            seen.add(name.lower())
            yield name, value


def _states(name: str) -> bool:
    """Whether a header states how a request came."""
    plain = re.sub("[^0-9a-z]", "-", name.lower())
    return plain == "forwarded" or (
        plain.startswith(("x-forwarded-", "x-envoy-")) and name != "x-forwarded-client-cert"
    )


def read_path(path: str, slashes: str) -> str | None:
    """A path as policy and application read it, with its query; none if it is refused."""
    bare, mark, query = path.partition("?")
    if slashes != "keep":
        decoded = re.sub("%2f", "/", re.sub("%5c", "/", bare, flags=re.IGNORECASE), flags=re.IGNORECASE)
        if slashes == "reject" and decoded != bare:
            return None
        bare = decoded
    plain = re.sub("%([2-7][0-9a-fA-F])", lambda escape: _unescaped(escape[1]), bare.replace("\\", "/"))
    kept: list[str] = []
    for segment in plain.split("/")[1:]:
        name = segment.partition(";")[0]
        if name == "..":
            kept = kept[:-1]
        elif name != ".":
            kept.append(segment)
    # A path that ends in a dot segment ends in a slash.
    if plain.rpartition("/")[2].partition(";")[0] in {".", ".."}:
        kept.append("")
    ends = kept[-1:] == [""]
    kept = [segment for segment in kept if segment]
    read = "/" + "/".join(kept) + ("/" if ends and kept else "")
    # What is kept escaped must not hide a dot segment.
    if re.search(r"(^|/)\.\.?(/|$)", re.sub("%2f|%5c", "/", read, flags=re.IGNORECASE)):
        return None
    return f"{read}{mark}{query}"


def _unescaped(digits: str) -> str:
    char = chr(int(digits, 16))
    return char if char.isalnum() or char in "-._~" else f"%{digits}"
