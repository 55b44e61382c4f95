"""The rules of a trust bundle, checked by each component that reads one from the log.

The log can be damaged, and a component with the right to write to it can be taken over. A bundle without a usable root
would remove trust in every peer at once, so an invalid bundle is skipped and the last good one stays in force.
"""

from __future__ import annotations

from cryptography import x509

from shared.errors import MeshlogError
from shared.identity.spiffe import InvalidSpiffeIdError, SpiffeId
from shared.identity.svid import UNREADABLE
from shared.identity.token_sealing import sealing_key_id
from shared.records.certificate_records import SealingKey, TrustBundle

KEY_TYPES = frozenset({"P-256", "RSA-2048", "RSA-3072", "RSA-4096"})
MAX_ROOTS = 32


class InvalidBundleError(MeshlogError):
    """The bundle breaks a rule, so no CA can have published it; the code (`bundle/…`) names the rule."""


def check_bundle(bundle: TrustBundle) -> None:
    """Raise `InvalidBundleError` unless members may trust by this bundle.

    Expiry is not checked: an old root beside a new one does no harm, and clocks differ.
    """
    if bundle.serial < 1 or not 0 <= bundle.signing_since <= bundle.serial:
        raise _invalid("serial", "must have a serial, and sign since that one or an earlier one")
    if not 1 <= len(bundle.roots) <= MAX_ROOTS:
        raise _invalid("roots", f"must hold 1 to {MAX_ROOTS} roots, and holds {len(bundle.roots)}")
    for pem in bundle.roots:
        _check_root(pem)
    if len(set(bundle.roots)) != len(bundle.roots):
        raise _invalid("roots", "must hold each root once")
    _check_members(bundle)
    _check_trust_domain(bundle.trust_domain)
    for key in bundle.sealing_keys:
        _check_sealing_key(key)
    if bundle.key_type not in KEY_TYPES:
        raise _invalid("key-type", f"must ask for one of {', '.join(sorted(KEY_TYPES))}")


def _invalid(code: str, rule: str) -> InvalidBundleError:
    return InvalidBundleError(f"bundle/{code}", rule, about="trust bundle")


def _check_root(pem: str) -> None:
    """One certificate in each text, that may sign certificates (RFC 5280, 4.2.1.3 and 4.2.1.9)."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        (root,) = found
        root.public_key()
        extensions = [extension.value for extension in root.extensions]
    except UNREADABLE as error:
        raise _invalid("root", "must hold one readable certificate for each root") from error
    constraints = [value for value in extensions if isinstance(value, x509.BasicConstraints)]
    usages = [value for value in extensions if isinstance(value, x509.KeyUsage)]
    if not constraints or not constraints[0].ca or not all(usage.key_cert_sign for usage in usages):
        raise _invalid("root", "must hold roots with the CA flag and the right to sign")


def _check_members(bundle: TrustBundle) -> None:
    if not bundle.members:
        return
    names = [member.name for member in bundle.members]
    if len(names) != len(bundle.roots) or len(set(names)) != len(names) or not all(names):
        raise _invalid("members", "must name each of its roots, each by a name of its own")
    if bundle.members[0].trust_domain != bundle.trust_domain:
        raise _invalid("trust-domain", "must be of the trust domain of the root that signs")
    for member in bundle.members:
        _check_trust_domain(member.trust_domain)
        if not 0 < member.since <= bundle.serial:
            raise _invalid("members", "must trust each root since a bundle that was")


def _check_trust_domain(name: str) -> None:
    try:
        SpiffeId.parse(f"spiffe://{name}/ns/n/sa/a")
    except InvalidSpiffeIdError as error:
        raise _invalid("trust-domain", "must name trust domains") from error


def _check_sealing_key(key: SealingKey) -> None:
    if len(key.public) != 32 or key.id != sealing_key_id(key.public):
        raise _invalid("sealing-key", "must name its sealing keys by what they are")
