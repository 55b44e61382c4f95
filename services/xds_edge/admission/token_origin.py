"""Whether a token is used where its pod is: the address of the peer against those of the pod.

A token is a bearer's: whoever reads it may use it, and gets the workload's key. Where the network keeps addresses as
they are, a stream from elsewhere is a stolen token. Where it does not (NAT between clusters, a proxy in between), it
says nothing; so that is a setting.
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
    """The rule for peers' addresses of one edge."""

    def __init__(self, policy: Policy, counters: EdgeCounters) -> None:
        self._policy = policy
        self._counters = counters

    def settled(self, addresses: tuple[str, ...] | None) -> bool:
        """Whether a pod with these addresses may be served at all yet.

        Before its address is known, nothing says whether a stream is its own. None: it has none to compare with.
        """
        return self._policy != "refuse" or addresses is None or bool(addresses)

    def check(self, key: str, peer: str, addresses: tuple[str, ...] | None) -> bool:
        """Whether a peer is the pod `key`, as far as one can tell; if not, it is counted and logged.

        Raises `StreamRefusedError` where that is refused. `peer` is empty if it is not known.
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
