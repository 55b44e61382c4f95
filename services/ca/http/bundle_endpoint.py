"""The SPIFFE bundle endpoint: serves the trust bundle as a JSON Web Key Set over HTTPS, for clients outside the mesh.

SPIFFE Trust Domain and Bundle, sections 4 and 5: `x5c` holds the root, `use` is `x509-svid`, the sequence grows. The
server presents an X.509-SVID of the CA's own account (profile `https_spiffe`), signed by the root that signs now.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.providers.leaf import issue_leaf
from services.ca.providers.root_registry import RootRegistry
from shared.errors import MeshlogError
from shared.identity.serving_certificate import load_into
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid, parse_certificates
from shared.names import CA
from shared.records.certificate_records import TrustBundle
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
REFRESH_HINT = 300
"""Seconds after which clients should read the bundle again."""
_LIFETIME = 86400
_RENEW_SECONDS = 3600.0
_RETRY_SECONDS = 5.0
_REQUEST_WITHIN = 5.0


def jwks(bundle: TrustBundle) -> bytes:
    """Return the document of a bundle."""
    keys = [_key(root) for root in parse_certificates(bundle.roots)]
    return msgspec.json.encode({"spiffe_sequence": bundle.serial, "spiffe_refresh_hint": REFRESH_HINT, "keys": keys})


def _key(root: x509.Certificate) -> dict[str, Any]:
    public = root.public_key()
    made: dict[str, Any] = {"use": "x509-svid", "x5c": [base64.b64encode(root.public_bytes(Encoding.DER)).decode()]}
    if isinstance(public, EllipticCurvePublicKey):
        size = (public.curve.key_size + 7) // 8
        numbers = public.public_numbers()
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[public.curve.key_size]
        return {"kty": "EC", "crv": curve, "x": _number(numbers.x, size), "y": _number(numbers.y, size), **made}
    if isinstance(public, RSAPublicKey):
        rsa = public.public_numbers()
        return {"kty": "RSA", "n": _number(rsa.n), "e": _number(rsa.e), **made}
    raise MeshlogError("bundle/key", "holds a root whose key is neither elliptic nor RSA")


def _number(number: int, size: int = 0) -> str:
    raw = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class BundleEndpoint:
    """Serves the newest bundle; `run` it as a task."""

    def __init__(
        self,
        *,
        roots: RootRegistry,
        bundle: Latest[TrustBundle],
        namespace: str,
        service_domain: str,
        clock: Callable[[], float],
    ) -> None:
        self._roots = roots
        self._bundle = bundle
        self._namespace = namespace
        self._service_domain = service_domain
        self._clock = clock
        self.port = 0
        """Port of the listening socket; 0 before `run` has opened it."""

    async def run(self, host: str, port: int) -> None:
        """Serve for ever. The certificate is renewed every hour and at each change of the bundle."""
        await self._bundle.wait()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        while True:
            if await self._renew(context):
                break
            await asyncio.sleep(_RETRY_SECONDS)
        server = await asyncio.start_server(self._answer, host, port, ssl=context, limit=16 * 1024)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_SECONDS):
                        await self._bundle.changed()
                await self._renew(context)

    async def _renew(self, context: ssl.SSLContext) -> bool:
        bundle = await self._bundle.wait()
        identity = SpiffeId(bundle.trust_domain, self._namespace, CA)
        name = f"{CA}.{self._namespace}.svc"
        try:
            leaf = await issue_leaf(
                self._roots.signer(bundle),
                identity=identity,
                dns_names=(name, f"{name}.{self._service_domain}"),
                now=self._clock(),
                lifetime=_LIFETIME,
            )
        except MeshlogError as error:
            _log.warning("no certificate for the bundle endpoint: %s", error)
            return False
        load_into(
            context,
            IssuedSvid(
                spiffe_id=identity,
                key_pem=leaf.key_pem,
                chain=leaf.chain,
                serial=f"{leaf.template.serial:x}",
                not_before=leaf.template.not_before,
                not_after=leaf.template.not_after,
                bundle_serial=bundle.serial,
            ),
        )
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.partition(b"\r\n")[0].decode("latin-1")))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
            _log.debug("a request for the bundle failed: %s", error)
        finally:
            writer.close()

    def _response(self, line: str) -> bytes:
        method, _, rest = line.partition(" ")
        bundle = self._bundle.value
        if method != "GET" or rest.partition(" ")[0] != "/" or bundle is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        body = jwks(bundle)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        return head.encode("ascii") + b"\r\n\r\n" + body
