"""The two protocols of aggregated discovery, as far as a stream must tell them apart: what is read, what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.xds_edge.xds.ads import AnySubscription
from services.xds_edge.xds.delta import DeltaSubscription
from services.xds_edge.xds.request_decode import decode_delta, decode_sotw
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.response_cache import Body, ResponseCache
from services.xds_edge.xds.sotw import WHOLE, SotwSubscription, version_info
from services.xds_edge.xds.subscription import Offer, XdsRequest
from shared.records.snapshot import SDS


class Variant(Protocol):
    """One protocol, for one stream."""

    @property
    def follow(self) -> Callable[[str], AnySubscription]:
        """Makes the subscription of a type."""
        ...

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """A request, and the node id in it; raises `BadRequestError`."""
        ...

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:
        """The response to an offer, in parts that other streams may share.

        `held`: what the client has once it accepts it; `secret`: bodies of secrets.
        """
        ...


class DeltaVariant:
    """Incremental: what changed and what is gone."""

    __slots__ = ("_responses",)

    follow = DeltaSubscription

    def __init__(self, responses: ResponseCache) -> None:
        self._responses = responses

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """A `DeltaDiscoveryRequest`."""
        return decode_delta(payload)

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:  # noqa: ARG002 (the other one needs it)
        """A `DeltaDiscoveryResponse`."""
        if offer.type_url == SDS:
            return self._responses.write_private(offer, secret)
        return self._responses.write(offer)


class SotwVariant:
    """State of the world: everything, each time anything of it changes (clusters, listeners)."""

    __slots__ = ("_responses", "_sent")

    follow = SotwSubscription

    def __init__(self, responses: ResponseCache) -> None:
        self._responses = responses
        self._sent: dict[str, dict[tuple[str, str], bytes]] = {}
        """Type → (name, hash) → what was sent last: a resource that is about to be removed is named once more, when
        the snapshot may not have it any longer."""

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """A `DiscoveryRequest`."""
        return decode_sotw(payload)

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:
        """A `DiscoveryResponse`."""
        type_url = offer.type_url
        version = version_info(type_url, held)
        if type_url == SDS:
            return self._responses.write_sotw(offer, version, (secret(type_url, *pair) for pair in offer.put))
        before = self._sent.get(type_url, {})
        bodies = {pair: before.get(pair) or self._responses.body(type_url, *pair) for pair in offer.put}
        if type_url in WHOLE:
            self._sent[type_url] = bodies
        return self._responses.write_sotw(offer, version, bodies.values())
