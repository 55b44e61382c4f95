"""Caches the bytes of responses, so that streams with the same change share them.

A change of a class is sent to each of its proxies with a different nonce and otherwise the same bytes. The newest
responses are cached, limited by bytes and not only by number: the first response to a large class has megabytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from services.xds_edge.xds import wire
from services.xds_edge.xds.resource_set import ResourceChange
from services.xds_edge.xds.subscription import Offer

_MOST = 256
"""Responses cached: each keeps the two resource sets of its change alive."""

_Key = tuple[ResourceChange, str, int, bool]

Body = Callable[[str, str, str], bytes]
"""(type, name, hash) → bytes of the resource."""


class ResponseCache:
    """Encodes offers as `DeltaDiscoveryResponse`s."""

    def __init__(self, body: Body, *, limit: int = 32 * 1024 * 1024) -> None:
        self.body = body
        self._limit = limit
        self._held = 0
        self._kept: OrderedDict[_Key, tuple[bytes, bytes]] = OrderedDict()

    def write(self, offer: Offer) -> tuple[bytes, ...]:
        """The response to an offer of resources of the snapshot; its long part is shared by all streams."""
        if offer.change is None:
            head, tail = self._splice(offer, self.body)
        else:
            key = (offer.change, offer.type_url, offer.version, bool(offer.removed))
            kept = self._kept.get(key)
            if kept is None:
                kept = self._splice(offer, self.body)
                self._keep(key, kept)
            head, tail = kept
        return head, wire.delta_end(offer.nonce, tail)

    def write_private(self, offer: Offer, body: Body) -> tuple[bytes, ...]:
        """The response to an offer of secrets, which belong to one stream. It is not cached."""
        head, tail = self._splice(offer, body)
        return head, wire.delta_end(offer.nonce, tail)

    def write_sotw(self, offer: Offer, version: str, bodies: Iterable[bytes]) -> tuple[bytes, ...]:
        """The `DiscoveryResponse` to an offer of these bodies."""
        return (wire.sotw_response(version, offer.type_url, bodies, offer.nonce),)

    def _splice(self, offer: Offer, body: Body) -> tuple[bytes, bytes]:
        type_url = offer.type_url
        parts = [
            wire.resource_frame(type_url, name, digest, body(type_url, name, digest)) for name, digest in offer.put
        ]
        return wire.delta_head(offer.version, type_url, parts), wire.delta_tail(offer.removed)

    def _keep(self, key: _Key, spliced: tuple[bytes, bytes]) -> None:
        self._kept[key] = spliced
        self._held += len(spliced[0]) + len(spliced[1])
        while self._held > self._limit or len(self._kept) > _MOST:
            _, (head, tail) = self._kept.popitem(last=False)
            self._held -= len(head) + len(tail)
