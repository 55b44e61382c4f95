"""Records between edges and the CA in the log. They contain public parts and sealed tokens only, no secret.

A requester generates a key, sends a `SigningRequest` to `MESH_CSRS` and finds the `SigningAnswer` in `MESH_CERTS`
under its own subject. Proof of identity is a service-account token, sealed (HPKE, RFC 9180) to the CA's public key
that the newest `TrustBundle` publishes; the CA verifies the token itself and takes the identity from it alone.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shared.errors import MeshlogError
from shared.io.decoding import UndecodableError, decode


class SealingKey(msgspec.Struct, frozen=True):
    """A public key of the CA that tokens are sealed to."""

    id: str
    public: bytes
    """X25519, raw, 32 bytes."""


class TrustedRoot(msgspec.Struct, frozen=True):
    """Where a root of a bundle comes from, and since when members trust it."""

    name: str
    """Its MeshRootCertificate; `default` if none exists."""
    trust_domain: str
    since: int
    """Serial of the first bundle that holds it: a member that acknowledged that one, or a later one, trusts it."""


class TrustBundle(msgspec.Struct, frozen=True):
    """The roots that members of a mesh trust, and the keys that reach its CA.

    It is also the state of a rotation: which root signs, which are trusted, since when. Nothing else remembers it.
    """

    trust_domain: str
    """Of what is signed now; members of other trust domains in `members` are trusted as well."""
    serial: int
    """Grows with each change; starts from the clock, so it is also about when (seconds since 1970) it was made."""
    roots: list[str]
    """PEM certificates, the signing one first."""
    sealing_keys: list[SealingKey]
    """Those of the signing root first; a sender uses the first."""
    members: list[TrustedRoot] = []
    """One for each of `roots`, in the same order; empty in bundles of a fixed root."""
    signing_since: int = 0
    """Serial of the bundle since which the first root signs: certificates of earlier bundles want to be renewed."""
    key_type: str = "P-256"
    """What keys to make for certificates: `P-256`, or `RSA-` and the bits."""


class SigningRequest(msgspec.Struct, frozen=True):
    """Asks for an X.509-SVID."""

    id: str
    """Unique; random."""
    requester: str
    """Instance id of the requester, which reads the answer."""
    csr: bytes
    """PKCS #10, DER. Only its public key is used, and its signature as proof of possession."""
    sealing_key: str
    sealed_token: bytes
    """The token of the workload: HPKE base mode, info = `meshlog/csr/v1` + SHA-256 of `csr`; see `token_sealing`."""
    cluster: str
    spiffe_id: str
    """What the requester expects; the CA refuses if the token has another identity."""


class SigningAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificate, or why there is none."""

    id: str
    spiffe_id: str = ""
    chain: list[str] = []
    """PEM, the leaf first, without the root."""
    serial: str = ""
    """Hex."""
    not_before: int = 0
    not_after: int = 0
    """Seconds since 1970."""
    bundle_serial: int = 0
    refused: str = ""
    """Stable code of a refusal (`csr/…`, `token/…`); empty: issued. The reason is in the CA's log only."""
    retry_after: float = 0.0
    """Seconds after which the same request may succeed; 0: it will not."""
    pod: str = ""
    """Whose token it was: `namespace/name`. With what follows, and the requester in the subject, the audit trail."""
    pod_uid: str = ""
    token_id: str = ""
    """`jti` of the token: names it, and is of no use without it."""
    root: str = ""
    """Root that signed it: a name in the bundle's `members`."""


class AuditNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened beside certificates: a refusal with its reason, a step of a rotation. For people."""

    what: str
    """`refused`, `rotation`, `ingress-gateway`, `log`."""
    code: str
    """Stable code of the refusal or step."""
    why: str = ""
    request: str = ""
    requester: str = ""
    asked_for: str = ""
    bundle_serial: int = 0
    waiting: list[str] = []
    """What keeps a rotation from its next step, each with the reason; the first of them, if there are many."""
    waiting_count: int = 0
    names: list[str] = []
    """Of a certificate that is no SVID: an ingress gateway's."""
    until: int = 0
    """When that expires, seconds since 1970."""


class CorruptMessageError(MeshlogError):
    """The bytes are no message that an edge or a CA can have written."""


def encode(message: TrustBundle | SigningRequest | SigningAnswer | AuditNote) -> bytes:
    """JSON, readable with the plain `nats` tool; equal messages have equal bytes."""
    return msgspec.json.encode(message, order="deterministic")


def decode_bundle(payload: bytes) -> TrustBundle:
    """Read a trust bundle; raises `CorruptMessageError`."""
    return _decode(payload, TrustBundle)


def decode_request(payload: bytes) -> SigningRequest:
    """Read a signing request; raises `CorruptMessageError`."""
    return _decode(payload, SigningRequest)


def decode_answer(payload: bytes) -> SigningAnswer:
    """Read a signing answer; raises `CorruptMessageError`."""
    return _decode(payload, SigningAnswer)


def decode_note(payload: bytes) -> AuditNote:
    """Read a note of the audit trail; raises `CorruptMessageError`."""
    return _decode(payload, AuditNote)


_Message = TypeVar("_Message", TrustBundle, SigningRequest, SigningAnswer, AuditNote)


def _decode(payload: bytes, kind: type[_Message]) -> _Message:
    try:
        return decode(kind, payload)
    except UndecodableError as error:
        # msgspec names the place, never the value: nothing secret can be in its text.
        raise CorruptMessageError("certificates/corrupt", f"cannot be read as a {kind.__name__} ({error})") from error
