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

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster import ApiError
from deploy.install.control_plane import Profile, webhook
from shared.model import ANNOTATION_INJECTION, ANNOTATION_SIDECAR, LABEL_MONITORED_BY
from tests.nats_server import NatsServer, free_port
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


async def prepare(api: ApiServer) -> str:
    """Namespaces, and the injector's own pod with its token."""
    cluster = api.cluster
    await cluster.create("namespaces", {"metadata": {"name": "meshlog-system"}})
    member: dict[str, Any] = {"name": "shop", "labels": {LABEL_MONITORED_BY: "meshlog"}}
    member["annotations"] = {ANNOTATION_INJECTION: "enabled"}
    await cluster.create("namespaces", {"metadata": member})
    account = {"name": "meshlog-injector", "namespace": "meshlog-system"}
    await cluster.create("serviceaccounts", {"metadata": account})
    own = await cluster.create(
        "pods",
        {
            "metadata": {"name": "injector-1", "namespace": "meshlog-system"},
            "spec": {"serviceAccountName": "meshlog-injector", "containers": [{"name": "injector", "image": "i"}]},
        },
    )
    issued = api.issue_token(
        "meshlog-system",
        "meshlog-injector",
        audiences=["meshlog"],
        pod="injector-1",
        pod_uid=own["metadata"]["uid"],
    )
    return issued.token


async def test_a_pod_of_a_member_namespace_is_given_its_sidecar(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "processes.log"

    async def resolve(namespace: str, name: str, _port: int) -> tuple[str, int]:
        assert (namespace, name) == ("meshlog-system", "meshlog-injector")
        return "127.0.0.1", port

    async with AsyncExitStack() as stack:
        api = ApiServer(addresses=[("127.0.0.1", 0)], resolve_service=resolve)
        await api.start()
        stack.push_async_callback(api.stop)
        server = NatsServer(tmp_path)
        server.start()
        stack.callback(server.stop)
        token, kubeconfig = tmp_path / "token", tmp_path / "kubeconfig"
        token.write_text(await prepare(api))
        kubeconfig.write_text(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
        await api.cluster.create(
            "mutatingwebhookconfigurations.admissionregistration.k8s.io", webhook(Profile(cluster="c1"))
        )
        nats = ("--nats-url", server.url)
        await stack.enter_async_context(running("ingestor", log, *nats, "--kubeconfig", str(kubeconfig)))
        await stack.enter_async_context(running("ca", log, *nats, "--kubeconfig", str(kubeconfig)))
        flags = ("--webhook-host", "127.0.0.1", "--webhook-port", str(port), "--token-file", str(token))
        await stack.enter_async_context(running("injector", log, *nats, *flags))

        async def created() -> dict[str, Any] | None:
            made = pod()
            made["metadata"]["namespace"] = "shop"
            try:
                return await api.cluster.create("pods", made)
            except ApiError:
                return None  # failurePolicy Fail: no injector yet, or no caBundle yet

        stored = await eventually(created, within=30.0, what="the pod is admitted")
        assert stored is not None
        assert ANNOTATION_SIDECAR in stored["metadata"]["annotations"]
        assert [each["name"] for each in stored["spec"]["initContainers"]] == ["meshlog-init", "envoy", "prepare"]
    assert "Traceback" not in log.read_text()
