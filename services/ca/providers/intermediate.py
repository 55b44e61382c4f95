"""Provider with an intermediate under the root of an external CA: the common part of Vault and cert-manager.

The external CA signs a certificate for a key that is generated here and never leaves the key store. The intermediate
signs the leaves, so that an outage of the external CA stops nothing until the intermediate expires. It is renewed after
two thirds of its lifetime.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from services.ca.core.template import LeafTemplate
from services.ca.keys.authority import Authority, AuthorityError, StoredAuthority
from services.ca.providers.base import ProviderContext
from services.ca.providers.builtin import BuiltinProvider
from shared.identity.svid import UNREADABLE
from shared.identity.svid_requester import CLOCK_SKEW
from shared.identity.svid_validator import may_sign
from shared.identity.token_sealing import generate_sealing_key

RENEW_AT = 2 / 3
"""Part of the intermediate's lifetime after which it is renewed."""

SignIntermediate = Callable[[bytes], Awaitable[Sequence[x509.Certificate]]]
"""Returns the intermediate for a CSR (DER) and all certificates above it, the root last. Raises `MeshlogError`."""


class IntermediateProvider:
    """A `Provider` that signs with an intermediate."""

    def __init__(self, context: ProviderContext, sign: SignIntermediate, authority: Authority) -> None:
        self._context = context
        self._sign = sign
        self._signing = BuiltinProvider(authority)

    @classmethod
    async def open(cls, context: ProviderContext, sign: SignIntermediate) -> IntermediateProvider:
        """Open a provider with the stored intermediate, or with a new one. Raises `MeshlogError`."""
        authority = await context.store.load(context.trust_domain)
        if authority is None:
            await context.store.create(await _obtain(context, sign, [generate_sealing_key()]))
            authority = await context.store.load(context.trust_domain)
        if authority is None:
            raise AuthorityError("ca/keys", "the keys were deleted as soon as they were there", about=context.name)
        return cls(context, sign, authority)

    @property
    def roots(self) -> list[x509.Certificate]:
        """See `Provider`."""
        return self._signing.roots

    @property
    def not_after(self) -> float:
        """See `Provider`."""
        return self._signing.not_after

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """See `Provider`."""
        return self._signing.sealing_keys

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """See `Provider`."""
        return await self._signing.sign(template)

    async def refresh(self) -> None:
        """Renew the intermediate after two thirds of its lifetime, or load it if another replica has renewed it."""
        context, held = self._context, self._signing.authority
        stored = await context.store.load(context.trust_domain)
        if stored is not None and stored.certificate != held.certificate:
            self._signing = BuiltinProvider(stored)
            return
        begin, end = held.certificate.not_valid_before_utc.timestamp(), self.not_after
        if context.clock() < begin + (end - begin) * RENEW_AT:
            return
        renewed = await _obtain(context, self._sign, list(held.sealing_keys))
        if x509.load_pem_x509_certificate(renewed.root.encode()) != held.anchor:
            raise AuthorityError(
                "ca/other-root", "the CA outside has another root now: rotate to it", about=context.name
            )
        await context.store.replace(renewed)
        stored = await context.store.load(context.trust_domain)
        if stored is not None:
            self._signing = BuiltinProvider(stored)


async def _obtain(context: ProviderContext, sign: SignIntermediate, sealing_keys: list[bytes]) -> StoredAuthority:
    key = generate_private_key(SECP256R1())
    chain = list(await sign(_csr(context.trust_domain, key)))
    check_intermediate(chain, key, now=context.clock())
    pems = [certificate.public_bytes(Encoding.PEM).decode() for certificate in chain]
    return StoredAuthority(
        trust_domain=context.trust_domain,
        certificate=pems[0],
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        sealing_keys=sealing_keys,
        above=pems[1:-1],
        root=pems[-1],
    )


def _csr(trust_domain: str, key: EllipticCurvePrivateKey) -> bytes:
    """Return the CSR of an intermediate. Its URI SAN is the trust domain (X509-SVID, section 2)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Meshlog intermediate of {trust_domain}"[:64])])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )


def check_intermediate(chain: Sequence[x509.Certificate], key: EllipticCurvePrivateKey, *, now: float) -> None:
    """Raise `AuthorityError` unless the external CA returned what was requested: each rule has its own sentence."""
    if len(chain) < 2:
        raise _unusable("came without its root")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own != spki:
        raise _unusable("certifies a key that is not ours")
    try:
        for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
            certificate.verify_directly_issued_by(issuer)
            if may_sign(certificate) is None:
                raise _unusable("may not sign certificates (CA flag and key usage)")
            _check_dates(certificate, now)
        chain[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound as error:
        raise _unusable("has no subject key identifier") from error
    except (*UNREADABLE, InvalidSignature) as error:
        raise _unusable("does not hold together: a certificate is not issued by the next") from error


def _check_dates(certificate: x509.Certificate, now: float) -> None:
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    if not begin - CLOCK_SKEW <= now < end:
        raise _unusable("holds a certificate that is not valid now")


def _unusable(why: str) -> AuthorityError:
    return AuthorityError("ca/intermediate", f"what the CA outside signed {why}", about="intermediate")
