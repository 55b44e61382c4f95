"""Why an object cannot be read: the field, what was expected there and what was found, for those who wrote it. Pure.

The sentence goes into logs, statuses and Events, which have other readers than the object: it contains types and
names of fields, never a value, and is short whatever was written.
"""

from __future__ import annotations

import re

import msgspec

from shared.io.decoding import UndecodableError

MOST = 200
"""Characters of a reason."""
_PLACE = re.compile(r"(.*) - at `(?:key in )?\$\.?([^`]*)`", re.DOTALL)
_VALUE = re.compile(r"""\bvalue (['"]).*\1""", re.DOTALL)
"""What msgspec repeats of an enumeration or a tag that it does not know."""


def why(error: Exception) -> str:
    """The parser's reason: `spec.rules: Expected object, got array`."""
    if isinstance(error, UndecodableError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    match error:
        case msgspec.ValidationError():
            text = _VALUE.sub("value", str(error))
            if (placed := _PLACE.fullmatch(text)) is not None:
                text = f"{placed[2]}: {placed[1]}" if placed[2] else placed[1]
            return text.replace("`", "")[:MOST]
        case msgspec.DecodeError():
            return str(error)[:MOST]
        case UnicodeDecodeError():
            return f"byte {error.start} is no UTF-8"
        case RecursionError():
            return "it is nested too deep"
        case _:
            return type(error).__name__
