"""Random calls in random meshes through real Envoys: they do what a reading of the SMI specification says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from cli.calls.path import Sidecars
from tests.integration.compiler.realised import DENIED, Realised, realised
from tests.oracle.deciding import expected, request_of
from tests.oracle.meshes import (
    ACCOUNTS,
    BYTES,
    HEADERS,
    METHODS,
    NAMESPACES,
    ODD_PATHS,
    PATHS,
    TARGETS,
    Mesh,
    Offered,
    meshes,
)
from tests.oracle.smi import Ask, Cluster, Name

pytestmark = pytest.mark.envoy

CALLS, INTRUSIONS = 60, 120
REPEATED = 40
"""How often a call is repeated that may arrive at several backends: each with a quarter of the calls is seen then, but
for one time in a hundred thousand."""
AT_ONCE = 16


def telling(mesh: Mesh) -> int:
    """In how many pairs of an account and a port some requests are let through and others are not."""
    cluster = Cluster(mesh.events)
    asks = [Ask(method, path) for method in METHODS[:2] for path in PATHS[:3]]
    found = 0
    for account in ((where, who) for where in NAMESPACES for who in ACCOUNTS):
        for pod in mesh.pods:
            for port in TARGETS[:2]:
                answers = {cluster.admits(account, (pod.namespace, pod.name), port, ask) for ask in asks}
                found += len(answers) > 1
    return found


def sample(number: int, *, count: int = 1) -> list[Mesh]:
    """Random meshes, the most telling of many; the same ones for the same number."""
    found: list[Mesh] = []

    @seed(number)
    @settings(
        max_examples=12 * count + 12,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(meshes())
    def collect(mesh: Mesh) -> None:
        found.append(mesh)

    collect()
    return sorted(found, key=telling)[-count:]


class Call(NamedTuple):
    """One call, and who may answer it."""

    caller: Name
    service: Offered
    host: str
    port: int
    ask: Ask | None
    outcomes: frozenset[str]
    """Pods that may answer, and `DENIED` if it may be denied."""
    seen: frozenset[str]
    """Backends of which some pod must be seen among many answers."""


def _ask(choice: random.Random, *, read: bool) -> Ask | None:
    headers = choice.sample(HEADERS, choice.randrange(3))
    if sum(name == "host" for name, _ in headers) > 1:
        headers = headers[:1]
    ask = Ask(choice.choice(METHODS), choice.choice(choice.choice((PATHS, ODD_PATHS))), tuple(headers))
    return ask if read else None


def calls(world: Realised, cluster: Cluster, choice: random.Random) -> list[Call]:
    """Random calls as applications make them: to an address, through their own sidecars."""
    sidecars = Sidecars(world.snapshot, world.mesh.addresses)
    found: list[Call] = []
    while world.pods and len(found) < CALLS:
        caller = choice.choice(sorted(world.pods))
        service = choice.choice(world.mesh.services)
        port, _, label = choice.choice(service.ports)
        ask = _ask(choice, read=not label.startswith("tcp"))
        host = choice.choice(world.mesh.hosts_of(service))
        chain = sidecars.decide("/".join(("cluster", *caller)), host, port, request_of(ask or Ask("GET", "/"))).chain
        if service.headless and chain != f"outbound|{service.namespace}/{service.name}|{port}":
            continue  # not a pod of that service, or one that an older headless service has
        shares, ways = expected(cluster, caller, service, (host, port), ask)
        outcomes = {"/".join(pod) for _, pod, _, may in ways if may}
        served = {name for _, name in shares if any(may for backend, _, _, may in ways if backend == name)}
        if not outcomes or not all(may for *_, may in ways) or len(served) < len(shares):
            outcomes.add(DENIED)
        often = {name for (_, name), share in shares.items() if share * 4 >= 1} & served if served else ()
        found.append(Call(caller, service, host, port, ask, frozenset(outcomes), frozenset(often)))
    return found


async def _check_call(world: Realised, cluster: Cluster, call: Call) -> str:
    """What is wrong with a call; nothing if nothing is."""
    several = len(call.outcomes) > 1
    answers = {await world.call(call.caller, call.host, call.port, call.ask) for _ in range(REPEATED if several else 1)}
    if not answers <= call.outcomes:
        return f"{call}: got {sorted(answers - call.outcomes)}"
    for name in call.seen if several else ():
        backend = (call.service.namespace, name)
        pods = {"/".join(pod) for pod, _ in cluster.behind_or_not(backend, call.port)}
        if not pods & answers:
            return f"{call}: {name} was never reached, only {sorted(answers)}"
    return ""


def _led_to(mesh: Mesh, cluster: Cluster) -> set[tuple[Name, int]]:
    """Pods and their ports that some service leads to."""
    return {
        found
        for service in mesh.services
        for number, _, _ in service.ports
        for found in cluster.behind_or_not((service.namespace, service.name), number)
    }


async def _check_intrusion(world: Realised, ends: tuple[Name, Name], port: int, ask: Ask | None, *, may: bool) -> str:
    """What is wrong with the answer to one who asks a pod's sidecar directly."""
    caller, server = ends
    wanted = "/".join(server) if may else DENIED
    got = await world.intrude(caller, server, port, ask)
    return "" if got == wanted else f"{caller} -> {server}:{port} {ask}: got {got}, not {wanted}"


async def agrees(mesh: Mesh, number: int, directory: Path) -> tuple[int, int]:
    """Compare; how many calls passed and how many were denied."""
    choice = random.Random(number)  # noqa: S311 (the same calls each time)
    gate = asyncio.Semaphore(AT_ONCE)
    async with realised(mesh, directory) as world:
        cluster = Cluster(world.mesh.events, loopback=True)

        async def one(check: Coroutine[None, None, str]) -> str:
            async with gate:
                return await check

        made = calls(world, cluster, choice)
        checks = [_check_call(world, cluster, call) for call in made]
        pods, opened = sorted(world.pods), _led_to(world.mesh, cluster)
        for _ in range(INTRUSIONS if pods else 0):
            port = choice.choice(TARGETS)
            ends = choice.choice(pods), choice.choice(pods)
            ask = _ask(choice, read=port != BYTES)
            may = (ends[1], port) in opened and cluster.may(*ends, port, ask)
            checks.append(_check_intrusion(world, ends, port, ask, may=may))
        wrong = [found for found in await asyncio.gather(*map(one, checks)) if found]
    assert not wrong, "\n".join(wrong)
    passing = sum(bool(call.outcomes - {DENIED}) for call in made)
    return passing, len(made) - passing


@pytest.mark.parametrize("number", [17, 21])
async def test_real_envoys_agree_with_the_specification(number: int, tmp_path: Path) -> None:
    """On who is let through, from where an application stands and from where an intruder does, and on the backends."""
    (mesh,) = sample(number)
    passed, denied = await agrees(mesh, number, tmp_path)
    assert passed, "a mesh that says nothing"
    assert denied, "a mesh that says nothing"


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_real_envoys_agree_with_the_specification_in_many_meshes(tmp_path: Path) -> None:
    passed = denied = 0
    for number, mesh in enumerate(sample(77, count=50)):
        directory = tmp_path / str(number)
        directory.mkdir()
        more = await agrees(mesh, number, directory)
        passed, denied = passed + more[0], denied + more[1]
    assert passed > 300
    assert denied > 300
