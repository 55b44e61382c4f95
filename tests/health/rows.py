"""The rows of the matrix: how each finding is provoked, and how it is ended again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import msgspec

from shared.errors import MeshlogError
from tests.health.scene import Scene

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
metadata: {{name: anybody, namespace: matrix}}
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


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    what: str
    provoke: Provoke
    checks: tuple[str, ...]
    """Checks that must find it."""
    others: tuple[str, ...] = ()
    """Services of a check that have nothing to say of it here."""
    condition: tuple[str, str, str, str] | None = None
    """Path of an object, and type, status and reason of its condition."""


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

    async def undo() -> None:
        os.kill(envoy, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            walk.terminate()
        await walk.wait()
        code, said = await scene.command("certificate", "rotate", "--back", within=60)
        assert code == 0, said

    return undo


ROWS: tuple[Row, ...] = (
    Row(
        name="no-compiler",
        what="no compiler runs",
        provoke=scaled("compiler"),
        checks=("replicas", "leader"),
        others=("ingestor",),
    ),
    Row(
        name="no-ingestor",
        what="no ingestor runs",
        provoke=scaled("ingestor"),
        checks=("replicas", "leader"),
        others=("compiler",),
    ),
    Row(name="no-ca", what="no CA runs", provoke=scaled("ca"), checks=("replicas",)),
    Row(name="no-edge", what="0 of 0 edges", provoke=scaled("xds-edge"), checks=("replicas", "gone")),
    Row(name="unwritable", what="the leases cannot be renewed", provoke=no_room_for_leases, checks=("leader",)),
    Row(name="full", what="the events cannot be written", provoke=no_room_for_events, checks=("working",)),
    Row(name="frozen-log", what="the log does not answer", provoke=frozen("nats"), checks=("log",)),
    Row(
        name="pin",
        what="the mesh is pinned",
        provoke=pinned,
        checks=("pin",),
        condition=(
            "/apis/specs.smi-spec.io/v1alpha4/namespaces/matrix/httproutegroups/all",
            "Pinned",
            "True",
            "HeldBack",
        ),
    ),
    Row(
        name="left-out",
        what="an object is left out",
        provoke=left_out,
        checks=("left-out",),
        condition=("/apis/split.smi-spec.io/v1alpha2/namespaces/matrix/trafficsplits/canary", "Accepted", "False", ""),
    ),
    Row(name="never-connected", what="a proxy never connects", provoke=never_connects, checks=("never-connected",)),
    Row(name="refusing", what="a proxy refuses what it is sent", provoke=refusing, checks=("refusing",)),
    Row(name="behind", what="an Envoy does not answer", provoke=behind, checks=("behind",)),
    Row(name="rotation", what="a rotation waits for a proxy", provoke=rotating, checks=("rotation",)),
    Row(name="bare", what="a pod without a sidecar", provoke=bare, checks=("sidecars",)),
)
