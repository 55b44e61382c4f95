"""The decision on a request with one mistake at a time, and what the requester and the log receive."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.ca.core.cluster_state import ClusterState
from services.ca.core.issuer import Issuer, SigningPolicy
from services.ca.core.provider import Provider
from services.ca.core.replay_guard import BURST, ReplayGuard
from services.ca.core.template import LeafTemplate, self_signed_root, sign_leaf
from services.ca.keys.authority import decode_authority, encode_authority, generate_authority, new_serial
from services.ca.providers.builtin import BuiltinProvider
from shared.errors import MeshlogError
from shared.identity.service_account_tokens import TokenVerifier
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import BACKDATE
from shared.identity.svid_validator import validate_svid
from shared.identity.token_sealing import Opener, binding, generate_sealing_key, seal, seal_token
from shared.records.certificate_records import SigningAnswer, SigningRequest, TrustBundle
from tests.unit.identity.cluster import Cluster

NOW = 1_700_000_000.0
BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")
THIEF = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookthief")


class Desk:
    """An issuer with everything it needs, and a requester's pen."""

    def __init__(self, *, provider: Provider | None = None, **policy: Any) -> None:
        self.now = NOW
        self.cluster = Cluster(now=NOW)
        stored = generate_authority("cluster.local", clock=lambda: NOW)
        self.authority = decode_authority(encode_authority(stored), trust_domain="cluster.local", about="test")
        self.opener = Opener(self.authority.sealing_keys)
        self.provider = provider or BuiltinProvider(self.authority)
        self.bundle = TrustBundle(
            trust_domain="cluster.local",
            serial=7,
            roots=[self.authority.certificate_pem],
            sealing_keys=self.opener.public_keys,
        )
        verifier = TokenVerifier(clock=lambda: self.now)
        self.facts = ClusterState(verifier, cluster="devcluster", mesh_name="meshlog", mesh_namespace="meshlog-system")
        for event in self.cluster.bookstore():
            self.facts.apply(event)
        self.learn: Callable[[], None] = lambda: None
        """What the log delivers while a request waits."""
        self.issuer = Issuer(
            signer=lambda _: self.provider,
            opener=self.opener,
            verifier=verifier,
            state=self.facts,
            guard=ReplayGuard(),
            policy=SigningPolicy(mesh_namespace="meshlog-system", **policy),
            clock=lambda: self.now,
            serials=new_serial,
            settle=self._settle,
        )
        self._written = 0

    async def _settle(self, condition: Callable[[], bool]) -> None:
        assert not condition()
        self.learn()

    def request(self, token: str = "", **changes: Any) -> SigningRequest:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        der = csr.public_bytes(Encoding.DER)
        key_id, sealed = seal_token(self.bundle, token or self.cluster.token(), der)
        self._written += 1
        request = SigningRequest(
            id=f"request-{self._written}",
            requester="edge-1",
            csr=der,
            sealing_key=key_id,
            sealed_token=sealed,
            cluster="devcluster",
            spiffe_id=str(BUYER),
        )
        return msgspec.structs.replace(request, **changes)

    async def answer(self, request: SigningRequest) -> SigningAnswer:
        return await self.issuer.answer(request, self.bundle)


def leaf_of(answer: SigningAnswer) -> x509.Certificate:
    assert not answer.refused, answer.refused
    return x509.load_pem_x509_certificate(answer.chain[0].encode())


async def test_a_certificate_is_by_the_book() -> None:
    desk = Desk()
    answer = await desk.answer(desk.request())
    leaf = leaf_of(answer)
    assert validate_svid([leaf], [desk.authority.certificate], now=NOW, expected=BUYER, dns_names=()) == BUYER
    assert leaf.serial_number.bit_length() == 128
    assert not leaf.subject.rdns
    assert (answer.not_before, answer.not_after) == (NOW - BACKDATE, NOW + 86400)
    assert (answer.serial, answer.bundle_serial) == (f"{leaf.serial_number:x}", 7)
    critical = {extension.oid._name for extension in leaf.extensions if extension.critical}
    assert critical == {"subjectAltName", "keyUsage", "basicConstraints"}


async def test_nothing_of_a_csr_is_used_but_its_key() -> None:
    desk = Desk()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True)
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    key_id, sealed = seal_token(desk.bundle, desk.cluster.token(), der)
    answer = await desk.answer(desk.request(csr=der, sealing_key=key_id, sealed_token=sealed))
    leaf = leaf_of(answer)
    assert leaf.public_key() == key.public_key()
    assert not leaf.subject.rdns
    assert validate_svid([leaf], [desk.authority.certificate], now=NOW) == BUYER


async def test_serials_differ() -> None:
    desk = Desk()
    answers = [await desk.answer(desk.request()) for _ in range(BURST)]
    assert len({answer.serial for answer in answers}) == BURST


@pytest.mark.parametrize(("configured", "lifetime"), [("24h", 86400), ("90s", 90), ("1s", 10)])
async def test_mesh_config_sets_the_lifetime(configured: str, lifetime: int) -> None:
    desk = Desk(lifetime=5.0)
    desk.facts.apply(desk.cluster.config_event({"certificate": {"serviceCertValidityDuration": configured}}))
    answer = await desk.answer(desk.request())
    assert answer.not_after == NOW + lifetime


Wrong = Callable[[Desk], SigningRequest]
OTHER_KEY = generate_sealing_key()


def moved_token(desk: Desk) -> SigningRequest:
    """A sealed token taken from the log and put beside another CSR."""
    return msgspec.structs.replace(desk.request(), csr=desk.request().csr)


def sealed_text(desk: Desk, text: bytes) -> SigningRequest:
    request = desk.request()
    sealed = seal(desk.bundle.sealing_keys[0].public, text, binding(request.csr))
    return msgspec.structs.replace(request, sealed_token=sealed)


def claims_without_pod(desk: Desk) -> str:
    claims = desk.cluster.claims()
    del claims["kubernetes.io"]["pod"]
    return desk.cluster.sign(claims)


REFUSALS: list[tuple[Wrong, str, bool]] = [
    (lambda d: d.request(sealing_key="0" * 16), "sealing/unknown-key", True),
    (lambda d: d.request(sealed_token=b""), "sealing/does-not-open", False),
    (moved_token, "sealing/does-not-open", False),
    (lambda d: sealed_text(d, b""), "token/malformed", False),
    (lambda d: sealed_text(d, b"\xff"), "token/malformed", False),
    (lambda d: d.request(d.cluster.sign({**d.cluster.claims(), "aud": ["api"]})), "token/audience", False),
    (lambda d: d.request(d.cluster.sign({**d.cluster.claims(), "exp": NOW - 60})), "token/expired", False),
    (lambda d: d.request(Cluster(now=NOW).token()), "token/signature", False),
    (lambda d: d.request(claims_without_pod(d)), "token/not-bound-to-pod", False),
    (lambda d: d.request(cluster="elsewhere"), "token/issuer", True),
    (lambda d: d.request(d.cluster.token(pod="bookbuyer-2")), "token/unknown-pod", True),
    (lambda d: d.request(d.cluster.token("default", "x", "y")), "token/unknown-pod", True),
    (lambda d: d.request(spiffe_id=str(THIEF)), "csr/identity", False),
    (lambda d: d.request(spiffe_id=str(BUYER) + "/"), "csr/identity", False),
    (lambda d: d.request(spiffe_id=""), "csr/identity", False),
    (lambda d: d.request(d.cluster.token(account="bookthief", pod="bookthief-1")), "csr/identity", False),
    (lambda d: d.request(csr=b"nonsense"), "sealing/does-not-open", False),
]


@pytest.mark.parametrize(("make", "code", "later"), REFUSALS)
async def test_one_wrong_thing_is_refused(
    make: Wrong, code: str, later: object, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    request = make(desk)
    with caplog.at_level(logging.DEBUG):
        answer = await desk.answer(request)
    assert (answer.refused, answer.chain, bool(answer.retry_after)) == (code, [], later)
    assert set(msgspec.to_builtins(answer)) <= {"id", "refused", "retry_after"}, "the caller learns the code alone"
    assert any(vars(record).get("code") == code for record in caplog.records), "the reason is in the log"


async def test_a_csr_that_was_signed_is_not_signed_for_another_request() -> None:
    desk = Desk()
    request = desk.request()
    leaf_of(await desk.answer(request))
    replayed = await desk.answer(msgspec.structs.replace(request, id="replay", requester="thief"))
    assert replayed.refused == "csr/replayed"
    leaf_of(await desk.answer(request))


async def test_a_flood_of_one_pod_leaves_room_for_others() -> None:
    desk = Desk()
    for _ in range(BURST):
        leaf_of(await desk.answer(desk.request()))
    refused = await desk.answer(desk.request())
    assert refused.refused == "csr/rate"
    assert refused.retry_after > 0
    thief = desk.cluster.token(account="bookthief", pod="bookthief-1")
    leaf_of(await desk.answer(desk.request(thief, spiffe_id=str(THIEF))))


class Elsewhere:
    """A provider whose one behaviour a test chooses."""

    def __init__(self, answer: Callable[[LeafTemplate], Awaitable[list[x509.Certificate]]], *, end: float) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self_signed_root("cluster.local", self.key, now=int(NOW), serial=new_serial())
        self._answer = answer
        self.not_after = end

    @property
    def roots(self) -> list[x509.Certificate]:
        return [self.root]

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        return ()

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        return await self._answer(template)

    async def refresh(self) -> None:
        raise AssertionError("nobody asks for it here")


async def through(change: Callable[[LeafTemplate], LeafTemplate], *, end: float = NOW + 1e6) -> SigningAnswer:
    """The answer of a CA whose provider signs something else than was asked for."""

    async def sign(template: LeafTemplate) -> list[x509.Certificate]:
        return [sign_leaf(change(template), elsewhere.root, elsewhere.key)]

    elsewhere = Elsewhere(sign, end=end)
    desk = Desk(provider=elsewhere)
    return await desk.answer(desk.request())


def changed(**fields: Any) -> Callable[[LeafTemplate], LeafTemplate]:
    return lambda template: msgspec.structs.replace(template, **fields)


@pytest.mark.parametrize(
    "change",
    [
        changed(identity=THIEF),
        changed(dns_names=("bookstore.svc",)),
        changed(not_after=int(NOW) + 2 * 86400),
        changed(not_after=int(NOW) - 1),
        changed(not_before=int(NOW) + 60),
        changed(serial=5),
        changed(key=ec.generate_private_key(ec.SECP256R1()).public_key()),
    ],
)
async def test_a_provider_that_signs_something_else_is_not_believed(
    change: Callable[[LeafTemplate], LeafTemplate],
) -> None:
    assert not (await through(changed())).refused
    answer = await through(change)
    assert (answer.refused, answer.chain) == ("ca/provider", [])
    assert answer.retry_after > 0


async def test_no_leaf_outlives_its_issuer() -> None:
    answer = await through(changed(), end=NOW + 3600)
    assert answer.not_after == NOW + 3600


async def test_signing_pauses_when_the_issuer_is_at_its_end() -> None:
    answer = await through(changed(), end=NOW + 30)
    assert answer.refused == "ca/issuer-expiring"
    assert answer.retry_after > 0


async def test_a_request_whose_provider_failed_may_come_again() -> None:
    failing = True

    async def sign(template: LeafTemplate) -> list[x509.Certificate]:
        if failing:
            raise MeshlogError("vault/sealed", "the vault is sealed")
        return [sign_leaf(template, elsewhere.root, elsewhere.key)]

    elsewhere = Elsewhere(sign, end=NOW + 1e6)
    desk = Desk(provider=elsewhere)
    request = desk.request()
    assert (await desk.answer(request)).refused == "ca/provider"
    failing = False
    leaf_of(await desk.answer(msgspec.structs.replace(request, id="again")))


async def test_a_pod_that_becomes_known_while_its_request_waits_is_served() -> None:
    desk = Desk()
    desk.facts.apply(desk.cluster.gone("Pod", "bookstore", "bookbuyer-1"))

    def learn() -> None:
        desk.facts.apply(desk.cluster.pod_event("bookstore", "bookbuyer-1", "bookbuyer"))

    desk.learn = learn
    leaf_of(await desk.answer(desk.request()))
