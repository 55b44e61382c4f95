"""What is wrong with policy objects that can be read: named, with what their user should do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from services.compiler import address_claims
from services.compiler.derive.budgets.fit import offers_left_out, targets_left_out
from services.compiler.derive.membership import is_member, receives_services_of, spiffe_ids, workload
from services.compiler.derive.policy.identity_bindings import account_of, selected_accounts
from services.compiler.derive.policy.route_groups import Problem, route_group
from services.compiler.derive.policy.route_groups import left_out as groups_left_out
from services.compiler.derive.policy.splits import split_of
from services.compiler.derive.services.address_owner import addresses_of_service, service_at
from services.compiler.derive.services.offers import AnsweringPod, answering, port, ports
from services.compiler.derive.services.open_ports import OverruledPort, overruled, services_beyond
from services.compiler.derive.services.protocols import Protocol
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.io.addresses import canonical, reserved
from shared.kubernetes.reserved_ports import LISTENING
from shared.names import MESH_CONFIG
from shared.policy.model import TargetRule
from shared.policy.object_name import ObjectName
from shared.policy.request_settings import escaped_slashes, listed_forwarders
from shared.projected_objects import (
    AFFINITY_SECONDS,
    ANNOTATION_CALLS,
    ANNOTATION_ESCAPED_SLASHES,
    ANNOTATION_FORWARDERS,
    ANNOTATION_PERMISSIVE,
    ServiceSpec,
)

_NAMED = 5
"""Endpoints of one Service that are named at most."""


def _rule_problem(mesh: MeshState, namespace: str, rule: TargetRule) -> Problem | None:
    name = ObjectName(namespace, rule.name)
    if rule.kind == "UDPRoute":
        return "smi/udp", f"names UDPRoute {name}: UDP is not intercepted, so the rule grants and denies nothing"
    if rule.kind == "TCPRoute":
        if mesh.tcp_routes.get(name) is None:
            return "smi/route-missing", f"names TCPRoute {name}, which is not there; the rule grants nothing"
        return None
    group = route_group(mesh, name)
    if group is None:
        return "smi/route-missing", f"names HTTPRouteGroup {name}, which is not there; the rule grants nothing"
    present = {match.name for match in group.matches}
    for wanted in rule.matches:
        if wanted not in present:
            return "smi/match-missing", f"names match {wanted!r}, which HTTPRouteGroup {name} does not have"
    return None


@query
def group_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """Why a route group is not in force."""
    problem = groups_left_out(mesh, name.namespace).get(name)
    return () if problem is None else (problem,)


@query
def target_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with a traffic target."""
    target = mesh.targets.get(name)
    if target is None or not is_member(mesh, name.namespace):
        return ()
    beyond = targets_left_out(mesh, name.namespace).get(name)
    if beyond is not None:
        return (beyond,)
    found = [problem for rule in target.rules if (problem := _rule_problem(mesh, name.namespace, rule)) is not None]
    found.extend(
        ("smi/source-name", f"source {source} can have no SPIFFE identity; it is left out")
        for source in target.sources
        if not spiffe_ids(mesh, source)
    )
    named = dict.fromkeys(source.namespace for source in (*target.sources, *target.source_bindings))
    deaf = [namespace for namespace in named if not receives_services_of(mesh, namespace, name.namespace)]
    unheard = f"whose annotation {ANNOTATION_CALLS} does not name {name.namespace}: its pods are not told of it"
    found.extend(("smi/source-calls", f"names sources of namespace {namespace}, {unheard}") for namespace in deaf)
    bindings = [*target.source_bindings, *([target.destination] if target.destination_is_binding else [])]
    found.extend(
        ("smi/binding-missing", f"names IdentityBinding {binding}, which is not there; it means nobody")
        for binding in bindings
        if mesh.bindings.get(binding) is None
    )
    return tuple(dict.fromkeys(found))


@query
def binding_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with an identity binding."""
    bound = mesh.bindings.get(name)
    if bound is None or not is_member(mesh, name.namespace):
        return ()
    own = f"{mesh.settings.trust_domain}/ns/{name.namespace}/sa/ACCOUNT"
    found = [
        ("smi/binding-identity", f"names {text[:120]!r}, which no pod of this namespace can prove; write {own}")
        for text in bound.spiffe
        if account_of(mesh, name, text) is None
    ]
    found.extend(
        (
            "smi/binding-shared",
            f"selects only some pods of service account {account}, which all prove one identity: it is left out",
        )
        for account, whole in selected_accounts(mesh, name)
        if not whole
    )
    return tuple(found)


@query
def udp_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """A UDPRoute is about traffic that sidecars do not intercept."""
    if mesh.udp_routes.get(name) is None or not is_member(mesh, name.namespace):
        return ()
    return (("smi/udp", "UDP is not intercepted: its packets pass as if there were no mesh, whatever this route says"),)


@query
def service_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """What a Service claims and does not get, and a Service that has no address that a sidecar could know it by."""
    found = mesh.services.get(name)
    if found is None or not is_member(mesh, name.namespace):
        return ()
    if found.spec.type == "ExternalName":
        renamed = f"is another name for {found.spec.external_name[:253]!r}"
        return (("service/external-name", f"{renamed}: calls to it leave the mesh, if egress is on"),)
    problems: list[Problem] = []
    beyond = offers_left_out(mesh, name.namespace).get(("Service", name))
    if beyond is not None:
        problems.append(beyond)
    if name in services_beyond(mesh, name.namespace):
        most = mesh.settings.budgets.namespace_open_ports
        problems.append(("budget/open-ports", _OPEN_PORTS.format(namespace=name.namespace, most=most)))
    if found.spec.internal_traffic_policy == "Local":
        problems.append(("service/local", _LOCAL))
    problems.extend(_not_followed(found.spec))
    problems.extend(
        ("service/proxy-port", _PROXY_PORT.format(port=one.number, target=one.target))
        for one in ports(mesh, name)
        if one.target in LISTENING
    )
    problems.extend(("service/protocol", _disagrees(one)) for one in overruled(mesh, name))
    foreign = [one for one in answering(mesh, name, workload) if not one.address and one.claimed]
    sentences = {sentence for one in foreign if (sentence := _why_no_endpoint(mesh, one)) is not None}
    return (
        *problems,
        *(("service/address", sentence) for sentence in _refused(mesh, name)),
        *(("service/endpoint", sentence) for sentence in sorted(sentences)[:_NAMED]),
    )


@query
def _refused(mesh: MeshState, service: ObjectName) -> tuple[str, ...]:
    """What a Service claims and does not get. Apart from its endpoints, which change more often."""
    own = addresses_of_service(mesh, service)
    return tuple(
        f"has the cluster address {address}, {_why_not(mesh, address)}; it is not called there"
        for address in address_claims.of_service(mesh.services.get(service))
        if address not in own
    )


def _not_followed(spec: ServiceSpec) -> Iterator[Problem]:
    """Preferences of a Service that sidecars do not have; calls arrive all the same."""
    if spec.traffic_distribution:
        yield "service/distribution", _DISTRIBUTION.format(spec.traffic_distribution[:40])
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    if spec.session_affinity == "ClientIP" and seconds not in (None, AFFINITY_SECONDS):
        yield "service/affinity-timeout", _AFFINITY.format(seconds)


_DISTRIBUTION = "has trafficDistribution: {}, which sidecars do not follow: they call all endpoints alike"
_AFFINITY = (
    "has sessionAffinityConfig.clientIP.timeoutSeconds: {}, which sidecars do not follow: a client keeps its endpoint "
    "until the endpoints change"
)
_LOCAL = (
    "has internalTrafficPolicy: Local, which sidecars do not follow: they call the endpoints of all nodes, and only "
    "pods without a sidecar stay on their own"
)
_PROXY_PORT = (
    "port {port} leads to port {target} of its pods, where their proxy itself listens: it is not opened; use another"
)
_SPOKEN: dict[Protocol, str] = {"http": "HTTP", "tcp": "bytes"}


def _disagrees(one: OverruledPort) -> str:
    here, there = _SPOKEN[one.protocol], "bytes" if one.protocol == "http" else "HTTP"
    return (
        f"port {one.number} is {here}, but Service {one.by}, the older one, leads to the same port {one.target} of its "
        f"pods as {there}, which counts for both; write the same appProtocol in both"
    )


_OPEN_PORTS = (
    "opens no port: the Services of namespace {namespace}, the oldest first, may open {most} ports, counted for each "
    "account and kind of pod; select fewer kinds of pods, or offer fewer ports"
)


def _why_not(mesh: MeshState, address: str) -> str:
    """Why a cluster address is not that of a Service which claims it."""
    pods = mesh.pods_by_address.get(address)
    if pods:
        return f"which pod {pods[0]} has"
    owner = service_at(mesh, address)
    if owner is not None:
        return f"which Service {owner} has, the older one"
    return "which no Service can have" if reserved(address) else "which another Service, as old, has too"


def _why_no_endpoint(mesh: MeshState, one: AnsweringPod) -> str | None:
    """Why a slice's address is no endpoint; None while the pod is not known to have any."""
    pod = mesh.pods.get(one.pod)
    claimed = address_claims.of_pod(pod)
    if pod is None or not claimed:
        return None
    said = f"has an endpoint at {one.claimed[:60]!r} for pod {one.pod}"
    if pod.spec.host_network:
        return f"{said}, which is on its node's network: it is left out"
    if canonical(one.claimed) in claimed:
        return f"{said}, whose address another pod or a node has by now: it is left out"
    return f"{said}, whose own is {', '.join(claimed)}: it is left out"


@query
def namespace_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with the annotations of a member namespace."""
    found = mesh.namespaces.get(name.name)
    if found is None or not is_member(mesh, name.name):
        return ()
    annotations = found.metadata.annotations
    problems: list[Problem] = []
    word = annotations.get(ANNOTATION_PERMISSIVE)
    if word is not None and word.strip().lower() not in {"true", "false"}:
        problems.append(
            (
                "mesh/permissive",
                f"annotation {ANNOTATION_PERMISSIVE} is {word[:40]!r}, not true or false: only traffic targets open",
            )
        )
    readers: dict[str, Callable[[str], object]] = {
        ANNOTATION_ESCAPED_SLASHES: escaped_slashes,
        ANNOTATION_FORWARDERS: listed_forwarders,
    }
    for annotation in sorted(readers.keys() & annotations.keys()):
        try:
            readers[annotation](annotations[annotation])
        except ValueError as error:
            problems.append(
                ("mesh/annotation", f"annotation {annotation}: {error}; until then the stricter choice holds")
            )
    return tuple(problems)


@query
def config_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """Fields of the mesh's MeshConfig that new pods or the CA cannot use; another MeshConfig is not in force."""
    found = mesh.mesh_configs.get(name)
    if found is None or name.namespace != mesh.settings.namespace:
        return ()
    if name.name != MESH_CONFIG:
        return (("mesh/name", f"is not in force: the mesh's is MeshConfig {name.namespace}/{MESH_CONFIG}"),)
    return found.problems


@query
def split_problems(mesh: MeshState, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with a traffic split."""
    split = mesh.splits.get(name)
    if split is None or not is_member(mesh, name.namespace):
        return ()
    root = ObjectName(name.namespace, split.root)
    winner = split_of(mesh, root)
    if winner is not None and winner != name:
        return (
            ("smi/split-conflict", f"root {root} is split by {winner} already, which is older; this has no effect"),
        )
    offered = ports(mesh, root)
    if not offered:
        return (("smi/split-root", f"root {root} is no Service with TCP ports in the mesh; nothing is split"),)
    beyond = offers_left_out(mesh, name.namespace).get(("TrafficSplit", name))
    if beyond is not None:
        return (beyond,)
    found: list[Problem] = []
    for backend in split.backends:
        service = ObjectName(name.namespace, backend.service)
        lacking = [item.number for item in offered if port(mesh, service, item.number) is None]
        if lacking:
            listed = ", ".join(map(str, lacking))
            found.append(
                ("smi/split-port", f"backend {service} does not offer port {listed} of the root; it is left out there")
            )
    if not any(backend.weight for backend in split.backends):
        found.append(("smi/split-weightless", "all weights are 0: nothing passes; give a backend a weight"))
    found.extend(
        ("smi/route-missing", f"names HTTPRouteGroup {group}, which is not there; it matches nothing")
        for group in split.matches
        if route_group(mesh, ObjectName(name.namespace, group)) is None
    )
    return tuple(found)
