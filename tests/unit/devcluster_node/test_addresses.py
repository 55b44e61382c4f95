"""Pod addresses: lowest first, and never at once to somebody else."""

from __future__ import annotations

import ipaddress

import pytest

from deploy.devcluster.node.pod_addresses import PodAddressPool
from shared.errors import MeshlogError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_lowest_free_address_is_handed_out() -> None:
    pool = PodAddressPool(ipaddress.IPv4Network("10.0.0.0/24"), now=Clock())
    assert [pool.take() for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_an_address_rests_before_it_is_somebody_elses() -> None:
    clock = Clock()
    pool = PodAddressPool(ipaddress.IPv4Network("10.0.0.0/24"), now=clock, rest_seconds=60)
    first = pool.take()
    pool.give_back(first)
    assert pool.take() == "10.0.0.3"
    clock.now = 61
    assert pool.take() == first


def test_a_small_network_reuses_the_longest_rested_before_it_gives_up() -> None:
    clock = Clock()
    pool = PodAddressPool(ipaddress.IPv4Network("10.0.0.0/29"), now=clock)
    taken = [pool.take() for _ in range(5)]
    for offset, address in enumerate((taken[3], taken[0])):
        clock.now = float(offset)
        pool.give_back(address)
    assert [pool.take(), pool.take()] == [taken[3], taken[0]]
    with pytest.raises(MeshlogError, match="in use"):
        pool.take()


def test_giving_back_what_nobody_took_changes_nothing() -> None:
    pool = PodAddressPool(ipaddress.IPv4Network("10.0.0.0/24"), now=Clock())
    pool.give_back("10.0.0.2")
    assert pool.take() == "10.0.0.2"
