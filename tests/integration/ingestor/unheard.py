"""A watch on an API server that receives no packets any more, while its own arrive, in a network namespace of its own.

    python -m tests.integration.ingestor.unheard KUBECONFIG      writes the kubeconfig there; prints JSON

A process of its own, because only one with a single thread may enter a user namespace. The kernel is asked to be
quicker than it is in earnest, so that no test waits for ten seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import sys
import time
from pathlib import Path

from aiohttp import web

from deploy.devcluster.node import syscalls, veth
from services.ingestor.core.kinds import WatchedKind
from services.ingestor.kubernetes.client import KubernetesSource
from services.ingestor.kubernetes.object_source import SourceError
from shared.kubernetes import transport as sockets
from shared.netfilter.netlink import ROUTE, NetlinkSocket
from shared.netfilter.tables import TCP, BaseHook, Chain, Rule, Table, destination_port, rules, transport, verdict
from shared.netfilter.transaction import commit, replace_table
from tests.scripted_api import write_kubeconfig

POD = WatchedKind("Pod", "", "pods", "v1")
PATIENCE = 15.0
"""Seconds after which the watch has not noticed anything."""


def deaf(port: int, *, whether: bool) -> None:
    """What is sent to this port vanishes."""
    heard: tuple[Rule, ...] = rules((transport(TCP), destination_port(port), verdict("drop"))) if whether else ()
    hook = BaseHook(kind="filter", hook="input", priority=-400)
    commit(replace_table(Table(name="deaf", chains=(Chain(name="into", rules=heard, hook=hook),))))


async def answer(request: web.Request) -> web.StreamResponse:
    """One line, then nothing for as long as the watch lasts."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"type":"BOOKMARK"}\n')
    await asyncio.sleep(600)
    return response


async def main(kubeconfig: Path) -> None:
    """Watch; fall silent; print when and how the watch ended, and whether the next one works."""
    application = web.Application()
    application.router.add_route("GET", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    source = await KubernetesSource.connect(write_kubeconfig(kubeconfig, f"http://127.0.0.1:{port}", token="t"))
    ended, took = "", 0.0
    async with source.watch(POD, "1") as lines:
        await anext(lines)
        deaf(port, whether=True)
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await anext(lines)
        except SourceError as error:
            ended, took = error.failure.why, time.monotonic() - began
        except TimeoutError:
            ended = "not at all"
    deaf(port, whether=False)
    async with source.watch(POD, "1") as lines:
        again = (await anext(lines)).decode()
    sys.stdout.write(json.dumps({"ended": ended, "took": took, "again": again}))
    await source.close()
    await runner.cleanup()


if __name__ == "__main__":
    user, group = os.getuid(), os.getgid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
    syscalls.map_only_user(user, group)
    with NetlinkSocket(ROUTE) as route:
        veth.set_up_node(route, ["10.0.0.1"], [ipaddress.IPv4Network("10.0.1.0/24")])
    sockets.IDLE, sockets.EVERY, sockets.GIVEN_UP = 1, 1, 1
    asyncio.run(main(Path(sys.argv[1])))
