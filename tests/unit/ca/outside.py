"""CAs that are not ours: one that signs intermediates, and a Vault in front of it that speaks Vault's HTTP API.

The API is that of Vault's documentation: `POST /v1/:mount/root/sign-intermediate`, `POST /v1/auth/:mount/login`, errors
as `{"errors": […]}`, tokens in `X-Vault-Token`, 403 for a token without the policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.authority import new_serial
from services.ca.template import self_signed_root


class OutsideCa:
    """A root that signs what is asked for, unless a test changes how."""

    def __init__(self, *, now: float) -> None:
        self.now = now
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self_signed_root("outside", self.key, now=int(now), serial=new_serial())
        self.lifetime = timedelta(days=90)
        self.may_sign = True
        self.other_key = False
        self.signed = 0

    def sign(self, csr: x509.CertificateSigningRequest) -> x509.Certificate:
        self.signed += 1
        public = ec.generate_private_key(ec.SECP256R1()).public_key() if self.other_key else csr.public_key()
        begin = datetime.fromtimestamp(self.now, UTC)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=self.may_sign,
            crl_sign=self.may_sign,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(self.root.subject)
            .public_key(public)  # pyright: ignore[reportArgumentType]
            .serial_number(new_serial())
            .not_valid_before(begin - timedelta(seconds=30))
            .not_valid_after(begin + self.lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)  # pyright: ignore[reportArgumentType]
            .sign(self.key, SHA256())
        )

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()


class FakeVault:
    """Vault's side."""

    def __init__(self, ca: OutsideCa) -> None:
        self.ca = ca
        self.tokens = {"s.root"}
        self.roles = {"meshlog": "account-jwt"}
        self.sealed = False
        self.seen: list[dict[str, Any]] = []

    async def login(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.roles.get(body.get("role")) != body.get("jwt"):
            return web.json_response({"errors": ["permission denied"]}, status=403)
        self.tokens.add("s.login")
        auth = {"client_token": "s.login", "accessor": "a", "policies": ["pki"], "lease_duration": 3600}
        return web.json_response({"request_id": "1", "data": None, "auth": auth})

    async def sign_intermediate(self, request: web.Request) -> web.Response:
        if self.sealed:
            return web.json_response({"errors": ["Vault is sealed"]}, status=503)
        if request.headers.get("X-Vault-Token") not in self.tokens:
            return web.json_response({"errors": ["1 error occurred:\n\t* permission denied\n\n"]}, status=403)
        body = await request.json()
        self.seen.append(body)
        pem = self.ca.sign(x509.load_pem_x509_csr(body["csr"].encode())).public_bytes(Encoding.PEM).decode()
        root = self.ca.root_pem.strip()
        data = {
            "certificate": pem.strip(),
            "issuing_ca": root,
            "ca_chain": [root],
            "serial_number": "1",
            "expiration": 1,
        }
        return web.json_response({"request_id": "2", "lease_id": "", "data": data, "warnings": None, "auth": None})


@contextlib.asynccontextmanager
async def served(vault: FakeVault) -> AsyncGenerator[int]:
    """The port that it listens on."""
    app = web.Application()
    app.router.add_post("/v1/pki/root/sign-intermediate", vault.sign_intermediate)
    app.router.add_post("/v1/auth/kubernetes/login", vault.login)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
