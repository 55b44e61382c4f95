"""What the statuses of two thousand changing policy objects cost the API server, and when they are right.

An ingestor and a compiler are processes of their own; the API server is the devcluster's, in this process, as is the
acknowledgement for the proxies; the log is a real nats-server. The requests counted are those that the ingestor made.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.service import running
from benchmarks.table import Result, Row
from deploy.devcluster.apiserver import ApiServer
from shared.eventlog.protocol import Draft
from shared.projected_objects import ANNOTATION_SIDECAR, LABEL_MONITORED_BY
from shared.records import chunked_payload
from shared.records.proxy_status import ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import CDS, Snapshot, decode_commit
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer
from tests.waiting import eventually

OBJECTS = 2_000
PODS = 20
RATE = 200
"""Changes a second while it churns."""
SECONDS = 15.0
"""How long."""
SOON = 5.0
"""Seconds after the last change within which every status is to be right."""
MOST = 800
"""Requests a second at most."""
REST = 3.0
"""Seconds after which nothing may be written any more, longer than an object is held."""
_CRDS = Path(__file__).parents[1] / "deploy" / "crds"
_STREAMS = Streams()
_NAMESPACE = "shop"
_TARGETS = "traffictargets.access.smi-spec.io"
_ACCESS, _SPECS = "access.smi-spec.io/v1alpha3", "specs.smi-spec.io/v1alpha4"


class Measured(msgspec.Struct):
    """What was seen."""

    changes: int
    during: int
    """Statuses that were written while it churned."""
    after: int
    busiest: float
    """Most statuses written in a second."""
    right_after: float
    """Seconds from the last change until every status was right."""
    first_right: float
    """The same after all objects were made."""
    later: int
    """Statuses written while all were right already."""
    cpu: float
    """Share of one processor that the ingestor took while it churned."""
    cost: float
    """Seconds of a processor that it took from the first of the last changes until every status was right."""


def run() -> Result:
    """Measure it."""
    found = asyncio.run(measure())
    rows = [
        Row(what=f"{OBJECTS} objects made at once: all told", figure=found.first_right, unit="s"),
        Row(what=f"changes of {OBJECTS} objects, {RATE}/s for {SECONDS:g} s", figure=found.changes, unit=""),
        Row(what="statuses written meanwhile", figure=round(found.during / SECONDS, 1), unit="/s"),
        Row(what="busiest second", figure=found.busiest, unit="statuses", budget=f"at most {MOST}"),
        Row(what=f"then all {OBJECTS} at once: right after the last", figure=found.right_after, unit="s", budget="5 s"),
        Row(what="statuses written for that, an object", figure=round(found.after / OBJECTS, 2), unit=""),
        Row(what=f"and in the {REST:g} s after", figure=found.later, unit="", budget="0"),
        Row(what="ingestor's processor while it churned", figure=found.cpu, unit="cores"),
        Row(what="and for all at once", figure=found.cost, unit="s"),
    ]
    return Result(name="statuses", command="make bench-statuses", rows=rows)


async def measure() -> Measured:
    """Churn, then change everything once more, in a world of its own."""
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as scratch:
        directory = Path(scratch)
        api = ApiServer(addresses=[("127.0.0.1", 0)], window=100_000)
        await api.start()
        nats = NatsServer(directory)
        nats.start()
        logs = JetStreamLogs.connect(nats.access, _STREAMS)
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
        try:
            await _populate(api)
            await logs.ensure()
            proxies = asyncio.create_task(_acknowledge(logs))
            async with (
                running("compiler", nats.url),
                running("ingestor", nats.url, "--kubeconfig", str(kubeconfig)) as (pid, port),
            ):
                try:
                    return await _measured(api, pid, port)
                finally:
                    proxies.cancel()
                    await asyncio.wait({proxies})
        finally:
            await logs.close()
            nats.stop()
            await api.stop()


async def _measured(api: ApiServer, pid: int, port: int) -> Measured:
    view = View(api)
    looking = asyncio.create_task(view.follow())
    turn = itertools.count()
    await eventually(lambda: view.all_right, within=120.0, what="all is told to begin with")
    for number in range(OBJECTS):
        await view.change(number, next(turn))
    began = time.perf_counter()
    await eventually(lambda: view.all_right, within=60.0, what="all is told")
    first_right = round(view.right_since - began, 2)
    written = lambda: asyncio.to_thread(_written, port)  # noqa: E731 (asked often)
    rates: list[float] = []
    sampling = asyncio.create_task(_sample(written, rates))
    cpu, before, started = _cpu(pid), await written(), time.perf_counter()
    changes = 0
    while (now := time.perf_counter()) - started < SECONDS:
        while changes < (now - started) * RATE:
            await view.change((changes * 7919) % OBJECTS, next(turn))
            changes += 1
        await asyncio.sleep(0.01)
    used, during = (_cpu(pid) - cpu) / (time.perf_counter() - started), await written()
    cpu = _cpu(pid)
    for number in range(OBJECTS):
        await view.change(number, next(turn))
    last = time.perf_counter()
    await eventually(lambda: view.all_right, within=60.0, what="all is right")
    right_after, after, cost = round(view.right_since - last, 2), await written(), _cpu(pid) - cpu
    await asyncio.sleep(REST)
    later = await written()
    for task in (sampling, looking):
        task.cancel()
        await asyncio.wait({task})
    await _confirm(api)
    return Measured(
        changes=changes,
        during=int(during - before),
        after=int(after - during),
        busiest=round(max(rates, default=0.0)),
        right_after=right_after,
        first_right=first_right,
        later=int(later - after),
        cpu=round(used, 2),
        cost=round(cost, 2),
    )


class View:
    """Which statuses are right, from every change of the objects: to list them all takes the API server's time."""

    def __init__(self, api: ApiServer) -> None:
        """`follow` it once."""
        self.right_since = 0.0
        """When the last of them became right."""
        self._cluster = api.cluster
        self._seen: dict[str, int] = {}
        self._wrong: set[str] = set()

    @property
    def all_right(self) -> bool:
        """Whether each is."""
        return len(self._seen) == OBJECTS and not self._wrong

    async def follow(self) -> None:
        """See changes, for ever."""
        async for event in self._cluster.watch(_TARGETS, _NAMESPACE):
            self._see(event.object)

    async def change(self, number: int, turn: int) -> None:
        """Another source: what its destination lets through is another."""
        sources = [{"kind": "ServiceAccount", "name": f"caller-{turn % 50}", "namespace": _NAMESPACE}]
        self._see(await self._cluster.patch(_TARGETS, _NAMESPACE, f"t{number}", {"spec": {"sources": sources}}))

    def _see(self, target: dict[str, Any]) -> None:
        name, version = target["metadata"]["name"], int(target["metadata"]["resourceVersion"])
        if version <= self._seen.get(name, 0):
            return
        self._seen[name] = version
        before = len(self._wrong)
        (self._wrong.discard if _is_right(target) else self._wrong.add)(name)
        if before and not self._wrong:
            self.right_since = time.perf_counter()


async def _confirm(api: ApiServer) -> None:
    listed, _ = await api.cluster.list(_TARGETS, _NAMESPACE)
    wrong = [target["metadata"]["name"] for target in listed if not _is_right(target)]
    if wrong or len(listed) != OBJECTS:
        raise AssertionError(f"{len(wrong)} of {len(listed)} statuses are wrong after all: {wrong[:5]}")


def _is_right(target: dict[str, Any]) -> bool:
    told = {one["type"]: one for one in target.get("status", {}).get("conditions", [])}
    accepted, programmed = told.get("Accepted", {}), told.get("Programmed", {})
    generation = target["metadata"]["generation"]
    return (
        accepted.get("status") == programmed.get("status") == "True"
        and accepted.get("observedGeneration") == programmed.get("observedGeneration") == generation
        and programmed["message"] == "on 1 of 1 proxies"
    )


async def _populate(api: ApiServer) -> None:
    cluster = api.cluster
    for path in sorted(_CRDS.glob("*.yaml")):
        await cluster.create("customresourcedefinitions.apiextensions.k8s.io", yaml.safe_load(path.read_text()))
    labels = {LABEL_MONITORED_BY: "meshlog"}
    await cluster.create("namespaces", {"metadata": {"name": _NAMESPACE, "labels": labels}})
    for number in range(PODS):
        name = f"web-{number}"
        await cluster.create("pods", _pod(name, number))
        ports = [{"port": 80, "targetPort": 8080, "appProtocol": "http"}]
        spec = {"clusterIP": f"10.96.0.{number + 1}", "selector": {"app": name}, "ports": ports}
        await cluster.create("services", {"metadata": {"name": name, "namespace": _NAMESPACE}, "spec": spec})
        reference = {"kind": "Pod", "name": name, "namespace": _NAMESPACE}
        piece = {
            "metadata": {
                "name": f"{name}-0",
                "namespace": _NAMESPACE,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [f"10.244.0.{number + 1}"], "targetRef": reference}],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        }
        await cluster.create("endpointslices.discovery.k8s.io", piece)
    matches = [{"name": "all", "pathRegex": "/.*", "methods": ["GET"]}]
    meta = {"name": "routes", "namespace": _NAMESPACE}
    group = {"apiVersion": _SPECS, "kind": "HTTPRouteGroup", "metadata": meta, "spec": {"matches": matches}}
    await cluster.create("httproutegroups.specs.smi-spec.io", group)
    for number in range(OBJECTS):
        target = {
            "apiVersion": _ACCESS,
            "kind": "TrafficTarget",
            "metadata": {"name": f"t{number}", "namespace": _NAMESPACE},
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": f"web-{number % PODS}", "namespace": _NAMESPACE},
                "sources": [{"kind": "ServiceAccount", "name": "caller", "namespace": _NAMESPACE}],
                "rules": [{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["all"]}],
            },
        }
        await cluster.create(_TARGETS, target)


def _pod(name: str, number: int) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": _NAMESPACE,
        "labels": {"app": name},
        "annotations": {ANNOTATION_SIDECAR: "0"},
    }
    spec = {"serviceAccountName": name, "containers": [{"name": "web", "image": "web"}]}
    address = f"10.244.0.{number + 1}"
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    return {"metadata": meta, "spec": spec, "status": status}


async def _acknowledge(logs: JetStreamLogs) -> None:
    """What edges report of proxies that take all at once: of those only that a version concerns."""
    snapshots, statuses = await logs.open(_STREAMS.snapshots), await logs.open(_STREAMS.status)
    snapshot, assembler = Snapshot(), chunked_payload.Assembler()
    async for record in snapshots.follow(subjects=_STREAMS.snapshot_subject):
        payload = assembler.feed(record)
        if payload is None:
            continue
        commit = decode_commit(payload)
        snapshot.apply(commit)
        for key in snapshot.concerned(commit):
            proxy = snapshot.proxies[key]
            types = {CDS: TypeStatus(sent=commit.version, acked=commit.version)}
            status = ProxyStatus(
                cluster=proxy.cluster,
                namespace=proxy.namespace,
                pod=proxy.pod,
                uid=proxy.uid,
                service_account=proxy.service_account,
                edge="bench",
                connected=True,
                since=0,
                types=types,
            )
            subject = _STREAMS.status_subject(proxy.cluster, proxy.namespace, proxy.pod)
            await statuses.publish(Draft(subject=subject, payload=encode_status(status)))


async def _sample(written: Callable[[], Any], rates: list[float]) -> None:
    before, at = await written(), time.perf_counter()
    while True:
        await asyncio.sleep(1.0)
        now, moment = await written(), time.perf_counter()
        rates.append((now - before) / (moment - at))
        before, at = now, moment


def _written(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("meshlog_ingestor_reports{"))


def _cpu(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
