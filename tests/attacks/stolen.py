"""A workload's token that was read by another pod, while the edges refuse tokens from elsewhere (`peer_address`).

    python -P -m tests.attacks.stolen HOST:PORT TOKEN BUNDLE

Runs in a pod that is not the token's: opens streams with it, as `member` does with its own.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time

from services.injector.core.proxy_bootstrap import BUNDLE_FILE, DIRECTORY, TOKEN_FILE
from tests.attacks import member
from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import PROXY, STRANGER, VICTIM, AttackScene
from tests.faults.rows import roll
from tests.faults.scene import SYSTEM

_STREAMS = 10
_EDGES = "meshlog-xds-edge"


async def replay(host: str, port: int, token: str, bundle: str) -> Cost:
    """Open streams with the token; how many were served is the last word of what is said."""

    def trusting() -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=bundle)
        context.set_alpn_protocols(["h2"])
        return context

    began, served = time.monotonic(), 0
    for _ in range(_STREAMS):
        try:
            async with asyncio.timeout(5):
                await member.served(host, port, node="outside/thief", mark=0, trust=trusting, bearer=lambda: token)
            served += 1
        except OSError:
            continue
    said = f"of {_STREAMS} streams were served: {served}"
    return Cost(connections=_STREAMS, requests=_STREAMS, seconds=round(time.monotonic() - began, 1), said=said)


async def _setting(scene: AttackScene, value: str) -> None:
    variable = {"name": "MESHLOG_PEER_ADDRESS", "value": value}
    container = {"name": "xds-edge", "env": [variable]}
    await roll(scene, "deployments", _EDGES, {"template": {"spec": {"containers": [container]}}})


async def _run(scene: AttackScene) -> Cost:
    stolen: list[str] = []
    for name in (TOKEN_FILE, BUNDLE_FILE):
        command = await scene.start(VICTIM, ("cat", f"{DIRECTORY}/{name}"), container=PROXY)
        stolen.append(await command.finish(within=10))
    # Counted only, it is served: so it is the address alone that stops it below.
    taken = await scene.program(STRANGER, "tests.attacks.stolen", scene.edge, *stolen)
    assert taken.said.endswith(f": {_STREAMS}"), f"the token is no good anyway: {taken.said}"
    await _setting(scene, "refuse")
    try:
        cost = await scene.program(STRANGER, "tests.attacks.stolen", scene.edge, *stolen)
        assert cost.said.endswith(": 0"), cost.said
        return cost
    finally:
        await _setting(scene, "count")


ATTACKS = (
    Attack(
        name="edge-stolen-token",
        what="a workload's token replayed from another pod, with peer_address=refuse",
        run=_run,
        within=120.0,
        rolls=f"{SYSTEM}/{_EDGES}-",
    ),
)


def main() -> None:
    """Replay, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("token")
    parser.add_argument("bundle")
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    told(asyncio.run(replay(host, int(port), options.token.strip(), options.bundle)))


if __name__ == "__main__":
    main()
