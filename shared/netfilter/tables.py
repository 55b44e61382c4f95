"""nf_tables as values: statements, rules, chains and tables that encode themselves and read like `nft`.

`shared.netfilter.transaction` puts them in force.
Used by the devcluster's node (Services) and by the sidecar's init container (redirect), so that both use
one vocabulary, and `--dry-run` prints exactly what would be sent. Each statement is built by one function,
carries its text and its encoded expressions, and uses register 1 (and 2) only, so statements follow one another freely.
Layouts: `linux/netfilter/nf_tables.h`.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from shared.netfilter.netlink import attribute, be32, nested, text

INET = 1
"""Table family: IPv4 and IPv6 in one."""
IPV4 = 2

TCP = socket.IPPROTO_TCP
UDP = socket.IPPROTO_UDP

_NETWORK, _TRANSPORT = 1, 2
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_SKUID, _META_NFPROTO, _META_L4PROTO = 3, 6, 7, 10, 15, 16
_EQUAL, _NOT_EQUAL = 0, 1
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_WORD = 8  # NFT_REG32_00: the first of the four-byte registers

Verdict = Literal["accept", "drop", "return", "jump", "goto"]
Hook = Literal["prerouting", "input", "forward", "output", "postrouting"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Statement(msgspec.Struct, frozen=True):
    """A match or an action: how `nft` would write it, and its expressions as the kernel takes them."""

    text: str
    encoded: bytes


Rule = tuple[Statement, ...]


class BaseHook(msgspec.Struct, frozen=True):
    """Where packets enter a base chain."""

    kind: Literal["nat", "filter"]
    hook: Hook
    priority: int


class Chain(msgspec.Struct, frozen=True):
    """A named list of rules; with a hook it is where packets enter."""

    name: str
    rules: tuple[Rule, ...]
    hook: BaseHook | None = None


class Table(msgspec.Struct, frozen=True):
    """A table and all its chains, in an order in which no chain is named before it exists."""

    name: str
    chains: tuple[Chain, ...]
    family: int = INET


def describe(table: Table) -> str:
    """The table as `nft list` would show it."""
    lines = [f"table {'inet' if table.family == INET else 'ip'} {table.name} {{"]
    for chain in table.chains:
        lines.append(f"  chain {chain.name} {{")
        if chain.hook is not None:
            lines.append(f"    type {chain.hook.kind} hook {chain.hook.hook} priority {chain.hook.priority}")
        lines += [f"    {' '.join(statement.text for statement in rule)}" for rule in chain.rules]
        lines.append("  }")
    return "\n".join([*lines, "}"])


# -- statements: matches


def transport(protocol: int) -> Statement:
    """TCP or UDP, over IPv4 or IPv6."""
    name = {TCP: "tcp", UDP: "udp"}.get(protocol, str(protocol))
    return Statement(f"meta l4proto {name}", _meta(_META_L4PROTO) + _compare(_EQUAL, bytes([protocol])))


def in_interface(name: str) -> Statement:
    """Came in by this interface."""
    return Statement(f'iifname "{name}"', _meta(_META_IIFNAME) + _compare(_EQUAL, _interface(name)))


def out_interface(name: str) -> Statement:
    """Goes out by this interface."""
    return Statement(f'oifname "{name}"', _meta(_META_OIFNAME) + _compare(_EQUAL, _interface(name)))


def socket_mark(mark: int, *, negated: bool = False) -> Statement:
    """The packet carries (or not) this mark, which SO_MARK of its socket gave it."""
    return Statement(
        f"meta mark {'!= ' if negated else ''}{mark:#x}",
        _meta(_META_MARK) + _compare(_NOT_EQUAL if negated else _EQUAL, struct.pack("=I", mark)),
    )


def socket_user(uid: int, *, negated: bool = False) -> Statement:
    """The packet's socket belongs (or not) to this user. A packet without a socket matches neither form."""
    return Statement(
        f"meta skuid {'!= ' if negated else ''}{uid}",
        _meta(_META_SKUID) + _compare(_NOT_EQUAL if negated else _EQUAL, struct.pack("=I", uid)),
    )


def destination_port(port: int) -> Statement:
    """Of a TCP or UDP packet; `transport` must have matched before."""
    return Statement(f"th dport {port}", _payload(_TRANSPORT, 2, 2) + _compare(_EQUAL, struct.pack(">H", port)))


def destination(network: Network, *, negated: bool = False) -> Statement:
    """Packets of the network's family to (or not to) the network."""
    six = network.version == 6
    size = 16 if six else 4
    encoded = _meta(_META_NFPROTO) + _compare(_EQUAL, bytes([socket.AF_INET6 if six else socket.AF_INET]))
    encoded += _payload(_NETWORK, 24 if six else 16, size)
    if network.prefixlen < network.max_prefixlen:
        encoded += _masked(network.netmask.packed)
    encoded += _compare(_NOT_EQUAL if negated else _EQUAL, network.network_address.packed)
    return Statement(f"{'ip6' if six else 'ip'} daddr {'!= ' if negated else ''}{network}", encoded)


def destination_translated() -> Statement:
    """The connection goes elsewhere than it asked for (DNAT)."""
    mask = struct.pack("=I", 0x20)
    return Statement(
        "ct status dnat",
        _expression("ct", be32(1, 1), be32(2, 2)) + _masked(mask) + _compare(_NOT_EQUAL, bytes(4)),
    )


def one_in(count: int) -> Statement:
    """True for one packet in `count`, at random."""
    return Statement(
        f"numgen random mod {count} == 0",
        _expression("numgen", be32(1, 1), be32(2, count), be32(3, 1)) + _compare(_EQUAL, bytes(4)),
    )


def from_itself_in(set_name: str) -> Statement:
    """The (source, destination) pair of an IPv4 packet is in the set."""
    return Statement(
        f"ip saddr . ip daddr @{set_name}",
        _payload(_NETWORK, 12, 4, _WORD)
        + _payload(_NETWORK, 16, 4, _WORD + 1)
        + _expression("lookup", text(1, set_name), be32(2, _WORD)),
    )


# -- statements: actions


def verdict(name: Verdict, chain: str = "") -> Statement:
    """Leave the rule so; `jump` and `goto` name a chain."""
    return Statement(
        f"{name} {chain}".strip(), _expression("immediate", be32(1, 0), nested(2, encode_verdict(name, chain)))
    )


def service_map(map_name: str) -> Statement:
    """Go where the map sends (IPv4 destination, protocol, port); on, if it knows nothing."""
    return Statement(
        f"ip daddr . meta l4proto . th dport vmap @{map_name}",
        _payload(_NETWORK, 16, 4, _WORD)
        + _meta(_META_L4PROTO, _WORD + 1)
        + _payload(_TRANSPORT, 2, 2, _WORD + 2)
        + _expression("lookup", text(1, map_name), be32(2, _WORD), be32(3, 0)),
    )


def redirect(port: int) -> Statement:
    """Redirect to this port of this machine; `SO_ORIGINAL_DST` returns the original destination."""
    return Statement(f"redirect to :{port}", _load(1, struct.pack(">H", port)) + _expression("redir", be32(1, 1)))


def translate_destination(address: str, port: int | None = None) -> Statement:
    """DNAT to an IPv4 address, and to a port if one is given."""
    encoded = _load(1, ipaddress.IPv4Address(address).packed)
    registers = [be32(1, 1), be32(2, socket.AF_INET), be32(3, 1)]
    if port is not None:
        encoded += _load(2, struct.pack(">H", port))
        registers.append(be32(5, 2))
    target = address if port is None else f"{address}:{port}"
    return Statement(f"dnat ip to {target}", encoded + _expression("nat", *registers))


def translate_source(address: str) -> Statement:
    """SNAT to an IPv4 address."""
    encoded = _load(1, ipaddress.IPv4Address(address).packed)
    return Statement(
        f"snat ip to {address}", encoded + _expression("nat", be32(1, 0), be32(2, socket.AF_INET), be32(3, 1))
    )


def reject_with_reset() -> Statement:
    """Answer a TCP packet with a reset: `connect` fails at once with "connection refused"."""
    return Statement("reject with tcp reset", _expression("reject", be32(1, 1)))


def reject() -> Statement:
    """Answer with "port unreachable"."""
    return Statement("reject", _expression("reject", be32(1, 2), attribute(2, b"\x01")))


# -- encoding


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


def _meta(key: int, register: int = 1) -> bytes:
    return _expression("meta", be32(1, register), be32(2, key))


def _payload(base: int, offset: int, length: int, register: int = 1) -> bytes:
    return _expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression("cmp", be32(1, 1), be32(2, operation), nested(3, attribute(1, value)))


def _masked(mask: bytes) -> bytes:
    zero = nested(5, attribute(1, bytes(len(mask))))
    return _expression(
        "bitwise", be32(1, 1), be32(2, 1), be32(3, len(mask)), nested(4, attribute(1, mask)), zero
    )  # fmt: skip


def _load(register: int, value: bytes) -> bytes:
    return _expression("immediate", be32(1, register), nested(2, attribute(1, value)))


def encode_verdict(name: str, chain: str) -> bytes:
    """The data of a verdict, as expressions and map elements hold it."""
    return nested(2, be32(1, _VERDICTS[name]), *([text(2, chain)] if chain else []))


def _interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def rules(*listed: Sequence[Statement]) -> tuple[Rule, ...]:
    """Rules from lists of statements."""
    return tuple(tuple(rule) for rule in listed)
