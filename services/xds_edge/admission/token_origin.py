"""Whether a token is used from its pod: compares the address of the client with those of the pod.

A token is a bearer token: a thief of it can obtain the workload's key. If the network keeps addresses, a stream from
another address means a stolen token. If it does not (NAT between clusters, a proxy in between), the address proves
nothing. So the consequence is a setting.
"""

from __future__ import annotations

import logging
from typing import Literal

from services.xds_edge.counters import EdgeCounters
from services.xds_edge.errors import Code, StreamRefusedError
from shared.io.addresses import canonical

_log = logging.getLogger(__name__)

Policy = Literal["off", "count", "refuse"]


class TokenOrigin:
    """The rule of one edge for client addresses."""

    def __init__(self, policy: Policy, counters: EdgeCounters) -> None:
        self._policy = policy
        self._counters = counters

    def settled(self, addresses: tuple[str, ...] | None) -> bool:
        """Whether a pod with these addresses may be served yet.

        Until the pod's address is known, the stream cannot be compared with it. None means that the pod has no address
        of its own.
        """
        return self._policy != "refuse" or addresses is None or bool(addresses)

    def check(self, key: str, peer: str, addresses: tuple[str, ...] | None) -> bool:
        """Whether a client is the pod `key`, by its address; a mismatch is counted and logged.

        Raises `StreamRefusedError` if mismatches are refused. `peer` is empty if the address is not known.
        """
        address = canonical(peer.partition("%")[0].removeprefix("::ffff:"))
        if self._policy == "off" or not addresses or address is None or address in addresses:
            return True
        self._counters.address_mismatches += 1
        _log.warning("the token of %s is used from %s; the pod has %s", key, address, ", ".join(addresses))
        if self._policy == "refuse":
            raise StreamRefusedError(
                Code.PERMISSION_DENIED,
                "stream/foreign-address",
                "the token is used from another address than its pod's",
            )
        return False
