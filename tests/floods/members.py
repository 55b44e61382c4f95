"""Attacks with a token: what a workload that was taken over can do to the edge that serves it."""

from __future__ import annotations

import asyncio

from benchmarks.swarm.wire import CDS, EDS, write_request
from tests.floods import wire
from tests.floods.assailant import Assailant, Pace, besiege
from tests.floods.dose import Count, Dose, Target

CALLS = 257
"""One more than a connection may have."""
_NAME = 7 * 1024 * 1024
"""Bytes of a name that no resource has."""


async def status_requests(target: Target, dose: Dose) -> Count:
    """One CSDS stream that asks again and again; a unit is a request."""
    request = wire.frame(wire.DATA, 0, 1, wire.message(b""))

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        size = pace.chunk(100)
        await peer.send(_greeting() + _call(target, 1, wire.CSDS_STREAM), 0)
        while True:
            await peer.send_data(1, request[9:] * size, largest=5)
            await pace.wait(size)

    return await besiege(target, dose, attack)


async def chatter(target: Target, dose: Dose) -> Count:
    """An ADS stream that subscribes to a name and gives it up, again and again; a unit is a request."""
    pair = wire.message(write_request(EDS, subscribe=["nothing"])) + wire.message(
        write_request(EDS, unsubscribe=["nothing"])
    )

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        await peer.send(_greeting() + _call(target, 1), 0)
        await peer.send_data(1, wire.message(write_request(CDS, node="attacker")))
        while True:
            await peer.send_data(1, pair * 50, largest=len(pair))
            await pace.wait(100)

    return await besiege(target, dose, attack)


async def names(target: Target, dose: Dose) -> Count:
    """ADS streams that subscribe to a thousand new names a message; a unit is a frame."""

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        await peer.send(_greeting() + _call(target, 1), 0)
        number = 0
        while True:
            wanted = [f"name-{number}-{one}" for one in range(1000)]
            await peer.send_data(1, wire.message(write_request(EDS, subscribe=wanted)))
            await pace.wait(1)
            number += 1

    return await besiege(target, dose, attack)


async def long_names(target: Target, dose: Dose) -> Count:
    """ADS streams that subscribe to one name of 7 MB a message; a unit is a frame."""

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        await peer.send(_greeting() + _call(target, 1), 0)
        number = 0
        while True:
            content = wire.message(write_request(EDS, subscribe=[f"{number}-" + "n" * _NAME]))
            for at in range(0, len(content), wire.LONGEST_FRAME):
                await peer.send_data(1, content[at : at + wire.LONGEST_FRAME])
                await pace.wait(1)
            number += 1

    return await besiege(target, dose, attack)


async def many_streams(target: Target, dose: Dose) -> Count:
    """As many ADS streams as each connection may have, all with one token, each asking for everything."""
    return await _streams(target, dose, CALLS - 1)


async def one_call_too_many(target: Target, dose: Dose) -> Count:
    """257 calls on a connection, opened before the server's settings can be known."""
    return await _streams(target, dose, CALLS)


async def slow_readers(target: Target, dose: Dose) -> Count:
    """ADS streams that ask for everything, with windows as wide as may be, and read nothing."""
    wide = wire.settings((wire.INITIAL_WINDOW, wire.WIDEST_WINDOW)) + wire.window(0, wire.WIDEST_WINDOW - 65_535)

    async def attack(peer: Assailant) -> None:
        await peer.send(wire.PREFACE + wide + _call(target, 1), 1)
        peer.stop_reading()
        for type_url in (CDS, EDS):
            await peer.send_data(1, wire.message(write_request(type_url, node="attacker", subscribe=["*"])))

    return await besiege(target, dose, attack)


async def shut_windows(target: Target, dose: Dose) -> Count:
    """ADS streams that ask for everything and open their window a byte at a time (CVE-2019-9511)."""
    narrow = wire.settings((wire.INITIAL_WINDOW, 0))
    widening = wire.window(1, 1)

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        size = pace.chunk(100)
        await peer.send(wire.PREFACE + narrow + _call(target, 1), 0)
        await peer.send_data(1, wire.message(write_request(CDS, node="attacker")))
        await asyncio.sleep(0.05)
        while True:
            await peer.send(widening * size, size)
            await pace.wait(size)

    return await besiege(target, dose, attack)


def _greeting() -> bytes:
    """With windows as wide as may be, so that the server never waits for the attacker."""
    wide = wire.settings((wire.INITIAL_WINDOW, wire.WIDEST_WINDOW))
    return wire.PREFACE + wide + wire.window(0, wire.WIDEST_WINDOW - 65_535)


def _call(target: Target, stream: int, path: str = wire.DELTA) -> bytes:
    return wire.opening(stream, wire.call_headers(path, authority=target.authority, token=target.token))


async def _streams(target: Target, dose: Dose, count: int) -> Count:
    """A unit is a call."""
    request = wire.message(write_request(CDS, node="attacker"))

    async def attack(peer: Assailant) -> None:
        calls = [
            _call(target, 2 * number + 1) + wire.frame(wire.DATA, 0, 2 * number + 1, request) for number in range(count)
        ]
        await peer.send(_greeting() + b"".join(calls), count)

    return await besiege(target, dose, attack)
