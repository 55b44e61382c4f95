"""Nothing of HTTP/2 is made of a client before it has ended its TLS handshake, and agreed to HTTP/2 in it."""

from __future__ import annotations

import asyncio

import pytest

from services.xds_edge.tcp.tls_handshake import HandshakeProtocol
from tests.unit.xds_edge.rig import Wire


class Line(Wire):
    """A network with TLS that agreed to this protocol."""

    def __init__(self, alpn: str | None) -> None:
        super().__init__()
        self.alpn = alpn
        self.protocol: asyncio.BaseProtocol | None = None

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self if name == "ssl_object" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Made(asyncio.Protocol):
    """Stands for a connection."""

    transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


def test_a_connection_is_made_when_the_handshake_is_over_and_has_the_line_from_then_on() -> None:
    made: list[Made] = []

    def make() -> Made:
        made.append(Made())
        return made[-1]

    step, line = HandshakeProtocol(make, lambda: pytest.fail("it speaks HTTP/2")), Line("h2")
    assert made == []
    step.connection_made(line)
    assert line.protocol is made[0]
    assert made[0].transport is line


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_one_that_did_not_agree_to_http2_is_cut_off(alpn: str | None) -> None:
    refused: list[bool] = []
    line = Line(alpn)
    HandshakeProtocol(lambda: pytest.fail("it does not speak HTTP/2"), lambda: refused.append(True)).connection_made(
        line
    )
    assert line.aborted
    assert refused == [True]
