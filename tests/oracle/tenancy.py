"""What a namespace may change in the proxies of others: told from rendered bytes and plain objects.

The rule (docs/policy.md, "What a namespace can do to others") in the terms of a proxy outside of a namespace, the
*tenant*. Take away from what it holds

* the resources that carry the name of a Service of the tenant, and
* the filter chains of its outbound listener that do;

what is left is, byte for byte, what it would hold if the tenant's objects did not exist. What was taken away

* is there only if the proxy's namespace does not say that it calls others (`meshlog.io/calls`), and the tenant is
  permissive or has a TrafficTarget that names the proxy's account as a source;
* is entered only by addresses that are the tenant's, on ports of its Services;
* leads only to addresses of the tenant's pods, and asks them for identities of the tenant.

One thing more is asked of who lets a tenant in: a target of one's own that names an IdentityBinding of the tenant as a
source means whom that binding means. `trusting` leaves the tenant's identities out of the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from shared.records.snapshot import CDS, EDS, LDS, RDS, Snapshot
from tests.oracle.smi import Cluster, Name

Held = dict[tuple[str, str], bytes]
"""Type URL, name → bytes."""

_RBAC = "envoy.filters.http.rbac"


class Addition(NamedTuple):
    """What a proxy holds of a tenant. Budgets are about this."""

    entrances: frozenset[tuple[str, int, Name]]
    """Address and port that lead to it, and to which of its Services."""
    endpoints: frozenset[str]
    """Addresses that it leads to."""
    identities: frozenset[str]
    """Whom the proxy expects there."""
    size: int
    """Bytes of its resources and filter chains."""


def held_by(snapshot: Snapshot, key: str) -> Held:
    """Everything that a proxy holds."""
    view = snapshot.views[snapshot.proxies[key].workload_class]
    return {
        (type_url, name): snapshot.resources[type_url, name, digest].body
        for type_url, names in view.items()
        for name, digest in names.items()
    }


def _is_of(name: str, tenant: str) -> bool:
    kind, _, rest = name.partition("|")
    return kind in {"outbound", "direct"} and rest.startswith(f"{tenant}/")


def without(held: Held, tenant: str, *, trusting: bool = False) -> Held:
    """What a proxy holds, without all that is a tenant's; `trusting`: also without its identities."""
    found: Held = {}
    for (type_url, name), body in held.items():
        if type_url == LDS and name == "outbound":
            listener = Listener.FromString(body)
            own = [chain for chain in listener.filter_chains if not _is_of(chain.name, tenant)]
            if len(own) < len(listener.filter_chains):
                del listener.filter_chains[:]
                listener.filter_chains.extend(own)
            found[type_url, name] = listener.SerializeToString(deterministic=True)
        elif name.startswith(("outbound|", "direct|")):
            if not _is_of(name, tenant):
                found[type_url, name] = body
        else:
            found[type_url, name] = _without_callers(type_url, body, tenant) if trusting else body
    return found


def _without_callers(type_url: str, body: bytes, tenant: str) -> bytes:
    """The same rules of access, without the identities of a tenant."""
    if type_url == RDS:
        configuration = RouteConfiguration.FromString(body)
        host = configuration.virtual_hosts[0]
        for holder in (host, *host.routes):
            if _RBAC in holder.typed_per_filter_config:
                rules = RBACPerRoute.FromString(holder.typed_per_filter_config[_RBAC].value)
                _forget(rules.rbac.rules, tenant)
                holder.typed_per_filter_config[_RBAC].value = rules.SerializeToString(deterministic=True)
        return configuration.SerializeToString(deterministic=True)
    if type_url == LDS:
        listener = Listener.FromString(body)
        for chain in listener.filter_chains:
            _forget_in_chain(chain, tenant)
        return listener.SerializeToString(deterministic=True)
    return body


def _forget_in_chain(chain: FilterChain, tenant: str) -> None:
    for item in chain.filters:
        if item.name == "envoy.filters.network.rbac":
            guard = network_rbac.RBAC.FromString(item.typed_config.value)
            _forget(guard.rules, tenant)
            item.typed_config.value = guard.SerializeToString(deterministic=True)
    if chain.HasField("transport_socket"):
        context = DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)
        names = context.common_tls_context.combined_validation_context.default_validation_context
        kept = [one for one in names.match_typed_subject_alt_names if not _is_caller(one.matcher.exact, tenant)]
        kept = [one for one in kept if not one.matcher.exact.endswith("/nobody")]
        del names.match_typed_subject_alt_names[:]
        names.match_typed_subject_alt_names.extend(kept)
        chain.transport_socket.typed_config.value = context.SerializeToString(deterministic=True)


def _is_caller(identity: str, tenant: str) -> bool:
    return identity.partition("/ns/")[2].startswith(f"{tenant}/")


def _forget(rules: RBAC, tenant: str) -> None:
    for name, policy in list(rules.policies.items()):
        kept = [
            principal
            for principal in policy.principals
            if not _is_caller(principal.authenticated.principal_name.exact, tenant)
        ]
        if kept:
            rules.policies[name].CopyFrom(Policy(permissions=policy.permissions, principals=kept))
        else:
            del rules.policies[name]


def of(held: Held, tenant: str) -> Addition:
    """What a proxy holds of a tenant."""
    entrances: set[tuple[str, int, Name]] = set()
    endpoints: set[str] = set()
    identities: set[str] = set()
    size = 0
    for (type_url, name), body in held.items():
        if type_url == LDS and name == "outbound":
            for chain in Listener.FromString(body).filter_chains:
                if _is_of(chain.name, tenant):
                    size += chain.ByteSize()
                    entrances.update(_entrances(chain, tenant))
        if not _is_of(name, tenant):
            continue
        size += len(body)
        if type_url == CDS:
            identities.update(_expected(ClusterMessage.FromString(body)))
        elif type_url == EDS:
            endpoints.update(_addresses(ClusterLoadAssignment.FromString(body)))
    return Addition(frozenset(entrances), frozenset(endpoints), frozenset(identities), size)


def _entrances(chain: FilterChain, tenant: str) -> Iterable[tuple[str, int, Name]]:
    service = chain.name.split("|")[1].partition("/")[2]
    match = chain.filter_chain_match
    assert match.prefix_ranges, f"{chain.name} takes every address"
    for part in match.prefix_ranges:
        assert part.prefix_len.value == (128 if ":" in part.address_prefix else 32), f"{chain.name} takes a network"
        yield part.address_prefix, match.destination_port.value, (tenant, service)


def _expected(cluster: ClusterMessage) -> Iterable[str]:
    if not cluster.transport_socket.name:
        return
    context = UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert names.match_typed_subject_alt_names, f"{cluster.name} expects anybody"
    for one in names.match_typed_subject_alt_names:
        yield one.matcher.exact


def _addresses(assignment: ClusterLoadAssignment) -> Iterable[str]:
    for group in assignment.endpoints:
        for item in group.lb_endpoints:
            yield item.endpoint.address.socket_address.address


def may_be_told(cluster: Cluster, account: Name, tenant: str) -> bool:
    """Whether the proxies of an account may hold anything of a tenant at all."""
    if not cluster.hears(account[0], tenant):
        return False
    return cluster.permissive(tenant) or cluster.is_named(account, tenant)


def assert_bounded(cluster: Cluster, account: Name, tenant: str, addition: Addition) -> None:
    """What a proxy of an account holds of a tenant is allowed, leads there only, and is entered by what is its own."""
    if not may_be_told(cluster, account, tenant):
        assert not addition.size, f"{account} asked for nothing of {tenant}: {addition}"
    for address, port, service in addition.entrances:
        assert cluster.leads(address, service), f"{address} is not {service}'s"
        assert cluster.offers(service, port), f"{service} has no port {port}"
    for address in addition.endpoints:
        pod = cluster.pod_at(address)
        assert pod is not None, f"{address} is no pod's"
        assert pod[0] == tenant, f"{address} is {pod}'s"
    for identity in addition.identities:
        assert _is_caller(identity, tenant) or identity.endswith("/nobody"), identity
