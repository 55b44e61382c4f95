"""What a fact changes against the log (faults 2, 7, 8, 11), stale and second ingestors included."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.ingestor.core.endpoint_readiness import serves
from services.ingestor.core.log_diff import (
    AppliedChange,
    DeletedChange,
    KnownObject,
    KnownObjects,
    compare,
    delete,
    observe,
)
from services.ingestor.core.observations import KindListed, NamespacedName, ObjectDeleted, Projected
from services.ingestor.core.projection import project
from tests.unit.ingestor.objects import encoded, projected

NAME = NamespacedName("shop", "web-1")


def known(item: Projected, sequence: int = 5) -> KnownObject:
    return KnownObject(uid=item.uid, resource_version=item.resource_version, digest=item.digest, sequence=sequence)


def tombstone(uid: str = "uid-web-1", rv: str = "7") -> KnownObject:
    return KnownObject(uid=uid, resource_version=rv, digest="", sequence=6)


def held(*items: Projected) -> KnownObjects:
    return {item.name: known(item) for item in items}


def listed(*items: Projected, rv: str = "100", confirming: bool = False, complete: bool = True) -> KindListed:
    return KindListed(kind="Pod", resource_version=rv, objects=items, confirming=confirming, complete=complete)


def test_a_new_object_is_applied() -> None:
    assert observe(None, projected()) == ("written", (AppliedChange(projected(), 0),))


def test_an_update_that_does_not_matter_is_dropped() -> None:
    assert observe(known(projected(rv=7)), projected(rv=8)) == ("unchanged", ())


def test_an_older_form_of_the_same_object_is_dropped() -> None:
    assert observe(known(projected(rv=9, ip="10.0.0.2")), projected(rv=8)) == ("older", ())


def test_versions_that_are_no_numbers_are_never_older() -> None:
    assert observe(known(projected(rv="b", ip="10.0.0.2")), projected(rv="a"))[0] == "written"


def test_a_recreated_object_is_a_deletion_and_a_creation() -> None:
    verdict, changes = observe(known(projected(uid="old", rv=7)), projected(uid="new", rv=9))
    assert verdict == "written"
    assert [type(change) for change in changes] == [DeletedChange, AppliedChange]
    assert isinstance(changes[0], DeletedChange)
    assert changes[0].uid == "old"


def test_a_deleted_uid_never_comes_back() -> None:
    assert observe(tombstone(rv="7"), projected(rv=6)) == ("older", ())
    assert observe(tombstone(rv="7"), projected(rv=9))[0] == "written", "newer than its deletion: it never was deleted"
    assert observe(tombstone(rv="x"), projected(rv="y")) == ("older", ()), "what cannot be compared is not believed"
    assert observe(tombstone(uid="other", rv="7"), projected(rv=9))[0] == "written"


def test_what_a_later_list_holds_was_never_deleted() -> None:
    """A list that wrongly lacked an object deleted it; the next true list brings it back, however old its form."""
    objects = {NAME: tombstone(rv="14")}
    assert [type(change) for change in compare(objects, listed(projected(rv=11), rv="18")).changes] == [AppliedChange]
    assert compare(objects, listed(projected(rv=11), rv="14")).changes == ()
    assert compare(objects, listed(projected(rv=11), rv="13")).changes == ()


def test_news_of_a_deletion_does_not_hit_the_successor() -> None:
    fact = ObjectDeleted(kind="Pod", name=NAME, uid="old", resource_version="9")
    assert delete(known(projected(uid="new", rv=10)), fact) == ("older", ())
    assert delete(known(projected(uid="new", rv="x")), fact) == ("older", ()), "what cannot be compared deletes nothing"
    assert delete(None, fact) == ("unchanged", ())
    assert delete(tombstone(uid="old"), fact) == ("unchanged", ())


def test_a_list_finds_deletions_that_were_slept_through() -> None:
    difference = compare(held(projected("a"), projected("b")), listed(projected("b")))
    assert [change.name.name for change in difference.changes if isinstance(change, DeletedChange)] == ["a"]
    assert difference.unchanged == 1


def test_a_partial_list_deletes_nothing() -> None:
    assert compare(held(projected("a")), listed(complete=False)).changes == ()


def test_an_unreadable_object_keeps_its_last_good_form() -> None:
    fact = KindListed(kind="Pod", resource_version="100", objects=(), unreadable=frozenset({NAME}))
    assert compare(held(projected()), fact).changes == ()


def test_an_older_list_does_not_delete_newer_objects_and_is_doubted() -> None:
    difference = compare(held(projected("a", rv=150)), listed(rv="100"))
    assert difference.changes == ()
    assert difference.spared == 1
    assert difference.suspect == 150


def test_a_list_that_confirms_the_past_rules() -> None:
    """A cluster restored from a backup has really gone back."""
    objects = held(projected("a", rv=150), projected("b", rv=149, ip="10.0.0.2"))
    difference = compare(objects, listed(projected("b", rv=90), rv="101", confirming=True), suspected=150)
    assert [type(change) for change in difference.changes] == [AppliedChange, DeletedChange]
    assert difference.suspect == 0


def test_a_confirming_list_newer_than_the_suspicion_is_only_behind_another_writer() -> None:
    """Version 200 was written between the two lists: the second list (160) confirms nothing."""
    difference = compare(held(projected("a", rv=200)), listed(rv="160", confirming=True), suspected=150)
    assert difference.changes == ()
    assert difference.suspect == 200


def test_a_confirming_list_as_new_as_the_suspicion_does_not_win() -> None:
    difference = compare(held(projected("a", rv=200)), listed(rv="150", confirming=True), suspected=150)
    assert (difference.changes, difference.suspect, difference.back_to) == ((), 200, "")


@pytest.mark.parametrize(
    ("living", "missing", "options", "deleted"),
    [
        (12, 7, {}, 0),
        (12, 6, {}, 6),
        (9, 9, {}, 9),
        (10, 10, {}, 0),
        (12, 12, {"confirming": True}, 12),
    ],
    ids=["most", "half", "few living", "all", "confirmed"],
)
def test_26_a_list_that_lacks_most_of_a_kind_is_confirmed_first(
    living: int, missing: int, options: dict[str, Any], deleted: int
) -> None:
    items = [projected(f"p{number:02}") for number in range(living)]
    difference = compare(held(*items), listed(*items[missing:], **options))
    assert [type(change) for change in difference.changes] == [DeletedChange] * deleted
    assert (difference.panic, difference.spared) == (deleted == 0, missing - deleted)
    assert len(compare(held(*items), listed(*items[missing:], **options), panic=1).changes) == missing


def test_the_token_issuer_has_no_uid_and_may_come_back() -> None:
    item = projected(uid="", rv="")
    assert observe(KnownObject(uid="", resource_version="", digest="", sequence=3), item)[0] == "written"


def _slice(*ready: bool | None, rv: int = 7) -> Projected:
    endpoints = [{"addresses": [f"10.0.0.{number}"], "conditions": {"ready": one}} for number, one in enumerate(ready)]
    value = {
        "metadata": {"name": "web-abc", "namespace": "shop", "uid": "us", "resourceVersion": str(rv)},
        "addressType": "IPv4",
        "endpoints": endpoints,
    }
    return project("EndpointSlice", encoded(value), api_version="discovery.k8s.io/v1", source="list")


def _serving(item: Projected) -> KnownObjects:
    return {item.name: msgspec.structs.replace(known(item), serving=serves(item.kind, item.body))}


@pytest.mark.parametrize("after", [(_slice(False, False, rv=9),), (_slice(rv=9),), ()])
def test_26_a_list_that_takes_the_last_ready_endpoint_of_a_slice_is_confirmed_first(
    after: tuple[Projected, ...],
) -> None:
    before = _serving(_slice(True, None))
    doubted = compare(before, listed(*after))
    assert (doubted.changes, doubted.panic, doubted.spared) == ((), True, 1)
    confirmed = compare(before, listed(*after, confirming=True))
    assert (len(confirmed.changes), confirmed.panic) == (1, False)
    unguarded = compare(before, listed(*after), panic=1)
    assert (len(unguarded.changes), unguarded.panic) == (1, False)


def test_26_a_slice_that_keeps_a_ready_endpoint_or_never_had_one_is_no_reason_to_doubt() -> None:
    for before, after in ((_slice(True, True), _slice(False, True, rv=9)), (_slice(False), _slice(rv=9))):
        difference = compare(_serving(before), listed(after))
        assert (len(difference.changes), difference.panic) == (1, False)


def test_26_a_watch_that_says_that_nothing_is_ready_is_believed() -> None:
    before = _slice(True)
    assert observe(_serving(before)[before.name], _slice(False, rv=9))[0] == "written"
