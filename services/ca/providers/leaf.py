"""Issues leaf certificates whose key the CA generates: for its own server, and for an ingress gateway."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from services.ca.core.provider import Provider
from services.ca.core.template import LeafTemplate
from services.ca.keys.authority import new_serial
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import BACKDATE


class LeafWithKey(msgspec.Struct, frozen=True):
    """A certificate and its key."""

    template: LeafTemplate
    key_pem: bytes
    """PKCS #8, unencrypted."""
    chain: tuple[str, ...]
    """PEM, the leaf first."""

    def __repr__(self) -> str:
        return f"OwnLeaf({self.template.identity or self.template.dns_names}, serial={self.template.serial:x})"


async def issue_leaf(
    provider: Provider, *, identity: SpiffeId | None, dns_names: tuple[str, ...], now: float, lifetime: float
) -> LeafWithKey:
    """Generate a key and certify it for `lifetime` seconds, or until its issuer expires. Raises `MeshlogError`."""
    key = generate_private_key(SECP256R1())
    template = LeafTemplate(
        identity=identity,
        key=key.public_key(),
        spki=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        dns_names=dns_names,
        not_before=int(now) - BACKDATE,
        not_after=int(min(now + lifetime, provider.not_after)),
        serial=new_serial(),
    )
    chain = await provider.sign(template)
    return LeafWithKey(
        template=template,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        chain=tuple(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain),
    )
