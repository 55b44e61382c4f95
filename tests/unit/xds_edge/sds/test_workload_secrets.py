"""When a proxy needs a certificate, when it does not, and what happens while the CA is away."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from services.xds_edge.sds.workload_secrets import (
    ProxySecrets,
    ServedCertificate,
    WorkloadSecrets,
    certified,
    secret_version,
    still_good,
)
from shared.identity.service_account_tokens import WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.identity.svid_requester import SigningRefusedError, SvidUnavailableError
from shared.records.certificate_records import TrustBundle
from tests.waiting import eventually

IDENTITY = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="web")
OTHER = SpiffeId(trust_domain="cluster.local", namespace="shop", service_account="thief")


def claims(*, expires_at: float = 1e12) -> WorkloadToken:
    return WorkloadToken(
        cluster="c",
        namespace="shop",
        service_account="web",
        service_account_uid="s",
        pod_name="p",
        pod_uid="u",
        issued_at=0,
        expires_at=expires_at,
        jti="",
    )


class Ca:
    """Issues numbered certificates, or raises the error that a test sets."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail: Exception | None = None
        self.lifetime = 3600

    async def __call__(self, token: str, spiffe_id: SpiffeId) -> IssuedSvid:
        self.asked.append(token)
        if self.fail is not None:
            raise self.fail
        number = len(self.asked)
        return IssuedSvid(
            spiffe_id=spiffe_id,
            key_pem=b"key-%d" % number,
            chain=(f"chain-{number}",),
            serial=str(number),
            not_before=0,
            not_after=self.lifetime + 120,
            bundle_serial=1,
        )


class Case:
    """One proxy at one edge."""

    def __init__(self, *, expires_at: float = 1e12) -> None:
        self.now = 1000.0
        self.ca = Ca()
        self.edge = WorkloadSecrets(self.ca, clock=lambda: self.now, chance=lambda: 0.5)
        self.changes = 0
        self.stale = False
        self.expires_at = expires_at

    def stream(self, edge: WorkloadSecrets | None = None) -> ProxySecrets:
        return (edge or self.edge).open(
            "c/shop/p", "token", claims(expires_at=self.expires_at), changed=self._changed, stale=self._gone_stale
        )

    def _changed(self) -> None:
        self.changes += 1

    def _gone_stale(self) -> None:
        self.stale = True


async def obtained(case: Case, secrets: ProxySecrets, count: int = 1) -> str:
    await eventually(lambda: case.changes >= count, within=5, what="a certificate")
    return secrets.selection.resources["workload"]


async def test_a_proxy_that_holds_nothing_gets_a_certificate() -> None:
    case = Case()
    secrets = case.stream()
    secrets.want(IDENTITY)
    assert secrets.pending == {"workload", "trust-bundle"}
    version = await obtained(case, secrets)
    assert b"key-1" in secrets.body("", "workload", version)
    assert secrets.pending == {"trust-bundle"}
    secrets.close()


async def test_what_a_proxy_holds_is_adopted_by_an_edge_that_never_saw_it() -> None:
    case = Case()
    first = case.stream()
    first.want(IDENTITY)
    held = await obtained(case, first)
    second = case.stream(WorkloadSecrets(case.ca, clock=lambda: case.now, chance=lambda: 0.5))
    second.want(IDENTITY, held)
    assert second.selection.resources["workload"] == held
    assert len(case.ca.asked) == 1
    first.close()
    second.close()


@pytest.mark.parametrize(
    "held", ["", "nonsense", "w1.1.1.00000000.0000000000000000", "w1.99999999999999.1.aaaaaaaa.0000000000000000"]
)
async def test_a_version_that_is_not_ours_is_not_believed(held: str) -> None:
    case = Case()
    secrets = case.stream()
    secrets.want(IDENTITY, held)
    assert await obtained(case, secrets) != held
    secrets.close()


async def test_a_certificate_of_another_identity_is_not_adopted() -> None:
    case = Case()
    first = case.stream()
    first.want(OTHER)
    held = await obtained(case, first)
    assert still_good(held, OTHER, case.now)
    assert not still_good(held, IDENTITY, case.now)
    first.close()


async def test_a_certificate_that_is_due_is_replaced() -> None:
    case = Case()
    first = case.stream()
    first.want(IDENTITY)
    held = await obtained(case, first)
    case.now += 3000
    second = case.stream(WorkloadSecrets(case.ca, clock=lambda: case.now, chance=lambda: 0.5))
    second.want(IDENTITY, held)
    assert await obtained(case, second, 2) != held
    first.close()
    second.close()


async def test_a_reconnect_to_the_same_edge_finds_its_certificate() -> None:
    case = Case()
    first = case.stream()
    first.want(IDENTITY)
    held = await obtained(case, first)
    first.close()
    second = case.stream()
    second.want(IDENTITY)
    assert second.selection.resources["workload"] == held
    assert len(case.ca.asked) == 1
    second.close()


async def test_the_certificates_of_pods_that_are_gone_are_forgotten() -> None:
    case = Case()
    secrets = case.stream()
    secrets.want(IDENTITY)
    await obtained(case, secrets)
    secrets.close()
    case.edge.forget(lambda _key, _uid: True)
    assert case.edge.kept("c/shop/p", "u") is not None
    case.edge.forget(lambda _key, _uid: False)
    assert case.edge.kept("c/shop/p", "u") is None


async def test_what_is_in_use_stays_in_use_while_the_ca_is_away() -> None:
    case = Case()
    case.ca.lifetime = 1
    case.ca.fail = None
    secrets = case.stream()
    secrets.want(IDENTITY)
    held = await obtained(case, secrets)
    case.ca.fail = SvidUnavailableError("svid/unavailable", "away")
    await eventually(lambda: case.edge.failed >= 1, within=5, what="a renewal that fails")
    assert secrets.selection.resources["workload"] == held
    case.ca.fail = None
    assert await obtained(case, secrets, 2) != held
    secrets.close()


async def test_a_refusal_of_the_ca_is_not_repeated_at_once() -> None:
    case = Case()
    case.ca.fail = SigningRefusedError("token/expired", "no")
    secrets = case.stream()
    secrets.want(IDENTITY)
    await eventually(lambda: case.edge.failed == 1, within=5, what="the refusal")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(case.ca.asked) == 1
    secrets.close()


async def test_a_renewal_with_an_expired_token_asks_for_a_fresh_one() -> None:
    case = Case(expires_at=999.0)
    secrets = case.stream()
    secrets.want(IDENTITY)
    await eventually(lambda: case.stale, within=5, what="the stream is asked to come back")
    assert case.ca.asked == []
    secrets.close()


async def test_new_roots_are_taken_up() -> None:
    case = Case()
    secrets = case.stream()
    bundle = TrustBundle(trust_domain="cluster.local", serial=1, roots=["one"], sealing_keys=[])
    assert case.edge.set_bundle(bundle)
    assert not case.edge.set_bundle(bundle)
    secrets.refresh()
    first = secrets.selection.resources["trust-bundle"]
    assert case.edge.set_bundle(
        TrustBundle(trust_domain="cluster.local", serial=2, roots=["one", "two"], sealing_keys=[])
    )
    secrets.refresh()
    second = secrets.selection.resources["trust-bundle"]
    assert first != second
    assert b"onetwo" in secrets.body("", "trust-bundle", second)
    with pytest.raises(LookupError):
        secrets.body("", "trust-bundle", first)


def test_no_text_of_a_certificate_holds_its_key() -> None:
    certificate = ServedCertificate(version="v", body=b"PRIVATE", renew_at=0, lifetime=1)
    assert "PRIVATE" not in f"{certificate!r} {certificate}"


def signed_by(serial: int, signing_since: int, *, domain: str = "cluster.local") -> TrustBundle:
    return TrustBundle(domain, serial, [f"root-{signing_since}\n"], [], [], signing_since)


async def test_another_signing_root_has_certificates_renewed_before_they_are_due() -> None:
    case = Case()
    case.edge.chance = lambda: 0.0
    case.edge.set_bundle(signed_by(1, 1))
    secrets = case.stream()
    secrets.want(IDENTITY)
    first = await obtained(case, secrets)
    assert certified(first) == (1, 1000 + 3600)
    assert case.edge.set_bundle(signed_by(2, 2))
    secrets.refresh()
    assert await obtained(case, secrets, 2) != first
    secrets.refresh()
    assert len(case.ca.asked) == 2
    secrets.close()


async def test_a_bundle_of_the_same_signer_renews_nothing() -> None:
    case = Case()
    case.edge.set_bundle(signed_by(1, 1))
    secrets = case.stream()
    secrets.want(IDENTITY)
    first = await obtained(case, secrets)
    case.edge.set_bundle(TrustBundle("cluster.local", 2, ["root-1\n", "root-2\n"], [], [], 1))
    secrets.refresh()
    assert secrets.selection.resources["workload"] == first
    assert len(case.ca.asked) == 1
    secrets.close()


async def test_after_a_change_of_the_trust_domain_the_identity_is_of_the_new_one() -> None:
    case = Case()
    case.edge.set_bundle(signed_by(1, 1, domain="example.org"))
    assert case.edge.in_force(IDENTITY) == SpiffeId("example.org", "shop", "web")


def root(days: int) -> str:
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=days))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def claimed(renew_at: int, until: int, serial: int) -> str:
    """The version of a secret, as a proxy may make it up."""
    honest = secret_version(renew_at, until, serial, IDENTITY, b"body")
    assert certified(honest) == (serial, until)
    return honest


def test_a_version_that_lies_is_believed_no_further_than_a_certificate_can_go() -> None:
    case = Case()
    lie = claimed(999_999_999_999, 999_999_999_999, 999_999_999_999)
    assert case.edge.certified(lie) == (0, 0), "without a bundle nothing is known"
    case.edge.set_bundle(TrustBundle("cluster.local", 7, [root(10), root(30)], []))
    serial, until = case.edge.certified(lie)
    assert serial == 7
    assert until <= dt.datetime.now(dt.UTC).timestamp() + 31 * 86_400
    assert dt.datetime.fromtimestamp(until, dt.UTC).year < 2100
    assert case.edge.certified(claimed(5, 10, 3)) == (3, 10)


async def test_a_proxy_that_lies_about_its_renewal_gets_a_certificate() -> None:
    case = Case()
    case.edge.set_bundle(TrustBundle("cluster.local", 7, [root(10)], []))
    secrets = case.stream()
    secrets.want(IDENTITY, claimed(999_999_999_999, 999_999_999_999, 1))
    await obtained(case, secrets)
    secrets.close()


def test_without_a_root_that_can_be_read_a_time_is_still_one_of_a_calendar() -> None:
    case = Case()
    case.edge.set_bundle(TrustBundle("cluster.local", 7, ["nonsense"], []))
    _, until = case.edge.certified(claimed(5, 999_999_999_999, 1))
    assert dt.datetime.fromtimestamp(until, dt.UTC).year == 9999
