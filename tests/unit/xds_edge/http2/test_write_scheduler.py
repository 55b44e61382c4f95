"""Long messages are written in turns, pod after pod, a little in each round of the loop."""

from __future__ import annotations

import asyncio

import pytest

from services.xds_edge.http2.write_scheduler import WriteScheduler


class Pen:
    """Writes so many bytes, at most `room` in a go; what it wrote is noted with its name."""

    def __init__(self, name: str, size: int, order: list[tuple[str, int]], *, room: int = 1 << 30) -> None:
        self.name, self.left, self.order, self.room = name, size, order, room

    def proceed(self, most: int) -> tuple[int, bool]:
        part = min(most, self.left, self.room)
        self.left -= part
        self.order.append((self.name, part))
        return part, self.left > 0 and part == most


class Clock:
    """The loop's time stands still, so that no round is slow."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", made)
    return made


async def rounds(count: int) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("clock")
async def test_one_that_has_much_to_say_writes_a_piece_a_go_and_little_a_round() -> None:
    turns, order = WriteScheduler(a_round=4000, a_go=1000), list[tuple[str, int]]()
    pen = Pen("a", 40_000, order)
    turns.ask("a", pen)
    await rounds(5)
    assert pen.left >= 15_000, "not all at once"
    await rounds(10)
    assert pen.left == 0
    assert set(order) == {("a", 1000)}


async def test_after_a_slow_round_more_is_written_but_never_everything(clock: Clock) -> None:
    turns, order = WriteScheduler(a_round=4000, a_go=1000), list[tuple[str, int]]()
    pen = Pen("a", 1_000_000, order)
    turns.ask("a", pen)
    clock.now += 0.0009
    await rounds(1)
    assert len(order) == 4
    clock.now += 0.0035
    # The round was slow: the next one comes after as much time again.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(order) == 4
    clock.now += 60
    await rounds(2)
    assert len(order) == 4 + 32


@pytest.mark.usefixtures("clock")
async def test_a_pod_with_much_to_say_lets_another_in_after_one_piece() -> None:
    turns, order = WriteScheduler(a_round=4000, a_go=1000), list[tuple[str, int]]()
    for _ in range(50):
        turns.ask("greedy", Pen("greedy", 100_000, order))
    await rounds(1)
    before = len(order)
    member = Pen("member", 3000, order)
    turns.ask("member", member)
    await rounds(3)
    assert not member.left
    mine = [at - before for at, (name, _) in enumerate(order) if name == "member"]
    assert mine[0] <= 2
    assert mine[-1] <= 6


@pytest.mark.usefixtures("clock")
async def test_the_streams_of_a_pod_take_turns_too() -> None:
    turns, order = WriteScheduler(a_round=1000, a_go=1000), list[tuple[str, int]]()
    pens = [Pen(str(number), 3000, order) for number in range(3)]
    for pen in pens:
        turns.ask("a", pen)
    await rounds(9)
    assert [name for name, _ in order] == ["0", "1", "2"] * 3


@pytest.mark.usefixtures("clock")
async def test_what_cannot_be_written_takes_nothing_of_anothers_round() -> None:
    turns, order = WriteScheduler(a_round=4000, a_go=1000), list[tuple[str, int]]()
    for number in range(10):
        turns.ask(number, Pen("shut", 1000, order, room=0))
    pen = Pen("member", 1000, order)
    turns.ask("member", pen)
    await rounds(2)
    assert not pen.left
    assert len(order) == 11, "and it does not ask again by itself"


@pytest.mark.usefixtures("clock")
async def test_to_find_that_nothing_can_be_written_counts_too() -> None:
    turns, order = WriteScheduler(a_round=4000, a_go=1000), list[tuple[str, int]]()
    for number in range(10_000):
        turns.ask(number, Pen("shut", 1000, order, room=0))
    await rounds(1)
    assert 0 < len(order) < 100


@pytest.mark.usefixtures("clock")
async def test_one_that_asks_again_while_it_writes_is_not_lost() -> None:
    turns, order = WriteScheduler(a_round=1000, a_go=1000), list[tuple[str, int]]()
    second = Pen("second", 1000, order)

    class Asking(Pen):
        def proceed(self, most: int) -> tuple[int, bool]:
            turns.ask("a", second)
            return super().proceed(most)

    first = Asking("first", 1000, order)
    turns.ask("a", first)
    await rounds(3)
    assert not first.left
    assert not second.left
