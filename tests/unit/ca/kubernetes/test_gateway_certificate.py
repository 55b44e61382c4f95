"""An ingress gateway's certificate is stored, renewed and removed; the bundle is served to those outside."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from typing import Any

import msgspec
import pytest
from cryptography import x509

from services.ca.app import App
from services.ca.core.kube_api import KubeAnswer
from services.ca.http.bundle_endpoint import BundleEndpoint
from services.ca.kubernetes import gateway_certificate
from shared.records.certificate_records import decode_note
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.running import MemoryKeyStore, certificate_authority, tasks
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

SECRET = "/api/v1/namespaces/ingress/secrets/gateway"
WISH = {
    "certificate": {
        "ingressGateway": {
            "subjectAltNames": ["gateway.ingress.cluster.local"],
            "validityDuration": "1h",
            "secret": {"name": "gateway", "namespace": "ingress"},
        }
    }
}


async def test_the_gateways_secret_is_stored_renewed_and_removed() -> None:
    logs, cluster, kube, now = MemoryLogs(), Cluster(), FakeKubernetes(), [1_800_000_000.0]
    events = logs.stream(Streams().events)
    await write(events, [*cluster.bookstore(), cluster.config_event(WISH)])
    store = MemoryKeyStore()

    def leaf() -> x509.Certificate:
        return x509.load_pem_x509_certificate(base64.b64decode(kube.objects[SECRET]["data"]["tls.crt"]))

    async with certificate_authority(logs, kube=kube, clock=lambda: now[0], store=store):
        await eventually(lambda: SECRET in kube.objects, within=5, what="the Secret")
        names = leaf().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName("gateway.ingress.cluster.local")]
        assert kube.objects[SECRET]["type"] == "kubernetes.io/tls"
        first = leaf().serial_number
    async with certificate_authority(logs, kube=kube, clock=lambda: now[0], store=store):
        await eventually(lambda: len(kube.requests) > 3, within=5, what="another CA looks")
        assert leaf().serial_number == first
    now[0] += 2500
    async with certificate_authority(logs, kube=kube, clock=lambda: now[0], store=store):
        await eventually(lambda: leaf().serial_number != first, within=5, what="a renewal at two thirds")
    # It was removed from the MeshConfig while no CA ran.
    await write(events, [cluster.config_event({"certificate": {}})])
    async with certificate_authority(logs, kube=kube, clock=lambda: now[0], store=store):
        await eventually(lambda: ("DELETE", SECRET) in kube.requests, within=5, what="its removal")
    notes = [
        decode_note(record.payload).code
        async for record in logs.stream(Streams().certs).read(subjects=Streams().audit_subject("ingress-gateway"))
    ]
    assert notes == ["ingress-gateway/stored"] * 2 + ["ingress-gateway/removed"]


async def test_a_secret_that_cannot_be_stored_is_tried_again_in_a_while_and_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs, cluster, kube, store = MemoryLogs(), Cluster(), FakeKubernetes(), MemoryKeyStore()
    await write(logs.stream(Streams().events), [*cluster.bookstore(), cluster.config_event(WISH)])
    kube.refusing.add(SECRET)

    def tries() -> int:
        return kube.requests.count(("PATCH", SECRET))

    async with certificate_authority(logs, kube=kube, store=store):
        await eventually(tries, within=5, what="a try")
        for _ in range(500):
            await asyncio.sleep(0)
        assert tries() == 1
    monkeypatch.setattr(gateway_certificate, "_RETRY_SECONDS", 0.02)
    async with certificate_authority(logs, kube=kube, store=store):
        await eventually(lambda: tries() >= 3, within=5, what="another try")
        kube.refusing.clear()
        await eventually(lambda: SECRET in kube.objects, within=5, what="the Secret")


class Hesitant(FakeKubernetes):
    """An API server that has the wish taken back while it stores the Secret."""

    def __init__(self, logs: MemoryLogs, cluster: Cluster) -> None:
        super().__init__()
        self._logs = logs
        self._cluster = cluster
        self.ca: App | None = None

    async def request(self, method: str, path: str, **rest: Any) -> KubeAnswer:
        answer = await super().request(method, path, **rest)
        if (method, path) == ("PATCH", SECRET):
            await write(self._logs.stream(Streams().events), [self._cluster.config_event({"certificate": {}})])
            await eventually(lambda: self.ca and self.ca.state.gateway is None, within=5, what="the CA knows")
        return answer


async def test_a_wish_that_is_taken_back_while_its_secret_is_stored_leaves_no_secret() -> None:
    logs, cluster = MemoryLogs(), Cluster()
    kube = Hesitant(logs, cluster)
    await write(logs.stream(Streams().events), [*cluster.bookstore(), cluster.config_event(WISH)])
    async with certificate_authority(logs, kube=kube) as kube.ca:
        await eventually(lambda: ("DELETE", SECRET) in kube.requests, within=5, what="its removal")
        assert SECRET not in kube.objects


@pytest.mark.parametrize("path", ["/", "/other"])
async def test_the_bundle_endpoint_serves_a_key_set_that_a_client_can_check(path: str) -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with certificate_authority(logs) as ca:
        bundle = await ca.bundle.wait()
        endpoint = BundleEndpoint(
            roots=ca.roots,
            bundle=ca.bundle,
            namespace="meshlog-system",
            service_domain="cluster.local",
            clock=time.time,
        )
        async with tasks(endpoint.run("127.0.0.1", 0)):
            await eventually(lambda: endpoint.port, within=5, what="the endpoint listens")
            trust = ssl.create_default_context(cadata="".join(bundle.roots))
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", endpoint.port, ssl=trust, server_hostname="meshlog-ca.meshlog-system.svc"
            )
            writer.write(f"GET {path} HTTP/1.1\r\nHost: ca\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
    if path != "/":
        assert answer.startswith(b"HTTP/1.1 404")
        return
    document = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    assert document["spiffe_sequence"] == bundle.serial
    (key,) = document["keys"]
    assert (key["use"], key["kty"], key["crv"]) == ("x509-svid", "EC", "P-256")
    root = x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0]))
    assert root == x509.load_pem_x509_certificate(bundle.roots[0].encode())
