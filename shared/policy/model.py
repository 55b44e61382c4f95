"""SMI policy in one model, whatever version it was written in."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.policy.object_name import ObjectName


class HttpMatch(msgspec.Struct, frozen=True):
    """Some HTTP requests: those that agree in everything that is given."""

    name: str
    path: str = ""
    """RE2, anchored at its start only, matched against the path without the query string. Empty: any."""
    methods: tuple[str, ...] = ()
    """Upper case. Empty: any."""
    headers: tuple[tuple[str, str], ...] = ()
    """Lower-case name and RE2 that the whole value must match, sorted; all must agree. `host` is `:authority`."""


class RouteGroup(msgspec.Struct, frozen=True):
    """An HTTPRouteGroup: its matches are alternatives."""

    matches: tuple[HttpMatch, ...]
    created: str = ""
    """When the object was made, RFC 3339: the oldest of a namespace are within its budget first."""


class TcpRoute(msgspec.Struct, frozen=True):
    """A TCPRoute: ports of the destination pod. None: all."""

    ports: tuple[int, ...] = ()


class UdpRoute(msgspec.Struct, frozen=True):
    """A UDPRoute: read so that it can be answered; UDP is never intercepted, so it grants nothing."""


class Requirement(msgspec.Struct, frozen=True):
    """One condition of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class IdentityBinding(msgspec.Struct, frozen=True):
    """A name for identities of its own namespace: those that any of its schemes means."""

    account: str = ""
    """A service account; empty: the scheme is not used."""
    spiffe: tuple[str, ...] = ()
    """SPIFFE ids as written, without `spiffe://`."""
    selector: tuple[Requirement, ...] | None = None
    """Pods by their labels, all conditions; none: the scheme is not used."""


class TargetRule(msgspec.Struct, frozen=True):
    """One rule of a TrafficTarget: a route by kind and name, in the target's namespace."""

    kind: str
    """`HTTPRouteGroup`, `TCPRoute` or `UDPRoute`."""
    name: str
    matches: tuple[str, ...] = ()
    """Names of matches of the group. None: every one."""


class TrafficTarget(msgspec.Struct, frozen=True):
    """A TrafficTarget: which sources may make which calls to a destination."""

    destination: ObjectName
    """A service account, or an IdentityBinding (`destination_is_binding`)."""
    sources: tuple[ObjectName, ...]
    """Service accounts, sorted."""
    rules: tuple[TargetRule, ...]
    port: int = 0
    """`destination.port` of v1alpha1 and v1alpha2; 0: all."""
    source_bindings: tuple[ObjectName, ...] = ()
    """IdentityBindings, sorted."""
    destination_is_binding: bool = False
    created: str = ""
    """When the object was made, RFC 3339: the oldest of a namespace are within its budget first."""


class Backend(msgspec.Struct, frozen=True):
    """One backend of a split, in the namespace of the split."""

    service: str
    weight: int


class TrafficSplit(msgspec.Struct, frozen=True):
    """How calls to a root service are spread."""

    root: str
    backends: tuple[Backend, ...]
    """In the order written; no service twice."""
    created: str = ""
    """When the object was made, RFC 3339: the oldest split of a root wins."""
    matches: tuple[str, ...] = ()
    """HTTPRouteGroups of the same namespace; none: all calls are spread."""


EscapedSlashes = Literal["reject", "decode", "keep"]
"""What a sidecar does with a path that holds `%2F` or `%5C`: answer 400, decode it before policy and application read
it, or leave it as it is."""


class MeshConfig(msgspec.Struct, frozen=True):
    """The settings that change what is compiled."""

    permissive: bool = False
    egress: bool = False
    escaped_slashes: EscapedSlashes = "reject"
    forwarders: tuple[ObjectName, ...] = ()
    """Service accounts whose `x-forwarded-*` headers every pod gets as sent, sorted."""
    problems: tuple[tuple[str, str], ...] = ()
    """Code and sentence of what its other readers, new pods and the CA, cannot use."""


Policy = TrafficTarget | IdentityBinding | RouteGroup | TcpRoute | UdpRoute | TrafficSplit | MeshConfig
