"""Objects applied together leave together, and nothing waits that need not."""

from __future__ import annotations

from services.ingestor.core.change_set_assembler import ChangeSetAssembler, WriteGroup
from services.ingestor.core.observations import KindListed, NamespacedName, ObjectDeleted, ObjectUpdated
from services.ingestor.core.projection import project
from tests.unit.ingestor.objects import encoded, projected


def member(name: str, identity: str = "s", size: int | str = 2, rv: int = 7, namespace: str = "shop") -> ObjectUpdated:
    annotations = {"meshlog.io/change-set": f"{identity}/{size}"}
    return ObjectUpdated(projected(name, rv=rv, namespace=namespace, annotations=annotations))


def test_a_set_leaves_when_it_is_complete_as_one_group() -> None:
    sets = ChangeSetAssembler()
    assert sets.offer(member("a"), last="", now=0.0) == []
    assert sets.offer(member("b"), last="", now=0.1) == [WriteGroup((member("a"), member("b")), "s", complete=True)]
    assert sets.deadline is None


def test_others_pass_a_set_that_is_waited_for() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a"), last="", now=0.0)
    other = ObjectUpdated(projected("c"))
    assert sets.offer(other, last="", now=0.0) == [WriteGroup((other,))]


def test_an_incomplete_set_is_let_go_in_time() -> None:
    sets = ChangeSetAssembler(patience=2.0)
    sets.offer(member("a"), last="", now=1.0)
    assert sets.deadline == 3.0
    assert sets.due(2.9) == []
    assert sets.due(3.0) == [WriteGroup((member("a"),), "s", complete=False)]


def test_the_annotation_of_a_set_long_written_holds_nothing_up() -> None:
    sets = ChangeSetAssembler()
    assert sets.offer(member("a", rv=9), last="s", now=0.0) == [WriteGroup((member("a", rv=9),))]
    sets.offer(member("a", "t"), last="s", now=0.0)
    sets.offer(member("b", "t"), last="s", now=0.0)
    late = member("c", "t")
    assert sets.offer(late, last="", now=1.0) == [WriteGroup((late,))]


def test_a_later_fact_about_a_held_object_does_not_overtake_it() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a"), last="", now=0.0)
    gone = ObjectDeleted(kind="Pod", name=NamespacedName("shop", "a"), uid="uid-a", resource_version="9")
    assert sets.offer(gone, last="", now=0.1) == [WriteGroup((member("a"),), "s", complete=False), WriteGroup((gone,))]


def test_a_list_of_the_kind_lets_go_what_is_held() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a"), last="", now=0.0)
    listed = KindListed(kind="Pod", resource_version="50", objects=())
    assert [group.observations[0] for group in sets.offer(listed, last="", now=0.1)] == [member("a"), listed]


def test_a_newer_form_within_the_set_replaces_the_older() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a", rv=7), last="", now=0.0)
    assert sets.offer(member("a", rv=8), last="", now=0.1) == []
    (group,) = sets.offer(member("b"), last="", now=0.2)
    assert group.observations == (member("a", rv=8), member("b"))


TOGETHER = "shop=1,stock=2"


def test_a_set_of_several_namespaces_is_complete_when_each_has_its_share() -> None:
    sets = ChangeSetAssembler()
    first = member("a", size=TOGETHER)
    second, third = (member(name, size=TOGETHER, namespace="stock") for name in ("a", "b"))
    assert sets.offer(third, last="", now=0.0) == []
    assert sets.offer(first, last="", now=0.1) == []
    assert sets.offer(second, last="", now=0.2) == [WriteGroup((third, first, second), "s", complete=True)]


def test_the_same_id_in_another_namespace_is_another_set() -> None:
    """A tenant who knows the id of others neither completes their set nor ends it."""
    sets = ChangeSetAssembler()
    sets.offer(member("a"), last="", now=0.0)
    assert sets.offer(member("x", namespace="red"), last="", now=0.1) == []
    assert sets.offer(member("y", namespace="red"), last="", now=0.2) == [
        WriteGroup((member("x", namespace="red"), member("y", namespace="red")), "s", complete=True)
    ]
    assert sets.offer(member("b"), last="", now=0.3) == [WriteGroup((member("a"), member("b")), "s", complete=True)]


def test_a_namespace_that_a_set_does_not_name_has_no_part_in_it() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a", size=TOGETHER), last="", now=0.0)
    stranger = member("x", size=TOGETHER, namespace="red")
    assert sets.offer(stranger, last="", now=0.1) == [WriteGroup((stranger,))]
    mine = member("x", size="red=1,shop=1,stock=2", namespace="red")
    assert sets.offer(mine, last="", now=0.2) == [], "it says otherwise, so it waits for others"
    assert sets.due(2.1) == [WriteGroup((member("a", size=TOGETHER),), "s", complete=False)]


def test_more_objects_of_one_namespace_do_not_stand_for_those_of_another() -> None:
    sets = ChangeSetAssembler()
    for name in ("a", "b", "c"):
        assert sets.offer(member(name, size=TOGETHER, namespace="stock"), last="", now=0.0) == []
    (group,) = sets.offer(member("a", size=TOGETHER), last="", now=0.1)
    assert (len(group.observations), group.complete) == (4, True)


def test_of_many_sets_of_one_namespace_the_oldest_is_let_go_and_those_of_others_are_not() -> None:
    sets = ChangeSetAssembler()
    sets.offer(member("a"), last="", now=0.0)
    released = [
        group
        for number in range(40)
        for group in sets.offer(member(f"x{number}", f"r{number}", namespace="red"), last="", now=0.1)
    ]
    assert [(group.change_set, group.complete) for group in released] == [(f"r{number}", False) for number in range(8)]
    assert sets.offer(member("b"), last="", now=0.2) == [WriteGroup((member("a"), member("b")), "s", complete=True)]


def test_ended_sets_of_one_namespace_do_not_make_those_of_others_forgotten() -> None:
    sets = ChangeSetAssembler(patience=2.0)
    sets.offer(member("a"), last="", now=0.0)
    sets.due(2.0)
    for number in range(2000):
        sets.offer(member("x", f"r{number}", namespace="red"), last="", now=3.0)
    late = member("b")
    assert sets.offer(late, last="", now=3.0) == [WriteGroup((late,))]


def first(size: str, rv: int = 7, name: str = "shop") -> ObjectUpdated:
    """The Namespace of a set."""
    meta = {"name": name, "resourceVersion": str(rv), "annotations": {"meshlog.io/change-set": f"s/{size}"}}
    return ObjectUpdated(project("Namespace", encoded({"metadata": meta}), api_version="v1", source="watch"))


def test_a_namespace_never_waits_for_what_waits_for_it_and_counts_in_its_set() -> None:
    """A pod is admitted once the log has its namespace."""
    sets = ChangeSetAssembler()
    both = "=1,shop=2"
    assert sets.offer(first(both), last="", now=0.0) == [WriteGroup((first(both),))]
    assert sets.offer(member("a", size=both), last="", now=0.1) == []
    assert sets.offer(first(both, rv=8), last="", now=0.2) == [WriteGroup((first(both, rv=8),))], (
        "once, however often it comes"
    )
    assert sets.offer(member("b", size=both), last="", now=0.3) == [
        WriteGroup((member("a", size=both), member("b", size=both)), "s", complete=True)
    ]
    assert sets.deadline is None


def test_a_set_that_lacks_all_but_its_namespace_ends_without_a_word() -> None:
    sets = ChangeSetAssembler(patience=2.0)
    sets.offer(first("=1,shop=2"), last="", now=0.0)
    assert sets.due(2.0) == []
    assert sets.deadline is None
    late = member("a", size="=1,shop=2")
    assert sets.offer(late, last="", now=3.0) == [WriteGroup((late,))]


def test_namespaces_alone_are_a_set_that_needs_no_waiting() -> None:
    sets = ChangeSetAssembler()
    assert sets.offer(first("2"), last="", now=0.0) == [WriteGroup((first("2"),))]
    other = first("2", name="stock")
    assert sets.offer(other, last="", now=0.1) == [WriteGroup((other,))]
    assert sets.deadline is None
