"""The webhook as the API server calls it: over HTTPS, in front of the devcluster's API, its certificate rotated."""

from __future__ import annotations

import asyncio
import base64
import io
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography import x509

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError
from deploy.install.control_plane import Profile, webhook
from services.injector.http.webhook import PATH, VALIDATION_PATH, Webhook
from services.injector.log.namespace_follower import NamespaceFollower
from shared.eventlog.memory import MemoryLog
from shared.projected_objects import ANNOTATION_INJECTION, ANNOTATION_SIDECAR, LABEL_MONITORED_BY
from tests.integration.injector.edge import Authority
from tests.integration.injector.policy import traffic_target
from tests.integration.injector.served import served
from tests.ports import free_port
from tests.unit.injector.http.test_webhook import STREAMS, asked, namespace, write
from tests.unit.injector.pods import INSTALLATION, pod
from tests.waiting import eventually

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
IDENTITY = "spiffe://cluster.local/ns/meshlog-system/sa/meshlog-injector"


class Serving:
    """The webhook on a free port, and what it takes to trust it."""

    def __init__(self, authority: Authority, directory: Path) -> None:
        self.authority = authority
        self.log = MemoryLog()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.port = 0
        self._file = directory / "serving.pem"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}{PATH}"

    def renew(self) -> int:
        """A new key and certificate for later handshakes, as `ServingCertificate` does it; its serial number."""
        key, certificate = self.authority.issue(IDENTITY, "localhost")
        self._file.write_bytes(key + certificate)
        self.context.load_cert_chain(self._file)
        return x509.load_pem_x509_certificate(certificate).serial_number


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncGenerator[Serving]:
    made = Serving(Authority(), tmp_path)
    made.renew()
    await write(made.log, "Namespace", "", "shop", namespace())
    membership = NamespaceFollower(made.log, streams=STREAMS, cluster="c1", mesh_namespace="meshlog-system")
    task = asyncio.create_task(membership.run())
    async with served(Webhook(membership, INSTALLATION), made.context) as (_, made.port):
        yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def session(serving: Serving) -> AsyncGenerator[aiohttp.ClientSession]:
    trust = ssl.create_default_context(cadata=serving.authority.pem.decode())
    # A new connection for each call: each is a handshake.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, force_close=True)) as made:
        yield made


async def test_pods_of_members_are_stored_with_their_sidecar_and_others_as_they_are(serving: Serving) -> None:
    api = ApiServer()
    await api.start()
    cluster = api.cluster
    labels = {LABEL_MONITORED_BY: "meshlog"}
    await cluster.create("namespaces", {"metadata": {"name": "shop", "labels": labels}})
    hook: dict[str, Any] = {
        "name": "inject.meshlog.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": serving.url, "caBundle": base64.b64encode(serving.authority.pem).decode()},
        "namespaceSelector": {"matchLabels": labels},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    await cluster.create(
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        {"metadata": {"name": "meshlog-webhook-meshlog"}, "webhooks": [hook]},
    )
    try:
        for place, expected in (("shop", ["meshlog-init", "envoy", "prepare"]), ("default", ["prepare"])):
            made = pod()
            made["metadata"]["namespace"] = place
            stored = await cluster.create("pods", made)
            assert [each["name"] for each in stored["spec"]["initContainers"]] == expected
            assert (ANNOTATION_SIDECAR in (stored["metadata"].get("annotations") or {})) is (place == "shop")
        bad = pod(**{ANNOTATION_INJECTION: "perhaps"})
        bad["metadata"]["namespace"] = "shop"
        with pytest.raises(KubeApiError, match="use enabled or disabled"):
            await cluster.create("pods", bad)
    finally:
        await api.stop()


async def _handshake(serving: Serving, trust: ssl.SSLContext) -> int:
    """One review over a connection of its own; the serial number of the certificate that was met."""
    body = asked()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("localhost", serving.port, ssl=trust)
    serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'"allowed":true' in answer
    return serial


async def test_68_its_certificate_is_renewed_under_load_without_a_failed_handshake(serving: Serving) -> None:
    """Eight callers without a pause, a handshake each time; every certificate is met by some of them."""
    trust = ssl.create_default_context(cadata=serving.authority.pem.decode())
    seen: list[int] = []
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            seen.append(await _handshake(serving, trust))

    async with asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(call())
        for _ in range(20):
            serial = serving.renew()
            await eventually(lambda new=serial: new in seen, within=10.0, what="the new certificate is met")
        over.set()
    assert len(set(seen)) >= 20


async def test_66_without_the_webhook_pods_of_members_wait_and_all_others_are_created(serving: Serving) -> None:
    """And both are again as before when it is back."""
    closed = serving.url.replace(str(serving.port), str(free_port()))
    api = ApiServer()
    await api.start()
    cluster = api.cluster
    labels = {LABEL_MONITORED_BY: "meshlog"}
    await cluster.create("namespaces", {"metadata": {"name": "shop", "labels": labels}})
    configuration = webhook(Profile(cluster="c1"))
    del configuration["webhooks"][0]["clientConfig"]["service"]
    bundle = base64.b64encode(serving.authority.pem).decode()
    configuration["webhooks"][0]["clientConfig"] = {"url": closed, "caBundle": bundle}
    resource = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
    await cluster.create(resource, configuration)
    try:
        for place in ("shop", "default"):
            made = pod()
            made["metadata"]["namespace"] = place
            if place == "default":
                await cluster.create("pods", made)
                continue
            with pytest.raises(KubeApiError, match="failed calling webhook"):
                await cluster.create("pods", made)
        working = {
            "webhooks": [{**configuration["webhooks"][0], "clientConfig": {"url": serving.url, "caBundle": bundle}}]
        }
        await cluster.patch(resource, "", configuration["metadata"]["name"], working)
        made["metadata"]["namespace"] = "shop"
        stored = await cluster.create("pods", made)
        assert ANNOTATION_SIDECAR in stored["metadata"]["annotations"]
    finally:
        await api.stop()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{}", 400), (b"[" * 100_000, 400), (b'{"a":' * 1_000_000, 400), (b"x" * (6 << 20), 413)],
    ids=["empty", "nothing", "deep", "deeper", "huge"],
)
async def test_65_what_is_no_review_is_refused_with_a_sentence(
    serving: Serving, session: aiohttp.ClientSession, body: bytes, status: int
) -> None:
    async with session.post(serving.url, data=io.BytesIO(body)) as answer:
        assert answer.status == status
        assert "Traceback" not in await answer.text()


async def test_policy_that_cannot_be_compiled_is_not_stored_and_its_user_reads_why(serving: Serving) -> None:
    api = ApiServer()
    await api.start()
    cluster = api.cluster
    for document in yaml.safe_load_all((CRDS / "traffictargets.access.smi-spec.io.yaml").read_text()):
        await cluster.create("customresourcedefinitions.apiextensions.k8s.io", document)
    await cluster.create("namespaces", {"metadata": {"name": "shop", "labels": {LABEL_MONITORED_BY: "meshlog"}}})
    hook: dict[str, Any] = {
        "name": "policy.meshlog.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {
            "url": serving.url.replace(PATH, VALIDATION_PATH),
            "caBundle": base64.b64encode(serving.authority.pem).decode(),
        },
        "rules": [
            {
                "apiGroups": ["access.smi-spec.io"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["*"],
            }
        ],
    }
    await cluster.create(
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        {"metadata": {"name": "meshlog-validator-meshlog"}, "webhooks": [hook]},
    )

    try:
        with pytest.raises(KubeApiError, match="move it to namespace other"):
            await cluster.create("traffictargets.access.smi-spec.io", traffic_target("other"))
        stored = await cluster.create("traffictargets.access.smi-spec.io", traffic_target("shop"))
        assert stored["metadata"]["uid"]
    finally:
        await api.stop()
