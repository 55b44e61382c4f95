"""Transactions of nf_tables: what makes, changes and removes the tables of `shared.netfilter.tables`, all or nothing.

Each function makes the messages of one change; `commit` sends a list of them as one batch. Apart from the
statements, which are values: this is how the kernel receives them.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

from shared.netfilter.netlink import APPEND, CREATE, NETFILTER, Message, NetlinkSocket, attribute, be32, nested, text
from shared.netfilter.tables import Chain, Rule, Table, encode_verdict

_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _DEL_TABLE, _NEW_CHAIN, _DEL_CHAIN, _NEW_RULE, _DEL_RULE = 0, 2, 3, 5, 6, 8
_NEW_SET, _NEW_ELEMENT, _DEL_ELEMENT = 9, 12, 14
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_VERDICT_DATA = 0xFFFFFF00
_MAP = 8


def replace_table(table: Table) -> list[Message]:
    """Make the table exactly so, whatever it held before."""
    made: list[Message] = [
        _table(_NEW_TABLE, table, CREATE),
        _table(_DEL_TABLE, table, 0),
        _table(_NEW_TABLE, table, CREATE),
    ]
    made += [new_chain(table, chain) for chain in table.chains]
    for chain in table.chains:
        made += [new_rule(table, chain.name, rule) for rule in chain.rules]
    return made


def new_chain(table: Table, chain: Chain) -> Message:
    """A chain without its rules."""
    body = text(1, table.name) + text(3, chain.name)
    if chain.hook is not None:
        priority = struct.pack(">i", chain.hook.priority)
        body += nested(4, be32(1, _HOOKS[chain.hook.hook]), attribute(2, priority)) + text(7, chain.hook.kind)
    return _message(_NEW_CHAIN, table.family, CREATE, body, f"chain {chain.name}")


def delete_chain(table: Table, name: str) -> Message:
    """A chain that is empty and that nothing names any more."""
    return _message(_DEL_CHAIN, table.family, 0, text(1, table.name) + text(3, name), f"delete chain {name}")


def new_rule(table: Table, chain: str, rule: Rule) -> Message:
    """A rule at the end of a chain."""
    body = text(1, table.name) + text(2, chain) + nested(4, *(statement.encoded for statement in rule))
    said = " ".join(statement.text for statement in rule)
    return _message(_NEW_RULE, table.family, CREATE | APPEND, body, f"rule in {chain}: {said}")


def flush_chain(table: Table, name: str) -> Message:
    """All rules of a chain go."""
    return _message(_DEL_RULE, table.family, 0, text(1, table.name) + text(2, name), f"flush chain {name}")


def new_set(table: Table, name: str, *, key_bytes: int, verdicts: bool, identifier: int) -> Message:
    """A set, or a map to verdicts; `identifier` is unique among the sets of one transaction."""
    body = text(1, table.name) + text(2, name) + be32(3, _MAP if verdicts else 0) + be32(4, 1) + be32(5, key_bytes)
    if verdicts:
        body += be32(6, _VERDICT_DATA) + be32(7, 16)
    return _message(_NEW_SET, table.family, CREATE, body + be32(10, identifier), f"set {name}")


def pair_key(source: str, target: str) -> bytes:
    """The key of `from_itself_in`."""
    return ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed


def service_key(address: str, protocol: int, port: int) -> bytes:
    """The key of `service_map`; every part takes whole words."""
    return ipaddress.IPv4Address(address).packed + bytes([protocol, 0, 0, 0]) + struct.pack(">HH", port, 0)


def new_element(table: Table, name: str, key: bytes, chain: str = "") -> Message:
    """A member of a set; with a chain, where the map sends it."""
    element = nested(1, attribute(1, key)) + (nested(2, encode_verdict("goto", chain)) if chain else b"")
    body = text(1, table.name) + text(2, name) + nested(3, nested(1, element))
    return _message(_NEW_ELEMENT, table.family, CREATE, body, f"element of {name}")


def delete_element(table: Table, name: str, key: bytes) -> Message:
    """A member of a set goes."""
    body = text(1, table.name) + text(2, name) + nested(3, nested(1, nested(1, attribute(1, key))))
    return _message(_DEL_ELEMENT, table.family, 0, body, f"delete element of {name}")


def commit(messages: Iterable[Message], *, through: NetlinkSocket | None = None) -> None:
    """Put a transaction in force, all or nothing, in the namespace of this thread or of the socket.

    Raises `shared.netfilter.netlink.NetlinkError`.
    """
    batch = [_batch(_BATCH_BEGIN), *messages, _batch(_BATCH_END)]
    if len(batch) == 2:
        return
    if through is not None:
        through.transact(batch)
        return
    with NetlinkSocket(NETFILTER) as fresh:
        fresh.transact(batch)


def _message(kind: int, family: int, flags: int, body: bytes, about: str) -> Message:
    return Message(_SUBSYSTEM | kind, flags, struct.pack(">BBH", family, 0, 0) + body, f"nf_tables: {about}")


def _batch(kind: int) -> Message:
    return Message(kind, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM >> 8), "nf_tables")


def _table(kind: int, table: Table, flags: int) -> Message:
    return _message(kind, table.family, flags, text(1, table.name), f"table {table.name}")
