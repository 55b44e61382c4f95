"""The Vault provider: Vault's PKI engine signs the intermediate (`POST /v1/pki/root/sign-intermediate`).

The CA authenticates by a token in its own Secret, or by Vault's Kubernetes auth method with its service account. It
needs the policy `path "pki/root/sign-intermediate" { capabilities = ["update"] }`.
"""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.core.provider import Provider
from services.ca.providers.base import ProviderContext
from services.ca.providers.intermediate import IntermediateProvider
from shared.errors import BadInputError, MeshlogError
from shared.identity.svid import parse_certificates
from shared.io.decoding import UndecodableError, decode
from shared.meshconfig.root_certificate import SecretKey, VaultSettings, vault_settings

ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TIMEOUT = aiohttp.ClientTimeout(total=20)


class VaultError(MeshlogError):
    """Vault cannot be reached, or refused. The same request may succeed later."""


class _Auth(msgspec.Struct, frozen=True):
    client_token: str


class _Login(msgspec.Struct, frozen=True):
    auth: _Auth


class _Signed(msgspec.Struct, frozen=True):
    certificate: str
    issuing_ca: str = ""
    ca_chain: list[str] = []


class _SignedAnswer(msgspec.Struct, frozen=True):
    data: _Signed


class _TokenSecret(msgspec.Struct, frozen=True):
    data: dict[str, str] = {}


async def vault(context: ProviderContext) -> Provider:
    """Make the provider of a root. Raises `BadInputError` for invalid settings, `VaultError` if Vault does not sign."""
    settings = vault_settings(context.settings, about=context.name)
    client = VaultClient(settings, context)
    return await IntermediateProvider.open(context, client.sign)


class VaultClient:
    """Client of Vault: login and signature."""

    def __init__(
        self, settings: VaultSettings, context: ProviderContext, *, account_token: Path = ACCOUNT_TOKEN
    ) -> None:
        self._settings = settings
        self._context = context
        self._account_token = account_token

    async def sign(self, csr: bytes) -> list[x509.Certificate]:
        """See `SignIntermediate`."""
        pem = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()
        domain = self._context.trust_domain
        body = {
            "csr": pem,
            "common_name": f"Meshlog intermediate of {domain}"[:64],
            "uri_sans": f"spiffe://{domain}",
            "ttl": self._settings.ttl,
            "max_path_length": 0,
            "format": "pem",
        }
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            headers = {"X-Vault-Token": await self._token(session), "X-Vault-Request": "true"}
            raw = await self._post(session, f"{self._settings.mount}/root/sign-intermediate", body, headers)
        try:
            signed = decode(_SignedAnswer, raw).data
        except UndecodableError as error:
            raise VaultError("vault/answer", "its answer is no signed certificate", about=self._address) from error
        # From 1.11 on `ca_chain` begins with the certificate itself; before, it was empty if a root signed.
        return list(dict.fromkeys(parse_certificates([signed.certificate, *signed.ca_chain, signed.issuing_ca])))

    @property
    def _address(self) -> str:
        return f"{self._settings.protocol}://{self._settings.host}:{self._settings.port}"

    async def _token(self, session: aiohttp.ClientSession) -> str:
        settings, context = self._settings, self._context
        if settings.token is not None:
            return await self._stored_token(settings.token.secret_key_ref)
        try:
            jwt = self._account_token.read_text("ascii").strip()
        except OSError as error:
            raise VaultError(
                "vault/account", f"no service account's token ({error.strerror})", about=context.name
            ) from error
        raw = await self._post(session, f"auth/{settings.auth_mount}/login", {"role": settings.role, "jwt": jwt}, {})
        try:
            return decode(_Login, raw).auth.client_token
        except UndecodableError:
            raise VaultError("vault/answer", "its answer to the login has no token", about=self._address) from None

    async def _stored_token(self, reference: SecretKey) -> str:
        context = self._context
        if context.kube is None:
            raise BadInputError("vault/token", "a token in a Secret needs the Kubernetes API", about=context.name)
        path = f"/api/v1/namespaces/{context.namespace}/secrets/{reference.name}"
        answer = await context.kube.request("GET", path)
        if answer.status != 200:
            raise VaultError("vault/token", f"the Secret cannot be read ({answer.status})", about=path)
        try:
            held = decode(_TokenSecret, answer.body).data[reference.key]
            return base64.b64decode(held).decode("ascii").strip()
        except (KeyError, ValueError):
            raise VaultError("vault/token", f"the Secret has no usable {reference.key}", about=path) from None

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> bytes:
        url = f"{self._address}/v1/{path}"
        if self._settings.namespace:
            headers = {**headers, "X-Vault-Namespace": self._settings.namespace}
        try:
            tls = self._tls()
            async with session.post(url, data=msgspec.json.encode(body), headers=headers, ssl=tls) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise VaultError("vault/unreachable", f"no answer ({type(error).__name__})", about=self._address) from error
        if response.status != 200:
            raise VaultError("vault/refused", f"answered {response.status}: {_errors(raw)}", about=f"POST /v1/{path}")
        return raw

    def _tls(self) -> ssl.SSLContext | bool:
        if self._settings.protocol != "https":
            return False
        try:
            return ssl.create_default_context(cadata=self._settings.ca_bundle or None)
        except (ssl.SSLError, ValueError) as error:
            raise BadInputError(
                "vault/ca-bundle", "caBundle holds no certificates", about=self._context.name
            ) from error


class _Errors(msgspec.Struct, frozen=True):
    errors: list[str] = []


def _errors(raw: bytes) -> str:
    """Return the errors in Vault's answer. They contain no secret of the request."""
    try:
        return "; ".join(decode(_Errors, raw).errors)[:300] or "no reason given"
    except UndecodableError:
        return "no reason given"
