"""The signers around an edge: of tokens, like Kubernetes, and of certificates, like a CA that accepts every token."""

from __future__ import annotations

import base64
import datetime as dt
import time
import uuid

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.eventlog.protocol import Draft, Logs
from shared.identity.token_sealing import Opener, binding, generate_sealing_key
from shared.projected_objects import TokenIssuer
from shared.records.certificate_records import SigningAnswer, TrustBundle, decode_request, encode
from tests.chained import write_chained
from tests.integration.xds_edge.names import EDGE_DNS, STREAMS


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


class Issuer:
    """Signs service-account tokens as a Kubernetes API server does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        point = self.key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": _b64(point.x), "y": _b64(point.y)}
        self.published = TokenIssuer(issuer="https://issuer.test", jwks={"keys": [jwk]})

    def token(self, namespace: str, account: str, pod: str, uid: str, **claims: object) -> str:
        now = int(time.time())
        return jwt.encode(
            {
                "iss": self.published.issuer,
                "sub": f"system:serviceaccount:{namespace}:{account}",
                "aud": ["meshlog"],
                "iat": now,
                "nbf": now,
                "exp": now + 3600,
                "jti": uuid.uuid4().hex,
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": {"name": account, "uid": "sa-uid"},
                    "pod": {"name": pod, "uid": uid},
                },
                **claims,
            },
            self.key,
            algorithm="ES256",
            headers={"kid": "k1"},
        )


class TestCa:
    """Signs whatever its queue holds, believing the token."""

    __test__ = False

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        now = dt.datetime.now(dt.UTC)
        self.root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .sign(self.key, SHA256())
        )
        self.opener = Opener([generate_sealing_key()])
        self.signed: list[str] = []
        self.tokens: list[str] = []

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(
            trust_domain="cluster.local", serial=1, roots=[self.root_pem], sealing_keys=self.opener.public_keys
        )

    async def run(self, logs: Logs) -> None:
        certs, csrs = await logs.open(STREAMS.certs), await logs.open(STREAMS.csrs)
        await write_chained(certs, Draft(subject=STREAMS.bundle_subject("cluster.local"), payload=encode(self.bundle)))
        async for job in csrs.take("ca"):
            request = decode_request(job.record.payload)
            self.tokens.append(
                self.opener.open(request.sealing_key, request.sealed_token, binding(request.csr)).decode()
            )
            chain, start, end = self.sign(x509.load_der_x509_csr(request.csr).public_key(), request.spiffe_id)
            self.signed.append(request.spiffe_id)
            answer = SigningAnswer(
                id=request.id,
                spiffe_id=request.spiffe_id,
                chain=[chain],
                serial="01",
                not_before=start,
                not_after=end,
                bundle_serial=1,
            )
            subject = STREAMS.issued_subject(request.requester, request.id)
            await certs.publish(Draft(subject=subject, payload=encode(answer)))
            await job.done()

    def sign(self, public: object, spiffe_id: str) -> tuple[str, int, int]:
        now = int(time.time())
        start, end = now - 120, int(now + self.lifetime)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        if spiffe_id.endswith("/sa/meshlog-xds-edge"):
            names += [x509.DNSName(EDGE_DNS), x509.DNSName("localhost")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(public)  # pyright: ignore[reportArgumentType]
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.fromtimestamp(start, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(end, dt.UTC))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self.key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode(), start, end

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
