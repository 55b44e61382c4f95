"""How each finding of the matrix is provoked, and how it is ended again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable

from cli.embedded import lifecycle
from shared.errors import MeshlogError
from tests.health.scene import Scene
from tests.waiting import eventually

EDGE = "meshlog-xds-edge.meshlog-system.svc.cluster.local:15128"
Undo = Callable[[], Awaitable[None]]
Provoke = Callable[[Scene], Awaitable[Undo]]

GROUP = """
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: all, namespace: matrix}}
spec: {{matches: [{{name: all, pathRegex: "/{path}", methods: ["*"]}}]}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: all, namespace: matrix}}
spec:
  destination: {{kind: ServiceAccount, name: default, namespace: matrix}}
  sources: [{{kind: ServiceAccount, name: default, namespace: matrix}}]
  rules: [{{kind: HTTPRouteGroup, name: all}}]
"""
SPLIT = """
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: canary, namespace: matrix}
spec: {service: web, backends: [{service: nowhere, weight: 1}]}
"""
PROXYLESS = """
apiVersion: v1
kind: Pod
metadata:
  name: silent
  namespace: matrix
  annotations: {meshlog.io/proxyless: "true", openservicemesh.io/sidecar-injection: disabled}
spec: {containers: [{name: main, image: any, command: [sleep, infinity]}]}
"""
REFUSER = """
apiVersion: v1
kind: Pod
metadata:
  name: refuser
  namespace: matrix
  annotations: {meshlog.io/proxyless: "true", openservicemesh.io/sidecar-injection: disabled}
spec:
  containers:
    - name: main
      image: any
      command: [sleep, infinity]
      volumeMounts:
        - {name: token, mountPath: /var/run/secrets/meshlog, readOnly: true}
        - {name: roots, mountPath: /var/run/secrets/meshlog-trust, readOnly: true}
  volumes:
    - name: token
      projected:
        sources: [{serviceAccountToken: {audience: meshlog, expirationSeconds: 3600, path: token}}]
    - {name: roots, configMap: {name: meshlog-trust-bundle}}
"""
BARE = """
apiVersion: v1
kind: Namespace
metadata: {name: matrix-late}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: matrix-late}
spec: {containers: [{name: main, image: any, command: [sleep, infinity]}]}
"""


NEWCOMER = """
apiVersion: v1
kind: Pod
metadata: {name: newcomer, namespace: matrix, labels: {app: newcomer}}
spec:
  containers: [{name: main, image: any, command: [sleep, infinity], ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: newcomer, namespace: matrix}
spec: {selector: {app: newcomer}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
"""
VAULT = """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshRootCertificate
metadata: {name: elsewhere, namespace: meshlog-system}
spec:
  role: passive
  trustDomain: cluster.local
  provider:
    vault: {host: 127.0.0.1, port: 9, protocol: https, role: mesh, token: {secretKeyRef: {name: absent, key: token}}}
"""
OLD = """
apiVersion: v1
kind: Pod
metadata:
  name: old
  namespace: matrix
  annotations: {openservicemesh.io/sidecar-injection: disabled}
spec:
  containers:
    - {name: envoy, image: any, command: [sh, -c, sleep infinity], args: ['{"match":{"prefix":"/meshlog/liveness"}}']}
"""
MESH_CONFIG = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshconfigs/osm-mesh-config"
ROOTS = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshrootcertificates"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/meshlog-webhook-meshlog"


def scaled(service: str) -> Provoke:
    """No replica of a service, later as many as there were."""

    async def provoke(scene: Scene) -> Undo:
        before = await scene.scale(f"meshlog-{service}", 0)

        async def undo() -> None:
            await scene.scale(f"meshlog-{service}", before)

        return undo

    return provoke


def frozen(service: str) -> Provoke:
    """SIGSTOP, later SIGCONT."""

    async def provoke(scene: Scene) -> Undo:
        processes = scene.machine.processes(service)
        assert processes, service
        for each in processes:
            os.kill(each, signal.SIGSTOP)

        async def undo() -> None:
            for each in processes:
                with contextlib.suppress(ProcessLookupError):  # its liveness probe was quicker
                    os.kill(each, signal.SIGCONT)

        return undo

    return provoke


async def no_room_for_leases(scene: Scene) -> Undo:
    """The stream of leases takes no more, as on a full disk."""
    await scene.limit("MESH_LEASES", 1, of="max_msg_size")
    return lambda: scene.limit("MESH_LEASES", -1, of="max_msg_size")


async def no_room_for_commits(scene: Scene) -> Undo:
    """The stream of commits takes no more, and there is something to publish."""
    await scene.limit("MESH_SNAPSHOTS", 1, owner="compiler")
    made = await scene.apply(GROUP.format(path="unpublished"))

    async def undo() -> None:
        await scene.limit("MESH_SNAPSHOTS", -1, owner="compiler")
        await scene.delete(made)

    return undo


async def no_room_for_answers(scene: Scene) -> Undo:
    """The stream of certificates takes no more, and a sidecar asks for one."""
    await scene.limit("MESH_CERTS", 1, of="max_msg_size", owner="ca")
    made = await scene.apply(NEWCOMER)
    await eventually(scene.asked, within=30, what="a sidecar asks for a certificate")

    async def undo() -> None:
        await scene.limit("MESH_CERTS", -1, of="max_msg_size", owner="ca")
        await scene.delete(made)

    return undo


async def unsigned(scene: Scene) -> Undo:
    """No CA runs, and a sidecar asks for a certificate."""
    await scene.scale("meshlog-ca", 0)
    await eventually(lambda: not scene.machine.pods("ca"), within=30, what="the CA has ended")
    made = await scene.apply(NEWCOMER)
    await eventually(scene.asked, within=30, what="a sidecar asks for a certificate")

    async def undo() -> None:
        await scene.scale("meshlog-ca", 1)
        await scene.delete(made)

    return undo


async def ended(scene: Scene) -> Undo:
    """The certificate of a sidecar has ended, and no CA gave it another."""
    before = await scene.api.get(MESH_CONFIG)
    spec = {"certificate": {**before["spec"].get("certificate", {}), "serviceCertValidityDuration": "10s"}}
    await scene.patch(MESH_CONFIG, {"spec": spec})

    async def heard() -> bool:
        one = await scene.api.get(MESH_CONFIG)
        seen = [each.get("observedGeneration") for each in one["status"]["conditions"]]
        assert set(seen) == {one["metadata"]["generation"]}, seen
        return True

    await eventually(heard, within=30, what="the MeshConfig is in the log")
    made = await scene.apply(NEWCOMER)

    async def until() -> float:
        _, said = await scene.command("status", "-o", "json")
        (one,) = [each for each in json.loads(said)["proxies"] if each["proxy"] == "matrix/newcomer"]
        assert one["certificateUntil"]
        return float(one["certificateUntil"])

    await eventually(until, within=30, what="the newcomer has a certificate")
    await scene.scale("meshlog-ca", 0)

    async def over() -> bool:
        return await until() < time.time()

    await eventually(over, within=30, what="the newcomer's certificate has ended")

    async def undo() -> None:
        await scene.scale("meshlog-ca", 1)
        await scene.patch(MESH_CONFIG, {"spec": {"certificate": before["spec"].get("certificate")}})
        await scene.delete(made)

    return undo


async def api_away(scene: Scene) -> Undo:
    """Neither pods nor commands reach the Kubernetes API."""
    await scene.machine.on_node("refuse", "6443")
    file = scene.state / lifecycle.KUBECONFIG
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"server: \S+", "server: https://127.0.0.1:9", text), encoding="utf-8")

    async def undo() -> None:
        file.write_text(text, encoding="utf-8")
        await scene.machine.on_node("heal")

    return undo


def removed(path: str) -> Provoke:
    """An object is deleted; later it is applied again."""

    async def provoke(scene: Scene) -> Undo:
        found = await scene.api.get(path)
        manifest = {key: value for key, value in found.items() if key != "status"}
        kept = ("name", "namespace", "labels", "annotations")
        manifest["metadata"] = {key: value for key, value in found["metadata"].items() if key in kept}
        await scene.delete([manifest])

        async def undo() -> None:
            await scene.apply_all([manifest])

        return undo

    return provoke


async def no_bundle(scene: Scene) -> Undo:
    """The CA may not write the trust bundle any more, and that of the control plane is deleted."""
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/meshlog-ca-meshlog"
    rules = (await scene.api.get(path))["rules"]
    await scene.patch(path, {"rules": [one for one in rules if "configmaps" not in one["resources"]]})
    # It writes when it starts, when members change, and every five minutes.
    scene.machine.signal(scene.machine.pods("ca"), signal.SIGKILL)

    async def unwritten() -> bool:
        ready, _ = await scene.peek()
        assert "trust-bundle" in ready["ca"]
        return True

    await eventually(unwritten, within=30, what="the CA knows that it may not write")
    await removed("/api/v1/namespaces/meshlog-system/configmaps/meshlog-trust-bundle")(scene)

    async def undo() -> None:
        await scene.patch(path, {"rules": rules})

    return undo


async def broken_root(scene: Scene) -> Undo:
    """A root whose provider does not answer."""
    made = await scene.apply(VAULT)
    return lambda: scene.delete(made)


async def open_probes(scene: Scene) -> Undo:
    """A pod with the bootstrap of an older build."""
    made = await scene.apply(OLD)
    return lambda: scene.delete(made)


async def no_room_for_events(scene: Scene) -> Undo:
    """The stream of events takes no more, and there is something to write."""
    await scene.limit("MESH_EVENTS", 1)
    made = await scene.apply(GROUP.format(path="full"))

    async def undo() -> None:
        await scene.limit("MESH_EVENTS", -1)
        await scene.delete(made)

    return undo


async def pinned(scene: Scene) -> Undo:
    """The mesh is pinned to a version that lacks the newest policy."""
    made = await scene.apply(GROUP.format(path="newest"))
    code, said = await scene.command("apply", "-f", str(_written(scene, GROUP.format(path="newer"))), "--wait")
    assert code == 0, said
    code, said = await scene.command("rollback", "HEAD~1")
    assert code == 0, said

    async def undo() -> None:
        await scene.command("unpin")
        await scene.delete(made)

    return undo


def _written(scene: Scene, text: str) -> object:
    file = scene.state / "matrix.yaml"
    file.write_text(text, encoding="utf-8")
    return file


async def left_out(scene: Scene) -> Undo:
    """A split with a backend that is not there."""
    made = await scene.apply(SPLIT)
    return lambda: scene.delete(made)


async def never_connects(scene: Scene) -> Undo:
    """A proxyless workload that never comes."""
    made = await scene.apply(PROXYLESS)
    return lambda: scene.delete(made)


async def refusing(scene: Scene) -> Undo:
    """A client of the edges that refuses what it is sent."""
    made = await scene.apply(f"{GROUP.format(path='refused')}---{REFUSER}")
    running = await scene.start("refuser", ("python", "-P", "-m", "tests.health.refuser", EDGE))
    assert await running.line(within=30) == "refused"

    async def undo() -> None:
        await scene.delete(made)
        with contextlib.suppress(MeshlogError):  # it ends with its pod
            await running.finish(within=30)

    return undo


async def bare(scene: Scene) -> Undo:
    """A pod that is older than its namespace's membership."""
    made = await scene.apply(BARE)
    code, said = await scene.command("namespace", "add", "matrix-late")
    assert code == 0, said
    return lambda: scene.delete(made)


async def behind(scene: Scene) -> Undo:
    """A frozen Envoy, and a change that concerns it."""
    envoy = scene.sidecar()
    os.kill(envoy, signal.SIGSTOP)
    made = await scene.apply(GROUP.format(path="behind"))

    async def undo() -> None:
        os.kill(envoy, signal.SIGCONT)
        await scene.delete(made)

    return undo


async def rotating(scene: Scene) -> Undo:
    """A rotation of the root that waits for a frozen Envoy."""
    envoy = scene.sidecar()
    os.kill(envoy, signal.SIGSTOP)
    walk = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli", "certificate", "rotate"), stdout=asyncio.subprocess.DEVNULL
    )

    async def begun() -> bool:
        return len((await scene.api.get(ROOTS))["items"]) > 1

    await eventually(begun, within=30, what="the rotation is asked for")

    async def undo() -> None:
        os.kill(envoy, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            walk.terminate()
        await walk.wait()
        code, said = await scene.command("certificate", "rotate", "--back", within=60)
        assert code == 0, said

    return undo
