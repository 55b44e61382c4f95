"""Inputs of the incremental engine: objects by key, and indexes over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

from services.compiler.engine import Cell, Engine

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M")


class InputMap(Generic[K, V]):
    """Input objects by key. Queries read one entry at a time, and depend on that entry only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cells: dict[K, Cell] = {}

    def get(self, key: K) -> V | None:
        """The value of an entry; none if there is none."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell(self._cells, key)
        self._engine.note_read(cell)
        return cell.value

    def peek(self, key: K) -> V | None:
        """The value of an entry, for the writer of the inputs: no query depends on it."""
        cell = self._cells.get(key)
        return None if cell is None else cell.value

    def put(self, key: K, value: V, source: object) -> None:
        """Set an entry and its source; an equal value puts nothing in doubt."""
        self._set(key, value, source)

    def drop(self, key: K) -> None:
        """Remove an entry, if it is there."""
        self._set(key, None, None)

    def _set(self, key: K, value: V | None, source: object) -> None:
        cell = self._cells.get(key)
        if cell is None:
            if value is None:
                return
            cell = self._cells[key] = Cell(self._cells, key)
        cell.source = source
        if cell.value != value:
            cell.value = value
            self._engine.changed(cell)
        if value is None and not cell.dependents:
            self._cells.pop(key, None)

    def keys(self) -> Iterable[K]:
        """Keys of the entries that are there; not for queries, which would depend on nothing by it."""
        return [key for key, cell in self._cells.items() if cell.value is not None]


class Index(Generic[K, M]):
    """Sets of members by key, kept by the writer of the inputs: "the services that select app=web"."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cells: dict[K, Cell] = {}
        self._members: dict[K, set[M]] = {}

    def get(self, key: K) -> tuple[M, ...]:
        """The members under a key, sorted; queries depend on this entry only."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell(self._cells, key)
        if cell.value is None:
            cell.value = tuple(sorted(cast("set[Any]", self._members.get(key, ()))))
        self._engine.note_read(cell)
        return cell.value

    def holds(self, key: K) -> bool:
        """Whether there are members under a key, for the writer of the inputs: no query depends on it."""
        return key in self._members

    def move(self, member: M, before: Iterable[K], after: Iterable[K]) -> None:
        """A member that stood under the keys `before` stands under the keys `after` now."""
        old, new = set(before), set(after)
        for key in old - new:
            members = self._members[key]
            members.discard(member)
            if not members:
                del self._members[key]
            self._touch(key)
        for key in new - old:
            self._members.setdefault(key, set()).add(member)
            self._touch(key)

    def _touch(self, key: K) -> None:
        cell = self._cells.get(key)
        if cell is None:
            return
        cell.value = None
        self._engine.changed(cell)
        if not cell.dependents:
            del self._cells[key]
