"""The engine: what runs again, what does not, and what is forgotten."""

from __future__ import annotations

import pytest

from services.compiler.engine import Engine, QueryCycleError, query
from services.compiler.engine_inputs import Index, InputMap


class Sheet:
    def __init__(self) -> None:
        self.engine = Engine()
        self.numbers: InputMap[str, int] = InputMap(self.engine)
        self.groups: Index[str, str] = Index(self.engine)
        self.ran: list[str] = []

    def put(self, name: str, value: int) -> None:
        self.numbers.put(name, value, f"event {name}={value}")


@query
def parity(sheet: Sheet, name: str) -> int:
    sheet.ran.append(f"parity {name}")
    return (sheet.numbers.get(name) or 0) % 2


@query
def odd_ones(sheet: Sheet, group: str) -> tuple[str, ...]:
    sheet.ran.append(f"odd {group}")
    return tuple(name for name in sheet.groups.get(group) if parity(sheet, name))


@query
def either(sheet: Sheet, first: str, second: str) -> int:
    sheet.ran.append("either")
    return parity(sheet, first) or parity(sheet, second)


@query
def inverse(sheet: Sheet, name: str) -> float:
    return 1 / (sheet.numbers.get(name) or 0)


@query
def outer(sheet: Sheet, name: str) -> float:
    return inverse(sheet, name)


@query
def ping(sheet: Sheet) -> int:
    return pong(sheet) + 1


@query
def pong(sheet: Sheet) -> int:
    return ping(sheet) + 1


@pytest.fixture
def sheet() -> Sheet:
    sheet = Sheet()
    sheet.put("a", 1)
    sheet.put("b", 2)
    sheet.groups.move("a", [], ["g"])
    sheet.groups.move("b", [], ["g"])
    return sheet


def test_an_answer_is_kept_while_its_inputs_stay(sheet: Sheet) -> None:
    assert odd_ones(sheet, "g") == odd_ones(sheet, "g") == ("a",)
    assert sheet.ran == ["odd g", "parity a", "parity b"]


def test_a_change_runs_what_read_it_and_nothing_else(sheet: Sheet) -> None:
    odd_ones(sheet, "g")
    sheet.ran.clear()
    sheet.put("b", 3)
    assert odd_ones(sheet, "g") == ("a", "b")
    assert sheet.ran == ["parity b", "odd g"]


def test_an_equal_answer_stops_the_ripple(sheet: Sheet) -> None:
    odd_ones(sheet, "g")
    sheet.ran.clear()
    sheet.put("b", 4)
    assert odd_ones(sheet, "g") == ("a",)
    assert sheet.ran == ["parity b"]


def test_an_equal_input_puts_nothing_in_doubt(sheet: Sheet) -> None:
    odd_ones(sheet, "g")
    sheet.ran.clear()
    sheet.put("a", 1)
    odd_ones(sheet, "g")
    assert sheet.ran == []


def test_reading_an_absent_entry_depends_on_its_absence(sheet: Sheet) -> None:
    assert parity(sheet, "later") == 0
    sheet.put("later", 7)
    assert parity(sheet, "later") == 1


def test_dependencies_are_those_of_the_last_run(sheet: Sheet) -> None:
    """What an earlier run read and the last one did not, changes nothing."""
    sheet.put("a", 2)
    assert either(sheet, "a", "b") == 0
    sheet.put("a", 3)
    assert either(sheet, "a", "b") == 1
    sheet.ran.clear()
    sheet.put("b", 9)
    assert either(sheet, "a", "b") == 1
    assert sheet.ran == []


def test_members_of_an_index_come_and_go(sheet: Sheet) -> None:
    odd_ones(sheet, "g")
    sheet.groups.move("a", ["g"], ["h"])
    assert odd_ones(sheet, "g") == ()
    assert odd_ones(sheet, "h") == ("a",)


def test_observers_are_told_what_changed_and_only_that(sheet: Sheet) -> None:
    first = sheet.engine.observe(odd_ones, sheet, "g")
    other = sheet.engine.observe(odd_ones, sheet, "none")
    assert set(sheet.engine.refresh(odd_ones)) == {first, other}
    sheet.put("b", 4)
    assert sheet.engine.refresh(odd_ones) == []
    sheet.put("b", 5)
    assert sheet.engine.refresh(odd_ones) == [first]
    assert first.value == ("a", "b")
    assert sheet.engine.refresh(odd_ones) == []


def test_a_new_observer_is_told_what_an_earlier_one_knew(sheet: Sheet) -> None:
    """Released and observed again before it was forgotten: the answer is old, the observer is not."""
    node = sheet.engine.observe(odd_ones, sheet, "g")
    sheet.engine.refresh(odd_ones)
    sheet.engine.release(node)
    assert sheet.engine.observe(odd_ones, sheet, "g") is node
    assert sheet.engine.refresh(odd_ones) == [node]


def test_a_change_taken_back_before_anybody_looked_is_no_change(sheet: Sheet) -> None:
    node = sheet.engine.observe(odd_ones, sheet, "g")
    sheet.engine.refresh(odd_ones)
    sheet.put("b", 5)
    sheet.put("b", 2)
    assert sheet.engine.refresh(odd_ones) == []
    assert node.value == ("a",)


def test_what_nobody_observes_is_forgotten(sheet: Sheet) -> None:
    node = sheet.engine.observe(odd_ones, sheet, "g")
    sheet.engine.refresh(odd_ones)
    assert len(sheet.engine) == 3
    sheet.engine.release(node)
    sheet.engine.forget_unused()
    assert len(sheet.engine) == 0
    assert odd_ones(sheet, "g") == ("a",)


def test_what_one_reader_left_is_kept_for_another(sheet: Sheet) -> None:
    first = sheet.engine.observe(odd_ones, sheet, "g")
    second = sheet.engine.observe(parity, sheet, "a")
    sheet.engine.refresh(odd_ones)
    sheet.engine.refresh(parity)
    sheet.engine.release(first)
    sheet.engine.forget_unused()
    assert len(sheet.engine) == 1
    sheet.put("a", 2)
    assert sheet.engine.refresh(parity) == [second]


def test_marks_of_absence_are_forgotten_too(sheet: Sheet) -> None:
    node = sheet.engine.observe(parity, sheet, "never")
    sheet.engine.refresh(parity)
    sheet.engine.release(node)
    sheet.engine.forget_unused()
    assert "never" not in sheet.numbers._cells  # pyright: ignore[reportPrivateUsage]
    sheet.put("never", 1)
    assert parity(sheet, "never") == 1


def test_an_exception_is_an_answer(sheet: Sheet) -> None:
    """It reaches readers and observers, and is gone when its cause is."""
    node = sheet.engine.observe(outer, sheet, "zero")
    assert sheet.engine.refresh(outer) == [node]
    assert isinstance(node.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        outer(sheet, "zero")
    sheet.put("zero", 4)
    assert sheet.engine.refresh(outer) == [node]
    assert node.error is None
    assert node.value == 0.25


def test_a_query_that_needs_itself_is_a_bug(sheet: Sheet) -> None:
    with pytest.raises(QueryCycleError):
        ping(sheet)


def test_provenance_is_every_input_that_was_read(sheet: Sheet) -> None:
    node = sheet.engine.observe(odd_ones, sheet, "g")
    sheet.engine.refresh(odd_ones)
    assert sheet.engine.provenance(node) == {"event a=1", "event b=2"}
    sheet.numbers.drop("b")
    sheet.engine.refresh(odd_ones)
    assert sheet.engine.provenance(node) == {"event a=1"}


def test_a_query_must_not_change_inputs(sheet: Sheet) -> None:
    @query
    def meddles(sheet: Sheet) -> int:
        parity(sheet, "a")
        sheet.put("a", 8)
        return 0

    with pytest.raises(RuntimeError, match="must not change inputs"):
        meddles(sheet)


def test_cost_follows_the_change_and_not_the_number_of_answers() -> None:
    sheet = Sheet()
    for number in range(1000):
        sheet.put(f"n{number}", number)
        sheet.groups.move(f"n{number}", [], [f"g{number // 10}"])
    for group in range(100):
        sheet.engine.observe(odd_ones, sheet, f"g{group}")
    sheet.engine.refresh(odd_ones)
    runs = sheet.engine.runs
    sheet.put("n500", 501)
    assert len(sheet.engine.refresh(odd_ones)) == 1
    assert sheet.engine.runs - runs == 2


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_doubts_the_one_that_was_read_first_is_settled_first(sheet: Sheet, order: tuple[str, str]) -> None:
    """What the first answer makes superfluous is not asked, in whatever order the inputs changed."""
    sheet.put("a", 2)
    assert either(sheet, "a", "b") == 0
    sheet.ran.clear()
    for name in order:
        sheet.put(name, 5)
    assert either(sheet, "a", "b") == 1
    assert sheet.ran == ["parity a", "either"]


def test_a_doubt_that_comes_from_two_sides_is_settled_on_both(sheet: Sheet) -> None:
    odd_ones(sheet, "g")
    sheet.put("b", 4)  # looked at again, and the same
    sheet.put("a", 3)
    sheet.put("b", 5)
    assert odd_ones(sheet, "g") == ("a", "b")
