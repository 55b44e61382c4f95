"""A highly available mesh with the bookstore on it, its traffic, and how a change is seen to arrive.

Whether a change has arrived is asked of the Envoys themselves (`watcher`), not of the control plane that is being
broken. The traffic is the demo's: purchases that pass four sidecars, each on connections of its own; visits on one
connection; a conversation over TCP that lasts as long as the suite; and a thief, which policy must stop all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cli.embedded import lifecycle
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, connect
from cli.kubernetes.manifest_files import Manifest, read_manifests
from shared.errors import MeshlogError
from shared.eventlog.jetstream.nats_connection import LogAccess, NatsConnection
from shared.eventlog.jetstream.stream_api import call
from shared.eventlog.protocol import LogUnavailableError
from shared.records.subjects import Streams
from shared.service.lease import Tenure
from shared.streams.jetstream import JetStreamLogs
from tests.faults.audit import Verdict, audit
from tests.faults.machine import Machine
from tests.waiting import eventually

MANIFESTS = Path(__file__).parents[2] / "deploy" / "demo" / "manifests"
WATCHER = str(Path(__file__).with_name("watcher.py"))
STORE = "http://bookstore.bookstore.svc.cluster.local:14001"
LOAD = ("python", "-m", "deploy.demo.apps.load")
CONVERSATION = str(Path(__file__).with_name("conversation.py"))
DATABASE = ("database.database.svc.cluster.local", "5432")
SYSTEM = "meshlog-system"
FOR_EVER = 1e6
SIDECARS = (
    ("bookbuyer", "bookbuyer"),
    ("bookthief", "bookthief"),
    ("bookstore", "bookstore-v1"),
    ("bookstore", "bookstore-v2"),
    ("bookwarehouse", "bookwarehouse"),
    ("database", "database"),
)
CERTIFICATES = "300s"
"""Lifetime of a certificate: renewals go on through the rows. They begin at two thirds of it, so outages that follow
each other for 100 s make none expire; with 120 s three partitions of the log in a row did."""


class Proxy:
    """One sidecar, by the reports of its Envoy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.history: list[dict[str, Any]] = []
        self.backwards: list[str] = []
        """Versions that went back; there must be none."""

    @property
    def lds(self) -> int:
        """Version of the newest listeners."""
        return int(self.history[-1]["lds"]) if self.history else 0

    @property
    def rejected(self) -> int:
        """Updates that it refused so far."""
        return int(self.history[-1]["rejected"]) if self.history else 0

    def take(self, found: dict[str, Any]) -> None:
        """A look at it."""
        if found["lds"] < self.lds:
            self.backwards.append(f"{self.name}: {self.lds} → {found['lds']}")
        self.history.append(found)

    def passed(self, version: int) -> float | None:
        """When its listeners went beyond the version; none: not yet."""
        return next((float(one["at"]) for one in self.history if one["lds"] > version), None)


class Change(msgspec.Struct, frozen=True):
    """A change that concerns every proxy."""

    at: float
    """When the API had taken it; steady clock."""
    before: dict[str, int]
    """Version of each proxy's listeners before."""


class Traffic(msgspec.Struct):
    """What the clients saw."""

    requests: int = 0
    failed: int = 0
    granted: int = 0
    """Calls of the thief that passed, although no policy allows them."""
    longest_ms: float = 0.0
    failures: list[str] = []


class Scene:
    """The mesh in the hands of the suite."""

    def __init__(self, state: Path, api: Api) -> None:
        self.state = state
        self.api = api
        self.machine = Machine(state)
        self.proxies = [Proxy(name) for _, name in SIDECARS]
        self.end = 0
        self.certificates = CERTIFICATES
        """Lifetime of new certificates, in the form of MeshConfig; from the next change on."""
        self._egress = False
        self._news = asyncio.Event()
        self._pods: dict[str, str] = {}
        self._ends: list[str] = []

    # Pods

    async def pod(self, namespace: str, app: str) -> str:
        """The name of the one pod with this label."""
        if app not in self._pods:
            path = f"/api/v1/namespaces/{namespace}/pods"
            listing = await self.api.get(path, params={"labelSelector": f"app={app}"})
            self._pods[app] = listing["items"][0]["metadata"]["name"]
        return self._pods[app]

    async def start(self, who: tuple[str, str], argv: Sequence[str], *, container: str = "") -> PodCommand:
        """Start a command in a container of a pod (its first)."""
        return await PodCommand.start(self.state, who[0], await self.pod(*who), argv, container=container)

    async def all_ready(self) -> bool:
        """Whether every pod of the control plane is ready, and no other is on its way."""
        listing = await self.api.get(f"/api/v1/namespaces/{SYSTEM}/pods")
        return all(
            not pod["metadata"].get("deletionTimestamp")
            and all(one.get("ready") for one in pod["status"].get("containerStatuses", [{}]))
            for pod in listing["items"]
        )

    async def recovered(self, *, within: float = 90.0) -> None:
        """Wait until every pod of the control plane is ready and every proxy has a stream."""
        await eventually(self.all_ready, within=within, what="the control plane is ready")
        for proxy in self.proxies:
            await eventually(
                lambda proxy=proxy: proxy.history and proxy.history[-1]["connected"],
                within=within,
                what=f"{proxy.name} is connected",
            )

    # The log

    @contextlib.asynccontextmanager
    async def log(self) -> AsyncGenerator[JetStreamLogs]:
        """A connection of its own: an old one may lead to a server that is cut off."""
        logs = JetStreamLogs.connect(self._access(), Streams())
        try:
            yield logs
        finally:
            await logs.close()

    async def leader(self, service: str) -> str:
        """The pod that holds the lease of `ingestor` or `compiler`."""
        streams = Streams()

        async def look() -> str:
            record = None
            with contextlib.suppress(LogUnavailableError):
                async with self.log() as logs:
                    record = await logs.existing(streams.leases).last(self._lease(service))
            tenure = msgspec.json.decode(record.payload, type=Tenure) if record else None
            return tenure.instance if tenure and tenure.ttl else ""

        return await eventually(look, within=30, what=f"a {service} leads")

    async def stream_leader(self) -> str:
        """The NATS server that leads the stream of events."""

        async def look() -> str:
            connection = NatsConnection(self._access())
            connection.open()
            try:
                session = await connection.session(within=2)
                answer = await call(session, Streams().events, f"STREAM.INFO.{Streams().events}")
                return str(answer["cluster"].get("leader", ""))
            except LogUnavailableError:
                return ""
            finally:
                await connection.close()

        return await eventually(look, within=30, what="the events have a leader")

    async def audit(self) -> Verdict:
        """The log against the cluster; waits for what is on its way."""
        found: Verdict | None = None

        async def look() -> bool:
            nonlocal found
            with contextlib.suppress(LogUnavailableError):
                async with self.log() as logs:
                    found = await audit(self.api, logs, SYSTEM)
            return found is not None and not found.lost

        with contextlib.suppress(AssertionError):  # then the result shows what is missing
            await eventually(look, within=20, what="the log holds what the cluster holds")
        assert found is not None, "the log cannot be read"
        return found

    def _access(self) -> LogAccess:
        return lifecycle.log_access(lifecycle.running(), name="faults")

    def _lease(self, service: str) -> str:
        return Streams().lease_subject(service if service == "compiler" else f"ingestor-{lifecycle.CLUSTER}")

    def led_since(self, service: str, moment: float) -> float | None:
        """Seconds from `moment` (Unix time) until a replica of the service logged that it leads; None if none did."""
        moments: list[float] = []
        for file in (self.state / "logs").rglob("*.log"):
            if f"meshlog-{service}-" in str(file):
                lines = file.read_text("utf-8", "replace").splitlines()
                moments += [_moment(line) for line in lines if '"leading","lease"' in line]
        later = [one - moment for one in moments if one >= moment]
        return min(later, default=None)

    # Changes

    async def change(self) -> Change:
        """Make a change that concerns every proxy: the mesh's word on destinations outside."""
        before = {proxy.name: proxy.lds for proxy in self.proxies}
        self._egress = not self._egress
        await self.api.apply(_config(egress=self._egress, certificates=self.certificates))
        return Change(at=time.monotonic(), before=before)

    async def arrived(self, change: Change, *, within: float) -> float | None:
        """Seconds from `change.at` to its arrival at the last proxy; none: not `within` seconds from now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    self._news.clear()
                    moments = [proxy.passed(change.before[proxy.name]) for proxy in self.proxies]
                    known = [moment for moment in moments if moment is not None]
                    if len(known) == len(moments):
                        return max(0.0, max(known) - change.at)
                    await self._news.wait()
        return None

    def missing(self, change: Change) -> list[str]:
        """Proxies that do not have it yet."""
        return [proxy.name for proxy in self.proxies if proxy.passed(change.before[proxy.name]) is None]

    def broken(self) -> list[str]:
        """What should have lasted and did not: watchers, and the conversation over TCP."""
        found, self._ends = self._ends, []
        return found

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Every sidecar is followed, and the conversation goes on."""
        held = await self.start(SIDECARS[4], [sys.executable, "-S", CONVERSATION, *DATABASE])
        watchers = [await self.start(who, [sys.executable, "-S", WATCHER]) for who in SIDECARS]
        following = [
            asyncio.create_task(self._watch(command, it)) for command, it in zip(watchers, self.proxies, strict=True)
        ]
        try:
            await eventually(self.works, within=60, what="the bookstore sells")
            await held.line(within=20)
            following.append(asyncio.create_task(self._hold(held)))
            yield
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            for command in (*watchers, held):
                await command.end_input(within=20)

    async def _hold(self, command: PodCommand) -> None:
        self._ends.append(f"the conversation over TCP ended: {await command.line(within=FOR_EVER)}")

    async def _watch(self, command: PodCommand, proxy: Proxy) -> None:
        while True:
            proxy.take(json.loads(await command.line(within=FOR_EVER)))
            self._news.set()

    # Traffic

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncGenerator[Traffic]:
        """Calls all the while; the counts are there when it ends."""
        found = Traffic()
        buyer, thief = SIDECARS[0], SIDECARS[1]
        buying = await self.start(buyer, [*LOAD, f"{STORE}/buy-a-book", "--rate", "15", "--timeout", "15"])
        visits = [f"{STORE}/books-bought", "--rate", "20", "--reuse", "--timeout", "15"]
        looking = await self.start(buyer, [*LOAD, *visits])
        stealing = await self.start(thief, [*LOAD, f"{STORE}/buy-a-book", "--rate", "5", "--timeout", "15"])
        for command in (buying, looking, stealing):
            await command.line(within=20)
        try:
            yield found
        finally:
            for command in (buying, looking):
                said = json.loads((await command.end_input(within=40)).splitlines()[-1])
                found.requests += said["requests"]
                found.failed += said["requests"] - said["ok"]
                found.longest_ms = max(found.longest_ms, said["longest_ms"])
                found.failures += said["failures"]
            said = json.loads((await stealing.end_input(within=40)).splitlines()[-1])
            found.granted = said["ok"]
            assert said["requests"], "the thief did nothing"

    async def works(self) -> bool:
        """Whether the bookstore sells."""
        with contextlib.suppress(MeshlogError):
            command = await self.start(SIDECARS[0], [*LOAD, f"{STORE}/buy-a-book", "--requests", "5"])
            return bool(json.loads((await command.finish(within=60)).splitlines()[-1])["ok"] == 5)
        return False


def _moment(line: str) -> float:
    from datetime import datetime

    said: dict[str, Any] = json.loads(line)
    return datetime.fromisoformat(said["time"]).timestamp()


def _config(*, egress: bool, certificates: str = CERTIFICATES) -> Manifest:
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": SYSTEM},
        "spec": {
            "traffic": {"enableEgress": egress, "enablePermissiveTrafficPolicyMode": False},
            "certificate": {"serviceCertValidityDuration": certificates},
        },
    }


S = TypeVar("S", bound=Scene)


@contextlib.asynccontextmanager
async def opened(make: Callable[[Path, Api], S]) -> AsyncGenerator[S]:
    """The running mesh, with the bookstore brought up on it, as the scene that `make` makes."""
    state = lifecycle.state_directory()
    # Each command in a pod holds a thread for as long as it runs.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
    async with connect(kubeconfig.read(state / lifecycle.KUBECONFIG)) as api:
        scene = make(state, api)
        await api.apply(_config(egress=False))
        for file in ("10-workloads", "20-access", "30-database", "40-split"):
            for manifest in read_manifests(MANIFESTS / f"{file}.yaml"):
                await api.apply(manifest)
        for namespace, name in SIDECARS:
            await api.wait(
                f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
                lambda one: one.get("status", {}).get("availableReplicas", 0) >= one["spec"]["replicas"],
                within=90,
                what=f"{name} is available",
            )
        async with scene.watched():
            await scene.recovered()
            yield scene
