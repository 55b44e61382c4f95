"""Real Envoys of a test: where the program is, how one runs on a static configuration, and who signs for it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncGenerator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.extensions.bootstrap.internal_listener.v3.internal_listener_pb2 import InternalListener
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from google.protobuf.json_format import MessageToJson, ParseDict

from cli.offline.static_bootstrap import TlsMaterial
from services.compiler.envoy_names import DENIED
from services.injector.core.proxy_bootstrap import bootstrap as injected
from tests.programs import envoy_binary
from tests.unit.injector.pods import INSTALLATION
from tests.waiting import eventually


class Authority:
    """Signs SPIFFE certificates for the test."""

    def __init__(self, trust_domain: str = "cluster.local") -> None:
        self.trust_domain = trust_domain
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test root")])
        self.root = self._build(self.name, self.key, ca=True).sign(self.key, hashes.SHA256())

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    def issue(self, namespace: str, account: str) -> TlsMaterial:
        """What the edge would give to a pod of a service account."""
        key = ec.generate_private_key(ec.SECP256R1())
        uri = f"spiffe://{self.trust_domain}/ns/{namespace}/sa/{account}"
        certificate = (
            self._build(x509.Name([]), key, ca=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        return TlsMaterial(
            key=private.decode(),
            chain=certificate.public_bytes(pem).decode(),
            roots=self.root.public_bytes(pem).decode(),
        )


READ_BY_NAME = (HttpInspector, InternalListener)
"""Types that the reader of JSON must know."""


def with_denial(config: Bootstrap) -> None:
    """Add what the injector's bootstrap has for calls that no policy lets pass."""
    made = injected(INSTALLATION, ())
    static = {
        part: [one for one in made["static_resources"][part] if one["name"] == DENIED]
        for part in ("clusters", "listeners")
    }
    config.MergeFrom(
        ParseDict({"static_resources": static, "bootstrap_extensions": made["bootstrap_extensions"]}, Bootstrap())
    )


@contextlib.asynccontextmanager
async def running(config: Bootstrap, directory: Path, name: str) -> AsyncGenerator[None]:
    """An Envoy on this configuration, from the moment that it serves."""
    path, log = directory / f"{name}.json", directory / f"{name}.log"
    path.write_text(MessageToJson(config, preserving_proto_field_name=True))
    arguments = [envoy_binary(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "info"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*arguments, stdout=output, stderr=output)
    try:
        await eventually(lambda: "starting main dispatch loop" in log.read_text(), within=20, what=f"{name} runs")
        yield
    finally:
        process.kill()
        await process.wait()
