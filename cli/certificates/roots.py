"""Client for the mesh's roots: MeshRootCertificates in the API, the trust bundle in the log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from cli.embedded import lifecycle
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, Manifest, connect
from shared.errors import BadInputError, MeshlogError
from shared.eventlog.jetstream.quiet_logging import quiet_logging
from shared.eventlog.protocol import EventLog
from shared.names import MESH_NAMESPACE
from shared.records.certificate_records import AuditNote, CorruptMessageError, TrustBundle, decode_bundle, decode_note
from shared.records.proxy_status import ProxyStatus, status_in
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs

NAMESPACE = MESH_NAMESPACE
TRUST_DOMAIN = "cluster.local"
API_VERSION = "config.openservicemesh.io/v1alpha2"
KIND = "MeshRootCertificate"
REPLACES = "meshlog.io/replaces"
"""Annotation of a rotation's new root: the name of the root that it replaces."""
_COLLECTION = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/meshrootcertificates"


class MeshRoot(msgspec.Struct, frozen=True):
    """One MeshRootCertificate."""

    name: str
    role: str
    trust_domain: str
    provider: dict[str, Any]
    replaces: str = ""

    @property
    def manifest(self) -> Manifest:
        """The object to apply."""
        metadata: dict[str, Any] = {"name": self.name, "namespace": NAMESPACE}
        if self.replaces:
            metadata["annotations"] = {REPLACES: self.replaces}
        spec = {"role": self.role, "trustDomain": self.trust_domain, "provider": self.provider}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


class CertificateClient:
    """Access to a running mesh for the verbs of certificates."""

    def __init__(self, api: Api, certs: EventLog, status: EventLog, streams: Streams) -> None:
        self._api = api
        self.certs = certs
        self._status = status
        self.streams = streams

    async def roots(self) -> dict[str, MeshRoot]:
        """The MeshRootCertificates by name; empty if there are none."""
        listing = await self._api.get(_COLLECTION)
        found = [
            MeshRoot(
                name=one["metadata"]["name"],
                role=one["spec"]["role"],
                trust_domain=one["spec"]["trustDomain"],
                provider=one["spec"]["provider"],
                replaces=one["metadata"].get("annotations", {}).get(REPLACES, ""),
            )
            for one in listing["items"]
        ]
        return {root.name: root for root in found}

    async def put(self, root: MeshRoot) -> None:
        """Create or change a MeshRootCertificate."""
        await self._api.apply(root.manifest)

    async def delete(self, root: MeshRoot) -> None:
        """Delete a MeshRootCertificate; its keys are kept."""
        await self._api.delete(root.manifest)

    async def bundle(self) -> TrustBundle:
        """The trust bundle in force; raises `MeshlogError` if the CA has published none."""
        record = await self.certs.last(self.streams.bundle_subject(TRUST_DOMAIN))
        if record is None:
            raise MeshlogError("certificate/none", "the CA has published no trust bundle yet", about="the mesh")
        bundle = decode_bundle(record.payload)
        if not bundle.members or len(bundle.members) != len(bundle.roots):
            raise CorruptMessageError(
                "certificates/corrupt", f"record {record.sequence} names other roots than it holds", about="the bundle"
            )
        return bundle

    async def note(self) -> AuditNote | None:
        """The CA's newest audit note on a rotation; None if there is none."""
        record = await self.certs.last(self.streams.audit_subject("rotation"))
        try:
            return decode_note(record.payload) if record is not None else None
        except CorruptMessageError:
            return None

    async def pods(self) -> set[str]:
        """The uid of every pod."""
        return {one["metadata"]["uid"] for one in (await self._api.get("/api/v1/pods"))["items"]}

    async def proxies(self) -> list[ProxyStatus]:
        """The newest report of every proxy."""
        records = await self._status.last_per_subject(self.streams.all_status)
        found = (status_in(record, self.streams) for record in records)
        return [status for status in found if status is not None]


@contextlib.asynccontextmanager
async def certificate_client() -> AsyncGenerator[CertificateClient]:
    """The running mesh of this machine; raises `BadInputError` if there is none."""
    found = lifecycle.running()
    streams = Streams()
    # The connection retries for as long as the log is away, and prints nothing.
    with quiet_logging():
        logs = JetStreamLogs.connect(lifecycle.log_access(found), streams)
        try:
            async with connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as api:
                certs, status = [await lifecycle.existing(logs, name) for name in (streams.certs, streams.status)]
                yield CertificateClient(api, certs, status, streams)
        finally:
            await logs.close()


def provider_of(kind: str, settings: list[str]) -> dict[str, Any]:
    """The `provider` of a MeshRootCertificate from `--provider` and its `--set name=value`; raises `BadInputError`."""
    name = "certManager" if kind == "cert-manager" else kind
    made: dict[str, Any] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not path or not equals:
            raise BadInputError("certificate/setting", "must be NAME=VALUE", about=setting)
        place = made
        *parents, last = path.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = int(value) if value.isdecimal() else value
    return {name: made}
