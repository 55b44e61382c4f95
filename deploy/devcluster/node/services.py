"""Virtual addresses as packet rules: what to tell nf_tables when the routes of Services change.

Each route has a chain that sends a new connection to one of its backends at random; a map leads to the chain. Base
chains never change, and a transaction touches only what differs: established connections live on in the kernel's
connection tracking, whatever happens to the rules they came by. An address of the service or pod network that is
nobody's, or a Service without backends, is refused at once by the two filter chains: nothing in this cluster hangs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from deploy.devcluster.runtime import ServiceRoute
from shared import netfilter, ruleset
from shared.netfilter import TCP, UDP, BaseHook, Chain, Rule, Table, rules, verdict
from shared.netlink import Message

_SERVICES = "services"
_HAIRPIN = "hairpin"
_MESSAGES_A_TRANSACTION = 300
_DESTINATION_NAT, _SOURCE_NAT, _FILTER = -100, 100, 0


def set_up(node_ip: str, own: Sequence[str], guarded: Sequence[ipaddress.IPv4Network]) -> tuple[Table, list[Message]]:
    """The node's table without any Service, and the transaction that makes it.

    `own` are the node's addresses; of `guarded` networks whatever is not a pod's or the node's is refused.
    """
    refused = (
        [netfilter.out_interface("lo"), netfilter.transport(TCP), netfilter.reject_with_reset()],
        [netfilter.out_interface("lo"), netfilter.reject()],
    )
    to_own = [
        [netfilter.destination(ipaddress.IPv4Network(address)), verdict("accept")] for address in own
    ]  # fmt: skip
    # Such a packet was routed anew, but the hook still sees the interface of its first route.
    translated = [netfilter.destination_translated(), verdict("accept")]
    from_node = [
        [netfilter.destination(network), *refusal] for network in guarded for refusal in refused
    ]  # fmt: skip
    by_service: tuple[Rule, ...] = ((netfilter.service_map(_SERVICES),),)
    loop_back: tuple[Rule, ...] = ((netfilter.from_itself_in(_HAIRPIN), netfilter.translate_source(node_ip)),)
    chains = (
        Chain("prerouting", by_service, BaseHook("nat", "prerouting", _DESTINATION_NAT)),
        Chain("output", by_service, BaseHook("nat", "output", _DESTINATION_NAT)),
        # A pod that reaches itself through a Service must see another's address, or it would answer itself directly.
        Chain("postrouting", loop_back, BaseHook("nat", "postrouting", _SOURCE_NAT)),
        Chain("refuse-forward", rules(*refused), BaseHook("filter", "forward", _FILTER)),
        Chain("refuse-output", rules(translated, *to_own, *from_node), BaseHook("filter", "output", _FILTER)),
    )
    bare = Table("meshlog-node", (), netfilter.IPV4)
    messages = ruleset.replace_table(bare)
    messages.append(ruleset.new_set(bare, _SERVICES, key_bytes=12, verdicts=True, identifier=1))
    messages.append(ruleset.new_set(bare, _HAIRPIN, key_bytes=8, verdicts=False, identifier=2))
    for chain in chains:
        messages.append(ruleset.new_chain(bare, chain))
        messages += [ruleset.new_rule(bare, chain.name, rule) for rule in chain.rules]
    return Table("meshlog-node", chains, netfilter.IPV4), messages


def change(table: Table, before: Iterable[ServiceRoute], after: Iterable[ServiceRoute]) -> list[list[Message]]:
    """The transactions from one set of routes to another: one, unless it is very long; none if they are the same.

    A netlink datagram has an end, so a long change is cut, never inside a route.
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
            ruleset.delete_element(table, _SERVICES, _key(old)),
            ruleset.flush_chain(table, name),
            ruleset.delete_chain(table, name),
        ]
    rules_now = [ruleset.new_rule(table, name, rule) for rule in balance(new)]
    if old is None:
        element = ruleset.new_element(table, _SERVICES, _key(new), name)
        return [ruleset.new_chain(table, Chain(name, ())), *rules_now, element]
    return [] if old.backends == new.backends else [ruleset.flush_chain(table, name), *rules_now]


def balance(route: ServiceRoute) -> tuple[Rule, ...]:
    """Each backend with the same chance: one in n, then one in n - 1 of the rest, and so on."""
    listed: list[Rule] = []
    for offset, (address, port) in enumerate(route.backends):
        left = len(route.backends) - offset
        chance = (netfilter.one_in(left),) if left > 1 else ()
        # The kernel wants to see, in the rule itself, that there are ports to translate.
        listed.append((netfilter.transport(_protocol(route)), *chance, netfilter.translate_destination(address, port)))
    return tuple(listed)


def pod_added(table: Table, address: str) -> list[Message]:
    """Let the pod reach itself through a Service."""
    return [ruleset.new_element(table, _HAIRPIN, ruleset.pair_key(address, address))]


def pod_removed(table: Table, address: str) -> list[Message]:
    """The reverse of `pod_added`."""
    return [ruleset.delete_element(table, _HAIRPIN, ruleset.pair_key(address, address))]


def _protocol(route: ServiceRoute) -> int:
    return UDP if route.protocol == "UDP" else TCP


def _name(route: ServiceRoute) -> str:
    return f"{route.cluster_ip}/{route.protocol.lower()}/{route.port}"


def _key(route: ServiceRoute) -> bytes:
    return ruleset.service_key(route.cluster_ip, _protocol(route), route.port)
