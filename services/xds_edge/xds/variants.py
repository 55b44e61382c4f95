"""The two variants of xDS, incremental and state of the world: how each decodes requests and encodes responses."""

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
    """One variant, for one stream."""

    @property
    def follow(self) -> Callable[[str], AnySubscription]:
        """Makes the subscription of a type."""
        ...

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """A request, and the node id in it. Raises `BadRequestError` and `TooManyNamesError`."""
        ...

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:
        """The response to an offer, in parts that other streams may share.

        `held`: what the client holds once it accepts the response; `secret`: bodies of secrets.
        """
        ...


class DeltaVariant:
    """Incremental: changes and removals."""

    __slots__ = ("_responses",)

    follow = DeltaSubscription

    def __init__(self, responses: ResponseCache) -> None:
        self._responses = responses

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """Decode a `DeltaDiscoveryRequest`."""
        return decode_delta(payload)

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:  # noqa: ARG002 (the other one needs it)
        """Encode a `DeltaDiscoveryResponse`."""
        if offer.type_url == SDS:
            return self._responses.write_private(offer, secret)
        return self._responses.write(offer)


class SotwVariant:
    """State of the world: all clusters or listeners, whenever one of them changes."""

    __slots__ = ("_responses", "_sent")

    follow = SotwSubscription

    def __init__(self, responses: ResponseCache) -> None:
        self._responses = responses
        self._sent: dict[str, dict[tuple[str, str], bytes]] = {}
        """Type → (name, hash) → bytes sent last. A resource that is about to be removed is sent once more, when the
        snapshot may not contain it any more."""

    def decode(self, payload: bytes) -> tuple[XdsRequest, str]:
        """Decode a `DiscoveryRequest`."""
        return decode_sotw(payload)

    def write(self, offer: Offer, held: ResourceSet, secret: Body) -> tuple[bytes, ...]:
        """Encode a `DiscoveryResponse`."""
        type_url = offer.type_url
        version = version_info(type_url, held)
        if type_url == SDS:
            return self._responses.write_sotw(offer, version, (secret(type_url, *pair) for pair in offer.put))
        before = self._sent.get(type_url, {})
        bodies = {pair: before.get(pair) or self._responses.body(type_url, *pair) for pair in offer.put}
        if type_url in WHOLE:
            self._sent[type_url] = bodies
        return self._responses.write_sotw(offer, version, bodies.values())
