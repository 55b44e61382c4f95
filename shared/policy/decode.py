"""From the object as a user wrote it, in any published version of SMI, to the one model.

Tolerant where versions differ in spelling, strict where a guess could grant a call: then the object is refused
with a stable code, and the caller leaves it out, alone. The rules are those of the SMI
specification v0.6.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from shared.model import PolicyObject
from shared.policy import regexes
from shared.policy.errors import PolicyError
from shared.policy.model import (
    Backend,
    HttpMatch,
    IdentityBinding,
    MeshConfig,
    Policy,
    Requirement,
    RouteGroup,
    Rule,
    TcpRoute,
    TrafficSplit,
    TrafficTarget,
    UdpRoute,
)
from shared.policy.names import ObjectName

SMI_VERSIONS = frozenset({"v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"})
MAX_WEIGHT = 1_000_000
MOST_SHARES = 2**32 - 1
"""Sum of the weights that a `WeightedCluster` of Envoy takes."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_MILLI = Decimal(1000)


def decode(kind: str, api_version: str, policy: PolicyObject) -> Policy:
    """Read one object. Raises `PolicyError` if it says nothing that can be compiled."""
    version = api_version.rpartition("/")[2]
    if kind != "MeshConfig" and version not in SMI_VERSIONS:
        known = ", ".join(sorted(SMI_VERSIONS))
        raise PolicyError("smi/version", f"version {api_version!r} of {kind} is not one of {known}")
    return _DECODERS[kind](policy)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError("smi/shape", f"{what} must be a mapping")
    return cast("dict[str, Any]", value)


def _sequence(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PolicyError("smi/shape", f"{what} must be a list")
    return cast("list[Any]", value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError("smi/shape", f"{what} must be a text that is not empty")
    return value


def _name(value: Any, what: str) -> str:
    text = _text(value, what)
    if len(text) > 253 or not _NAME.match(text):
        raise PolicyError("smi/name", f"{what} {text[:80]!r} is no Kubernetes name")
    return text


def _port(value: Any, what: str) -> int:
    # v1alpha1 and v1alpha2 had ports written as text; both are still found.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise PolicyError("smi/port", f"{what} must be a port number from 1 to 65535, not {str(value)[:40]!r}")
    return value


def _subject(value: Any, what: str, namespace: str) -> tuple[bool, ObjectName]:
    """Whether it is an IdentityBinding (else a ServiceAccount), and which."""
    subject = _mapping(value, what)
    kind = subject.get("kind", "ServiceAccount")
    if kind not in {"ServiceAccount", "IdentityBinding"}:
        raise PolicyError("smi/subject-kind", f"{what} is a {str(kind)[:40]!r}; use ServiceAccount or IdentityBinding")
    return kind == "IdentityBinding", ObjectName(
        _name(subject.get("namespace") or namespace, f"the namespace of {what}"),
        _name(subject.get("name"), f"the name of {what}"),
    )


def _rule(value: Any, what: str) -> Rule:
    rule = _mapping(value, what)
    kind = rule.get("kind")
    if kind not in {"HTTPRouteGroup", "TCPRoute", "UDPRoute"}:
        raise PolicyError("smi/rule-kind", f"{what} is a {str(kind)[:40]!r}; use HTTPRouteGroup or TCPRoute")
    matches = tuple(_text(item, f"a match of {what}") for item in _sequence(rule.get("matches"), f"matches of {what}"))
    return Rule(kind=kind, name=_name(rule.get("name"), f"the name of {what}"), matches=matches)


def _traffic_target(policy: PolicyObject) -> TrafficTarget:
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
    sources = _sequence(spec.get("sources"), "sources")
    rules = _sequence(spec.get("rules") or spec.get("specs"), "rules")  # `specs` in v1alpha1
    if not sources:
        raise PolicyError("smi/target-sources", "has no sources, so it lets nobody call; add at least one")
    if not rules:
        raise PolicyError("smi/target-rules", "has no rules, so it lets nothing through; add at least one")
    port = cast("dict[str, Any]", spec["destination"]).get("port")
    subjects = {_subject(item, f"source {i}", namespace) for i, item in enumerate(sources, 1)}
    return TrafficTarget(
        destination=destination,
        sources=tuple(sorted(name for is_binding, name in subjects if not is_binding)),
        source_bindings=tuple(sorted(name for is_binding, name in subjects if is_binding)),
        destination_is_binding=by_binding,
        rules=tuple(_rule(item, f"rule {i}") for i, item in enumerate(rules, 1)),
        port=_port(port, "destination.port") if port else 0,
    )


def _requirements(value: Any) -> tuple[Requirement, ...]:
    selector = _mapping(value, "podLabelSelector")
    found: list[Requirement] = []
    for key, wanted in _mapping(selector.get("matchLabels") or {}, "matchLabels").items():
        if not isinstance(wanted, str):
            raise PolicyError("smi/binding-selector", f"the label {key[:80]!r} of matchLabels must be a text")
        found.append(Requirement(key=key, operator="In", values=(wanted,)))
    for index, item in enumerate(_sequence(selector.get("matchExpressions"), "matchExpressions"), 1):
        expression = _mapping(item, f"matchExpressions {index}")
        operator = expression.get("operator")
        listed = _sequence(expression.get("values"), "values")
        values = tuple(sorted(_text(one, f"a value of matchExpressions {index}") for one in listed))
        if operator not in {"In", "NotIn", "Exists", "DoesNotExist"} or bool(values) != (operator in {"In", "NotIn"}):
            raise PolicyError(
                "smi/binding-selector",
                f"matchExpressions {index} must be In or NotIn with values, or Exists or DoesNotExist without",
            )
        key = _text(expression.get("key"), f"the key of matchExpressions {index}")
        found.append(Requirement(key=key, operator=operator, values=values))
    if not found:
        # An empty selector means every pod in Kubernetes: nobody should grant that by leaving something out.
        raise PolicyError("smi/binding-selector", "podLabelSelector selects by nothing; name at least one label")
    return tuple(sorted(found, key=lambda one: (one.key, one.operator, one.values)))


def _identity_binding(policy: PolicyObject) -> IdentityBinding:
    schemes = _mapping(policy.spec.get("schemes") or {}, "schemes")
    account, selector = schemes.get("serviceAccount"), schemes.get("podLabelSelector")
    spiffe = _sequence(schemes.get("spiffeIdentities"), "spiffeIdentities")
    if account and selector:
        raise PolicyError(
            "smi/binding-schemes", "has both podLabelSelector and serviceAccount, which exclude each other; keep one"
        )
    if not account and not selector and not spiffe:
        raise PolicyError(
            "smi/binding-schemes", "means nobody; give it a serviceAccount, spiffeIdentities or a podLabelSelector"
        )
    identities = {_text(item, "an entry of spiffeIdentities").removeprefix("spiffe://") for item in spiffe}
    return IdentityBinding(
        account=_name(account, "serviceAccount") if account else "",
        spiffe=tuple(sorted(identities)),
        selector=_requirements(selector) if selector else None,
    )


def _udp_route(policy: PolicyObject) -> UdpRoute:  # noqa: ARG001 (whatever it says, the answer is the same)
    return UdpRoute()


def _headers(value: Any, what: str) -> tuple[tuple[str, str], ...]:
    # v1alpha2 wrote a list of single-entry mappings, later versions one mapping.
    parts = [value] if isinstance(value, dict) else list(_sequence(value, what))
    headers: dict[str, str] = {}
    for part in parts:
        for key, pattern in _mapping(part, what).items():
            name = key.lower()
            if not _TOKEN.match(name) or name.startswith(":"):
                raise PolicyError("smi/header", f"{what} names {key[:80]!r}, which is no HTTP header")
            if name in headers:
                raise PolicyError("smi/header", f"{what} names {name!r} twice; write one expression for it")
            if not isinstance(pattern, str):
                raise PolicyError("smi/header", f"{what}: the value for {name!r} must be a text")
            regexes.check(pattern, f"the expression for header {name!r}")
            headers[name] = pattern
    return tuple(sorted(headers.items()))


def _methods(value: Any, what: str) -> tuple[str, ...]:
    methods: set[str] = set()
    for item in _sequence(value, what):
        method = _text(item, f"a method of {what}").upper()
        if method == "*":
            return ()
        if not _TOKEN.match(method):
            raise PolicyError("smi/method", f"{what} names {item[:40]!r}, which is no HTTP method")
        methods.add(method)
    return tuple(sorted(methods))


def _http_match(value: Any, what: str) -> HttpMatch:
    match = _mapping(value, what)
    path = match.get("pathRegex") or ""
    if not isinstance(path, str):
        raise PolicyError("smi/shape", f"pathRegex of {what} must be a text")
    if path:
        regexes.check(path, "pathRegex")
    name = match.get("name") or ""
    return HttpMatch(
        name=name if isinstance(name, str) else str(name),
        path=path,
        methods=_methods(match.get("methods"), what),
        headers=_headers(match.get("headers"), f"headers of {what}"),
    )


def _route_group(policy: PolicyObject) -> RouteGroup:
    matches = _sequence(policy.spec.get("matches"), "matches")
    return RouteGroup(matches=tuple(_http_match(item, f"match {i}") for i, item in enumerate(matches, 1)))


def _tcp_route(policy: PolicyObject) -> TcpRoute:
    matches = policy.spec.get("matches")
    # v1alpha4: one mapping with ports. Before, a TCPRoute had nothing but its name: all ports.
    parts = [matches] if isinstance(matches, dict) else list(_sequence(matches, "matches"))
    ports: set[int] = set()
    for part in parts:
        listed = _sequence(_mapping(part, "matches").get("ports"), "ports")
        if not listed:
            return TcpRoute()
        ports.update(_port(item, "a port of the route") for item in listed)
    return TcpRoute(ports=tuple(sorted(ports)))


def _service(value: Any, what: str, namespace: str) -> str:
    # People write the service's host name too: NAME.NAMESPACE, with or without .svc and a cluster domain.
    text = _name(value, what)
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


def _traffic_split(policy: PolicyObject) -> TrafficSplit:
    spec = policy.spec
    namespace = policy.metadata.namespace
    root = _service(spec.get("service"), "the root service", namespace)
    weights: dict[str, Decimal] = {}
    for index, item in enumerate(_sequence(spec.get("backends"), "backends"), 1):
        backend = _mapping(item, f"backend {index}")
        service = _service(backend.get("service"), f"backend {index}", namespace)
        if service in weights:
            raise PolicyError("smi/split-backend", f"names backend {service!r} twice; give it one weight")
        weights[service] = _quantity(backend.get("weight"), f"backend {service!r}")
    if not weights:
        raise PolicyError("smi/split-backend", "has no backends; add at least one")
    shares = _whole_shares(weights)
    groups: list[str] = []
    for index, item in enumerate(_sequence(spec.get("matches"), "matches"), 1):
        reference = _mapping(item, f"matches {index}")
        if reference.get("kind", "HTTPRouteGroup") != "HTTPRouteGroup":
            raise PolicyError("smi/split-matches", f"matches {index} must be an HTTPRouteGroup")
        groups.append(_name(reference.get("name"), f"the name of matches {index}"))
    return TrafficSplit(
        root=root,
        backends=tuple(Backend(service=name, weight=share) for name, share in shares.items()),
        created=policy.metadata.creation_timestamp,
        matches=tuple(groups),
    )


def _mesh_config(policy: PolicyObject) -> MeshConfig:
    traffic = _mapping(policy.spec.get("traffic") or {}, "spec.traffic")
    flags: dict[str, bool] = {}
    for name in ("enablePermissiveTrafficPolicyMode", "enableEgress"):
        value = traffic.get(name, False)
        if not isinstance(value, bool):
            raise PolicyError("mesh/config", f"spec.traffic.{name} must be true or false")
        flags[name] = value
    return MeshConfig(permissive=flags["enablePermissiveTrafficPolicyMode"], egress=flags["enableEgress"])


_DECODERS: dict[str, Callable[[PolicyObject], Policy]] = {
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
