"""Floods of connections that no part asked for: bounded, from a pod of the mesh's own network.

    python -P -m tests.attacks.floods silent HOST:PORT [--connections 2000] [--seconds 8]

`silent` opens TCP connections and never says a byte; one that the other side closes is opened again, once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import time

from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import STRANGER, AttackScene


class _Silent(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.lost = True


async def silent(host: str, port: int, *, connections: int, seconds: float) -> Cost:
    """Open connections as quickly as they are taken, and say nothing on any of them."""
    loop = asyncio.get_running_loop()
    began, made, refused = time.monotonic(), 0, 0
    protocols: list[_Silent] = []
    transports: list[asyncio.BaseTransport] = []
    gate = asyncio.Semaphore(64)

    async def one() -> None:
        nonlocal made, refused
        async with gate:
            try:
                async with asyncio.timeout(seconds):
                    transport, protocol = await loop.create_connection(_Silent, host, port)
            except OSError:
                refused += 1
                return
            made += 1
            transports.append(transport)
            protocols.append(protocol)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(one() for _ in range(connections)))
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    closed = sum(protocol.lost for protocol in protocols)
    for transport in transports:
        transport.close()
    said = f"{made} taken, {refused} refused, {closed} closed within {seconds:g} s"
    return Cost(connections=connections, bytes=0, seconds=round(time.monotonic() - began, 1), said=said)


def _row(name: str, what: str, target: str, connections: int, *, short: bool = False) -> Attack:
    async def run(scene: AttackScene) -> Cost:
        words = ("silent", str(getattr(scene, target)), "--connections", str(connections))
        return await scene.program(STRANGER, "tests.attacks.floods", *words)

    return Attack(name=name, what=what, run=run, short=short)


ATTACKS = (
    _row("edge-silent", "20,000 connections to the edges that stay silent", "edge", 20_000),
    _row("injector-silent", "2,000 connections to the webhook that stay silent", "injector", 2_000, short=True),
    _row("log-silent", "2,000 connections to the log that stay silent", "nats", 2_000),
)


def main() -> None:
    """Do one of them and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("silent",))
    parser.add_argument("target")
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    told(asyncio.run(silent(host, int(port), connections=options.connections, seconds=options.seconds)))


if __name__ == "__main__":
    main()
