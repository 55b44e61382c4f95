"""Every attack on an edge by its name, with a dose that is enough to hurt a server which does nothing about it.

Each is a function of a target and a dose that returns counts; `launch` runs one in a process of its own, so that who
measures is not slowed. All are bounded in time and connections. Aim them at loopback or at namespaces of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from tests.floods import calls, cheap_frames, handshakes, members
from tests.floods.dose import Count, Dose, Target

Run = Callable[[Target, Dose], Awaitable[Count]]


class Flood(msgspec.Struct, frozen=True, kw_only=True):
    """One attack."""

    run: Run
    dose: Dose
    """What it is measured with; its duration is replaced."""
    token: bool = False
    """Whether it needs a workload's token."""

    @property
    def what(self) -> str:
        """One sentence."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


def _flood(run: Run, *, rate: float = 0.0, connections: int = 1, token: bool = False) -> Flood:
    return Flood(run=run, dose=Dose(rate=rate, connections=connections), token=token)


FLOODS: dict[str, Flood] = {
    "silent": _flood(handshakes.silent, rate=4000, connections=8000),
    "half-handshakes": _flood(handshakes.half_handshakes, rate=300, connections=1500),
    "stalled-hellos": _flood(handshakes.stalled_hellos, rate=1000, connections=3000),
    "idle-tls": _flood(handshakes.idle, rate=300, connections=1500),
    "idle-http2": _flood(handshakes.idle_http2, rate=300, connections=1500),
    "handshake-storm": _flood(handshakes.handshake_storm, connections=4),
    "http1": _flood(handshakes.garbage, connections=2),
    "unfinished-messages": _flood(calls.unfinished_messages, connections=8),
    "empty-data": _flood(cheap_frames.empty_data),
    "padded-data": _flood(cheap_frames.padded_data),
    "small-data": _flood(cheap_frames.small_data),
    "window-update": _flood(cheap_frames.window_updates),
    "unknown-frames": _flood(cheap_frames.unknown_frames),
    "long-unknown-frames": _flood(cheap_frames.long_unknown_frames),
    "ping": _flood(cheap_frames.pings),
    "ping-ack": _flood(cheap_frames.ping_answers),
    "altsvc": _flood(cheap_frames.altsvc),
    "priority": _flood(cheap_frames.priorities),
    "settings": _flood(cheap_frames.settings),
    "rapid-reset": _flood(calls.rapid_resets),
    "provoked-reset": _flood(calls.provoked_resets),
    "continuation": _flood(calls.continuations),
    "empty-continuation": _flood(calls.empty_continuations),
    "hpack-bomb": _flood(calls.header_bombs),
    "long-headers": _flood(calls.long_headers),
    "malformed-headers": _flood(calls.malformed_headers),
    "tokenless-calls": _flood(calls.tokenless_calls, connections=2),
    "tokenless-csds": _flood(calls.tokenless_status_calls, connections=2),
    "forged-tokens": _flood(calls.forged_tokens, connections=2),
    "csds": _flood(members.status_requests, token=True),
    "chatter": _flood(members.chatter, token=True),
    "names": _flood(members.names, connections=4, token=True),
    "long-names": _flood(members.long_names, connections=2, token=True),
    "many-streams": _flood(members.many_streams, connections=4, token=True),
    "257-calls": _flood(members.one_call_too_many, token=True),
    "slow-readers": _flood(members.slow_readers, connections=100, token=True),
    "shut-windows": _flood(members.shut_windows, token=True),
}
"""By name; before HTTP/2, then frames, headers and calls of strangers, then what a token allows."""

ELSEWHERE = "127.0.0.2"
"""Address on loopback that attackers have, so that limits per address do not meet members, who have 127.0.0.1."""
_NICENESS = 5
"""An attacker has a machine of its own; on this one it yields to the server and to who measures."""


class Order(msgspec.Struct, frozen=True):
    """What a process is to do."""

    name: str
    target: Target
    dose: Dose


class Attack:
    """A running flood."""

    def __init__(self, process: asyncio.subprocess.Process, duration: float) -> None:
        self._process = process
        self._duration = duration
        self._count: Count | None = None

    async def begun(self) -> None:
        """Wait until the first units may be on their way."""
        assert self._process.stdout is not None
        if await asyncio.wait_for(self._process.stdout.readline(), 20) != b"begun\n":
            raise RuntimeError("the attack did not begin")

    async def over(self) -> Count:
        """Wait for its end."""
        if self._count is None:
            output, _ = await asyncio.wait_for(self._process.communicate(), self._duration + 30)
            self._count = msgspec.json.decode(output, type=Count)
        return self._count

    async def stop(self) -> None:
        """End it now."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def launch(name: str, target: Target, *, duration: float, dose: Dose | None = None) -> AsyncGenerator[Attack]:
    """Run a flood by name in a process of its own; it has begun when the block begins, and ends with it."""
    given = msgspec.structs.replace(dose or FLOODS[name].dose, duration=duration)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.floods",
        msgspec.json.encode(Order(name, target, given)).decode(),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=_yield,
    )
    attack = Attack(process, duration)
    try:
        await attack.begun()
        yield attack
    finally:
        await attack.stop()


def _yield() -> None:
    os.nice(_NICENESS)
