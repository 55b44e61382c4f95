"""Parses RE2's syntax into a tree (github.com/google/re2, "Syntax").

Paths and header values are judged over printable ASCII: other characters of a set are dropped. Line breaks cannot
occur, so the flags `m` and `s` change nothing; greediness changes no language, so the flag `U` does not either.
Python's `re` reads another syntax, and its parser is private.
"""

from __future__ import annotations

import string
import unicodedata
from typing import NamedTuple

ALPHABET = frozenset(map(chr, range(0x20, 0x7F)))
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_DIGIT = frozenset(string.digits)
_SPACE = frozenset("\t\n\f\r ") & ALPHABET
_PERL = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_POSIX = {
    "alnum": frozenset(string.ascii_letters + string.digits),
    "alpha": frozenset(string.ascii_letters),
    "ascii": ALPHABET,
    "blank": frozenset(" "),
    "cntrl": frozenset[str](),
    "digit": _DIGIT,
    "graph": ALPHABET - {" "},
    "lower": frozenset(string.ascii_lowercase),
    "print": ALPHABET,
    "punct": frozenset(string.punctuation),
    "space": _SPACE,
    "upper": frozenset(string.ascii_uppercase),
    "word": _WORD,
    "xdigit": frozenset(string.hexdigits),
}


class UnjudgedError(Exception):
    """The expression uses syntax that this package does not judge (word boundaries), or is too large for it."""


class Chars(NamedTuple):
    """One character of a set."""

    allowed: frozenset[str]
    dot: bool = False
    """Written as `.`: in a path often meant as a full stop."""


class Anchor(NamedTuple):
    """The beginning or the end of the text."""

    end: bool


class Concatenation(NamedTuple):
    """Parts one after the other."""

    parts: tuple[Node, ...]


class Choice(NamedTuple):
    """One of several parts."""

    parts: tuple[Node, ...]


class Repeat(NamedTuple):
    """A part repeated."""

    part: Node
    least: int
    most: int | None
    """None if there is no limit."""


Node = Chars | Anchor | Concatenation | Choice | Repeat


def parse(pattern: str) -> Node:
    """Read an expression that RE2 accepts. Raises `UnjudgedError` for unsupported or invalid syntax."""
    reader = _PatternReader(pattern)
    try:
        found = reader.choice(folds=False)
    except (IndexError, RecursionError, ValueError) as error:
        raise UnjudgedError(str(error)) from error
    if reader.at != len(pattern):
        raise UnjudgedError(f"unexpected {pattern[reader.at]!r}")
    return found


def _chars(allowed: frozenset[str], *, folds: bool) -> Chars:
    if folds:
        allowed = frozenset(variant for char in allowed for variant in (char.lower(), char.upper()))
    return Chars(allowed & ALPHABET)


class _PatternReader:
    """A cursor over the text of an expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0
        self._folds = False
        """Whether `(?i)` is in force."""

    def _left(self) -> str:
        return self._text[self.at :]

    def _eat(self, word: str) -> bool:
        if self._text.startswith(word, self.at):
            self.at += len(word)
            return True
        return False

    def _until(self, word: str) -> str:
        end = self._text.index(word, self.at)
        found = self._text[self.at : end]
        self.at = end + len(word)
        return found

    def _next(self) -> str:
        self.at += 1
        return self._text[self.at - 1]

    def choice(self, *, folds: bool) -> Node:
        """Alternatives up to a closing bracket or the end; flags that they set end with them."""
        self._folds, outer = folds, self._folds
        branches = [self._sequence()]
        while self._eat("|"):
            branches.append(self._sequence())
        self._folds = outer
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._left() and self._left()[0] not in "|)":
            if self._eat("\\Q"):
                quoted = self._until("\\E") if "\\E" in self._left() else self._left()
                self.at = self.at if self._text[: self.at].endswith("\\E") else len(self._text)
                parts += [_chars(frozenset(char), folds=self._folds) for char in quoted]
            else:
                part = self._one()
                if part is not None:
                    parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        while self._left():
            if self._eat("*"):
                part = Repeat(part, 0, None)
            elif self._eat("+"):
                part = Repeat(part, 1, None)
            elif self._eat("?"):
                part = Repeat(part, 0, 1)
            elif (counts := self._counts()) is not None:
                part = Repeat(part, *counts)
            else:
                break
            self._eat("?")  # lazy: the same language
        return part

    def _counts(self) -> tuple[int, int | None] | None:
        """`{n}`, `{n,}` or `{n,m}`; a brace that begins none of these stands for itself."""
        if not self._left().startswith("{") or "}" not in self._left():
            return None
        least, comma, most = self._left()[1 : self._left().index("}")].partition(",")
        if not least.isdigit() or (most and not most.isdigit()):
            return None
        self._until("}")
        if not comma:
            return int(least), int(least)
        return int(least), int(most) if most else None

    def _one(self) -> Node | None:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return _chars(self._bracket(), folds=self._folds)
        if char == ".":
            return Chars(ALPHABET, dot=True)
        if char in "^$":
            return Anchor(end=char == "$")
        if char == "\\":
            return self._escape()
        return _chars(frozenset(char), folds=self._folds)

    def _group(self) -> Node | None:
        folds = self._folds
        if self._eat("?"):
            if self._eat("P<") or self._eat("<"):
                self._until(">")
            else:
                flags = ""
                while self._left()[0] not in ":)":
                    flags += self._next()
                on, _, off = flags.partition("-")
                folds = "i" in on or (folds and "i" not in off)
                if self._next() == ")":
                    self._folds = folds
                    return None
        inner = self.choice(folds=folds)
        if not self._eat(")"):
            raise UnjudgedError("a bracket that is not closed")
        return inner

    def _escape(self) -> Node:
        char = self._next()
        if char in "Az":
            return Anchor(end=char == "z")
        if char in "bB":
            raise UnjudgedError("word boundaries are not judged")
        if char == "C":
            return Chars(ALPHABET)
        allowed = self._set_escape(char)
        if allowed is None:
            allowed = frozenset(self._char_escape(char))
        return _chars(allowed, folds=self._folds)

    def _set_escape(self, char: str) -> frozenset[str] | None:
        r"""The set of `\d`, `\W`, `\pL`, …; None if the escape means one character."""
        if char.lower() in _PERL:
            found = _PERL[char.lower()]
            return found if char.islower() else ALPHABET - found
        if char in "pP":
            name = self._next()
            name = self._until("}") if name == "{" else name
            negated = (char == "P") != name.startswith("^")
            found = _unicode(name.removeprefix("^"))
            return ALPHABET - found if negated else found
        return None

    def _char_escape(self, char: str) -> str:
        if char == "x":
            digits = self._until("}") if self._eat("{") else self._next() + self._next()
            return chr(int(digits, 16))
        if char in "01234567":
            digits = char
            while len(digits) < 3 and self._left()[:1] and self._left()[0] in "01234567":
                digits += self._next()
            return chr(int(digits, 8))
        return _CONTROL.get(char, char)

    def _bracket(self) -> frozenset[str]:
        negated = self._eat("^")
        found: set[str] = set()
        first = True
        while first or not self._left().startswith("]"):
            first = False
            if self._eat("[:"):
                name = self._until(":]")
                posix = _POSIX[name.removeprefix("^")]
                found |= ALPHABET - posix if name.startswith("^") else posix
                continue
            low = self._member()
            if isinstance(low, frozenset):
                found |= low
            elif self._left().startswith("-") and not self._left().startswith("-]"):
                self._next()
                high = self._member()
                if isinstance(high, frozenset):
                    raise UnjudgedError("a range that ends in a set")
                found |= {char for char in ALPHABET if low <= char <= high}
            else:
                found.add(low)
        self._next()
        if self._folds:
            found = {variant for char in found for variant in (char.lower(), char.upper())}
        return ALPHABET - found if negated else frozenset(found)

    def _member(self) -> str | frozenset[str]:
        char = self._next()
        if char != "\\":
            return char
        char = self._next()
        found = self._set_escape(char)
        return self._char_escape(char) if found is None else found


def _unicode(name: str) -> frozenset[str]:
    """The printable ASCII characters of a general category, or of a script."""
    if name == "Any":
        return ALPHABET
    if len(name) <= 2:
        return frozenset(char for char in ALPHABET if unicodedata.category(char).startswith(name))
    # All letters of ASCII are Latin, all else of it is Common; no other script has any of it.
    return frozenset(char for char in ALPHABET if name == ("Latin" if char.isalpha() else "Common"))
