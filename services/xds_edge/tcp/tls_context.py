"""The TLS settings of the server: HTTP/2 only, and the newest certificate for each new connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from shared.errors import BadInputError

Presented = tuple[bytes, bytes]
"""Key and chain, PEM."""


def server_context(certificate: Callable[[], Presented | None]) -> ssl.SSLContext:
    """The context to listen with; `certificate` is called at each handshake, so that it is renewed without a restart.

    Raises `BadInputError` if there is no certificate at the start.
    """
    presented = certificate()
    if presented is None:
        raise BadInputError("edge/certificate", "there is no certificate to serve with")
    newest = _context(presented)

    def choose(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        nonlocal presented, newest
        now = certificate()
        if now is not None and now != presented:
            newest, presented = _context(now), now
        if connection.context is not newest:
            connection.context = newest

    # Also called for a client without SNI. The certificate is that of the context set here.
    listening = newest
    listening.sni_callback = choose
    return listening


def _context(presented: Presented) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113, appendix A, forbids all other cipher suites of TLS 1.2; this does not change those of TLS 1.3.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2"])
    # Resumption would save little beside the cost of a stream, and another replica could not resume.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # Python reads certificates from files only; this file never reaches a disk.
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, b"\n".join(presented))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context
