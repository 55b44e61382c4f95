"""Every event that a released build wrote is read as it was meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from services.ingestor.core.kinds import TOKEN_ISSUER, kinds
from shared.projected_objects import KINDS
from shared.records import events
from shared.records.events import APPLIED, DELETED, Event
from shared.records.pins import PIN_KIND, Pin, objects_of
from shared.records.snapshot import Snapshot
from shared.records.withheld import MOST_BYTES
from tests.corpus import recording

FILES = {
    int(found[1]): path
    for path in sorted(Path(__file__).parent.glob("events-v*.jsonl"))
    if (found := re.fullmatch(r"events-v(\d+)\.jsonl", path.name))
}
LINES = [
    pytest.param(line, id=f"v{schema}-{number}")
    for schema, path in FILES.items()
    for number, line in enumerate(path.read_bytes().splitlines(), 1)
]


def corpus(schema: int) -> list[Event]:
    return [events.decode(line) for line in FILES[schema].read_bytes().splitlines()]


def test_each_schema_that_was_released_has_its_corpus() -> None:
    assert sorted(FILES) == list(range(1, events.SCHEMA + 1))


@pytest.mark.parametrize("schema", FILES)
def test_the_corpus_lacks_no_kind_and_no_operation(schema: int) -> None:
    found = {(event.kind, event.operation) for event in corpus(schema)}
    watched = {kind.name for kind in kinds(mesh_namespace="meshlog-system")}
    every = {*KINDS, *watched, TOKEN_ISSUER, PIN_KIND}
    assert found == {(kind, operation) for kind in every for operation in (APPLIED, DELETED)}


def test_this_build_writes_the_newest_schema_as_the_corpus_has_it() -> None:
    """A change of the bytes of a schema that is out is a new schema."""
    assert list(recording.recorded()) == FILES[events.SCHEMA].read_bytes().splitlines()


WITHHELD = (Path(__file__).parent / "withheld-v1.jsonl").read_bytes().splitlines()


def test_closed_forms_are_written_as_the_corpus_has_them() -> None:
    assert list(recording.closed_forms()) == WITHHELD
    assert {events.decode(line).kind for line in WITHHELD} == {*KINDS}


@pytest.mark.parametrize("line", WITHHELD)
def test_a_build_that_knows_no_closed_forms_reads_them_as_objects(line: bytes) -> None:
    """The field is one that it does not know, which falls away, as any that a build adds."""
    fields = json.loads(line)
    assert fields.pop("withheld") > MOST_BYTES
    older = events.decode(json.dumps(fields, separators=(",", ":")).encode())
    assert older.object is not None
    assert bytes(older.object) == bytes(events.decode(line).object or b"")
    assert msgspec.json.decode(older.object, type=KINDS[older.kind]) is not None


@pytest.mark.parametrize("told", [True, False], ids=["told", "to an older build"])
def test_of_the_closed_forms_of_the_corpus_nothing_may_be_called(*, told: bool) -> None:
    compiler, snapshot = Compiler(MeshSettings(cluster=recording.CLUSTER)), Snapshot()
    for sequence, line in enumerate((*FILES[1].read_bytes().splitlines()[: len(WITHHELD)], *WITHHELD), 1):
        event = events.decode(line)
        compiler.fold(event if told else msgspec.structs.replace(event, withheld=0), sequence, epoch="e1")
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    assert list(snapshot.proxies) == [f"{recording.CLUSTER}/shop/web"], "it is a member and a pod with a sidecar still"
    names = {name for view in snapshot.views.values() for held in view.values() for name in held}
    # The outbound listener denies: there is no cluster of a service that it could lead to.
    assert names == {"blackhole", "inbound", "outbound"}
    if told:
        assert {one.key.kind for one in snapshot.quarantine if one.code == "object/too-large"} == {*KINDS}


@pytest.mark.parametrize("line", LINES)
def test_what_is_read_is_written_with_the_same_meaning(line: bytes) -> None:
    event = events.decode(line)
    written = events.encode(event)
    assert events.decode(written) == event
    if event.schema == events.SCHEMA:
        assert written == line


@pytest.mark.parametrize("line", LINES)
def test_the_object_of_an_event_is_read_whole(line: bytes) -> None:
    """No field that was written is unknown now: what is read and written again holds all of it."""
    event = events.decode(line)
    if event.object is None:
        assert event.operation == DELETED
        return
    struct = Pin if event.kind == PIN_KIND else KINDS[event.kind]
    value = msgspec.json.decode(event.object, type=struct)
    assert bytes(events.encode_object(value)) == bytes(event.object)


@pytest.mark.parametrize("schema", FILES)
def test_the_pin_puts_the_policy_of_the_corpus_in_force(schema: int) -> None:
    found = corpus(schema)
    pin = next(event for event in found if event.kind == PIN_KIND and event.object is not None)
    assert pin.object is not None
    for sequence, event in objects_of(msgspec.json.decode(pin.object, type=Pin)):
        assert event == found[sequence - 1]


@pytest.mark.parametrize("schema", FILES)
def test_all_of_the_corpus_is_compiled_and_its_end_is_an_empty_mesh(schema: int) -> None:
    compiler, snapshot = Compiler(MeshSettings(cluster=recording.CLUSTER)), Snapshot()

    def compiled(first: int, end: int) -> Snapshot:
        for sequence, event in enumerate(found[first:end], first + 1):
            compiler.fold(event, sequence, epoch="e1")
        commit = compiler.commit(snapshot)
        if commit is not None:
            snapshot.apply(commit)
            compiler.accept()
        return snapshot

    found = corpus(schema)
    half = sum(event.operation == APPLIED and event.kind != PIN_KIND for event in found)
    compiled(0, half)
    assert [(one.key.kind, one.code) for one in snapshot.quarantine] == [("UDPRoute", "smi/udp")], "and only told of"
    assert snapshot.mesh_namespaces == ["shop"]
    assert list(snapshot.proxies) == [f"{recording.CLUSTER}/shop/web"]
    names = {name for view in snapshot.views.values() for held in view.values() for name in held}
    assert {name for name in names if "shop" in name and "web" in name}
    before = snapshot.keyframe()
    compiled(half, half + 2)
    assert snapshot.keyframe().views == before.views, "the pin and its end change nothing: it is the policy in force"
    compiled(half + 2, len(found))
    assert (snapshot.proxies, snapshot.views, snapshot.resources, snapshot.mesh_namespaces) == ({}, {}, {}, [])
