"""Compiles the redirect of a pod: all TCP goes through its sidecar, with the configured exceptions.

`compile_redirect` returns the nftables table. Its rules and their order are those of the iptables chains of Open
Service Mesh, for IPv4 and IPv6. UDP is not redirected. The proxy's own connections are recognised by a socket mark (in
the devcluster, which has one user only) or by the proxy's user (on Kubernetes).
"""

from __future__ import annotations

import ipaddress

import msgspec

from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PROBE_PORTS
from shared.netfilter import tables
from shared.netfilter.tables import TCP, BaseHook, Chain, Network, Rule, Statement, Table, rules, verdict

_TABLE = "meshlog-sidecar"
_DESTINATION_NAT = -100
_LOOPBACK_4 = ipaddress.IPv4Network("127.0.0.1")
_LOOPBACK_6 = ipaddress.IPv6Network("::1")


class RedirectRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which traffic of a pod goes through its sidecar. Exactly one of `proxy_mark` and `proxy_uid` is set."""

    inbound_port: int = INBOUND_PORT
    """Port of Envoy for connections to the pod."""
    outbound_port: int = OUTBOUND_PORT
    """Port of Envoy for connections of the pod."""
    proxy_mark: int | None = None
    """The mark (SO_MARK) of Envoy's own connections."""
    proxy_uid: int | None = None
    """The user that Envoy runs as."""
    probe_ports: tuple[int, ...] = PROBE_PORTS
    """Probe ports that this pod's Envoy listens on. Connections to them are not redirected."""
    excluded_inbound_ports: tuple[int, ...] = ()
    excluded_outbound_ports: tuple[int, ...] = ()
    excluded_outbound_networks: tuple[str, ...] = ()
    """CIDRs that the pod connects to directly."""
    included_outbound_networks: tuple[str, ...] = ()
    """If not empty, only connections to these CIDRs go through Envoy. Exclusion takes precedence."""
    excluded_interfaces: tuple[str, ...] = ()
    """Interfaces whose traffic is not redirected, in both directions."""
    local_proxy_ip: str = ""
    """If set, connections of Envoy to 127.0.0.1 go to this address: for apps that listen on the pod's address only."""


def compile_redirect(wanted: RedirectRules) -> Table:
    """Return the table of these rules. Raises `BadInputError` for an invalid port, CIDR, interface or address."""
    tcp = tables.transport(TCP)
    inbound, outbound = _port(wanted.inbound_port), _port(wanted.outbound_port)
    return Table(
        _TABLE,
        (
            Chain("redirect-inbound", rules([tcp, tables.redirect(inbound)])),
            Chain("redirect-outbound", rules([tcp, tables.redirect(outbound)])),
            Chain("inbound", tuple(_inbound(wanted))),
            Chain("outbound", tuple(_outbound(wanted))),
            Chain(
                "prerouting",
                rules([tcp, verdict("goto", "inbound")]),
                BaseHook("nat", "prerouting", _DESTINATION_NAT),
            ),
            Chain("output", rules([tcp, verdict("goto", "outbound")]), BaseHook("nat", "output", _DESTINATION_NAT)),
        ),
    )


def _inbound(wanted: RedirectRules) -> list[Rule]:
    tcp, past = tables.transport(TCP), verdict("return")
    return [
        *((tables.in_interface(_interface(name)), past) for name in wanted.excluded_interfaces),
        *((tcp, tables.destination_port(_port(port)), past) for port in wanted.excluded_inbound_ports),
        *((tcp, tables.destination_port(_port(port)), past) for port in wanted.probe_ports),
        (verdict("goto", "redirect-inbound"),),
    ]


def _outbound(wanted: RedirectRules) -> list[Rule]:
    tcp, past = tables.transport(TCP), verdict("return")
    loopback = tables.out_interface("lo")
    to_proxy = verdict("goto", "redirect-outbound")
    excluded = [_network(text) for text in wanted.excluded_outbound_networks]
    included = [_network(text) for text in wanted.included_outbound_networks]
    return [
        *_to_local_proxy_ip(wanted, loopback),
        # Envoy connects to the pod's own address: a call to itself is subject to the pod's own policy.
        *(
            (loopback, _proxy(wanted), tables.destination(local, negated=True), verdict("goto", "redirect-inbound"))
            for local in (_LOOPBACK_4, _LOOPBACK_6)
        ),
        (loopback, _proxy(wanted, negated=True), past),
        (_proxy(wanted), past),
        *((tables.destination(local), past) for local in (_LOOPBACK_4, _LOOPBACK_6)),
        *((tables.out_interface(_interface(name)), past) for name in wanted.excluded_interfaces),
        *((tables.destination(network), past) for network in excluded),
        *((tcp, tables.destination_port(_port(port)), past) for port in wanted.excluded_outbound_ports),
        *((tables.destination(network), to_proxy) for network in included),
        (past if included else to_proxy,),
    ]


def _to_local_proxy_ip(wanted: RedirectRules, loopback: Statement) -> list[Rule]:
    if not wanted.local_proxy_ip:
        return []
    try:
        address = str(ipaddress.IPv4Address(wanted.local_proxy_ip))
    except ValueError as error:
        raise BadInputError("redirect/address", f"{wanted.local_proxy_ip!r} is no IPv4 address") from error
    to_pod = tables.translate_destination(address)
    own = (loopback, tables.destination(_LOOPBACK_4), _proxy(wanted))
    # Envoy answers readiness probes from its admin interface, which listens on 127.0.0.1 only.
    admin = (tables.transport(TCP), tables.destination_port(ADMIN_PORT), verdict("return"))
    return [(*own, *admin), (*own, to_pod)]


def _proxy(wanted: RedirectRules, *, negated: bool = False) -> Statement:
    if (wanted.proxy_mark is None) == (wanted.proxy_uid is None):
        raise BadInputError("redirect/proxy", "say by what Envoy is known: by --proxy-mark or by --proxy-uid")
    if wanted.proxy_mark is not None:
        return tables.socket_mark(_number(wanted.proxy_mark, "mark", 1), negated=negated)
    assert wanted.proxy_uid is not None
    return tables.socket_user(_number(wanted.proxy_uid, "user", 0), negated=negated)


def _number(value: int, what: str, least: int) -> int:
    if not least <= value < 1 << 32:
        raise BadInputError("redirect/number", f"{value} is no {what}: it must be from {least} to {(1 << 32) - 1}")
    return value


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise BadInputError("redirect/port", f"{value} is no port: it must be from 1 to 65535")
    return value


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise BadInputError("redirect/cidr", f"{text!r} is no CIDR: write 10.0.0.0/8 or fd00::/8") from error


def _interface(name: str) -> str:
    if not name or len(name.encode()) > 15 or "/" in name or any(character.isspace() for character in name):
        raise BadInputError("redirect/interface", f"{name!r} is no name of a network interface")
    return name
