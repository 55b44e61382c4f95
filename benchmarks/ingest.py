"""From the Kubernetes API to the log: the initial list of a large cluster, a stream of changes, a rolling restart.

The ingestor is a process of its own in front of the devcluster's API server, which runs in this one and shares the
machine with it, as a real nats-server does. Times end when a reader of the log has the event.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.service import running
from benchmarks.table import Result, Row
from deploy.devcluster.apiserver import ApiServer
from shared.eventlog.protocol import EventLog
from shared.records import events
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.nats_server import NatsServer
from tests.waiting import eventually

PODS = 10_000
SERVICES = 1_000
CHANGES = 3_000
"""Changes that are made as fast as the API takes them."""
SINGLE = 200
"""Changes that are made one by one."""
RESTARTED = 200
"""Pods of the rolling restart."""
_STREAMS = Streams()


def run() -> Result:
    """Measure all of it."""
    return asyncio.run(_run())


async def _run() -> Result:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as scratch:
        directory = Path(scratch)
        api = ApiServer(addresses=[("127.0.0.1", 0)], window=50_000)
        await api.start()
        nats = NatsServer(directory)
        nats.start()
        logs = JetStreamLogs.connect(nats.access, _STREAMS)
        log = await logs.open(_STREAMS.events)
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(api.kubeconfig(f"https://127.0.0.1:{api.bound[0][1]}"))
        try:
            await _populate(api)
            began = time.perf_counter()
            async with running("ingestor", nats.url, "--kubeconfig", str(kubeconfig)) as (pid, port):
                rows += await _initial(pid, port, began)
                rows += await _burst(api, log)
                rows += await _single(api, log)
                rows += await _restart(api, log, port)
                rows.append(_memory("resident at the end", pid, "VmRSS"))
        finally:
            await logs.close()
            nats.stop()
            await api.stop()
    return Result(name="ingest", command="make bench-ingest", rows=rows)


async def _initial(pid: int, port: int, began: float) -> list[Row]:
    await eventually(lambda: asyncio.to_thread(_ready, port), within=120.0, what="the ingestor is ready")
    seconds = time.perf_counter() - began
    return [
        Row(what=f"start to ready, {PODS} pods and {SERVICES} services", figure=round(seconds, 2), unit="s"),
        _memory("peak memory of that", pid, "VmHWM"),
    ]


async def _burst(api: ApiServer, log: EventLog) -> list[Row]:
    _, last = await log.bounds()
    names = {f"web-{number}" for number in range(CHANGES)}
    began = time.perf_counter()

    async def arrived() -> None:
        async for record in log.follow(start=last + 1, subjects=_STREAMS.kind_scope("bench", "Pod")):
            names.discard(events.decode(record.payload).name)
            if not names:
                return

    reader = asyncio.create_task(arrived())
    for number in range(CHANGES):
        await api.cluster.patch("pods", "default", f"web-{number}", {"metadata": {"labels": {"turn": "1"}}})
    taken = time.perf_counter() - began
    await reader
    whole = time.perf_counter() - began
    return [
        Row(what=f"{CHANGES} changes, API alone", figure=round(CHANGES / taken), unit="/s"),
        Row(what=f"{CHANGES} changes, API to log", figure=round(CHANGES / whole), unit="/s"),
    ]


async def _single(api: ApiServer, log: EventLog) -> list[Row]:
    _, last = await log.bounds()
    arrivals: asyncio.Queue[float] = asyncio.Queue()

    async def listen() -> None:
        async for _ in log.follow(start=last + 1, subjects=_STREAMS.kind_scope("bench", "Pod")):
            arrivals.put_nowait(time.perf_counter())

    reader = asyncio.create_task(listen())
    took: list[float] = []
    for number in range(SINGLE):
        await api.cluster.patch("pods", "default", f"web-{number}", {"metadata": {"labels": {"turn": "2"}}})
        answered = time.perf_counter()
        took.append(1000 * (await arrivals.get() - answered))
    reader.cancel()
    took.sort()
    return [
        Row(what="one change, API's answer to log, p50", figure=round(took[len(took) // 2], 2), unit="ms"),
        Row(what="one change, API's answer to log, p99", figure=round(took[int(len(took) * 0.99)], 2), unit="ms"),
    ]


async def _restart(api: ApiServer, log: EventLog, port: int) -> list[Row]:
    """Delete and create pods in the steps of a kubelet, with the changes that it makes to conditions on the way."""
    before = _facts(port)
    cluster = api.cluster
    for number in range(RESTARTED):
        name = f"web-{number}"
        await cluster.delete("pods", "default", name, grace_seconds=0)
        await cluster.create("pods", _pod(f"new-{number}", phase="Pending"))
        for step in ("PodScheduled", "Initialized", "PodReadyToStartContainers", "ContainersReady", "Ready"):
            running = step in ("ContainersReady", "Ready")
            status = _status("Running" if running else "Pending", number if running else None)
            status["conditions"] = [{"type": step, "status": "True"}]
            await cluster.patch("pods", "default", f"new-{number}", {"status": status}, subresource="status")
    wanted = f"new-{RESTARTED - 1}"

    async def settled() -> bool:
        newest = await log.last(_STREAMS.event_subject("bench", "Pod", "default", wanted))
        return newest is not None and b'"phase":"Running"' in newest.payload

    await eventually(settled, within=60.0, what="the last pod runs in the log")
    await asyncio.sleep(1.0)
    after = _facts(port)
    seen, written = (after[name] - before[name] for name in ("received", "written"))
    return [
        Row(what=f"rolling restart of {RESTARTED} pods: watch events", figure=seen, unit=""),
        Row(what="of them filtered", figure=round(100 * (1 - written / seen), 1), unit="%"),
    ]


def _pod(name: str, *, phase: str = "Running", number: int | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"app": f"app-{(number or 0) % SERVICES}"}},
        "spec": {
            "serviceAccountName": "default",
            "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}]}],
        },
        "status": _status(phase, number),
    }


def _status(phase: str, number: int | None) -> dict[str, Any]:
    address = {} if number is None else {"podIP": f"10.{200 + number // 65536}.{number // 256 % 256}.{number % 256}"}
    return {"phase": phase, **address}


async def _populate(api: ApiServer) -> None:
    for number in range(SERVICES):
        service = {
            "ports": [{"port": 80, "targetPort": 8080}],
            "clusterIP": "None",
            "selector": {"app": f"app-{number}"},
        }
        await api.cluster.create(
            "services", {"metadata": {"name": f"app-{number}", "namespace": "default"}, "spec": service}
        )
    for number in range(PODS):
        await api.cluster.create("pods", _pod(f"web-{number}", number=number))


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _facts(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("meshlog_ingestor_facts{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in found}


def _memory(what: str, pid: int, field: str) -> Row:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith(f"{field}:")]
    return Row(what=what, figure=round(kilobytes * 1024 / 1e6), unit="MB")
