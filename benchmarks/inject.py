"""Sidecar injections: the pure patch, and reviews over HTTPS as an API server sends them.

The webhook is served by this process and called by another, over kept connections (an API server keeps its own) and
over new ones. CPU is this process's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from benchmarks.table import Result, Row
from services.injector.core import review
from services.injector.core.patch import json_patch, with_sidecar
from services.injector.http.webhook import PATH, Webhook
from services.injector.log.namespace_follower import NamespaceFollower
from shared.eventlog.memory import MemoryLog
from shared.meshconfig.pods import MeshSpec
from tests.integration.injector.edge import Authority
from tests.integration.injector.served import served
from tests.unit.injector.http.test_webhook import STREAMS, asked, namespace, write
from tests.unit.injector.pods import INSTALLATION

PURE = 2_000
REVIEWS = 3_000
CALLERS = 16
_IDENTITY = "spiffe://cluster.local/ns/meshlog-system/sa/meshlog-injector"

_CALLER = """
import asyncio, json, ssl, sys, time
import aiohttp

async def main(url, root, body, count, callers, keep):
    trust = ssl.create_default_context(cafile=root)
    payload = open(body, "rb").read()
    took = []
    connector = aiohttp.TCPConnector(ssl=trust, force_close=not keep, limit=callers)
    async with aiohttp.ClientSession(connector=connector) as session:
        async def call(times):
            for _ in range(times):
                began = time.perf_counter()
                async with session.post(url, data=payload) as answer:
                    assert (await answer.read()).find(b'"patch"') > 0
                took.append(time.perf_counter() - began)
        await asyncio.gather(*(call(count // callers) for _ in range(callers)))
    took.sort()
    print(json.dumps({"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)], "count": len(took)}))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "keep"))
"""


def run() -> Result:
    """Measure all of it."""
    rows = [_pure(), *asyncio.run(_https())]
    rows.append(
        Row(
            what="resident, peak (benchmark included)",
            figure=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
            unit="MB",
        )
    )
    return Result(name="inject", command="make bench-inject", rows=rows)


def _pure() -> Row:
    body = asked()
    began = time.process_time()
    for _ in range(PURE):
        question = review.read(body)
        before = question.pod()
        review.allow(question, json_patch(before, with_sidecar(before, INSTALLATION, MeshSpec())))
    rate = PURE / (time.process_time() - began)
    return Row(what="review to answer, no network", figure=round(rate), unit="/s and core")


async def _https() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as scratch:
        directory = Path(scratch)
        async with _served(directory) as url:
            for keep, name in (("keep", "kept connections"), ("new", "a handshake each")):
                count = REVIEWS if keep == "keep" else REVIEWS // 5
                cpu, began = time.process_time(), time.perf_counter()
                told = await _call(url, directory, count, keep)
                cpu, elapsed = time.process_time() - cpu, time.perf_counter() - began
                budget = ">= 300" if keep == "keep" else ""
                rate = round(told["count"] / cpu)
                rows += [
                    Row(what=f"HTTPS, {name}", figure=rate, unit="/s and core", budget=budget),
                    Row(what=f"HTTPS, {name}, wall", figure=round(told["count"] / elapsed), unit="/s"),
                    Row(what=f"HTTPS, {name}, {CALLERS} callers, p50", figure=round(1000 * told["p50"], 1), unit="ms"),
                    Row(what=f"HTTPS, {name}, {CALLERS} callers, p99", figure=round(1000 * told["p99"], 1), unit="ms"),
                ]
    return rows


@contextlib.asynccontextmanager
async def _served(directory: Path) -> AsyncGenerator[str]:
    authority = Authority()
    key, certificate = authority.issue(_IDENTITY, "localhost")
    (directory / "serving.pem").write_bytes(key + certificate)
    (directory / "root.pem").write_bytes(authority.pem)
    (directory / "body.json").write_bytes(asked())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "serving.pem")
    log = MemoryLog()
    await write(log, "Namespace", "", "shop", namespace())
    membership = NamespaceFollower(log, streams=STREAMS, cluster="c1", mesh_namespace="meshlog-system")
    following = asyncio.create_task(membership.run())
    try:
        async with served(Webhook(membership, INSTALLATION), context) as (_, port):
            yield f"https://localhost:{port}{PATH}"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _call(url: str, directory: Path, count: int, keep: str) -> dict[str, float]:
    root, body = str(directory / "root.pem"), str(directory / "body.json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CALLER, url, root, body, str(count), str(CALLERS), keep),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return msgspec.json.decode(printed, type=dict[str, float])
