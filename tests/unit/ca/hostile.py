"""Whatever arrives where the CA and its requesters read: one judge for the fuzzer and for the random tests.

The first byte selects the reader of the rest. Each may refuse, in its own error; anything else that is raised is a
bug, and so is a thing that is taken although it breaks what its reader promises.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.ca.core.csr import read_csr
from services.ca.core.errors import IssuanceRefusedError
from services.ca.core.template import LeafTemplate, sign_leaf
from services.ca.keys.authority import AuthorityError, decode_authority, encode_authority, generate_authority
from shared.errors import MeshlogError
from shared.identity.bundle_rules import InvalidBundleError, check_bundle
from shared.identity.service_account_tokens import TokenRefusedError, TokenVerifier
from shared.identity.spiffe import InvalidSpiffeIdError, SpiffeId
from shared.identity.svid import UNREADABLE, parse_certificates
from shared.identity.svid_validator import InvalidSvidError, validate_svid
from shared.identity.token_sealing import LABEL, Opener, SealingError, seal_token
from shared.projected_objects import TokenIssuer
from shared.records.certificate_records import (
    CorruptMessageError,
    SigningRequest,
    TrustBundle,
    decode_answer,
    decode_bundle,
    decode_note,
    decode_request,
    encode,
)
from tests.unit.identity.cluster import ISSUER, Cluster

NOW = 1_800_000_000
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
CLUSTER = Cluster(now=NOW)
VERIFIER = TokenVerifier({"devcluster": CLUSTER.issuer}, clock=lambda: NOW)
TOKEN = CLUSTER.token()
STORED = generate_authority("cluster.local", clock=lambda: NOW)
AUTHORITY = decode_authority(encode_authority(STORED), trust_domain="cluster.local", about="here")
OPENER = Opener(AUTHORITY.sealing_keys)
_KEY = ec.generate_private_key(ec.SECP256R1())
CSR = (
    x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(_KEY, SHA256()).public_bytes(Encoding.DER)
)
BUNDLE = TrustBundle("cluster.local", 1, [STORED.certificate], OPENER.public_keys)
SEALING_KEY, SEALED = seal_token(BUNDLE, TOKEN, CSR)
REQUEST = SigningRequest("1", "edge", CSR, SEALING_KEY, SEALED, "devcluster", str(BUYER))
LEAF = sign_leaf(
    LeafTemplate(
        identity=BUYER,
        key=_KEY.public_key(),
        spki=_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        dns_names=(),
        not_before=NOW - 60,
        not_after=NOW + 60,
        serial=1 << 127,
    ),
    AUTHORITY.certificate,
    AUTHORITY.key,
)


def _csr(content: bytes) -> None:
    with contextlib.suppress(IssuanceRefusedError):
        taken = read_csr(content, BUYER)
        assert taken.spki in content, "a key that is not in the CSR"


def _token(content: bytes) -> None:
    text = content.decode("latin-1")
    with contextlib.suppress(TokenRefusedError):
        found = VERIFIER.verify(text)
        assert text.rpartition(".")[0] == TOKEN.rpartition(".")[0], f"a token that nobody signed: {found}"


def _claims(content: bytes) -> None:
    """What the issuer's own key signed, whatever it is."""
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"key-1"}').rstrip(b"=").decode()
    signed = f"{header}.{base64.urlsafe_b64encode(content).rstrip(b'=').decode()}"
    token = f"{signed}.{base64.urlsafe_b64encode(_raw_signature(signed.encode())).rstrip(b'=').decode()}"
    with contextlib.suppress(TokenRefusedError):
        found = VERIFIER.verify(token)
        assert found.pod_name
        assert found.pod_uid
        assert found.expires_at > NOW - 60


def _raw_signature(signed: bytes) -> bytes:
    first, second = decode_dss_signature(CLUSTER.key.sign(signed, ec.ECDSA(SHA256())))
    return first.to_bytes(32, "big") + second.to_bytes(32, "big")


def _issuer(content: bytes) -> None:
    """Keys of an issuer, as in the log. A key may be spelled in several ways, so acceptance proves nothing."""
    try:
        keys = msgspec.json.decode(content, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    verifier = TokenVerifier({"devcluster": TokenIssuer(issuer=ISSUER, jwks=keys)}, clock=lambda: NOW)
    with contextlib.suppress(TokenRefusedError):
        verifier.verify(TOKEN)


def _messages(content: bytes) -> None:
    for decode in (decode_request, decode_answer, decode_note, decode_bundle):
        with contextlib.suppress(CorruptMessageError):
            decode(content)


def _bundle(content: bytes) -> None:
    with contextlib.suppress(CorruptMessageError, InvalidBundleError):
        bundle = decode_bundle(content)
        check_bundle(bundle)
        assert parse_certificates(bundle.roots), "nobody is trusted"


def _certificate(content: bytes) -> None:
    try:
        leaf = x509.load_der_x509_certificate(content)
    except UNREADABLE:
        return
    with contextlib.suppress(InvalidSvidError):
        assert validate_svid([leaf], [AUTHORITY.certificate], now=NOW, expected=BUYER) == BUYER
        assert leaf.tbs_certificate_bytes == LEAF.tbs_certificate_bytes, "a certificate that the CA never signed"


def _pem(content: bytes) -> None:
    with contextlib.suppress(MeshlogError):
        parse_certificates([content.decode("latin-1")])


def _sealed(content: bytes) -> None:
    with contextlib.suppress(SealingError):
        opened = OPENER.open(SEALING_KEY, content, REQUEST.csr)
        raise AssertionError(f"what was not sealed for this opens: {len(opened)} bytes")


def _identity(content: bytes) -> None:
    text = content.decode("latin-1")
    with contextlib.suppress(InvalidSpiffeIdError):
        assert str(SpiffeId.parse(text)) == text


def _keys(content: bytes) -> None:
    with contextlib.suppress(AuthorityError):
        decode_authority(content, trust_domain="cluster.local", about="here")


READERS: tuple[Callable[[bytes], None], ...] = (
    _csr,
    _token,
    _claims,
    _issuer,
    _messages,
    _bundle,
    _certificate,
    _pem,
    _sealed,
    _identity,
    _keys,
)


def judge(content: bytes) -> None:
    """Give it to the reader that its first byte names."""
    if content:
        READERS[content[0] % len(READERS)](content[1:])


def seeds() -> Iterator[bytes]:
    """What is well formed for each reader, to start from: noise alone is rarely a certificate."""
    good: dict[Callable[[bytes], None], list[bytes]] = {
        _csr: [CSR],
        _token: [TOKEN.encode()],
        _claims: [msgspec.json.encode(CLUSTER.claims())],
        _issuer: [msgspec.json.encode(CLUSTER.issuer.jwks)],
        _messages: [encode(REQUEST), encode(BUNDLE)],
        _bundle: [encode(BUNDLE)],
        _certificate: [LEAF.public_bytes(Encoding.DER), AUTHORITY.certificate.public_bytes(Encoding.DER)],
        _pem: [STORED.certificate.encode()],
        _sealed: [SEALED, LABEL],
        _identity: [str(BUYER).encode()],
        _keys: [encode_authority(STORED)],
    }
    for number, reader in enumerate(READERS):
        for content in good[reader]:
            yield bytes([number]) + content
