"""Attacks before the first byte of HTTP/2: crowds of connections, and handshakes that do not go on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable

from tests.floods import wire
from tests.floods.assailant import Assailant, GoneError, Pace, besiege, client_context, connect
from tests.floods.dose import Count, Dose, Target

_AT_ONCE = 200
"""Connections that are being opened at a time."""


async def silent(target: Target, dose: Dose) -> Count:
    """TCP connections that stay silent."""
    return await _crowd(target, dose, None, _say_nothing)


async def half_handshakes(target: Target, dose: Dose) -> Count:
    """TLS connections that end with the ClientHello: the server has signed, and waits."""
    hello = client_hello(target)
    return await _crowd(target, dose, None, lambda peer: peer.send(hello, 0))


async def stalled_hellos(target: Target, dose: Dose) -> Count:
    """A ClientHello that comes a byte at a time, one in 0.2 s."""
    hello = client_hello(target)

    async def drip(peer: Assailant) -> None:
        await peer.send(hello[:20], 0)
        for at in range(20, len(hello) - 1):
            await asyncio.sleep(0.2)
            await peer.send(hello[at : at + 1], 0)

    return await _crowd(target, dose, None, drip)


async def idle(target: Target, dose: Dose) -> Count:
    """TLS connections that stay silent."""
    return await _crowd(target, dose, client_context(target), _say_nothing)


async def idle_http2(target: Target, dose: Dose) -> Count:
    """HTTP/2 connections that open no call, and answer nothing."""
    greeting = wire.PREFACE + wire.settings()
    return await _crowd(target, dose, client_context(target), lambda peer: peer.send(greeting, 0))


async def handshake_storm(target: Target, dose: Dose) -> Count:
    """Whole TLS handshakes, each closed at once and followed by the next; a unit is a handshake."""
    count, context = Count(), client_context(target)

    async def repeat(number: int) -> None:
        pace = Pace(dose)
        while True:
            peer = await connect(target, count, number, context)
            if peer is not None:
                count.sent += 1
                peer.abort()
            await pace.wait(1)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(dose.duration):
            await asyncio.gather(*(repeat(number) for number in range(dose.connections)))
    return count


async def garbage(target: Target, dose: Dose) -> Count:
    """HTTP/1.1 requests in TLS, a megabyte a connection."""
    chunk = b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n" * 500

    async def talk(peer: Assailant) -> None:
        pace = Pace(dose)
        for _ in range(70):
            await peer.send(chunk, 500)
            await pace.wait(500)

    return await besiege(target, dose, talk)


def client_hello(target: Target) -> bytes:
    """The first bytes of a TLS connection to the server."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = client_context(target).wrap_bio(incoming, outgoing, server_hostname=target.authority)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


async def _say_nothing(_peer: Assailant) -> None:
    pass


async def _crowd(
    target: Target, dose: Dose, context: ssl.SSLContext | None, attack: Callable[[Assailant], Awaitable[None]]
) -> Count:
    """Open `connections` in all, at `rate` a second, do something with each, and hold what the server lets stand."""
    count = Count()
    held: set[Assailant] = set()
    places = asyncio.Semaphore(_AT_ONCE)

    async def stay(number: int) -> None:
        async with places:
            peer = await connect(target, count, number, context)
        if peer is None:
            return
        count.sent += 1
        held.add(peer)
        with contextlib.suppress(GoneError):
            await attack(peer)
            await peer.gone.wait()
        count.closed += 1
        held.discard(peer)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(dose.duration), asyncio.TaskGroup() as group:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(dose.connections):
                group.create_task(stay(number))
                ahead = number / dose.rate - (loop.time() - began) if dose.rate else 0.0
                if ahead > 0 or number % 100 == 0:
                    await asyncio.sleep(max(0.0, ahead))
            await asyncio.sleep(dose.duration)
    count.held = sum(not peer.gone.is_set() for peer in held)
    for peer in held:
        peer.abort()
    await asyncio.sleep(0)
    return count
