"""Regular expressions of users, checked by the library and the limits that Envoy has, before Envoy sees them.

Envoy refuses a whole route configuration or listener for one bad expression, so one user's typing error would stop
the updates of all tenants.

To compile an expression takes up to 5 ms, during which nothing else runs in the process (the binding of RE2 does not
let go of Python's lock). What an expression costs is therefore kept, and objects are counted (`shared.policy.budgets`)
before their expressions come here.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import re2

from shared.policy.errors import PolicyError

MAX_LENGTH = 2000
"""Characters of one expression."""
MAX_PROGRAM = 2000
"""Size of the compiled program, in RE2's own unit."""
ENVOY_DEFAULT_PROGRAM = 100
"""Program size above which Envoy refuses an expression unless its matcher sets a higher bound."""

_MEMORY = 512 * 1024
"""Bytes that RE2 may use for one expression: enough for a program ten times `MAX_PROGRAM`. With its default of 8 MiB
an expression that is refused in the end takes 90 ms."""
_TOO_LARGE = "pattern too large"
_KEPT = 16_384
"""Expressions whose size is kept; 10 MB of usual ones."""


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


_OPTIONS = _options()
_BYTES = _options()
_BYTES.encoding = re2.Options.Encoding.LATIN1


class _Verdict(NamedTuple):
    size: int
    """Program size; of an expression that cannot be compiled 0."""
    refusal: str


@functools.lru_cache(maxsize=_KEPT)
def _judged(pattern: str) -> _Verdict:
    if "\x00" in pattern or "\n" in pattern or "\r" in pattern:
        return _Verdict(0, "holds a control character that no HTTP request can match")
    try:
        size = re2.compile(pattern, _OPTIONS).programsize
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        return _Verdict(0, f"is no RE2 expression: {text}")
    except (UnicodeEncodeError, ValueError) as error:
        return _Verdict(0, f"is no RE2 expression: {error}")
    if "\\x{" in pattern and (wide := _beyond_bytes(pattern)):
        return _Verdict(0, f"is no RE2 expression for bytes, which is how Envoy reads requests: {wide}")
    if size > MAX_PROGRAM:
        return _Verdict(size, f"compiles to a program of size {size}, more than {MAX_PROGRAM}")
    return _Verdict(size, "")


def _verdict(pattern: str) -> _Verdict:
    if len(pattern) > MAX_LENGTH:  # such a text is not kept
        return _Verdict(0, f"has {len(pattern)} characters, more than {MAX_LENGTH}")
    return _judged(pattern)


def forget() -> None:
    """Forget what is known of expressions: for tests and measurements, which shall pay for each."""
    _judged.cache_clear()


def _beyond_bytes(pattern: str) -> str:
    """Why an expression cannot be compiled for bytes: an escape names a character that is more than one."""
    try:
        re2.compile(pattern.encode(), _BYTES)
    except re2.error as error:
        return error.args[0].decode(errors="replace")
    return ""


def anchored_at_start(pattern: str) -> str:
    """The expression for a matcher that needs the whole text, when users anchor only the start."""
    return f"(?:{pattern}).*"


def program_size(pattern: str) -> int:
    """Size of the compiled program of an expression that `check` or `check_anchored` let pass."""
    return _verdict(pattern).size


def cost(pattern: str) -> int:
    """Size of what RE2 built of an expression, also of one that was refused for its size."""
    size, refusal = _verdict(pattern)
    return size or (10 * MAX_PROGRAM if _TOO_LARGE in refusal else 0)


def check(pattern: str, what: str) -> int:
    """Size of its program. Raises `PolicyError` if Envoy would refuse the expression."""
    return _checked(pattern, pattern, what)


def check_anchored(pattern: str, what: str) -> int:
    """Size of the program of the expression `anchored_at_start`. Raises `PolicyError` if Envoy would refuse it."""
    if ")" in pattern or _verdict(anchored_at_start(pattern)).refusal:
        # Alone as well: `a)|(b` would be another expression between the brackets. And its own fault is the better one.
        _checked(pattern, pattern, what)
    return _checked(anchored_at_start(pattern), pattern, what)


def unicode_classes(pattern: str) -> int:
    r"""How many classes such as `\pL` an expression has at most, found without reading it as one."""
    return pattern.count("\\p") + pattern.count("\\P")


def _checked(pattern: str, written: str, what: str) -> int:
    size, refusal = _verdict(pattern)
    if refusal:
        shown = written if len(written) <= 80 else written[:77] + "..."
        raise PolicyError("smi/regex", f"{what} {shown!r} {refusal}; correct the expression")
    return size
