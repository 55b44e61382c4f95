"""Workloads on a whole devcluster: real API, real namespaces, real processes."""

from __future__ import annotations

import re
import shutil

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from tests.integration.devcluster.cluster import WITHIN, Cluster, pod, processes, service, workload
from tests.waiting import eventually

pytestmark = pytest.mark.devcluster

READY = {"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).status)"


def web(name: str, replicas: int = 2) -> Obj:
    return workload("Deployment", name, replicas, "python", "-m", "http.server", "8080", container=READY)


async def test_a_deployment_serves_under_its_name_survives_a_kill_and_goes_without_a_trace(cluster: Cluster) -> None:
    await cluster.create(web("shop"), service("shop", 80, 8080), pod("client", "sleep", "1000"))
    shops = await cluster.until_ready("shop", 2)
    await cluster.until_ready("client")
    for address in ("http://shop/", "http://shop.default.svc.cluster.local/"):
        assert await cluster.run_in("client", "python", "-c", FETCH, address) == "200"

    victim = object_fields.name(shops[0])
    await cluster.kill(victim)

    async def restarted() -> bool:
        found = await cluster.get("Pod", victim)
        (status,) = found["status"]["containerStatuses"]
        return status["restartCount"] == 1 and status["lastState"]["terminated"]["exitCode"] == 137

    await eventually(restarted, within=WITHIN, what="the killed container runs again")
    await cluster.until_ready("shop", 2)
    assert len(await cluster.endpoints("shop")) == 2
    assert "GET / " in await cluster.log(victim), "the log holds the runs before and after"

    uids = [object_fields.uid(each) for each in shops]
    await cluster.delete("Deployment", "shop")
    await cluster.delete("Service", "shop")
    await cluster.delete("Pod", "client")
    await cluster.until_gone("shop")
    await cluster.until_gone("client")
    assert await cluster.endpoints("shop") == []
    assert processes(lambda line: any(uid in line for uid in uids)) == []


async def test_a_killed_container_is_no_endpoint_until_it_is_ready_again(cluster: Cluster) -> None:
    """The new process is not ready until a file is there, so the endpoint must go and stay away."""
    probe = {"readinessProbe": {"exec": {"command": ["cat", "/data/ready"]}, "periodSeconds": 1}}
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    program = "touch /data/ready; exec sleep 1000"
    gate = pod("gate", "sh", "-c", program, container=probe | mount, volumes=[{"name": "data", "emptyDir": {}}])
    gate["spec"]["containers"][0]["command"][2] = (
        "[ -e /data/seen ] || touch /data/ready; touch /data/seen; exec sleep 1000"
    )
    await cluster.create(gate, service("gate", 80, 8080))
    await cluster.until_ready("gate")
    assert len(await cluster.endpoints("gate")) == 1
    await cluster.run_in("gate", "rm", "/data/ready")
    await cluster.kill("gate")

    async def out_of_service() -> bool:
        found = await cluster.get("Pod", "gate")
        container = found["status"]["containerStatuses"][0]
        restarted = container["restartCount"] == 1 and "running" in container["state"]
        return restarted and not object_fields.is_pod_ready(found) and await cluster.endpoints("gate") == []

    await eventually(out_of_service, within=WITHIN, what="the restarted pod is no endpoint")
    await cluster.run_in("gate", "touch", "/data/ready")
    await cluster.until_ready("gate")
    await cluster.delete("Pod", "gate")
    await cluster.delete("Service", "gate")
    await cluster.until_gone("gate")


async def test_probes_and_commands_see_the_files_of_their_container(cluster: Cluster) -> None:
    """Also those below /tmp, which is each container's own."""
    probe = {"readinessProbe": {"exec": {"command": ["cat", "/tmp/healthy"]}, "periodSeconds": 1}}
    await cluster.create(pod("private", "sh", "-c", "echo yes > /tmp/healthy; exec sleep 1000", container=probe))
    await cluster.until_ready("private")
    assert await cluster.run_in("private", "cat", "/tmp/healthy") == "yes"
    await cluster.delete("Pod", "private")
    await cluster.until_gone("private")


async def test_a_pod_reaches_the_api_with_the_token_that_it_was_given(cluster: Cluster) -> None:
    program = """
import os, ssl, urllib.request as u
d = "/var/run/secrets/kubernetes.io/serviceaccount/"
host = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
for host in (host, "kubernetes.default.svc"):
    q = u.Request(f"https://{host}/api/v1/namespaces/" + open(d + "namespace").read() + "/pods/caller")
    q.add_header("Authorization", "Bearer " + open(d + "token").read())
    print(u.urlopen(q, context=ssl.create_default_context(cafile=d + "ca.crt"), timeout=5).status)
"""
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader"}}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["caller"]}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": "default"}
    root = "apis/rbac.authorization.k8s.io/v1/namespaces/default"
    await cluster.call("POST", f"{root}/roles", {**rbac, "kind": "Role", "rules": [rule]})
    binding = {**rbac, "kind": "RoleBinding", "roleRef": reference, "subjects": [account]}
    await cluster.call("POST", f"{root}/rolebindings", binding)
    await cluster.create(pod("caller", "sleep", "1000"))
    await cluster.until_ready("caller")
    assert await cluster.run_in("caller", "python", "-c", program) == "200\n200"
    await cluster.delete("Pod", "caller")
    await cluster.until_gone("caller")


async def test_pods_of_a_stateful_set_have_names_in_dns_and_keep_their_claims(cluster: Cluster) -> None:
    claims = [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {}}}]
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    stateful = workload(
        "StatefulSet", "db", 2, "sleep", "1000", container=mount, serviceName="db", volumeClaimTemplates=claims
    )
    await cluster.create(service("db", 80, 8080, clusterIP="None"), stateful)
    pods = {object_fields.name(each): each["status"]["podIP"] for each in await cluster.until_ready("db", 2)}
    look_up = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"

    async def named() -> bool:
        return await cluster.run_in("db-0", "python", "-c", look_up, "db-1.db") == pods["db-1"]

    await eventually(named, within=WITHIN, what="db-1 has a name")
    await cluster.run_in("db-1", "sh", "-c", "echo kept > /data/file")
    first = object_fields.uid(await cluster.get("Pod", "db-1"))
    await cluster.delete("Pod", "db-1")

    async def replaced() -> bool:
        found = [each for each in await cluster.pods("db") if object_fields.name(each) == "db-1"]
        return any(object_fields.uid(each) != first and object_fields.is_pod_ready(each) for each in found)

    await eventually(replaced, within=WITHIN, what="db-1 is there again")
    assert await cluster.run_in("db-1", "cat", "/data/file") == "kept"
    await cluster.delete("StatefulSet", "db")
    await cluster.delete("Service", "db")
    await cluster.until_gone("db")
    path = "api/v1/namespaces/default/persistentvolumeclaims"
    claimed = {object_fields.name(each): each["status"]["phase"] for each in (await cluster.call("GET", path))["items"]}
    assert claimed == {"data-db-0": "Bound", "data-db-1": "Bound"}
    await cluster.call("DELETE", path)

    async def emptied() -> bool:
        left = (await cluster.call("GET", path))["items"]
        return not left and not any((cluster.state_dir / "claims" / "default").iterdir())

    await eventually(emptied, within=WITHIN, what="the claims' files go with them")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_kubectl_sees_a_rollout_through(cluster: Cluster) -> None:
    await cluster.create(web("rolled"))
    cluster.kubectl("rollout", "status", "deployment/rolled", "--timeout=15s")
    cluster.kubectl("set", "env", "deployment/rolled", "COLOR=green")
    cluster.kubectl("rollout", "status", "deployment/rolled", "--timeout=15s")
    cluster.kubectl("wait", "--for=condition=Available", "deployment/rolled", "--timeout=15s")
    pods = [each for each in await cluster.pods("rolled") if not object_fields.is_terminating(each)]
    assert all(each["spec"]["containers"][0]["env"] == [{"name": "COLOR", "value": "green"}] for each in pods)
    assert "Started container main" in cluster.kubectl("describe", "pod", object_fields.name(pods[0]))
    assert "Serving HTTP" in cluster.kubectl("logs", "deployment/rolled")
    stamped = cluster.kubectl("logs", "deployment/rolled", "--timestamps", "--tail=1", "--since=1h")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S", stamped)
    assert cluster.kubectl("logs", "deployment/rolled", "--since-time=2999-01-01T00:00:00Z") == ""
    cluster.kubectl("delete", "deployment/rolled", "--cascade=foreground", "--timeout=15s")
    await cluster.until_gone("rolled")
