"""The rules of an X.509-SVID, checked by the CA that issues it and again by the component that receives it.

TLS libraries do not check them: they accept a CA certificate as a leaf, two URI SANs, none, a foreign trust domain. The
rules are the SPIFFE standard's (X509-SVID, sections 2 to 5) and RFC 5280's where SPIFFE points to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from shared.errors import MeshlogError
from shared.identity.spiffe import InvalidSpiffeIdError, SpiffeId
from shared.identity.svid import UNREADABLE

MAX_CHAIN = 8
_HASHES = {"sha256", "sha384", "sha512"}
_KNOWN_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
"""Critical extensions that are understood here; any other critical one makes a certificate unusable (RFC 5280, 4.2)."""


class InvalidSvidError(MeshlogError):
    """The certificate is no X.509-SVID of this mesh; the code (`svid/…`) names the rule that it breaks."""


def validate_svid(
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    now: float,
    expected: SpiffeId | None = None,
    trust_domain: str = "",
    public_key: bytes | None = None,
    dns_names: Collection[str] | None = None,
    skew: float = 0.0,
) -> SpiffeId:
    """The identity of a leaf-first chain that leads to one of `roots` and is valid at `now` (seconds since 1970).

    `expected` and `trust_domain` are the required identity, `public_key` (SubjectPublicKeyInfo, DER) the required key,
    `dns_names` exactly the required DNS names (None: any). `skew` widens the validity by that many
    seconds at both ends. Raises `InvalidSvidError`.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise _invalid("chain", f"must hold 1 to {MAX_CHAIN} certificates, and holds {len(chain)}")
    leaf = chain[0]
    try:
        identity = _identity(leaf, dns_names)
        _check_leaf_use(leaf)
        _check_key(leaf)
    except UNREADABLE as error:
        # Extensions and keys are parsed only when they are looked at.
        raise _invalid("malformed", f"cannot be read: {error}") from error
    if trust_domain and identity.trust_domain != trust_domain:
        raise _invalid("trust-domain", f"must be of {trust_domain}, and is {identity}")
    if expected is not None and identity != expected:
        raise _invalid("identity", f"must be {expected}, and is {identity}")
    if public_key is not None and _spki(leaf) != public_key:
        raise _invalid("other-key", "certifies a key that was not asked for")
    try:
        _check_path(chain, roots, now, skew)
    except UNREADABLE as error:
        raise _invalid("malformed", f"has an issuer that cannot be read: {error}") from error
    return identity


def _invalid(code: str, rule: str) -> InvalidSvidError:
    return InvalidSvidError(f"svid/{code}", rule, about="X.509-SVID")


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _identity(leaf: x509.Certificate, dns_names: Collection[str] | None) -> SpiffeId:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise _invalid("uri-san", "must have exactly one URI SAN, and has no SAN") from None
    names = extension.value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns = names.get_values_for_type(x509.DNSName)
    if len(uris) != 1:
        raise _invalid("uri-san", f"must have exactly one URI SAN, and has {len(uris)}")
    if len(uris) + len(dns) != len(names):
        raise _invalid("other-san", "may have URI and DNS SANs only")
    if dns_names is not None and sorted(dns) != sorted(dns_names):
        raise _invalid("dns-san", "must have the DNS names of its service and no others")
    if not extension.critical and not leaf.subject.rdns:
        raise _invalid("san-not-critical", "must mark the SAN critical, because its subject is empty")
    try:
        return SpiffeId.parse(uris[0])
    except InvalidSpiffeIdError as error:
        raise _invalid("spiffe-id", str(error)) from error


def _check_leaf_use(leaf: x509.Certificate) -> None:
    seen: set[str] = set()
    for extension in leaf.extensions:
        value = extension.value
        if extension.critical and extension.oid not in _KNOWN_EXTENSIONS:
            raise _invalid("critical-extension", f"has a critical extension {extension.oid.dotted_string}")
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise _invalid("ca", "must not have the CA flag")
        if isinstance(value, x509.KeyUsage):
            seen.add("key-usage")
            _check_key_usage(value, critical=extension.critical)
        if isinstance(value, x509.ExtendedKeyUsage):
            seen.add("extended-key-usage")
            if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(value):
                raise _invalid("extended-key-usage", "must be usable by both servers and clients")
    for name in ("key-usage", "extended-key-usage"):
        if name not in seen:
            raise _invalid(name, f"must state its {name.replace('-', ' ')}")


def _check_key_usage(usage: x509.KeyUsage, *, critical: bool) -> None:
    if usage.key_cert_sign or usage.crl_sign:
        raise _invalid("key-usage", "must not be allowed to sign certificates or revocation lists")
    if not usage.digital_signature or not critical:
        raise _invalid("key-usage", "must have the critical key usage digitalSignature")


def _check_key(leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    strong = (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, (SECP256R1, SECP384R1))) or (
        isinstance(key, RSAPublicKey) and key.key_size >= 2048
    )
    if not strong:
        raise _invalid("key", "must have a P-256, P-384 or RSA key of 2048 bits or more")


def _check_path(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: float, skew: float) -> None:
    """Each certificate is issued by the next, the last one by a root; every one is valid now (RFC 5280, 6.1)."""
    anchor = next((root for root in roots if _issued_by(chain[-1], root)), None)
    if anchor is None:
        raise _invalid("path", "does not lead to a trusted root")
    path = [*chain, anchor]
    for certificate in path:
        _check_dates(certificate, now, skew)
    for depth, (certificate, issuer) in enumerate(zip(chain, path[1:], strict=True)):
        if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
            raise _invalid("outlives-issuer", "must not outlive its issuer")
        _check_issuer(issuer, below=depth)
        if depth + 1 < len(chain) and not _issued_by(certificate, issuer):
            raise _invalid("path", "is not issued by the next certificate of its chain")


def _check_dates(certificate: x509.Certificate, now: float, skew: float) -> None:
    if now + skew < certificate.not_valid_before_utc.timestamp():
        raise _invalid("not-yet-valid", "is not valid yet; compare the clocks")
    if now - skew > certificate.not_valid_after_utc.timestamp():
        raise _invalid("expired", "has expired")


def _check_issuer(issuer: x509.Certificate, *, below: int) -> None:
    """`below`: CA certificates between it and the leaf."""
    constraints = may_sign(issuer)
    if constraints is None:
        raise _invalid("issuer", "must be issued by a certificate with the CA flag and the right to sign")
    if constraints.path_length is not None and below > constraints.path_length:
        raise _invalid("issuer", "has more CAs above it than one of them allows")


def may_sign(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    """Return the constraints of a CA with the flag and the right to sign; else None (RFC 5280, 4.2.1.3 and 4.2.1.9)."""
    constraints = usage = None
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
    allowed = constraints is not None and constraints.ca and usage is not None and usage.key_cert_sign
    return constraints if allowed else None


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None or algorithm.name not in _HASHES:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True
