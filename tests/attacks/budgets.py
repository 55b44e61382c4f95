"""A tenant who fills: objects of one namespace that cost others time and memory, beyond the budgets and just within.

Beyond: the webhook refuses each, so that nothing of it is compiled. Within: the largest objects that it takes, as many
as a namespace may have, some of which name an account of another namespace that never asked for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from shared.errors import MeshlogError
from shared.policy.budgets import Budgets
from tests.attacks.attack import Attack, Cost
from tests.attacks.scene import MEMBER, VICTIM, AttackScene

Manifest = dict[str, Any]
NAMESPACE, ACCOUNT = MEMBER
LIMITS = Budgets()
HOLDS = 6.0
"""Seconds for which the objects stay."""
TRIES = 20
"""How often an object is sent that will be refused."""
GROUPS = 10
TARGETS = 60


def _made(kind: str, api_version: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def group(name: str, *, matches: int, chars: int) -> Manifest:
    """An HTTPRouteGroup of so many regular expressions, with so many characters together."""
    each = chars // matches
    found = [
        {"name": f"m{number}", "methods": ["GET"], "pathRegex": f"/{number}/[a-f]*".ljust(each, "x")[:each]}
        for number in range(matches)
    ]
    return _made("HTTPRouteGroup", "specs.smi-spec.io/v1alpha4", name, {"matches": found})


def target(name: str, source: tuple[str, str], *groups: str) -> Manifest:
    """A TrafficTarget from that account (namespace, name) to the tenant's own."""
    spec = {
        "destination": {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE},
        "sources": [{"kind": "ServiceAccount", "name": source[1], "namespace": source[0]}],
        "rules": [{"kind": "HTTPRouteGroup", "name": one} for one in groups],
    }
    return _made("TrafficTarget", "access.smi-spec.io/v1alpha3", name, spec)


def service(name: str, *, ports: int) -> Manifest:
    """A Service of so many ports that leads to the tenant's pod."""
    found = [{"name": f"http-{number}", "port": 20_000 + number} for number in range(ports)]
    return _made("Service", "v1", name, {"selector": {"app": MEMBER[1]}, "ports": found})


def split(name: str, of: str, *groups: str) -> Manifest:
    """A TrafficSplit of a Service by each match of the groups."""
    spec = {
        "service": of,
        "backends": [{"service": of, "weight": 100}],
        "matches": [{"kind": "HTTPRouteGroup", "name": one} for one in groups],
    }
    return _made("TrafficSplit", "split.smi-spec.io/v1alpha4", name, spec)


def beyond() -> Iterator[Manifest]:
    """Policy that is refused. Services are not reviewed: the compiler leaves out what is too large of them."""
    yield group("many", matches=9_000, chars=500_000)
    yield group("long", matches=LIMITS.matches, chars=4 * LIMITS.expression_chars)
    yield target("ruled", MEMBER, *(f"g{number}" for number in range(LIMITS.rules + 1)))


def within() -> Iterator[Manifest]:
    """The most that a namespace may have, for the tenant's own sidecars and for a caller that never asked."""
    names = [f"full-{number}" for number in range(GROUPS)]
    for name in names:
        yield group(name, matches=LIMITS.namespace_matches // GROUPS, chars=LIMITS.expression_chars // 4)
    for number in range(TARGETS):
        yield target(f"own-{number}", (NAMESPACE, f"caller-{number}"), *names)
    yield target("foreign", (VICTIM[0], VICTIM[1]), *names)
    for number in range(GROUPS):
        yield service(f"wide-{number}", ports=LIMITS.service_ports)
        yield split(f"wide-{number}", f"wide-{number}", *names)


async def _refused(scene: AttackScene) -> Cost:
    objects, sent = list(beyond()), 0
    for number in range(TRIES):
        made = objects[number % len(objects)]
        status, answer = await scene.api.request(
            "PATCH",
            await scene.api.path_of(made),
            body=made,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": "tenant", "force": "true"},
        )
        sent += len(json.dumps(made))
        if status < 300:
            await scene.api.delete(made)
        assert status in {400, 403, 422}, f"{made['kind']} {made['metadata']['name']} was taken: {status}"
        assert "more than" in str(answer), f"the refusal does not say why: {answer}"
    return Cost(requests=TRIES, bytes=sent, said="all refused")


async def _filled(scene: AttackScene) -> Cost:
    objects = list(within())
    refused: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for one in objects:
            stack.push_async_callback(scene.api.delete, one)
            try:
                await scene.api.apply(one)
            except MeshlogError as error:
                refused.append(f"{one['kind']} {one['metadata']['name']}: {error}")
        await asyncio.sleep(HOLDS)
    assert not refused, f"{len(refused)} objects within their budgets were refused: {refused[0]}"
    return Cost(requests=len(objects), bytes=sum(len(json.dumps(one)) for one in objects), said="taken, within bounds")


ATTACKS = (
    Attack(
        name="tenant-beyond-budgets",
        what="policy of 9,000 expressions, and more of its kind",
        run=_refused,
        short=True,
    ),
    Attack(
        name="tenant-fills-budgets",
        what="a namespace filled to its budgets, a foreign caller named",
        run=_filled,
        within=120.0,
    ),
)
