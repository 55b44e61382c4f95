"""An issued X.509-SVID with its private key, as its holder keeps it: in memory, and never in a text."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from shared.errors import MeshlogError
from shared.identity.spiffe import SpiffeId

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates and requests that it cannot read: some are plain exceptions, and some come
late, when a part is looked at."""

BACKDATE = 120
"""Seconds that a certificate starts before it was issued, so that a clock that is behind takes it."""


class IssuedSvid(msgspec.Struct, frozen=True):
    """A certificate, its chain and the key that belongs to it."""

    spiffe_id: SpiffeId
    key_pem: bytes
    """PKCS #8, unencrypted: for memory only."""
    chain: tuple[str, ...]
    """PEM, the leaf first, without the root."""
    serial: str
    """Hex."""
    not_before: int
    not_after: int
    """Seconds since 1970, by the CA's clock."""
    bundle_serial: int
    """Trust bundle that was the newest at the CA when it signed."""

    @property
    def chain_pem(self) -> bytes:
        """The chain as Envoy, gRPC and OpenSSL read it."""
        return "".join(self.chain).encode()

    @property
    def lifetime(self) -> float:
        """Seconds from issue to expiry: both ends by the CA's clock, so that a wrong clock here does not matter."""
        return max(1.0, self.not_after - self.not_before - BACKDATE)

    def __repr__(self) -> str:
        return f"IssuedSvid({self.spiffe_id}, serial={self.serial}, not_after={self.not_after})"


def parse_certificates(pems: Iterable[str]) -> list[x509.Certificate]:
    """Certificates from PEM texts of one or more each; raises `MeshlogError` (`svid/pem`) if one is none."""
    try:
        return [certificate for pem in pems for certificate in x509.load_pem_x509_certificates(pem.encode())]
    except UNREADABLE as error:
        raise MeshlogError("svid/pem", "a certificate cannot be read as PEM") from error
