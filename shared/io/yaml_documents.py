"""YAML that others wrote, read with limits on nesting, size and what its aliases stand for.

A few lines of aliases to aliases stand for billions of values, and a thousand brackets overflow the parser's stack. So
the document is looked at first, event by event, which costs a sixth of reading it and holds nothing.
"""

from __future__ import annotations

from typing import Any

import yaml

from shared.errors import BadInputError

DEEPEST = 100
"""Mappings and lists inside each other. Objects of Kubernetes stay below 40."""
MOST_VALUES = 5_000_000
"""Values of a file, each alias counted as all that it stands for."""
MOST_DOCUMENTS = 100_000


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a time is text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def documents(text: str, *, code: str, about: str) -> list[Any]:
    """The documents of a YAML text, as JSON has them: mappings with text for keys, lists, text, numbers, None.

    Raises `BadInputError` with this code that names line and fault.
    """
    try:
        _look(text, code, about)
        found: list[Any] = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it does not parse"
        raise BadInputError(code, f"is no YAML{line}: {what}", about=about) from error
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Of values that PyYAML makes itself: a number of 5,000 digits, `!!int x`, text that is no base64.
        raise BadInputError(code, f"holds a value that cannot be read ({_short(error)})", about=about) from error
    known: dict[int, Any] = {}
    return [_as_json(each, known, code, about) for each in found]


def _look(text: str, code: str, about: str) -> None:
    """Refuse what is too deep, too much, or refers to itself."""
    tally = _ValueCounter()
    for event in yaml.parse(text, Loader=_Loader):
        fault = tally.take(event)
        if fault:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise BadInputError(code, f"line {line}: {fault}", about=about)


class _ValueCounter:
    """What a text has held so far."""

    def __init__(self) -> None:
        self._documents = 0
        self._values = 0
        self._open: list[tuple[str | None, int]] = []
        """Anchor of each collection that is open, and how many values there were before it."""
        self._sizes: dict[str, int] = {}
        """Anchor → values that an alias of it stands for."""

    def take(self, event: yaml.Event) -> str:
        """The next event; what is wrong with the text by now, empty: nothing."""
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                self._sizes.clear()
            case yaml.CollectionStartEvent():
                self._open.append((event.anchor, self._values))
                self._values += 1
            case yaml.CollectionEndEvent():
                anchor, before = self._open.pop()
                self._note(anchor, self._values - before)
            case yaml.ScalarEvent():
                self._values += 1
                self._note(event.anchor, 1)
            case yaml.AliasEvent():
                return self._alias(str(event.anchor))
            case _:
                pass
        return self._limits()

    def _note(self, anchor: str | None, size: int) -> None:
        if anchor:
            self._sizes[anchor] = size

    def _alias(self, anchor: str) -> str:
        if any(anchor == each for each, _ in self._open):
            return f"{anchor[:60]!r} refers to itself"
        self._values += self._sizes.get(anchor, 1)
        return self._limits()

    def _limits(self) -> str:
        if len(self._open) > DEEPEST:
            return f"is nested deeper than {DEEPEST} levels"
        if self._values > MOST_VALUES:
            return f"holds more than {MOST_VALUES} values, aliases counted as what they stand for"
        if self._documents > MOST_DOCUMENTS:
            return f"is document {self._documents}, at most {MOST_DOCUMENTS} are read"
        return ""


def _as_json(value: Any, known: dict[int, Any], code: str, about: str) -> Any:
    """The value as JSON has it; what is shared stays shared. `known`: by identity, what was looked at before."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return value
        raise BadInputError(code, "holds a whole number that does not fit into 64 bits", about=about)
    if id(value) in known:
        return value
    known[id(value)] = value
    if isinstance(value, list):
        value[:] = [_as_json(each, known, code, about) for each in value]
        return value
    if isinstance(value, dict):
        for key in list(value):
            each = value.pop(key)
            value[_key(key, code, about)] = _as_json(each, known, code, about)
        return value
    raise BadInputError(
        code, f"holds a value of the kind {type(value).__name__}, which JSON does not have", about=about
    )


def _key(key: Any, code: str, about: str) -> str:
    """A key as text, as Kubernetes takes it: `on: 1` is the key `true`."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float) and len(text := repr(key)) < 40:
        return text
    raise BadInputError(code, f"holds a key of the kind {type(key).__name__}; keys are text", about=about)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
