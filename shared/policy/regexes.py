"""Regular expressions of users, checked by the library and the limits that Envoy has, before Envoy sees them.

Envoy refuses a whole route configuration or listener for one bad expression, so one user's typing error would stop
everybody's updates.
"""

from __future__ import annotations

import functools

import re2

from shared.policy.errors import PolicyError

MAX_LENGTH = 2000
"""Characters of one expression."""
MAX_PROGRAM = 2000
"""Size of the compiled program, in RE2's own unit."""
ENVOY_DEFAULT_PROGRAM = 100
"""Program size above which Envoy refuses an expression unless its matcher sets a higher bound."""


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 4 << 20
    return options


_OPTIONS = _options()


@functools.lru_cache(maxsize=4096)
def _refusal(pattern: str) -> str:
    if len(pattern) > MAX_LENGTH:
        return f"has {len(pattern)} characters, more than {MAX_LENGTH}"
    if "\x00" in pattern or "\n" in pattern or "\r" in pattern:
        return "holds a control character that no HTTP request can match"
    try:
        compiled = re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        return f"is no RE2 expression: {reason.decode(errors='replace') if isinstance(reason, bytes) else reason}"
    except (UnicodeEncodeError, ValueError) as error:
        return f"is no RE2 expression: {error}"
    if compiled.programsize > MAX_PROGRAM:
        return f"compiles to a program of size {compiled.programsize}, more than {MAX_PROGRAM}"
    return ""


def anchored_at_start(pattern: str) -> str:
    """The expression for a matcher that needs the whole text, when users anchor only the start."""
    return f"(?:{pattern}).*"


@functools.lru_cache(maxsize=4096)
def program_size(pattern: str) -> int:
    """Size of the compiled program of an expression that `check` let pass."""
    return re2.compile(pattern, _OPTIONS).programsize


def check(pattern: str, what: str) -> None:
    """Raise `PolicyError` if Envoy would refuse the expression, as it is or as `anchored_at_start`."""
    refusal = _refusal(pattern) or _refusal(anchored_at_start(pattern))
    if refusal:
        shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."
        raise PolicyError("smi/regex", f"{what} {shown!r} {refusal}; correct the expression")
