"""Any bytes as the requests of a hostile proxy, in either xDS variant, without a network."""

from __future__ import annotations

from services.xds_edge.xds.ads import AdsSession, UnknownTypeError
from services.xds_edge.xds.request_decode import BadRequestError
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.response_cache import ResponseCache
from services.xds_edge.xds.subscription import TooManyNamesError
from services.xds_edge.xds.variants import DeltaVariant, SotwVariant, Variant
from shared.records.snapshot import SDS, TYPE_URLS
from tests.unit.xds_edge.proxy_model import view

NAMES = {"a": "1", "b": "1", "*": "1", "": "1"}
EXPECTED = (BadRequestError, UnknownTypeError, TooManyNamesError)
"""What ends a stream with a status of its own."""


def _body(_type_url: str, _name: str, _digest: str) -> bytes:
    return b"body"


def converse(content: bytes) -> int:
    """Feed bytes as messages, each with two bytes of length before it; returns how many were requests.

    After each the server sends its responses, and the snapshot moves on. Raises any error that is not a refusal.
    """
    variant: Variant = (
        SotwVariant(ResponseCache(_body)) if content[:1] > b"\x7f" else DeltaVariant(ResponseCache(_body))
    )
    session = AdsSession(variant.follow)
    at, version, taken = 1, 1, 0
    while at + 2 <= len(content):
        size = int.from_bytes(content[at : at + 2], "big") % 512
        message = content[at + 2 : at + 2 + size]
        at += 2 + size
        session.show(view(version, cds=NAMES, eds=NAMES, lds=NAMES, rds={"r": str(version)}), version)
        session.secrets = ResourceSet({"workload": str(version)})
        try:
            request, _ = variant.decode(message)
            session.request(request)
            taken += 1
        except EXPECTED:
            return taken
        for offer in session.offers(float(version)):
            subscription = session.subscriptions[offer.type_url]
            assert offer.type_url in {*TYPE_URLS, SDS}
            assert subscription.in_flight is offer
            variant.write(offer, subscription.held, _body)
        version += 1
    return taken
