from __future__ import annotations

import msgspec

from cli.arrival.tracker import Tracker
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus
from shared.records.snapshot import CDS, FORMAT, Commit, Proxy, Resource, ViewChange, resource_hash


def resource(name: str, body: bytes) -> Resource:
    return Resource(type_url=CDS, name=name, hash=resource_hash(CDS, body), body=body)


def proxy(name: str, workload_class: str) -> Proxy:
    return Proxy(
        cluster="c", namespace="n", pod=name, uid=f"uid-{name}", service_account="sa", workload_class=workload_class
    )


def keyframe() -> Commit:
    cluster = resource("x", b"1")
    view = ViewChange(put={CDS: {"x": cluster.hash}})
    return Commit(
        format=FORMAT,
        version=5,
        parent=0,
        epoch="e",
        build="b",
        resources=[cluster],
        views={"red": view, "blue": view},
        proxies={f"c/n/{name}": proxy(name, kind) for name, kind in (("a", "red"), ("b", "red"), ("z", "blue"))},
    )


def change(version: int, parent: int, body: bytes) -> Commit:
    cluster = resource("x", body)
    return Commit(
        format=FORMAT,
        version=version,
        parent=parent,
        epoch="e",
        build="b",
        resources=[cluster],
        views={"red": ViewChange(put={CDS: {"x": cluster.hash}})},
    )


def status(pod: str, acked: int, at: int, refusal: NackedResource | None = None) -> ProxyStatus:
    return ProxyStatus(
        cluster="c",
        namespace="n",
        pod=pod,
        uid=f"uid-{pod}",
        service_account="sa",
        edge="edge-0",
        connected=True,
        since=1,
        types={CDS: TypeStatus(sent=acked, acked=acked, acked_at=at, refusal=refusal)},
    )


def test_a_version_concerns_the_proxies_of_changed_classes_only() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    rollout = tracker.rollout(after=5, until=7)
    assert (rollout.concerned, rollout.waiting) == (2, ("c/n/a", "c/n/b"))


def test_it_is_complete_when_the_last_of_them_acknowledged_and_knows_when() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    tracker.take_status(status("a", 7, at=100))
    assert not tracker.rollout(after=5, until=7).complete
    tracker.take_status(status("b", 7, at=90))
    rollout = tracker.rollout(after=5, until=7)
    assert (rollout.complete, rollout.last_ack) == (True, 100)


def test_an_acknowledgement_seen_before_its_commit_counts() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_status(status("a", 7, at=100))
    tracker.take_status(status("b", 7, at=110))
    tracker.take_commit(change(7, 5, b"2"))
    assert tracker.rollout(after=5, until=7).complete


def test_a_proxy_that_goes_away_is_no_longer_waited_for() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    tracker.take_status(status("a", 7, at=100))
    tracker.take_commit(Commit(format=FORMAT, version=8, parent=7, epoch="e", build="b", proxies={"c/n/b": None}))
    assert tracker.rollout(after=5, until=7).complete


def test_a_range_of_versions_waits_for_all_of_them() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    tracker.take_commit(change(9, 7, b"3"))
    for pod in ("a", "b"):
        tracker.take_status(status(pod, 7, at=100))
    assert tracker.rollout(after=5, until=7).complete
    assert not tracker.rollout(after=5, until=9).complete


def test_a_refusal_is_named_with_the_proxys_own_words() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    refusal = NackedResource(version=7, resources={"x": "h"}, message="no such thing")
    tracker.take_status(status("a", 5, at=100, refusal=refusal))
    assert tracker.rollout(after=5, until=7).refusals == ("c/n/a: Cluster: no such thing",)


def test_the_version_of_an_event_is_the_first_that_reaches_it() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(7, 5, b"2"))
    assert [tracker.version_of(sequence) for sequence in (4, 6, 7, 8)] == [5, 7, 7, None]


def test_a_whole_snapshot_concerns_those_who_held_something_else() -> None:
    """A new epoch begins with one: who has all of it already is not waited for."""
    tracker = Tracker()
    tracker.take_commit(keyframe())
    begun = keyframe()
    other = resource("x", b"9")
    begun.views["red"] = ViewChange(put={CDS: {"x": other.hash}})
    begun.resources.append(other)
    tracker.take_commit(msgspec.structs.replace(begun, version=9, epoch="f"))
    rollout = tracker.rollout(after=5, until=9)
    assert (rollout.concerned, rollout.waiting) == (2, ("c/n/a", "c/n/b"))


def test_the_first_that_was_ever_published_concerns_all_of_it() -> None:
    tracker = Tracker(from_nothing=True)
    tracker.take_commit(keyframe())
    assert tracker.rollout(after=0, until=5).concerned == 3


def test_what_was_acknowledged_of_an_earlier_epoch_is_no_version_of_a_later_one() -> None:
    """After a loss of the whole log versions begin small again, while edges and statuses still tell of large ones."""
    tracker = Tracker()
    tracker.take_commit(msgspec.structs.replace(keyframe(), version=500, epoch="00000001-a"))
    earlier = msgspec.structs.replace(status("a", 500, at=1), epoch="00000001-a")
    for pod in ("a", "b"):
        tracker.take_status(msgspec.structs.replace(earlier, pod=pod))
    whole = keyframe()
    cluster = resource("x", b"2")
    changed = msgspec.structs.replace(
        whole,
        version=30,
        epoch="00000002-b",
        resources=[*whole.resources, cluster],
        views={**whole.views, "red": ViewChange(put={CDS: {"x": cluster.hash}})},
    )
    tracker.take_commit(changed)
    assert tracker.rollout(after=29, until=30).waiting == ("c/n/a", "c/n/b")
    tracker.take_status(msgspec.structs.replace(earlier, types={CDS: TypeStatus(acked=30)}, epoch="00000002-b"))
    assert tracker.rollout(after=29, until=30).waiting == ("c/n/b",)
    # Of an edge of an earlier build only the number is known.
    tracker.take_status(status("b", 31, at=1))
    assert tracker.rollout(after=29, until=30).complete


def test_what_was_acknowledged_of_a_later_epoch_came_after_all_of_an_earlier_one() -> None:
    tracker = Tracker(from_nothing=True)
    tracker.take_commit(msgspec.structs.replace(keyframe(), version=500, epoch="00000001-a"))
    for pod in ("a", "b", "z"):
        tracker.take_status(msgspec.structs.replace(status(pod, 3, at=1), epoch="00000002-b"))
    assert tracker.rollout(after=499, until=500).complete


def test_a_version_that_is_said_again_as_a_whole_still_waits_for_whom_it_concerned() -> None:
    tracker = Tracker()
    tracker.take_commit(keyframe())
    tracker.take_commit(change(6, 5, b"2"))
    tracker.take_status(status("a", 6, at=1))
    tracker.take_commit(tracker.snapshot.keyframe())
    found = tracker.rollout(after=5, until=6)
    assert (found.concerned, found.waiting, found.last_ack) == (2, ("c/n/b",), 1)
