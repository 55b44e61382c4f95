"""Ingestor and CA with what an installation gives them and nothing more: roles, TLS to the log, an account of the log.

A rule that is missing shows as a refusal, one too many as a rule that nobody used.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.install.control_plane import control_plane
from deploy.install.nats_objects import password_variable
from deploy.install.profile import SERVICES, Manifest, Profile
from deploy.install.secrets import log_secrets
from deploy.nats import NatsConfig, service_users
from shared.projected_objects import LABEL_MONITORED_BY
from shared.records.subjects import Streams
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.unit.devcluster_api.test_policy_crds import WRITTEN
from tests.waiting import eventually

pytestmark = pytest.mark.nats

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
PROFILE = Profile(nats_secured=True, cluster="c1")
ELSEWHERE = {"create events"}
"""Needed for news about an object that is refused: another test makes it happen."""
OBJECTS = f"""
{WRITTEN.replace("namespace: default", "namespace: shop")}
---
apiVersion: access.smi-spec.io/v1alpha4
kind: TrafficTarget
metadata: {{name: x, namespace: shop}}
spec: {{destination: {{kind: ServiceAccount, name: a}}, sources: [{{kind: ServiceAccount, name: b}}], rules: []}}
---
apiVersion: access.smi-spec.io/v1alpha4
kind: IdentityBinding
metadata: {{name: x, namespace: shop}}
spec: {{schemes: {{serviceAccount: a}}}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: x, namespace: shop}}
spec: {{matches: [{{name: all, pathRegex: /}}]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {{name: x, namespace: shop}}
spec: {{matches: {{ports: [1]}}}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: UDPRoute
metadata: {{name: x, namespace: shop}}
spec: {{matches: {{ports: [1]}}}}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: x, namespace: shop}}
spec: {{service: a, backends: [{{service: b, weight: 1}}]}}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {{name: osm-mesh-config, namespace: meshlog-system}}
spec: {{traffic: {{enableEgress: true}}}}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshRootCertificate
metadata: {{name: default, namespace: meshlog-system}}
spec: {{role: active, trustDomain: cluster.local, provider: {{builtin: {{}}}}}}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshRootCertificate
metadata: {{name: second, namespace: meshlog-system}}
spec: {{role: passive, trustDomain: cluster.local, provider: {{builtin: {{}}}}}}
"""
"""One of every kind whose status is written, and a second root, whose keys go into the Secret of the first."""


async def install(api: ApiServer) -> dict[str, Manifest]:
    """Everything that an installation consists of, and one member namespace; returns the Secrets by name."""
    for path in CRDS.glob("*.yaml"):
        await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", yaml.safe_load(path.read_text()))
    await api.cluster.transact([*control_plane(PROFILE)], manager="meshlog")
    member = {"metadata": {"name": "shop", "labels": {LABEL_MONITORED_BY: "meshlog"}}}
    await api.cluster.create("namespaces", member)
    await api.cluster.transact(list(yaml.safe_load_all(OBJECTS)), manager="meshlog")
    return {secret["metadata"]["name"]: secret for secret in log_secrets(PROFILE)}


def kubeconfig(api: ApiServer, service: str, path: Path) -> str:
    """A kubeconfig with the token of the service's own account."""
    config = yaml.safe_load(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
    config["users"][0]["user"] = {"token": api.issue_token("meshlog-system", f"meshlog-{service}").token}
    path.write_text(yaml.safe_dump(config))
    return str(path)


@asynccontextmanager
async def running(service: str, log: Path, *flags: str) -> AsyncGenerator[None]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"services.{service}", "--cluster", "c1", "--http-port", "0"),
            *("--instance", f"{service}-1", "--nats-user", service, "--nats-accounts", *flags),
            stderr=output,
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0, f"{service} did not end in good order"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_services_need_all_of_their_rules_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        # Without streaming lists, as on an older Kubernetes: there the right to list is needed as well.
        api = ApiServer(addresses=[("127.0.0.1", 0)], bookmark_seconds=0.2, streaming_lists=False)
        await api.start()
        stack.push_async_callback(api.stop)
        secrets = await install(api)
        of_servers: dict[str, str] = secrets["meshlog-nats-server"]["stringData"]
        for name in ("ca.crt", "tls.crt", "tls.key"):
            (tmp_path / name).write_text(of_servers[name])
        for service in SERVICES:
            monkeypatch.setenv(password_variable(service), of_servers[password_variable(service)])
            (tmp_path / service).write_text(secrets[f"meshlog-nats-{service}"]["stringData"]["password"])
        users = service_users(Streams(), {name: f"${password_variable(name)}" for name in SERVICES})
        config = NatsConfig(port=free_port(), store=str(tmp_path / "data"), users=users, tls=str(tmp_path))
        server = NatsServer(tmp_path, config)
        server.start()
        stack.callback(server.stop)
        log = tmp_path / "processes.log"
        nats = ("--nats-url", f"tls://localhost:{config.port}", "--nats-ca-file", str(tmp_path / "ca.crt"))
        for service in ("ingestor", "ca"):
            own = ("--kubeconfig", kubeconfig(api, service, tmp_path / f"{service}.kubeconfig"))
            password = ("--nats-password-file", str(tmp_path / service))
            await stack.enter_async_context(running(service, log, *nats, *own, *password))
        # What becomes of objects is said once it was compiled.
        password = ("--nats-password-file", str(tmp_path / "compiler"))
        await stack.enter_async_context(running("compiler", log, *nats, *password))

        async def distributed() -> Any:
            bundle = await api.cluster.get("configmaps", "shop", "meshlog-trust-bundle")
            hook = await api.cluster.get(
                "mutatingwebhookconfigurations.admissionregistration.k8s.io", "", "meshlog-webhook-meshlog"
            )
            return bundle and hook and hook["webhooks"][0]["clientConfig"].get("caBundle")

        await eventually(distributed, within=30.0, what="the CA has handed its bundle out")
        wanted = needed()
        try:
            await eventually(lambda: wanted <= used(api), within=20.0, what="every rule is used")
        except AssertionError:
            assert wanted - used(api) == set(), "nobody needs these"
        assert api.authorizer.refused == set(), "a rule is missing"
    assert "Traceback" not in log.read_text()


def used(api: ApiServer) -> set[tuple[str, int, str]]:
    return {(granted.role, granted.rule, what) for granted, all_of in api.authorizer.usage.items() for what in all_of}


def needed() -> set[tuple[str, int, str]]:
    """Role, place and each verb on each resource of every rule, those aside that other tests use."""
    found: set[tuple[str, int, str]] = set()
    for role in control_plane(PROFILE):
        if role["kind"] not in {"Role", "ClusterRole"}:
            continue
        metadata = role["metadata"]
        place = f"{metadata['namespace']}/" if "namespace" in metadata else ""
        for index, rule in enumerate(role["rules"]):
            every = {f"{verb} {resource}" for verb in rule["verbs"] for resource in rule["resources"]}
            found |= {(f"{role['kind']}/{place}{metadata['name']}", index, what) for what in every - ELSEWHERE}
    return found
