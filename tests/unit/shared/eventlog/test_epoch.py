"""Epochs are in the order of their beginning, and say so."""

from __future__ import annotations

import re

from shared.eventlog.epoch import after, begins_later, latest_of, new_epoch


def test_an_id_is_unique_and_tells_when_it_began() -> None:
    assert new_epoch(1_800_000_000, "deadbeef") == "6b49d200-deadbeef"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{8}", new_epoch())
    assert new_epoch(5) != new_epoch(5)


def test_the_order_is_that_of_the_beginnings() -> None:
    earlier, later = new_epoch(1_800_000_000), new_epoch(1_800_000_001)
    assert begins_later(later, earlier)
    assert not begins_later(earlier, later)
    assert not begins_later(earlier, earlier)


def test_ids_of_another_form_are_in_no_order() -> None:
    known = new_epoch(1_800_000_000)
    for unknown in ("", "e1", "9f4c2c20bdef", "later-x"):
        assert not begins_later(unknown, known)
        assert not begins_later(known, unknown)


def test_an_epoch_begun_by_a_clock_that_is_behind_begins_after_the_latest_all_the_same() -> None:
    latest = new_epoch(1_800_000_300, "aaaaaaaa")
    for behind in (1_800_000_000, 1_800_000_300):
        moved = after(new_epoch(behind, "bbbbbbbb"), latest)
        assert moved == new_epoch(1_800_000_301, "bbbbbbbb")
        assert begins_later(moved, latest)
    right = new_epoch(1_800_000_302)
    assert after(right, latest) == right
    assert after(latest, "") == latest
    assert after("e1", latest) == "e1"


def test_the_latest_of_some_epochs_is_the_one_that_began_last() -> None:
    earlier, later = new_epoch(1_800_000_000), new_epoch(1_800_000_001)
    assert latest_of(earlier, later) == latest_of(later, "", earlier) == later
    assert latest_of("", "e1", "e2") == "e1"
    assert latest_of() == ""
