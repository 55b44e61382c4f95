"""An object that the log cannot take, of any kind: its closed form stands there instead, until it is small again."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from services.ingestor.core.kinds import TOKEN_ISSUER, WatchedKind, kinds
from services.ingestor.core.log_diff import AppliedChange
from services.ingestor.core.projection import UnreadableObjectError, project, project_issuer
from services.ingestor.core.records import draft
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import MAX_PAYLOAD, EventLog
from shared.projected_objects import KINDS
from shared.records.events import Event
from shared.records.subjects import Streams
from shared.records.withheld import GRANTING, MOST_BYTES, closed
from tests.corpus.recording import SPECS
from tests.unit.ingestor.rig import Rig, history
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

ALL = kinds(mesh_namespace="meshlog-system")
TEXT = "y" * 1_200_000


def small(kind: WatchedKind) -> dict[str, Any]:
    """An object of a kind as the API server has it."""
    api_version, rest = SPECS[kind.name]
    meta = {"name": kind.object_name or "web", "uid": f"u-{kind.name}", "labels": {"app": "web"}}
    if kind.name != "Namespace":
        meta["namespace"] = kind.namespace or "shop"
    return {"apiVersion": api_version, "kind": kind.name, "metadata": meta, **copy.deepcopy(rest)}


def large(kind: WatchedKind) -> dict[str, Any]:
    """The same with more than the log takes: in its labels, which every kind has, and in the contents of policy."""
    value = small(kind)
    value["metadata"]["labels"]["much"] = TEXT
    if "spec" in value:
        value["spec"]["much"] = TEXT
    return value


def unreadable(kind: WatchedKind) -> dict[str, Any]:
    return {**small(kind), "spec": "nothing"}


def encoded(value: dict[str, Any], **meta: Any) -> bytes:
    return json.dumps({**value, "metadata": {**value["metadata"], **meta}}).encode()


async def newest(log: EventLog) -> dict[str, Event]:
    return {event.kind: event for event in await history(log)}


async def closes_and_comes_back(log: EventLog) -> None:
    """Each kind as an ingestor writes it into a log: small, too large, small."""
    server = ScriptedServer(page=500)
    for kind in ALL:
        server.apply(kind.name, small(kind))
    async with Rig(server, log, kinds=ALL) as rig:
        await eventually(lambda: rig.writer.counts.written == len(ALL), within=10.0, what="all are written")
        before = await newest(log)
        assert rig.writer.index.withheld() == {}
        for kind in ALL:
            server.apply(kind.name, large(kind))
        await eventually(lambda: rig.writer.counts.withheld == len(ALL), within=20.0, what="all are closed")
        for kind, event in (await newest(log)).items():
            assert event.withheld > MOST_BYTES, kind
            assert event.object is not None
            was = msgspec.json.decode(before[kind].object or b"", type=KINDS[kind])
            found = msgspec.json.decode(event.object, type=KINDS[kind])
            assert found == closed(kind, was), f"{kind}: what remains is what the object was known by"
        assert rig.writer.index.withheld() == {kind.name: 1 for kind in ALL}
        for kind in ALL:
            server.apply(kind.name, small(kind))
        await eventually(lambda: rig.writer.counts.written == 3 * len(ALL), within=10.0, what="all are written again")
        assert rig.writer.index.withheld() == {}
        after = await newest(log)
        assert {kind: bytes(event.object or b"") for kind, event in after.items()} == {
            kind: bytes(event.object or b"") for kind, event in before.items()
        }


async def test_each_kind_closes_when_it_is_too_large_and_comes_back_when_it_is_small() -> None:
    await closes_and_comes_back(MemoryLog())


async def test_a_writer_that_starts_anew_knows_what_is_withheld_and_says_nothing_twice() -> None:
    server, log = ScriptedServer(page=500), MemoryLog()
    for kind in ALL:
        server.apply(kind.name, large(kind))
    for _ in range(2):
        async with Rig(server, log, kinds=ALL) as rig:
            await eventually(lambda r=rig: r.writer.settled >= {k.name for k in ALL}, within=20.0, what="all is read")
            assert rig.writer.index.withheld() == {kind.name: 1 for kind in ALL}
    assert len(await history(log)) == len(ALL)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_an_event_fits_whatever_its_object_holds(kind: WatchedKind) -> None:
    """At the limit too, with names of every length that Kubernetes takes and characters that JSON has to escape."""
    value = small(kind)
    value["metadata"] |= {
        "name": "\u0001" * 253,
        "namespace": "\u0001" * 63,
        "uid": "\u0001" * 64,
        "managedFields": [{"manager": "\u0001" * 500_000, "time": "\u0001" * 500}],
        "annotations": {"meshlog.io/change-set": "\u0001" * 250 + "/2"},
    }
    for length in (0, MOST_BYTES - 5000, MOST_BYTES, 2_000_000):
        value["metadata"]["labels"] = {"much": "y" * length}
        value["metadata"]["annotations"]["meshlog.io/x"] = "y" * length
        item = project(kind.name, encoded(value), api_version="", source="watch")
        written = draft(AppliedChange(item, 0), "", cluster="c" * 63, streams=Streams(), turn="e")
        assert len(written.payload) <= MAX_PAYLOAD
        if length in (0, 2_000_000):
            assert bool(item.withheld) is bool(length)


def test_keys_of_the_issuer_that_are_too_many_prove_nothing() -> None:
    item = project_issuer("https://issuer", {"keys": [{"n": TEXT}]})
    assert item.kind == TOKEN_ISSUER
    assert item.withheld
    assert json.loads(item.body) == {"issuer": "", "jwks": {"keys": []}}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_policy_that_grants_closes_too_when_it_cannot_be_read(kind: WatchedKind) -> None:
    """It may have been meant to revoke; of other kinds a typing error ends no traffic: they are left out alone."""
    if kind.name not in GRANTING:
        if "spec" in SPECS[kind.name][1]:
            with pytest.raises(UnreadableObjectError):
                project(kind.name, encoded(unreadable(kind)), api_version="", source="watch")
        return
    item = project(kind.name, encoded(unreadable(kind), resourceVersion="7"), api_version="", source="watch")
    assert 0 < item.withheld <= MOST_BYTES
    reported = {**unreadable(kind), "status": {"conditions": [{"type": "Accepted", "status": "False"}]}}
    again = project(kind.name, encoded(reported, resourceVersion="1007"), api_version="", source="watch")
    assert again.digest == item.digest, "what is written into its status is no news"


def test_a_closed_form_is_never_taken_for_the_object_that_says_the_same() -> None:
    account = next(kind for kind in ALL if kind.name == "ServiceAccount")
    was = project("ServiceAccount", encoded(small(account), labels={}), api_version="", source="watch")
    now = project("ServiceAccount", encoded(large(account)), api_version="", source="watch")
    assert was.body == now.body
    assert was.digest != now.digest
