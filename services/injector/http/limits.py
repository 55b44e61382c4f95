"""Limits of the webhook's connections and requests: time, bytes and numbers."""

from __future__ import annotations

import msgspec

from services.injector.http.connection_gate import ConnectionLimits
from services.injector.http.fair_slots import SlotLimits
from services.injector.settings import InjectorSettings


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request and one connection may cost."""

    connections: ConnectionLimits = ConnectionLimits()
    hello_seconds: float = 5.0
    """Until a client begins TLS."""
    handshakes: SlotLimits = SlotLimits(
        slots=64, slots_of_source=16, waiting=512, waiting_of_source=256, waiting_of_namespace=256, seconds=5.0
    )
    """Handshakes under way; each takes 1 ms of CPU time."""
    handshake_seconds: float = 3.0
    idle_seconds: float = 120.0
    """Without a request. Longer than the 90 s after which Go's client closes a connection, so that the client does."""
    first_seconds: float = 10.0
    """Without a request, on a connection that has not made one yet."""
    head_bytes: int = 16 * 1024
    head_seconds: float = 5.0
    """From the first byte of a request to the end of its head."""
    body_bytes: int = 5 * 1024 * 1024
    large_bytes: int = 64 * 1024
    """Bodies above this size share `large`."""
    large: SlotLimits = SlotLimits(slots=4, slots_of_source=2, waiting=64, waiting_of_source=16, seconds=4.0)
    body_seconds: float = 2.0
    """For a body, plus one second for each MiB of it."""
    answer_seconds: float = 5.0
    """Until the client has received the answer."""
    linger_seconds: float = 2.0
    """After a refusal, until the client stops sending and reads it."""


def http_limits(settings: InjectorSettings) -> HttpLimits:
    """Return the limits of the settings."""
    connections = ConnectionLimits(
        connections=settings.webhook_connections, per_source=settings.webhook_connections_per_source
    )
    return HttpLimits(connections=connections, body_bytes=settings.webhook_body_bytes)
