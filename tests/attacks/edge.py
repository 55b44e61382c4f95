"""Every flood of `tests.floods`, aimed at the edges of a mesh: from a pod that is no member, or with a token from one.

python -P -m tests.attacks.edge NAME HOST:PORT [--seconds 4] [--mark 1337] [--token FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
from pathlib import Path

import msgspec

from services.injector.core.proxy_bootstrap import DIRECTORY, TOKEN_FILE
from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import MARK, MEMBER, PROXY, STRANGER, AttackScene
from tests.floods.catalogue import FLOODS
from tests.floods.dose import Target

_SECONDS = 4.0


async def flood(name: str, address: str, *, seconds: float, mark: int = 0, token: str = "") -> Cost:
    """One flood; what it cost."""
    host, _, port = address.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), family=socket.AF_INET)
    target = Target(host=str(found[0][4][0]), port=int(port), authority=host, mark=mark, token=token)
    chosen = FLOODS[name]
    count = await chosen.run(target, msgspec.structs.replace(chosen.dose, duration=seconds))
    said = f"{count.refused} connections refused, {count.closed} ended by the edge, {count.resets} calls reset"
    return Cost(
        connections=count.opened, requests=count.sent, bytes=count.sent_bytes, seconds=round(seconds, 1), said=said
    )


def _row(name: str) -> Attack:
    chosen = FLOODS[name]

    async def run(scene: AttackScene) -> Cost:
        words = [name, scene.edge, "--seconds", str(_SECONDS)]
        if not chosen.token:
            return await scene.program(STRANGER, "tests.attacks.edge", *words)
        words += ["--mark", str(MARK), "--token", f"{DIRECTORY}/{TOKEN_FILE}"]
        return await scene.program(MEMBER, "tests.attacks.edge", *words, container=PROXY)

    return Attack(name=f"edge-{name}", what=chosen.what.partition(";")[0].rstrip("."), run=run)


ATTACKS = tuple(_row(name) for name in FLOODS if name != "silent")
"""`edge-silent`, of 20,000 connections, is a row of `floods`."""


def main() -> None:
    """Do one of them and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(FLOODS))
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--mark", type=int, default=0)
    parser.add_argument("--token", type=Path)
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    token = options.token.read_text(encoding="ascii").strip() if options.token else ""
    told(asyncio.run(flood(options.what, options.target, seconds=options.seconds, mark=options.mark, token=token)))


if __name__ == "__main__":
    main()
