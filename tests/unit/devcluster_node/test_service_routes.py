"""What the packet rules are told when routes change: what differs, and nothing else."""

from __future__ import annotations

import ipaddress

from deploy.devcluster.node import service_routes
from deploy.devcluster.runtime import ServiceRoute

_TABLE, _ = service_routes.set_up("10.244.0.1", ["10.244.0.1"], [ipaddress.IPv4Network("10.96.0.0/16")])


def _route(number: int, *backends: str) -> ServiceRoute:
    return ServiceRoute(
        cluster_ip=f"10.96.{number >> 8}.{number & 255}",
        port=80,
        protocol="TCP",
        backends=tuple((address, 8080) for address in backends),
    )


def test_the_same_routes_need_no_transaction() -> None:
    routes = [_route(1, "10.244.0.2"), _route(2)]
    assert service_routes.change(_TABLE, routes, list(reversed(routes))) == []


def test_a_changed_backend_touches_one_chain_alone() -> None:
    before, after = (
        [_route(1, "10.244.0.2"), _route(2, "10.244.0.3")],
        [_route(1, "10.244.0.4"), _route(2, "10.244.0.3")],
    )
    (transaction,) = service_routes.change(_TABLE, before, after)
    assert all("10.96.0.1/tcp/80" in message.about for message in transaction)
    assert [message.about.split()[1] for message in transaction] == ["flush", "rule"]


def test_a_route_that_lost_its_backends_is_removed() -> None:
    (transaction,) = service_routes.change(_TABLE, [_route(1, "10.244.0.2")], [_route(1)])
    assert transaction == service_routes.change(_TABLE, [_route(1, "10.244.0.2")], [])[0]


def test_each_backend_has_the_same_chance() -> None:
    chances = [rule[1].text for rule in service_routes.balance(_route(1, "10.244.0.2", "10.244.0.3", "10.244.0.4"))]
    assert chances == ["numgen random mod 3 == 0", "numgen random mod 2 == 0", "dnat ip to 10.244.0.4:8080"]


def test_a_long_change_is_cut_into_datagrams_that_the_kernel_takes() -> None:
    routes = [_route(number, *(f"10.244.1.{backend}" for backend in range(10))) for number in range(1000)]
    transactions = service_routes.change(_TABLE, [], routes)
    sizes = [sum(16 + len(message.body) for message in transaction) for transaction in transactions]
    assert len(sizes) > 1
    assert max(sizes) < 200_000
