"""Worker processes: `--workers N` edges on one port, below a parent process that only supervises them.

One process serves as much as one core can. So there are several, and the kernel assigns each new connection to one of
them (SO_REUSEPORT). Like replicas, they share no state: each is started by the same command line, and none is forked
from a process that has threads and sockets. The parent reports the health of the pod: it is ready if all workers are,
and its metrics are their sums.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import socket

from services.xds_edge.settings import EdgeSettings
from shared.service.interpreter import module
from shared.service.process import Context
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
_FIRST_LOOK_EVERY = 0.5
_RESTARTS = Backoff(first=0.25, longest=10.0)
_PREFIX = "meshlog_edge_"


class WorkerProcess:
    """One worker process: restarted whenever it ends; its health and metrics are read over HTTP."""

    def __init__(self, number: int, argv: Sequence[str], settings: EdgeSettings, instance: str) -> None:
        self.name = f"worker {number}"
        self.metrics: dict[str, float] = {}
        self.remarks: dict[str, str] = {}
        self._http_port = _free_port()
        own = {
            "workers": "1",
            "reuse-port": "true",
            "instance": f"{instance}-w{number}",
            "http-host": "127.0.0.1",
            "http-port": str(self._http_port),
            "die-with-parent": "true",
            **({"state-dir": str(Path(settings.state_dir) / f"worker-{number}")} if settings.state_dir else {}),
            **({"key-dir": str(Path(settings.key_dir) / f"worker-{number}")} if settings.key_dir else {}),
        }
        flags = [f"--{name}={value}" for name, value in own.items()]
        # The last of two equal flags counts.
        self._command = module("services.xds_edge", *argv, *flags)
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Run the process, and restart it whenever it ends; runs until it is cancelled."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            process = self._process = await asyncio.create_subprocess_exec(*self._command)
            code = await process.wait()
            lived = asyncio.get_running_loop().time() - began
            failures = 0 if lived > _RESTARTS.longest else failures + 1
            pause = _RESTARTS.delay(failures)
            _log.error("%s ended with code %d; it starts again in %.1f s", self.name, code, pause)
            await asyncio.sleep(pause)

    async def ready(self) -> bool:
        """Whether the worker is ready; reads its metrics and remarks too."""
        try:
            status, body = await self._get("/readyz")
            _, text = await self._get("/metrics")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            return False
        self.metrics, self.remarks = read_metrics(text), json.loads(body).get("remarks", {})
        return status == 200

    async def stop(self) -> None:
        """Ask the process to stop, and wait until it has."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def _get(self, path: str) -> tuple[int, str]:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._http_port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).decode("utf-8", "replace").partition("\r\n\r\n")
                return int(head.split(" ")[1]), body
            finally:
                writer.close()


def read_metrics(text: str) -> dict[str, float]:
    """The edge's metrics in a Prometheus text, each summed over its labels."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name.startswith(_PREFIX):
            with contextlib.suppress(ValueError):
                found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def together(metrics: Sequence[Mapping[str, float]], name: str) -> float:
    """One metric over all workers: the lowest of a version, the sum of any other."""
    values = [one[name] for one in metrics if name in one]
    return min(values, default=0.0) if name.endswith("_version") else sum(values)


def remarked(workers: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The remarks of all workers, by the name of the worker; each remark starts with that name."""
    names = sorted({name for remarks in workers.values() for name in remarks})
    return {
        name: "; ".join(f"{worker}: {remarks[name]}" for worker, remarks in workers.items() if name in remarks)
        for name in names
    }


async def supervise(context: Context[EdgeSettings], argv: Sequence[str]) -> None:
    """Run the workers until the process is asked to stop."""
    settings = context.settings
    workers = [WorkerProcess(number, argv, settings, context.instance) for number in range(settings.workers)]
    for worker in workers:
        context.ready(worker.name, False, "it has not started yet")
    running = [context.spawn(worker.run(), worker.name) for worker in workers]
    context.spawn(_watch(context, workers), "workers' health")
    await context.stopping.wait()
    for task in running:
        task.cancel()
    await asyncio.gather(*(worker.stop() for worker in workers))


async def _watch(context: Context[EdgeSettings], workers: Sequence[WorkerProcess]) -> None:
    exposed: set[str] = {"meshlog_ready"}  # whether the workers are is what makes this process ready
    known: set[str] = set()
    while True:
        states = await asyncio.gather(*(worker.ready() for worker in workers))
        for worker, ready in zip(workers, states, strict=True):
            context.ready(worker.name, ready, "it does not answer, or is not ready itself")
            for name in worker.metrics.keys() - exposed:
                exposed.add(name)
                context.metrics.gauge(
                    name,
                    "Of all workers together.",
                    lambda name=name: together([one.metrics for one in workers], name),
                )
        remarks = remarked({worker.name: worker.remarks for worker in workers})
        for name in known | remarks.keys():
            context.remark(name, remarks.get(name, ""))
        known = set(remarks)
        await asyncio.sleep(_LOOK_EVERY if all(states) else _FIRST_LOOK_EVERY)


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
