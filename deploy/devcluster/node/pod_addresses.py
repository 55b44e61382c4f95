"""Allocates pod addresses: the lowest free one that was not released recently.

Clients may still have a connection, a DNS response or an endpoint of a removed pod; they must not reach another pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from shared.errors import MeshlogError


class PodAddressPool:
    """Allocates the addresses of a network without its first two (network and node) and its last."""

    def __init__(self, network: ipaddress.IPv4Network, *, now: Callable[[], float], rest_seconds: float = 60.0) -> None:
        """`now` is a monotonic clock; a released address is not reused for `rest_seconds`."""
        self._network = network
        self._now = now
        self._rest = rest_seconds
        self._taken: set[int] = set()
        self._resting: dict[int, float] = {}

    def take(self) -> str:
        """Allocate the lowest free address; if only recently released ones are left, the one released first."""
        now = self._now()
        self._resting = {number: since for number, since in self._resting.items() if now - since < self._rest}
        for number in range(2, self._network.num_addresses - 1):
            if number not in self._taken and number not in self._resting:
                break
        else:
            if not self._resting:
                raise MeshlogError("devcluster/no-address", f"all addresses of {self._network} are in use")
            number = min(self._resting, key=lambda resting: self._resting[resting])
            del self._resting[number]
        self._taken.add(number)
        return str(self._network[number])

    def give_back(self, address: str) -> None:
        """Release an address; one that is not allocated is ignored."""
        number = int(ipaddress.IPv4Address(address)) - int(self._network.network_address)
        if number in self._taken:
            self._taken.remove(number)
            self._resting[number] = self._now()
