"""Clients that people use: `kubernetes.aio`, and the real `kubectl`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.integration.devcluster_api.client import Client, serving
from tests.unit.devcluster_api.objects import config_map, deployment, pod

CRDS = Path(__file__).parents[3] / "deploy" / "crds"

# --- kubernetes.aio ---------------------------------------------------------------------------------------------------


async def test_the_python_client_lists_creates_and_watches(client: Client, tmp_path: Path) -> None:
    from kubernetes.aio import client as k8s
    from kubernetes.aio import config, watch

    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(client.api.kubeconfig(client.url))
    configuration = k8s.Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with k8s.ApiClient(configuration) as api_client:
        core = k8s.CoreV1Api(api_client)
        made = await core.create_namespaced_config_map("default", k8s.V1ConfigMap(
            metadata=k8s.V1ObjectMeta(name="m"), data={"a": "b"}))  # fmt: skip
        assert made.to_dict()["metadata"]["uid"]
        found = await core.list_namespaced_config_map("default")
        assert [one.to_dict()["metadata"]["name"] for one in found.items] == ["m"]
        stream = watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=2)
        async with stream as events:
            async for event in events:
                assert cast("Any", event)["object"].metadata.name == "m"
                break
        with pytest.raises(k8s.ApiException) as refusal:
            await core.read_namespaced_config_map("none", "default")
        assert refusal.value.status == 404


# --- kubectl ----------------------------------------------------------------------------------------------------------


class Kubectl:
    """The real `kubectl`, as administrator of one API."""

    def __init__(self, program: str, home: Path, client: Client) -> None:
        self._program = program
        self._home = home
        self.client = client
        (home / "config").write_text(client.api.kubeconfig(client.url))

    async def run(self, *arguments: str, stdin: str = "", fails: bool = False) -> str:
        """Its output; what it says of an error if it is to fail."""
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        assert (process.returncode != 0) is fails, f"kubectl {' '.join(arguments)}: {out.decode()}{err.decode()}"
        return (err if fails else out).decode()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start it, and go on."""
        pipe = asyncio.subprocess.PIPE
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": str(self._home / "config")}
        return await asyncio.create_subprocess_exec(
            self._program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )

    async def diff(self, file: str) -> str:
        """What `kubectl diff` prints, which fails where there is something to print."""
        process = await self.start("diff", "-f", file)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        return out.decode()

    async def apply(self, *objects: Any, **options: Any) -> str:
        """`kubectl apply -f -`, as most people call it."""
        return await self.run("apply", "-f", "-", stdin=yaml.safe_dump_all(objects), **options)


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl on this machine: the API is tried with other clients only")
    async with serving() as client:
        yield Kubectl(program, tmp_path, client)


async def test_apply_creates_then_changes_then_leaves_alone(kubectl: Kubectl) -> None:
    assert "deployment.apps/d created" in await kubectl.apply(deployment())
    changed = deployment()
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    assert "deployment.apps/d configured" in await kubectl.apply(changed)
    assert "deployment.apps/d unchanged" in await kubectl.apply(changed)
    stored = await kubectl.client.api.cluster.get("deployments.apps", "default", "d")
    assert stored is not None
    assert stored["spec"]["template"]["spec"]["containers"][0]["image"] == "other"
    assert stored["metadata"]["managedFields"][-1]["manager"] == "kubectl-client-side-apply"


async def test_a_list_is_taken_by_every_verb_that_takes_a_file(kubectl: Kubectl, tmp_path: Path) -> None:
    """As `kubectl get -o yaml` prints it; `kubectl` 1.32 asks OpenAPI v2 about it."""
    file = tmp_path / "list.yaml"

    def write(value: str, **more: Any) -> None:
        items = [config_map(name, key=value) | more for name in ("one", "two")]
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))

    async def value() -> set[str]:
        found = json.loads(await kubectl.run("get", "cm", "one", "two", "-o", "json"))
        assert found["kind"] == "List"
        return {one["data"]["key"] for one in found["items"]}

    write("1")
    await kubectl.run("create", "-f", str(file))
    write("2")
    await kubectl.run("apply", "-f", str(file))
    assert await value() == {"2"}
    write("3")
    assert 'key: "3"' in (await kubectl.diff(str(file)))
    await kubectl.run("replace", "-f", str(file))
    assert await value() == {"3"}
    await kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(file))
    file.write_text(await kubectl.run("get", "cm", "one", "two", "-o", "yaml"))
    assert "configmap/one" in await kubectl.run("apply", "-f", str(file))
    write("4", date={})
    assert 'unknown field "date"' in await kubectl.run("apply", "-f", str(file), fails=True)
    await kubectl.run("delete", "-f", str(file))
    assert json.loads(await kubectl.run("get", "cm", "-o", "json"))["items"] == []


async def test_debug_copies_a_pod(kubectl: Kubectl) -> None:
    """It sends the whole pod as protobuf."""
    volumes = [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "optional": True}}]
    mounts = [{"name": "e", "mountPath": "/e"}, {"name": "s", "mountPath": "/s", "readOnly": True}]
    container = {"name": "c", "image": "i", "volumeMounts": mounts, "resources": {"limits": {"memory": "1Gi"}}}
    await kubectl.apply(pod(containers=[container], volumes=volumes))
    await kubectl.run("debug", "p", "--copy-to", "copy", "--container", "c", "--profile", "general", "--", "sleep", "9")
    first = json.loads(await kubectl.run("get", "pod", "p", "-o", "json"))["spec"]
    second = json.loads(await kubectl.run("get", "pod", "copy", "-o", "json"))["spec"]
    assert second["containers"][0].pop("command") == ["sleep", "9"]
    assert second["containers"][0].pop("securityContext")["capabilities"] == {"add": ["SYS_PTRACE"]}
    assert second.pop("shareProcessNamespace") is True
    assert second == first


async def test_apply_takes_back_what_is_no_longer_in_the_file(kubectl: Kubectl) -> None:
    await kubectl.apply(config_map(a="1", b="2"))
    await kubectl.apply(config_map(a="1"))
    assert json.loads(await kubectl.run("get", "cm", "m", "-o", "json"))["data"] == {"a": "1"}


async def test_apply_validates_as_it_does_by_default(kubectl: Kubectl) -> None:
    said = await kubectl.apply({**config_map(), "date": {}}, fails=True)
    assert 'strict decoding error: unknown field "date"' in said


async def test_our_definitions_and_policies_apply_and_print(kubectl: Kubectl) -> None:
    await kubectl.run("apply", "-f", str(CRDS))
    assert "unchanged" in await kubectl.run("apply", "-f", str(CRDS))
    await kubectl.run("wait", "--for=condition=Established", "crd/trafficsplits.split.smi-spec.io", "--timeout=5s")
    split: dict[str, Any] = {
        "apiVersion": "split.smi-spec.io/v1alpha2",
        "kind": "TrafficSplit",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"service": "root", "backends": [{"service": "a", "weight": 10}, {"service": "b", "weight": 90}]},
    }
    assert "created" in await kubectl.apply(split)
    assert (await kubectl.run("get", "ts")).split()[:8] == [
        "NAME", "SERVICE", "BACKENDS", "WEIGHTS", "AGE", "s", "root", "a,b",
    ]  # fmt: skip
    split["spec"]["backends"][0]["weight"] = 20
    assert "configured" in await kubectl.apply(split)
    said = await kubectl.apply({**split, "spec": {"service": "root"}}, fails=True)
    assert "spec.backends: Required value" in said
    await kubectl.run("delete", "ts", "s")


async def test_server_side_apply_records_managers_and_names_conflicts(kubectl: Kubectl) -> None:
    manifest = yaml.safe_dump(config_map(a="1"))
    await kubectl.run("apply", "--server-side", "-f", "-", stdin=manifest)
    other = ["apply", "--server-side", "--field-manager=other", "-f", "-"]
    said = await kubectl.run(*other, stdin=yaml.safe_dump(config_map(a="2")), fails=True)
    assert 'conflict with "kubectl"' in said
    assert ".data.a" in said
    await kubectl.run(*other, "--force-conflicts", stdin=yaml.safe_dump(config_map(a="2")))


async def test_the_everyday_verbs_work(kubectl: Kubectl) -> None:
    """One after another on one object, as a person would."""
    await kubectl.run("create", "-f", "-", stdin=yaml.safe_dump(deployment()))
    await kubectl.run("label", "deploy", "d", "x=y")
    await kubectl.run("annotate", "deploy", "d", "note=hello")
    await kubectl.run("scale", "deploy", "d", "--replicas=3")
    await kubectl.run("set", "image", "deploy/d", "c=newer")
    await kubectl.run("patch", "deploy", "d", "-p", '{"spec":{"minReadySeconds":1}}')
    operations = '[{"op":"add","path":"/spec/paused","value":true}]'
    await kubectl.run("patch", "deploy", "d", "--type=json", "-p", operations)
    got = json.loads(await kubectl.run("get", "deploy", "d", "-o", "json"))
    assert (got["spec"]["replicas"], got["spec"]["minReadySeconds"], got["spec"]["paused"]) == (3, 1, True)
    assert got["metadata"]["labels"] == {"x": "y"}
    assert got["spec"]["template"]["spec"]["containers"][0]["image"] == "newer"
    assert "Replicas:" in await kubectl.run("describe", "deploy", "d")
    got["spec"]["replicas"] = 1
    await kubectl.run("replace", "-f", "-", stdin=json.dumps(got))
    assert "replicas" in await kubectl.run("explain", "deployment.spec")
    assert "deployment.apps/d" in await kubectl.run("get", "all", "-o", "name")
    assert "deleted" in await kubectl.run("delete", "deploy", "d")


async def test_what_create_makes_of_flags_is_understood(kubectl: Kubectl) -> None:
    """These commands send protobuf since kubectl 1.32."""
    await kubectl.run("create", "namespace", "n")
    await kubectl.run("create", "serviceaccount", "me", "-n", "n")
    await kubectl.run("create", "configmap", "m", "--from-literal=a=b", "-n", "n")
    await kubectl.run("create", "secret", "generic", "s", "--from-literal=a=b", "-n", "n")
    await kubectl.run("create", "deployment", "d", "--image=i", "--replicas=0", "--port=80", "-n", "n")
    await kubectl.run("create", "service", "clusterip", "v", "--tcp=80:http", "-n", "n")
    assert (await kubectl.run("create", "token", "me", "--audience=meshlog", "-n", "n")).count(".") == 2
    assert (await kubectl.run("auth", "can-i", "create", "pods")).strip() == "yes"
    assert "kubernetes-admin" in await kubectl.run("auth", "whoami")
    cluster = kubectl.client.api.cluster
    found = {
        resource: await cluster.get(resource, "n", name)
        for resource, name in (("configmaps", "m"), ("secrets", "s"), ("deployments.apps", "d"), ("services", "v"))
    }
    assert (found["configmaps"] or {})["data"] == {"a": "b"}
    assert (found["secrets"] or {})["data"] == {"a": "Yg=="}
    assert (found["deployments.apps"] or {})["spec"]["replicas"] == 0
    assert (found["services"] or {})["spec"]["ports"][0]["targetPort"] == "http"
    await kubectl.run("delete", "namespace", "n")


async def test_get_w_shows_changes_as_they_come(kubectl: Kubectl) -> None:
    cluster = kubectl.client.api.cluster
    await cluster.create("pods", pod())
    process = await kubectl.start("get", "pods", "-w", "--no-headers")
    assert process.stdout is not None
    try:
        first = await asyncio.wait_for(process.stdout.readline(), 15)
        assert first.split()[:3] == [b"p", b"0/1", b"Pending"]
        await cluster.patch("pods", "default", "p", {"status": {"phase": "Running"}}, subresource="status")
        assert (await asyncio.wait_for(process.stdout.readline(), 15)).split()[2] == b"Running"
    finally:
        process.kill()
        await process.communicate()


async def test_wait_and_rollout_status_see_conditions(kubectl: Kubectl) -> None:
    cluster = kubectl.client.api.cluster
    await cluster.create("deployments.apps", deployment())
    waiting = asyncio.ensure_future(kubectl.run("wait", "--for=condition=Available", "deploy/d", "--timeout=20s"))
    following = asyncio.ensure_future(kubectl.run("rollout", "status", "deploy/d", "--timeout=20s"))
    status = {
        "observedGeneration": 1,
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "conditions": [{"type": "Available", "status": "True"}],
    }
    await cluster.patch("deployments.apps", "default", "d", {"status": status}, subresource="status")
    assert "condition met" in await waiting
    assert "successfully rolled out" in await following
