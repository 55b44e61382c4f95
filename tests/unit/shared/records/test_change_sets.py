"""What is stamped on objects that are applied together is what the ingestor reads."""

from __future__ import annotations

from services.ingestor.core.observations import ChangeSetMembership
from services.ingestor.core.projection import parse_change_set
from shared.records.change_set_annotation import stamp


def test_objects_of_one_namespace_are_counted_as_before() -> None:
    assert stamp("a", ["shop", "shop"]) == "a/2"
    assert parse_change_set(stamp("a", ["", ""])) == ChangeSetMembership("a", 2)


def test_objects_of_several_are_counted_apart() -> None:
    text = stamp("a", ["stock", "shop", "", "stock"])
    assert text == "a/=1,shop=1,stock=2"
    assert parse_change_set(text) == ChangeSetMembership("a", 4, (("", 1), ("shop", 1), ("stock", 2)))
