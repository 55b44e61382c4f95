"""Why is complete and minimal: what decides changes the bytes when it goes, what is not named never does."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cli.explain.provenance import why
from cli.history.timeline import Timeline, living
from services.compiler.core.compiler import Compiler
from services.compiler.core.explain import ProxyExplanation
from services.compiler.envoy_names import ObjectName
from services.compiler.mesh_state import MeshSettings
from shared.records import events
from shared.records.events import Event, ObjectKey
from tests.property.compiler.worlds import applied, flat, histories
from tests.property.history.worlds import recorded

FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def holds(state: list[Event], proxy: str, identity: tuple[str, str, str]) -> bool:
    """Compiled from scratch, whole, whether the proxy has these bytes under this name."""
    compiler = Compiler(MeshSettings())
    for sequence, event in enumerate(state, 1):
        compiler.fold(event, sequence)
    result = compiler.result()
    found = result.proxies.get(proxy)
    type_url, name, digest = identity
    return found is not None and result.views[found.workload_class].get(type_url, {}).get(name) == digest


@FEW
@given(histories(), st.data())
def test_what_decides_is_what_the_bytes_do_not_survive(batches: list[list[Event]], data: st.DataObject) -> None:
    async def claim() -> None:
        history = flat(batches)
        assume(history)
        timeline = Timeline(await recorded(batches, together=[2]))
        snapshot = await timeline.snapshot(await timeline.head())
        assume(snapshot.proxies)
        proxy = data.draw(st.sampled_from(sorted(snapshot.proxies)))
        view = snapshot.views[snapshot.proxies[proxy].workload_class]
        held = [(kind, name) for kind, names in sorted(view.items()) for name in sorted(names)]
        type_url, name = data.draw(st.sampled_from(held))
        answer = await why(timeline, snapshot, proxy, type_url, name)
        identity = (type_url, name, answer.resource.hash)
        state = {key: item.event for key, item in living(await timeline.state(len(history))).items()}
        deciding = {reason.cause.key for reason in answer.decides}
        named = deciding | {reason.cause.key for reason in answer.read}
        assert answer.split == holds(list(state.values()), proxy, identity)
        if not answer.split:
            return  # Some object is unreadable now, and its last good form is in force: only history knows it.
        for key in state:
            without = [event for other, event in state.items() if other != key]
            assert holds(without, proxy, identity) == (key not in deciding), key
        changed = data.draw(applied)
        if changed.key not in named and changed.key in state and not _decides_the_class(state, proxy, changed.key):
            other = {**state, changed.key: msgspec.structs.replace(changed, operation=events.APPLIED)}
            assert holds(list(other.values()), proxy, identity), changed.key

    asyncio.run(claim())


def _decides_the_class(state: dict[ObjectKey, Event], proxy: str, key: ObjectKey) -> bool:
    """Whether the compiler read it to find out what the proxy holds at all, beside this resource."""
    _, namespace, pod = proxy.split("/")
    looking = ProxyExplanation(MeshSettings(), ObjectName(namespace, pod))
    looking.fold((event, sequence) for sequence, event in enumerate(state.values(), 1))
    return key in {cause.key for cause in looking.reached_by()}
