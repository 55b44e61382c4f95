"""Each attack for a second, in a process of its own, against an edge over real TLS: members are served all the same."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from shared.records.snapshot import CDS, EDS
from tests.floods.catalogue import ELSEWHERE, FLOODS, launch
from tests.floods.dose import Target
from tests.floods.joining import joins
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.world import World, world

MEMBER, ATTACKER = "shop/web-1", "shop/taken-over"
pytestmark = pytest.mark.alone
PROXIES = {MEMBER: ("u1", "web"), ATTACKER: ("u2", "web")}
SNAPSHOT = {"web": {CDS: {f"c{n}": os.urandom(4096) for n in range(50)}, EDS: {"c1": b"endpoints"}}}


def target_of(mesh: World, port: int, pod: str, directory: Path) -> Target:
    """The edge as this pod reaches it."""
    roots = directory / "roots.pem"
    roots.write_text(mesh.ca.root_pem)
    namespace, name = pod.split("/")
    token = mesh.issuer.token(namespace, "default", name, PROXIES[pod][0])
    return Target(port=port, authority=EDGE_DNS, roots=str(roots), token=token)


def starved() -> float:
    """Seconds that this thread, which is the edge's and the member's, was ready to run and had no processor."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


@pytest.mark.parametrize("name", sorted(FLOODS))
async def test_a_member_is_served_within_a_second_under_a_flood(name: str, tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.compiler.publish(SNAPSHOT, PROXIES)
        edge = await mesh.edge()
        member = target_of(mesh, edge.server.port, MEMBER, tmp_path)
        attacker = msgspec.structs.replace(target_of(mesh, edge.server.port, ATTACKER, tmp_path), sources=(ELSEWHERE,))
        before = starved()
        async with launch(name, attacker, duration=1.0) as attack:
            served = await joins([(member, MEMBER)], duration=1.0)
            count = await attack.over()
    assert count.sent or count.opened, "the attack came through"
    assert served.unserved == 0
    assert served.worst < 1.0 + starved() - before, (
        "a second, and what other work of the machine took from this process"
    )
