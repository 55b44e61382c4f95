"""Composition of the devcluster's process: API server, controllers and kubelet in one event loop.

One process keeps memory and latency low: a change in the API reaches the cache one turn of the event loop later. If one
component fails, the process ends, and the launcher with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from deploy.devcluster import host_operations, manifest_applier, manifest_files
from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.http.container_logs import LogSource, PodLogOptions
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.controllers import CACHED_RESOURCES, ControllerManager
from deploy.devcluster.host_socket import PublishedSocket
from deploy.devcluster.kubelet import Kubelet, NodeSettings, ServiceAccountToken, ServiceAccountTokens
from deploy.devcluster.kubelet.container.log_files import LogRange
from deploy.devcluster.launch.control import ControlServer
from deploy.devcluster.launch.handover import Handover
from deploy.devcluster.node import syscalls
from deploy.devcluster.node.bytecode import compile_ahead
from deploy.devcluster.node.machine import DNS_IP, LinuxRuntime
from deploy.devcluster.node.visible_files import search_path, shown
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.persisted_objects import ObjectPersistence
from deploy.devcluster.settings import (
    API_PORT,
    API_SERVICE,
    CLAIMS,
    DOMAIN,
    HALT_GRACE,
    KEPT,
    KUBECONFIG,
    NODE,
    SERVICE_NETWORK,
    Settings,
)
from shared.errors import BadInputError
from shared.io.atomic_file import write_atomically
from shared.names import MESH_NAMESPACE

_log = logging.getLogger(__name__)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _StoppedError(Exception):
    """SIGTERM or SIGINT was received."""


async def run(settings: Settings, inherited: Handover) -> None:
    """Run the cluster until SIGTERM. Raises `BadInputError` if a manifest cannot be applied."""
    objects = manifest_files.read(settings.manifests)
    definitions = manifest_files.read([manifest_applier.DEFINITIONS])
    for published in settings.published:
        if published.listener not in inherited.listeners:
            raise BadInputError("devcluster/settings", f"no socket called {published.listener} was handed over")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    inherited.progress("making the network")
    pods = inherited.state_dir / "pods"
    _keep_in_memory(pods)
    runtime = await LinuxRuntime.start(inherited.state_dir)
    api = ApiServer(
        sockets=[inherited.listeners["api"]],
        addresses=[(runtime.node_ip, API_PORT)],
        window=settings.watch_window,
        service_network=SERVICE_NETWORK,
        reserved_addresses=[DNS_IP],
    )
    cache = ObjectCache(api.cluster, CACHED_RESOURCES)
    controllers = ControllerManager(
        api.cluster,
        cache,
        runtime,
        service_network=SERVICE_NETWORK,
        domain=DOMAIN,
        ca_certificate=api.ca_pem,
        claims=inherited.state_dir / CLAIMS,
        kept_namespace=MESH_NAMESPACE,
    )
    kubelet = Kubelet(api.cluster, cache, runtime, _issuer(api), _node_settings(inherited.state_dir, pods))
    api.log_source = _log_source(kubelet)
    control = ControlServer(inherited.control)
    host_operations.register(control, kubelet)
    try:
        inherited.progress("starting the Kubernetes API")
        await api.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(_stop(stopping, kubelet))
            group.create_task(compile_ahead())
            group.create_task(cache.run())
            group.create_task(controllers.run())
            group.create_task(kubelet.run())
            group.create_task(control.serve())
            for each in settings.published:
                group.create_task(PublishedSocket(inherited.listeners[each.listener], cache, each).serve())
            await manifest_applier.create_basics(api.cluster, runtime.node_ip)
            await manifest_applier.apply(api.cluster, definitions)
            keepsakes = ObjectPersistence(api.cluster, inherited.state_dir / KEPT, settings.kept)
            restored = await keepsakes.restore()
            for one in settings.kept:
                group.create_task(keepsakes.run(one))
            await manifest_applier.apply(api.cluster, objects)
            host, port = inherited.listeners["api"].getsockname()[:2]
            path = inherited.state_dir / KUBECONFIG
            write_atomically(path, api.kubeconfig(f"https://{host}:{port}").encode())
            applied = len(definitions) + len(objects)
            _log.info("the cluster is ready: %d objects applied, %d of those kept", applied, restored)
            inherited.ready(kubeconfig=str(path), api=f"https://{host}:{port}")
    except* _StoppedError:
        _log.info("the cluster ends")
    finally:
        await api.stop()
        await runtime.close()


async def _stop(stopping: asyncio.Event, kubelet: Kubelet) -> None:
    await stopping.wait()
    await kubelet.close(HALT_GRACE)
    raise _StoppedError


def _keep_in_memory(directory: Path) -> None:
    """Mount a tmpfs for files of pods: it ends with the mount namespace, and no token is written to disk."""
    directory.mkdir(exist_ok=True, mode=0o700)
    syscalls.mount("tmpfs", str(directory), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")


def _issuer(api: ApiServer) -> ServiceAccountTokens:
    async def issue(pod: Obj, *, audience: str, expiration_seconds: int) -> ServiceAccountToken:
        issued = api.issue_token(
            pod["metadata"]["namespace"],
            pod["spec"].get("serviceAccountName") or "default",
            audiences=[audience] if audience else [],
            seconds=expiration_seconds,
            pod=pod["metadata"]["name"],
            pod_uid=pod["metadata"]["uid"],
        )
        return ServiceAccountToken(issued.token, issued.expires_at)

    return issue


def _log_source(kubelet: Kubelet) -> LogSource:
    def source(namespace: str, pod: str, options: PodLogOptions) -> AsyncGenerator[bytes]:
        return kubelet.log(
            namespace,
            pod,
            options.container,
            wanted=LogRange(
                tail=options.tail_lines,
                limit=options.limit_bytes,
                since=options.since,
                timestamps=options.timestamps,
            ),
            follow=options.follow,
            previous=options.previous,
        )

    return source


def _node_settings(state_dir: Path, pods: Path) -> NodeSettings:
    commands = str(Path(sys.executable).parent)
    found = search_path(shown(), os.environ.get("PATH", "")) or _PATH.split(":")
    return NodeSettings(
        name=NODE,
        state=state_dir,
        volumes=pods,
        logs=state_dir / "logs",
        claims=state_dir / CLAIMS,
        variables={
            "PATH": ":".join([commands, *found]),
            "HOME": "/tmp",  # noqa: S108 - every container has its own
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "KUBERNETES_SERVICE_HOST": API_SERVICE[0],
            "KUBERNETES_SERVICE_PORT": str(API_SERVICE[1]),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(API_SERVICE[1]),
        },
    )
