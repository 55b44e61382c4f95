"""Asks the CA for X.509-SVIDs through the log, and checks what comes back.

One view per process follows all answers to its instance. A request keeps its id while it waits, so the CA drops
repetitions (the queue may have lost the request) at no cost; after a temporary refusal the request gets a new id. Keys
are generated here and never leave the memory of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from functools import partial

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import Draft, EventLog, EventLogError, Record
from shared.eventlog.view import Begin, LogView
from shared.identity.bundle import BundleFollower
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid, parse_certificates
from shared.identity.svid_validator import validate_svid
from shared.identity.token_sealing import seal_token
from shared.records.certificate_records import SigningAnswer, SigningRequest, TrustBundle, decode_answer, encode
from shared.records.subjects import Streams
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.3
_UNSENT = Backoff(_RETRY_SECONDS, _RETRY_SECONDS, jitter=(0.5, 1.5))
"""Before a request that could not be queued is queued again."""
_UNANSWERED = Backoff(first=10.0, longest=160.0, jitter=(0.75, 1.25))
"""Before an unanswered request is sent again."""
PATIENCE = 2.0
"""Seconds without an answer after which a request counts as waiting: a CA that works takes milliseconds."""
CLOCK_SKEW = 300.0
"""Seconds that our clock may differ from the CA's when a certificate arrives."""


class SigningRefusedError(MeshlogError):
    """The CA refused for good; the code is the CA's (`token/expired`, `csr/…`), its reason is in the CA's log."""


class SvidUnavailableError(MeshlogError):
    """No certificate in the time given: the CA, the log or the trust bundle is away. The same call may be repeated."""


class _KeyPair(msgspec.Struct, frozen=True):
    pem: bytes
    csr: bytes
    public: bytes


class AnswerFold:
    """The fold of the CA's answers to one requester: each ends a request that waits, and nothing is kept."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[SigningAnswer]] = {}
        """By id of the request."""

    def reset(self, _epoch: Epoch) -> None:
        """Do nothing: answers are not chained."""

    def fold(self, record: Record) -> bool:
        """Take an answer. Raises `CorruptMessageError`."""
        answer = decode_answer(record.payload)
        future = self.waiting.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)
        return False


class CertificateRequester:
    """Requests for any number of identities; `run` it as a task before the first answer can arrive."""

    def __init__(
        self,
        *,
        csrs: EventLog,
        certs: EventLog,
        streams: Streams,
        instance: str,
        cluster: str,
        bundles: BundleFollower,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`instance` must be this process's alone among those alive; `cluster` is whose tokens it presents."""
        self._csrs = csrs
        self._streams = streams
        self._instance = instance
        self._cluster = cluster
        self._bundles = bundles
        self._clock = clock
        self._chance = chance
        self._answers = AnswerFold()
        self._view = LogView(
            certs,
            self._answers,
            name="answers of the CA",
            subjects=(streams.issued_scope(instance),),
            streams=streams,
            begin=Begin.NEXT,
        )
        self._since: dict[str, float] = {}
        """When each request that waits was asked first, by the loop's clock."""

    async def run(self) -> None:
        """Follow the answers for ever; outages are waited out."""
        await self._view.run()

    def unanswered(self) -> int:
        """How many requests have waited for an answer for longer than `PATIENCE`."""
        now = asyncio.get_running_loop().time()
        return sum(now - since > PATIENCE for since in self._since.values())

    async def bundle(self) -> TrustBundle:
        """The newest trust bundle, as soon as there is one."""
        return await self._bundles.wait()

    async def resigned(self, signed_under: int) -> None:
        """Wait until another root signs than the one that signed under the bundle with this serial."""
        async for bundle in self._bundles.changes():
            if signed_under < bundle.signing_since:
                return

    async def request(self, token: str, spiffe_id: SpiffeId, *, within: float = 60.0) -> IssuedSvid:
        """A new key and its certificate for the identity that `token` proves.

        Raises `SigningRefusedError`, `SvidUnavailableError` after `within` seconds, and `InvalidSvidError` if the CA's
        answer is no certificate for this key and identity.
        """
        reason = "the CA did not answer"
        try:
            async with asyncio.timeout(within):
                await self._view.caught_up.wait()
                key = await _generate((await self._bundles.wait()).key_type)
                while True:
                    bundle = await self._bundles.wait()
                    answer = await self._ask(key, token, spiffe_id, bundle)
                    if not answer.refused:
                        return await self._accept(answer, key, spiffe_id)
                    if (await self._bundles.wait()).trust_domain != spiffe_id.trust_domain:
                        raise SvidUnavailableError(
                            "svid/trust-domain", "the trust domain changed: ask for the new one", about=str(spiffe_id)
                        )
                    if not answer.retry_after:
                        raise SigningRefusedError(
                            answer.refused, "the CA refused; its log has the reason", about=str(spiffe_id)
                        )
                    reason = f"the CA refuses for now ({answer.refused})"
                    await self._pause(answer, bundle)
        except TimeoutError:
            raise SvidUnavailableError(
                "svid/unavailable", f"no certificate in {within:g} s: {reason}", about=str(spiffe_id)
            ) from None

    async def _pause(self, answer: SigningAnswer, bundle: TrustBundle) -> None:
        """Wait for the delay in the CA's answer, or until a newer bundle arrives if the answer demands one."""
        seconds = answer.retry_after * (1 + self._chance())
        if answer.refused != "sealing/unknown-key":
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bundles.at_least(bundle.serial + 1)

    async def _ask(self, key: _KeyPair, token: str, spiffe_id: SpiffeId, bundle: TrustBundle) -> SigningAnswer:
        sealing_key, sealed = seal_token(bundle, token, key.csr)
        request = SigningRequest(
            id=secrets.token_hex(16),
            requester=self._instance,
            csr=key.csr,
            sealing_key=sealing_key,
            sealed_token=sealed,
            cluster=self._cluster,
            spiffe_id=str(spiffe_id),
        )
        answered: asyncio.Future[SigningAnswer] = asyncio.get_running_loop().create_future()
        self._answers.waiting[request.id] = answered
        self._since[request.id] = asyncio.get_running_loop().time()
        try:
            attempt = 0
            while True:
                patience = await self._send(request, attempt)
                done, _ = await asyncio.wait([answered], timeout=patience)
                if done:
                    return answered.result()
                attempt += 1
        finally:
            del self._answers.waiting[request.id], self._since[request.id]

    async def _send(self, request: SigningRequest, attempt: int) -> float:
        """Queue the request; how many seconds to wait for the answer before it is sent again."""
        draft = Draft(
            subject=self._streams.csr_subject(self._instance),
            payload=encode(request),
            message_id=f"{request.id}-{attempt}",
        )
        try:
            await self._csrs.publish(draft)
        except EventLogError as error:
            _log.warning("a signing request cannot be sent now: %s", error)
            return _UNSENT.delay(0, self._chance)
        return _UNANSWERED.delay(attempt, self._chance)

    async def _accept(self, answer: SigningAnswer, key: _KeyPair, spiffe_id: SpiffeId) -> IssuedSvid:
        bundle = await self._bundles.at_least(answer.bundle_serial)
        validate_svid(
            parse_certificates(answer.chain),
            parse_certificates(bundle.roots),
            now=self._clock(),
            expected=spiffe_id,
            public_key=key.public,
            skew=CLOCK_SKEW,
        )
        return IssuedSvid(
            spiffe_id=spiffe_id,
            key_pem=key.pem,
            chain=tuple(answer.chain),
            serial=answer.serial,
            not_before=answer.not_before,
            not_after=answer.not_after,
            bundle_serial=answer.bundle_serial,
        )


async def _generate(key_type: str) -> _KeyPair:
    if key_type.startswith("RSA-"):
        # Up to a second of computing, without the interpreter's lock.
        return await asyncio.to_thread(_keyed, partial(rsa.generate_private_key, 65537, int(key_type[4:])))
    return _keyed(partial(ec.generate_private_key, ec.SECP256R1()))


def _keyed(generate: Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]) -> _KeyPair:
    private = generate()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, SHA256())
    return _KeyPair(
        pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        csr=csr.public_bytes(Encoding.DER),
        public=private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )
