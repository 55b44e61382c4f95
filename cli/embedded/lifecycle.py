"""The embedded mesh of this machine: its directory, its start, and connections to it while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cli.embedded import log_credentials
from cli.kubernetes.api_client import Api
from deploy.devcluster.launch import mesh_process as launch
from deploy.devcluster.object_fields import API_SERVER, ROOT_CA
from deploy.devcluster.settings import KEPT as KEPT_DIRECTORY
from deploy.devcluster.settings import LOG_DATA
from deploy.install.control_plane import Profile, control_plane
from deploy.install.mesh_config import mesh_config
from deploy.install.profile import PRESETS
from shared.errors import BadInputError
from shared.eventlog.jetstream.event_log import JetStreamLog
from shared.eventlog.jetstream.nats_connection import LogAccess
from shared.eventlog.protocol import EventLogError
from shared.names import CA_SECRET, NATS_PORT
from shared.records.subjects import Streams
from shared.service.interpreter import module
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import specs

STATE_VARIABLE = "MESHLOG_STATE"
KUBECONFIG = "kubeconfig"
LOG = LOG_DATA
"""Directory of the log's files."""
MANIFESTS = "control-plane.yaml"
"""The manifests of the control plane, beside the kubeconfig."""
KEPT = ("secrets", "meshrootcertificates.config.openservicemesh.io")
"""Resources of the mesh's namespace that the log cannot restore: the CA's keys, and the desired roots."""
CLUSTER = "devcluster"
PROXY_MARK = 1337
SETTLE_SECONDS = 2
"""The devcluster's kubelet refreshes a mounted trust bundle at once."""
READY_WITHIN = 60.0
"""Seconds for the control plane to become available."""
_LOOK = 0.1
"""Seconds between attempts to find a stream that does not exist yet."""


def state_directory() -> Path:
    """The directory of the embedded mesh's files: `$MESHLOG_STATE`, else one below the user's state directory."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "meshlog"


def running() -> dict[str, Any]:
    """The status of the running mesh; raises `BadInputError` if there is none."""
    found = launch.status(state_directory())
    if not found["running"]:
        raise BadInputError("mesh/none", "no mesh of yours runs here; `meshlog up` starts one")
    return found


def profile(state: Path, *, edges: int = 0, ha: bool = False) -> Profile:
    """The profile of the embedded control plane; `ha`: as many replicas as the chart's preset `ha`."""
    if not ha:
        return Profile(
            cluster=CLUSTER,
            edges=edges or 2,
            proxy_mark=PROXY_MARK,
            webhook_client_ca=ROOT_CA,
            webhook_client_name=API_SERVER,
            nats_data=str(state / LOG),
            nats_secured=True,
            distribution_settle=SETTLE_SECONDS,
        )
    preset = PRESETS["ha"]
    return Profile(
        cluster=CLUSTER,
        ingestors=preset.ingestors,
        compilers=preset.compilers,
        cas=preset.cas,
        edges=edges or preset.edges,
        injectors=preset.injectors,
        nats_nodes=preset.nats_nodes,
        durable=preset.durable,
        nats_secured=preset.nats_secured,
        nats_size=preset.nats_size,
        proxy_mark=PROXY_MARK,
        webhook_client_ca=ROOT_CA,
        webhook_client_name=API_SERVER,
        distribution_settle=SETTLE_SECONDS,
    )


def start(
    *,
    api_port: int,
    nats_port: int,
    detached: bool,
    progress: Callable[[str], None],
    edges: int = 0,
    ha: bool = False,
) -> launch.LaunchedMesh:
    """Start the devcluster and hand it the control plane's objects; returns when its API is ready.

    Raises `BadInputError` for causes that the user can remove: a port in use, a second mesh, an unsuitable kernel.
    """
    state = state_directory()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    manifests = state / MANIFESTS
    chosen = profile(state, edges=edges, ha=ha)
    home, *parts = control_plane(chosen)
    # Before the webhooks, whose server does not run yet.
    objects = [home, mesh_config(chosen, permissive=False), *parts]
    rendered = yaml.dump_all(objects, Dumper=yaml.CSafeDumper, sort_keys=False)
    argv = module("deploy.devcluster", "--manifest", str(manifests))
    argv += [f"--keep={each}/{chosen.namespace}" for each in KEPT]
    argv += ["--publish", f"nats={chosen.namespace}/nats:{NATS_PORT}"]
    _refuse_second(state)
    if (state / LOG).exists() and not (
        state / KEPT_DIRECTORY / "secrets" / chosen.namespace / f"{CA_SECRET}.json"
    ).exists():
        progress("there is a log but no key of its CA: if it does not come up, `meshlog down --forget` begins anew")
    move_into_accounts(state / LOG)
    manifests.write_text(rendered)
    if (secrets := log_credentials.prepare(state, chosen)) is not None:
        argv += ["--manifest", str(secrets)]
    return launch.start(
        state,
        argv,
        listeners={"api": ("127.0.0.1", api_port), "nats": ("127.0.0.1", nats_port)},
        detached=detached,
        progress=progress,
    )


def move_into_accounts(directory: Path) -> None:
    """Move the streams of a log of an older build, which had no accounts, into their present accounts.

    Does nothing if there are none, or if no server has written there. A stream is a directory below that of its
    account, and does not name it.
    """
    root = directory / "jetstream"
    older = root / "$G" / "streams"
    if not older.is_dir():
        return
    for stream in specs(Streams()):
        home = root / stream / "streams"
        if (older / stream).is_dir() and not (home / stream).exists():
            home.mkdir(parents=True, exist_ok=True)
            (older / stream).rename(home / stream)


def _refuse_second(state: Path) -> None:
    found = launch.status(state)
    if found["running"]:
        raise BadInputError(
            "up/running", f"a mesh runs already (pid {found['pid']}); `meshlog down` ends it", about=str(state)
        )


async def control_plane_available(api: Api, progress: Callable[[str], None]) -> None:
    """Wait until the whole control plane is available; raises `ApiRefusedError` if a part is not in time."""
    chosen = Profile()
    text = (state_directory() / MANIFESTS).read_text(encoding="utf-8")
    for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            name = manifest["metadata"]["name"]
            progress(f"waiting for {name}")
            await api.wait(
                f"/apis/apps/v1/namespaces/{chosen.namespace}/{manifest['kind'].lower()}s/{name}",
                lambda one: one.get("status", {}).get("availableReplicas", 0) >= one["spec"]["replicas"],
                within=READY_WITHIN,
                what=f"{name} is not available; `meshlog logs {chosen.namespace}/{name}` says more",
            )


def log_access(found: dict[str, Any], *, name: str = "meshlog") -> LogAccess:
    """Access to the log of the running mesh (`running`); `name` is for the log's monitoring."""
    host, port = found["listeners"]["nats"]
    return log_credentials.access(state_directory(), (host, port), name=name)


async def existing(logs: JetStreamLogs, stream: str) -> JetStreamLog:
    """A stream as soon as it exists; the command creates none."""
    log = logs.existing(stream)
    while True:
        try:
            await log.bounds()
        except EventLogError:
            await asyncio.sleep(_LOOK)
        else:
            return log
