"""Computes the nf_tables transactions for virtual addresses of Services. Pure.

Each route has a chain that sends a new connection to a random backend; a map leads to the chain. Base chains never
change, and a transaction contains only differences. Established connections continue through the kernel's connection
tracking, whatever happens to the rules. Two filter chains reject connections to unassigned addresses of the service and
pod networks and to Services without backends at once, so that no client waits for a timeout.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from deploy.devcluster.runtime import ServiceRoute
from shared.netfilter import tables, transaction
from shared.netfilter.netlink import Message
from shared.netfilter.tables import TCP, UDP, BaseHook, Chain, Rule, Table, rules, verdict

_SERVICES = "services"
_HAIRPIN = "hairpin"
_MESSAGES_A_TRANSACTION = 300
_DESTINATION_NAT, _SOURCE_NAT, _FILTER = -100, 100, 0


def set_up(node_ip: str, own: Sequence[str], guarded: Sequence[ipaddress.IPv4Network]) -> tuple[Table, list[Message]]:
    """The node's table without Services, and the transaction that creates it.

    `own` are the node's addresses. In `guarded` networks all addresses without a pod or the node are rejected.
    """
    refused = (
        [tables.out_interface("lo"), tables.transport(TCP), tables.reject_with_reset()],
        [tables.out_interface("lo"), tables.reject()],
    )
    to_own = [
        [tables.destination(ipaddress.IPv4Network(address)), verdict("accept")] for address in own
    ]  # fmt: skip
    # A translated packet was routed again, but the hook still sees the interface of the first route.
    translated = [tables.destination_translated(), verdict("accept")]
    from_node = [
        [tables.destination(network), *refusal] for network in guarded for refusal in refused
    ]  # fmt: skip
    by_service: tuple[Rule, ...] = ((tables.service_map(_SERVICES),),)
    loop_back: tuple[Rule, ...] = ((tables.from_itself_in(_HAIRPIN), tables.translate_source(node_ip)),)
    chains = (
        Chain("prerouting", by_service, BaseHook("nat", "prerouting", _DESTINATION_NAT)),
        Chain("output", by_service, BaseHook("nat", "output", _DESTINATION_NAT)),
        # A pod that reaches itself through a Service must see another source address, or it would respond directly.
        Chain("postrouting", loop_back, BaseHook("nat", "postrouting", _SOURCE_NAT)),
        Chain("refuse-forward", rules(*refused), BaseHook("filter", "forward", _FILTER)),
        Chain("refuse-output", rules(translated, *to_own, *from_node), BaseHook("filter", "output", _FILTER)),
    )
    bare = Table("meshlog-node", (), tables.IPV4)
    messages = transaction.replace_table(bare)
    messages.append(transaction.new_set(bare, _SERVICES, key_bytes=12, verdicts=True, identifier=1))
    messages.append(transaction.new_set(bare, _HAIRPIN, key_bytes=8, verdicts=False, identifier=2))
    for chain in chains:
        messages.append(transaction.new_chain(bare, chain))
        messages += [transaction.new_rule(bare, chain.name, rule) for rule in chain.rules]
    return Table("meshlog-node", chains, tables.IPV4), messages


def change(table: Table, before: Iterable[ServiceRoute], after: Iterable[ServiceRoute]) -> list[list[Message]]:
    """The transactions from one set of routes to another; empty if they are equal.

    Netlink datagrams are bounded, so a long change is split, but never inside a route.
    """
    old = {_name(route): route for route in before if route.backends}
    new = {_name(route): route for route in after if route.backends}
    transactions: list[list[Message]] = []
    for name in sorted(old.keys() | new.keys()):
        messages = _change_one(table, name, old.get(name), new.get(name))
        if not messages:
            continue
        if not transactions or len(transactions[-1]) + len(messages) > _MESSAGES_A_TRANSACTION:
            transactions.append([])
        transactions[-1] += messages
    return transactions


def _change_one(table: Table, name: str, old: ServiceRoute | None, new: ServiceRoute | None) -> list[Message]:
    if new is None:
        assert old is not None
        return [
            transaction.delete_element(table, _SERVICES, _key(old)),
            transaction.flush_chain(table, name),
            transaction.delete_chain(table, name),
        ]
    rules_now = [transaction.new_rule(table, name, rule) for rule in balance(new)]
    if old is None:
        element = transaction.new_element(table, _SERVICES, _key(new), name)
        return [transaction.new_chain(table, Chain(name, ())), *rules_now, element]
    return [] if old.backends == new.backends else [transaction.flush_chain(table, name), *rules_now]


def balance(route: ServiceRoute) -> tuple[Rule, ...]:
    """Rules that choose each backend with equal probability: 1 in n, then 1 in n - 1 of the rest, and so on."""
    listed: list[Rule] = []
    for offset, (address, port) in enumerate(route.backends):
        left = len(route.backends) - offset
        chance = (tables.one_in(left),) if left > 1 else ()
        # The kernel requires a match on the transport protocol in a rule that translates ports.
        listed.append((tables.transport(_protocol(route)), *chance, tables.translate_destination(address, port)))
    return tuple(listed)


def pod_added(table: Table, address: str) -> list[Message]:
    """Messages that let a pod reach itself through a Service."""
    return [transaction.new_element(table, _HAIRPIN, transaction.pair_key(address, address))]


def pod_removed(table: Table, address: str) -> list[Message]:
    """The reverse of `pod_added`."""
    return [transaction.delete_element(table, _HAIRPIN, transaction.pair_key(address, address))]


def _protocol(route: ServiceRoute) -> int:
    return UDP if route.protocol == "UDP" else TCP


def _name(route: ServiceRoute) -> str:
    return f"{route.cluster_ip}/{route.protocol.lower()}/{route.port}"


def _key(route: ServiceRoute) -> bytes:
    return transaction.service_key(route.cluster_ip, _protocol(route), route.port)
