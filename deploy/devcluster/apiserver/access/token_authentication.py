"""Issues and verifies bearer tokens: the administrator's token and service-account tokens.

Service-account tokens are bound (KEP-1205): a JWT with audience and expiry whose private claim names namespace,
service account and pod. It is invalid once one of them is deleted. The published keys verify a token offline.
"""

from __future__ import annotations

import hmac
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from deploy.devcluster.apiserver.object_store import Store
from deploy.devcluster.apiserver.status_errors import bad_request, conflict, not_found
from deploy.devcluster.apiserver.user_info import UserInfo

ISSUER = "https://kubernetes.default.svc.cluster.local"
_SHORTEST, _LONGEST, _USUAL = 10, 1 << 32, 3600
_MAX_TOKEN = 16 * 1024
ADMINISTRATOR = UserInfo("kubernetes-admin", groups=("system:masters", "system:authenticated"))


class IssuedToken(msgspec.Struct, frozen=True):
    """A token and its expiry."""

    token: str
    expires_at: float
    """Seconds since 1970."""


class TokenAuthenticator:
    """Issues service-account tokens and authenticates bearer tokens."""

    def __init__(self, store: Store, *, issuer: str = ISSUER, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self.issuer = issuer
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.admin_token = secrets.token_urlsafe(32)
        public = self._key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._kid = sha256(der).hexdigest()[:40]
        self._jwk: dict[str, Any] = {
            **ECAlgorithm.to_jwk(public, as_dict=True),
            "use": "sig",
            "alg": "ES256",
            "kid": self._kid,
        }

    def keys(self) -> dict[str, Any]:
        """The JWK set with the public keys (RFC 7517)."""
        return {"keys": [self._jwk]}

    def discovery(self) -> dict[str, Any]:
        """The OpenID configuration."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def issue(
        self,
        namespace: str,
        account: str,
        *,
        audiences: Sequence[str] = (),
        seconds: int = _USUAL,
        pod: str = "",
        pod_uid: str = "",
    ) -> IssuedToken:
        """Issue a token of a service account, bound to `pod` if given. Raises 400, 404, 409 as a TokenRequest does."""
        holder = self._store.get("serviceaccounts", namespace, account)
        if holder is None:
            raise not_found("serviceaccounts", account)
        now = int(self._clock())
        seconds = max(_SHORTEST, min(seconds, _LONGEST))
        private: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": holder.obj["metadata"]["uid"]},
        }
        if pod:
            bound = self._store.get("pods", namespace, pod)
            if bound is None:
                raise not_found("pods", pod)
            uid = bound.obj["metadata"]["uid"]
            if pod_uid and pod_uid != uid:
                why = f"the UID in the bound object reference ({pod_uid}) does not match the UID in record ({uid})"
                raise conflict("pods", pod, why)
            if bound.obj["spec"].get("serviceAccountName") != account:
                raise bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount '
                    "name."
                )
            private["pod"] = {"name": pod, "uid": uid}
            if node := bound.obj["spec"].get("nodeName"):
                private["node"] = {"name": node}
        claims = {
            "aud": list(audiences) or [self.issuer],
            "exp": now + seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._kid})
        return IssuedToken(token, float(now + seconds))

    def authenticate(self, token: str, audiences: Sequence[str] = ()) -> tuple[UserInfo, list[str]] | None:
        """Returns the user of a token and those of `audiences` that it is valid for, or None if it is invalid."""
        if hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return ADMINISTRATOR, list(audiences) or [self.issuer]
        if len(token) > _MAX_TOKEN:
            return None
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["ES256"],
                issuer=self.issuer,
                audience=list(audiences) or [self.issuer],
                options={"require": ["exp", "iat", "iss", "sub", "aud"], "verify_exp": False, "verify_iat": False,
                         "verify_nbf": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        now = self._clock()
        if not float(claims.get("nbf", 0)) - 10 <= now < float(claims["exp"]):
            return None
        caller = self._holder(claims.get("kubernetes.io"))
        if caller is None:
            return None
        named = [claims["aud"]] if isinstance(claims["aud"], str) else list(claims["aud"])
        return caller, [one for one in (audiences or [self.issuer]) if one in named]

    def _holder(self, private: Any) -> UserInfo | None:
        """Returns the user of a token, or None if its service account or pod was deleted since."""
        try:
            namespace, account = private["namespace"], private["serviceaccount"]
            holder = self._store.get("serviceaccounts", namespace, account["name"])
            if holder is None or holder.obj["metadata"]["uid"] != account["uid"]:
                return None
            extra: dict[str, tuple[str, ...]] = {}
            if pod := private.get("pod"):
                bound = self._store.get("pods", namespace, pod["name"])
                if bound is None or bound.obj["metadata"]["uid"] != pod["uid"]:
                    return None
                extra = {
                    "authentication.kubernetes.io/pod-name": (pod["name"],),
                    "authentication.kubernetes.io/pod-uid": (pod["uid"],),
                }
        except (KeyError, TypeError):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return UserInfo(f"system:serviceaccount:{namespace}:{account['name']}", account["uid"], groups, extra)
