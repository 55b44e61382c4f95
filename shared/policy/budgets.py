"""How much one object, one namespace, and one namespace in the sidecars of another may have. Pure.

Whatever a tenant writes costs others something: the compiler's time, and memory of sidecars that hold its
configuration. A budget bounds that in countable things. Objects are counted before anything of them is compiled, above
all before any regular expression is: the counting costs what reading the object costs.

The webhook refuses an object that is beyond a budget of its own, the compiler leaves it out, and `meshlog check`,
`plan` and `compile` print the same sentence, because all of them use this module. The defaults are far above what
people write by hand (the reasons stand beside them), so that only generated objects and attacks meet them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shared.errors import BadInputError
from shared.policy.errors import PolicyError
from shared.projected_objects import EndpointSlice, Pod, Service


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """The limits; `budgets_of` reads those that differ from the defaults out of the setting `budgets`."""

    object_bytes: int = 256 * 1024
    """Bytes of the specification of a policy object, as compact JSON. A thousand matches of 150 bytes fit."""

    matches: int = 1000
    """Matches of an HTTPRouteGroup. The largest published HTTP APIs have some 900 operations."""
    headers: int = 32
    """Headers of one match."""
    methods: int = 40
    """Methods of one match: as many as are registered (RFC 9110, section 16.1.1). They become one expression."""
    expressions: int = 2000
    """Regular expressions of an HTTPRouteGroup: a path and a header for each match."""
    expression_chars: int = 128 * 1024
    """Characters of all expressions of an HTTPRouteGroup. RE2 reads up to 1 MB a second of the worst kind."""
    unicode_classes: int = 40
    r"""Unicode classes (`\pL`, `\P{Greek}`) in the expressions of an HTTPRouteGroup: each costs RE2 0.1 ms, and paths
    and headers hold no Unicode."""
    program: int = 50_000
    """RE2 program size of all expressions of an HTTPRouteGroup together. A path such as `/api/v1/users/[^/]+/books`
    has 40, so that a thousand of them fit; an Envoy holds some 50 bytes for each unit and port."""

    rules: int = 200
    """Rules of a TrafficTarget."""
    sources: int = 1000
    """Sources of a TrafficTarget: a thousand services, each with an account of its own, may call one."""
    route_ports: int = 1000
    """Ports of a TCPRoute."""
    identities: int = 1000
    """SPIFFE ids of an IdentityBinding."""
    requirements: int = 100
    """Conditions of an IdentityBinding's selector, and values of each."""
    backends: int = 64
    """Backends of a TrafficSplit."""
    split_groups: int = 32
    """HTTPRouteGroups that a TrafficSplit names as matches."""

    service_ports: int = 500
    """Ports of a Service. Ranges for media or file transfer have some hundreds."""
    service_addresses: int = 16
    """Cluster addresses of a Service; Kubernetes gives two."""
    selector: int = 64
    """Labels of a Service's selector."""
    slice_endpoints: int = 1000
    """Endpoints of an EndpointSlice; Kubernetes' own limit."""
    slice_ports: int = 500
    """Ports of an EndpointSlice: those of its Service."""
    pod_labels: int = 256
    """Labels of a Pod."""
    pod_ports: int = 1000
    """Container ports of a Pod."""
    pod_open_ports: int = 500
    """Ports of a Pod that Services lead to: as many as one Service may have."""

    namespace_open_ports: int = 10_000
    """Ports that the Services of a namespace open, for each account and kind of pod: ten for each of a thousand."""
    namespace_endpoints: int = 50_000
    """Endpoints of the Services of a namespace, counted for each port: of 10,000 pods at five ports. One that becomes
    ready or unready makes all endpoints of its Services be rendered."""
    namespace_matches: int = 10_000
    """Matches of all HTTPRouteGroups of a namespace: of ten whole HTTP APIs."""
    namespace_expressions: int = 1_000_000
    r"""Characters and program sizes of all expressions of a namespace, and 200 for each Unicode class: what compiling
    them costs, 0.5 s at most. 10,000 usual matches have some 600,000."""
    namespace_kb: int = 2_000_000
    """What the TrafficTargets of a namespace put into all sidecars together, in estimated kB: each of a thousand
    services of one port called by 18 others. To compile it takes a second."""
    offered_kb: int = 400_000
    """What the Services and TrafficSplits of a namespace put into one sidecar of it, or of a namespace that asked for
    them, in estimated kB: 3,600 ports."""
    foreign_kb: int = 8_000
    """What they put into one sidecar of a namespace that did not ask for them: 72 ports."""


PORT_KB = 110
"""Estimated kB of an Envoy's memory for one port of a Service: chain, routes, cluster. Measured with Envoy 1.40, as
all that follow."""
ENDPOINT_KB = 3
"""For one endpoint of a cluster."""
ROUTE_KB = 9
"""For one match of a TrafficSplit, with its retries."""
SHARE_KB = 1
"""For one backend of such a match."""
PERMISSION_KB = 3
"""For one match that a port of the application lets through."""
PRINCIPAL_KB = 2
"""For one account that it lets through."""
PROGRAM_PER_KB = 20
"""Units of RE2 program size that take 1 kB."""

DEFAULTS = Budgets()


def budgets_of(given: Sequence[str]) -> Budgets:
    """The limits with those changed that are given as `NAME=NUMBER`. Raises `BadInputError`."""
    return budgets_from(dict(_parsed(item) for item in given))


def budgets_from(changed: Mapping[str, int]) -> Budgets:
    """The limits with some of them changed. Raises `BadInputError` for a name that no limit has."""
    known = {field.name for field in msgspec.structs.fields(Budgets)}
    for name in changed:
        if name not in known:
            raise BadInputError(
                "settings/value", f"{name!r} is no budget; known are {', '.join(sorted(known))}", about="budgets"
            )
    return Budgets(**changed)


def changed_from_defaults(budgets: Budgets) -> dict[str, int]:
    """The limits that differ from the defaults."""
    found = msgspec.structs.asdict(budgets)
    return {name: limit for name, limit in found.items() if limit != getattr(DEFAULTS, name)}


def _parsed(item: str) -> tuple[str, int]:
    name, separator, number = item.partition("=")
    name, number = name.strip(), number.strip()
    if not separator or not number.isascii() or not number.isdigit() or len(number) > 12:
        raise BadInputError("settings/value", f"{item[:80]!r} is no budget; write NAME=NUMBER", about="budgets")
    return name, int(number)


def within(limit: int, count: int, what: str, *, code: str, instead: str) -> None:
    """Raise `PolicyError` if a count is beyond its limit; `instead` is what the user can do."""
    if count > limit:
        raise PolicyError(f"budget/{code}", f"has {count} {what}, more than {limit}; {instead}")


def judge_object(value: object, budgets: Budgets) -> None:
    """Raise `PolicyError` if an object that is no policy (a Service, a Pod, …) has too much of something."""
    match value:
        case Service(spec=spec):
            within(budgets.service_ports, len(spec.ports), "ports", code="service-ports", instead=_MORE_SERVICES)
            within(budgets.selector, len(spec.selector), "labels to select by", code="selector", instead="use fewer")
            addresses = len(spec.cluster_ips)
            within(budgets.service_addresses, addresses, "addresses", code="service-addresses", instead=_MORE_SERVICES)
        case EndpointSlice():
            endpoints = len(value.endpoints)
            within(budgets.slice_endpoints, endpoints, "endpoints", code="slice-endpoints", instead=_MORE_SLICES)
            within(budgets.slice_ports, len(value.ports or ()), "ports", code="slice-ports", instead=_MORE_SERVICES)
        case Pod(metadata=meta, spec=spec):
            within(budgets.pod_labels, len(meta.labels), "labels", code="pod-labels", instead="use fewer")
            ports = sum(len(container.ports) for container in spec.containers)
            within(budgets.pod_ports, ports, "container ports", code="pod-ports", instead="name fewer")
        case _:
            pass


_MORE_SERVICES = "divide it into several Services"
_MORE_SLICES = "divide them among several EndpointSlices"
