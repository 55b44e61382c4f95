"""The TLS side of the server: HTTP/2 only, and the newest certificate for every new connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from shared.errors import BadInputError

Presented = tuple[bytes, bytes]
"""Key and chain, PEM."""


def server_context(certificate: Callable[[], Presented | None]) -> ssl.SSLContext:
    """The context to listen with; `certificate` is asked at each handshake, and renewed without a restart.

    Raises `BadInputError` if there is none to begin with.
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

    # Called also for a client that names no server; the certificate is that of the context that is set here.
    listening = newest
    listening.sni_callback = choose
    return listening


def _context(presented: Presented) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113, appendix A, forbids all others of TLS 1.2; those of TLS 1.3 are not concerned by this.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2"])
    # Resumption would save little beside a stream's own cost, and another replica could not resume.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # Python reads certificates from files only: this one never reaches a disk.
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, b"\n".join(presented))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context
