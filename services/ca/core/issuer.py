"""Decides on a signing request: issues a certificate or refuses.

The order of the checks matters. A request without a valid token costs one HPKE opening at most and leaves no state. The
token alone proves the identity; the CSR provides the key; the policy provides names and lifetime.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.core.cluster_state import ClusterState
from services.ca.core.csr import RequestedKey, read_csr
from services.ca.core.errors import IssuanceRefusedError
from services.ca.core.provider import Provider
from services.ca.core.replay_guard import ReplayGuard
from services.ca.core.template import LeafTemplate
from services.ca.core.validator import check_issued
from shared.errors import MeshlogError
from shared.identity.service_account_tokens import TokenRefusedError, TokenVerifier, WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import BACKDATE
from shared.identity.token_sealing import Opener, SealingError, binding
from shared.records.certificate_records import AuditNote, SigningAnswer, SigningRequest, TrustBundle

_log = logging.getLogger(__name__)
SHORTEST_LIFETIME = 10.0
"""Seconds. A shorter certificate could expire on its way."""
ISSUER_MARGIN = 60.0
"""Seconds before the issuing certificate expires at which signing pauses: such a leaf would be useless."""
_LATER = 1.0
"""Seconds after which a requester may retry if the log lacked the state of its cluster."""


class SigningPolicy(msgspec.Struct, frozen=True):
    """What a certificate contains besides the identity that the token proves."""

    mesh_namespace: str
    lifetime: float = 86400.0
    """Seconds, unless the MeshConfig sets a lifetime."""
    serving_accounts: tuple[str, ...] = ()
    """Accounts in the mesh's namespace whose certificates contain the DNS names of the Service of the same name."""
    service_domain: str = "cluster.local"

    def dns_names(self, identity: SpiffeId) -> tuple[str, ...]:
        """Return the DNS names of a control-plane Service; empty for any other identity."""
        if identity.namespace != self.mesh_namespace or identity.service_account not in self.serving_accounts:
            return ()
        name = f"{identity.service_account}.{identity.namespace}.svc"
        return (name, f"{name}.{self.service_domain}")


class Issuer:
    """Answers signing requests."""

    def __init__(
        self,
        *,
        signer: Callable[[TrustBundle], Provider],
        opener: Opener,
        verifier: TokenVerifier,
        state: ClusterState,
        guard: ReplayGuard,
        policy: SigningPolicy,
        clock: Callable[[], float],
        serials: Callable[[], int],
        settle: Callable[[Callable[[], bool]], Awaitable[None]],
        refused: Callable[[AuditNote], None] = lambda _: None,
    ) -> None:
        """`signer` returns the provider of the root that signs under a bundle; `serials` returns a new serial.

        `settle(condition)` waits briefly until the state of the cluster makes `condition` true, and returns in any
        case. `refused` is called with each refusal.
        """
        self._signer = signer
        self._opener = opener
        self._verifier = verifier
        self._state = state
        self._guard = guard
        self._policy = policy
        self._clock = clock
        self._serials = serials
        self._settle = settle
        self._refused = refused

    async def answer(self, request: SigningRequest, bundle: TrustBundle) -> SigningAnswer:
        """Return the certificate or a refusal. The requester gets the code of a refusal, the log its reason."""
        try:
            return await self._issue(request, bundle)
        except IssuanceRefusedError as refusal:
            return self._refuse(request, refusal, refusal.retry_after)
        except (TokenRefusedError, SealingError) as refusal:
            # An unknown key: the requester holds an old bundle, and reads the new one before it retries.
            return self._refuse(request, refusal, _LATER if refusal.code == "sealing/unknown-key" else 0.0)
        except MeshlogError as failure:
            _log.error("the provider failed: %s", failure, extra={"code": failure.code})
            return self._refuse(request, IssuanceRefusedError("ca/provider", str(failure)), 5.0)

    def seen(self, request: SigningRequest) -> bool:
        """Return whether this process has signed this request before."""
        return self._guard.remembers(request.id, binding(request.csr))

    async def _issue(self, request: SigningRequest, bundle: TrustBundle) -> SigningAnswer:
        token = await self._prove(request)
        identity = SpiffeId(
            trust_domain=bundle.trust_domain, namespace=token.namespace, service_account=token.service_account
        )
        if request.spiffe_id != str(identity):
            # A requester that reads an old bundle asks for its trust domain.
            retry = _LATER if _other_domain(request.spiffe_id, identity, bundle) else 0.0
            raise IssuanceRefusedError(
                "csr/identity", f"the token proves {identity}, not what was asked for", retry_after=retry
            )
        provider = self._signer(bundle)
        requested = read_csr(request.csr, identity)
        digest = binding(request.csr)
        self._guard.admit(request.id, digest, token.pod_uid, self._clock())
        try:
            template = self._template(identity, requested, provider.not_after)
            chain = await provider.sign(template)
            check_issued(chain, template, provider.roots, now=self._clock())
        except BaseException:
            self._guard.forget(digest)
            raise
        _log_issue(request, token, template)
        return _answer(request, token, template, chain, bundle)

    def _refuse(self, request: SigningRequest, refusal: MeshlogError, retry_after: float) -> SigningAnswer:
        note = AuditNote(
            what="refused",
            code=refusal.code,
            why=str(refusal)[:500],
            request=request.id[:64],
            requester=request.requester[:128],
            asked_for=request.spiffe_id[:300],
        )
        _log.warning(
            "refused: %s",
            refusal,
            extra={
                "code": refusal.code,
                "request": note.request,
                "requester": note.requester,
                "asked_for": note.asked_for,
                "retry_after": retry_after,
            },
        )
        self._refused(note)
        return SigningAnswer(id=request.id, refused=refusal.code, retry_after=retry_after)

    async def _prove(self, request: SigningRequest) -> WorkloadToken:
        raw = self._opener.open(request.sealing_key, request.sealed_token, binding(request.csr))
        if not self._verifier.knows(request.cluster):
            await self._settle(lambda: self._verifier.knows(request.cluster))
        if not self._verifier.knows(request.cluster):
            raise IssuanceRefusedError("token/issuer", "the log does not say who issues its tokens", retry_after=_LATER)
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise IssuanceRefusedError("token/malformed", "the sealed text is no token") from None
        token = self._verifier.verify(text, cluster=request.cluster)
        if self._state.rejection(token) is not None:
            await self._settle(lambda: self._state.rejection(token) is None)
        rejection = self._state.rejection(token)
        if rejection is not None:
            about = f"{token.namespace}/{token.pod_name}"
            raise IssuanceRefusedError(rejection.code, rejection.sentence, about=about, retry_after=_LATER)
        return token

    def _template(self, identity: SpiffeId, requested: RequestedKey, not_after: float) -> LeafTemplate:
        now = self._clock()
        remaining = not_after - now
        if remaining < ISSUER_MARGIN:
            raise IssuanceRefusedError(
                "ca/issuer-expiring", "the CA's own certificate is at its end: rotate the root", retry_after=60.0
            )
        lifetime = max(SHORTEST_LIFETIME, self._state.lifetime or self._policy.lifetime)
        return LeafTemplate(
            identity=identity,
            key=requested.key,
            spki=requested.spki,
            dns_names=self._policy.dns_names(identity),
            not_before=int(now) - BACKDATE,
            not_after=int(now + min(lifetime, remaining)),
            serial=self._serials(),
        )


def _log_issue(request: SigningRequest, token: WorkloadToken, template: LeafTemplate) -> None:
    # The answer in the log contains all of this, so a line for each certificate is for debugging only.
    if not _log.isEnabledFor(logging.DEBUG):
        return
    _log.debug(
        "issued",
        extra={
            "identity": str(template.identity),
            "serial": f"{template.serial:x}",
            "not_after": template.not_after,
            "pod": token.pod_name,
            "token_id": token.jti,
            "request": request.id,
            "requester": request.requester,
        },
    )


def _other_domain(asked: str, identity: SpiffeId, bundle: TrustBundle) -> bool:
    return any(
        asked == str(SpiffeId(member.trust_domain, identity.namespace, identity.service_account))
        for member in bundle.members
    )


def _answer(
    request: SigningRequest,
    token: WorkloadToken,
    template: LeafTemplate,
    chain: list[x509.Certificate],
    bundle: TrustBundle,
) -> SigningAnswer:
    leaf = chain[0]
    return SigningAnswer(
        id=request.id,
        spiffe_id=str(template.identity),
        chain=[certificate.public_bytes(Encoding.PEM).decode() for certificate in chain],
        serial=f"{leaf.serial_number:x}",
        not_before=int(leaf.not_valid_before_utc.timestamp()),
        not_after=int(leaf.not_valid_after_utc.timestamp()),
        bundle_serial=bundle.serial,
        pod=f"{token.namespace}/{token.pod_name}",
        pod_uid=token.pod_uid,
        token_id=token.jti,
        root=bundle.members[0].name if bundle.members else "",
    )
