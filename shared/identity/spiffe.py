"""SPIFFE identities of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.

Kept apart because every service names identities and none may invent its own spelling. Rules: the SPIFFE-ID
specification, sections 2.1 (trust domain) and 2.2 (path).
"""

from __future__ import annotations

import re

import msgspec

from shared.errors import MeshlogError

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
TRUST_DOMAIN_RULE = "the trust domain must be 1 to 255 of a-z 0-9 . _ -"
# A Kubernetes namespace is an RFC 1123 label; a service account an RFC 1123 subdomain. Neither can hold "/",
# "%" or an upper-case letter, so no escaping exists and none is accepted.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def is_trust_domain(text: str) -> bool:
    """Whether identities can be of it."""
    return _TRUST_DOMAIN.match(text) is not None


class InvalidSpiffeIdError(MeshlogError):
    """The text is not the identity of a workload of this mesh."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__("spiffe/invalid-id", f"not a workload identity of this mesh: {why}", about=repr(text[:300]))


class SpiffeId(msgspec.Struct, frozen=True, order=True):
    """The identity of every workload that runs as one service account."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.match(self.trust_domain):
            raise InvalidSpiffeIdError(self.trust_domain, TRUST_DOMAIN_RULE)
        if not _LABEL.match(self.namespace):
            raise InvalidSpiffeIdError(self.namespace, "the namespace is not a Kubernetes namespace name")
        if not _SUBDOMAIN.match(self.service_account):
            raise InvalidSpiffeIdError(self.service_account, "the service account is not a Kubernetes name")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read an identity, byte for byte: no case folding, no percent-decoding, no dot segments.

        Raises `InvalidSpiffeIdError` for anything that `str()` of an identity cannot have produced.
        """
        if not text.startswith("spiffe://"):
            raise InvalidSpiffeIdError(text, "it does not start with spiffe://")
        parts = text.removeprefix("spiffe://").split("/")
        if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
            raise InvalidSpiffeIdError(text, "it is not of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
        return cls(trust_domain=parts[0], namespace=parts[2], service_account=parts[4])
