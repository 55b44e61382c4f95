"""From the object as a user wrote it, in any published version of SMI, to the one model.

Tolerant where versions differ in spelling, strict where a guess could grant a call: then the object is refused
with a stable code, and the caller leaves it out, alone. The rules are those of the SMI
specification v0.6.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from shared.meshconfig.spec_problems import problems
from shared.policy import field_checks
from shared.policy.budgets import DEFAULTS, Budgets, within
from shared.policy.errors import PolicyError
from shared.policy.model import (
    Backend,
    IdentityBinding,
    MeshConfig,
    Policy,
    Requirement,
    RouteGroup,
    TargetRule,
    TcpRoute,
    TrafficSplit,
    TrafficTarget,
    UdpRoute,
)
from shared.policy.object_name import ObjectName
from shared.policy.request_settings import escaped_slashes, forwarders
from shared.policy.route_groups import program_of, route_group
from shared.projected_objects import PolicyObject
from shared.records.events import encode_object

SMI_VERSIONS = frozenset({"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"})
MAX_WEIGHT = 1_000_000
MOST_SHARES = 2**32 - 1
"""Sum of the weights that a `WeightedCluster` of Envoy takes."""
_MILLI = Decimal(1000)


def decode(kind: str, api_version: str, policy: PolicyObject, budgets: Budgets = DEFAULTS) -> Policy:
    """Read one object. Raises `PolicyError` if it cannot be compiled, or is beyond a budget."""
    policy_object = outline(kind, api_version, policy, budgets)
    if isinstance(policy_object, RouteGroup):
        program_of(policy_object, budgets)
    return policy_object


def outline(kind: str, api_version: str, policy: PolicyObject, budgets: Budgets = DEFAULTS) -> Policy:
    """The same without compiling any regular expression: a bounded, short time for every object."""
    version = api_version.rpartition("/")[2]
    if kind != "MeshConfig" and version not in SMI_VERSIONS:
        known = ", ".join(sorted(SMI_VERSIONS))
        raise PolicyError("smi/version", f"version {api_version[:80]!r} of {kind} is not one of {known}")
    # Only operators of the mesh write a MeshConfig, and its last good form would stay in force.
    size = 0 if kind == "MeshConfig" else len(encode_object(policy.spec))
    within(budgets.object_bytes, size, "bytes of specification", code="object-bytes", instead="split it")
    return _DECODERS[kind](policy, budgets)


def _subject(value: Any, what: str, namespace: str) -> tuple[bool, ObjectName]:
    """Whether it is an IdentityBinding (else a ServiceAccount), and which."""
    subject = field_checks.mapping(value, what)
    kind = subject.get("kind", "ServiceAccount")
    if kind not in ("ServiceAccount", "IdentityBinding"):
        raise PolicyError("smi/subject-kind", f"{what} is a {str(kind)[:40]!r}; use ServiceAccount or IdentityBinding")
    return kind == "IdentityBinding", ObjectName(
        field_checks.name(subject.get("namespace") or namespace, f"the namespace of {what}"),
        field_checks.name(subject.get("name"), f"the name of {what}"),
    )


def _rule(value: Any, what: str, budgets: Budgets) -> TargetRule:
    rule = field_checks.mapping(value, what)
    kind = rule.get("kind")
    if kind not in ("HTTPRouteGroup", "TCPRoute", "UDPRoute"):
        raise PolicyError("smi/rule-kind", f"{what} is a {str(kind)[:40]!r}; use HTTPRouteGroup or TCPRoute")
    listed = field_checks.sequence(rule.get("matches"), f"matches of {what}")
    within(budgets.matches, len(listed), f"matches in {what}", code="matches", instead="name none to mean all")
    matches = tuple(field_checks.text(item, f"a match of {what}") for item in listed)
    return TargetRule(kind=kind, name=field_checks.name(rule.get("name"), f"the name of {what}"), matches=matches)


def _traffic_target(policy: PolicyObject, budgets: Budgets) -> TrafficTarget:
    spec = policy.spec
    namespace = policy.metadata.namespace
    if not spec.get("destination"):
        raise PolicyError("smi/target-destination", "has no destination; name the service account it opens")
    by_binding, destination = _subject(spec["destination"], "the destination", namespace)
    if destination.namespace != namespace:  # or anyone could open another team's service
        raise PolicyError(
            "smi/target-namespace",
            f"is in namespace {namespace} but opens {destination}; move it to namespace {destination.namespace}",
        )
    sources = field_checks.sequence(spec.get("sources"), "sources")
    rules = field_checks.sequence(spec.get("rules") or spec.get("specs"), "rules")  # `specs` in v1alpha1
    if not sources:
        raise PolicyError("smi/target-sources", "has no sources, so it lets nobody call; add at least one")
    if not rules:
        raise PolicyError("smi/target-rules", "has no rules, so it lets nothing through; add at least one")
    within(budgets.sources, len(sources), "sources", code="sources", instead="split it into several TrafficTargets")
    within(budgets.rules, len(rules), "rules", code="rules", instead="split it into several TrafficTargets")
    port = cast("dict[str, Any]", spec["destination"]).get("port")
    subjects = {_subject(item, f"source {i}", namespace) for i, item in enumerate(sources, 1)}
    return TrafficTarget(
        destination=destination,
        sources=tuple(sorted(name for is_binding, name in subjects if not is_binding)),
        source_bindings=tuple(sorted(name for is_binding, name in subjects if is_binding)),
        destination_is_binding=by_binding,
        rules=tuple(_rule(item, f"rule {i}", budgets) for i, item in enumerate(rules, 1)),
        port=field_checks.port(port, "destination.port") if port else 0,
        created=policy.metadata.creation_timestamp,
    )


def _requirements(value: Any, budgets: Budgets) -> tuple[Requirement, ...]:
    selector = field_checks.mapping(value, "podLabelSelector")
    found: list[Requirement] = []
    labels = field_checks.mapping(selector.get("matchLabels") or {}, "matchLabels")
    expressions = field_checks.sequence(selector.get("matchExpressions"), "matchExpressions")
    count = len(labels) + len(expressions)
    within(budgets.requirements, count, "conditions in podLabelSelector", code="requirements", instead="ask for fewer")
    for key, wanted in labels.items():
        if not isinstance(wanted, str):
            raise PolicyError("smi/binding-selector", f"the label {key[:80]!r} of matchLabels must be a text")
        found.append(Requirement(key=key, operator="In", values=(wanted,)))
    for index, item in enumerate(expressions, 1):
        expression = field_checks.mapping(item, f"matchExpressions {index}")
        operator = expression.get("operator")
        listed = field_checks.sequence(expression.get("values"), "values")
        what = f"values in matchExpressions {index}"
        within(budgets.requirements, len(listed), what, code="requirements", instead="ask for fewer")
        values = tuple(sorted(field_checks.text(one, f"a value of matchExpressions {index}") for one in listed))
        if operator not in {"In", "NotIn", "Exists", "DoesNotExist"} or bool(values) != (operator in {"In", "NotIn"}):
            raise PolicyError(
                "smi/binding-selector",
                f"matchExpressions {index} must be In or NotIn with values, or Exists or DoesNotExist without",
            )
        key = field_checks.text(expression.get("key"), f"the key of matchExpressions {index}")
        found.append(Requirement(key=key, operator=operator, values=values))
    if not found:
        # An empty selector means every pod in Kubernetes: no user should grant that by omitting a field.
        raise PolicyError("smi/binding-selector", "podLabelSelector selects by nothing; name at least one label")
    return tuple(sorted(found, key=lambda one: (one.key, one.operator, one.values)))


def _identity_binding(policy: PolicyObject, budgets: Budgets) -> IdentityBinding:
    schemes = field_checks.mapping(policy.spec.get("schemes") or {}, "schemes")
    account, selector = schemes.get("serviceAccount"), schemes.get("podLabelSelector")
    spiffe = field_checks.sequence(schemes.get("spiffeIdentities"), "spiffeIdentities")
    if account and selector:
        raise PolicyError(
            "smi/binding-schemes", "has both podLabelSelector and serviceAccount, which exclude each other; keep one"
        )
    if not account and not selector and not spiffe:
        raise PolicyError(
            "smi/binding-schemes", "means nobody; give it a serviceAccount, spiffeIdentities or a podLabelSelector"
        )
    within(budgets.identities, len(spiffe), "spiffeIdentities", code="identities", instead="split it into several")
    identities = {field_checks.text(item, "an entry of spiffeIdentities").removeprefix("spiffe://") for item in spiffe}
    return IdentityBinding(
        account=field_checks.name(account, "serviceAccount") if account else "",
        spiffe=tuple(sorted(identities)),
        selector=_requirements(selector, budgets) if selector else None,
    )


def _udp_route(policy: PolicyObject, budgets: Budgets) -> UdpRoute:  # noqa: ARG001 (its content does not matter)
    return UdpRoute()


def _tcp_route(policy: PolicyObject, budgets: Budgets) -> TcpRoute:
    matches = policy.spec.get("matches")
    # v1alpha4: one mapping with ports. Before, a TCPRoute had nothing but its name: all ports.
    parts = [matches] if isinstance(matches, dict) else list(field_checks.sequence(matches, "matches"))
    ports: set[int] = set()
    within(budgets.route_ports, len(parts), "matches", code="route-ports", instead="write one with all ports")
    for part in parts:
        listed = field_checks.sequence(field_checks.mapping(part, "matches").get("ports"), "ports")
        if not listed:
            return TcpRoute()
        within(budgets.route_ports, len(listed), "ports", code="route-ports", instead="split it into several TCPRoutes")
        ports.update(field_checks.port(item, "a port of the route") for item in listed)
    within(budgets.route_ports, len(ports), "ports", code="route-ports", instead="split it into several TCPRoutes")
    return TcpRoute(ports=tuple(sorted(ports)))


def _service(value: Any, what: str, namespace: str) -> str:
    # People write the service's host name too: NAME.NAMESPACE, with or without .svc and a cluster domain.
    text = field_checks.name(value, what)
    name, _, rest = text.partition(".")
    if rest and rest.split(".")[0] != namespace:
        raise PolicyError("smi/split-namespace", f"{what} {text!r} is not in namespace {namespace}, where the split is")
    return name


def _quantity(value: Any, what: str) -> Decimal:
    text = str(value)
    try:
        if isinstance(value, bool) or value is None or len(text) > 20:
            raise InvalidOperation  # noqa: TRY301 (the one refusal below)
        weight = Decimal(text[:-1]) / _MILLI if text.endswith("m") else Decimal(text)
        if not weight.is_finite():
            raise InvalidOperation  # noqa: TRY301
    except InvalidOperation:
        raise PolicyError("smi/split-weight", f"the weight of {what} is {text[:40]!r}; write a whole number") from None
    if not 0 <= weight <= MAX_WEIGHT:
        raise PolicyError("smi/split-weight", f"the weight of {what} is {text}; it must be from 0 to {MAX_WEIGHT}")
    if weight * _MILLI != (weight * _MILLI).to_integral_value():
        raise PolicyError("smi/split-weight", f"the weight of {what} is {text}; finer than 1m is not possible")
    return weight


def _whole_shares(weights: dict[str, Decimal]) -> dict[str, int]:
    """The same shares as whole numbers that a weighted cluster of Envoy takes.

    v1alpha1 weights are quantities ("500m"). If one weight is a fraction, all weights become thousandths. Shares that
    then add up to more than Envoy allows are divided by their common divisor; raises `PolicyError` if they still do.
    """
    scale = 1 if all(weight == weight.to_integral_value() for weight in weights.values()) else 1000
    shares = {name: int(weight * scale) for name, weight in weights.items()}
    if sum(shares.values()) <= MOST_SHARES:
        return shares
    divisor = math.gcd(*shares.values())
    shares = {name: share // divisor for name, share in shares.items()}
    if (total := sum(shares.values())) > MOST_SHARES:
        raise PolicyError(
            "smi/split-weight",
            f"the weights add up to {total} parts, and Envoy shares at most {MOST_SHARES}; write smaller weights, or "
            "weights with fewer decimals",
        )
    return shares


def _traffic_split(policy: PolicyObject, budgets: Budgets) -> TrafficSplit:
    spec = policy.spec
    namespace = policy.metadata.namespace
    root = _service(spec.get("service"), "the root service", namespace)
    weights: dict[str, Decimal] = {}
    listed = field_checks.sequence(spec.get("backends"), "backends")
    within(budgets.backends, len(listed), "backends", code="backends", instead="name fewer")
    for index, item in enumerate(listed, 1):
        backend = field_checks.mapping(item, f"backend {index}")
        service = _service(backend.get("service"), f"backend {index}", namespace)
        if service in weights:
            raise PolicyError("smi/split-backend", f"names backend {service!r} twice; give it one weight")
        weights[service] = _quantity(backend.get("weight"), f"backend {service!r}")
    if not weights:
        raise PolicyError("smi/split-backend", "has no backends; add at least one")
    shares = _whole_shares(weights)
    groups: list[str] = []
    named = field_checks.sequence(spec.get("matches"), "matches")
    within(budgets.split_groups, len(named), "HTTPRouteGroups as matches", code="split-groups", instead="name fewer")
    for index, item in enumerate(named, 1):
        reference = field_checks.mapping(item, f"matches {index}")
        if reference.get("kind", "HTTPRouteGroup") != "HTTPRouteGroup":
            raise PolicyError("smi/split-matches", f"matches {index} must be an HTTPRouteGroup")
        groups.append(field_checks.name(reference.get("name"), f"the name of matches {index}"))
    return TrafficSplit(
        root=root,
        backends=tuple(Backend(service=name, weight=share) for name, share in shares.items()),
        created=policy.metadata.creation_timestamp,
        matches=tuple(groups),
    )


def _mesh_config(policy: PolicyObject, budgets: Budgets) -> MeshConfig:  # noqa: ARG001 (all decoders are called alike)
    traffic = field_checks.mapping(policy.spec.get("traffic") or {}, "spec.traffic")
    flags: dict[str, bool] = {}
    for name in ("enablePermissiveTrafficPolicyMode", "enableEgress"):
        value = traffic.get(name, False)
        if not isinstance(value, bool):
            raise PolicyError("mesh/config", f"spec.traffic.{name} must be true or false")
        flags[name] = value
    slashes = traffic.get("escapedSlashes")
    try:
        return MeshConfig(
            permissive=flags["enablePermissiveTrafficPolicyMode"],
            egress=flags["enableEgress"],
            escaped_slashes="reject" if slashes is None else escaped_slashes(slashes),
            forwarders=forwarders(
                field_checks.sequence(traffic.get("trustedForwarders"), "spec.traffic.trustedForwarders")
            ),
            problems=problems(policy.spec),
        )
    except ValueError as error:
        raise PolicyError("mesh/config", f"spec.traffic: {error}") from None


def _route_group(policy: PolicyObject, budgets: Budgets) -> RouteGroup:
    return route_group(policy.spec.get("matches"), budgets, created=policy.metadata.creation_timestamp)


_DECODERS: dict[str, Callable[[PolicyObject, Budgets], Policy]] = {
    "TrafficTarget": _traffic_target,
    "HTTPRouteGroup": _route_group,
    "TCPRoute": _tcp_route,
    "UDPRoute": _udp_route,
    "IdentityBinding": _identity_binding,
    "TrafficSplit": _traffic_split,
    "MeshConfig": _mesh_config,
}

POLICY_KINDS = frozenset(_DECODERS)
"""Kinds that `decode` reads."""
