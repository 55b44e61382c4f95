"""The init container: `meshlog sidecar-init` sets the redirect of its pod.

The whole table is replaced in one transaction, so running the init container twice changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from services.injector.core.redirect_rules import RedirectRules, compile_redirect
from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import PROBE_PORTS
from shared.netfilter import tables, transaction
from shared.netfilter.netlink import NetlinkError
from shared.service import inotify


def apply(wanted: RedirectRules) -> None:
    """Set the redirect of this network namespace. It replaces an earlier one.

    Raises `BadInputError`, and `shared.netfilter.netlink.NetlinkError` if the kernel refuses.
    """
    transaction.commit(transaction.replace_table(compile_redirect(wanted)))


def main(argv: Sequence[str]) -> int:
    """Set the redirect of this pod and print its rules. Returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        wanted = _rules_of(arguments)
        table = compile_redirect(wanted)
        if arguments.dry_run:
            _print(tables.describe(table))
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
    _print(f"TCP to this pod goes to port {wanted.inbound_port}, TCP from it to port {wanted.outbound_port},")
    _print(f"connections of the proxy ({known_by}) pass. In force:")
    _print(tables.describe(table))
    if (most := inotify.limit()) is not None and (advice := inotify.advice(most)):
        _print(f"Note for the node: {advice}")
    return 0


def _print(text: str) -> None:
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


def _rules_of(arguments: argparse.Namespace) -> RedirectRules:
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
