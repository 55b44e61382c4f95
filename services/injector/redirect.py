"""The sidecar's redirect: all TCP of a pod goes through its Envoy, except what must not.

`compile_redirect` turns a pod's settings into a table; its rules and their order are those that users of Open Service
Mesh know from its iptables chains, for IPv4 and IPv6 alike. UDP is never touched. `apply` replaces the whole table in
one transaction, so running the init container twice changes nothing. Connections of Envoy itself are known by a
socket mark (where only one user exists, as in the devcluster) or by its user (on Kubernetes).
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PROBE_PORTS
from shared.netfilter import tables, transaction
from shared.netfilter.netlink import NetlinkError
from shared.netfilter.tables import TCP, BaseHook, Chain, Network, Rule, Statement, Table, rules, verdict
from shared.service import inotify

_TABLE = "meshlog-sidecar"
_DESTINATION_NAT = -100
_LOOPBACK_4 = ipaddress.IPv4Network("127.0.0.1")
_LOOPBACK_6 = ipaddress.IPv6Network("::1")


class RedirectRules(msgspec.Struct, frozen=True, kw_only=True):
    """What of a pod's traffic goes through its sidecar. Exactly one of `proxy_mark` and `proxy_uid` is set."""

    inbound_port: int = INBOUND_PORT
    """Where Envoy takes connections to the pod."""
    outbound_port: int = OUTBOUND_PORT
    """Where Envoy takes connections of the pod."""
    proxy_mark: int | None = None
    """The mark (SO_MARK) of Envoy's own connections."""
    proxy_uid: int | None = None
    """The user that Envoy runs as."""
    probe_ports: tuple[int, ...] = PROBE_PORTS
    """Of these, those that this pod's Envoy listens on; they take connections past the redirect."""
    excluded_inbound_ports: tuple[int, ...] = ()
    excluded_outbound_ports: tuple[int, ...] = ()
    excluded_outbound_networks: tuple[str, ...] = ()
    """CIDRs that the pod reaches directly."""
    included_outbound_networks: tuple[str, ...] = ()
    """If any: only connections to these go through Envoy. Exclusion wins."""
    excluded_interfaces: tuple[str, ...] = ()
    """Interfaces whose traffic is left alone, in both directions."""
    local_proxy_ip: str = ""
    """If set, what Envoy sends to 127.0.0.1 goes to this address instead: for apps that listen on the pod's only."""


def compile_redirect(wanted: RedirectRules) -> Table:
    """The table of these settings. Raises `BadInputError` for a port, CIDR, interface or address that is none."""
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


def apply(wanted: RedirectRules) -> None:
    """Put the redirect in force in this network namespace, instead of whatever redirect of ours is there.

    Raises `BadInputError`, and `shared.netfilter.netlink.NetlinkError` if the kernel refuses.
    """
    transaction.commit(transaction.replace_table(compile_redirect(wanted)))


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
        # Envoy calls the pod's own address: a call to itself is a call like any other, and passes its own policy.
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
    # Envoy answers "am I ready" by asking its own admin, which is on 127.0.0.1 and nowhere else.
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


# -- the init container


def main(argv: Sequence[str]) -> int:
    """`meshlog sidecar-init`: set the redirect of this pod and say what was done; the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        wanted = _settings(arguments)
        table = compile_redirect(wanted)
        if arguments.dry_run:
            _say(tables.describe(table))
            return 0
        apply(wanted)
    except BadInputError as error:
        sys.stderr.write(f"meshlog sidecar-init: {error}\n")
        return 2
    except NetlinkError as error:
        reason = error.strerror or str(error)
        sys.stderr.write(f"meshlog sidecar-init: {reason}; setting the redirect needs the capability NET_ADMIN\n")
        return 1
    known_by = f"mark {wanted.proxy_mark:#x}" if wanted.proxy_mark is not None else f"user {wanted.proxy_uid}"
    _say(f"TCP to this pod goes to port {wanted.inbound_port}, TCP from it to port {wanted.outbound_port},")
    _say(f"connections of the proxy ({known_by}) pass. In force:")
    _say(tables.describe(table))
    if (most := inotify.limit()) is not None and (told := inotify.advice(most)):
        _say(f"Note for the node: {told}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInputError("redirect/usage", message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="meshlog sidecar-init",
        allow_abbrev=False,
        description="Redirect the TCP traffic of this network namespace to its sidecar. Needs NET_ADMIN.",
        epilog="Lists are comma-separated; an option may be given more than once.",
    )
    defaults = RedirectRules()
    parser.add_argument("--inbound-port", default=str(defaults.inbound_port), metavar="PORT")
    parser.add_argument("--outbound-port", default=str(defaults.outbound_port), metavar="PORT")
    parser.add_argument("--proxy-mark", metavar="MARK", help="the proxy's connections carry this SO_MARK")
    parser.add_argument("--proxy-uid", metavar="UID", help="the proxy runs as this user")
    for option, metavar in (
        ("--probe-ports", "PORTS"),
        ("--exclude-inbound-ports", "PORTS"),
        ("--exclude-outbound-ports", "PORTS"),
        ("--exclude-outbound-cidrs", "CIDRS"),
        ("--include-outbound-cidrs", "CIDRS"),
        ("--exclude-interfaces", "NAMES"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=metavar)
    parser.add_argument("--local-proxy-ip", default="", metavar="IP", help="send the proxy's 127.0.0.1 traffic here")
    parser.add_argument("--dry-run", action="store_true", help="list the rules and set nothing")
    return parser


def _settings(arguments: argparse.Namespace) -> RedirectRules:
    return RedirectRules(
        inbound_port=_integer(arguments.inbound_port, "port"),
        outbound_port=_integer(arguments.outbound_port, "port"),
        proxy_mark=None if arguments.proxy_mark is None else _integer(arguments.proxy_mark, "mark"),
        proxy_uid=None if arguments.proxy_uid is None else _integer(arguments.proxy_uid, "user"),
        probe_ports=_integers(arguments.probe_ports) or PROBE_PORTS,
        excluded_inbound_ports=_integers(arguments.exclude_inbound_ports),
        excluded_outbound_ports=_integers(arguments.exclude_outbound_ports),
        excluded_outbound_networks=_listed(arguments.exclude_outbound_cidrs),
        included_outbound_networks=_listed(arguments.include_outbound_cidrs),
        excluded_interfaces=_listed(arguments.exclude_interfaces),
        local_proxy_ip=arguments.local_proxy_ip,
    )


def _listed(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for text in given for part in text.split(",") if part.strip())


def _integers(given: Sequence[str]) -> tuple[int, ...]:
    return tuple(_integer(part, "port") for part in _listed(given))


def _integer(text: str, what: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise BadInputError("redirect/number", f"{text!r} is no {what}") from error
