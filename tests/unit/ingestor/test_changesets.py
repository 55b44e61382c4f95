"""Objects applied together leave together, and nothing waits that need not."""

from __future__ import annotations

from services.ingestor.changesets import ChangeSets, Group
from services.ingestor.facts import Listed, ObjectName, Observed, Vanished
from tests.unit.ingestor.objects import projected


def member(name: str, identity: str = "s", size: int = 2, rv: int = 7) -> Observed:
    return Observed(projected(name, rv=rv, annotations={"meshlog.io/change-set": f"{identity}/{size}"}))


def test_a_set_leaves_when_it_is_complete_as_one_group() -> None:
    sets = ChangeSets()
    assert sets.offer(member("a"), last="", now=0.0) == []
    assert sets.offer(member("b"), last="", now=0.1) == [Group((member("a"), member("b")), "s", complete=True)]
    assert sets.deadline is None


def test_others_pass_a_set_that_is_waited_for() -> None:
    sets = ChangeSets()
    sets.offer(member("a"), last="", now=0.0)
    other = Observed(projected("c"))
    assert sets.offer(other, last="", now=0.0) == [Group((other,))]


def test_an_incomplete_set_is_let_go_in_time() -> None:
    sets = ChangeSets(patience=2.0)
    sets.offer(member("a"), last="", now=1.0)
    assert sets.deadline == 3.0
    assert sets.due(2.9) == []
    assert sets.due(3.0) == [Group((member("a"),), "s", complete=False)]


def test_the_annotation_of_a_set_long_written_holds_nothing_up() -> None:
    sets = ChangeSets()
    assert sets.offer(member("a", rv=9), last="s", now=0.0) == [Group((member("a", rv=9),))]
    sets.offer(member("a", "t"), last="s", now=0.0)
    sets.offer(member("b", "t"), last="s", now=0.0)
    late = member("c", "t")
    assert sets.offer(late, last="", now=1.0) == [Group((late,))]


def test_a_later_fact_about_a_held_object_does_not_overtake_it() -> None:
    sets = ChangeSets()
    sets.offer(member("a"), last="", now=0.0)
    gone = Vanished(kind="Pod", name=ObjectName("shop", "a"), uid="uid-a", resource_version="9")
    assert sets.offer(gone, last="", now=0.1) == [Group((member("a"),), "s", complete=False), Group((gone,))]


def test_a_list_of_the_kind_lets_go_what_is_held() -> None:
    sets = ChangeSets()
    sets.offer(member("a"), last="", now=0.0)
    listed = Listed(kind="Pod", resource_version="50", objects=())
    assert [group.facts[0] for group in sets.offer(listed, last="", now=0.1)] == [member("a"), listed]


def test_a_newer_form_within_the_set_replaces_the_older() -> None:
    sets = ChangeSets()
    sets.offer(member("a", rv=7), last="", now=0.0)
    assert sets.offer(member("a", rv=8), last="", now=0.1) == []
    (group,) = sets.offer(member("b"), last="", now=0.2)
    assert group.facts == (member("a", rv=8), member("b"))
