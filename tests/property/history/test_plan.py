"""What a plan predicts is what applying does, and a call that it calls newly allowed was not and is."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cli.history.timeline import Timeline
from cli.kubernetes.manifest_files import ObjectId
from cli.plan.planner import ChangePlan, plan
from shared.errors import BadInputError
from shared.records.events import Event
from tests.property.compiler.worlds import applied, flat, histories
from tests.property.history.worlds import contents, recorded
from tests.unit.compiler import objects

FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def manifest(event: Event) -> dict[str, object]:
    assert event.object is not None
    body = msgspec.json.decode(event.object, type=dict[str, object])
    return {"apiVersion": event.api_version, "kind": event.kind, **body}


@FEW
@given(histories(), applied, st.booleans())
def test_what_is_predicted_is_what_applying_does(batches: list[list[Event]], event: Event, deletes: bool) -> None:  # noqa: FBT001
    async def claim() -> None:
        history = flat(batches)
        assume(history)
        there = {one.key: one for one in history if one.operation == "applied"}
        before = Timeline(await recorded(batches, together=[3]))
        head = len(history)
        newest = {one.key: one for one in history}
        put: list[dict[str, object]] = []
        drop: list[ObjectId] = []
        if deletes:
            alive = [key for key, one in newest.items() if one.operation == "applied"]
            assume(alive)
            key = alive[len(history) % len(alive)]
            drop = [ObjectId(key.kind, key.namespace, key.name)]
            change = msgspec.structs.replace(there[key], operation="deleted", object=None)
        else:
            if event.key in newest and newest[event.key].operation == "applied":
                # The API server would keep identity and age of what is there; the random world does not.
                old, new = (msgspec.json.decode(one.object or b"{}") for one in (newest[event.key], event))
                # Nor would it take what is no object at all.
                assume(isinstance(old, dict) and isinstance(new, dict) and "metadata" in old and "metadata" in new)
                assume(all(old["metadata"].get(k) == new["metadata"].get(k) for k in ("uid", "creationTimestamp")))
                assume(event.kind != "Service")
            else:
                assume(event.kind in {"TrafficTarget", "HTTPRouteGroup", "TCPRoute", "EndpointSlice", "Namespace"})
            put = [manifest(event)]
            change = event
        try:
            found = await plan(before, head, put, drop, whole=True)
        except BadInputError as error:
            assume("cannot be read" not in str(error))
            raise
        after = Timeline(await recorded([*batches, [change]], together=[2]))
        published = await after.snapshot(await after.head())
        was = await before.snapshot(await before.head())
        assume(contents(found.before) == contents(was))  # no last good form that only history knows
        assert contents(found.after)[1:] == contents(published)[1:]  # type: ignore[index]
        assert_the_same(await plan(before, head, put, drop), found)
        assert found.nothing == (contents(was)[1:] == contents(published)[1:])  # type: ignore[index]

    asyncio.run(claim())


def assert_the_same(narrow: ChangePlan, whole: ChangePlan) -> None:
    """Compiling only whom the change can concern says what compiling everybody says."""
    assert narrow.difference == whole.difference
    assert (narrow.calls.allowed, narrow.calls.denied) == (whole.calls.allowed, whole.calls.denied)
    assert (narrow.drains, narrow.left_out) == (whole.drains, whole.left_out)


def wide_mesh(chance: random.Random, namespaces: list[str]) -> list[Event]:
    """Services that call each other across namespaces, each with a few pods."""
    found = [objects.namespace(namespace) for namespace in namespaces]
    for at, namespace in enumerate(namespaces):
        found.append(objects.route_group(namespace, "all", {"name": "all", "pathRegex": "/.*", "methods": ["*"]}))
        found.append(objects.route_group(namespace, "some", {"name": "some", "pathRegex": f"/{namespace}"}))
        if chance.random() < 0.3:
            found.append(objects.split(namespace, "s", root="a", backends={"a": 1, "b": 2}))
        for number, name in enumerate(("a", "b", "c")):
            pods = {f"{name}{index}": f"10.{at}.{number}.{index}" for index in range(chance.randint(0, 2))}
            found.append(objects.service(namespace, name, ip=f"10.96.{at}.{number}", selector={"app": name}))
            for pod, address in pods.items():
                found.append(objects.pod(namespace, pod, account=name, ip=address, labels={"app": name}))
            found.append(objects.slices(namespace, name, pods))
            found.append(random_target(chance, namespaces, namespace, name))
    return found


def random_target(chance: random.Random, namespaces: list[str], namespace: str, name: str) -> Event:
    return objects.target(
        namespace,
        name,
        destination=chance.choice("abc"),
        sources=[(chance.choice(namespaces), chance.choice("abc")) for _ in range(chance.randint(0, 2))],
        rules=[("HTTPRouteGroup", chance.choice(("all", "some", "none")), [])],
    )


def random_change(chance: random.Random, namespaces: list[str]) -> Event:
    where, name = chance.choice(namespaces), chance.choice("abc")
    at = namespaces.index(where)
    kind = chance.randrange(7)
    if kind == 0:
        return objects.route_group(where, "some", {"name": "some", "pathRegex": "/changed"})
    if kind == 1:
        return objects.slices(where, name, {f"{name}0": f"10.{at}.9.0"})
    if kind == 2:
        return objects.service(where, f"new-{name}", ip=f"10.97.{at}.9", selector={"app": name})
    if kind == 3:
        return objects.split(where, "another", root=name, backends={"a": 1, "c": 1})
    if kind == 4:
        return objects.pod(where, f"new-{name}", account=name, ip=f"10.{at}.8.8", labels={"app": name})
    return random_target(chance, namespaces, where, chance.choice(("a", "new")))


@pytest.mark.parametrize("seed", range(25))
async def test_a_plan_compiles_only_whom_the_change_can_concern_and_misses_nobody(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (a seed that repeats the mesh)
    namespaces = [f"n{number}" for number in range(6)]
    mesh = wide_mesh(chance, namespaces)
    timeline = Timeline(await recorded([mesh]))
    for _ in range(4):
        change = random_change(chance, namespaces)
        narrow = await plan(timeline, len(mesh), [manifest(change)], [])
        whole = await plan(timeline, len(mesh), [manifest(change)], [], whole=True)
        assert not narrow.whole
        assert narrow.before.proxies.items() <= whole.before.proxies.items()
        assert_the_same(narrow, whole)
