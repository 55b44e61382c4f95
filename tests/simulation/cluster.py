"""A small universe of Kubernetes objects that change at random, behind an API server that answers badly at random."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.projection import project
from services.ingestor.core.reflector import Failure
from services.ingestor.kubernetes.object_source import ListAnswer, SourceError
from shared.projected_objects import ServicePort
from shared.records.events import SCHEMA, Event
from tests.simulation.network import Link
from tests.unit.compiler import objects
from tests.unit.ingestor.objects import listing

KINDS = (
    WatchedKind("Namespace", "", "namespaces", "v1"),
    WatchedKind("Service", "", "services", "v1"),
    WatchedKind("EndpointSlice", "discovery.k8s.io", "endpointslices", "v1"),
    WatchedKind("Pod", "", "pods", "v1"),
    WatchedKind("TrafficTarget", "access.smi-spec.io", "traffictargets", "v1alpha3"),
    WatchedKind("HTTPRouteGroup", "specs.smi-spec.io", "httproutegroups", "v1alpha4"),
    WatchedKind("TrafficSplit", "split.smi-spec.io", "trafficsplits", "v1alpha4"),
)
API_VERSIONS = {
    "TrafficTarget": objects.ACCESS,
    "HTTPRouteGroup": objects.SPECS,
    "TrafficSplit": objects.SPLIT,
    "EndpointSlice": "discovery.k8s.io/v1",
}
NAMESPACES = ("red", "blue")
NAMES = ("one", "two")
PODS = ("p1", "p2", "p3")

LARGE = 0.05
"""Share of changes with which an object becomes too large for the log."""
MOST_BYTES = 2000
"""What is too large in a simulation."""

Key = tuple[str, str, str]


class Cluster:
    """The truth, and all that it ever was."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._sizes = random.Random(chance.getrandbits(32))  # noqa: S311 (repeatable on purpose)
        self.version = 100
        self.living: dict[Key, dict[str, Any]] = {}
        self.history: list[tuple[int, str, bytes]] = []
        self.states: dict[int, dict[Key, str]] = {100: {}}
        self.compacted = 0
        self.changed = asyncio.Event()
        self._incarnations = itertools.count(1)
        self.touched: list[Key] = []
        """Every object that was created, replaced or deleted, in order."""
        for namespace in NAMESPACES:
            self.apply(objects.namespace(namespace))
            self.apply(self._route_group(namespace))
            for number, name in enumerate(NAMES):
                self.apply(self._service(namespace, name))
                self.apply(self._pod(namespace, PODS[number], name))
                self.apply(self._slices(namespace, name))
                self.apply(self._target(namespace, name))

    def _service(self, namespace: str, name: str) -> Event:
        address = f"10.96.{NAMESPACES.index(namespace)}.{NAMES.index(name) + 1}"
        port = ServicePort(port=80, target_port=self._chance.choice((8080, 8081)))
        return objects.service(namespace, name, ip=address, ports=[port], selector={"app": name})

    def _pod(self, namespace: str, pod: str, account: str) -> Event:
        address = f"10.244.{NAMESPACES.index(namespace)}.{self._chance.randrange(1, 6)}"
        return objects.pod(namespace, pod, account=account, ip=address, labels={"app": account})

    def _route_group(self, namespace: str) -> Event:
        match = {"name": "get", "pathRegex": self._chance.choice(("/a", "/b")), "methods": ["GET"]}
        return objects.route_group(namespace, "one", match)

    def _target(self, namespace: str, name: str) -> Event:
        sources = [
            (self._chance.choice(NAMESPACES), self._chance.choice(NAMES)) for _ in range(self._chance.randrange(4))
        ]
        rules = [("HTTPRouteGroup", "one", ["get"])]
        return objects.target(namespace, name, destination=name, sources=sources, rules=rules)

    def _slices(self, namespace: str, name: str) -> Event:
        """Endpoints: the pods of a service that live, most of them at the address that they have by now."""
        chance, ready, uids = self._chance, dict[str, str](), dict[str, str]()
        for each in PODS:
            pod = self.living.get(("Pod", namespace, each))
            if pod is None or (pod["spec"]["serviceAccountName"] != name and chance.random() < 0.8):
                continue
            ready[each] = pod["status"]["podIP"] if chance.random() < 0.8 else f"10.244.9.{chance.randrange(1, 9)}"
            uids[each] = pod["metadata"]["uid"]
        event = objects.slices(namespace, name, ready, ports={"": 8080})
        assert event.object is not None
        value: dict[str, Any] = json.loads(bytes(event.object))
        for endpoint in value.get("endpoints", []):
            endpoint["targetRef"]["uid"] = uids[endpoint["targetRef"]["name"]]
        return msgspec.structs.replace(event, object=msgspec.Raw(json.dumps(value).encode()))

    def step(self) -> str:
        """One change of one object; what it was."""
        chance = self._chance
        namespace, name, pod = chance.choice(NAMESPACES), chance.choice(NAMES), chance.choice(PODS)
        if self.living and chance.random() < 0.15:
            kind, where, which = key = chance.choice(sorted(self.living))
            if kind != "Namespace" or chance.random() < 0.2:
                self.delete(key)
                return f"delete {kind} {where}/{which}"
        match chance.randrange(16):
            case 0 | 1 | 2:
                event = self._pod(namespace, pod, name)
            case 3 | 4 | 5 | 6:
                event = self._slices(namespace, name)
            case 7 | 8 | 9:
                event = self._target(namespace, name)
            case 10 | 11:
                backends = {"one": chance.randrange(5), "two": chance.randrange(1, 5)}
                event = objects.split(namespace, name, root="one", backends=backends)
            case 12 | 13:
                event = self._service(namespace, name)
            case 14:
                event = self._route_group(namespace)
            case _:
                event = objects.namespace(namespace, mesh=chance.choice(("meshlog", "meshlog", "meshlog", "other")))
        # Of a split the shares stay that were in force before, which is no function of the state alone.
        large = event.kind != "TrafficSplit" and self._sizes.random() < LARGE
        self.apply(event, much="y" * (MOST_BYTES + 1) if large else "")
        return f"apply {event.kind} {event.namespace}/{event.name}{', too large' if large else ''}"

    def apply(self, event: Event, *, much: str = "") -> None:
        """Create or replace the object that the event is about, with so `much` beside its content."""
        assert event.object is not None
        value: dict[str, Any] = json.loads(bytes(event.object))
        key = (event.kind, event.namespace, event.name)
        self.touched.append(key)
        before = self.living.get(key)
        self.version += 1
        uid = before["metadata"]["uid"] if before else f"{event.kind}-{next(self._incarnations)}"
        value["metadata"] |= {"uid": uid, "resourceVersion": str(self.version)}
        value["apiVersion"], value["kind"] = API_VERSIONS.get(event.kind, "v1"), event.kind
        if much:
            value["metadata"].setdefault("labels", {})["much"] = much
        self.living[key] = value
        self._record("MODIFIED" if before else "ADDED", event.kind, value)

    def delete(self, key: Key) -> None:
        """Delete an object."""
        value = self.living.pop(key)
        self.touched.append(key)
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self._record("DELETED", key[0], value)

    def _record(self, line_type: str, kind: str, value: dict[str, Any]) -> None:
        self.history.append((self.version, kind, json.dumps({"type": line_type, "object": value}).encode()))
        self.states[self.version] = {key: json.dumps(held) for key, held in self.living.items()}
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def events(self) -> list[Event]:
        """The final state as events, for a compile from scratch."""
        found: list[Event] = []
        for (kind, namespace, name), value in sorted(self.living.items()):
            version = API_VERSIONS.get(kind, "v1")
            item = project(kind, json.dumps(value).encode(), api_version=version, source="list")
            found.append(
                Event(
                    schema=SCHEMA,
                    cluster=objects.CLUSTER,
                    kind=kind,
                    namespace=namespace,
                    name=name,
                    uid=item.uid,
                    resource_version=item.resource_version,
                    operation="applied",
                    api_version=item.api_version,
                    object=msgspec.Raw(item.body),
                    withheld=item.withheld,
                    why=item.why,
                )
            )
        return found


class BadServer:
    """A `Source` over the cluster, as one process sees it."""

    def __init__(self, cluster: Cluster, link: Link) -> None:
        self.cluster = cluster
        self.link = link
        self.fails = 0.0
        """Probability that a request fails or a watch ends."""
        self.stale = 0.0
        """Probability that a list is from the past."""
        self.away = False
        """It refuses every request, and watches are silent."""
        self.mute = False
        """Requests do not reach it, while open watches go on."""
        self.deaf = False
        """Requests are answered, while open watches are silent without an error."""
        self._past: dict[str, bool] = {}

    def again(self, link: Link) -> BadServer:
        """The same server, as the next life of the process sees it."""
        server = BadServer(self.cluster, link)
        server.fails, server.stale = self.fails, self.stale
        server.away, server.mute, server.deaf = self.away, self.mute, self.deaf
        return server

    def mend(self) -> None:
        """Nothing is wrong with it any more."""
        self.fails = self.stale = 0.0
        self.away = self.mute = self.deaf = False

    async def page(self, kind: WatchedKind, continue_token: str) -> ListAnswer:
        del continue_token
        await self._pass()
        version = self.cluster.version
        # Two lists in a row are never both from the past: the one that confirms is a consistent read.
        self._past[kind.name] = not self._past.get(kind.name) and self.link.chance.random() < self.stale
        if self._past[kind.name]:
            version = self.link.chance.choice(sorted(self.cluster.states)[-20:])
        items = [json.loads(raw) for key, raw in sorted(self.cluster.states[version].items()) if key[0] == kind.name]
        return ListAnswer(body=listing(items, str(version)), api_version=API_VERSIONS.get(kind.name, "v1"))

    @contextlib.asynccontextmanager
    async def stream(self, kind: WatchedKind) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]]]:
        """It has no streaming lists."""
        raise SourceError(Failure("http 422", status=422))
        yield "", self._lines(kind.name, 0)

    @contextlib.asynccontextmanager
    async def watch(self, kind: WatchedKind, resource_version: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        await self._pass()
        yield self._lines(kind.name, int(resource_version))

    async def issuer(self) -> tuple[str, dict[str, Any]]:
        return "https://issuer", {"keys": []}

    async def _lines(self, kind: str, since: int) -> AsyncIterator[bytes]:
        told = since
        while True:
            if told < self.cluster.compacted:
                yield b'{"type":"ERROR","object":{"code":410,"reason":"Expired"}}'
                return
            changed = self.cluster.changed
            for version, of, line in list(self.cluster.history):
                if version > told:
                    if of == kind:
                        yield line
                        if self.link.chance.random() < max(self.fails / 2, self.link.repeats):
                            yield line
                    told = version
            if changed is self.cluster.changed:
                await changed.wait()
            await asyncio.sleep(self.link.chance.random() * 0.02)
            while self.away or self.deaf or self.link.dead:  # noqa: ASYNC110 (simulated time)
                await asyncio.sleep(0.5)
            if self.link.chance.random() < self.fails:
                return

    async def _pass(self) -> None:
        await asyncio.sleep(self.link.chance.random() * 0.05)
        if self.link.dead:
            await asyncio.get_running_loop().create_future()
        if self.mute:
            await asyncio.sleep(5.0)
            raise SourceError(Failure("no answer"))
        if self.away or self.link.chance.random() < self.fails:
            raise SourceError(Failure("http 503", status=503))
