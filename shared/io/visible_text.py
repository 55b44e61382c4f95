r"""Text that others wrote, made fit for a terminal and for one line of a log.

A proxy's refusal, an annotation, an answer of a peer may hold anything: escape sequences that clear a screen or name a
window, newlines that forge a row, bidirectional overrides that reorder what is read, a megabyte. `visible` shows such
characters as escapes (`\x1b`, `\n`, `\u202e`) and appends the count of those that it left out.
"""

from __future__ import annotations

import unicodedata

_MARKS = 2
"""Combining marks after one character that are shown as they are; more would run over other lines."""


def visible(text: str, *, most: int = 0) -> str:
    """The text on one line, with every character that is not printable as an escape.

    `most`: characters of it that are shown, the count of the others is appended; 0: all.
    """
    rest = 0
    if most and len(text) > most:
        text, rest = text[:most], len(text) - most
    # `isprintable` is false for control, format, surrogate, private and unassigned characters, and for every separator
    # but the space.
    if not text.isprintable():
        text = "".join(one if one.isprintable() else _escape(one) for one in text)
    if not text.isascii():
        text = _without_piles(text)
    return f"{text}… ({rest} more characters)" if rest else text


def lines(text: str, *, most: int = 0) -> list[str]:
    """The lines of a text whose newlines are meant as such, each visible."""
    return [visible(line, most=most) for line in text.split("\n")]


def width(text: str) -> int:
    """Columns that a visible text takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(bool(unicodedata.combining(one)) for one in text)


def _escape(one: str) -> str:
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(one)
    return known.get(one) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _without_piles(text: str) -> str:
    made: list[str] = []
    marks = 0
    for one in text:
        marks = marks + 1 if unicodedata.category(one) in {"Mn", "Me"} else 0
        made.append(_escape(one) if marks > _MARKS else one)
    return "".join(made)
