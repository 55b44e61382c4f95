"""The store: numbers, windows, and watchers that are positions."""

from __future__ import annotations

import asyncio

from deploy.devcluster.apiserver.object_store import ObjectWrite, Store


def write(name: str, *, remove: bool = False) -> ObjectWrite:
    return ObjectWrite("configmaps", ("n", name), {"apiVersion": "v1", "metadata": {"name": name}}, remove=remove)


def test_writes_of_one_commit_get_consecutive_versions() -> None:
    store = Store()
    before = store.revision
    first, second = store.commit([write("a"), write("b")])
    assert (first.revision, second.revision) == (before + 1, before + 2)
    assert second.obj["metadata"]["resourceVersion"] == str(before + 2)


def test_a_journal_knows_what_came_after_a_revision() -> None:
    store = Store(window=10)
    journal = store.journal("configmaps")
    revisions = [store.commit([write(name)])[0].revision for name in ("a", "b", "a")]
    position = journal.position(revisions[0])
    assert position is not None
    changes = journal.read(position)
    assert changes is not None
    assert [(one.type, one.key[1]) for one in changes] == [("ADDED", "b"), ("MODIFIED", "a")]


def test_what_left_the_window_is_said_to_be_gone() -> None:
    store = Store(window=3)
    journal = store.journal("configmaps")
    revisions = [store.commit([write(str(number))])[0].revision for number in range(5)]
    assert journal.position(revisions[0]) is None
    assert journal.position(revisions[1]) is not None
    assert journal.read(0) is None


def test_a_deletion_has_its_own_version_and_remembers_the_object() -> None:
    store = Store()
    stored = store.commit([write("a")])[0]
    removed = store.commit([write("a", remove=True)])[0]
    assert removed.revision > stored.revision
    changes = store.journal("configmaps").read(0)
    assert changes is not None
    assert changes[-1].type == "DELETED"
    assert changes[-1].previous is stored
    assert store.get("configmaps", "n", "a") is None


async def test_a_watcher_wakes_for_its_own_kind_only() -> None:
    store = Store()
    waiting = asyncio.ensure_future(store.journal("pods").more(0))
    await asyncio.sleep(0)
    store.commit([write("a")])
    await asyncio.sleep(0)
    assert not waiting.done()
    store.commit([ObjectWrite("pods", ("n", "p"), {"apiVersion": "v1", "metadata": {"name": "p"}})])
    await asyncio.wait_for(waiting, 5)


def test_an_object_is_encoded_once_for_each_version() -> None:
    store = Store()
    stored = store.commit([write("a")])[0]
    assert stored.encoded("v1") is stored.encoded("v1")
    assert b'"apiVersion":"v2"' in stored.encoded("v2")
    assert stored.obj["apiVersion"] == "v1"
