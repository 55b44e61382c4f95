"""Decides with automata whether one expression matches a text that another does not, and finds it.

Thompson's construction, then a breadth-first search over sets of states, so that the text found is shortest. All bounds
are numbers of states: a question beyond them raises `UnjudgedError`, and is never answered by a guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from cli.patterns.syntax import ALPHABET, Anchor, Chars, Choice, Concatenation, Node, Repeat, UnjudgedError, parse

_MOST_STATES = 20_000
"""States of one automaton; an expression that RE2 takes within the limits of policy has a few thousand."""
_MOST_EXPLORED = 20_000
"""Maximum number of sets of states that one question may explore."""
_READABLE = "x/-abcdefghijklmnopqrstuvwyz0123456789._~ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Characters in order of preference for examples."""
_NOTHING = "[^\\x20-\\x7e]"
"""An expression that matches no text of the alphabet."""

States = frozenset[int]


class Automaton:
    """The texts that one expression matches as a whole."""

    def __init__(self, pattern: str) -> None:
        """Raises `UnjudgedError` for an expression that is not judged here."""
        self._moves: list[list[tuple[frozenset[str], int]]] = []
        self._free: list[list[tuple[Anchor | None, int]]] = []
        """Transitions without a character; those with an anchor apply only at an edge of the text."""
        begin = self._state()
        self._final = self._add(parse(pattern), begin)
        self.start = self._closure([begin], at_begin=True, at_end=False)
        self._begin = begin

    def sets(self) -> set[frozenset[str]]:
        """The sets of characters that transitions distinguish."""
        return {allowed for moves in self._moves for allowed, _ in moves}

    def step(self, states: States, char: str) -> States:
        """The states after one more character."""
        reached = {target for state in states for allowed, target in self._moves[state] if char in allowed}
        return self._closure(reached, at_begin=False, at_end=False)

    def accepts(self, states: States, *, empty: bool = False) -> bool:
        """Whether the text may end here; `empty`: whether no character was read."""
        return self._final in self._closure(states, at_begin=empty, at_end=True)

    def _state(self) -> int:
        if len(self._moves) >= _MOST_STATES:
            raise UnjudgedError(f"more than {_MOST_STATES} states")
        self._moves.append([])
        self._free.append([])
        return len(self._moves) - 1

    def _link(self, source: int, target: int, edge: Anchor | None = None) -> None:
        self._free[source].append((edge, target))

    def _add(self, node: Node, source: int) -> int:
        """Build the states of a node from `source` on; returns the last state."""
        match node:
            case Chars(allowed=allowed):
                target = self._state()
                self._moves[source].append((allowed, target))
            case Anchor():
                target = self._state()
                self._link(source, target, node)
            case Concatenation(parts=parts):
                target = source
                for part in parts:
                    target = self._add(part, target)
            case Choice(parts=parts):
                target = self._state()
                for part in parts:
                    entry = self._state()
                    self._link(source, entry)
                    self._link(self._add(part, entry), target)
            case Repeat():
                target = self._repeat(node, source)
        return target

    def _repeat(self, node: Repeat, source: int) -> int:
        for _ in range(node.least):
            source = self._add(node.part, source)
        target = self._state()
        self._link(source, target)
        if node.most is None:
            entry = self._state()
            self._link(source, entry)
            end = self._add(node.part, entry)
            self._link(end, entry)
            self._link(end, target)
            return target
        for _ in range(node.most - node.least):
            entry = self._state()
            self._link(source, entry)
            source = self._add(node.part, entry)
            self._link(source, target)
        return target

    def _closure(self, states: Iterable[int], *, at_begin: bool, at_end: bool) -> States:
        found = set(states)
        waiting = list(found)
        while waiting:
            for edge, target in self._free[waiting.pop()]:
                passes = edge is None or (at_end if edge.end else at_begin)
                if passes and target not in found:
                    found.add(target)
                    waiting.append(target)
        return frozenset(found)


def matched_beyond(wider: str, narrower: str, *, begins: str = "") -> str | None:
    """The shortest text that `wider` matches as a whole and `narrower` does not; None if there is none.

    `begins`: what the text has to begin with. Raises `UnjudgedError` if the question is beyond this module.
    """
    one, other = Automaton(wider), Automaton(narrower)
    alphabet = _representatives(one.sets() | other.sets(), begins)
    first = (one.start, other.start)
    reached: dict[tuple[States, States], tuple[tuple[States, States], str] | None] = {first: None}
    # A set of states does not hold the number of characters read: the prefix `begins` is counted apart.
    waiting = deque([(first, 0)])
    while waiting:
        pair, length = waiting.popleft()
        empty = length == 0
        if length >= len(begins) and one.accepts(pair[0], empty=empty) and not other.accepts(pair[1], empty=empty):
            return _text(reached, pair)
        if len(reached) > _MOST_EXPLORED:
            raise UnjudgedError(f"more than {_MOST_EXPLORED} sets of states")
        for char in begins[length : length + 1] or alphabet:
            after = (one.step(pair[0], char), other.step(pair[1], char))
            if after[0] and after not in reached:
                reached[after] = (pair, char)
                waiting.append((after, length + 1))
    return None


def example(pattern: str, *, begins: str = "") -> str | None:
    """A text that an expression matches as a whole, as a user would write it; None if this module finds none.

    `begins`: what it has to begin with. Alternatives: the first. Repetitions: as few as possible. A lone `.` is taken
    for a full stop.
    """
    try:
        text = _written(parse(pattern))
        if text.startswith(begins) and matches(pattern, text):
            return text
        return matched_beyond(pattern, _NOTHING, begins=begins)
    except UnjudgedError:
        return None


def matches(pattern: str, text: str) -> bool:
    """Whether an expression matches a text of printable ASCII as a whole. Raises `UnjudgedError`."""
    automaton = Automaton(pattern)
    states = automaton.start
    for char in text:
        states = automaton.step(states, char)
    return automaton.accepts(states, empty=not text)


def _written(node: Node) -> str:
    match node:
        case Chars(allowed=allowed, dot=dot):
            if not allowed:
                raise UnjudgedError("a set without printable characters")
            return "." if dot else min(allowed, key=_preference)
        case Anchor():
            return ""
        case Concatenation(parts=parts):
            return "".join(_written(part) for part in parts)
        case Choice(parts=parts):
            return _written(parts[0])
        case Repeat(part=part, least=least):
            # A repeated `.` stands for any text.
            anything = isinstance(part, Chars) and part.dot
            return ("x" if anything else _written(part)) * least if least else ""


def _preference(char: str) -> tuple[int, str]:
    place = _READABLE.find(char)
    return (len(_READABLE) if place < 0 else place, char)


def _representatives(sets: set[frozenset[str]], begins: str) -> list[str]:
    """One character of each class that no set distinguishes, the most readable; and each of `begins`."""
    classes: dict[tuple[bool, ...], str] = {}
    ordered = sorted(sets, key=sorted)
    for char in sorted(ALPHABET, key=_preference):
        classes.setdefault(tuple(char in allowed for allowed in ordered), char)
    return sorted({*classes.values(), *begins}, key=_preference)


def _text(
    reached: dict[tuple[States, States], tuple[tuple[States, States], str] | None], pair: tuple[States, States]
) -> str:
    text = ""
    step = reached[pair]
    while step is not None:
        pair, char = step
        text = char + text
        step = reached[pair]
    return text
