"""One process of a swarm: its proxies, and the driver's commands, as lines of JSON on standard input and output."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import sys
import time

import msgspec

from benchmarks.swarm.proxy import SwarmProxy, Tally, Target


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do."""

    target: Target
    proxies: list[tuple[int, str, str]]
    """Number, node id, token of each."""
    ramp: float = 0.0
    """New connections a second at the start; 0: a storm, all at once."""
    slow: int = 0
    """How many of the proxies never read."""
    churn: float = 0.0
    """Connections that are dropped, to come back warm, a second."""


class Command(msgspec.Struct, frozen=True):
    """What to do.

    `mark`: count from zero; `report`: report all; `count`: report all but the answers of each proxy, which is cheap;
    `stop`.
    """

    do: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxies of one process, or of all, saw since the mark."""

    connected: int = 0
    acks: int = 0
    resources: int = 0
    bytes: int = 0
    opened: int = 0
    ended: int = 0
    failed: int = 0
    """Connections that could not be made."""
    answered: int = 0
    """Proxies that acknowledged anything since the mark."""
    answers: dict[int, int] = {}
    """Proxy → when it sent its last ACK since the mark, nanoseconds since 1970."""
    first: dict[int, int] = {}
    """The same of the first ACK."""
    types: dict[str, int] = {}
    """Resources received by type."""
    cpu: float = 0.0
    """Seconds of CPU that the swarm itself took since the mark."""


class Fleet:
    """The proxies of one process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        tls = None
        if plan.target.roots:
            tls = ssl.create_default_context(cafile=plan.target.roots)
            tls.set_alpn_protocols(["h2"])
        self._proxies = [
            SwarmProxy(number, node=node, token=token, target=plan.target, tls=tls)
            for number, node, token in plan.proxies
        ]
        for proxy in self._proxies[: plan.slow]:
            proxy.hangs = True
        self._tally = Tally()
        self._cpu = 0.0
        self._mark()

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Connect, then obey commands until `stop`."""
        tasks = [asyncio.ensure_future(self._start())]
        if self._plan.churn:
            tasks.append(asyncio.ensure_future(self._churn()))
        try:
            while line := await commands.readline():
                command = msgspec.json.decode(line, type=Command).do
                if command == "stop":
                    return
                if command == "mark":
                    self._mark()
                sys.stdout.buffer.write(msgspec.json.encode(self._report(whole=command == "report")) + b"\n")
                sys.stdout.buffer.flush()
        finally:
            for task in tasks:
                task.cancel()

    async def _start(self) -> None:
        pause = 1 / self._plan.ramp if self._plan.ramp else 0.0
        running: list[asyncio.Future[None]] = []
        for proxy in self._proxies:
            running.append(asyncio.ensure_future(proxy.run()))
            if pause:
                await asyncio.sleep(pause)
        await asyncio.gather(*running)

    async def _churn(self) -> None:
        while True:
            await asyncio.sleep(1 / self._plan.churn)
            random.choice(self._proxies).drop()

    def _mark(self) -> None:
        self._tally = Tally()
        self._cpu = time.process_time()
        for proxy in self._proxies:
            proxy.tally = self._tally

    def _report(self, *, whole: bool) -> Report:
        tally = self._tally
        return Report(
            connected=sum(proxy.connected for proxy in self._proxies),
            acks=tally.acks,
            resources=tally.resources,
            bytes=tally.bytes,
            opened=tally.opened,
            ended=tally.ended,
            failed=tally.failed,
            answered=len(tally.answers),
            answers=tally.answers if whole else {},
            first=tally.first if whole else {},
            types=dict(tally.types),
            cpu=time.process_time() - self._cpu,
        )


async def _main() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=256 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    plan = msgspec.json.decode(await commands.readline(), type=Plan)
    await Fleet(plan).run(commands)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
    # Thousands of connections need no farewell: the kernel closes them.
    os._exit(0)
