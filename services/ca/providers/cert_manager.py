"""The cert-manager provider: an issuer of cert-manager signs the intermediate, by a CertificateRequest with `isCA`.

The request is deleted after the answer. An issuer that returns no root in `status.ca`, as some external issuers do,
needs `caBundle`. ACME issuers never sign CAs.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.core.kube_api import KubeApi, KubeError
from services.ca.core.provider import Provider
from services.ca.providers.base import ProviderContext
from services.ca.providers.intermediate import IntermediateProvider
from shared.errors import BadInputError, MeshlogError
from shared.identity.svid import UNREADABLE, parse_certificates
from shared.io.decoding import UndecodableError, decode
from shared.meshconfig.root_certificate import CertManagerSettings, cert_manager_settings

WITHIN = 60.0
"""Seconds that an issuer may take. After that the request is deleted, and created again later."""
_PACE = 0.25
_GROUP = "cert-manager.io"


class CertManagerError(MeshlogError):
    """cert-manager refused or did not answer. The same request may succeed later."""


class _RequestCondition(msgspec.Struct, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _RequestStatus(msgspec.Struct, frozen=True):
    conditions: list[_RequestCondition] = []
    certificate: str = ""
    ca: str = ""


class _RequestMetadata(msgspec.Struct, frozen=True):
    name: str


class _CertificateRequest(msgspec.Struct, frozen=True):
    metadata: _RequestMetadata
    status: _RequestStatus = _RequestStatus()


async def cert_manager(context: ProviderContext) -> Provider:
    """Make the provider of a root.

    Raises `BadInputError` for invalid settings, and `CertManagerError` if no issuer signs.
    """
    settings = cert_manager_settings(context.settings, about=context.name)
    kube = context.kube
    if kube is None:
        raise BadInputError("cert-manager/settings", "needs the Kubernetes API", about=context.name)

    async def sign(csr: bytes) -> list[x509.Certificate]:
        return await request_intermediate(kube, context.namespace, settings, csr)

    return await IntermediateProvider.open(context, sign)


async def request_intermediate(
    kube: KubeApi, namespace: str, settings: CertManagerSettings, csr: bytes
) -> list[x509.Certificate]:
    """See `SignIntermediate`."""
    collection = f"/apis/{_GROUP}/v1/namespaces/{namespace}/certificaterequests"
    pem = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM)
    wanted = {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "CertificateRequest",
        "metadata": {"generateName": "meshlog-", "namespace": namespace},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "isCA": True,
            "duration": settings.duration,
            "usages": ["cert sign", "crl sign", "digital signature"],
            "issuerRef": {
                "name": settings.issuer_name,
                "kind": settings.issuer_kind,
                "group": settings.issuer_group,
            },
        },
    }
    made = await _expect(kube, "POST", collection, {200, 201}, body=wanted)
    path = f"{collection}/{made.metadata.name}"
    try:
        async with asyncio.timeout(WITHIN):
            while not (status := (await _expect(kube, "GET", path, {200})).status).certificate:
                _check_conditions(status, path)
                await asyncio.sleep(_PACE)
    except TimeoutError:
        raise CertManagerError("cert-manager/silent", f"it was not signed within {WITHIN:g} s", about=path) from None
    finally:
        await kube.request("DELETE", path)
    return _chain(status, settings, path)


def _check_conditions(status: _RequestStatus, path: str) -> None:
    for condition in status.conditions:
        failed = condition.type == "Ready" and condition.status == "False" and condition.reason in {"Failed", "Denied"}
        if failed or (condition.type in {"Denied", "InvalidRequest"} and condition.status == "True"):
            raise CertManagerError("cert-manager/refused", condition.message[:300] or condition.reason, about=path)


def _chain(status: _RequestStatus, settings: CertManagerSettings, path: str) -> list[x509.Certificate]:
    try:
        texts = [base64.b64decode(text).decode("ascii") for text in (status.certificate, status.ca) if text]
    except ValueError as error:
        raise CertManagerError("cert-manager/answer", "its certificate is not PEM in base64", about=path) from error
    # The chain may or may not end in the root; a configured root takes precedence over that of the issuer.
    chain = list(dict.fromkeys(parse_certificates([*texts, settings.ca_bundle] if settings.ca_bundle else texts)))
    try:
        roots = [one for one in chain if one.subject == one.issuer]
    except UNREADABLE as error:
        raise CertManagerError("cert-manager/answer", "its certificate's names cannot be read", about=path) from error
    return [one for one in chain if one not in roots] + roots[-1:]


async def _expect(kube: KubeApi, method: str, path: str, fine: set[int], *, body: Any = None) -> _CertificateRequest:
    answer = await kube.request(method, path, body=body)
    if answer.status not in fine:
        raise KubeError.of(method, path, answer)
    try:
        return decode(_CertificateRequest, answer.body)
    except UndecodableError as error:
        raise CertManagerError("cert-manager/answer", "the API's answer cannot be read", about=path) from error
