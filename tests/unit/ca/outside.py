"""CAs that are not ours: one that signs intermediates, and a Vault in front of it that speaks Vault's HTTP API.

The API is that of Vault's documentation: `POST /v1/:mount/root/sign-intermediate`, `POST /v1/auth/:mount/login`, errors
as `{"errors": […]}`, tokens in `X-Vault-Token`, 403 for a token without the policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from services.ca.core.template import self_signed_root
from services.ca.keys.authority import new_serial


class OutsideCa:
    """A root that signs what is asked for, unless a test changes how."""

    def __init__(self, *, now: float, kept: bytes = b"") -> None:
        """`kept`: what another one's `keep` gave, for the same root again."""
        self.now = now
        key = load_pem_private_key(kept, None) if kept else ec.generate_private_key(ec.SECP256R1())
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.key = key
        made = self_signed_root("outside", key, now=int(now), serial=new_serial())
        self.root = x509.load_pem_x509_certificate(kept) if kept else made
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
    def keep(self) -> bytes:
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private + self.root_pem.encode()

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()


class FakeVault:
    """Vault's side of the requests that we make, as its API documentation and the PKI engine's own code describe it."""

    def __init__(self, ca: OutsideCa) -> None:
        self.ca = ca
        self.tokens = {"s.root"}
        self.roles = {"meshlog": "account-jwt"}
        self.sealed = False
        self.chain = "with itself"
        """What `ca_chain` holds: it `with itself` (1.11 and newer), `root` alone, or `nothing` (where a root signs)."""
        self.seen: list[dict[str, Any]] = []

    async def login(self, request: web.Request) -> web.Response:
        if self.sealed:
            return _refusal(503, "Vault is sealed")
        body = await request.json()
        if not body.get("jwt"):
            return _refusal(400, "missing jwt")
        if body.get("role") not in self.roles:
            return _refusal(400, f'invalid role name "{body.get("role")}"')
        if self.roles[body["role"]] != body["jwt"]:
            return _refusal(403, "permission denied")
        self.tokens.add("s.login")
        auth = {
            "client_token": "s.login",
            "accessor": "accessor",
            "policies": ["default", "meshlog"],
            "metadata": {"role": body["role"]},
            "lease_duration": 3600,
            "renewable": True,
        }
        return web.json_response({**_ENVELOPE, "data": None, "auth": auth})

    async def sign_intermediate(self, request: web.Request) -> web.Response:
        if self.sealed:
            return _refusal(503, "Vault is sealed")
        if not request.headers.get("X-Vault-Token"):
            return _refusal(400, "missing client token")
        if request.headers["X-Vault-Token"] not in self.tokens:
            return _refusal(403, "1 error occurred:\n\t* permission denied\n\n")
        body = await request.json()
        self.seen.append(body)
        objection = _objection(body)
        if objection:
            return _refusal(400, objection)
        signed = self.ca.sign(x509.load_pem_x509_csr(body["csr"].encode()))
        pem = signed.public_bytes(Encoding.PEM).decode().strip()
        root = self.ca.root_pem.strip()
        serial = f"{signed.serial_number:x}"
        data = {
            "certificate": pem,
            "issuing_ca": root,
            "ca_chain": {"with itself": [pem, root], "root": [root], "nothing": []}[self.chain],
            "serial_number": ":".join(serial[index : index + 2] for index in range(0, len(serial), 2)),
            "expiration": int(signed.not_valid_after_utc.timestamp()),
        }
        warnings = [
            "Max path length of the signed certificate is zero. This CA certificate cannot be used to issue ..."
        ]
        return web.json_response({**_ENVELOPE, "data": data, "warnings": warnings, "auth": None})


_ENVELOPE = {"request_id": "5a0bd3e5", "lease_id": "", "renewable": False, "lease_duration": 0, "wrap_info": None}


def _objection(body: dict[str, Any]) -> str:
    try:
        x509.load_pem_x509_csr(body.get("csr", "").encode())
    except ValueError:
        return "certificate request could not be parsed: no PEM data found"
    if not body.get("common_name"):
        return "the common_name field is required, or must be provided in a CSR"
    if not re.fullmatch(r"[0-9]+[smhd]?", str(body.get("ttl", "0"))):
        return f'error converting input {body["ttl"]} for field "ttl": time: invalid duration'
    if body.get("max_path_length", -1) < -1:
        return f"requested max_path_length {body['max_path_length']} is invalid"
    if body.get("format", "pem") not in {"pem", "pem_bundle", "der"}:
        return 'The "format" path parameter must be "pem", "der" or "pem_bundle"'
    return ""


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"errors": [sentence]}, status=status)


@contextlib.asynccontextmanager
async def served(vault: FakeVault, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[int]:
    """The port that it listens on."""
    app = web.Application()
    app.router.add_post("/v1/pki/root/sign-intermediate", vault.sign_intermediate)
    app.router.add_post("/v1/auth/kubernetes/login", vault.login)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _main(port: int) -> None:
    """A Vault of its own process; the root is in the environment."""
    vault = FakeVault(OutsideCa(now=time.time(), kept=os.environ["OUTSIDE_CA"].encode()))
    async with served(vault, "0.0.0.0", port):  # noqa: S104 (a pod's own network)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
