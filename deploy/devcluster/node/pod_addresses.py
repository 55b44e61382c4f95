"""Addresses of pods: the lowest free one, but never one that was somebody else's a moment ago.

Whoever still holds a connection, a DNS answer or an endpoint of the pod that went must not reach its successor.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from shared.errors import MeshlogError


class PodAddressPool:
    """Hands out the addresses of a network, without its first two (the network and the node) and its last."""

    def __init__(self, network: ipaddress.IPv4Network, *, now: Callable[[], float], rest_seconds: float = 60.0) -> None:
        """`now` is a monotonic clock; an address rests for `rest_seconds` after it was given back."""
        self._network = network
        self._now = now
        self._rest = rest_seconds
        self._taken: set[int] = set()
        self._resting: dict[int, float] = {}

    def take(self) -> str:
        """The lowest address that is free and rested; if only resting ones are left, the one that rested longest."""
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
        """The pod is gone; an address that is not taken is ignored."""
        number = int(ipaddress.IPv4Address(address)) - int(self._network.network_address)
        if number in self._taken:
            self._taken.remove(number)
            self._resting[number] = self._now()
