"""Ingestor, CA and injector as processes over a real NATS: a Pod that is created comes out with its sidecar."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.kubernetes import kubeconfig as access
from cli.kubernetes.api_client import Api, connect
from deploy.install.control_plane import Profile, webhook
from shared.projected_objects import ANNOTATION_INJECTION, ANNOTATION_SIDECAR, LABEL_MONITORED_BY
from tests.apiservers import KINDS, apiserver
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.unit.injector.pods import pod
from tests.waiting import eventually

pytestmark = pytest.mark.nats


@asynccontextmanager
async def running(service: str, log: Path, *flags: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`meshlog run SERVICE`; ended gracefully, with exit code 0."""
    common = ["--cluster", "c1", "--http-port", "0", "--instance", f"{service}-1"]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{service}", *common, *flags, stderr=output
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0, f"{service} did not end in good order"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def prepare(api: Api) -> str:
    """Namespaces, and the injector's own pod with its token."""
    member: dict[str, Any] = {"name": "shop", "labels": {LABEL_MONITORED_BY: "meshlog"}}
    member["annotations"] = {ANNOTATION_INJECTION: "enabled"}
    for metadata in ({"name": "meshlog-system"}, member):
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    for name, namespace in (("meshlog-injector", "meshlog-system"), ("web", "shop")):
        account = {"name": name, "namespace": namespace}
        await api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    own = await api.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "injector-1", "namespace": "meshlog-system"},
            "spec": {"serviceAccountName": "meshlog-injector", "containers": [{"name": "injector", "image": "i"}]},
        }
    )
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "injector-1", "uid": own.uid}
    wish = {"audiences": ["meshlog"], "expirationSeconds": 3600, "boundObjectRef": bound}
    status, issued = await api.request(
        "POST",
        "/api/v1/namespaces/meshlog-system/serviceaccounts/meshlog-injector/token",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wish},
    )
    assert status == 201, issued
    return issued["status"]["token"]


@pytest.mark.parametrize("which", KINDS)
async def test_a_pod_of_a_member_namespace_is_given_its_sidecar(which: str, tmp_path: Path) -> None:
    """The CA verifies the injector's token, hands its bundle to the webhook's configuration, and the pod is valid."""
    port, log = free_port(), tmp_path / "processes.log"
    async with AsyncExitStack() as stack:
        kubeconfig = await stack.enter_async_context(apiserver(which, tmp_path))
        api = await stack.enter_async_context(connect(access.read(kubeconfig)))
        server = NatsServer(tmp_path)
        server.start()
        stack.callback(server.stop)
        token = tmp_path / "token"
        token.write_text(await prepare(api))
        hooks = webhook(Profile(cluster="c1"))
        for hook in hooks["webhooks"]:
            hook["clientConfig"]["service"]["port"] = port
        # The API server of a test cannot reach pods: the Service leads to this machine.
        outside = {"type": "ExternalName", "externalName": "localhost"}
        place = {"name": "meshlog-injector", "namespace": "meshlog-system"}
        await api.apply({"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": outside})
        await api.apply(hooks)
        nats = ("--nats-url", server.url)
        await stack.enter_async_context(running("ingestor", log, *nats, "--kubeconfig", str(kubeconfig)))
        await stack.enter_async_context(running("ca", log, *nats, "--kubeconfig", str(kubeconfig)))
        flags = ("--webhook-host", "127.0.0.1", "--webhook-port", str(port), "--token-file", str(token))
        await stack.enter_async_context(running("injector", log, *nats, *flags))
        made: dict[str, Any] = pod() | {"apiVersion": "v1", "kind": "Pod"}
        made["metadata"] |= {"namespace": "shop"}

        async def created() -> dict[str, Any] | None:
            # failurePolicy Fail: no injector yet, or no caBundle yet
            status, stored = await api.request("POST", "/api/v1/namespaces/shop/pods", body=made)
            return stored if status == 201 else None

        stored = await eventually(created, within=30.0, what="the pod is admitted")
        assert stored is not None
        assert ANNOTATION_SIDECAR in stored["metadata"]["annotations"]
        assert [each["name"] for each in stored["spec"]["initContainers"]] == ["meshlog-init", "envoy", "prepare"]
        bundle = await api.get("/api/v1/namespaces/shop/configmaps/meshlog-trust-bundle")
        assert "BEGIN CERTIFICATE" in bundle["data"]["bundle.pem"]
    assert "Traceback" not in log.read_text()
