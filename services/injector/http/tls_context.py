"""The webhook's TLS contexts: its own certificate, and the CAs of the API server's client certificate.

CAs cannot be removed from a context, so a new file of CAs makes a new context. Open connections keep theirs.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from shared.errors import BadInputError
from shared.identity.serving_certificate import ServingCertificate

_log = logging.getLogger(__name__)
_LOOK = 5.0
"""Seconds between two reads of the file."""


class ServerContext:
    """The context for new connections; `run` keeps it current."""

    def __init__(self, certificate: ServingCertificate, client_ca_file: str) -> None:
        self._certificate = certificate
        self._file = Path(client_ca_file) if client_ca_file else None
        self._roots = ""
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Return the context. Call `prepare` first."""
        assert self._context is not None
        return self._context

    async def prepare(self) -> None:
        """Wait for a certificate and make the context. Raises `BadInputError` if the CAs cannot be read."""
        roots = _read(self._file) if self._file else ""
        context = await self._certificate.server_context()
        context.options |= ssl.OP_NO_RENEGOTIATION
        if self._file is not None:
            require_client(context, roots, about=str(self._file))
        self._roots, self._context = roots, context

    async def run(self) -> None:
        """Follow the file of CAs for ever. A file that cannot be read is logged, and the last good one stays in use."""
        if self._file is None:
            return
        logged = ""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                if _read(self._file) != self._roots:
                    await self.prepare()
                    _log.info("other CAs vouch for the API server's certificate now: %s", self._file)
                logged = ""
            except BadInputError as error:
                if str(error) != logged:
                    _log.error("the CAs that were read before stay in use: %s", error)
                logged = str(error)


def require_client(context: ssl.SSLContext, roots: str, *, about: str) -> None:
    """Accept only clients with a certificate from these CAs (PEM). Raises `BadInputError` if there is no CA in it."""
    try:
        context.load_verify_locations(cadata=roots)
    except (ssl.SSLError, ValueError) as error:
        raise BadInputError("inject/client-ca", "holds no certificate of a CA (PEM)", about=about) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError("inject/client-ca", f"cannot be read ({error})", about=str(file)) from error
