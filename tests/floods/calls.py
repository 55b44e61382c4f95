"""Calls that a stranger opens: many, malformed, reset at once, with endless headers, or with endless messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

from tests.floods import wire
from tests.floods.assailant import Assailant, GoneError, Pace, besiege
from tests.floods.dose import Count, Dose, Target

_AT_ONCE = 100
"""Calls in one write."""
_MOST_STREAMS = 1_000_000
"""Calls that a connection may take; then it opens another."""
UNFINISHED = 8 * 1024 * 1024
"""Bytes of a message of which one byte never comes."""


async def tokenless_calls(target: Target, dose: Dose) -> Count:
    """ADS calls without a token."""
    block = wire.call_headers(wire.DELTA, authority=target.authority)
    return await _calls(target, dose, lambda stream: wire.opening(stream, block, ends=True))


async def tokenless_status_calls(target: Target, dose: Dose) -> Count:
    """CSDS calls without a token, with a request."""
    block = wire.call_headers(wire.CSDS_FETCH, authority=target.authority)
    request = wire.message(b"")
    return await _calls(
        target,
        dose,
        lambda stream: wire.opening(stream, block) + wire.frame(wire.DATA, wire.END_STREAM, stream, request),
    )


async def forged_tokens(target: Target, dose: Dose) -> Count:
    """ADS calls whose token is well formed, of the right issuer, and wrongly signed: each costs a verification."""
    block = wire.call_headers(wire.DELTA, authority=target.authority, token=forged(target.token))
    return await _calls(target, dose, lambda stream: wire.opening(stream, block, ends=True))


async def rapid_resets(target: Target, dose: Dose) -> Count:
    """Calls that are reset as soon as they are opened (CVE-2023-44487)."""
    block = wire.call_headers(wire.DELTA, authority=target.authority)
    return await _calls(target, dose, lambda stream: wire.opening(stream, block) + wire.reset(stream))


async def provoked_resets(target: Target, dose: Dose) -> Count:
    """Calls each followed by a frame that makes the server reset them (CVE-2025-8671)."""
    block = wire.call_headers(wire.DELTA, authority=target.authority)
    return await _calls(target, dose, lambda stream: wire.opening(stream, block) + wire.window(stream, 0))


async def malformed_headers(target: Target, dose: Dose) -> Count:
    """Calls with headers that HTTP/2 forbids, of several kinds in turn (RFC 9113, section 8.1.1)."""
    good = wire.call_headers(wire.DELTA, authority=target.authority)
    bad = [
        good + wire.literal(b"X-Upper", b"1"),
        good + wire.literal(b"connection", b"close"),
        good + wire.literal(b"te", b"gzip"),
        good + wire.literal(b":path", b"/late"),
        wire.literal(b":method", b"POST"),
        good + wire.literal(b":unknown", b"1"),
        good + wire.literal(b"x", b"a\r\nb: c"),
    ]
    return await _calls(target, dose, lambda stream: wire.opening(stream, bad[stream // 2 % len(bad)], ends=True))


async def long_headers(target: Target, dose: Dose) -> Count:
    """Calls with 40 kB of headers."""
    more = [(f"x-{number}", "v" * 4000) for number in range(10)]
    block = wire.call_headers(wire.DELTA, authority=target.authority, more=more)
    return await _calls(target, dose, lambda stream: wire.opening(stream, block, ends=True), at_once=2)


async def header_bombs(target: Target, dose: Dose) -> Count:
    """Calls of 16 kB of headers that unpack to 60 MB: references to one large entry of the table (HPACK bomb)."""
    good = wire.call_headers(wire.DELTA, authority=target.authority)
    block = good + wire.literal(b"x", b"v" * 4000, indexed=True)
    block += wire.reference(62) * (wire.LONGEST_FRAME - len(block))
    return await _calls(target, dose, lambda stream: wire.opening(stream, block, ends=True), at_once=1)


async def continuations(target: Target, dose: Dose) -> Count:
    """Headers of one call that go on for ever (CVE-2024-27316); a unit is a frame."""
    return await _continued(target, dose, wire.literal(b"x", b"v" * 1000))


async def empty_continuations(target: Target, dose: Dose) -> Count:
    """The same with frames that hold nothing; a unit is a frame."""
    return await _continued(target, dose, b"")


async def unfinished_messages(target: Target, dose: Dose) -> Count:
    """Calls without a token, half of ADS and half of CSDS, each with a message of 8 MB but for its last byte.

    Eight calls a connection; a unit is a frame of DATA.
    """
    content = (wire.message(bytes(UNFINISHED)))[:-1]

    async def attack(peer: Assailant) -> None:
        paths = (wire.CSDS_STREAM, wire.DELTA, wire.CSDS_FETCH, wire.CSDS_STREAM) * 2
        await peer.send(wire.PREFACE + wire.settings(), 0)
        for number, path in enumerate(paths):
            call = wire.call_headers(path, authority=target.authority)
            await peer.send(wire.opening(2 * number + 1, call), 0)
        pace = Pace(dose)
        for at in range(0, len(content), wire.LONGEST_FRAME):
            for number in range(len(paths)):
                await peer.send_data(2 * number + 1, content[at : at + wire.LONGEST_FRAME])
                await pace.wait(1)

    return await besiege(target, dose, attack)


def forged(token: str) -> str:
    """A token whose signature is wrong; made up, if there is no token to take it from."""
    if token:
        head, _, signature = token.rpartition(".")
        return f"{head}.{signature[::-1]}"
    parts = ({"alg": "ES256", "kid": "k1"}, {"iss": "https://issuer.test", "aud": ["meshlog"]})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join((*encoded, "A" * 86))


async def _continued(target: Target, dose: Dose, content: bytes) -> Count:
    first = wire.frame(wire.HEADERS, 0, 1, wire.call_headers(wire.DELTA, authority=target.authority))

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        size = pace.chunk(50)
        chunk = wire.frame(wire.CONTINUATION, 0, 1, content) * size
        await peer.send(wire.PREFACE + wire.settings() + first, 0)
        while True:
            await peer.send(chunk, size)
            await pace.wait(size)

    return await besiege(target, dose, attack)


async def _calls(target: Target, dose: Dose, build: Callable[[int], bytes], *, at_once: int = _AT_ONCE) -> Count:
    """Open call after call on each connection; a unit is a call."""

    async def attack(peer: Assailant) -> None:
        pace = Pace(dose)
        size = pace.chunk(at_once)
        await peer.send(wire.PREFACE + wire.settings(), 0)
        for number in range(0, _MOST_STREAMS, size):
            await peer.send(b"".join(build(2 * (number + one) + 1) for one in range(size)), size)
            await pace.wait(size)
        peer.abort()
        raise GoneError

    return await besiege(target, dose, attack)
