"""Verifies service-account tokens offline, by the keys in the log (`TokenIssuer`), and returns the workload they prove.

Edges and the CA both verify, each for itself. Nothing here calls Kubernetes: the caller checks in the log that the pod
still exists. What is accepted follows RFC 7519 and RFC 8725 (algorithms fixed by the key, never by the token)
and Kubernetes' bound tokens (KEP 1205): the private claim `kubernetes.io` names namespace, pod and service account.

Errors never hold the token or a part of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.errors import MeshlogError
from shared.io.decoding import UndecodableError, decode, decode_by
from shared.projected_objects import TokenIssuer

AUDIENCE = "meshlog"
MAX_TOKEN = 16 * 1024
"""Bytes of a token; Kubernetes writes 1 to 2 kB."""
EXPIRY_LEEWAY = 10.0
"""Seconds that a token is taken after its expiry: clocks differ, but a stolen old token must not live on."""
NOT_BEFORE_LEEWAY = 300.0
"""Seconds that a token may lie in the future: the issuer vouched for it, only a clock is off."""
CACHE_SECONDS = 60.0
CACHE_TOKENS = 20_000
"""Verified signatures kept, by hash of the token: a reconnect of a whole fleet checks each token once."""

# The algorithm belongs to the key (RFC 8725, section 3.1). Kubernetes signs with these and no others.
_ALGORITHM_OF_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_MIN_RSA_BITS = 2048


class TokenRefusedError(MeshlogError):
    """The token does not prove a workload of this mesh.

    Codes: `token/malformed`, `token/issuer`, `token/signature`, `token/audience`, `token/expired`,
    `token/not-yet-valid`, `token/not-bound-to-pod`.
    """


class WorkloadToken(msgspec.Struct, frozen=True):
    """The claims of a verified token, without the token itself."""

    cluster: str
    namespace: str
    service_account: str
    service_account_uid: str
    pod_name: str
    pod_uid: str
    issued_at: float
    expires_at: float
    """Seconds since 1970."""
    jti: str
    """Id of the token; empty if the issuer gives none."""


class _Named(msgspec.Struct, frozen=True):
    name: str
    uid: str


class _Bound(msgspec.Struct, frozen=True):
    namespace: str
    serviceaccount: _Named
    pod: _Named | None = None


class _TokenClaims(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float = 0
    nbf: float = 0
    jti: str = ""
    bound: _Bound | None = msgspec.field(name="kubernetes.io", default=None)


class _Unverified(msgspec.Struct, frozen=True):
    iss: str


class _VerificationKey(msgspec.Struct, frozen=True):
    kid: str
    algorithm: str
    public: Any


_CLAIMS = msgspec.json.Decoder(_TokenClaims)
_UNVERIFIED = msgspec.json.Decoder(_Unverified)
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*)")


class TokenVerifier:
    """Verifies tokens of one or more clusters for one audience."""

    def __init__(
        self,
        issuers: Mapping[str, TokenIssuer] | None = None,
        *,
        audience: str = AUDIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the issuers known now, by cluster; `set_issuer` follows the log from then on."""
        self._audience = audience
        self._clock = clock
        self._issuers: dict[str, tuple[str, list[_VerificationKey]]] = {}
        self._verified: OrderedDict[bytes, tuple[float, str, _TokenClaims]] = OrderedDict()
        for cluster, issuer in (issuers or {}).items():
            self.set_issuer(cluster, issuer)

    @property
    def clusters(self) -> list[str]:
        """Clusters whose issuer is known, sorted."""
        return sorted(self._issuers)

    def knows(self, cluster: str) -> bool:
        """Whether the issuer of a cluster (empty: of any) is known."""
        return cluster in self._issuers if cluster else bool(self._issuers)

    def set_issuer(self, cluster: str, issuer: TokenIssuer | None) -> None:
        """Replace a cluster's issuer and keys; with None, its tokens are refused from now on.

        Keys that cannot be used (unknown type, RSA below 2048 bits, not for signatures) are left out.
        """
        self._verified.clear()
        if issuer is None:
            self._issuers.pop(cluster, None)
        else:
            self._issuers[cluster] = (issuer.issuer, _usable_keys(issuer.jwks))

    def verify(self, token: str, *, cluster: str = "") -> WorkloadToken:
        """Return the workload that the token proves; with `cluster`, only that cluster's issuer is trusted.

        Raises `TokenRefusedError`.
        """
        now = self._clock()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        cached = self._verified.get(digest)
        if cached is None or now - cached[0] > CACHE_SECONDS or now < cached[0]:
            origin, claims = self._authenticate(token, cluster)
            self._verified[digest] = (now, origin, claims)
            self._verified.move_to_end(digest)
            if len(self._verified) > CACHE_TOKENS:
                self._verified.popitem(last=False)
        else:
            _, origin, claims = cached
            if cluster and origin != cluster:
                raise _refused("issuer", "it was issued by another cluster")
        return self._check(origin, claims, now)

    def _authenticate(self, token: str, cluster: str) -> tuple[str, _TokenClaims]:
        """Return the cluster whose key signed the token, and its claims, of unchecked times and audience."""
        header, payload, signature = _parse(token)
        signed = token.rpartition(".")[0].encode("ascii")
        try:
            issuer = decode_by(_UNVERIFIED, payload).iss
        except UndecodableError as error:
            raise _refused("malformed", "its payload names no issuer") from error
        trusted = [
            (name, keys)
            for name, (text, keys) in self._issuers.items()
            if text == issuer and (not cluster or name == cluster)
        ]
        if not trusted:
            raise _refused("issuer", "its issuer is not the one of this cluster")
        for name, keys in trusted:
            if any(_signed_by(key, header, signed, signature) for key in keys):
                try:
                    return name, decode_by(_CLAIMS, payload)
                except UndecodableError as error:
                    raise _refused("malformed", "its claims are not those of a service-account token") from error
        raise _refused("signature", "no key of its issuer made its signature")

    def _check(self, cluster: str, claims: _TokenClaims, now: float) -> WorkloadToken:
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience not in audiences:
            raise _refused("audience", f"it is not meant for {self._audience!r}; project one with that audience")
        if not now < claims.exp + EXPIRY_LEEWAY:
            raise _refused("expired", "it has expired")
        if not claims.nbf <= now + NOT_BEFORE_LEEWAY:
            raise _refused("not-yet-valid", "it is not valid yet; compare the clocks")
        bound = claims.bound
        if bound is None or bound.pod is None or not bound.pod.name or not bound.pod.uid:
            raise _refused("not-bound-to-pod", "it is bound to no pod; only projected tokens of pods are taken")
        account = bound.serviceaccount
        if claims.sub != f"system:serviceaccount:{bound.namespace}:{account.name}" or not account.name:
            raise _refused("malformed", "its subject is not the service account that it is bound to")
        return WorkloadToken(
            cluster=cluster,
            namespace=bound.namespace,
            service_account=account.name,
            service_account_uid=account.uid,
            pod_name=bound.pod.name,
            pod_uid=bound.pod.uid,
            issued_at=claims.iat,
            expires_at=claims.exp,
            jti=claims.jti,
        )


def _refused(code: str, sentence: str) -> TokenRefusedError:
    return TokenRefusedError(f"token/{code}", sentence, about="the service-account token")


def _parse(token: str) -> tuple[dict[str, Any], bytes, bytes]:
    """Header, payload and signature (RFC 7515, 7.1), by ourselves: the library's parser costs as much as a signature.

    A header that demands extensions (`crit`) is refused: none is supported (section 4.1.11 of the RFC).
    """
    if len(token) > MAX_TOKEN:
        raise _refused("malformed", f"it is longer than {MAX_TOKEN} bytes")
    parts = _COMPACT.fullmatch(token)
    try:
        header, payload, signature = (_base64url(part) for part in parts.groups()) if parts is not None else (b"",) * 3
        fields = decode(dict[str, Any], header)
    except ValueError:
        # Their texts may quote the token; they stop here.
        raise _refused("malformed", "it is not a JSON web token") from None
    if "crit" in fields:
        raise _refused("malformed", "its header demands extensions that this build does not know")
    return fields, payload, signature


def _base64url(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _signed_by(key: _VerificationKey, header: dict[str, Any], signed: bytes, signature: bytes) -> bool:
    kid = header.get("kid")
    if header.get("alg") != key.algorithm or (kid and key.kid and kid != key.kid):
        return False
    return bool(jwt.get_algorithm_by_name(key.algorithm).verify(signed, key.public, signature))


def _usable_keys(jwks: Mapping[str, Any]) -> list[_VerificationKey]:
    keys: list[_VerificationKey] = []
    entries = jwks.get("keys")
    for entry in entries if isinstance(entries, list) else ():
        try:
            parsed = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            continue
        algorithm = _algorithm_of(parsed.key, entry.get("crv", ""))
        if entry.get("use", "sig") == "sig" and algorithm and entry.get("alg", algorithm) == algorithm:
            keys.append(_VerificationKey(kid=str(entry.get("kid", "")), algorithm=algorithm, public=parsed.key))
    return keys


def _algorithm_of(key: Any, curve: str) -> str:
    if isinstance(key, RSAPublicKey):
        return "RS256" if key.key_size >= _MIN_RSA_BITS else ""
    if isinstance(key, EllipticCurvePublicKey):
        return _ALGORITHM_OF_CURVE.get(curve, "")
    return ""
